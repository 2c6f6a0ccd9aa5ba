#!/usr/bin/env bash
# anomalib 2.7.0: the normalization of the scores, on by default, can turn a pixel AUROC of 0.93 into 0.72.
#
# Behaviour: the post-processor scales the scores by their smallest and largest value, which keeps every ranking. But it also moves the
# F1 threshold to 0.5 and then cuts at 0 and 1. If the threshold is at 0.86 of the range, all scores below 0.36 become 0, so a
# faint defect cannot be told from the background any more; with a low threshold the upper scores become 1. The post-processor runs
# before the metrics, so AUROC and AUPRO are those of the cut scores, even if the range comes from the very same images. A high
# threshold is common: it comes about where normal edges have high scores, too. No warning.
# What to do: evaluate a second time with PostProcessor(enable_normalization=False), for the metrics without a threshold (AUROC, AUPRO, F1Max).
# Output seen (10 strong defects, 10 faint ones; validation images = test images):
#   normalized:     pixel AUROC 0.715, AUPRO 0.521, F1Max 0.505; image AUROC 0.825
#   not normalized: pixel AUROC 0.933, AUPRO 0.776, F1Max 0.505; image AUROC 0.825
#   pixel threshold 0.863, scores 0.000 to 0.996; after normalization 85 % of the pixels are 0, 1 % of them before

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import logging
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import numpy as np
import torch
from anomalib import LearningType
from anomalib.data import Folder, InferenceBatch
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AUROC, Evaluator, F1Max
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from PIL import Image

IMAGE, PIXEL = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]


class Brightness(torch.nn.Module):
    def forward(self, image):
        anomaly_map = image.mean(1)
        return InferenceBatch(anomaly_map=anomaly_map, pred_score=anomaly_map.amax((1, 2)))


class Detector(AnomalibModule):
    """A detector whose map is known: the grey value of the image."""

    learning_type, trainer_arguments = LearningType.ONE_CLASS, {}

    def __init__(self, normalize):
        metrics = [kind(fields=PIXEL, prefix="pixel_") for kind in (AUROC, AUPRO, F1Max)] + [AUROC(fields=IMAGE, prefix="image_")]
        super().__init__(pre_processor=False, post_processor=PostProcessor(enable_normalization=normalize),
                         evaluator=Evaluator(test_metrics=metrics), visualizer=False)
        self.model = Brightness()

    def validation_step(self, batch, *args, **kwargs):
        return self.test_step(batch, *args, **kwargs)

    def configure_optimizers(self):
        return None


rng = np.random.default_rng(0)
root = Path("parts").absolute()


def save(name, image):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(root / name)


def part():
    image = rng.uniform(0, 60, (32, 32))
    image[:, 28:] = rng.uniform(120, 220, (32, 4))  # an edge that is normal
    return image


for number in range(2):
    save(f"train/good/{number:03}.png", part())
for number in range(10):
    save(f"test/good/{number:03}.png", part())
for number in range(20):
    image, mask = part(), np.zeros((32, 32))
    image[8:16, 8:16] = rng.uniform(200, 255, (8, 8)) if number % 2 else rng.uniform(60, 90, (8, 8))
    mask[8:16, 8:16] = 255
    save(f"test/bad/{number:03}.png", image)
    save(f"ground_truth/bad/{number:03}.png", mask)

seen, zeros, models = {}, {}, {}
for normalize in (True, False):
    data = Folder("parts", root=root, normal_dir="train/good", normal_test_dir="test/good", abnormal_dir="test/bad",
                  mask_dir="ground_truth/bad", num_workers=0, val_split_mode="same_as_test")
    models[normalize] = model = Detector(normalize)
    engine = Engine(accelerator="cpu", logger=False, default_root_dir="out", enable_progress_bar=False)
    engine.validate(model=model, datamodule=data, verbose=False)
    seen[normalize] = engine.test(model=model, datamodule=data, verbose=False)[0]
    maps = torch.cat([batch.anomaly_map.flatten() for batch in engine.predict(model=model, dataloaders=data.test_dataloader())])
    zeros[normalize] = (maps == 0).float().mean().item()
    print(f"{'normalized:' if normalize else 'not normalized:':<15} pixel AUROC {seen[normalize]['pixel_AUROC']:.3f}, "
          f"AUPRO {seen[normalize]['pixel_AUPRO']:.3f}, F1Max {seen[normalize]['pixel_F1Max']:.3f}; "
          f"image AUROC {seen[normalize]['image_AUROC']:.3f}")
after = models[True].post_processor
print(f"pixel threshold {after.pixel_threshold:.3f}, scores {after.pixel_min:.3f} to {after.pixel_max:.3f}; "
      f"after normalization {zeros[True]:.0%} of the pixels are 0, {zeros[False]:.0%} of them before".replace("%", " %"))
assert 0.65 < seen[True]["pixel_AUROC"] < 0.8 and seen[False]["pixel_AUROC"] > 0.9
assert seen[True]["pixel_AUPRO"] < seen[False]["pixel_AUPRO"] - 0.2
assert abs(seen[True]["pixel_F1Max"] - seen[False]["pixel_F1Max"]) < 1e-3
assert after.pixel_threshold > 0.8 and zeros[True] > 0.5 and zeros[False] < 0.05
PY

#!/usr/bin/env bash
# anomalib 2.7.0: the defect that sets the threshold is called normal: F1Max is 1.0, F1Score on the same images 0.67.
#
# Behaviour: F1AdaptiveThreshold returns the score of one of the images, the lowest that has to count as a defect ("at least" the
# threshold, as in every precision-recall curve). The post-processor labels those above the threshold. So that image is
# missed by every detector, and where the test images are the validation images (MVTecAD does so by default), image_F1Score stays
# below 1 even if every defect scores higher than every normal image. The normalized score of the image is exactly 0.5. The
# pixels go the same way: all that share the score of the threshold (many, in a map of few grey levels) are left out. No warning.
# What to do: image_sensitivity=0.501 and pixel_sensitivity=0.501, or report F1Max instead of F1Score.
# Output seen (8 normal images with scores up to 0.31, validation images = test images):
#   1 defect:  AUROC 1.000, F1Max 1.000, F1Score 0.000; scores of the defects 0.50
#   2 defects: AUROC 1.000, F1Max 1.000, F1Score 0.667; scores of the defects 0.50 0.75
#   4 defects: AUROC 1.000, F1Max 1.000, F1Score 0.857; scores of the defects 0.50 0.69 0.83 0.93
#   4 defects, image_sensitivity=0.501: F1Score 1.000

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
from anomalib.metrics import AUROC, Evaluator, F1Max, F1Score
from anomalib.models import AnomalibModule
from anomalib.post_processing import PostProcessor
from PIL import Image


class Brightness(torch.nn.Module):
    def forward(self, image):
        anomaly_map = image.mean(1)
        return InferenceBatch(anomaly_map=anomaly_map, pred_score=anomaly_map.amax((1, 2)))


class Detector(AnomalibModule):
    """A detector whose score is known: the grey value of the image."""

    learning_type, trainer_arguments = LearningType.ONE_CLASS, {}

    def __init__(self, sensitivity):
        metrics = [kind(fields=["pred_score", "gt_label"], prefix="image_") for kind in (AUROC, F1Max)]
        metrics.append(F1Score(fields=["pred_label", "gt_label"], prefix="image_"))
        super().__init__(pre_processor=False, post_processor=PostProcessor(image_sensitivity=sensitivity),
                         evaluator=Evaluator(test_metrics=metrics), visualizer=False)
        self.model = Brightness()

    def validation_step(self, batch, *args, **kwargs):
        return self.test_step(batch, *args, **kwargs)

    def configure_optimizers(self):
        return None


def run(defects, sensitivity=0.5):
    root = Path(f"parts{defects}").absolute()
    greys = {"train/good": [40, 50], "test/good": range(10, 90, 10), "test/bad": [130, 170, 200, 220][:defects]}
    for folder, values in greys.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for grey in values:
            Image.fromarray(np.full((8, 8), grey, np.uint8)).save(root / folder / f"{grey:03}.png")
    data = Folder("parts", root=root, normal_dir="train/good", normal_test_dir="test/good", abnormal_dir="test/bad", num_workers=0,
                  val_split_mode="same_as_test")
    model = Detector(sensitivity)
    engine = Engine(accelerator="cpu", logger=False, default_root_dir="out", enable_progress_bar=False)
    engine.validate(model=model, datamodule=data, verbose=False)
    result = engine.test(model=model, datamodule=data, verbose=False)[0]
    found = engine.predict(model=model, dataloaders=data.test_dataloader())
    label, score = (torch.cat([getattr(batch, name) for batch in found]) for name in ("gt_label", "pred_score"))
    return *(result[f"image_{name}"] for name in ("AUROC", "F1Max", "F1Score")), sorted(score[label.bool()].tolist())


for defects in (1, 2, 4):
    auroc, best, reached, scores = run(defects)
    print(f"{defects} defect{'s:' if defects > 1 else ': '} AUROC {auroc:.3f}, F1Max {best:.3f}, F1Score {reached:.3f}; "
          "scores of the defects", *(f"{score:.2f}" for score in scores))
    assert auroc == 1 and best > 0.999 and scores[0] == 0.5
    assert abs(reached - 2 * (defects - 1) / (2 * defects - 1)) < 1e-5
more = run(4, sensitivity=0.501)[2]
print(f"4 defects, image_sensitivity=0.501: F1Score {more:.3f}")
assert more == 1
PY

"""PatchCore: prediction here against anomalib's ``Engine.test``, on one backbone, one bank and the same images.

    python -m benchmarks.engine           writes benchmarks/results/engine-cpu.json
    python -m benchmarks.engine --quick   a few images, to see that it runs

Both see the images in the same batches, without the engine's pre-processing (the backbone normalises by itself),
post-processing, metrics and pictures: what is left is prediction. Both keep the scores and let go of a batch's maps.
The neighbours are ours from `kernels.knn`, anomalib's from its own model, whose network's weights are ours but which
sees a batch at once (`_Whole`), as its own extractor does. Time is that of a whole call over the number of images.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import harness
from diffad_utils import data
from diffad_utils.methods import METHODS

SIDE, TRAIN, BATCH = 256, 100, 8
OURS, ENGINE = "this package", "anomalib's Engine.test"


def prepared(count: int) -> tuple:
    """PatchCore fitted to `TRAIN` normal images of ``textures``, and ``count`` test images, read beforehand."""
    index = data.load_index("textures", category="leather")
    rows = {split: index[index["split"] == split] for split in ("train", "test")}
    detector = METHODS["anomalib:patchcore"](image_size=SIDE, device="cpu", batch_size=BATCH, coreset_ratio=0.1)
    detector.fit(data.ImageDataset(rows["train"].head(TRAIN), size=SIDE))
    test = data.ImageDataset(rows["test"].groupby("label").head(count // 2), size=SIDE)
    data.load_batch(test)
    return detector, test


def ours(detector, test: data.ImageDataset) -> Tensor:
    return torch.cat([prediction.score for prediction, _ in detector.predict_batches(test)])


class _Whole(nn.Module):
    """A `Features` whose backbone takes a batch at once also on a CPU."""

    def __init__(self, features: nn.Module):
        super().__init__()
        self.features = features

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.features.layers, self.features.backbone._features(images), strict=True))


def engine(detector, test: data.ImageDataset) -> Tensor:
    """Scores [N] by ``Engine.test`` with the detector's backbone and bank in anomalib's own model."""
    from anomalib.data import ImageBatch
    from anomalib.engine import Engine
    from anomalib.models import Patchcore

    off = dict(pre_processor=False, post_processor=False, evaluator=False, visualizer=False)
    module = Patchcore(backbone="resnet18", pre_trained=False, num_neighbors=detector.num_neighbors, **off)
    module.model.feature_extractor = _Whole(detector.model_.feature_extractor)
    module.model.layers = detector.model_.layers
    module.model.memory_bank = detector.model_.memory_bank
    found: list[Tensor] = []
    step = module.test_step

    def test_step(*arguments, **named):
        outputs = step(*arguments, **named)
        found.append(outputs.pred_score.flatten())
        return outputs

    module.test_step = test_step
    loader = DataLoader(
        test,
        batch_size=BATCH,
        collate_fn=lambda samples: ImageBatch(
            image=torch.stack([sample["image"] for sample in samples]),
            gt_label=torch.tensor([sample["label"] for sample in samples]),
            gt_mask=torch.stack([sample["mask"] for sample in samples]),
        ),
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False, barebones=False)
        Engine(accelerator="cpu", devices=1, default_root_dir=scratch, **quiet).test(
            module, dataloaders=loader, verbose=False
        )
    return torch.cat(found)


CANDIDATES: dict[str, Callable] = {OURS: ours, ENGINE: engine}


def main() -> None:
    for name in ("lightning.pytorch", "anomalib"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options = harness.arguments("engine", __doc__)
    if options.memory_of:
        name, count = options.memory_of
        state = prepared(int(count))
        harness.measure_memory(functools.partial(CANDIDATES[name], *state), options.device)
        return
    count = 8 if options.quick else 24
    state = prepared(count)
    candidates = {name: functools.partial(function, *state) for name, function in CANDIDATES.items()}
    rows, scores = harness.interleave(candidates, options.repeats or (1 if options.quick else 3))
    for row in rows:
        row["ms an image"] = [round(1000 * seconds / count, 1) for seconds in row["cpu_s"]]
        memory = harness.peak_memory("engine", row["name"], str(count), options)
        row |= {"rise_MB": harness.megabytes(memory["rise"]), "peak_MB": harness.megabytes(memory["total"])}
        row["largest difference of a score"] = float((scores[row["name"]] - scores[OURS]).abs().max())
    title = f"PatchCore, {count} images of {SIDE} px, efficientnet-lite0, a bank of {len(state[0].model_.memory_bank)}"
    harness.write("engine", options, [{"title": title, "rows": rows, "note": f"ratio: over {OURS}"}])


if __name__ == "__main__":
    main()

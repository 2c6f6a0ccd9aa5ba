"""Which image size and which padding for detection on patches of a frozen backbone? Accuracy against time.

    .venv/bin/python -m benchmarks.patch_size

Images of `textures` drawn with another seed than the study's (its seed + 1000), so that no test image of the study has
a part in a choice. Writes benchmarks/results/patch-size.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
import torch

from diffad_utils import data, metrics
from diffad_utils.analyses.backbone_study import PATCH_STRIDES, nearest_patch, patch_features
from diffad_utils.models.backbones import load_backbone

SEED = 1000
CATEGORIES = ("brick", "carpet", "leather", "wood")
TEXT = """# Image size and padding for patches of a frozen backbone

Nearest patch on `{backbone}` (strides 8 and 16, a random tenth of the normal patches), on training-side draws of
`textures` (seed {seed}, which no run of the study uses): {train} normal and {test} test images a category. Mean over
{categories}. Time: features and search of one test image, one thread, in ms; the bank is not counted.

Made by `.venv/bin/python -m benchmarks.patch_size`.

{table}

Pixel metrics are at each size's own masks. Difference: I-AUROC minus that of 128 px with zeros, with its 95 % interval
over images, the categories weighted alike.

{chosen}
"""


def measure(backbone: str, category: str, size: int, padding: str, train_images: int, test_images: int) -> dict:
    """One category at one size: scores, labels, AUPRO and the milliseconds of a test image."""
    index = data.load_index("textures", category=category, seed=SEED)
    normal = index[index["split"] == "train"].head(train_images)
    test = index[index["split"] == "test"].sample(test_images, random_state=0)
    network = load_backbone(backbone, strides=PATCH_STRIDES, padding=padding)
    images, batch = (data.load_batch(data.ImageDataset(rows, size=size)) for rows in (normal, test))
    bank = patch_features(network, images["image"])
    start = time.process_time()
    found = nearest_patch(bank, patch_features(network, batch["image"]), (size, size))
    spent = 1000 * (time.process_time() - start) / len(test)
    return {
        "score": found.score,
        "label": batch["label"],
        "I-AUROC": float(metrics.image_auroc(found.score, batch["label"])),
        "AUPRO": float(metrics.aupro(found.anomaly_map, batch["mask"])),
        "ms": spent,
    }


def mean_difference(ours: list[dict], reference: list[dict], samples: int = 1000) -> tuple[float, float, float]:
    """Mean over categories of the I-AUROC difference, with a paired bootstrap over images within each."""
    draws = torch.Generator().manual_seed(0)
    differences = []
    for _ in range(samples):
        one = []
        for a, b in zip(ours, reference, strict=True):
            label = a["label"]
            rows = torch.cat(
                [
                    g[torch.randint(len(g), (len(g),), generator=draws)]
                    for g in (label.nonzero()[:, 0], (label == 0).nonzero()[:, 0])
                ]
            )
            one.append(
                metrics.image_auroc(a["score"][rows], label[rows]) - metrics.image_auroc(b["score"][rows], label[rows])
            )
        differences.append(sum(one) / len(one))
    values = torch.tensor(differences, dtype=torch.float64)
    mean = sum(a["I-AUROC"] - b["I-AUROC"] for a, b in zip(ours, reference, strict=True)) / len(ours)
    return mean, float(values.quantile(0.025)), float(values.quantile(0.975))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    parser.add_argument("--train-images", type=int, default=60)
    parser.add_argument("--test-images", type=int, default=80)
    parser.add_argument("--chosen", default="", help="a sentence on what was chosen, put below the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        (size, padding): [
            measure(options.backbone, category, size, padding, options.train_images, options.test_images)
            for category in options.categories
        ]
        for size in (128, 256)
        for padding in ("zeros", "reflect")
    }
    rows = []
    for (size, padding), results in found.items():
        mean, low, high = mean_difference(results, found[128, "zeros"])
        means = {name: sum(r[name] for r in results) / len(results) for name in ("I-AUROC", "AUPRO", "ms")}
        each = {c: r["I-AUROC"] for c, r in zip(options.categories, results, strict=True)}
        rows.append(
            {"size, px": size, "padding": padding}
            | {name: f"{value:.3f}" for name, value in (each | {"mean I-AUROC": means["I-AUROC"]}).items()}
            | {"difference": f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]", "AUPRO": f"{means['AUPRO']:.3f}"}
            | {"ms an image": f"{means['ms']:.1f}"}
        )
    text = TEXT.format(
        backbone=options.backbone,
        seed=SEED,
        train=options.train_images,
        test=options.test_images,
        categories=", ".join(options.categories),
        table=pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True),
        chosen=options.chosen,
    )
    Path(__file__).with_name("results").joinpath("patch-size.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

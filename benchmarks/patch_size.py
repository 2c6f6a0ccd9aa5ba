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
from diffad_utils.analyses.backbone_study import PATCH_STRIDES, detectors_on, nearest_patch, patch_features
from diffad_utils.methods.anomalib_models import PaDiM
from diffad_utils.methods.invad.detector import InvAD
from diffad_utils.models.backbones import load_backbone

SEED = 1000
INVAD = {"grid": 8, "train_steps": 40, "learning_rate": 1e-3}
TEXT = """# Image size and padding for patches of a frozen backbone

`{backbone}` on training-side draws of `textures` (seed {seed}, which no run of the study uses): {train} normal and
{test} test images a category of {categories}. Nearest patch: strides 8 and 16, a random tenth of the normal patches.
InvAD: grid 8, {steps} steps.

Made by `.venv/bin/python -m benchmarks.patch_size`.

I-AUROC of nearest patch, and the time of one test image (features and search, one thread, ms; without the bank):

{sizes}

I-AUROC at 128 px, mean over the categories, by what the network's convolutions see beyond the border:

{paddings}

Differences are to the row of 128 px with zeros, with 95 % intervals over images, the categories weighted alike.

**Chosen.** 128 px in the smoke profile: 256 px takes several times as long, and with zeros no gain is shown for
nearest patch. Padding with zeros, as the networks were trained, is the default of `load_backbone`: reflection helps
nearest patch, which searches all positions alike, but takes more than twice as long; what it does to methods that
know where a patch lies (PaDiM, InvAD) is in the second table. It is an option, `padding="reflect"`.
"""


def measure(backbone: str, category: str, size: int, padding: str, train_images: int, test_images: int) -> dict:
    """One category at one size: scores by method, labels, and AUPRO and milliseconds of nearest patch."""
    index = data.load_index("textures", category=category, seed=SEED)
    normal = index[index["split"] == "train"].head(train_images)
    test = index[index["split"] == "test"].sample(test_images, random_state=0)
    network = load_backbone(backbone, strides=PATCH_STRIDES, padding=padding)
    images, batch = (data.load_batch(data.ImageDataset(rows, size=size)) for rows in (normal, test))
    bank = patch_features(network, images["image"])
    start = time.process_time()
    found = nearest_patch(bank, patch_features(network, batch["image"]), (size, size))
    spent = 1000 * (time.process_time() - start) / len(test)
    aupro = float(metrics.aupro(found.anomaly_map, batch["mask"]))
    scores = {"nearest patch": found.score}
    if size == 128:
        network = load_backbone(backbone, padding=padding)
        made = {"PaDiM": PaDiM(device="cpu"), "InvAD": InvAD(device="cpu", **INVAD)}
        train = data.ImageDataset(normal, size=size)
        found_by = detectors_on(network, train, batch["image"], batch["key"], made)
        scores |= {name: one.score for name, one in found_by.items()}
    return {"label": batch["label"], "AUPRO": aupro, "ms": spent, "scores": scores}


def auroc(results: list[dict], method: str) -> list[float]:
    return [float(metrics.image_auroc(r["scores"][method], r["label"])) for r in results]


def mean_difference(ours: list[dict], reference: list[dict], method: str, samples: int = 1000) -> str:
    """Mean over categories of the I-AUROC difference, with a paired bootstrap over images within each."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for _ in range(samples):
        one = []
        for a, b in zip(ours, reference, strict=True):
            label = a["label"]
            groups = [torch.nonzero(label == value)[:, 0] for value in (0, 1)]
            rows = torch.cat([g[torch.randint(len(g), (len(g),), generator=generator)] for g in groups])
            pair = [metrics.image_auroc(r["scores"][method][rows], label[rows]) for r in (a, b)]
            one.append(pair[0] - pair[1])
        differences.append(sum(one) / len(one))
    low, high = torch.tensor(differences, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    mean = sum(a - b for a, b in zip(auroc(ours, method), auroc(reference, method), strict=True)) / len(ours)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def tables(found: dict[tuple[int, str], list[dict]], categories: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """By size and padding for nearest patch, and by method and padding at 128 px."""
    base, sizes, paddings = found[128, "zeros"], [], []
    for (size, padding), results in found.items():
        each = auroc(results, "nearest patch")
        row = {"size, px": size, "padding": padding} | dict(zip(categories, (f"{v:.3f}" for v in each), strict=True))
        row |= {"mean": f"{sum(each) / len(each):.3f}", "difference": mean_difference(results, base, "nearest patch")}
        row |= {name: f"{sum(r[name] for r in results) / len(results):.3g}" for name in ("AUPRO", "ms")}
        sizes.append(row)
    for method in base[0]["scores"]:
        means = {padding: auroc(found[128, padding], method) for padding in ("zeros", "reflect")}
        row = {"method": method} | {padding: f"{sum(values) / len(values):.3f}" for padding, values in means.items()}
        paddings.append(row | {"difference": mean_difference(found[128, "reflect"], base, method)})
    return pd.DataFrame(sizes), pd.DataFrame(paddings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--categories", nargs="+", default=["brick", "leather"])
    parser.add_argument("--train-images", type=int, default=60)
    parser.add_argument("--test-images", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = (options.train_images, options.test_images)
    found = {
        (size, padding): [measure(options.backbone, name, size, padding, *counts) for name in options.categories]
        for size in (128, 256)
        for padding in ("zeros", "reflect")
    }
    sizes, paddings = (t.to_markdown(index=False, disable_numparse=True) for t in tables(found, options.categories))
    text = TEXT.format(
        backbone=options.backbone,
        seed=SEED,
        train=options.train_images,
        test=options.test_images,
        categories=", ".join(options.categories),
        steps=INVAD["train_steps"],
        sizes=sizes,
        paddings=paddings,
    )
    Path(__file__).with_name("results").joinpath("patch-size.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

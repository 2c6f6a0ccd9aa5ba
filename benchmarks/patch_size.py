"""Which image size and which padding for detection on patches of a frozen backbone? Accuracy against time.

    .venv/bin/python -m benchmarks.patch_size

Images of `textures` drawn with another seed than the study's (its seed + 1000), so that no test image of the study has
a part in a choice. Writes benchmarks/results/patch-size.md.
"""

from __future__ import annotations

import argparse
import sys
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
TEXT = """# Image size and padding for patches of a frozen backbone

`{backbone}` on training-side draws of `textures` (seed {seed}, which no run of the study uses): {train} normal and
{test} test images a category of {categories}. Nearest patch: strides 8 and 16, a random tenth of the normal patches.

Made by `.venv/bin/python -m benchmarks.patch_size{arguments}`.

I-AUROC, AUPRO at each size's own masks, and the processor time of one test image (features and search, one thread, ms;
without the bank):

{sizes}

Difference: to the row of 128 px with zeros, with its 95 % interval over images, the categories weighted alike.

Chosen for the smoke profile: 128 px with zeros. 256 px takes several times as long. Padding by reflection is an option
of `models.backbones.load_backbone`, which says why it is not the default.
"""
METHODS_TEXT = """
I-AUROC at 128 px by what the convolutions see beyond the border; InvAD: grid 8, {steps} steps:

{paddings}
"""


def measure(options: argparse.Namespace, category: str, size: int, padding: str) -> dict:
    """One category at one size: scores by method, labels, and AUPRO and milliseconds of nearest patch."""
    index = data.load_index("textures", category=category, seed=SEED)
    normal = index[index["split"] == "train"].head(options.train_images)
    test = index[index["split"] == "test"].sample(options.test_images, random_state=0)
    network = load_backbone(options.backbone, strides=PATCH_STRIDES, padding=padding)
    images, batch = (data.load_batch(data.ImageDataset(rows, size=size)) for rows in (normal, test))
    bank = patch_features(network, images["image"])
    start = time.process_time()
    found = nearest_patch(bank, patch_features(network, batch["image"]), (size, size))
    spent = 1000 * (time.process_time() - start) / len(test)
    aupro = float(metrics.aupro(found.anomaly_map, batch["mask"]))
    scores = {"nearest patch": found.score}
    if options.methods and size == 128:
        network = load_backbone(options.backbone, padding=padding)
        invad = InvAD(device="cpu", grid=8, train_steps=options.invad_steps, learning_rate=1e-3)
        made = {"PaDiM": PaDiM(device="cpu"), "InvAD": invad}
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
    parser.add_argument("--categories", nargs="+", default=["brick", "carpet", "leather", "wood"])
    parser.add_argument("--train-images", type=int, default=60)
    parser.add_argument("--test-images", type=int, default=80)
    parser.add_argument("--methods", action="store_true", help="also PaDiM and InvAD at 128 px; minutes more")
    parser.add_argument("--invad-steps", type=int, default=100)
    parser.add_argument("--print", action="store_true", help="print the page only, write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        (size, padding): [measure(options, name, size, padding) for name in options.categories]
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
        arguments="".join(f" {argument}" for argument in sys.argv[1:]),
        sizes=sizes,
    )
    if options.methods:
        text += METHODS_TEXT.format(steps=options.invad_steps, paddings=paddings)
    print(text)
    if not options.print:
        Path(__file__).with_name("results").joinpath("patch-size.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Which inversion spacing should be InvAD's default? Measured on validation draws of the procedural textures.

    python benchmarks/invad_spacing.py [category ...]

Trains one denoiser a category on the default training images and scores the test split of *another* generator seed with
both spacings. Prints one row a category and spacing, and the mean difference. With --plain-network the denoiser has no
linear skip around it, as in the public code: what the skip is worth is then the difference between two runs. Not a
test: nothing is asserted.
"""

import argparse

import pandas as pd

from diffad_utils import data, metrics
from diffad_utils.methods.invad import InvAD

VALIDATION_SEED = 1000


def validation_metrics(category: str, train_steps: int, linear_skip: bool) -> list[dict]:
    index = data.load_index("textures", category=category)
    drawn = data.load_index("textures", category=category, seed=VALIDATION_SEED)
    batch = data.load_batch(data.ImageDataset(drawn[drawn["split"] == "test"], size=128))
    detector = InvAD(image_size=128, grid=8, train_steps=train_steps, linear_skip=linear_skip, device="cpu")
    detector.fit(data.ImageDataset(index[index["split"] == "train"], size=128))
    features, rows = detector.features(batch["image"]), []
    for spacing in ("reference", "paper"):
        other = detector.with_settings(num_steps=3, spacing=spacing)
        prediction = other.prediction_from_latents(other.invert(features), batch["mask"].shape[1:])
        rows.append({"category": category, "spacing": spacing, **metrics.evaluate(prediction, batch)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("category", nargs="*", default=["leather", "tile", "wood", "grid"])
    parser.add_argument("--train-steps", type=int, default=250)
    parser.add_argument("--plain-network", action="store_true", help="no linear skip, as in the public code")
    arguments = parser.parse_args()
    settings = arguments.train_steps, not arguments.plain_network
    rows = [row for category in arguments.category for row in validation_metrics(category, *settings)]
    table = pd.DataFrame(rows).set_index(["category", "spacing"])[["I-AUROC", "I-AP", "P-AUROC", "AUPRO"]]
    print(table.round(3).to_string())
    difference = table.xs("reference", level="spacing") - table.xs("paper", level="spacing")
    print("\nreference minus paper: mean over categories, and in how many it is higher")
    print(pd.DataFrame({"mean": difference.mean(), "higher in": (difference > 0).sum()}).round(4).to_string())


if __name__ == "__main__":
    main()

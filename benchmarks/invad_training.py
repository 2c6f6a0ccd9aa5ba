"""How large should InvAD's denoiser be, and how should it be trained? On validation draws of the procedural textures.

    python benchmarks/invad_training.py [--depth 2 4] [--learning-rate 1e-3 2e-3] [--steps 100 200 400 800]

One denoiser for the training images of all categories, of *another* generator seed than any notebook uses; mean I-AUROC
over the test images of four of them, after each number of steps, with the same score without diffusion beside it. A row
a setting, with the seconds that its training took. The defaults of `InvAD` and of notebook 07 were chosen so: of what
fits into about a minute on one core, two blocks at a rate of 2e-3. Not a test: nothing is asserted.
"""

import argparse
import tempfile

import pandas as pd

from diffad_utils import data, metrics
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.invad.score import prediction

VALIDATION_SEED = 1000
JUDGED = ("leather", "carpet", "connector", "wood")


def drawn(split: str, categories: list[str], images: int | None = None) -> data.ImageDataset:
    """Images of the validation draw, at most ``images`` of each category."""
    tables = [data.load_index("textures", category=name, seed=VALIDATION_SEED) for name in categories]
    return data.ImageDataset(pd.concat([t[t["split"] == split].head(images or len(t)) for t in tables]), size=128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[1e-3, 2e-3])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 400, 800])
    options = parser.parse_args()
    train = drawn("train", data.categories("textures"), 60)
    tests = {name: data.load_batch(drawn("test", [name])) for name in JUDGED}
    settings = [(depth, rate) for depth in options.depth for rate in options.learning_rate]
    table = pd.DataFrame(row(options, depth, rate, train, tests) for depth, rate in settings)
    print(table.round(3).to_string(index=False))


def row(options: argparse.Namespace, depth: int, rate: float, train: data.ImageDataset, tests: dict) -> dict:
    """Mean I-AUROC of one setting after each number of steps."""
    fields = {"depth": depth, "learning_rate": rate, "train_steps": max(options.steps)}
    found = {name: {} for name in JUDGED}
    with tempfile.TemporaryDirectory() as folder:
        detector = InvAD(image_size=128, grid=8, device="cpu", **fields).fit(train, folder, options.steps)
        networks = {step: detector.at_step(step, folder) for step in options.steps}
    for name, batch in tests.items():
        features, labels = detector.features(batch["image"]), batch["label"]
        control = prediction(features, detector.holdout_features_, (128, 128)).score
        found[name]["no diffusion"] = metrics.image_auroc(control, labels)
        for step, then in networks.items():
            score = then.prediction_from_latents(then.invert(features), (128, 128)).score
            found[name][f"{step} steps"] = metrics.image_auroc(score, labels)
    return fields | {"seconds": detector.training_log_.seconds} | pd.DataFrame(found).mean(axis=1).to_dict()


if __name__ == "__main__":
    main()

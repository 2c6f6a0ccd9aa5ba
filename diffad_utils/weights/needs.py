"""What a notebook's run needs, read off its parameters: pretrained weights, packages, images. Looks for nothing.

`doctor` holds it against the machine, `kaggle.build` says what to attach. A new parameter that names weights belongs
into `WEIGHTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from diffad_utils.weights import MINI_NAMES

WEIGHTS = (
    "weights",
    "clip",
    "vae",
    "vaes",
    "backbone",
    "other_backbones",
    "pixel_ddpm_weights",
    "img2img_weights",
    "winclip_weights",
)
"""Parameters that name pretrained weights, or a list of them."""

OPTIONAL = {"vaes"}
"""Of these the notebook takes what is there, and leaves out the rest with a line."""


def weights_of(parameters: Mapping) -> dict[str, bool]:
    """Names for `weights.resolve` that a run with these `parameters` loads -> whether it cannot do without.

    Not those of the shipped small models, which are always there. The CLIP of winclip counts where winclip is run.
    """
    found: dict[str, bool] = {}
    for parameter in WEIGHTS:
        if parameter == "winclip_weights" and "winclip" not in (parameters.get("baselines") or ()):
            continue
        value = parameters.get(parameter)
        for name in value if isinstance(value, (list, tuple)) else [value]:
            if not name:
                continue
            is_autoencoder = parameter in ("vae", "vaes") and not name.startswith("vae:")
            name = f"vae:{name}" if is_autoencoder else name
            if name not in MINI_NAMES:
                found[name] = found.get(name, False) or parameter not in OPTIONAL
    return found


def packages_of(parameters: Mapping) -> list[str]:
    """Distributions beyond the package's own requirements that a run with these `parameters` imports."""
    needed = []
    if parameters.get("baselines"):
        needed.append("anomalib")
    if parameters.get("search_trials"):
        needed.append("optuna")
    if parameters.get("optimizer") == "adamw8bit":
        needed.append("bitsandbytes")
    return needed


def held_out(images: int, fraction: float) -> int:
    """How many of so many training images (at least 4) `scoring.holdout_split` holds out."""
    return min(max(round(images * fraction), 2), images - 2)


def least_train_images(parameters: Mapping) -> int:
    """Normal training images that a run needs at least: with K nearest neighbours K, the image itself, and those that
    are held out.

    >>> least_train_images({"k": 20, "holdout_fraction": 0.05}), least_train_images({})
    (23, 1)
    """
    if "k" not in parameters:
        return 1
    k, fraction = int(parameters["k"]), parameters.get("holdout_fraction", 0.1)
    return next(images for images in count(max(4, k + 1)) if images - held_out(images, fraction) - 1 >= k)


def too_few_train_images(parameters: Mapping, images: int) -> str:
    """What a run with these `parameters` lacks that has so many normal training images, and what to do; "" for nothing.

    >>> print(too_few_train_images({"k": 20, "holdout_fraction": 0.05}, 22).partition("; ")[2])
    add some, or set k to 19 or less (-p k=19)
    """
    least = least_train_images(parameters)
    if images >= least:
        return ""
    most = images - held_out(images, parameters.get("holdout_fraction", 0.1)) - 1 if images >= 4 and least > 1 else 0
    smaller = f", or set k to {most} or less (-p k={most})" if most else ""
    why = f" (k = {parameters['k']} nearest neighbours, the image itself, and those held out)" if least > 1 else ""
    return f"{least} training images{why}, it has {images}; add some{smaller}"


def needs_gpu(parameters: Mapping) -> str:
    """The parameter that makes a run impossible on a CPU, as ``name = value``; "" where nothing does."""
    return "mixed_precision = 'fp16'" if parameters.get("mixed_precision") == "fp16" else ""

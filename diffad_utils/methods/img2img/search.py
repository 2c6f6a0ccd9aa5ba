"""A search over strength, guidance and alpha on pasted defects of training images (Optuna)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffad_utils import metrics, scoring
from diffad_utils.data import ImageDataset
from diffad_utils.methods.clip_detectors import paste_defect
from diffad_utils.methods.img2img.detector import Img2Img
from diffad_utils.methods.img2img.engine import Img2ImgEngine, Setting
from diffad_utils.methods.img2img.sweep import ResidualMeasure, check_sweep
from diffad_utils.models.clip import Clip

SEARCH_SPACE = {"strength": (0.1, 0.7), "guidance_scale": (2.0, 10.0), "alpha": (0.5, 0.95)}
"""Ranges of the seed project's Optuna search (codes/img2img.ipynb, cell 15), which looked at test images."""


def require_optuna() -> None:
    """Raise ``ImportError`` where `search` could not run, before hours of other work."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError("the search needs Optuna: pip install optuna, or set search_trials to 0") from error


def validation_images(train_dataset: ImageDataset, count: int, seed: int = 0) -> tuple[Tensor, list[str], list[int]]:
    """Labelled images for `search` that need no test image: normal training images, and copies with a synthetic defect.

    ``count`` training images are drawn by the seed; a defect is pasted into a copy of each
    (`clip_detectors.paste_defect`, its content from the next one). Returns (images [2 count, 3, H, W], keys, labels),
    first the normal ones. Raises ``ValueError`` for a count below 2 or above the number of training images.
    """
    if not 2 <= count <= len(train_dataset):
        raise ValueError(f"count must be from 2 to the {len(train_dataset)} training images, got {count}")
    order = torch.randperm(len(train_dataset), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    samples = [train_dataset[i] for i in order]
    normal, keys = [sample["image"] for sample in samples], [sample["key"] for sample in samples]
    rngs = [np.random.default_rng([seed, i]) for i in order]
    pasted = [paste_defect(image, normal[(i + 1) % count], rngs[i])[0] for i, image in enumerate(normal)]
    return torch.stack(normal + pasted), keys + [f"{key}+pasted" for key in keys], [0] * count + [1] * count


def search(
    engine: Img2ImgEngine,
    images: Tensor,
    keys: Sequence[str],
    labels: Sequence[int],
    prompts: Sequence[str],
    clip: Clip,
    *,
    test_keys: Sequence[str],
    trials: int = 64,
    space: Mapping[str, tuple[float, float]] = SEARCH_SPACE,
    num_inference_steps: int = 30,
    negative_prompt: str = "",
    seed: int = 0,
) -> dict[str, Any]:
    """Optuna's search for strength, guidance scale and alpha of the raw hybrid score, as in the seed project's code.

    The objective is the I-AUROC on labelled *validation* images; the seed project's was that on the test images, which
    makes its best value an estimate from above. Needs the package ``optuna``.

    Parameters
    ----------
    images, keys, labels, prompts : the validation images [N, 3, H, W], [N] each. test_keys : of the images that results
        will be reported on; none may be among ``keys``.
    trials, space : number of trials (theirs: 64) and the range of each parameter.

    Returns JSON values for the run's record: best (parameters), best_value, trials, space, sampler, seed, objective,
    validation_images, evaluations, and history (the parameters and value of each trial).

    Raises ``ValueError`` for test images among the validation images, labels of one class, or a bad range, and
    ``ImportError`` without Optuna, before anything is computed.
    """
    shared = sorted(set(keys) & set(test_keys))
    if shared:
        raise ValueError(f"{len(shared)} of the validation images are test images, such as {shared[0]}: use others")
    if set(space) != set(SEARCH_SPACE) or any(low > high for low, high in space.values()):
        raise ValueError(f"space must give (low, high) of {', '.join(SEARCH_SPACE)}, got {dict(space)}")
    if set(np.asarray(labels).tolist()) != {0, 1}:
        raise ValueError("the search needs normal and anomalous validation images")
    corners = [Setting(s, g, num_inference_steps, seed) for s, g in product(space["strength"], space["guidance_scale"])]
    check_sweep(engine, images, list(keys), list(prompts), list(dict.fromkeys(corners)))
    require_optuna()
    import optuna

    posterior, texts = engine.encode(images), [engine.embed(prompt, negative_prompt) for prompt in prompts]
    measure, before = ResidualMeasure(images, clip), engine.evaluations

    def objective(trial: Any) -> float:
        value = {name: trial.suggest_float(name, *bounds) for name, bounds in space.items()}
        setting = Setting(value["strength"], value["guidance_scale"], num_inference_steps, seed)
        x_hat = engine.decode(engine.denoise(posterior, keys, texts, [setting] * len(keys)))
        parts = measure(torch.arange(len(keys)), x_hat)
        return metrics.image_auroc(scoring.hybrid_score(parts, value["alpha"]), labels)

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a line a trial would be; the history is in the record
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(objective, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return {
        "best": dict(study.best_params),
        "best_value": float(study.best_value),
        "trials": trials,
        "space": {name: list(bounds) for name, bounds in space.items()},
        "sampler": "TPE",
        "seed": seed,
        "objective": "I-AUROC of the raw hybrid score on validation images",
        "validation_images": len(keys),
        "evaluations": engine.evaluations - before,
        "num_inference_steps": num_inference_steps,
        "history": [dict(trial.params) | {"I-AUROC": float(trial.value)} for trial in study.trials],
    }


def on_validation_images(
    detector: Img2Img, train_dataset: ImageDataset, test_keys: Sequence[str], trials: int
) -> dict[str, Any]:
    """`search` for a fitted detector, on as many of its training images as it was calibrated with, and as many copies
    with a pasted defect."""
    images, keys, labels = validation_images(train_dataset, detector.calibration_images, detector.seed)
    prompts, (negative, *_) = detector.prompts(keys, len(keys))
    return search(
        detector.engine_,
        images,
        keys,
        labels,
        prompts,
        detector.clip_,
        test_keys=test_keys,
        trials=trials,
        num_inference_steps=detector.num_inference_steps,
        negative_prompt=negative,
        seed=detector.seed,
    )

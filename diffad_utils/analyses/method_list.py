"""What each method of the comparison is, in a line, and whose.

Used by notebook 08; entry points: `table`, `is_from_elsewhere`.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

HERE = "this study"
"""Source of what was put together here from parts of published methods."""

ABOUT = {
    "trivial": ("–", "trivial baseline: the best global image statistic, chosen with the test labels"),
    "img2img": ("slides, pipeline 2; SDEdit", "Stable Diffusion image-to-image with a prompt; pixel and CLIP distance"),
    "lora": ("slides, pipeline 3", "img2img after LoRA training on normal images of the category"),
    "img2img_masked": (HERE, "img2img twice; the second pass redraws only where the first found something"),
    "img2img_inversion": (HERE, "network of img2img, scored as InvAD scores: DDIM inversion, no reconstruction"),
    "latent_unet": ("slides, pipeline 1", "a small UNet repairs latents of a frozen autoencoder; no diffusion"),
    "autoencoder": ("slides; Bergmann et al.", "autoencoder of the category's normal images; squared error"),
    "pixel_ddpm": ("code of the slides; AnoDDPM", "DDPM of pixels: partly noised and denoised; squared error"),
    "pixel_ddpm_simplex": ("AnoDDPM", "pixel_ddpm with simplex noise in the place of Gaussian noise"),
    "pixel_ddpm_inversion": (HERE, "network of pixel_ddpm, scored as InvAD scores"),
    "sgm": ("ESM's paper", "denoising score matching, ESM's baseline: noised, taken back, four detectors"),
    "esm": ("ESM", "explicit score matching with a learnt variance"),
    "esm_sigma": ("ESM", "ESM-sigma: the learnt variance guides the reverse process"),
    "sgm_inversion": (HERE, "network of sgm, scored as InvAD scores"),
    "ddad": ("DDAD", "DDPM of pixels that is conditioned on the image; pixel and feature distance"),
    "d3ad": ("D3AD", "latent diffusion, no noise added, step by image; latent and feature distance"),
    "d3ad_masked": (HERE, "d3ad twice; the second pass redraws only where the first found something"),
    "d3ad_inversion": (HERE, "network of d3ad, scored as InvAD scores"),
    "glad": ("GLAD", "training with pasted anomalies; the image chooses its denoising step"),
    "invad": ("InvAD", "DDIM inversion of backbone features, no reconstruction"),
    "clip_knn": ("PatchCore on CLIP", "distance of CLIP's features to the nearest normal ones"),
    "clip_zero_shot": ("WinCLIP without windows", "prompts “flawless” against “damaged”"),
    "clip_probe": ("slides, future work; CutPaste, DRAEM", "linear classifier on CLIP's features; pasted defects"),
    "anomalib:patchcore": ("PatchCore", "distance of patch features to a memory of normal ones"),
    "anomalib:padim": ("PaDiM", "a Gaussian of backbone features at each place"),
    "anomalib:fastflow": ("FastFlow", "normalizing flow on backbone features"),
    "anomalib:stfpm": ("STFPM", "student and teacher features"),
    "anomalib:reverse_distillation": ("RD4AD", "reverse distillation of backbone features"),
    "anomalib:cfa": ("CFA", "features adapted to hyperspheres around normal ones"),
    "anomalib:winclip": ("WinCLIP", "prompts on windows of CLIP, no training"),
    "anomalib:ganomaly": ("GANomaly", "generative adversarial autoencoder"),
    "anomalib:draem": ("DRAEM", "reconstruction and segmentation trained with pasted defects"),
}
"""Method -> its source, and what it does."""


def is_from_elsewhere(method: str) -> bool:
    """Whether a method was not put together in this study; a user's own was not."""
    return ABOUT.get(method, ("", ""))[0] != HERE


def table(methods: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Columns method, family, source and what it is, in the order of (method, family) pairs, each once; a method that
    is not known here has "–"."""
    rows = [[method, family, *ABOUT.get(method, ("–", "–"))] for method, family in dict.fromkeys(methods)]
    return pd.DataFrame(rows, columns=["method", "family", "source", "what it is"])

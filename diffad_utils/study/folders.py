"""Where a run is written: ``reports/<profile>/<dataset>/<category>/<method>/seed-<n>``."""

from __future__ import annotations

import re
from pathlib import Path

from diffad_utils.io.paths import reports, repository

METHOD_OF_NOTEBOOK = {
    "01_data": "trivial",
    "02_vae_bottleneck": "latent_unet",
    "03_img2img_sweep": "img2img",
    "08_comparison": None,
}
"""Method folder of a notebook; None: one folder for the whole profile. Others: the name after the number."""


def reports_folder() -> Path:
    """``$DIFFAD_REPORTS`` if set (tests and re-execution in place use it), else ``reports`` of the checkout."""
    return reports()


def reference_folder() -> Path:
    """``reports/reference`` of the checkout: committed runs by profile, which users' runs are held against."""
    return repository() / "reports" / "reference"


def method_of(notebook: str) -> str | None:
    """Folder name of the notebook's method (``07_invad`` -> ``invad``); None for the summary of all runs."""
    return METHOD_OF_NOTEBOOK.get(notebook, re.sub(r"^\d+_", "", notebook))


def profile_folder(parameters: dict) -> Path:
    """The folder of a profile's results (needs profile, output_root)."""
    return Path(parameters.get("output_root") or reports_folder()) / parameters["profile"]


def run_folder(notebook: str, parameters: dict, method: str | None = None) -> Path:
    """The folder of a run with these parameters (needs profile, dataset, category, seed, output_root)."""
    root = profile_folder(parameters)
    method = method or method_of(notebook)
    if method is None:
        return root / re.sub(r"^\d+_", "", notebook)
    folder = method.replace(":", "_")  # anomalib:patchcore; a colon is no folder name everywhere
    return root / parameters["dataset"] / parameters["category"] / folder / f"seed-{parameters['seed']}"

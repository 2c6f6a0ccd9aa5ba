"""The noise timestep T_d that the paper prints for a data set's category."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from diffad_utils.io.paths import repository


def published_noise_timestep(dataset: str, category: str, path: str | Path | None = None) -> int | None:
    """T_d of the paper's tables 6-8 for a category of mvtec_ad, visa or mpdd; None for any other."""
    table = pd.read_csv(path or repository() / "data" / "published" / "hyperparameters.csv", dtype=str)
    name = f"T_d[{ {'mvtec_ad': 'mvtec'}.get(dataset, dataset) }/{category}]".replace(" ", "")
    rows = table[(table["source_id"] == "ESM2025") & (table["name"] == name)]
    return int(rows["value"].iloc[0]) if len(rows) else None

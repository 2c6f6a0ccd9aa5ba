"""What a notebook finds without data, on toys or by arithmetic: one file a study, whichever of its runs writes it.

``<profile>/data_independent/<notebook>.json`` holds experiments and claims. `Run.record` writes it, and `load_run` puts
it together with what the run's own files hold. Entry points: `share`, `read`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffad_utils.io.files import to_json, write_atomically

FOLDER = "data_independent"
"""Below the profile's folder."""


def share(
    root: Path, notebook: str, found: Mapping[str, Any], experiments: Mapping[str, Any], claims: Sequence[dict]
) -> Path:
    """Write the file of a notebook whole, in place of an earlier one, and return its path.

    Parameters
    ----------
    root : the profile's folder.
    found : keys experiments (dict) and claims (list of ``claims.finding``). They depend on no data, no run's seed and
        no measured time, so every run of the notebook with the same settings writes the same bytes.
    experiments, claims : what the run records in its own files, which may repeat none of it.

    Raises
    ------
    ValueError
        an experiment or claim that the run records too, a claim that is about data by claims.csv, another key, or a
        value that is NaN or infinite.
    """
    from diffad_utils.study.claims import published_claims  # which reads runs, and so needs this module

    if set(found) != {"experiments", "claims"}:
        raise ValueError(f"{notebook}: data_independent has the keys experiments and claims, got {sorted(found)}")
    names = {row["claim_id"] for row in found["claims"]}
    twice = sorted((found["experiments"].keys() & experiments.keys()) | (names & {row["claim_id"] for row in claims}))
    if twice:
        raise ValueError(f"{notebook}: {', '.join(twice)} would be recorded twice: leave it to data_independent alone")
    datasets = published_claims()["datasets"]
    of_data = sorted(name for name in names if datasets[name] != "none")
    if of_data:
        raise ValueError(
            f"{notebook}: {', '.join(of_data)} is about data by claims.csv: record it as one of the claims"
        )
    path = root / FOLDER / f"{notebook}.json"
    write_atomically(path, to_json(dict(found), path.name))
    return path


def read(path: Path) -> tuple[dict, list[dict]]:
    """Experiments and claims of a file of `share`.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        no file, or not one of `share`.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["experiments"], content["claims"]

"""Two folders of runs held against each other: how far their metrics differ, which verdicts changed, and why.

Used by ``diffad compare``, ``diffad study`` and the report; entry points: `compare`, `with_reference`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from diffad_utils import study
from diffad_utils.study import RunRecord, claims

TOLERANCE = 1e-3
"""Largest relative difference of a metric that counts as agreement; see `EXPECTED`."""

EXPECTED = (
    "On another machine with the same versions, four runs of nine methods gave the same I-AUROC in eight methods and "
    "one 3e-5 off in the ninth; no metric moved by more than 2.4e-4, and no verdict changed."
)
"""What a user can expect, from a rerun of version 0.1.0 on a second machine."""

COMPARISON = "comparison"
"""Folder of the summary notebook's own run."""

COLUMNS = ["run", "largest relative difference", "metric", "ours", "reference", "findings that changed", "why"]


@dataclass(frozen=True)
class Agreement:
    """What `compare` found.

    runs : one row a run of either folder, columns `COLUMNS`; NaN where only one folder has the run.
    verdicts : claim, ours, reference: pooled verdicts that differ, over the runs that both folders have.
    ours, reference : the two folders, as `_named` says.
    """

    runs: pd.DataFrame
    verdicts: pd.DataFrame
    ours: str
    reference: str

    @property
    def shared(self) -> pd.DataFrame:
        """The runs that both folders have."""
        return self.runs[self.runs["largest relative difference"].notna()]

    @property
    def largest(self) -> float:
        """Largest relative difference of a metric; NaN without a shared run."""
        return float(self.shared["largest relative difference"].max())

    def holds(self, tolerance: float = TOLERANCE) -> bool:
        """Whether there is a shared run, every metric is within the tolerance, and no verdict changed."""
        return self.largest <= tolerance and self.verdicts.empty

    def sentence(self, tolerance: float = TOLERANCE) -> str:
        """The outcome in one or two sentences."""
        if self.shared.empty:
            return f"None of the runs of {self.ours} has a counterpart in {self.reference}."
        beyond = int((self.shared["largest relative difference"] > tolerance).sum())
        alone = len(self.runs) - len(self.shared)
        text = (
            f"{len(self.shared)} runs are in both; the largest relative difference of a metric is {self.largest:.2g}, "
            f"{beyond} runs differ by more than {tolerance:g}, and {len(self.verdicts)} verdicts on claims changed."
        )
        return text + (f" {alone} runs are in one folder only." if alone else "")

    def markdown(self, tolerance: float = TOLERANCE) -> str:
        """Sentence and tables for people."""
        shown = self.runs.sort_values("largest relative difference", ascending=False, na_position="last")
        parts = [f"# {self.ours} against {self.reference}", self.sentence(tolerance), _markdown(shown)]
        if len(self.verdicts):
            parts += ["Verdicts that changed:", _markdown(self.verdicts)]
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path, tolerance: float = TOLERANCE) -> None:
        """``agreement.md``, ``agreement.csv`` and ``agreement-verdicts.csv`` in the folder."""
        study.write_atomically(folder / "agreement.md", self.markdown(tolerance))
        study.write_atomically(folder / "agreement.csv", self.runs.to_csv(index=False, float_format="%.6g"))
        study.write_atomically(folder / "agreement-verdicts.csv", self.verdicts.to_csv(index=False))


def _markdown(table: pd.DataFrame) -> str:
    texts = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    return texts.replace("nan", "–").to_markdown(index=False, disable_numparse=True)


def all_runs(root: str | Path) -> dict[str, RunRecord]:
    """Every complete run of a profile's folder by its path below it, the summary's among them.

    Raises
    ------
    FileNotFoundError
        the folder has no complete run.
    """
    root = Path(root)
    records = study.load_runs(root)
    if (root / COMPARISON / "metrics.json").is_file():
        records.append(study.load_run(root / COMPARISON))
    if not records:
        raise FileNotFoundError(f"{root}: no complete run in it; expected a profile's results, such as reports/smoke")
    return {record.folder.relative_to(root).as_posix(): record for record in records}


def relative_difference(a: float, b: float) -> float:
    """|a - b| over the larger of |a| and |b|; 0 for two zeros."""
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b))


def compare(ours: str | Path, reference: str | Path) -> Agreement:
    """Hold every run of a folder against the reference's run of the same data set, category, method and seed.

    Parameters
    ----------
    ours, reference : folders of a profile's results.

    Returns
    -------
    `Agreement`. Pooled verdicts are compared over the runs that both folders have, so that a missing run is no change.

    Raises
    ------
    FileNotFoundError
        one of the folders has no complete run.
    """
    mine, theirs = all_runs(ours), all_runs(reference)
    rows = [_row(name, mine.get(name), theirs.get(name)) for name in sorted(mine | theirs)]
    both = sorted(mine.keys() & theirs.keys())
    before = _verdicts([theirs[name] for name in both])
    after = _verdicts([mine[name] for name in both])
    changed = [(claim, after[claim], before[claim]) for claim in before if before[claim] != after[claim]]
    return Agreement(
        pd.DataFrame(rows, columns=COLUMNS),
        pd.DataFrame(changed, columns=["claim", "ours", "reference"]),
        _named(ours),
        _named(reference),
    )


def _named(folder: str | Path) -> str:
    """A folder as text: below the checkout from there, elsewhere its last two parts, so that tables are the same on
    every machine."""
    path = Path(folder).resolve()
    root = study.repository().resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else "/".join(path.parts[-2:])


def with_reference(root: str | Path) -> Agreement | None:
    """`compare` with the committed reference of the same profile; None where there is none, or for the reference
    itself."""
    root = Path(root)
    reference = study.reference_folder() / root.name
    if not any(reference.rglob("metrics.json")) or reference.resolve() == root.resolve() or not study.load_runs(root):
        return None
    return compare(root, reference)


def _verdicts(records: Sequence[RunRecord]) -> dict[str, str]:
    return claims.ledger(records).set_index("claim_id")["verdict"].to_dict() if records else {}


def _row(name: str, ours: RunRecord | None, theirs: RunRecord | None) -> list:
    if ours is None or theirs is None:
        missing = "only in the reference" if ours is None else "not in the reference"
        return [name, math.nan, "", math.nan, math.nan, 0, missing]
    shared = [metric for metric in ours.metrics if metric in theirs.metrics]
    gaps = {metric: relative_difference(ours.metrics[metric], theirs.metrics[metric]) for metric in shared}
    gaps |= dict.fromkeys(sorted(ours.metrics.keys() ^ theirs.metrics.keys()), math.inf)  # one run lacks it
    worst = max(gaps, key=gaps.__getitem__) if any(gaps.values()) else ""
    values = (record.metrics.get(worst, math.nan) for record in (ours, theirs))
    judged = [{(row["claim_id"], row["measure"]): row["verdict"] for row in record.claims} for record in (ours, theirs)]
    changed = sum(judged[0].get(key) != judged[1].get(key) for key in judged[0] | judged[1])
    why = "; ".join(reasons(ours.manifest, theirs.manifest)) or "unknown"
    return [name, gaps.get(worst, 0.0), worst, *values, changed, why if worst or changed else "the same"]


def reasons(ours: dict, theirs: dict) -> list[str]:
    """What differs between two manifests that can move a number, a short phrase each."""
    return [
        *_settings(ours["parameters"], theirs["parameters"]),
        *(["other data"] if _checksums(ours, "data") != _checksums(theirs, "data") else []),
        *(["other weights"] if _checksums(ours, "weights") != _checksums(theirs, "weights") else []),
        *_code(ours, theirs),
        *_versions(ours.get("versions", {}), theirs.get("versions", {})),
        *_machine(ours, theirs),
    ]


def _settings(ours: dict, theirs: dict) -> list[str]:
    names = [name for name in ours | theirs if name not in ("data_root", "output_root")]
    other = [name for name in names if ours.get(name) != theirs.get(name)]
    if "profile" in other:
        return [f"profile {ours['profile']} instead of {theirs['profile']}"]
    return [f"other settings: {', '.join(other[:4])}{' and more' if len(other) > 4 else ''}"] if other else []


def _checksums(manifest: dict, kind: str) -> set[str]:
    return {entry["sha256"] for entry in manifest[kind]}


def _code(ours: dict, theirs: dict) -> list[str]:
    """By the fingerprint of notebook and code where both runs have one, else by the revision."""
    if ours.get("fingerprint") and theirs.get("fingerprint"):
        return ["other code"] if ours["fingerprint"] != theirs["fingerprint"] else []
    same = ours["git"].get("revision") == theirs["git"].get("revision")
    return [] if same and not ours["git"].get("dirty") and not theirs["git"].get("dirty") else ["perhaps other code"]


def _versions(ours: dict, theirs: dict) -> list[str]:
    other = [
        f"{name} {ours[name]} instead of {theirs[name]}"
        for name in ours
        if name in theirs and name not in ("diffad_utils", "papermill") and ours[name] != theirs[name]
    ]
    return other[:3] + ([f"{len(other) - 3} more versions"] if len(other) > 3 else [])


def _machine(ours: dict, theirs: dict) -> list[str]:
    if (ours["device"], ours["device_name"]) != (theirs["device"], theirs["device_name"]):
        return [f"{ours['device_name']} instead of {theirs['device_name']}"]
    if ours.get("processor") and theirs.get("processor"):
        return ["other processor"] if ours["processor"] != theirs["processor"] else []
    return ["perhaps another processor"]

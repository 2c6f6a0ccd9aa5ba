"""The findings behind a claim as the ledger of the front page shows them: what is common once, then a line a task."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

SHARED = ("measure", "margin", "weights", "notebook", "section")
"""What the findings of one group of the ledger have in common."""


def grouped(findings: Sequence[dict]) -> list[dict]:
    """Findings of one claim, one entry a measure: the values of `SHARED`, ``notes`` and ``tasks``.

    A task has ``task`` (dataset/category), ``notes`` and ``findings``, one a training. A note stands as high up as all
    below have it, and not again below.

    Parameters
    ----------
    findings : with the keys of `SHARED`, ``dataset_category`` and ``notes``, a list of sentences.
    """
    groups: dict[tuple, list[dict]] = {}
    for item in findings:
        groups.setdefault(tuple(item[name] for name in SHARED), []).append(item)
    found = []
    for shared, members in groups.items():
        notes, members = _without_common_notes(members)
        tasks = []
        for task, own in groupby(sorted(members, key=_task), key=_task):
            common, kept = _without_common_notes(list(own))
            tasks.append({"task": task, "notes": common, "findings": kept})
        found.append(dict(zip(SHARED, shared, strict=True)) | {"notes": notes, "tasks": tasks})
    return found


def _task(finding: dict) -> str:
    return finding["dataset_category"]


def _without_common_notes(findings: list[dict]) -> tuple[list[str], list[dict]]:
    """The notes that all have, and the findings without them."""
    common = [note for note in findings[0]["notes"] if all(note in item["notes"] for item in findings)]
    return common, [item | {"notes": [note for note in item["notes"] if note not in common]} for item in findings]

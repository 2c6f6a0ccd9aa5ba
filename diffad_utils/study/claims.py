"""The published claims, what a run says about them (`finding`), and the ledger over all runs.

Claims are fixed in advance in ``data/published/claims.csv``; `verdicts` holds the rule that pools findings into one
verdict. Used by notebooks 02 to 08 and the report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from diffad_utils.io.paths import repository
from diffad_utils.study import numbers, verdicts
from diffad_utils.study.records import RunRecord
from diffad_utils.study.verdicts import (
    DECIDED,
    INCONCLUSIVE,
    NOT_SUPPORTED,
    NOT_TESTED,
    OPEN,
    OUT_OF_SCOPE,
    SUPPORTED,
    VARIES,
    Judgement,
)

__all__ = [
    "DECIDED",
    "EQUAL",
    "INCONCLUSIVE",
    "MARGIN",
    "NOT_SUPPORTED",
    "NOT_TESTED",
    "OPEN",
    "OUT_OF_SCOPE",
    "SUPPORTED",
    "VARIES",
    "beside_printed",
    "claim_row",
    "effect_and_note",
    "finding",
    "findings",
    "forest_rows",
    "judgements",
    "ledger",
    "published_claims",
]

MARGIN = 0.02
"""The smallest difference of an I-AUROC that matters; "no worse" means no more than this below."""

KINDS = ("universal", "existential", "between trainings", "arithmetic", "mathematical")

_REST = {"C05": "C05b", "C60": "C60b", "C74": "C74a"}
"""Where a finding under the id of a claim that is two rows now has none of their measures: the row it was meant for."""


def published_claims(path: str | Path | None = None) -> pd.DataFrame:
    """The falsifiable claims of the sources, indexed by claim_id; columns as in ``data/published/README.md``.

    Everything is text. A claim that is two statements has two rows, C24a and C24b.
    """
    path = path or repository() / "data" / "published" / "claims.csv"
    return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("claim_id")


def claim_row(claim: str, measure: str = "", table: pd.DataFrame | None = None) -> str:
    """The id of the row for a claim, where "C24" alone may mean C24a or C24b: the one whose measure is named.

    Raises ``ValueError`` for a claim without a row.
    """
    table = published_claims() if table is None else table
    if claim in table.index:
        return claim
    halves = [name for name in table.index if re.fullmatch(re.escape(claim) + "[a-z]", name)]
    if not halves:
        raise ValueError(f"claim {claim!r} is not in data/published/claims.csv")
    named = [name for name in halves if verdicts.variant_of(table.loc[name], measure)]
    return named[0] if named else _REST.get(claim, halves[0])


def finding(
    claim: str,
    effect: float,
    low: float,
    high: float,
    n: int,
    *,
    measure: str,
    section: str,
    margin: float | None = None,
    note: str = "",
) -> dict:
    """What one run says about one claim, as a row of ``claims.json``.

    A run's own verdict is *supported* if the whole interval lies above the margin, *not supported* if all of it lies
    below, *inconclusive* otherwise. It is a remark on this run: the claim's verdict is that of `ledger`, which pools
    all runs and looks at nothing that was not fixed in claims.csv.

    Parameters
    ----------
    claim : id in ``data/published/claims.csv``; "C24" for the half of C24a, C24b whose measure is named.
    effect, low, high : signed so that larger speaks for the claim, and its 95 % interval over test images.
    n : number of images (or pairs, defects, ...) behind the interval.
    measure : what the effect is, with its unit; holds one of the claim's ``variants`` word for word, such as "dynamic
        minus T = 20". A claim of "better than every" has a finding for each rival, never one for the best of them.
    section : heading of the notebook's section that computes it, for the link.
    margin : None takes the claim's own, by which the ledger judges in any case.
    note : a restriction the reader must know, such as "a small model, trained for 160 steps".

    Raises
    ------
    ValueError
        An unknown claim, a value that is not finite, or an interval that is not ordered.
    """
    table = published_claims()
    claim = claim_row(claim, measure, table)
    margin = float(table.loc[claim, "margin"]) if margin is None else float(margin)
    effect, low, high = float(effect), float(low), float(high)
    if not all(math.isfinite(value) for value in (effect, low, high, margin)) or low > high:
        raise ValueError(
            f"{claim}: effect {effect}, interval [{low}, {high}], margin {margin}: must be finite and ordered"
        )
    judged = SUPPORTED if low > margin else NOT_SUPPORTED if high < margin else INCONCLUSIVE
    return {
        "claim_id": claim,
        "verdict": judged,
        "effect": effect,
        "interval": [low, high],
        "margin": margin,
        "n": int(n),
        "measure": measure,
        "section": section,
        "note": note,
    }


EQUAL = "equal up to rounding"
"""How the note of a finding begins that shows two things to be the same; it has the largest difference."""


def effect_and_note(finding: Mapping) -> tuple[str, str]:
    """A finding's effect as a reader sees it, and its note: what is equal up to rounding is said in words, and what has
    no interval is shown without one.

    Parameters
    ----------
    finding : a dict of `finding`, or a row of `findings` as one.
    """
    low, high = finding["interval"] if "interval" in finding else (finding["low"], finding["high"])
    value, note = finding["effect"], finding["note"]
    if note.startswith(EQUAL):
        said, _, rest = note.partition("; ")
        return said, rest
    digits = 5 if max(map(abs, (value, low, high))) < 0.005 else 3
    if low == high:
        return numbers.number(value, digits, "+"), note
    return numbers.effect((value, low, high), digits), note


COLUMNS = [
    "claim_id",
    "verdict",
    "effect",
    "low",
    "high",
    "standard_error",
    "margin",
    "n",
    "measure",
    "variant",
    "objection",
    "section",
    "note",
    "dataset",
    "category",
    "dataset_category",
    "seed",
    "training",
    "method",
    "notebook",
    "weights",
    "folder",
]
"""Of `findings`."""


FORMER_WORDS = {"NLL + spread": "NLL + value range"}
"""Words of measures in earlier runs -> the ones that claims.csv has now."""


def findings(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Every finding of the runs, one row each; a run that summarises others names data set and category itself.

    The keys of `finding`, with ``low`` and ``high`` for the interval, and

    - standard_error : of the effect over test images, from the interval,
    - variant : which of the claim's variants it measures; objection : why it is no evidence, "" if it is,
    - training : the category, or "unified" with the data set, where one network for all its categories was trained,
    - dataset, category, seed, method, notebook, folder; weights : names, "mini" where a shipped one stood in.

    What does not depend on data is there once, with "-" for the data set, however many runs recorded it. Findings of
    earlier runs under the id of a claim that is two rows now are given to the row that they measure.
    """
    table, rows = published_claims(), []
    for record in records:
        names = [f"{entry['name']}{' (mini)' if entry['is_mini'] else ''}" for entry in record.manifest["weights"]]
        where = {
            "dataset": record.dataset,
            "category": record.category,
            "seed": record.seed,
            "method": record.method,
            "notebook": record.manifest["notebook"],
            "weights": ", ".join(names) or "none",
            "folder": str(record.folder),
        }
        for entry in record.claims:
            low, high = entry["interval"]
            row = where | {name: value for name, value in entry.items() if name != "interval"}
            for former, word in FORMER_WORDS.items():
                row["measure"] = row["measure"].replace(former, word)
            row |= {"low": low, "high": high, "standard_error": float(verdicts.standard_error(low, high))}
            row["claim_id"] = claim_row(row["claim_id"], row["measure"], table)
            claim = table.loc[row["claim_id"]]
            if claim["datasets"] == "none":
                row |= {"dataset": "-", "category": "-", "weights": "none"}
            row["dataset_category"] = "-" if row["dataset"] == "-" else f"{row['dataset']}/{row['category']}"
            row["training"] = entry.get("training") or training_of(record) or row["dataset_category"]
            row["variant"] = verdicts.variant_of(claim, row["measure"]) or ""
            rows.append(row | {"objection": verdicts.objection(claim, row)})
    found = pd.DataFrame(rows, columns=COLUMNS).sort_values(
        ["claim_id", "measure", "dataset", "category", "seed"], ignore_index=True
    )
    repeated = (found["dataset"] == "-") & found.duplicated(["claim_id", "measure", "dataset"])
    return found[~repeated].reset_index(drop=True)


def training_of(record: RunRecord) -> str:
    """What the network of a run was trained on, if that is more than its category, as its setting says; else ""."""
    setting = record.experiments.get("setting")
    unified = isinstance(setting, dict) and setting.get("name") == "unified"
    return f"{record.dataset}, unified" if unified else ""


def judgements(records: Sequence[RunRecord]) -> dict[str, Judgement]:
    """The rule of `verdicts` on every claim of claims.csv, in its order; families are decided together."""
    table, found = published_claims(), findings(records)
    datasets = {record.dataset for record in records} | set(found["dataset"])
    groups = dict(tuple(found.groupby("claim_id", sort=False)))
    judged = {
        name: verdicts.judge(claim.to_dict() | {"claim_id": name}, groups.get(name, found.iloc[:0]), datasets)
        for name, claim in table.iterrows()
    }
    for _, members in table.groupby("family", sort=False):
        verdicts.decide([judged[name] for name in members.index])
    return judged


def ledger(records: Sequence[RunRecord]) -> pd.DataFrame:
    """One row a claim of ``claims.csv``, in its order.

    Columns
    -------
    claim_id, source_id, statement; verdict and reason by the rule of `verdicts`.
    effect, low, high : of the variant for which the claim is least certain, pooled, and of the clearest case for a
    claim that says "some"; NaN where nothing was measured. margin. p :
    adjusted by Holm within the family. categories, seeds : of that variant, the fewest seeds. detectable : the smallest
    distance from the margin that these data would have shown with a power of 80 %. would_change : what would change the
    verdict; what a claim needs that is not tested here.
    own_tables, own_tables_note : does the claim hold in its source's printed tables?
    findings : how many, evidence or not. notebooks, data, weights : which, joined by commas; empty without a finding.
    """
    table, found, judged = published_claims(), findings(records), judgements(records)
    groups = dict(tuple(found.groupby("claim_id", sort=False)))
    rows = []
    for name, claim in table.iterrows():
        part, judgement = groups.get(name, found.iloc[:0]), judged[name]
        weakest = judgement.weakest
        pooled = weakest.pooled if weakest else None
        estimate = judgement.case or (pooled._asdict() if pooled else {})
        rows.append(
            {
                "claim_id": name,
                "source_id": claim["source_id"],
                "statement": claim["statement"],
                "verdict": judgement.verdict,
                "reason": judgement.reason,
                "effect": float(estimate.get("effect", math.nan)),
                "low": float(estimate.get("low", math.nan)),
                "high": float(estimate.get("high", math.nan)),
                "margin": judgement.margin,
                "p": judgement.p,
                "categories": pooled.categories if pooled else 0,
                "seeds": int(weakest.by_category["seeds"].min()) if weakest else 0,
                "detectable": judgement.detectable,
                "would_change": _needs(claim, judgement) or verdicts.what_would_change(judgement),
                "own_tables": claim["own_tables"],
                "own_tables_note": claim["own_tables_note"],
                "findings": len(part),
                "notebooks": _joined(part["notebook"]),
                "data": _joined(part["dataset_category"]),
                "weights": _joined(part["weights"]),
            }
        )
    return pd.DataFrame(rows)


def _needs(claim: pd.Series, judgement: Judgement) -> str:
    """What a claim that is not tested here takes; "" for one that is."""
    missing = {OUT_OF_SCOPE: claim["scope"], NOT_TESTED: "an experiment"}.get(judgement.verdict)
    return f"not tested, needs {missing}: {claim['how_to_test']}" if missing else ""


def _joined(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(values))


def forest_rows(judgement: Judgement, found: pd.DataFrame) -> pd.DataFrame:
    """What `plots.claim_forest` draws of one claim: a row a run, a category, and the pooled effect, by variant.

    Parameters
    ----------
    found : `findings`, of this or of all claims.

    Returns
    -------
    variant; label; effect, low, high; level: "seed" where a category has
    several, "category" or "pooled". Empty without evidence.
    """
    rows = []
    mine = found[(found["claim_id"] == judgement.claim_id) & (found["variant"] != "")]
    for variant in judgement.variants:
        here = (mine["variant"] == variant.phrase) & mine["measure"].isin(variant.measures)
        runs = mine[here].sort_values(["dataset_category", "seed"])
        for category in variant.by_category.itertuples():
            task, count = category.dataset_category, f"n = {category.n}"
            if category.seeds > 1:
                for run in runs[runs["dataset_category"] == task].itertuples():
                    rows.append((variant.name, f"{task}, seed {run.seed}", run.effect, run.low, run.high, "seed"))
                count = f"{category.seeds} seeds, {count}"
            rows.append((variant.name, f"{task} ({count})", category.effect, category.low, category.high, "category"))
        pooled, k = variant.pooled, variant.pooled.categories
        if k > 1:
            ends = float(pooled.effect), float(pooled.low), float(pooled.high)
            rows.append((variant.name, f"{k} categories together", *ends, "pooled"))
    return pd.DataFrame(rows, columns=["variant", "label", "effect", "low", "high", "level"])


def beside_printed(ledger: pd.DataFrame) -> pd.DataFrame:
    """The table of a reproduction: claim, printed, ours, why they differ, what would change the verdict; claims with a
    finding or a printed number.

    printed : does the claim hold in its own tables, and the numbers. ours : verdict and pooled effect.
    """
    shown = ledger[(ledger["findings"] > 0) | (ledger["own_tables"] != "no numbers")]

    def ours(row):
        if not math.isfinite(row.effect):
            return row.verdict
        pooled = math.isfinite(row.low)
        shown = numbers.effect((row.effect, row.low, row.high)) if pooled else numbers.number(row.effect, sign="+")
        return f"{row.verdict}: {shown}, margin {row.margin:g}"

    def why(row):
        if row.verdict in (OUT_OF_SCOPE, NOT_TESTED):
            return "not measured on the data that the claim names"
        agrees = (row.own_tables, row.verdict) in {("yes", SUPPORTED), ("no", NOT_SUPPORTED)}
        small = "shipped mini weights and small data instead of the paper's" if "mini" in row.weights else ""
        return "they agree" if agrees else "; ".join(part for part in (row.reason, small) if part)

    return pd.DataFrame(
        [
            {
                "claim": f"{row.claim_id}: {row.statement}",
                "printed": row.own_tables + (f": {row.own_tables_note}" if row.own_tables_note else ""),
                "ours": ours(row),
                "why they differ": why(row),
                "what would change the verdict": row.would_change,
            }
            for row in shown.itertuples()
        ],
        columns=["claim", "printed", "ours", "why they differ", "what would change the verdict"],
    )

"""The committed runs judged by the earlier rule and by the present one: every changed verdict with its reason.

    python -m benchmarks.ledger [FOLDER] [--commit COMMIT]

Prints the table and writes it to benchmarks/results/ledger-before-after.md. FOLDER holds run folders with claims.json,
by default reports/reference/smoke. The earlier rule: a finding is judged by its own interval against the margin it was
recorded with; a claim is what all its findings agree on, else inconclusive; for four claims that say "some" one
supported finding is enough.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks import harness
from diffad_utils import study
from diffad_utils.study import claims

NEW = frozenset({"C94", "C95", "C96", "C97", "C98"})
"""Claims of the sources that had no row."""

EARLIER_EXISTENTIAL = frozenset({"C16", "C25", "C26", "C63"})


def earlier(records: Sequence[study.RunRecord]) -> pd.Series:
    """Verdicts by the earlier rule, by the ids as recorded; claims without a finding are missing."""
    found: dict[str, list[str]] = {}
    for record in records:
        for row in record.claims:
            found.setdefault(row["claim_id"], []).append(row["verdict"])

    def pooled(claim, verdicts):
        if claim in EARLIER_EXISTENTIAL and claims.SUPPORTED in verdicts:
            return claims.SUPPORTED
        return verdicts[0] if len(set(verdicts)) == 1 else claims.INCONCLUSIVE

    return pd.Series({claim: pooled(claim, verdicts) for claim, verdicts in found.items()}, dtype=object)


def before_and_after(records: Sequence[study.RunRecord]) -> pd.DataFrame:
    """One row a claim: claim_id, before, after, reason, smallest effect that could have been shown, what would change
    it."""
    before, ledger = earlier(records), claims.ledger(records)
    rows = []
    for row in ledger.itertuples():
        base = row.claim_id.rstrip("abc")
        earlier_one = before.get(row.claim_id, before.get(base, claims.NOT_TESTED))
        half = row.claim_id != base and base in before.index
        rows.append(
            {
                "claim": row.claim_id,
                "before": f"{earlier_one} ({base}, both halves)" if half else earlier_one,
                "after": row.verdict,
                "reason": row.reason,
                "could have shown": "" if pd.isna(row.detectable) else f"{row.detectable:.3g}",
                "what would change it": row.would_change,
                "changed": earlier_one != row.verdict,
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, before: pd.Series, source: str) -> str:
    """The table with its counts, as a page; source : where the findings are from."""
    earlier_ids = {name.rstrip("abc") for name in table["claim"]} - NEW
    counts = {
        "before": Counter(before.get(name, claims.NOT_TESTED) for name in earlier_ids),
        "after": Counter(table["after"]),
    }
    verdicts = sorted(set(counts["before"]) | set(counts["after"]))
    count = pd.DataFrame([{"verdict": v, **{when: counts[when].get(v, 0) for when in counts}} for v in verdicts])
    cells = table.map(lambda value: value.replace("|", "\\|") if isinstance(value, str) else value)
    changed = cells[table["changed"]].drop(columns="changed")
    same = cells[~table["changed"]].drop(columns=["changed", "before"])
    return "\n\n".join(
        [
            "# The ledger before and after the rule that pools",
            f"Made by `python -m benchmarks.ledger` from the findings under {source}. Before: all findings of a "
            "claim agree, or it is inconclusive. After: `diffad_utils.study.verdicts`. A claim that is two rows now "
            f"had one verdict before; {len(earlier_ids)} claims were judged then, {len(table)} rows now.",
            count.to_markdown(index=False),
            f"## {len(changed)} verdicts that changed",
            changed.to_markdown(index=False, tablefmt="pipe", disable_numparse=True),
            f"## {len(same)} that did not",
            same.to_markdown(index=False, tablefmt="pipe", disable_numparse=True),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default="reports/reference/smoke", help="run folders with claims.json")
    parser.add_argument(
        "--commit", default="", help="where the folder is from, for the page, if not from this checkout"
    )
    options = parser.parse_args()
    folder = options.folder
    records = [study.load_run(path.parent) for path in sorted((study.repository() / folder).rglob("claims.json"))]
    if not records:
        raise SystemExit(f"no claims.json under {folder}: expected those of finished runs")
    source = f"`{Path(*Path(folder).parts[-2:]).as_posix()}`" + (
        f" of commit {options.commit}" if options.commit else ""
    )
    text = markdown(before_and_after(records), earlier(records), source)
    print(text)
    study.write_atomically(harness.RESULTS / "ledger-before-after.md", text + "\n")


if __name__ == "__main__":
    main()

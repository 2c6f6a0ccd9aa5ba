#!/usr/bin/env bash
# autorank 1.3.0: two methods with the same scores, most of them 1.0, are reported with effect size NaN and magnitude "large".
#
# Behaviour: for scores that are not normally distributed the effect size is the difference of the medians divided by the pooled median
# absolute deviation. If more than half of the categories have AUROC 1.0 with both methods, this is 0 / 0. The word for it is found by
# asking whether the number is below 0.2, 0.5 and 0.8. NaN is below nothing, so it is called large. The test itself sees no
# difference, and no score is missing. rankdf and latex_table have the word, the table with "-" for the number. With one
# category less at 1.0 the same comparison is negligible.
# What to do: effect_size="cliff_delta", or read "large" as "unknown" wherever the effect size is NaN or "-".
# Output seen (15 categories; the second method has the scores of the first in reverse order, a third is worse):
#   8 of 15 at 1.0: ranks differ by 0.00 (critical 0.86), effect size nan, magnitude large
#     LaTeX: flow & 1.500 & 1.000 & 0.000 & [0.748, 1.000] & - & large
#   7 of 15 at 1.0: ranks differ by 0.00 (critical 0.86), effect size 0.00, magnitude negligible
#   8 of 15 at 1.0, Cliff's delta: ranks differ by 0.00 (critical 0.86), effect size 0.00, magnitude negligible

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check autorank==1.3.0 statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1
MPLCONFIGDIR="$work" OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import contextlib
import io

import numpy as np
import pandas as pd
from autorank import autorank, latex_table


def compare(perfect, **options):
    scores = np.concatenate([np.ones(perfect), np.linspace(0.99, 0.7, 15 - perfect)])
    table = pd.DataFrame({"old": np.linspace(0.5, 0.6, 15) ** 2, "memory": scores, "flow": scores[::-1]})
    caught = io.StringIO()
    with contextlib.redirect_stdout(caught):  # autorank prints a table of its own
        result = autorank(table, verbose=False, **options)
        caught.truncate(0)
        latex_table(result, effect_size_relation="above")
    row = result.rankdf.iloc[2]  # one of the equal two, beside the other
    gap = abs(result.rankdf.meanrank.iloc[1] - row.meanrank)
    print(f"{perfect} of 15 at 1.0{', Cliff' + chr(39) + 's delta' if options else ''}: ranks differ by {gap:.2f} (critical {result.cd:.2f}), "
          f"effect size {row.effect_size_above:.2f}, magnitude {row.magnitude_above}")
    assert gap < result.cd
    return row, next(line for line in caught.getvalue().splitlines() if line.startswith(row.name))


row, line = compare(8)
print("  LaTeX:", line.rstrip("\\ "))
assert np.isnan(row.effect_size_above) and row.magnitude_above == "large" and "large" in line
row, line = compare(7)
assert row.effect_size_above == 0 and row.magnitude_above == "negligible"
row, line = compare(8, effect_size="cliff_delta")
assert abs(row.effect_size_above) < 0.05 and row.magnitude_above == "negligible"
PY

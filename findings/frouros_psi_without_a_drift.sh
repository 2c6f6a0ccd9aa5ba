#!/usr/bin/env bash
# frouros 0.9.0: PSI calls anomaly scores that have not changed at all a large shift, in 3 of 4 comparisons of 500 scores.
#
# Behaviour: the population stability index cuts the common range of both sets into ten bins. A bin that is empty in one set gets the
# smallest normal number, 2e-308, as its share. Its logarithm is -708, so a single score that is alone in a bin adds about 700
# times its share: 1.4 with 500 scores. By the usual rule of thumb more than 0.25 is a large shift. Scores of anomaly
# detectors have a long tail, so there is nearly always such a bin. With half a score in each empty bin no comparison is above 0.25.
# The values are finite, and no warning comes. HellingerDistance, of the same package and with the same bins, is not affected.
# What to do: take HellingerDistance or a test (KSTest), or compute PSI with half a score in each empty bin.
# Output seen:
#   long tail (gamma), 500 scores, no change: PSI above 0.25 in 76%, median 2.83, largest 15.5; with half a score 0%, 0.03; Hellinger 0.07; KSTest below 0.05 in 6%
#   long tail (gamma), 2000 scores, no change: PSI above 0.25 in 68%, median 0.36, largest 2.8; with half a score 0%, 0.01; Hellinger 0.04; KSTest below 0.05 in 6%
#   bell (normal), 500 scores, no change: PSI above 0.25 in 32%, median 0.04, largest 12.7; with half a score 0%, 0.03; Hellinger 0.07; KSTest below 0.05 in 5%
#   bell (normal), 2000 scores, no change: PSI above 0.25 in 19%, median 0.01, largest 2.1; with half a score 0%, 0.01; Hellinger 0.03; KSTest below 0.05 in 5%
#   flat (uniform), 500 scores, no change: PSI above 0.25 in 0%, median 0.03, largest 0.1; with half a score 0%, 0.03; Hellinger 0.06; KSTest below 0.05 in 1%
#   flat (uniform), 2000 scores, no change: PSI above 0.25 in 0%, median 0.01, largest 0.0; with half a score 0%, 0.01; Hellinger 0.03; KSTest below 0.05 in 4%
#   flat, one of 500 scores moved from 1 to 1.3: PSI 1.40, with half a score 0.00

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check frouros==0.9.0 scipy==1.14.1 numpy==2.1.3
MPLBACKEND=agg OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
from frouros.detectors.data_drift import PSI, HellingerDistance, KSTest

rng = np.random.default_rng(0)


def compare(detector, before, after):
    detector.fit(X=before)
    return detector.compare(X=after)[0]


def with_half_a_score(before, after):
    edges = np.histogram_bin_edges(np.r_[before, after], 10)
    p, q = (np.maximum(np.histogram(scores, edges)[0], 0.5) / len(scores) for scores in (before, after))
    return float(((q - p) * np.log(q / p)).sum())


kinds = {
    "long tail (gamma)": lambda n: rng.gamma(2, size=n),
    "bell (normal)": lambda n: rng.normal(size=n),
    "flat (uniform)": lambda n: rng.random(n),
}
seen = {}
for name, draw in kinds.items():
    for n in (500, 2000):
        pairs = [(draw(n), draw(n)) for _ in range(200)]
        psi = np.array([compare(PSI(), *pair).distance for pair in pairs])
        half = np.array([with_half_a_score(*pair) for pair in pairs])
        hellinger = np.median([compare(HellingerDistance(), *pair).distance for pair in pairs])
        test = np.mean([compare(KSTest(), *pair).p_value < 0.05 for pair in pairs])
        assert np.isfinite(psi).all()
        seen[name, n] = psi, half
        print(f"{name}, {n} scores, no change: PSI above 0.25 in {(psi > 0.25).mean():.0%}, median {np.median(psi):.2f}, largest {psi.max():.1f};",
              f"with half a score {(half > 0.25).mean():.0%}, {np.median(half):.2f}; Hellinger {hellinger:.2f}; KSTest below 0.05 in {test:.0%}")
assert (seen["long tail (gamma)", 500][0] > 0.25).mean() > 0.5
assert (seen["bell (normal)", 500][0] > 0.25).mean() > 0.2
assert not (seen["flat (uniform)", 500][0] > 0.25).any()
assert all((half > 0.25).mean() < 0.02 for _, half in seen.values())

before = np.linspace(0, 1, 500)
after = before.copy()
after[-1] = 1.3  # one score of 500
one = float(compare(PSI(), before, after).distance)
print(f"flat, one of 500 scores moved from 1 to 1.3: PSI {one:.2f}, with half a score {with_half_a_score(before, after):.2f}")
assert one > 1.3
PY

#!/usr/bin/env bash
# numpy 2.4.6: the float32 mean over pixels is exact or 16 % off, by the axis that is asked for.
#
# Behaviour: mean() over all of an array sums in pairs, and is exact here. mean(axis=0)
# over (pixels, channels), the usual way to get a data set's channel means, adds one
# row after the other in float32. Once the sum is 2**24 times as large as the next
# value, adding it changes nothing. Twenty million pixels are only 300 images of
# 256 x 256. The standard deviation suffers earlier than the mean. cumsum stalls alike.
# What to do: dtype=np.float64 in every sum over pixels.
# Output seen:
#   mean() 0.5, mean(axis=0) [0.4194304 0.4194304 0.4194304], with dtype float64 [0.5 0.5 0.5]
#   last of cumsum over 20,000,000 ones: 16777216.0

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np

pixels = np.full((20_000_000, 3), 0.5, np.float32)
whole, columns, wide = pixels.mean(), pixels.mean(axis=0), pixels.mean(axis=0, dtype=np.float64)
print(f"mean() {whole}, mean(axis=0) {columns}, with dtype float64 {wide}")
assert whole == 0.5 and (wide == 0.5).all()
assert (columns < 0.43).all(), "mean(axis=0) no longer stalls"
last = np.cumsum(np.ones(20_000_000, np.float32))[-1]
print(f"last of cumsum over 20,000,000 ones: {last}")
assert last == 2**24, "cumsum no longer stalls"
PY

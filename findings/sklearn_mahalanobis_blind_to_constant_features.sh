#!/usr/bin/env bash
# scikit-learn 1.9.1: a feature that was constant in training can change by any amount and the Mahalanobis distance does not see it.
#
# Behaviour: EmpiricalCovariance and EllipticEnvelope invert with the pseudo-inverse, which gives a direction without variance the weight 0, not
# an infinite one. What never happened in training (a dead channel that lights up) is thus perfectly normal, with
# the same distance to the last digit. No error, no warning. LedoitWolf, which adds a little
# to the diagonal, gives 18 million.
# What to do: LedoitWolf, or a small constant on the diagonal (as PaDiM has it).
# Output seen:
#   EmpiricalCovariance: as in training 0.0183, 1000 away 0.0183
#   EllipticEnvelope: as in training 0.0150, 1000 away 0.0150; predicted as normal: True
#   LedoitWolf: as in training 0.0188, 1000 away 17955534.6658

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
import warnings

import numpy as np
from sklearn.covariance import EllipticEnvelope, EmpiricalCovariance, LedoitWolf

train = np.random.default_rng(0).normal(size=(200, 4))
train[:, 3] = 2.0
test = np.zeros((2, 4))
test[:, 3] = 2.0, 1002.0
for kind in (EmpiricalCovariance, EllipticEnvelope, LedoitWolf):
    with warnings.catch_warnings():
        if kind is EmpiricalCovariance:
            warnings.simplefilter("error")
        model = kind(random_state=0) if kind is EllipticEnvelope else kind()
        near, far = model.fit(train).mahalanobis(test)
    verdict = f"; predicted as normal: {model.predict(test)[1] == 1}" if kind is EllipticEnvelope else ""
    print(f"{kind.__name__}: as in training {near:.4f}, 1000 away {far:.4f}{verdict}")
    if kind is LedoitWolf:
        assert far > 1e6
    else:
        assert far == near
assert EllipticEnvelope(random_state=0).fit(train).predict(test)[1] == 1
PY

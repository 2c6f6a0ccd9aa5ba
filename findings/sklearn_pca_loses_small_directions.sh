#!/usr/bin/env bash
# scikit-learn 1.9.1: PCA's default solver finds variance 0 where float32 data have small but real variance.
#
# Behaviour: with at least ten times as many rows as columns, and at most 1000 columns, "auto" means the
# eigenvectors of the covariance matrix. That squares the numbers' range. On float32 features
# whose spreads go from 1 to 1/10000 the smallest variance comes out as 0 and the 46th is
# several times too large; "full" is right to a few percent. An anomaly detector by residuals or by
# Mahalanobis distance lives in just these directions. On wide data (fewer rows) "auto" takes
# another solver, so the same detector changes with the number of training images.
# What to do: svd_solver="full", or float64 features.
# Output seen:
#   auto (covariance_eigh): 46th variance / true 4.66, 64th / true 0.00
#   full (full): 46th variance / true 0.97, 64th / true 1.01
#   auto in float64 (covariance_eigh): 46th variance / true 0.97, 64th / true 1.01

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from sklearn.decomposition import PCA

random = np.random.default_rng(0)
spread = np.logspace(0, -4, 64)
turn = np.linalg.qr(random.normal(size=(64, 64)))[0]
features = random.normal(size=(5000, 64)) * spread @ turn + 5
seen = {}
for name, solver, data in (("auto", "auto", features.astype(np.float32)),
                           ("full", "full", features.astype(np.float32)),
                           ("auto in float64", "auto", features)):
    pca = PCA(svd_solver=solver).fit(data)
    seen[name] = pca.explained_variance_[[45, 63]] / spread[[45, 63]] ** 2
    print("{} ({}): 46th variance / true {:.2f}, 64th / true {:.2f}".format(name, pca._fit_svd_solver, *seen[name]))
assert seen["auto"][0] > 2 and seen["auto"][1] < 0.1, "the default solver is exact now"
assert np.allclose(seen["full"], 1, atol=0.1) and np.allclose(seen["auto in float64"], 1, atol=0.1)
PY

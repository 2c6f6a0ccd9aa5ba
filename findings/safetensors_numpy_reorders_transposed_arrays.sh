#!/usr/bin/env bash
# safetensors 0.8.0: a transposed numpy array is saved with its numbers in the wrong places.
#
# Behaviour: safetensors.numpy writes the memory as it lies and the shape as it is seen. An
# image turned from (height, width, channels) to (channels, height, width) by transpose comes
# back with the right shape and type, and scrambled. A slice with a step comes back with
# numbers that were not in the slice. No error, no warning. The torch side of the same
# library refuses such a tensor with a ValueError.
# What to do: np.ascontiguousarray before save_file.
# Output seen:
#   saved [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]], loaded [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
#   saved [[0.0, 2.0], [3.0, 5.0]], loaded [[0.0, 1.0], [2.0, 3.0]]
#   after np.ascontiguousarray the same: True

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from safetensors.numpy import load_file, save_file


def there_and_back(array):
    save_file({"x": array}, "x.safetensors")
    return load_file("x.safetensors")["x"]


grid = np.arange(6.0).reshape(2, 3)
for view in (grid.T, grid[:, ::2]):
    back = there_and_back(view)
    print(f"saved {view.tolist()}, loaded {back.tolist()}")
    assert back.shape == view.shape and not np.array_equal(back, view), "views are saved right now"
whole = there_and_back(np.ascontiguousarray(grid.T))
print(f"after np.ascontiguousarray the same: {np.array_equal(whole, grid.T)}")
assert np.array_equal(whole, grid.T)
PY

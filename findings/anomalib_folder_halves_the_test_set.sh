#!/usr/bin/env bash
# anomalib 2.7.0: the Folder data set takes half of the test images away as validation set, MVTecAD does not.
#
# Behaviour: Folder's default is val_split_mode "from_test" with ratio 0.5, drawn at random: with 8 good and 8 defect test images
# 8 images are tested, and WHICH 8 depends on torch's seed. The class for the same data in MVTec's layout
# validates on the test set itself (same_as_test) and tests all. So the same images in two layouts give two results.
# What to do: Folder(..., val_split_mode="same_as_test" or "synthetic", seed=...), and count the tested images.
# Output seen:
#   Folder: 12 to train, 8 to validate, 8 of 16 to test; the same 8 under another seed: False
#   Folder with same_as_test: 16 of 16 to test; default of MVTecAD: same_as_test

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0
venv/bin/python - <<'PY'
import inspect
import logging
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
import numpy as np
import torch
from anomalib.data import Folder, MVTecAD
from PIL import Image

root = Path("parts").absolute()
for folder, count in {"train/good": 12, "test/good": 8, "test/bad": 8, "ground_truth/bad": 8}.items():
    (root / folder).mkdir(parents=True)
    shape = (16, 16) if "truth" in folder else (16, 16, 3)
    for number in range(count):
        Image.fromarray(np.full(shape, 255, np.uint8)).save(root / folder / f"{number:03}.png")


def folder(seed, **more):
    torch.manual_seed(seed)
    data = Folder("parts", root=root, normal_dir="train/good", normal_test_dir="test/good", abnormal_dir="test/bad",
                  mask_dir="ground_truth/bad", num_workers=0, **more)
    data.setup()
    return data


first, second = folder(1), folder(2)
tested = [sorted(data.test_data.samples.image_path) for data in (first, second)]
sizes = len(first.train_data), len(first.val_data), len(first.test_data)
print("Folder: {} to train, {} to validate, {} of 16 to test; the same 8 under another seed: {}".format(
    *sizes, tested[0] == tested[1]))
whole = len(folder(1, val_split_mode="same_as_test").test_data)
mvtec = inspect.signature(MVTecAD).parameters["val_split_mode"].default.value
print(f"Folder with same_as_test: {whole} of 16 to test; default of MVTecAD: {mvtec}")
assert sizes == (12, 8, 8) and tested[0] != tested[1] and whole == 16 and mvtec == "same_as_test"
PY

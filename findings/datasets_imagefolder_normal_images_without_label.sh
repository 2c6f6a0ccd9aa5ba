#!/usr/bin/env bash
# datasets 5.2.0: in the folders of an MVTec AD category, all training images have the label None, not "good".
#
# Behaviour: load_dataset("imagefolder") reads train/good and test/{good,broken_large,contamination}. Both splits get a column label with
# the three names. Whether rows are given one is settled split by split, with the folders seen so far: after train that is one
# name, too few for labels, so each training image has None. The usual question, label != good, is then true for all of
# them: every normal image is a defect. A second folder in train, or one defect image, hides it.
# What to do: drop_labels=False. (The masks below ground_truth are left out either way.)
# Output seen:
#   names: broken_large, contamination, good
#   default: train [None, None, None], "defects" among the 3 normal training images: 3; test [0, 0, 1, 1, 2, 2]
#   drop_labels=False: train [2, 2, 2], "defects" among the 3 normal training images: 0; test [0, 0, 1, 1, 2, 2]

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
HF_HOME="$work/home" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 venv/bin/python - <<'PY'
from pathlib import Path

from datasets import load_dataset
from PIL import Image

folders = {"train/good": 3, "test/good": 2, "test/broken_large": 2, "test/contamination": 2,
           "ground_truth/broken_large": 2, "ground_truth/contamination": 2}
for folder, count in folders.items():
    path = Path("bottle", folder)
    path.mkdir(parents=True)
    for number in range(count):
        masks = folder.startswith("ground_truth")
        Image.new("L" if masks else "RGB", (8, 8)).save(path / f"{number:03}{'_mask' if masks else ''}.png")

seen = {}
for name, options in (("default", {}), ("drop_labels=False", {"drop_labels": False})):
    data = load_dataset("imagefolder", data_dir="bottle", **options)
    names = data["train"].features["label"].names
    if not seen:
        print("names:", ", ".join(names))
    train, test = list(data["train"]["label"]), list(data["test"]["label"])
    defects = sum(label != names.index("good") for label in train)
    print(f'{name}: train {train}, "defects" among the {len(train)} normal training images: {defects}; test {test}')
    seen[name] = train, test
    assert names == data["test"].features["label"].names == ["broken_large", "contamination", "good"]
assert seen["default"] == ([None] * 3, [0, 0, 1, 1, 2, 2])
assert seen["drop_labels=False"] == ([2] * 3, [0, 0, 1, 1, 2, 2])
PY

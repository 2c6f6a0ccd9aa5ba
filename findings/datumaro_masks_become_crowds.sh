#!/usr/bin/env bash
# datumaro 1.13.12: defects that are given as masks become crowds in COCO: no evaluation counts them, found or missed.
#
# Behaviour: the COCO export writes "iscrowd": 1 for every annotation that it stores as a mask. Its documentation says that is_crowd
# means "covers multiple instances"; a mask from an MVTec AD folder or a brush stroke from CVAT has no such attribute, and is a
# crowd none the less. pycocotools ignores crowds and what is found on them. If all defects are masks, AP is -1. If some are
# masks and some are polygons, nothing looks wrong: a detector that finds the polygons only has AP 1. A training that leaves out
# crowds, as is usual, has these images without their defects. segmentation_mode="mask" makes crowds of polygons as well. No warning.
# What to do: set "iscrowd": 0 in the file afterwards (pycocotools reads masks all the same); or segmentation_mode="polygons",
# which moves the outline (171 of 200 pixels here).
# Output seen (four images with a defect each; AP of a detector whose masks are exact):
#   MVTec AD folder:                               iscrowd [1, 1, 1, 1], AP if all are found -1.00, if only the last two -1.00
#   CVAT, two by brush and two polygons:           iscrowd [1, 1, 0, 0], AP if all are found 1.00, if only the last two 1.00
#   the same with segmentation_mode="mask":        iscrowd [1, 1, 1, 1], AP if all are found -1.00, if only the last two -1.00
#   CVAT, "iscrowd" set to 0 afterwards:           iscrowd [0, 0, 0, 0], AP if all are found 1.00, if only the last two 0.50
#   area of each with segmentation_mode="polygons": 171.0 171.0 171.0 171.0 instead of 200

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check datumaro==1.13.12 pycocotools==2.0.11
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import contextlib
import io
import json
from pathlib import Path

import numpy as np
from datumaro import Dataset
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def save(path, pixels):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


BACKGROUND = np.full((64, 64, 3), 100, np.uint8)
# the defects as the folder of an MVTec AD category has them, and as CVAT writes them: two by brush, two as polygons
save("mvtec/train/good/000.png", BACKGROUND)
shapes = ""
for number in range(4):
    left = 10 + 5 * number
    mask = np.zeros((64, 64), np.uint8)
    mask[20:30, left : left + 20] = 255
    save(f"mvtec/test/scratch/{number:03}.png", np.where(mask[..., None] > 0, np.uint8(200), BACKGROUND))
    save(f"mvtec/ground_truth/scratch/{number:03}_mask.png", mask)
    save(f"cvat/images/{number:03}.png", np.where(mask[..., None] > 0, np.uint8(200), BACKGROUND))
    shape = f'<mask label="scratch" occluded="0" rle="0, 200" left="{left}" top="20" width="20" height="10" z_order="0"/>'
    if number > 1:
        corners = f"{left},20;{left + 20},20;{left + 20},30;{left},30"
        shape = f'<polygon label="scratch" occluded="0" points="{corners}" z_order="0"/>'
    shapes += f'<image id="{number}" name="{number:03}.png" width="64" height="64">{shape}</image>'
labels = "<labels><label><name>scratch</name><attributes></attributes></label></labels>"
meta = f"<meta><task><id>1</id><name>parts</name>{labels}</task></meta>"
Path("cvat/train.xml").write_text(f"<annotations><version>1.1</version>{meta}{shapes}</annotations>")


def export(source, kind, subset, **options):
    target = f"{source}_{'_'.join(options) or 'default'}"
    Dataset.import_from(source, kind).export(target, "coco_instances", save_media=False, **options)
    return Path(target, f"annotations/instances_{subset}.json")


def ap(path, found):
    """The AP of a detector that finds the defects of these images exactly, each with score 0.9."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        hits = [one for one in truth.dataset["annotations"] if truth.imgs[one["image_id"]]["file_name"][-7:-4] in found]
        boxes = [{"image_id": one["image_id"], "category_id": one["category_id"], "segmentation": truth.annToRLE(one), "score": 0.9}
                 for one in hits]
        evaluation = COCOeval(truth, truth.loadRes(boxes), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def show(name, path):
    crowds = [one["iscrowd"] for one in json.loads(path.read_text())["annotations"]]
    values = ap(path, ("000", "001", "002", "003")), ap(path, ("002", "003"))
    print(f"{name:<46} iscrowd {crowds}, AP if all are found {values[0]:.2f}, if only the last two {values[1]:.2f}")
    return crowds, *(round(float(value), 2) for value in values)


all_masks = show("MVTec AD folder:", export("mvtec", "mvtec_segmentation", "test"))
mixed_path = export("cvat", "cvat", "train")
mixed = show("CVAT, two by brush and two polygons:", mixed_path)
only_masks = show('the same with segmentation_mode="mask":', export("cvat", "cvat", "train", segmentation_mode="mask"))
content = json.loads(mixed_path.read_text())
for one in content["annotations"]:
    one["iscrowd"] = 0
mended_path = Path("mended.json")
mended_path.write_text(json.dumps(content))
mended = show('CVAT, "iscrowd" set to 0 afterwards:', mended_path)
outlines = export("mvtec", "mvtec_segmentation", "test", segmentation_mode="polygons")
areas = [one["area"] for one in json.loads(outlines.read_text())["annotations"]]
print('area of each with segmentation_mode="polygons":', *areas, "instead of 200")
assert all_masks == ([1, 1, 1, 1], -1, -1) and only_masks == all_masks
assert mixed == ([1, 1, 0, 0], 1, 1)
assert mended[0] == [0, 0, 0, 0] and mended[1] == 1 and 0.4 < mended[2] < 0.6 and areas == [171.0] * 4
PY

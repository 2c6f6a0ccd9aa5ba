#!/usr/bin/env bash
# supervision 0.31.2: a scratch one pixel wide that is found exactly has AP 0 and F1 0.
#
# Behaviour: mask_to_xyxy ends a box ON its last pixel by default, and box_iou_batch, box_area and the metrics take the difference of
# the corners as the side. A scratch of 1 x 100 pixels then has a box of area 0, whose IoU with itself is 0: not one threshold
# finds it, without a warning, for labels and predictions that both come from the same mask. Wider scratches lose a
# pixel as well: beside a COCO box of the same mask, 2 pixels wide have an IoU of 0.495, a miss at 0.5.
# What to do: mask_to_xyxy(masks, coordinate_convention="exclusive"), or the metrics with MetricTarget.MASKS.
# Output seen:
#   1 wide: box area 0, IoU with itself 0.000, AP50 0.00, F1 0.00
#     beside the COCO box: IoU 0.000, AP50 0.00; with exclusive corners AP50 1.00, with masks AP50 1.00
#   2 wide: box area 99, IoU with itself 1.000, AP50 1.00, F1 1.00
#     beside the COCO box: IoU 0.495, AP50 0.00; with exclusive corners AP50 1.00, with masks AP50 1.00
#   3 wide: box area 198, IoU with itself 1.000, AP50 1.00, F1 1.00
#     beside the COCO box: IoU 0.660, AP50 1.00; with exclusive corners AP50 1.00, with masks AP50 1.00

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check supervision==0.31.2 pycocotools==2.0.11 opencv-python-headless==5.0.0.93 numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PY'
import numpy as np
import supervision as sv
from pycocotools import mask as coco
from supervision.metrics import F1Score, MeanAveragePrecision, MetricTarget


def detection(box, mask):
    return sv.Detections(xyxy=box, mask=mask, class_id=np.zeros(1, int), confidence=np.ones(1))


def ap(found, label, target=MetricTarget.BOXES):
    return MeanAveragePrecision(metric_target=target).update([found], [label]).compute().map50


seen = {}
for width in (1, 2, 3):
    mask = np.zeros((1, 200, 200), bool)
    mask[0, 50:150, 90 : 90 + width] = True
    box = sv.mask_to_xyxy(mask).astype(float)
    exclusive = sv.mask_to_xyxy(mask, coordinate_convention="exclusive").astype(float)
    x, y, wide, high = coco.toBbox(coco.encode(np.asfortranarray(mask[0], dtype=np.uint8)))
    label = np.array([[x, y, x + wide, y + high]])
    thin = detection(box, mask)
    itself, with_coco = sv.box_iou_batch(box, box)[0, 0], sv.box_iou_batch(box, label)[0, 0]
    f1 = F1Score().update([thin], [thin]).compute().f1_50
    seen[width] = itself, ap(thin, thin), f1, with_coco, ap(thin, detection(label, mask))
    right = ap(detection(exclusive, mask), detection(label, mask)), ap(thin, thin, MetricTarget.MASKS)
    print(f"{width} wide: box area {thin.box_area[0]:.0f}, IoU with itself {itself:.3f}, AP50 {seen[width][1]:.2f}, F1 {f1:.2f}")
    print(f"  beside the COCO box: IoU {with_coco:.3f}, AP50 {seen[width][4]:.2f}; "
          f"with exclusive corners AP50 {right[0]:.2f}, with masks AP50 {right[1]:.2f}")
    assert right == (1.0, 1.0)
assert seen[1] == (0, 0, 0, 0, 0)
assert seen[2][:3] == (1, 1, 1) and abs(seen[2][3] - 0.495) < 1e-6 and seen[2][4] == 0
assert seen[3][:3] == (1, 1, 1) and seen[3][4] == 1
PY

#!/usr/bin/env bash
# torchmetrics 1.9.0: IntersectionOverUnion of five perfect boxes is 0.2, the same as of one box for five defects or five for one.
#
# Behaviour: the metric averages over all pairs of a found and a true box with the same label, also over those that have nothing to
# do with each other. So n defects of one kind in an image, all found exactly, give 1/n, and GIoU even less. With iou_threshold the
# pairs below it are left out: then all three cases have 1.0, and neither missed defects nor false alarms cost anything. In the
# documentation's examples every label is there once, where this cannot be seen. The function intersection_over_union takes the
# diagonal of the pairs instead, so there the order of the boxes counts. No warning.
# What to do: MeanAveragePrecision; or match the boxes first and count those without a partner as 0.
# Output seen (one image, one label, boxes that do not touch):
#                              default   iou_threshold=0.5   GIoU
#   1 of 1 defects, 1 box:     1.000     1.000               1.000
#   2 of 2 defects, 2 boxes:   0.500     1.000               0.333
#   5 of 5 defects, 5 boxes:   0.200     1.000               -0.227
#   1 of 5 defects, 1 box:     0.200     1.000               -0.285
#   1 of 1 defects, 5 boxes:   0.200     1.000               -0.285
#   function, 5 perfect boxes: 1.000, the same boxes in reverse order: 0.200

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.14.1 torchvision==0.29.1 torchmetrics==1.9.0 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import torch
from torchmetrics.detection import GeneralizedIntersectionOverUnion, IntersectionOverUnion
from torchmetrics.functional.detection import intersection_over_union


def boxes(count):
    return torch.tensor([[20.0 * number, 0, 20.0 * number + 10, 10] for number in range(count)])


def score(metric, found, true):
    found, true = ({"boxes": boxes(count), "labels": torch.zeros(count, dtype=int)} for count in (found, true))
    metric.update([found], [true])
    return next(iter(metric.compute().values())).item()


print(" " * 26, "default   iou_threshold=0.5   GIoU")
seen = {}
for found, true in ((1, 1), (2, 2), (5, 5), (1, 5), (5, 1)):
    metrics = IntersectionOverUnion(), IntersectionOverUnion(iou_threshold=0.5), GeneralizedIntersectionOverUnion()
    seen[found, true] = values = [score(metric, found, true) for metric in metrics]
    name = f"{min(found, true)} of {true} defects, {found} box{'es' if found > 1 else ''}:"
    print(f"{name:<26} {values[0]:<9.3f} {values[1]:<19.3f} {values[2]:.3f}")
straight = intersection_over_union(boxes(5), boxes(5)).item()
reverse = intersection_over_union(boxes(5).flip(0), boxes(5)).item()
print(f"function, 5 perfect boxes: {straight:.3f}, the same boxes in reverse order: {reverse:.3f}")
for found, true in seen:
    assert abs(seen[found, true][0] - 1 / max(found, true)) < 1e-6 and seen[found, true][1] == 1
assert seen[5, 5][2] < 0.5 and straight == 1 and reverse < 0.5
PY

#!/usr/bin/env bash
# panoptica 2.1.7: a diagonal scratch of 60 pixels is 60 defects in an image, and one defect in the same image with a third axis.
#
# Behaviour: the regions of a mask are counted by scipy if it has two axes, and by cc3d if it has three, as the docstring says. It does
# not say that scipy's default does not join diagonals, and that of cc3d does. So a diagonal scratch weighs as much as 60 defects or as
# one: if it is found exactly and the only other defect is missed, the panoptic quality is 0.99 or 0.67. If the scratch is found but
# for one pixel in ten, it is 0.95 or 0.20. There is no option for the neighbours. No warning.
# What to do: ConnectedComponentsInstanceApproximator(cca_backend=CCABackend.cc3d), which takes two axes as well; or label the
# regions yourself and give them as InputType.UNMATCHED_INSTANCE.
# Output seen:
#   default backend, [100, 100], all found: 61 defects, 61 found, 0 false, panoptic quality 1.000
#   default backend, [100, 100], square missed: 61 defects, 60 found, 0 false, panoptic quality 0.992
#   default backend, [100, 100], gaps in the scratch: 61 defects, 55 found, 0 false, panoptic quality 0.948
#   default backend, [1, 100, 100], all found: 2 defects, 2 found, 0 false, panoptic quality 1.000
#   default backend, [1, 100, 100], square missed: 2 defects, 1 found, 0 false, panoptic quality 0.667
#   default backend, [1, 100, 100], gaps in the scratch: 2 defects, 1 found, 7 false, panoptic quality 0.200
#   cc3d backend, [100, 100], all found: 2 defects, 2 found, 0 false, panoptic quality 1.000
#   cc3d backend, [100, 100], square missed: 2 defects, 1 found, 0 false, panoptic quality 0.667
#   cc3d backend, [100, 100], gaps in the scratch: 2 defects, 1 found, 7 false, panoptic quality 0.200
#   cc3d backend, [1, 100, 100], all found: 2 defects, 2 found, 0 false, panoptic quality 1.000
#   cc3d backend, [1, 100, 100], square missed: 2 defects, 1 found, 0 false, panoptic quality 0.667
#   cc3d backend, [1, 100, 100], gaps in the scratch: 2 defects, 1 found, 7 false, panoptic quality 0.200

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check panoptica==2.1.7 scikit-image==0.26.0 scipy==1.17.1 numpy==2.2.6
OMP_NUM_THREADS=1 venv/bin/python - > log <<'PY'
import numpy as np
from panoptica import ConnectedComponentsInstanceApproximator, InputType, NaiveThresholdMatching, Panoptica_Evaluator
from panoptica.utils.constants import CCABackend

truth = np.zeros((100, 100), np.uint8)
truth[np.arange(20, 80), np.arange(20, 80)] = 1
scratch = truth.copy()
truth[70:90, 10:30] = 1
gaps = truth.copy()
gaps[np.arange(25, 80, 10), np.arange(25, 80, 10)] = 0
cases = {"all found": truth, "square missed": scratch, "gaps in the scratch": gaps}
shapes = {"[100, 100]": lambda mask: mask, "[1, 100, 100]": lambda mask: mask[None]}
seen = {}
for name, backend in (("default", None), ("cc3d", CCABackend.cc3d)):
    for shape, turn in shapes.items():
        evaluator = Panoptica_Evaluator(
            expected_input=InputType.SEMANTIC,
            instance_approximator=ConnectedComponentsInstanceApproximator(cca_backend=backend),
            instance_matcher=NaiveThresholdMatching(),
        )
        for case, found in cases.items():
            result = list(evaluator.evaluate(turn(found), turn(truth), verbose=False).values())[0].to_dict()
            values = result["tp"] + result["fn"], result["tp"], result["fp"], round(float(result["pq"]), 3)
            seen[name, shape, case] = values
            print("seen: {} backend, {}, {}: {} defects, {} found, {} false, panoptic quality {:.3f}".format(
                name, shape, case, *values))
for case in cases:
    assert seen["default", "[100, 100]", case][0] == 61 and seen["default", "[1, 100, 100]", case][0] == 2
    assert seen["cc3d", "[100, 100]", case] == seen["cc3d", "[1, 100, 100]", case] == seen["default", "[1, 100, 100]", case]
assert seen["default", "[100, 100]", "square missed"][3] > 0.98 and seen["default", "[1, 100, 100]", "square missed"][3] < 0.7
PY
sed -n 's/^seen: //p' log

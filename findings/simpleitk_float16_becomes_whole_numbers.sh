#!/usr/bin/env bash
# SimpleITK 2.5.7: a float16 TIFF, the type that MVTec AD 2 asks for, is read as whole numbers: a score of 0.5 is 14336.
#
# Behaviour: ReadImage takes the 16 bits of each value for an unsigned whole number, without a warning. With sitkFloat32 as output type
# it makes 14336.0 of it. OpenCV gives None for such a file and Pillow raises an error, so one expects a refusal here too. For
# positive values the bits rise with the value, so every AUROC is still right, and hides it. Means, filters and
# resizing are wrong: the step from 0.5 to 1 is as long as the one from 0.25 to 0.5. A negative value has the
# highest bit, and is above all positive ones: with a standardised map the AUROC is near chance, and after smoothing
# near 0. Float32 is read right.
# What to do: read it with tifffile; or sitk.GetArrayFromImage(image).view(numpy.float16).
# Output seen:
#   values 0.25 0.5 1 -1: tifffile 0.25 0.5 1 -1, SimpleITK 13312 14336 15360 48128 (16-bit unsigned integer)
#   positive map, float32: AUROC by tifffile 0.983, by SimpleITK 0.983, smoothed by 4 pixels 0.998
#   positive map, float16: AUROC by tifffile 0.983, by SimpleITK 0.983, smoothed by 4 pixels 0.999
#   standardised map, float32: AUROC by tifffile 0.983, by SimpleITK 0.983, smoothed by 4 pixels 0.999
#   standardised map, float16: AUROC by tifffile 0.983, by SimpleITK 0.468, smoothed by 4 pixels 0.003

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check simpleitk==2.5.7 tifffile==2026.3.3 imagecodecs==2026.3.6 scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
OMP_NUM_THREADS=1 venv/bin/python - <<'PY'
import numpy as np
import SimpleITK as sitk
import tifffile
from sklearn.metrics import roc_auc_score

rng = np.random.default_rng(0)
standardised = rng.normal(size=(64, 64))
defect = np.zeros((64, 64), bool)
defect[20:30, 20:40] = True
standardised[defect] += 3
positive = np.exp(standardised) / 100

tifffile.imwrite("four.tiff", np.tile(np.array([0.25, 0.5, 1, -1], np.float16), (4, 1)))
image = sitk.ReadImage("four.tiff")
four = sitk.GetArrayFromImage(image)[0]
print("values 0.25 0.5 1 -1: tifffile {:g} {:g} {:g} {:g},".format(*tifffile.imread("four.tiff")[0]),
      "SimpleITK {} {} {} {}".format(*four), f"({image.GetPixelIDTypeAsString()})")
assert four.tolist() == [13312, 14336, 15360, 48128]
assert sitk.GetArrayFromImage(sitk.ReadImage("four.tiff", sitk.sitkFloat32))[0].tolist() == four.tolist()

seen = {}
for name, values in (("positive", positive), ("standardised", standardised)):
    for kind in (np.float32, np.float16):
        for compression in (None, "zlib"):
            tifffile.imwrite("map.tiff", values.astype(kind), compression=compression)
            right = tifffile.imread("map.tiff").astype(float)
            image = sitk.ReadImage("map.tiff")
            read = sitk.GetArrayFromImage(image)
            smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 4.0))
            raw = roc_auc_score(defect.ravel(), read.ravel())
            after = roc_auc_score(defect.ravel(), smooth.ravel())
            if kind is np.float16:
                assert np.array_equal(read.view(np.float16), right)
        seen[name, kind] = roc_auc_score(defect.ravel(), right.ravel()), raw, after
        print(f"{name} map, {kind.__name__}: AUROC by tifffile {seen[name, kind][0]:.3f}, by SimpleITK {raw:.3f}, smoothed by 4 pixels {after:.3f}")
for name in ("positive", "standardised"):
    assert seen[name, np.float32][0] == seen[name, np.float32][1]
assert abs(seen["positive", np.float16][0] - seen["positive", np.float16][1]) < 1e-9
assert seen["standardised", np.float16][0] > 0.97 and seen["standardised", np.float16][1] < 0.55
assert seen["standardised", np.float32][2] > 0.95 and seen["standardised", np.float16][2] < 0.1
PY

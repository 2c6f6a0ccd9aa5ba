#!/usr/bin/env bash
# SimpleITK 2.5.7: a dpi entry in a JPEG or TIFF turns a smoothing by 2 pixels into one by 23; in a PNG the same entry does nothing.
#
# Behaviour: ReadImage makes the entry the spacing of the pixels in millimetres (300 dpi is 0.085), and sigma, distance, area and
# perimeter count in it. The pixels are the same, so a test that compares arrays sees nothing. An image from a scanner or an editor
# often says 72 or 300 dpi, one that was saved again by OpenCV says nothing. Resample lays images on each other by millimetres: a
# mask with the entry shrinks to 4 of its 400 pixels on an image without it. There is no warning.
# What to do: image.SetSpacing((1, 1)) after each ReadImage, or sitk.GetImageFromArray of another reader's array.
# Output seen:
#   JPEG no entry: spacing 1.000, spot of 200 smoothed by 2 has 182 left (width 1.9), distance to it 31.0, area 64.00
#   JPEG  72 dpi: spacing 0.353, spot of 200 smoothed by 2 has 54 left (width 5.5), distance to it 10.9, area 7.96
#   JPEG 300 dpi: spacing 0.085, spot of 200 smoothed by 2 has 4 left (width 22.9), distance to it 2.6, area 0.46
#   TIFF no entry: spacing 1.000, spot of 200 smoothed by 2 has 182 left (width 1.9), distance to it 31.0, area 64.00
#   TIFF 300 dpi: spacing 0.085, spot of 200 smoothed by 2 has 4 left (width 22.9), distance to it 2.6, area 0.46
#   PNG  300 dpi: spacing 1.000, spot of 200 smoothed by 2 has 182 left (width 1.9), distance to it 31.0, area 64.00
#   same pixels in all six: True; a mask of 400 pixels laid on an image without the entry: 4

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check simpleitk==2.5.7 pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
import SimpleITK as sitk
from PIL import Image

spot = np.zeros((512, 512), np.uint8)
spot[256:264, 256:264] = 200  # one block of a JPEG, so that it is exact there as well

seen, arrays = {}, []
for kind, dpi in (("JPEG", None), ("JPEG", 72), ("JPEG", 300), ("TIFF", None), ("TIFF", 300), ("PNG", 300)):
    Image.fromarray(spot).save(f"spot.{kind.lower()}", **({"dpi": (dpi, dpi)} if dpi else {}), **({"quality": 100} if kind == "JPEG" else {}))
    image = sitk.ReadImage(f"spot.{kind.lower()}")
    arrays.append(sitk.GetArrayFromImage(image))
    smooth = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 2.0)).astype(float)
    profile, column = smooth.sum(0), np.arange(512) - 259.5
    width = np.sqrt((profile * column**2).sum() / profile.sum() - 63 / 12)  # less the width of the spot itself
    far = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image > 100, squaredDistance=False, useImageSpacing=True))[260, 225]
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.ConnectedComponent(image > 100))
    seen[kind, dpi] = image.GetSpacing()[0], smooth.max(), width, far, shape.GetPhysicalSize(1)
    print(f"{kind:<4} {f'{dpi:>3} dpi' if dpi else 'no entry'}: " + "spacing {:.3f}, spot of 200 smoothed by 2 has {:.0f} left (width {:.1f}), "
          "distance to it {:.1f}, area {:.2f}".format(*seen[kind, dpi]))

mask = np.zeros((100, 100), np.uint8)
mask[20:40, 20:40] = 255
Image.fromarray(mask).save("mask.tiff", dpi=(300, 300))
on = sitk.Resample(sitk.ReadImage("mask.tiff"), sitk.GetImageFromArray(np.zeros((100, 100), np.uint8)), sitk.Transform(), sitk.sitkNearestNeighbor)
left = int((sitk.GetArrayFromImage(on) > 0).sum())
same = all(np.array_equal(array, spot) for array in arrays)
print(f"same pixels in all six: {same}; a mask of 400 pixels laid on an image without the entry: {left}")
assert same and left < 10
for kind, dpi in (("JPEG", None), ("TIFF", None), ("PNG", 300)):
    assert seen[kind, dpi][0] == 1 and seen[kind, dpi][1] > 170 and 1.9 < seen[kind, dpi][2] < 2.1 and seen[kind, dpi][4] == 64
for kind, dpi in (("JPEG", 72), ("JPEG", 300), ("TIFF", 300)):
    assert abs(seen[kind, dpi][0] - 25.4 / dpi) < 1e-6 and abs(seen[kind, dpi][2] * 25.4 / dpi - 2) < 0.1 and seen[kind, dpi][4] < 10
PY

#!/usr/bin/env bash
# Pillow 13.0.0: a defect pasted by a mask into a 16-bit image lands at half its distance from the left edge, half as wide.
#
# Behaviour: paste and composite with a grey mask ("L") count the bytes of an "I;16" image as if they were its pixels. The mask still says
# where the defect should be, so a made-up defect and its label are apart. A soft mask mixes single bytes in "I" and "F" as well: half
# way from 20000 to 50000 is 15378 or 61256 in "F". rotate and transform with BILINEAR or BICUBIC do the same to "I;16": a part of 25674 to
# 34125 comes back as 1 to 247. Most other operations on 16 bits raise an error; resize, NEAREST and a mask of mode "1" are right.
# What to do: paste in numpy (np.where, or a weighted sum), or with mask.convert("1"); turn image.convert("I") and convert that back
# to "I;16". The way back from "F" to "I;16" ends at 255.
# Output seen:
#   mask of the defect: columns 120 to 159, 800 pixels
#   pasted by mask in L: columns 120 to 159, 800 pixels; in I;16: columns 60 to 79, 400 pixels; in I;16 with a mask of mode 1: columns 120 to 159, 800 pixels
#   a patch pasted at column 120 with its own mask: columns 60 to 79, 400 pixels; without a mask: columns 120 to 159, 800 pixels
#   20000 and 50000 mixed by a mask of 127 and 128: I;16 34872 and 35128, I 34872 and 35128, F 15378 and 61256; it is 34941 and 35059
#   turned by 5 degrees: NEAREST I;16 25600 to 34200, F 25600 to 34200; BILINEAR I;16 1 to 247, F 25675 to 34125; BICUBIC I;16 0 to 247, F 25687 to 34113

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
venv/bin/python - <<'PY'
import numpy as np
from PIL import Image, ImageDraw


def place(changed):
    columns = np.nonzero(changed.any(0))[0]
    return int(columns.min()), int(columns.max()), int(changed.sum())


def say(found):
    return "columns {} to {}, {} pixels".format(*found)


mask = Image.new("L", (200, 100), 0)
ImageDraw.Draw(mask).rectangle((120, 40, 159, 59), fill=255)
label = place(np.array(mask) > 0)
print("mask of the defect:", say(label))

good, defect = Image.new("I;16", (200, 100), 20000), Image.new("I;16", (200, 100), 50000)


def pasted(good, *arguments):
    image = good.copy()
    image.paste(*arguments)
    return place(np.array(image) != np.array(good))


grey = pasted(Image.new("L", (200, 100), 80), Image.new("L", (200, 100), 200), (0, 0), mask)
deep = pasted(good, defect, (0, 0), mask)
hard = pasted(good, defect, (0, 0), mask.convert("1"))
print(f"pasted by mask in L: {say(grey)}; in I;16: {say(deep)}; in I;16 with a mask of mode 1: {say(hard)}")
assert grey == hard == label == (120, 159, 800) and deep == (60, 79, 400)
assert place(np.array(Image.composite(defect, good, mask)) != 20000) == deep

patch, whole = Image.new("I;16", (40, 20), 50000), Image.new("L", (40, 20), 255)
with_mask, without = pasted(good, patch, (120, 40), whole), pasted(good, patch, (120, 40))
print(f"a patch pasted at column 120 with its own mask: {say(with_mask)}; without a mask: {say(without)}")
assert with_mask == deep and without == label

half = {}
for mode in ("I;16", "I", "F"):
    for grey in (127, 128):
        image = good.convert(mode)
        image.paste(defect.convert(mode), (0, 0), Image.new("L", (200, 100), grey))
        half[mode, grey] = round(float(np.array(image)[0, 0]))
exact = [round(20000 + 30000 * grey / 255) for grey in (127, 128)]
print("20000 and 50000 mixed by a mask of 127 and 128: "
      + ", ".join(f"{mode} {half[mode, 127]} and {half[mode, 128]}" for mode in ("I;16", "I", "F")) + f"; it is {exact[0]} and {exact[1]}")
assert half["F", 127] < 20000 and half["F", 128] > 50000
for mode in ("I;16", "I"):
    assert all(20 < abs(half[mode, grey] - right) < 200 for grey, right in zip((127, 128), exact))

ramp = (20000 + 200 * np.arange(100) + np.zeros((100, 1))).astype(np.uint16)
seen = {}
for name in ("NEAREST", "BILINEAR", "BICUBIC"):
    for mode in ("I;16", "F"):
        turned = np.array(Image.fromarray(ramp).convert(mode).rotate(5, getattr(Image.Resampling, name)))[30:70, 30:70]
        seen[name, mode] = round(float(turned.min())), round(float(turned.max()))
print("turned by 5 degrees: " + "; ".join(
    f"{name} " + ", ".join("{} {} to {}".format(mode, *seen[name, mode]) for mode in ("I;16", "F")) for name in ("NEAREST", "BILINEAR", "BICUBIC")))
assert np.array(Image.fromarray(ramp).convert("F").convert("I;16")).max() == 255
assert np.array_equal(np.array(Image.fromarray(ramp).convert("I").convert("I;16")), ramp)
assert seen["NEAREST", "I;16"] == seen["NEAREST", "F"]
for name in ("BILINEAR", "BICUBIC"):
    assert seen[name, "I;16"][1] < 256 and seen[name, "F"][0] > 25000
PY

"""What the grey levels of a mask mean: class numbers or a soft edge; by data set where it is known, else by levels."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from diffad_utils import data
from diffad_utils.data.layouts import LAYOUTS
from diffad_utils.data.masks import binarise, fault_of, kind_of, read_levels, read_mask


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path, **options)
    return path


def disc(side=64, radius=12, softness=0.0) -> np.ndarray:
    """A disc in [0, 1], its edge blurred by `softness` pixels."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    hard = (np.hypot(x, y) < radius).astype(float)
    return ndimage.gaussian_filter(hard, softness) if softness else hard


def regions(mask) -> int:
    return ndimage.label(np.asarray(mask), np.ones((3, 3)))[1]


def test_known_data_sets_state_what_their_masks_mean():
    assert LAYOUTS["mtd"].mask_kind == "soft" and LAYOUTS["visa"].mask_kind == "classes"
    assert {layout.mask_kind for name, layout in LAYOUTS.items() if name not in ("mtd", "visa")} == {None}


def test_specks_of_a_lossy_format_are_no_regions(tmp_path):
    values = (255 * disc(softness=1.5)).astype(np.uint8)
    values[2:4, 2], values[60, 5], values[5, 50] = 1, 3, 17
    levels = read_levels(save(tmp_path / "m.png", values))
    assert regions(binarise(levels, "classes")) == 4
    mask = binarise(levels, "soft")
    assert regions(mask) == 1 and np.array_equal(mask, values >= 128)
    assert np.array_equal(read_mask(tmp_path / "m.png"), mask)  # many levels, most of them thin: soft


def test_half_of_a_lower_maximum(tmp_path):
    values = (176 * disc(softness=2)).astype(np.uint8)
    mask = np.asarray(read_mask(save(tmp_path / "m.png", values), "soft"))
    assert np.array_equal(mask, 2 * values.astype(int) >= values.max()) and mask.sum() > (values >= 128).sum() > 0


@pytest.mark.parametrize(
    "levels", [(1, 2), (1, 2, 3, 4, 5, 6, 7, 8, 9), (3, 7), (85, 170, 255), (100, 200), (1, 2, 255)]
)
def test_class_numbers_count_whatever_they_are(tmp_path, levels):
    values = np.zeros((40, 8 * len(levels)), np.uint8)
    for i, level in enumerate(levels):
        values[5:12, 8 * i + 1 : 8 * i + 6] = level
    assert np.array_equal(read_mask(save(tmp_path / "m.png", values)), values != 0)


def test_a_line_around_the_classes_is_no_soft_edge(tmp_path):
    values = np.zeros((40, 40), np.uint8)
    values[5:15, 5:15], values[20:30, 20:30] = 255, 255
    values[6:14, 6:14], values[21:29, 21:29] = 1, 2
    assert np.array_equal(read_mask(save(tmp_path / "m.png", values)), values != 0)


def test_a_palette_of_classes_and_sixteen_bits(tmp_path):
    values = np.zeros((20, 20), np.uint16)
    values[2:8, 2:8], values[10:16, 10:16] = 65535, 30000
    assert np.array_equal(read_mask(save(tmp_path / "deep.png", values)), values != 0)
    soft = (65535 * disc(softness=2)).astype(np.uint16)
    assert np.array_equal(read_mask(save(tmp_path / "soft.png", soft)), soft >= 32768)


def test_the_whole_data_set_decides_not_one_mask():
    soft = [disc(softness=s) for s in (1, 2, 3)]
    stored = [_levels(255 * values) for values in soft]
    few = np.zeros((64, 64))
    few[3:8, 3:8], few[20:40, 20:40] = 2, 255  # alone, these could be two classes
    assert kind_of([_levels(few)]) == "classes" and kind_of([*stored, _levels(few)]) == "soft"
    assert kind_of([_levels(255 * disc()), _levels(255 * disc(radius=5))]) is None


def _levels(values):
    from diffad_utils.data.masks import Levels

    return Levels(np.asarray(values).astype(np.uint8), 255.0, False, False)


def test_a_lossy_mask_without_a_defect_is_empty(tmp_path):
    noise = np.random.default_rng(0).integers(0, 6, (64, 64)).astype(np.uint8)
    assert not read_mask(save(tmp_path / "black.jpg", noise, quality=60)).any()
    image = save(tmp_path / "i.png", np.zeros((64, 64), np.uint8))
    _, fault = data.masks.checked_mask(str(tmp_path / "black.jpg"), str(image), (64, 64))
    assert "empty" in fault and "almost black" in fault


def test_masks_drawn_the_other_way_round_and_masks_in_the_transparency(tmp_path):
    inverted = save(tmp_path / "inverted.png", (255 * (1 - disc())).astype(np.uint8))
    levels = read_levels(inverted)
    assert "other way round" in fault_of(levels, binarise(levels))
    for colour in (0, 255):
        rgba = np.full((64, 64, 4), colour, np.uint8)
        rgba[..., 3] = 255 * disc()
        levels = read_levels(save(tmp_path / "alpha.png", rgba))
        assert "transparency" in fault_of(levels, binarise(levels))
    opaque = np.dstack([*[255 * disc()] * 3, np.full((64, 64), 255)]).astype(np.uint8)
    levels = read_levels(save(tmp_path / "opaque.png", opaque))
    assert fault_of(levels, binarise(levels)) is None

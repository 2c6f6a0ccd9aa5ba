"""Properties of what is read from data that nobody has met: kinds of masks, names, ranges, rows with masks."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from diffad_utils import metrics
from diffad_utils.data.images import grey_scale
from diffad_utils.data.index import resolve_category
from diffad_utils.data.layouts.common import is_normal, split_masks
from diffad_utils.data.masks import Levels, binarise, kind_of

shapes = st.tuples(st.integers(16, 48), st.integers(16, 48))


def stored(values: np.ndarray) -> Levels:
    return Levels(values, 255.0, False, False)


@st.composite
def hard_masks(draw):
    """Bool masks of one to three rectangles of 6 pixels a side or more."""
    height, width = draw(shapes)
    mask = np.zeros((height, width), bool)
    for _ in range(draw(st.integers(1, 3))):
        top, left = draw(st.integers(0, height - 8)), draw(st.integers(0, width - 8))
        mask[top : top + draw(st.integers(6, 8)), left : left + draw(st.integers(6, 8))] = True
    return mask


@given(hard_masks(), st.integers(1, 255))
def test_two_levels_are_read_alike_whatever_they_mean(mask, level):
    values = (mask * level).astype(np.uint8)
    assert kind_of([stored(values)]) is None
    assert np.array_equal(binarise(stored(values)), mask)
    assert level < 16 or np.array_equal(binarise(stored(values), "soft"), mask)


@given(st.lists(st.integers(1, 255), min_size=2, max_size=9, unique=True), st.integers(4, 9))
def test_areas_of_few_levels_are_classes_and_all_count(levels, side):
    values = np.zeros((side + 4, (side + 2) * len(levels)), np.uint8)
    for i, level in enumerate(levels):
        values[2 : 2 + side, i * (side + 2) + 1 : i * (side + 2) + 1 + side] = level
    assert kind_of([stored(values)]) == "classes"
    assert np.array_equal(binarise(stored(values)), values != 0)


@settings(max_examples=60)
@given(st.lists(hard_masks(), min_size=3, max_size=5), st.floats(0.8, 2.5), st.integers(60, 255))
def test_blurred_masks_are_soft_and_cut_at_half_of_their_maximum(masks, softness, level):
    drawn = [(level * ndimage.gaussian_filter(mask.astype(float), softness)).astype(np.uint8) for mask in masks]
    assert kind_of([stored(values) for values in drawn]) == "soft"
    for values in drawn:
        got = binarise(stored(values), "soft")
        assert np.array_equal(got, 2.0 * values >= min(255, values.max()))
        assert got.any() and not got[values == 0].any()


@settings(max_examples=60)
@given(hard_masks(), arrays.arrays(np.uint8, (4, 4), elements=st.integers(0, 15)))
def test_traces_of_a_lossy_format_make_no_region(mask, specks):
    values = (mask * 255).astype(np.uint8)
    corner = values[:4, :4]
    corner[corner == 0] = specks[corner == 0]
    assert np.array_equal(binarise(stored(values), "soft"), mask)
    assert not binarise(stored(np.where(mask, 0, values).astype(np.uint8)), "soft").any()


@given(st.integers(0, 65535))
def test_the_full_scale_holds_the_largest_value_and_is_of_a_camera(largest):
    scale = grey_scale(largest)
    assert scale >= largest and scale in (255, 1023, 4095, 16383, 65535)
    assert scale == 255 or largest > scale // 4 or scale == 65535


@given(st.sampled_from(["good", "ok", "normal", "defect free", "no-defect", "anomaly_free"]), st.data())
def test_case_and_separators_do_not_matter_for_normal_names(name, data):
    spelt = "".join(data.draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in name)
    separator = data.draw(st.sampled_from(["", "_", "-", " ", "."]))
    assert is_normal(spelt.replace(" ", separator)) and not is_normal(f"not {spelt} at all")


stems = st.lists(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), min_size=1, max_size=6, unique=True)


@given(stems, st.sampled_from(["_mask", "_gt", "-mask", " label", "_ground_truth", "_seg"]))
def test_masks_beside_images_are_told_apart_and_nothing_is_lost(names, ending):
    stems = [name for name in names if not name.endswith(("mask", "gt", "label", "seg"))]
    files = [Path(f"{stem}.png") for stem in stems] + [Path(f"{stem}{ending}.png") for stem in stems]
    images, masks = split_masks(files)
    assert sorted(images) == sorted(Path(f"{stem}.png") for stem in stems)
    assert masks == {stem: Path(f"{stem}{ending}.png") for stem in stems}


@given(st.integers(0, 99), st.integers(2, 4))
def test_a_number_names_the_padded_category(number, width):
    names = [f"{n:0{width}d}" for n in range(100)]
    assert resolve_category(number, names) == resolve_category(f"{number:0{width}d}", names) == names[number]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_rows_with_masks_are_the_normal_ones_and_those_that_have_one(images):
    labels = np.array([label for label, _ in images], int)
    masks = np.zeros((len(images), 3, 3), bool)
    masks[[label and marked for label, marked in images], 1, 1] = True
    rows = metrics.with_masks(labels, masks)
    marked = masks.any(axis=(1, 2))
    assert rows.any() == marked.any()
    assert not marked.any() or np.array_equal(rows, (labels == 0) | marked)

"""Captions, and the captioned pictures that the small models are trained on."""

import numpy as np
import pytest
import torch

from diffad_utils.data import captions, textures
from diffad_utils.data.textures import surfaces
from diffad_utils.data.textures.canvas import canvas
from diffad_utils.foundation import captioned
from diffad_utils.foundation.captioned import FAMILIES, SAID, STATES


def test_captions():
    assert captions.caption("carpet", "good") == "a flawless woven carpet"
    assert captions.caption("carpet", "hole") == "a woven carpet with a hole"
    assert captions.caption("carpet") == "a woven carpet"
    assert captions.caption("carpet", "damaged") == "a damaged woven carpet"
    assert captions.caption("metal_nut", "flip") == "a metal nut with a flip"
    assert captions.caption("electrode", "oil_leak") == "an electrode with an oil leak"


def test_every_category_and_defect_has_a_name_of_its_own():
    assert set(captions.NOUNS) == set(textures.CATEGORIES) and set(captions.DEFECTS) == set(textures.DEFECTS)
    texts = [captions.caption(family, said) for family in FAMILIES for said in SAID]
    assert len(set(texts)) == len(texts)


@pytest.fixture(scope="module")
def pairs():
    return captioned.draw_pairs(72, seed=3)


def test_pairs_are_a_function_of_seed_and_index(pairs):
    again = captioned.draw_pairs(9, seed=3)
    assert np.array_equal(pairs.images[:9], again.images)
    other = captioned.draw_pairs(9, seed=4)
    assert all(not np.array_equal(a, b) for a, b in zip(again.images[:, 0], other.images[:, 0]))
    assert np.bincount(pairs.family).tolist() == [8] * 9


def test_pairs_differ_in_a_defect_of_the_family(pairs):
    for (twin, image), family, state in zip(pairs.images, pairs.family, pairs.state):
        change = np.abs(twin.astype(int) - image).max(2) / 255 > textures.THRESHOLD
        assert STATES[state] in textures.CATEGORIES[FAMILIES[family]]
        assert 0.0005 < change.mean() < 0.4


def test_materials_are_other_ones_than_the_evaluation_categories(pairs):
    """Other colours, sizes and counts for every picture; and no two pictures of one material."""
    for family in FAMILIES:
        drawn = [captioned.material(family, np.random.default_rng(seed)) for seed in range(20)]
        assert len({str(sorted(material.items())) for material in drawn}) == 20
        board = canvas(32, 32)
        usual = getattr(surfaces, family)(board, np.random.default_rng(0), "train").color
        for material in drawn[:3]:
            other = getattr(surfaces, family)(board, np.random.default_rng(0), "train", **material).color
            assert np.abs(other - usual).mean() > 0.01


@pytest.mark.slow
def test_no_evaluation_image_is_among_the_training_pictures(pairs):
    """The nearest training picture is far from every evaluation image: sensor noise alone is 0.004 to 0.018 RMS."""
    training = pairs.images.reshape(-1, 128 * 128 * 3).astype(np.float32) / 255
    for family in FAMILIES:
        keys = textures.index(family, train=3, test_good=3, test_anomalous=3).image
        for key in keys:
            image = textures.load_key(key, 128).reshape(1, -1)
            assert np.sqrt(np.square(training - image).mean(1)).min() > 0.04


def test_photographs_are_cropped_from_the_training_columns(monkeypatch):
    """A bright strip over the test columns of the photographs never shows."""
    photograph = np.zeros((512, 512), np.float32)
    photograph[:, surfaces.PHOTO_REGIONS["train"][1] + 1 :] = 1
    monkeypatch.setattr(surfaces, "_photograph", lambda name: photograph)
    for index in [FAMILIES.index(family) + 9 * k for family in ("brick", "gravel") for k in range(6)]:
        rng = textures.stream("captioned", 0, index)
        family = FAMILIES[index % 9]
        surface = getattr(surfaces, family)(canvas(64, 64), rng, "train", **captioned.material(family, rng))
        assert surface.color.max() < 1e-6


def test_matches():
    family, state = torch.tensor([0, 0, 1]), torch.tensor([0, STATES.index("hole"), STATES.index("hole")])
    said = torch.tensor([SAID.index(s) for s in ("good", "hole", "damaged", "")])
    right = captioned.matches(family, state, torch.zeros(4, dtype=torch.long), said)
    assert right.tolist() == [[True, False, False, True], [False, True, True, True], [False] * 4]


def test_what_is_said_is_true():
    states = np.tile(np.arange(len(STATES)), 200)
    said = captioned.draw_said(states, np.random.default_rng(0))
    zero = torch.zeros(len(states), dtype=torch.long)
    true = captioned.matches(zero[:1], torch.tensor([0]), zero, torch.from_numpy(said))
    for state, what in zip(states, said):
        assert SAID[what] in (STATES[state], "", "damaged") and not (state == 0 and SAID[what] == "damaged")
    assert true.any()
    assert {SAID[what] for what in said} == set(SAID)


def test_size_is_checked():
    with pytest.raises(ValueError, match="64, 128 or 256"):
        captioned.draw_pair(0, size=100)


def test_kept_pairs_are_opened_again(tmp_path):
    first = captioned.draw_pairs(9, seed=5, size=64, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    again = captioned.draw_pairs(9, seed=5, size=64, folder=tmp_path)
    assert np.array_equal(first.images, again.images) and np.array_equal(first.state, again.state)

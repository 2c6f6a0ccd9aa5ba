"""Each convention does what public code does, and differs from this study's rules in that alone."""

import types

import numpy as np
import pytest

from diffad_utils import metrics
from diffad_utils.analyses import conventions
from diffad_utils.kernels import threshold_counts


@pytest.fixture(scope="module")
def scene():
    """Twelve maps with a bright defect in half of them; one defect is a diagonal line."""
    generator = np.random.default_rng(0)
    maps = generator.random((12, 32, 32)).astype(np.float32)
    masks = np.zeros((12, 32, 32), dtype=bool)
    for i in range(6, 12):
        masks[i, 4 + i : 9 + i, 5:11] = True
    masks[11] = np.eye(32, dtype=bool)
    maps[masks] += generator.random(masks.sum()).astype(np.float32) * 0.8
    return maps, masks, np.arange(12) >= 6


def test_scaling_by_the_batch_makes_an_image_depend_on_its_company(scene):
    maps = scene[0]
    whole = conventions.batch_scaled(maps, 12)
    assert np.allclose(whole * maps.max(), maps)
    small = conventions.batch_scaled(maps, 4)
    assert [small[i : i + 4].max() for i in (0, 4, 8)] == [1, 1, 1]
    other = conventions.batch_scaled(maps, 4, np.random.default_rng(1).permutation(12))
    assert not np.allclose(small[0], other[0])


def test_choosing_on_the_test_set_is_optimistic_where_nothing_can_be_found():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 2
    name, reported, honest = conventions.chosen_on_test({str(i): generator.random(60) for i in range(30)}, labels)
    assert name in map(str, range(30)) and reported > 0.6 and abs(honest - 0.5) < 0.1
    good = {"right": labels + generator.random(60), "wrong": generator.random(60)}
    name, reported, honest = conventions.chosen_on_test(good, labels)
    assert name == "right" and abs(reported - honest) < 0.02


def test_own_neighbours_of_a_few_images():
    few = np.random.default_rng(0).normal(size=(5, 8))
    assert conventions.own_neighbours(few, few + 10) == conventions.own_neighbours(few, few + 10, k=4) == (1.0, 1.0)
    with pytest.raises(ValueError, match="two training images or more, got 1"):
        conventions.own_neighbours(few[:1], few)


def test_own_neighbours_raise_false_alarms():
    generator = np.random.default_rng(0)
    without, with_itself = conventions.own_neighbours(generator.normal(size=(200, 8)), generator.normal(size=(200, 8)))
    assert abs(without - 0.05) < 0.06 and with_itself > 2 * without


def test_the_exact_variants_agree_with_the_exact_metric_where_the_convention_makes_no_difference(scene):
    maps, masks, _ = scene
    exact = metrics.aupro(maps, masks)
    assert conventions.aupro_ties_in_order(maps, masks) == pytest.approx(exact, abs=1e-3)  # no ties in random floats
    square = masks.copy()
    square[11] = False
    assert conventions.aupro_four_neighbours(maps, square) == pytest.approx(metrics.aupro(maps, square), abs=1e-12)
    assert conventions.aupro_on_grid(maps, masks, thresholds=20000) == pytest.approx(exact, abs=0.01)


def test_four_neighbours_are_those_of_scipy(scene, monkeypatch):
    maps, masks, _ = scene
    four = conventions.aupro_four_neighbours(maps, masks)
    assert abs(four - metrics.aupro(maps, masks)) > 1e-4
    monkeypatch.setattr(threshold_counts, "EIGHT_NEIGHBOURS", np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], dtype=bool))
    assert four == pytest.approx(metrics.aupro(maps, masks), abs=1e-12)


def test_miscounted_ties_never_hurt(scene):
    maps, masks, _ = scene
    coarse = conventions.as_pictures(maps, 4)
    assert len(np.unique(coarse)) == 4
    assert conventions.aupro_ties_in_order(coarse, masks) > metrics.aupro(coarse, masks)


def test_masks_resized_without_binarising_grow_or_shrink(scene):
    soft = conventions.resized_masks(scene[1], 12)
    assert 0 < soft.max() <= 1 and ((soft > 0) & (soft < 1)).any()
    assert (soft > 0).sum() > (soft >= 0.5).sum() > (soft >= 1).sum()


def test_settings_chosen_on_the_test_set():
    cases = [(spacing, i) for spacing in ("paper", "reference") for i in range(3)]
    experiments = {
        "steps": [
            {"spacing": spacing, "steps": i, "I-AUROC": 0.5 + 0.1 * i + (spacing == "paper")} for spacing, i in cases
        ],
        "sweep": {"settings": [{"strength": s, "I-AUROC": s} for s in (0.1, 0.2, 0.6)]},
        "ranks": [{"rank": 4, "I-AUROC": 0.7}],
        "strengths": {"not": "rows"},
        "alphas": [],
    }
    found = conventions.chosen_settings(types.SimpleNamespace(experiments=experiments))
    names = ["number of steps", "number of steps", "strength, guidance and steps"]
    assert found["convention"].tolist() == [f"{name} chosen on the test set" for name in names]
    assert found["change"].tolist() == pytest.approx([0.1, 0.1, 0.4]) and found["ours"].tolist() == pytest.approx(
        [1.6, 0.6, 0.2]
    )


def test_centre_crop():
    values = np.arange(2 * 256 * 256).reshape(2, 256, 256)
    cropped = conventions.centre_crop(values)
    assert (
        cropped.shape == (2, 224, 224)
        and cropped[0, 0, 0] == values[0, 16, 16]
        and cropped[1, -1, -1] == values[1, 239, 239]
    )

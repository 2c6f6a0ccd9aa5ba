"""AUPRO from one sort against its definition, a threshold at a time."""

import numpy as np
import pytest

from diffad_utils.metrics import aupro
from diffad_utils.metrics.pixel import aupro_reference


def scene(seed: int, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Maps [4, 12, 12] with ``levels`` distinct values (None: all distinct), masks with several regions an image."""
    generator = np.random.default_rng(seed)
    masks = generator.random((4, 12, 12)) < generator.uniform(0.05, 0.3)
    masks[0] = False  # a normal image
    masks[1, 3, 3] = True
    maps = generator.random((4, 12, 12)) + generator.uniform(0, 1) * masks
    return (maps if levels is None else np.floor(maps * levels) / levels), masks


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 2, 7])
@pytest.mark.parametrize("seed", range(5))
def test_aupro_is_its_definition(seed, levels, limit):
    maps, masks = scene(seed, levels)
    assert aupro(maps, masks, limit) == pytest.approx(aupro_reference(maps, masks, limit), abs=1e-12)


def test_constant_maps_give_the_area_of_the_diagonal():
    maps, masks = np.ones((4, 12, 12)), scene(0, None)[1]
    assert aupro_reference(maps, masks) == pytest.approx(0.15) and aupro(maps, masks) == pytest.approx(0.15)
    with pytest.raises(ValueError, match="fpr_limit"):
        aupro_reference(maps, masks, 0.0)

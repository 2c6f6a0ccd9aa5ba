"""Score parts against the public InvAD evaluation, calibration, and the hold-out split."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from diffad_utils import scoring
from diffad_utils.diffusion import NoiseSchedule, ddim_invert
from diffad_utils.methods.d3ad.maps import min_max_over_batch
from diffad_utils.methods.invad.score import channel_norm, gaussian_nll, min_max_over_test_set, value_range

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ddim_inversion.npz")


def eps_fn(x, t):
    w = torch.from_numpy(GOLDEN["w_c"])[None, :, None, None]
    return torch.tanh(0.5 * x * w + 0.1 * torch.sin(t.double() / 100)[:, None, None, None])


def toy_parts(steps):
    x0 = torch.from_numpy(np.concatenate([GOLDEN["toy_normal_x0"], GOLDEN["toy_anomalous_x0"]])).double()
    z = ddim_invert(eps_fn, x0, NoiseSchedule.linear(), steps)
    return z, {"nll": gaussian_nll(z), "spread": value_range(channel_norm(z))}


@pytest.mark.parametrize("steps", [2, 3, 10])
def test_parts_match_public_code(steps):
    z = torch.from_numpy(GOLDEN[f"S{steps}_final_f64"])
    norms = channel_norm(z)
    assert np.abs(norms.numpy() - GOLDEN[f"S{steps}_l2map_f64"]).max() < 1e-9
    assert np.abs(value_range(norms).numpy() - GOLDEN[f"S{steps}_ats_f64"]).max() < 1e-9
    assert np.abs(gaussian_nll(z).numpy() - GOLDEN[f"S{steps}_nll_f64"]).max() < 1e-9


def test_toy_split_maps_and_test_set_scaling_match_public_code():
    z, parts = toy_parts(3)
    assert np.abs(parts["nll"].numpy() - GOLDEN["toy_S3_nll_raw_f64"]).max() < 1e-9
    assert np.abs(parts["spread"].numpy() - GOLDEN["toy_S3_ats_raw_f64"]).max() < 1e-9
    assert np.abs(min_max_over_test_set(parts).numpy() - GOLDEN["toy_S3_score_f64"]).max() < 1e-8
    size = int(GOLDEN["toy_image_size"])
    maps = scoring.upsample_map(channel_norm(z), (size, size))
    assert np.abs(maps.numpy() - GOLDEN["toy_S3_anomaly_map"]).max() < 1e-4


def test_public_scaling_leaks_and_ours_does_not():
    _, parts = toy_parts(3)
    removed = int(GOLDEN["toy_S3_loo_removed_index"])
    keep = [i for i in range(len(parts["nll"])) if i != removed]
    rest = {name: values[keep] for name, values in parts.items()}
    leaked = min_max_over_test_set(rest)
    assert np.abs(leaked.numpy() - GOLDEN["toy_S3_loo_score_f64"]).max() < 1e-8
    assert (leaked - min_max_over_test_set(parts)[keep]).abs().max() > 0.1
    calibration = scoring.Calibration.fit({name: values[:6] for name, values in parts.items()})
    assert torch.equal(calibration.combine(rest), calibration.combine(parts)[keep])


def test_nll_of_a_standard_normal_is_its_entropy():
    z = torch.randn(64, 100, 10, 10, generator=torch.Generator().manual_seed(0))
    entropy = 0.5 * (1 + math.log(2 * math.pi)) * 10_000
    assert abs(gaussian_nll(z).mean().item() / entropy - 1) < 1e-3


def test_calibration_standardises_the_normals_it_saw():
    parts = {"a": torch.randn(50) * 3 + 7, "b": torch.full((50,), 2.0)}
    calibration = scoring.Calibration.fit(parts)
    a = calibration.calibrate(parts)["a"]
    assert abs(a.mean().item()) < 1e-6 and abs(a.std().item() - 1) < 1e-6
    assert torch.equal(calibration.calibrate(parts)["b"], torch.zeros(50, dtype=torch.float64))
    assert torch.allclose(calibration.combine(parts).double(), a, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, 12345.678, 0.0])
def test_a_part_that_is_constant_up_to_rounding_is_not_blown_up(value):
    for count in range(2, 60):
        assert scoring.Calibration.fit({"a": torch.full((count,), value, dtype=torch.float64)}).scale == {"a": 1.0}
    small = scoring.Calibration.fit({"a": torch.tensor([1e6, 1e6 + 0.5], dtype=torch.float64)})  # a spread that is one
    assert small.scale["a"] == pytest.approx(0.5 / math.sqrt(2))


def test_min_max_of_equal_values():
    assert torch.equal(min_max_over_batch(torch.full((2, 3, 3), 0.7)), torch.zeros(2, 3, 3))


@pytest.mark.parametrize("values", [[1.0], [1.0, float("nan")]])
def test_calibration_rejects(values):
    with pytest.raises(ValueError, match="held-out"):
        scoring.Calibration.fit({"a": torch.tensor(values)})


def test_holdout_split_is_seeded_and_disjoint():
    fit, held_out = scoring.holdout_split(200, 0.15, seed=3)
    assert len(held_out) == 30 and sorted([*fit.tolist(), *held_out.tolist()]) == list(range(200))
    assert torch.equal(held_out, scoring.holdout_split(200, 0.15, seed=3)[1])
    assert not torch.equal(held_out, scoring.holdout_split(200, 0.15, seed=4)[1])
    with pytest.raises(ValueError, match="at least 4"):
        scoring.holdout_split(3, 0.5, 0)

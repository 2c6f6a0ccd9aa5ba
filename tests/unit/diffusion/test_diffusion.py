"""Schedules and DDIM steps against stored outputs of the public InvAD, DDAD and D3AD code and against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffad_utils import diffusion
from diffad_utils.diffusion import NoiseSchedule, add_noise, ddim_invert, ddim_sample, image_noise, inversion_timesteps

GOLDEN = Path(__file__).parents[2] / "golden"
SCHEDULE = NoiseSchedule.linear()


def golden(name):
    return np.load(GOLDEN / f"{name}.npz")


def analytic_eps(weights, dtype):
    """The network of the stored vectors: eps(x, t) = tanh(0.5 x w_c + 0.1 sin(t / 100))."""
    w = torch.as_tensor(weights, dtype=dtype)[None, :, None, None]
    return lambda x, t: torch.tanh(0.5 * x * w + 0.1 * torch.sin(t.to(dtype) / 100)[:, None, None, None])


def test_linear_schedule_is_ddpm():
    alphas = SCHEDULE.alphas_cumprod
    assert alphas.dtype == torch.float64 and len(alphas) == 1000
    assert np.allclose(alphas, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-12)


@pytest.mark.parametrize("betas", [[], [[0.1]], [0.0, 0.1], [0.5, 1.0]])
def test_schedule_rejects_bad_betas(betas):
    with pytest.raises(ValueError, match="betas"):
        NoiseSchedule(torch.tensor(betas))


@pytest.mark.parametrize("steps", [2, 3, 5, 10, 50])
def test_reference_inversion_matches_public_code(steps):
    z = golden("ddim_inversion")
    visits = inversion_timesteps(SCHEDULE, steps, "reference")
    assert visits.timesteps == z[f"S{steps}_t_visited"].tolist()
    assert np.allclose(visits.alpha_from, z[f"S{steps}_alpha_bar_from"], atol=1e-14)
    assert np.allclose(visits.alpha_to, z[f"S{steps}_alpha_bar_to"], atol=1e-14)
    x0 = torch.from_numpy(z["x0"])
    final, states = ddim_invert(analytic_eps(z["w_c"], torch.float64), x0.double(), SCHEDULE, steps, "reference", True)
    assert np.abs(states.numpy() - z[f"S{steps}_states_f64"]).max() < 1e-9
    assert np.abs(final.numpy() - z[f"S{steps}_final_f64"]).max() < 1e-9
    final32 = ddim_invert(analytic_eps(z["w_c"], torch.float32), x0, SCHEDULE, steps)
    assert final32.dtype == torch.float32
    assert np.abs(final32.numpy() - z[f"S{steps}_final_f32"]).max() < 3e-5


def test_paper_inversion_matches_stored_chain():
    z = golden("ddim_inversion")
    visits = inversion_timesteps(SCHEDULE, 3, "paper")
    assert visits.timesteps == z["papertau3_t_visited"].tolist() == [0, 333, 666]
    assert np.allclose(visits.alpha_to, z["papertau3_alpha_bar_to"], atol=1e-14)
    _, states = ddim_invert(
        analytic_eps(z["w_c"], torch.float64), torch.from_numpy(z["x0"]).double(), SCHEDULE, 3, "paper", True
    )
    assert np.abs(states.numpy() - z["papertau3_states_f64"]).max() < 1e-9


def test_reference_final_latent_is_the_noise_predicted_at_999():
    z = golden("ddim_inversion")
    eps = analytic_eps(z["w_c"], torch.float64)
    final, states = ddim_invert(eps, torch.from_numpy(z["x0"]).double(), SCHEDULE, 3, "reference", True)
    assert torch.allclose(final, eps(states[-2], torch.full((4,), 999)), atol=1e-14)


@pytest.mark.parametrize(("steps", "spacing"), [(1, "reference"), (0, "paper"), (1001, "paper"), (3, "leading")])
def test_inversion_timesteps_rejects(steps, spacing):
    with pytest.raises(ValueError, match="num_steps|spacing"):
        inversion_timesteps(SCHEDULE, steps, spacing)


@pytest.mark.parametrize("spacing", ["reference", "paper"])
def test_inversion_of_a_gaussian_is_exact(spacing):
    """For x0 ~ N(m, s^2) the ideal eps is known, the probability flow maps x0 to (x0 - m) / s, and DDIM converges to
    it."""
    mean, std = 1.5, 0.4
    alphas = SCHEDULE.alphas_cumprod

    def ideal_eps(x, t):
        a = alphas[t].reshape(-1, 1)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * std**2 + 1 - a)

    x0 = mean + std * torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = (x0 - mean) / std
    errors = [
        (ddim_invert(ideal_eps, x0, SCHEDULE, steps, spacing) - exact).abs().max().item() for steps in (10, 100, 1000)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03  # the noise left at t = 999 (alpha_bar 4e-5) alone accounts for 0.01


@pytest.mark.parametrize("target", ["same", "other"])
@pytest.mark.parametrize("weight", [0, 2, 8])
def test_guided_sampling_matches_ddad(target, weight):
    z = golden("ddad_reconstruction")
    y = torch.from_numpy(z["x" if target == "same" else "y_other"])
    for dtype, suffix, tolerance in ((torch.float64, "f64", 1e-10), (torch.float32, "f32", 1e-5)):
        stored = z[f"{target}_w{weight}_states_{suffix}"]
        start = torch.from_numpy(stored[0]).to(dtype)
        noised = add_noise(
            torch.from_numpy(z["x"]).to(dtype), torch.full((2,), 250), torch.from_numpy(z["noise"]).to(dtype), SCHEDULE
        )
        assert np.abs(noised.numpy() - stored[0]).max() < tolerance
        _, states = ddim_sample(
            analytic_eps(z["w_c"], dtype), start, SCHEDULE, z["t_visited"].tolist(), y.to(dtype), float(weight), True
        )
        assert states.dtype == dtype
        assert np.abs(states.numpy() - stored).max() < tolerance


@pytest.mark.parametrize("eta", [0, 4, 8])
def test_guided_sampling_with_own_timesteps_for_each_image_matches_d3ad(eta):
    z = golden("d3ad_sampling")
    schedule = NoiseSchedule(torch.from_numpy(z[f"eta{eta}_betas"]))
    z0 = torch.from_numpy(z[f"eta{eta}_z0"])
    eps = analytic_eps(z[f"eta{eta}_channel_weights"], torch.float32)
    starts, sequences, outputs = [], [], []
    for i, level in enumerate((20, 40, 80)):
        start = z[f"eta{eta}_T{level}_start"]
        assert np.abs(z0.numpy() * schedule.alphas_cumprod[level].sqrt().item() - start).max() < 1e-5
        starts.append(torch.from_numpy(start[i]))
        sequences.append(torch.from_numpy(z[f"eta{eta}_T{level}_seq"]).flip(0))
        outputs.append(z[f"eta{eta}_T{level}_out"][i])
    mixed = ddim_sample(eps, torch.stack(starts), schedule, torch.stack(sequences, 1), z0, float(eta))
    assert np.abs(mixed.numpy() - np.stack(outputs)).max() < 1e-4


def test_sampling_undoes_a_fine_inversion():
    eps = analytic_eps(np.ones(3), torch.float64)
    x0 = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x_t = ddim_invert(eps, x0, SCHEDULE, 999, "paper")
    back = ddim_sample(eps, x_t, SCHEDULE, list(range(999, -1, -1)))
    assert (back - x0).abs().max() < 0.05


@pytest.mark.parametrize("timesteps", [[], [1, 2], [5, 5], [1000, 1], [3, -1], torch.zeros(3, 5, dtype=torch.int64)])
def test_sampling_rejects_bad_timesteps(timesteps):
    with pytest.raises(ValueError, match="timesteps"):
        ddim_sample(lambda x, t: x, torch.zeros(2, 3), SCHEDULE, timesteps)


@pytest.mark.parametrize("returned", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("state", [torch.float16, torch.float32, torch.float64])
def test_the_state_keeps_its_dtype_whatever_the_network_and_the_target_have(state, returned):
    schedule, x = NoiseSchedule.linear(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).to(state)

    def eps_fn(x, t):
        return x.tanh().to(returned)

    own = torch.tensor([[9, -1], [5, 5]])
    for timesteps in ([9, 0], own):
        for target in (None, x.to(returned)):
            result, states = ddim_sample(
                eps_fn, x, schedule, timesteps, target, 2.0 * (target is not None), return_trajectory=True
            )
            assert result.dtype == states.dtype == state and bool(torch.isfinite(result).all())
    alone = ddim_sample(eps_fn, x[1:], schedule, [5])
    assert torch.equal(ddim_sample(eps_fn, x, schedule, own)[1:], alone)
    latent, states = ddim_invert(eps_fn, x, schedule, 3, return_trajectory=True)
    assert latent.dtype == states.dtype == state


def test_sampling_rejects_what_does_not_fit():
    schedule, x, eps_fn = NoiseSchedule.linear(), torch.zeros(1, 4), lambda x, t: x
    with pytest.raises(ValueError, match=r"guidance_weight = 2.0 needs a guidance_target"):
        ddim_sample(eps_fn, x, schedule, [9], guidance_weight=2.0)
    with pytest.raises(ValueError, match=r"shape of x_t, \[1, 4\], got \[4, 4\]"):
        ddim_sample(eps_fn, x, schedule, [9], torch.zeros(4, 4), 2.0)
    with pytest.raises(ValueError, match="integer type, got torch.float32"):
        ddim_sample(eps_fn, x, schedule, [9.7, 5.2])
    with pytest.raises(ValueError, match="not empty"):
        ddim_sample(eps_fn, x[:0], schedule, [9])
    with pytest.raises(ValueError, match="whole number in 2 .. 1000.*got 3.0"):
        ddim_invert(eps_fn, x, schedule, 3.0)
    up = np.array([0, 5, 9])
    assert torch.equal(ddim_sample(eps_fn, x + 1, schedule, up[::-1]), ddim_sample(eps_fn, x + 1, schedule, [9, 5, 0]))


def test_image_noise_depends_on_key_and_seed_only():
    a = image_noise((3, 4), 7, ["a", "b", "c"])
    b = image_noise((3, 4), 7, ["c", "a"])
    assert torch.equal(a[2], b[0]) and torch.equal(a[0], b[1])
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a[0], image_noise((3, 4), 8, ["a"])[0])
    assert abs(image_noise((100, 100), 0, ["x"]).std().item() - 1) < 0.02


def slow_moves(eps_fn, x, timesteps, alpha_from, alpha_to):
    """One image at a time, one equation a line, coefficients from Python floats."""
    states = []
    for t, froms, tos in zip(timesteps, alpha_from, alpha_to, strict=True):
        rows = []
        for b in range(len(x)):
            before, after = float(froms[b]), float(tos[b])
            eps = eps_fn(x[b : b + 1], t[b : b + 1])
            x0 = (x[b : b + 1] - (1 - before) ** 0.5 * eps) / before**0.5
            rows.append(after**0.5 * x0 + (1 - after) ** 0.5 * eps)
        x = torch.cat(rows)
        states.append(x)
    return states


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_precomputed_moves_are_the_equation_image_by_image(dtype, tolerance):
    generator = torch.Generator().manual_seed(np.random.SeedSequence().entropy % 2**31)  # drawn afresh
    seed = generator.initial_seed()
    x = torch.randn(3, 2, 4, 4, generator=generator, dtype=dtype)
    timesteps = torch.randint(1000, (5, 3), generator=generator)
    alphas = 0.05 + 0.95 * torch.rand(6, 3, generator=generator, dtype=torch.float64)
    eps_fn = analytic_eps(torch.randn(2, generator=generator), dtype)
    found = list(diffusion.ddim_moves(eps_fn, x, timesteps, alphas[:-1], alphas[1:]))
    for a, b in zip(found, slow_moves(eps_fn, x, timesteps, alphas[:-1], alphas[1:]), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=f"seed {seed}")


def test_loops_leave_their_inputs_alone():
    x, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    before = x.clone(), target.clone()
    ddim_invert(lambda x, t: x, x, SCHEDULE, 3)
    ddim_sample(lambda x, t: x, x, SCHEDULE, [9, 5, 0], target, 2.0)
    assert torch.equal(x, before[0]) and torch.equal(target, before[1])


def test_a_network_in_bfloat16_keeps_the_state_in_float32():
    torch.manual_seed(0)
    network, seen = torch.nn.Conv2d(3, 3, 1), []

    def eps_fn(x, t):
        seen.append((x.dtype, network(x).dtype))
        return network(x)

    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        short = ddim_invert(diffusion.in_precision(eps_fn, "bf16"), x, SCHEDULE, 3)
        exact = ddim_invert(lambda x, t: network(x), x, SCHEDULE, 3)
    assert set(seen) == {(torch.float32, torch.bfloat16)} and short.dtype == torch.float32
    assert 0 < (short - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_graph_gives_what_the_network_gives_and_nothing_waits_for_the_host():
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 3, padding=1).cuda()
    x, t = torch.randn(2, 3, 8, 8, device="cuda"), torch.zeros(2, dtype=torch.int64, device="cuda")
    graph = diffusion.cuda_graph(lambda x, t: network(x), x, t)
    with torch.inference_mode():
        torch.testing.assert_close(
            ddim_invert(graph, x, SCHEDULE, 5),
            ddim_invert(lambda x, t: network(x), x, SCHEDULE, 5),
            rtol=1e-5,
            atol=1e-5,
        )
        moves = diffusion.ddim_moves(graph, x, torch.zeros(4, 2, dtype=torch.int64), *torch.full((2, 4), 0.5).double())
        next(moves)  # everything is on the device from here on
        torch.cuda.set_sync_debug_mode("error")
        try:
            list(moves)
        finally:
            torch.cuda.set_sync_debug_mode("default")

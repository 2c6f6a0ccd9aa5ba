"""Dynamic implicit conditioning, the plans of steps and the maps, against stored outputs of public code and closed
forms."""

from pathlib import Path

import numpy as np
import pytest
import torch

from diffad_utils import scoring
from diffad_utils.diffusion import NoiseSchedule, add_noise, ddim_sample, ddim_step
from diffad_utils.methods.d3ad.conditioning import (
    DynamicStep,
    code_timesteps,
    denoising_timesteps,
    pooled_features,
    scaled_start,
    subsequence_timesteps,
)
from diffad_utils.methods.d3ad.maps import (
    anomaly_map,
    ddad_anomaly_map,
    feature_distance,
    image_score,
    min_max_over_batch,
    patchify,
)
from diffad_utils.metrics.counterfactual import absolute_error

GOLDEN = Path(__file__).parents[3] / "golden"
SCHEDULE = NoiseSchedule.linear(1000, 0.0015, 0.0195)


def golden(name):
    return {
        key: torch.from_numpy(value) if value.dtype.kind != "U" else value
        for key, value in np.load(GOLDEN / f"{name}.npz").items()
    }


# --- Algorithm 2 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["leave_one_out", "self_included"])
def test_distances_edges_and_bins_match_the_public_code(kind):
    z = golden("d3ad_dic")
    dynamic = DynamicStep(leave_one_out=kind == "leave_one_out").fit(z["train"])
    assert torch.allclose(dynamic.distances_, z[f"{kind}_train_mean"], rtol=1e-6)
    assert torch.allclose(dynamic.edges_, z[f"{kind}_edges"], rtol=1e-6)
    distances = dynamic.distances(z["query"])
    assert torch.allclose(distances, z["query_mean"], rtol=1e-6)
    assert torch.equal(dynamic.bin_of(distances), z[f"{kind}_query_bin"])


@pytest.mark.slow
def test_bins_of_the_other_stored_search():
    z = golden("knn")
    for k in (5, 20):
        for kind, leave_one_out in (("excluded", True), ("included", False)):
            dynamic = DynamicStep(k=k, leave_one_out=leave_one_out).fit(z["bank"])
            expected = z[f"l1_k{k}_self_{kind}_query_bin0to9_clipped"]
            found = dynamic.bin_of(dynamic.distances(z["queries"]))
            assert torch.equal((found - 1).clamp_min(0), expected)


def test_leaving_the_image_in_shifts_unseen_images_to_higher_bins():
    z = golden("d3ad_dic")
    bins = {}
    for kind in (True, False):
        dynamic = DynamicStep(leave_one_out=kind).fit(z["train"])
        bins[kind] = dynamic.bin_of(dynamic.distances(z["query"]))
    assert bool((bins[False] >= bins[True]).all()) and bins[False].sum() > bins[True].sum()


def test_outliers_widen_the_range_of_the_bins():
    """Without them, the same image falls into the same bin or a higher one."""
    train = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    train[:3] *= 8
    kept, left_out = (DynamicStep(k=5, inliers=share).fit(train) for share in (1.0, 0.95))
    assert torch.equal(kept.distances_, left_out.distances_) and len(left_out.bank_) == 60
    assert float(left_out.edges_[-1]) == float(kept.distances_.sort().values[56]) < float(kept.edges_[-1])
    bins = [dynamic.bin_of(kept.distances_) for dynamic in (kept, left_out)]
    assert bool((bins[1] >= bins[0]).all()) and int(bins[1].sum()) > int(bins[0].sum())
    with pytest.raises(ValueError, match="expected 0 < inliers <= 1, got 0"):
        DynamicStep(inliers=0)


@pytest.mark.parametrize(("t_max", "bins"), [(80, 10), (250, 10), (40, 4), (75, 7)])
def test_steps_are_bounded_and_monotone_in_distance(t_max, bins):
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(60, 12, generator=generator)
    dynamic = DynamicStep(k=5, t_max=t_max, bins=bins).fit(train)
    distances = torch.linspace(0, 3 * float(dynamic.edges_[-1]), 500)
    found = dynamic.bin_of(distances)
    steps = dynamic.step_of(found)
    assert bool((steps.diff() >= 0).all()) and bool((found.diff() >= 0).all())
    assert int(steps.max()) <= t_max and int(steps.min()) == int(dynamic.step_of(torch.tensor([2])))
    assert int(found.max()) == bins and bool((steps % 10 == 0).all())
    queries = torch.randn(7, 12, generator=generator) * torch.linspace(0.5, 3, 7)[:, None]
    assert torch.equal(dynamic.steps(queries), dynamic.steps(queries))
    assert torch.equal(torch.cat([dynamic.steps(query[None]) for query in queries]), dynamic.steps(queries))
    assert torch.equal(
        DynamicStep(k=5, t_max=t_max, bins=bins).fit(train.clone()).steps(queries), dynamic.steps(queries)
    )


def test_steps_of_the_paper():
    assert DynamicStep().step_of(torch.arange(11)).tolist() == [20, 20, 20, 20, 30, 40, 50, 60, 60, 70, 80]


def test_a_training_set_of_copies_has_bins():
    dynamic = DynamicStep(k=2).fit(torch.ones(5, 3))
    assert dynamic.steps(torch.full((1, 3), 9.0)).tolist() == [80]


@pytest.mark.parametrize("settings", [{"k": 0}, {"minimum_bin": 11}, {"minimum_bin": 0}, {"t_max": 5}, {"round_to": 0}])
def test_bad_settings_of_dynamic_steps(settings):
    with pytest.raises(ValueError, match="expected"):
        DynamicStep(**settings)


def test_too_few_training_images_and_no_fit():
    with pytest.raises(ValueError, match="smaller k"):
        DynamicStep(k=20).fit(torch.zeros(20, 4))
    with pytest.raises(RuntimeError, match="not fitted"):
        DynamicStep().steps(torch.zeros(2, 4))


def test_features_are_averaged_to_a_grid():
    features = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pooled_features(features)[0, 0], features[0, 0, :2, :2].mean())
    assert pooled_features(features).shape == (2, 3 * 256) and pooled_features(features[..., :8, :8]).shape == (
        2,
        3 * 64,
    )


# --- plans ------------------------------------------------------------------------------------------------------------


def test_plans():
    assert subsequence_timesteps(torch.tensor([80, 20, 50]), 10, 80).T.tolist() == [
        [80, 72, 64, 56, 48, 40, 32, 24, 16, 8],
        [-1, -1, -1, -1, -1, -1, -1, 20, 16, 8],
        [-1, -1, -1, 50, 48, 40, 32, 24, 16, 8],
    ]
    assert subsequence_timesteps(torch.tensor([20]), 10, 80).T.tolist() == [[20, 16, 8]]
    assert code_timesteps(torch.tensor([80, 20]), 10).T.tolist() == [
        [72, 64, 56, 48, 40, 32, 24, 16, 8, 0],
        [18, 16, 14, 12, 10, 8, 6, 4, 2, 0],
    ]
    assert code_timesteps(torch.tensor([250]), 10).T.tolist() == [golden("ddad_reconstruction")["t_visited"].tolist()]
    assert subsequence_timesteps(torch.tensor([250]), 10, 250)[:, 0].tolist() == list(range(250, 0, -25))


@pytest.mark.parametrize(
    ("steps", "num_steps", "plan"),
    [([0], 10, "sub-sequence"), ([90], 10, "paper"), ([25], 10, "code"), ([20], 10, "leading")],
)
def test_bad_plans(steps, num_steps, plan):
    with pytest.raises(ValueError, match="steps|plan"):
        denoising_timesteps(torch.tensor(steps), num_steps, 80, plan)


# --- Algorithm 1 ------------------------------------------------------------------------------------------------------


def analytic_eps(weights, dtype):
    """The network of the stored vectors: eps(x, t) = tanh(0.5 x w_c + 0.1 sin(t / 100))."""
    w = torch.as_tensor(weights, dtype=dtype)[None, :, None, None]
    return lambda x, t: torch.tanh(0.5 * x * w + 0.1 * torch.sin(t.to(dtype) / 100)[:, None, None, None])


@pytest.mark.parametrize("eta", [0, 4, 8])
def test_start_plan_and_sampling_match_the_public_code(eta):
    z = golden("d3ad_sampling")
    schedule, z0 = NoiseSchedule(z[f"eta{eta}_betas"]), z[f"eta{eta}_z0"]
    eps = analytic_eps(z[f"eta{eta}_channel_weights"], torch.float32)
    for level in (20, 40, 80):
        steps = torch.full((len(z0),), level)
        plan = code_timesteps(steps, 10)
        assert torch.equal(plan.flip(0), z[f"eta{eta}_T{level}_seq"][:, None].expand(-1, len(z0)))
        start = scaled_start(z0, steps, schedule)
        _, states = ddim_sample(eps, start, schedule, plan, z0, float(eta), True)
        assert torch.allclose(states, z[f"eta{eta}_T{level}_states"], atol=1e-4)


def test_stochastic_sampling_matches_ddad():
    """With its default eta = 1: the stored noises, the first of them for the start."""
    z = golden("ddad_reconstruction")
    schedule, x, noise = NoiseSchedule.linear(), z["x"].double(), z["eta1_noises"].double()
    start = scaled_start(x, torch.full((2,), 250), schedule, 1.0, noise[0])
    plan = code_timesteps(torch.full((2,), 250), 10)
    out, states = ddim_sample(
        analytic_eps(z["w_c"], torch.float64), start, schedule, plan, x, 2.0, True, eta=1.0, noise=noise[1:]
    )
    assert torch.allclose(states, z["eta1_same_w2_states_f64"], atol=1e-10)
    assert torch.allclose(out, z["eta1_same_w2_output_f64"], atol=1e-10)
    with pytest.raises(ValueError, match="needs noise"):
        ddim_sample(analytic_eps(z["w_c"], torch.float64), start, schedule, plan, eta=1.0)


def test_full_noise_one_step_and_no_guidance_are_plain_ddim():
    """omega = 1, fixed T_hat, eta = 0: the forward process, then DDIM by hand."""
    generator = torch.Generator().manual_seed(0)
    z0, noise = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    eps, steps = analytic_eps(np.ones(4), torch.float32), torch.full((3,), 80)
    start = scaled_start(z0, steps, SCHEDULE, 1.0, noise)
    assert torch.allclose(start, add_noise(z0, steps, noise, SCHEDULE), atol=1e-6)
    x, visited = start, list(range(80, 0, -8))
    for t, following in zip(visited, [*visited[1:], None], strict=True):
        to = 1.0 if following is None else SCHEDULE.alphas_cumprod[following]
        x = ddim_step(x, eps(x, torch.full((3,), t)), SCHEDULE.alphas_cumprod[t], to)
    assert torch.allclose(ddim_sample(eps, start, SCHEDULE, subsequence_timesteps(steps, 10, 80)), x, atol=1e-5)


MEAN, STD = 1.5, 0.4


def oracle_eps(x, t):
    """The best noise predictor for x_0 ~ N(MEAN, STD^2)."""
    a = SCHEDULE.alphas_cumprod[t].to(x).reshape(-1, *[1] * (x.ndim - 1))
    return (1 - a).sqrt() * (x - a.sqrt() * MEAN) / (a * STD**2 + 1 - a)


@pytest.mark.parametrize("plan", ["sub-sequence", "code"])
@pytest.mark.parametrize("guidance", [0.0, 4.0])
def test_mixed_steps_in_a_batch_equal_one_by_one(plan, guidance):
    z0 = MEAN + STD * torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    steps = torch.tensor([80, 20, 50, 20, 70, 30])

    def reconstruct(z, s):
        return ddim_sample(
            oracle_eps, scaled_start(z, s, SCHEDULE), SCHEDULE, denoising_timesteps(s, 10, 80, plan), z, guidance
        )

    together = reconstruct(z0, steps)
    alone = torch.cat([reconstruct(z0[i : i + 1], steps[i : i + 1]) for i in range(6)])
    assert torch.allclose(together, alone, atol=1e-5) and not torch.allclose(together, z0, atol=1e-2)


def test_images_that_wait_do_not_see_the_network():
    seen = []
    steps = subsequence_timesteps(torch.tensor([80, 20]), 10, 80)
    ddim_sample(lambda x, t: seen.append(len(x)) or x, torch.ones(2, 3), SCHEDULE, steps)
    assert seen == [1] * 7 + [2] * 3


def test_an_oracle_removes_a_defect_as_theory_says():
    """For a Gaussian the flow from the scaled start back to t = 0 is linear: what an image differs from the mean by
    shrinks to s sqrt(a) / sqrt(a s^2 + 1 - a), and so does an added defect."""
    z0 = MEAN + STD * torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    defect = torch.zeros_like(z0)
    defect[..., 2:4, 2:4] = 3.0
    for level in (20, 80, 320):
        steps = torch.full((2,), level)
        plan = subsequence_timesteps(steps, level, level)  # every timestep, so that DDIM follows the flow
        outputs = [ddim_sample(oracle_eps, scaled_start(z, steps, SCHEDULE), SCHEDULE, plan) for z in (z0 + defect, z0)]
        a = float(SCHEDULE.alphas_cumprod[level])
        left = STD * a**0.5 / (a * STD**2 + 1 - a) ** 0.5
        # the last move, from alpha_bar of t = 1 to 1 in one step, is where the two may differ
        assert torch.allclose(outputs[0] - outputs[1], left * defect, atol=0.02 * 3.0)
        assert torch.allclose(outputs[1] - MEAN, left * (z0 - MEAN), atol=0.02)
    assert left < 0.5


def test_guidance_pulls_monotonically_towards_the_input():
    z0 = MEAN + STD * torch.randn(4, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    z0[..., 2:4, 2:4] += 2.0
    steps = torch.tensor([80, 60, 40, 20])
    plan = subsequence_timesteps(steps, 10, 80)
    distance = [
        (ddim_sample(oracle_eps, scaled_start(z0, steps, SCHEDULE), SCHEDULE, plan, z0, eta) - z0)
        .abs()
        .mean(dim=(1, 2, 3))
        for eta in (0.0, 1.0, 2.0, 4.0, 7.0)
    ]
    assert bool((torch.stack(distance).diff(dim=0) < 0).all())


# --- maps -------------------------------------------------------------------------------------------------------------


def test_ddad_map_matches_the_public_code():
    z = golden("ddad_heatmap")
    levels, size = range(1, int(z["n_levels"])), (64, 64)
    for level in range(int(z["n_levels"])):
        patches = patchify(z[f"feat_target_{level}"])
        assert torch.allclose(patches, z[f"patchify_target_{level}"], rtol=1e-5, atol=2e-6)
        other = patchify(z[f"feat_output_{level}"])
        assert torch.allclose(scoring.cosine_map(patches, other), z[f"cosmap_{level}"], rtol=1e-5, atol=2e-6)
    features = ([z[f"feat_{name}_{level}"] for level in levels] for name in ("target", "output"))
    feature = feature_distance(*features, size, patches=True)
    pixel = absolute_error(z["target"], z["output"])
    assert torch.allclose(feature, z["feature_distance"][:, 0], rtol=1e-5, atol=2e-6)
    assert torch.allclose(pixel, z["pixel_distance"][:, 0], rtol=1e-5, atol=2e-6)
    for v in (1, 7):
        together = ddad_anomaly_map(pixel, feature, v=v, sigma=4.0, scales=(pixel.max(), feature.max()))
        assert torch.allclose(together, z[f"heatmap_v{v}"][:, 0], rtol=1e-5, atol=2e-6)
        peaks = [values.flatten(1).amax(dim=1)[:, None, None] for values in (pixel, feature)]
        alone = ddad_anomaly_map(pixel, feature, v=v, sigma=4.0, scales=peaks)
        assert torch.allclose(alone, z[f"heatmap_v{v}_each_image_alone"][:, 0], rtol=1e-5, atol=2e-6)


def test_blur_matches_the_public_code():
    z = golden("ddad_heatmap")
    assert torch.allclose(scoring.smooth_map(z["blur_input"][:, 0], 4.0), z["blur_output"][:, 0], rtol=1e-5, atol=2e-6)
    corner = torch.zeros(1, 64, 64)
    corner[0, 0, 0] = 1.0
    assert torch.allclose(
        scoring.smooth_map(corner, 4.0)[0, :20, :20], z["blur_corner_impulse_response"].float(), atol=2e-6
    )
    with pytest.raises(ValueError, match="too small"):
        scoring.smooth_map(torch.zeros(1, 16, 16), 4.0)


def test_map_of_equation_9():
    latent, feature = torch.rand(2, 16, 16), torch.rand(2, 16, 16)
    for weight, alone in ((1.0, latent / 2), (0.0, feature / 5)):
        found = anomaly_map(latent, feature, weight=weight, sigma=1.0, scales=(2.0, 5.0))
        assert torch.equal(found, scoring.smooth_map(alone, 1.0))
    found = anomaly_map(latent, feature, weight=0.25, sigma=1.0)
    assert torch.allclose(found, scoring.smooth_map(0.25 * latent + 0.75 * feature, 1.0))
    assert torch.equal(image_score(found), found.amax(dim=(1, 2)))
    scaled = min_max_over_batch(latent)
    assert scaled.min() == 0 and scaled.max() == 1

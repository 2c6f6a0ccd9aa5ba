"""D3AD and DDAD as detectors, and the domain adaptation: what the contract's suite does not ask."""

from pathlib import Path

import pytest
import torch
from torch import nn

from diffad_utils import data
from diffad_utils.diffusion import add_noise, ddim_sample, image_noise
from diffad_utils.methods.d3ad import D3AD, DDAD, adaptation

SMALL = {"image_size": 64, "device": "cpu", "train_steps": 4, "train_batch_size": 4, "warmup_steps": 1}
KINDS = {
    "d3ad": lambda **more: D3AD(**SMALL, **({"block_out_channels": (16, 16), "k": 3} | more)),
    "ddad": lambda **more: DDAD(**SMALL, **({"block_out_channels": (8, 16), "num_steps": 5} | more)),
}


@pytest.fixture(scope="module")
def fitted(splits):
    return {name: make().fit(splits[0]) for name, make in KINDS.items()}


def test_steps_of_a_batch_differ_and_equal_those_alone(fitted, splits):
    """Images with different T_hat in one batch, to 1e-5."""
    detector, images = fitted["d3ad"], splits[1]["image"]
    images = torch.cat([images, data.load_batch(splits[0])["image"]])
    together = detector.reconstruction(images)
    assert len(together.steps.unique()) > 1
    for i in range(0, len(images), 3):
        alone = detector.reconstruction(images[i : i + 1])
        assert torch.equal(alone.steps, together.steps[i : i + 1])
        assert torch.allclose(alone.state_hat, together.state_hat[i : i + 1], atol=1e-5)


def test_full_noise_and_a_static_step_are_plain_ddim_reconstruction(fitted, splits):
    detector = fitted["d3ad"].with_settings(noise_fraction=1.0, static_step=80)
    images, keys = splits[1]["image"], splits[1]["key"]
    done = detector.reconstruction(images, keys)
    noise = image_noise(done.state.shape[1:], detector.seed, keys)
    start = add_noise(done.state, torch.full((6,), 80), noise, detector.schedule)
    with torch.inference_mode():
        plain = ddim_sample(lambda x, t: detector.unet_(x, t).sample, start, detector.schedule, list(range(80, 0, -8)))
    assert torch.allclose(done.state_hat, plain, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_guidance_keeps_the_image(name, fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    distance = []
    for weight in (0.0, 4.0, 8.0):
        done = (
            fitted[name]
            .with_settings(guidance_weight=weight, stochasticity=0.0, noise_fraction=0.0)
            .reconstruction(images, keys)
        )
        distance.append((done.state_hat - done.state).abs().mean(dim=(1, 2, 3)))
    assert bool((torch.stack(distance).diff(dim=0) < 0).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("plan", ["sub-sequence", "code"])
def test_both_plans_and_both_normalisations_run(name, plan, fitted, splits):
    detector = fitted[name].with_settings(plan=plan, normalisation="batch")
    together = detector.predict(splits[1]["image"], splits[1]["key"])
    ours = detector.with_settings(normalisation="training").predict(splits[1]["image"], splits[1]["key"])
    assert 0 < together.nfe <= detector.num_steps and torch.isfinite(together.score).all()
    rest = detector.predict(splits[1]["image"][:3], splits[1]["key"][:3])
    assert not torch.allclose(rest.score, together.score[:3], rtol=1e-4), "scaling over the batch leaves no trace"
    assert not torch.allclose(ours.score, together.score)


@pytest.mark.slow
def test_a_latent_can_be_drawn_from_the_posterior(fitted, splits):
    """One draw an image and seed, whatever else is in the batch; spread as the posterior says."""
    images, keys = splits[1]["image"], splits[1]["key"]
    detector = fitted["d3ad"].with_settings(posterior="draw")
    drawn, mean = detector.reconstruction(images, keys), fitted["d3ad"].reconstruction(images, keys)
    assert torch.allclose(detector.reconstruction(images[2:3], keys[2:3]).state, drawn.state[2:3], atol=1e-5)
    vae = detector.vae_
    with torch.inference_mode():
        std = vae.encode(2 * images - 1).latent_dist.std * vae.config.scaling_factor
    assert ((drawn.state - mean.state) / std).std().item() == pytest.approx(1, abs=0.1)


def test_ddad_works_on_latents_too(splits):
    detector = KINDS["ddad"](space="latent", block_out_channels=(16, 16)).fit(splits[0])
    assert detector.predict(splits[1]["image"], splits[1]["key"]).reconstruction.shape == splits[1]["image"].shape


def test_settings_that_need_a_training_are_refused(fitted, splits, tmp_path):
    with pytest.raises(ValueError, match="another training"):
        fitted["d3ad"].with_settings(train_steps=9)
    with pytest.raises(ValueError, match="no setting"):
        fitted["d3ad"].with_settings(omega=1.0)
    fitted["d3ad"].save(tmp_path)
    with pytest.raises(RuntimeError, match="loaded"):
        D3AD.load(tmp_path, device="cpu").with_settings(noise_fraction=1.0)


def test_the_training_features_are_mapped_not_read(fitted, tmp_path):
    fitted["d3ad"].save(tmp_path)
    loaded = D3AD.load(tmp_path, device="cpu")
    bank = loaded.dynamic_step_.bank_
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    lines = [line.split() for line in maps.read_text().splitlines() if line.endswith("detector.safetensors")]
    bounds = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    assert any(low <= bank.data_ptr() < high for low, high in bounds)
    assert torch.equal(bank, fitted["d3ad"].dynamic_step_.bank_)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("d3ad", {"plan": "leading"}),
        ("d3ad", {"noise_fraction": 1.5}),
        ("d3ad", {"map_weight": -0.1}),
        ("d3ad", {"t_max": 5}),
        ("d3ad", {"static_step": 0}),
        ("d3ad", {"static_step": 25, "plan": "code"}),
        ("d3ad", {"block_out_channels": (12,)}),
        ("d3ad", {"posterior": "mode"}),
        ("d3ad", {"adaptation_loss": "pixels"}),
        ("ddad", {"space": "feature"}),
        ("ddad", {"start_timestep": 1000}),
        ("ddad", {"normalisation": "test"}),
    ],
)
def test_bad_settings(name, settings):
    with pytest.raises(ValueError, match="must|expected|needs|in 1"):
        KINDS[name](**settings)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", KINDS)
def test_a_gpu_gives_what_the_cpu_gives(name, fitted, splits, tmp_path):
    fitted[name].save(tmp_path)
    images, keys = splits[1]["image"], splits[1]["key"]
    there = type(fitted[name]).load(tmp_path, device="cuda").predict(images, keys)
    here = fitted[name].predict(images, keys)
    assert torch.equal(there.parts["step"], here.parts["step"])
    assert torch.allclose(there.score, here.score, rtol=1e-2)


# --- domain adaptation ------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """A small extractor of two blocks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.requires_grad_(False)

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first.relu())]


def test_losses_of_equal_and_opposite_features():
    x = [torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))]
    assert adaptation.d3ad_loss(x, x) == pytest.approx(0, abs=1e-6)
    assert adaptation.d3ad_loss(x, [-x[0]]) == pytest.approx(2, abs=1e-6)
    assert adaptation.flattened_loss(x * 3, [5 * x[0]] * 3) == pytest.approx(0, abs=1e-5)
    assert adaptation.ddad_loss(x, x, [-x[0]], [-x[0]], 0.1) == pytest.approx(0.1 * 4, abs=1e-5)


def test_variance_sees_a_collapse():
    generator = torch.Generator().manual_seed(0)
    assert adaptation.feature_variance(torch.ones(4, 3, 2, 2)) == pytest.approx(0, abs=1e-12)
    assert adaptation.feature_variance(torch.randn(64, 3, 8, 8, generator=generator)) > 0.9


def _pairs(images):
    def reconstruct(rows, generator):
        return images[rows], (images[rows] + 0.3 * torch.randn(images[rows].shape, generator=generator)).clamp(0, 1)

    return reconstruct


@pytest.mark.parametrize(("loss", "distillation_weight"), [("positions", 0.0), ("flattened", 0.0), ("positions", 0.1)])
def test_adaptation_brings_features_together_and_leaves_the_original(loss, distillation_weight):
    images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    extractor = Blocks()
    before = {name: tensor.clone() for name, tensor in extractor.state_dict().items()}
    settings = {
        "epochs": 2,
        "loss": loss,
        "distillation_weight": distillation_weight,
        "learning_rate": 5e-4,
        "batch_size": 8,
    }
    adapted, log = adaptation.adapt(extractor, images, _pairs(images), **settings)
    assert all(torch.equal(before[name], tensor) for name, tensor in extractor.state_dict().items())
    assert not any(p.requires_grad for p in adapted.parameters())
    x, x_hat = _pairs(images)(torch.arange(32), torch.Generator().manual_seed(9))
    assert adaptation.d3ad_loss(adapted(x), adapted(x_hat)) < adaptation.d3ad_loss(extractor(x), extractor(x_hat))
    assert log.epochs == 2 and not log.undone and log.losses[1] < log.losses[0]
    again, _ = adaptation.adapt(extractor, images, _pairs(images), **settings)
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), again.parameters(), strict=True))


def test_a_collapse_is_undone():
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    extractor = Blocks()
    adapted, log = adaptation.adapt(extractor, images, _pairs(images), epochs=3, learning_rate=0.3, batch_size=4)
    assert log.undone and log.epochs == 0 and log.variance_after == log.variance_before
    assert all(torch.equal(a, b) for a, b in zip(adapted.parameters(), extractor.parameters(), strict=True))


def test_no_epochs_is_a_copy():
    images = torch.rand(4, 3, 8, 8)
    adapted, log = adaptation.adapt(Blocks(), images, _pairs(images), epochs=0)
    assert log == adaptation.AdaptationLog([], log.variance_before, log.variance_before)
    assert len(log.variance_before) == 2 and not any(p.requires_grad for p in adapted.parameters())


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-2), ("fp16", 2e-3)])
@pytest.mark.slow
def test_networks_in_short_precision_and_a_float32_state(fitted, splits, precision, tolerance):
    images, keys = splits[1]["image"], splits[1]["key"]
    seen = []
    for detector in fitted.values():
        short = detector.with_settings(inference_precision=precision)
        hook = short.unet_.conv_in.register_forward_hook(
            lambda module, args, output: seen.append((args[0].dtype, output.dtype))
        )
        exact, q = detector.predict(images, keys), short.predict(images, keys)
        hook.remove()
        assert (q.reconstruction - exact.reconstruction).norm() <= tolerance * exact.reconstruction.norm()
        assert not torch.equal(q.reconstruction, exact.reconstruction)
        assert q.score.dtype == q.anomaly_map.dtype == q.reconstruction.dtype == torch.float32
        assert {p.dtype for network in short.networks() for p in network.parameters()} == {torch.float32}
    short_type = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert (torch.float32, short_type) in seen  # the network's input is the state, what it computes is short
    with pytest.raises(ValueError, match="inference_precision must be one of"):
        D3AD(**SMALL, inference_precision="int8")


@pytest.mark.slow
def test_maps_of_some_of_the_images(fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    for detector in fitted.values():
        some = detector.maps(images, keys).rows([2, 0])
        directly = detector.maps(images[[2, 0]], [keys[2], keys[0]])
        assert torch.allclose(some.residual, directly.residual, atol=1e-5) and torch.allclose(
            some.feature, directly.feature, atol=1e-5
        )
        for name, value in directly.reconstruction._asdict().items():
            mine = getattr(some.reconstruction, name)
            pairs = zip(mine, value, strict=True) if name == "features" else [(mine, value)]
            assert all(torch.allclose(a, b, atol=1e-4) if isinstance(a, torch.Tensor) else a == b for a, b in pairs), (
                name
            )
        assert torch.equal(
            detector.maps(images, keys).rows(range(2)).residual, detector.maps(images, keys).residual[:2]
        )


@pytest.mark.slow
def test_what_is_known_of_images_is_not_computed_again(fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    for detector in fitted.values():
        known = detector.maps(images, keys).reconstruction
        adapted = detector.with_settings(adaptation_epochs=2)
        for other, taken_over in ((detector.with_settings(guidance_weight=1.0), True), (adapted, False)):
            fresh = other.maps(images, keys)
            seen = []
            hook = other.extractor_.register_forward_hook(lambda *call: seen.append(call))
            reused = other.maps(images, keys, known)
            hook.remove()
            assert len(seen) == (1 if taken_over else 2)  # the reconstruction, and the images
            assert torch.equal(reused.residual, fresh.residual) and torch.equal(reused.feature, fresh.feature)
            assert torch.equal(reused.reconstruction.steps, fresh.reconstruction.steps)
        other = detector.with_settings(batch_size=1, guidance_weight=1.0)
        assert other.scales_ == pytest.approx(detector.with_settings(guidance_weight=1.0).scales_, rel=1e-4)


@pytest.mark.parametrize(("leave_one_out", "most"), [(True, 7), (False, 8)])
def test_more_neighbours_than_images_are_refused_before_any_work(leave_one_out, most, monkeypatch):
    monkeypatch.setattr(D3AD, "_load_networks", lambda self: pytest.fail("the networks were loaded first"))
    index = data.load_index("textures", category="leather")
    ten = data.ImageDataset(index[index["split"] == "train"].head(10), size=32)
    detector = D3AD(**SMALL | {"k": 20, "leave_one_out": leave_one_out, "holdout_fraction": 0.1})
    with pytest.raises(ValueError, match=f"k = 20 nearest neighbours, but 8 images .* set k to {most} or less"):
        detector.fit(ten)


# --- departures of the public codes ----------------------------------------------------------------------------------


def test_earlier_names_of_settings_are_read(fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    earlier = fitted["d3ad"].with_settings(plan="paper")
    assert earlier.plan == fitted["d3ad"].plan == "sub-sequence"
    assert type(earlier)(adaptation_loss="places").adaptation_loss == earlier.adaptation_loss == "positions"
    assert torch.equal(earlier.predict(images, keys).score, fitted["d3ad"].predict(images, keys).score)


def test_bins_without_outliers_need_no_training(fitted, splits):
    detector = fitted["d3ad"]
    other = detector.with_settings(inliers=0.5)
    assert other.unet_ is detector.unet_ and other.dynamic_step_.edges_[-1] < detector.dynamic_step_.edges_[-1]
    steps = [d.predict(splits[1]["image"], splits[1]["key"]).parts["step"] for d in (detector, other)]
    assert bool((steps[1] >= steps[0]).all())


def test_evaluations_are_counted_image_by_image(fitted, splits):
    images = torch.cat([splits[1]["image"], data.load_batch(splits[0])["image"]])
    found, counted = fitted["d3ad"].predict(images), []
    hook = fitted["d3ad"].unet_.register_forward_hook(lambda module, args, output: counted.append(len(args[0])))
    fitted["d3ad"].predict(images)
    hook.remove()
    assert found.nfe * len(images) == pytest.approx(sum(counted)) and found.nfe < fitted["d3ad"].num_steps
    steps, evaluations = found.parts["step"], found.parts["evaluations"]
    assert torch.equal(evaluations, (steps / 8).ceil()), "members of 8, 16, ..., 80 below the step, and the step"
    parts = [fitted["d3ad"].predict(part) for part in images.split(5)]
    assert type(found).concatenate(parts).nfe == pytest.approx(found.nfe)


def test_adaptation_on_all_blocks_keeps_the_blocks_of_the_map(fitted, splits):
    detector = fitted["d3ad"]
    everywhere = detector.with_settings(adaptation_strides=(4, 8, 16))
    assert len(everywhere.adaptation_log_.variance_before) == 3 and len(detector.adaptation_log_.variance_before) == 2
    images = splits[1]["image"]
    assert [f.shape for f in everywhere.features(images)] == [f.shape for f in detector.features(images)]
    assert not torch.equal(everywhere.features(images)[0], detector.features(images)[0])
    with pytest.raises(ValueError, match="deepest of strides"):
        detector.with_settings(adaptation_strides=(4, 8))


def test_batch_statistics_move_only_while_adapting(fitted, splits):
    detector = fitted["d3ad"]
    moved = detector.with_settings(adaptation_batch_statistics=True)

    def running(network):
        return torch.cat([m.running_mean for m in network.modules() if isinstance(m, nn.BatchNorm2d)])

    assert torch.equal(running(detector.extractor_), running(detector._frozen))
    assert not torch.equal(running(moved.extractor_), running(detector._frozen))
    assert not any(module.training for module in moved.extractor_.modules())
    images = splits[1]["image"]
    assert torch.allclose(moved.features(images)[0][:2], moved.features(images[:2])[0], atol=1e-4)

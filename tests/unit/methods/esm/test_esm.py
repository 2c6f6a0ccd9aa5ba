"""The three detectors: what they share, what differs, what they refuse. Their equations are tested in
test_score_matching.py."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from diffad_utils import data
from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.methods.esm import ESM, SGM, ESMSigma
from diffad_utils.methods.esm.dual_stream import DualStream
from diffad_utils.models.backbones import load_layers
from diffad_utils.models.unet import small_unet

SMALL = dict(
    image_size=32,
    device="cpu",
    block_out_channels=(8, 16),
    dsm_steps=8,
    train_steps=8,
    train_batch_size=2,
    warmup_steps=1,
    stride=5,
    noise_timestep=20,
)
SOME_T_D = (1, 3, 50)  # all of the paper's tables: test_score_matching.py


@pytest.fixture(scope="module")
def splits():
    index = data.load_index("textures", category="carpet")
    train = index[index["split"] == "train"].head(24)
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(2)
    return data.ImageDataset(train, size=64), data.load_batch(data.ImageDataset(test, size=64))


@pytest.fixture(scope="module")
def sgm(splits):
    return SGM(**SMALL).fit(splits[0])


@pytest.fixture(scope="module")
def esm(splits, sgm):
    return ESM(**SMALL).fit(splits[0], warm_start=sgm)


@pytest.mark.slow
def test_what_each_method_scores(sgm, esm, splits):
    """All four maps with a variance, the two that need one absent (not zero) without."""
    images, keys = splits[1]["image"], splits[1]["key"]
    for detector, names in (
        (sgm, {"cos", "re"}),
        (esm, {"cos", "u", "kl", "re"}),
        (esm.with_settings(ESMSigma), {"cos", "u", "kl", "re"}),
    ):
        x0 = detector.encode(detector._input(images))
        maps = detector.maps(x0, detector.sample(x0, keys))
        assert set(maps) == set(detector.predict(images, keys).parts) == names
        for values in maps.values():
            assert (
                values.shape == (4, 32, 32)
                and torch.isfinite(values).all()
                and values.min() >= -1e-6
                and values.max() > 0
            )


@pytest.mark.slow
def test_evaluations_are_counted(esm, sgm):
    for detector, variance_evaluations in ((sgm, 0), (esm, 2), (esm.with_settings(ESMSigma), 2)):
        calls = []
        hooks = [
            stream.register_forward_hook(lambda *_: calls.append(1))
            for stream in detector.network_.modules()
            if is_unet(stream)
        ]
        detector.predict(torch.rand(2, 3, 32, 32))
        for hook in hooks:
            hook.remove()
        steps = detector.num_steps
        assert steps == 4
        # streams: SGM one a step; ESM both; ESM-sigma both backward and the variance alone forward
        streams = {"sgm": steps, "esm": 2 * steps + 2, "esm_sigma": 3 * steps + 2}[detector.name]
        assert (
            len(calls) == streams
            and detector.nfe == {"esm_sigma": 2}.get(detector.name, 1) * steps + variance_evaluations
        )


def is_unet(module):
    return type(module).__name__ == "UNet2DModel"


@pytest.mark.parametrize("timestep", SOME_T_D)
@pytest.mark.slow
def test_finite_at_printed_timesteps(esm, sgm, splits, timestep):
    images, keys = splits[1]["image"], splits[1]["key"]
    for detector in (
        sgm.with_settings(noise_timestep=timestep, stride=1),
        esm.with_settings(noise_timestep=timestep, stride=1),
        esm.with_settings(noise_timestep=timestep, mean="input", stride=1),
        esm.with_settings(ESMSigma, noise_timestep=timestep, stride=1),
    ):
        prediction = detector.predict(images[:2], keys[:2])
        assert torch.isfinite(prediction.score).all() and torch.isfinite(prediction.anomaly_map).all()


@pytest.mark.slow
def test_finite_at_the_largest_printed_timestep(esm, splits):
    prediction = esm.with_settings(noise_timestep=280, stride=3).predict(splits[1]["image"][:2], splits[1]["key"][:2])
    assert torch.isfinite(prediction.score).all() and torch.isfinite(prediction.anomaly_map).all()


def test_the_bound_is_in_the_sampler_only(esm, splits):
    seen = []

    def observe(index, x, moments):
        seen.append((index, float(moments.variance.min())))

    esm.reconstruct(splits[1]["image"], splits[1]["key"], observe=observe)
    assert [index for index, _ in seen] == [19, 14, 9, 4] and min(value for _, value in seen) >= 0.0099
    x0 = esm.encode(esm._input(splits[1]["image"]))
    assert esm.variance(x0, 0).max() < 0.01  # as the network gives it: near 1 - alpha_bar_0 = 1e-4


@pytest.mark.slow
def test_warm_start_is_the_same_warm_up(esm, sgm, splits):
    alone = ESM(**SMALL).fit(splits[0])
    assert torch.equal(
        alone.predict(splits[1]["image"], splits[1]["key"]).score,
        esm.predict(splits[1]["image"], splits[1]["key"]).score,
    )
    with pytest.raises(ValueError, match="warm_start must be fitted with the warm-up settings"):
        ESM(**SMALL | {"dsm_steps": 9}).fit(splits[0], warm_start=sgm)


def test_readings_and_clocks_differ(esm, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    x = esm._input(images)
    free, tied = esm.reconstruct(images, keys), esm.with_settings(mean="input").reconstruct(images, keys)
    assert not torch.allclose(free, tied, atol=1e-3)
    assert (tied - x).abs().mean() < (free - x).abs().mean()  # pulled to the input
    jumps = esm.with_settings(ESMSigma, dt=0.2)
    assert not torch.allclose(
        jumps.reconstruct(images, keys), esm.with_settings(ESMSigma).reconstruct(images, keys), atol=1e-3
    )


def test_chosen_timestep(splits, sgm):
    chosen = sgm.with_settings(noise_timestep=None, noise_timesteps=(5, 40))
    table = chosen.validation_
    assert chosen.noise_timestep_ == int(table.loc[table["selection"].idxmax(), "noise_timestep"])
    assert table["noise_timestep"].tolist() == [5, 40]
    assert table[["I-AUROC", "P-AUROC"]].min().min() >= 0 and chosen.num_steps == len(
        range(chosen.noise_timestep_, 0, -5)
    )


@pytest.mark.slow
def test_combinations(esm, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    plain = esm.with_settings(combination="plain sum", smoothing=0)
    x0 = plain.encode(plain._input(images))
    maps = plain.maps(x0, plain.sample(x0, keys))
    torch.testing.assert_close(plain.combine(maps), sum(maps.values()))
    only = esm.with_settings(weights={"re": 1.0})
    other = esm.with_settings(weights={"re": 5.0, "kl": 0.0})
    torch.testing.assert_close(5 * only.predict(images, keys).score, other.predict(images, keys).score)
    few = {"dsm_steps": 1, "train_steps": 1, "warmup_steps": 0, "holdout_fraction": 0.4, "calibration_images": 3}
    capped = ESM(**SMALL | few).fit(splits[0])
    assert len(capped.held_out_[0]) == len(capped.held_out_[1]) == 3
    calibration = esm.calibration_.calibrate(esm.maps(*esm._sampled(*esm.held_out_)))
    for values in calibration.values():
        assert values.mean().abs() < 1e-3 and values.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_shared_network(splits, sgm):
    shared = ESM(**SMALL, shared=True).fit(splits[0], warm_start=sgm)
    count = [
        sum(p.numel() for p in d.network_.parameters())
        for d in (sgm, shared, ESM(**SMALL).fit(splits[0], warm_start=sgm))
    ]
    assert count[0] < count[1] < 1.1 * count[0] and count[2] == 2 * count[0]
    assert set(shared.predict(splits[1]["image"]).parts) == {"cos", "u", "kl", "re"}


@pytest.mark.slow
def test_latent_space(splits):
    detector = ESM(**SMALL | {"space": "latent", "image_size": 64, "dsm_steps": 2, "train_steps": 2}).fit(splits[0])
    prediction = detector.predict(splits[1]["image"], splits[1]["key"])
    assert prediction.reconstruction.shape == (4, 3, 64, 64) and prediction.anomaly_map.shape == (4, 64, 64)
    assert detector.encode(splits[1]["image"]).shape == (4, 4, 8, 8)
    with pytest.raises(ValueError, match="multiple of 16"):
        ESM(**SMALL | {"space": "latent", "image_size": 40}).fit(splits[0])


@pytest.mark.slow
def test_a_loaded_detector_has_no_training_images(esm, tmp_path):
    esm.save(tmp_path)
    loaded = ESM.load(tmp_path, device="cpu")
    assert loaded.noise_timestep_ == 20
    with pytest.raises(RuntimeError, match="fit it anew"):
        loaded.with_settings(stride=1)
    record = json.loads((tmp_path / "detector.json").read_text())
    record["values"]["sha256"]["backbone"] = "0" * 64
    (tmp_path / "detector.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="was fitted with weights"):
        ESM.load(tmp_path, device="cpu")


def test_a_detector_saved_under_the_former_name_of_a_setting_is_loaded(esm, tmp_path):
    esm.with_settings(variance_min=0.05).save(tmp_path)
    record = json.loads((tmp_path / "detector.json").read_text())
    record["hyperparameters"]["variance_floor"] = record["hyperparameters"].pop("variance_min")
    (tmp_path / "detector.json").write_text(json.dumps(record))
    assert ESM.load(tmp_path, device="cpu").variance_min == 0.05


@pytest.mark.slow
def test_without_a_warm_up(splits):
    alone = ESM(**SMALL | {"dsm_steps": 0}).fit(splits[0])
    assert alone.dsm_log_.losses == [] and len(alone.training_log_.losses) == SMALL["train_steps"]
    assert torch.isfinite(alone.predict(splits[1]["image"], splits[1]["key"]).score).all()


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (SGM, {"space": "frequency"}, "space must be one of"),
        (SGM, {"weights": {"kl": 1.0}}, "weights must name some of"),
        (ESM, {"weights": {"kl": 0.0}}, "not all 0"),
        (ESM, {"mean": "posterior"}, "mean must be one of"),
        (ESM, {"variance_min": 0.0}, "variance_min must be above 0"),
        (ESM, {"noise_timestep": 250, "stride": 10}, "would diverge"),
        (ESMSigma, {"dt": 0.5}, "stable for 0 < dt \\* stride < 2"),
        (SGM, {"noise_timestep": 1001}, "expected T_d in 1 .. 1000"),
        (SGM, {"noise_timestep": None, "noise_timesteps": ()}, "give noise_timestep"),
        (SGM, {"dsm_steps": -1}, "expected dsm_steps >= 0"),
    ],
)
def test_bad_settings_are_refused_before_training(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(**SMALL | settings)


def test_variants_only_change_sampling(esm, sgm):
    for cls, settings in ((None, {"train_steps": 9}), (SGM, {})):
        with pytest.raises(ValueError, match="with_settings may change"):
            esm.with_settings(cls, **settings)


# --- networks


def test_dual_stream_starts_as_denoising_score_matching():
    schedule = NoiseSchedule.linear()
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 400, 999])
    state = torch.get_rng_state()
    for shared in (False, True):
        network = DualStream(schedule, channels=4, image_size=8, block_out_channels=(8, 16), shared=shared).eval()
        eps, variance = network(x, t)
        assert eps.shape == variance.shape == x.shape
        expected = (1 - schedule.alphas_cumprod[t]).float()[:, None, None, None].expand_as(x)
        torch.testing.assert_close(variance, expected)
        torch.testing.assert_close(network.eps(x, t), eps)
        torch.testing.assert_close(network.variance(x, t), variance)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="multiples of 4, got 10"):
        small_unet(3, 10, (8, 8, 8))
    with pytest.raises(ValueError, match="multiples of 8"):
        small_unet(3, 8, (12,))


@pytest.mark.slow
def test_layers_of_a_vision_transformer(tmp_path):
    """The path of DINO's ViT-S/8, on a small one of timm's: tokens of four blocks, at sizes other than it was trained
    at."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "test_vit"}')
    blocks = len(model.blocks)
    backbone = load_layers(str(tmp_path), layers=2)
    assert backbone.strides == (16, 16) and not any(p.requires_grad for p in backbone.parameters())
    size = model.patch_embed.img_size
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    normalised, last = (images - backbone.mean) / backbone.std, [blocks // 2 - 1, blocks - 1]
    expected = model.forward_intermediates(normalised, indices=last, intermediates_only=True)
    for ours, theirs in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert backbone(torch.rand(1, 3, 40, 64))[0].shape[-2:] == (3, 4)
    with pytest.raises(ValueError, match=f"has {blocks} blocks, asked for {blocks + 1} layers"):
        load_layers(str(tmp_path), layers=blocks + 1)
    assert load_layers("resnet-mini", strides=(4, 8)).strides == (4, 8)
    with pytest.raises(FileNotFoundError):
        load_layers("dino-vits8")
    assert load_layers("dino-vits8", allow_mini=True).resolved.is_mini


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 2e-2), ("fp16", 2e-3)])
@pytest.mark.slow
def test_networks_in_short_precision_and_a_float32_state(sgm, esm, splits, precision, tolerance):
    images, keys = splits[1]["image"], splits[1]["key"]
    for detector in (sgm, esm, esm.with_settings(ESMSigma)):
        short = detector.with_settings(inference_precision=precision)
        exact, q = detector.predict(images, keys), short.predict(images, keys)
        assert (q.reconstruction - exact.reconstruction).norm() <= tolerance * exact.reconstruction.norm()
        assert not torch.equal(q.reconstruction, exact.reconstruction)
        assert q.score.dtype == q.anomaly_map.dtype == q.reconstruction.dtype == torch.float32
        assert {p.dtype for p in short.network_.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="inference_precision must be one of"):
        sgm.with_settings(inference_precision="int8")


@pytest.mark.gpu
def test_on_a_gpu(splits):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    detector = ESM(**SMALL | {"device": "cuda"}).fit(splits[0])
    assert torch.isfinite(detector.predict(splits[1]["image"], splits[1]["key"]).score).all()

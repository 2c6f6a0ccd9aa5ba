"""Repair of latents and the plain autoencoder, on tiny random autoencoders of every kind that there is."""

import dataclasses
import functools
import json

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file

from diffad_utils import data
from diffad_utils.analyses import survival
from diffad_utils.methods import METHODS, Prediction
from diffad_utils.methods.autoencoder import Autoencoder, bottleneck_config
from diffad_utils.methods.latent_unet import LatentUNet, pixel_loss
from diffad_utils.metrics.counterfactual import absolute_error
from diffad_utils.models.autoencoders import encode, properties, reconstruct
from diffad_utils.models.stable_diffusion import load_vae

SIZE = 64
KL = dict(
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    block_out_channels=(8, 8, 8, 8),
    layers_per_block=1,
    norm_num_groups=4,
)
TINY = dict(
    encoder_block_out_channels=(8, 8, 8, 8),
    decoder_block_out_channels=(8, 8, 8, 8),
    num_encoder_blocks=(1, 1, 1, 1),
    num_decoder_blocks=(1, 1, 1, 1),
)
SD3 = dict(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)
AUTOENCODERS = {
    "kl4": lambda: AutoencoderKL(**KL, latent_channels=4, mid_block_add_attention=False),
    "kl16": lambda: AutoencoderKL(**KL, **SD3, latent_channels=16),
    "kl32": lambda: AutoencoderKL(**KL, latent_channels=32, scaling_factor=0.41407, mid_block_add_attention=False),
    "tiny4": lambda: AutoencoderTiny(**TINY, latent_channels=4),
    "tiny16": lambda: AutoencoderTiny(**TINY, latent_channels=16),
}
SMALL = {
    "latent_unet": dict(width=8, train_steps=8, train_batch_size=2, warmup_steps=1),
    "autoencoder": dict(train_steps=8, train_batch_size=2, warmup_steps=1, crop=32),
}
CASES = [("latent_unet", name) for name in AUTOENCODERS]
CASES += [("autoencoder", name) for name in ("kl4", "kl16", "kl32", "tiny4")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoencoders")
    for name, build in AUTOENCODERS.items():
        torch.manual_seed(0)
        build().save_pretrained(root / name)
    return {name: str(root / name) for name in AUTOENCODERS}


@pytest.fixture(scope="module")
def splits():
    index = data.load_index("textures", category="carpet")
    train = index[index["split"] == "train"].head(12)
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(3)
    return data.ImageDataset(train, size=SIZE), data.load_batch(data.ImageDataset(test, size=SIZE))


@pytest.fixture(scope="module")
def build(folders):
    def build(method, vae, **options):
        return METHODS[method](vae=folders[vae], image_size=SIZE, device="cpu", **SMALL[method] | options)

    return build


@pytest.fixture(scope="module")
def fitted(build, splits):
    return {case: build(*case).fit(splits[0]) for case in CASES}


# -- the contract ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_prediction(case, fitted, splits):
    batch, detector = splits[1], fitted[case]
    prediction = detector.predict(batch["image"], batch["key"])
    assert isinstance(prediction, Prediction) and prediction.nfe == 0
    assert prediction.score.shape == (6,) and prediction.score.dtype == torch.float32
    assert prediction.anomaly_map.shape == (6, SIZE, SIZE) and prediction.reconstruction.shape == (6, 3, SIZE, SIZE)
    assert prediction.reconstruction.min() >= 0 and prediction.reconstruction.max() <= 1
    assert set(prediction.parts) == set(detector.PARTS)
    error = (batch["image"] - prediction.reconstruction).square().mean(dim=(1, 2, 3))
    assert torch.allclose(prediction.parts["mse"], error)
    assert torch.allclose(prediction.parts["peak"], prediction.anomaly_map.amax(dim=(1, 2)))
    expected = sum(
        (prediction.parts[name].double() - detector.calibration_.location[name]) / detector.calibration_.scale[name]
        for name in ("mse", "peak")
    )
    assert torch.allclose(prediction.score, expected.float())
    assert torch.equal(detector.reconstruct(batch["image"], batch["key"]), prediction.reconstruction)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_an_image_alone_equals_the_image_in_a_batch(case, fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    together = fitted[case].predict(images, keys)
    for i in (0, 4):
        alone = fitted[case].predict(images[i : i + 1], keys[i : i + 1])
        assert torch.allclose(alone.anomaly_map, together.anomaly_map[i : i + 1], atol=1e-5, rtol=1e-5)
        for name, part in together.parts.items():
            assert torch.allclose(alone.parts[name], part[i : i + 1], atol=1e-6, rtol=1e-5)
        assert torch.allclose(alone.score, together.score[i : i + 1], atol=1e-3, rtol=1e-4)
    order = [5, 2, 0, 4, 1, 3]
    shuffled = fitted[case].predict(images[order], [keys[i] for i in order])
    assert torch.allclose(shuffled.reconstruction, together.reconstruction[order], atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_save_and_load(case, fitted, splits, tmp_path):
    fitted[case].save(tmp_path)
    loaded = METHODS[case[0]].load(tmp_path, device="cpu")
    before, after = (d.predict(splits[1]["image"], splits[1]["key"]) for d in (fitted[case], loaded))
    assert torch.equal(before.score, after.score) and torch.equal(before.reconstruction, after.reconstruction)
    assert dataclasses.asdict(loaded) == dataclasses.asdict(fitted[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c[1] in ("kl4", "tiny4")], ids="-".join)
def test_same_seed_same_detector(case, build, fitted, splits):
    again, other = build(*case).fit(splits[0]), build(*case, seed=1).fit(splits[0])
    scores = [d.predict(splits[1]["image"]).score for d in (fitted[case], again, other)]
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


@pytest.mark.parametrize("method", SMALL)
def test_bad_input(method, build, fitted, splits):
    detector = fitted[method, "kl4"]
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        detector.predict(torch.zeros(1, 1, SIZE, SIZE))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        detector.predict(torch.full((1, 3, SIZE, SIZE), 255.0))
    for call in ("predict", "reconstruct"):
        with pytest.raises(RuntimeError, match="not fitted"):
            getattr(build(method, "kl4"), call)(splits[1]["image"])
    with pytest.raises(RuntimeError, match="not fitted"):
        build(method, "kl4").save("nowhere")
    index = data.load_index("textures", category="carpet")
    with pytest.raises(ValueError, match="anomalous"):
        build(method, "kl4").fit(data.ImageDataset(index[index["split"] == "test"], size=SIZE))
    with pytest.raises(FileNotFoundError):
        METHODS[method](vae="/nowhere/at/all", device="cpu").fit(splits[0])
    for score in ("", "mse+mse", "ssim"):
        with pytest.raises(ValueError, match="score must be"):
            build(method, "kl4", score=score)


@pytest.mark.parametrize("method", SMALL)
def test_any_image_size(method, fitted):
    prediction = fitted[method, "kl4"].predict(torch.rand(2, 3, 50, 90))
    assert prediction.anomaly_map.shape == (2, 50, 90) and prediction.reconstruction.shape == (2, 3, 50, 90)


def test_survival_table_takes_a_detector(fitted):
    index = data.load_index("textures", category="carpet")
    dataset = data.ImageDataset(index[index["label"] == 1].head(3), size=SIZE)
    table = survival.survival_table(fitted["latent_unet", "kl4"].reconstruct, dataset)
    assert len(table) == 3 and table["survival"].notna().all()


# -- latent UNet -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vae", ["kl4", "kl16", "tiny4"])
def test_training_starts_from_the_plain_autoencoder(vae, build, splits):
    detector = build("latent_unet", vae, train_steps=1, learning_rate=1e-12).fit(splits[0])
    images = splits[1]["image"]
    assert torch.allclose(detector.reconstruct(images), reconstruct(detector.vae_, images), atol=1e-5)
    assert detector.predict(images).parts["displacement"].max() < 1e-12


@pytest.mark.parametrize("vae", ["kl4", "kl16"])
@pytest.mark.slow
def test_repair_brings_reconstructions_nearer_to_normal_images(vae, build, splits):
    detector = build("latent_unet", vae, train_steps=60, train_batch_size=8, learning_rate=1e-2).fit(splits[0])
    normal = splits[1]["image"][splits[1]["label"] == 0]  # not seen in training
    plain = absolute_error(normal, reconstruct(detector.vae_, normal)).mean()
    repaired = absolute_error(normal, detector.reconstruct(normal)).mean()
    assert repaired < 0.98 * plain
    assert all(not p.requires_grad and p.grad is None for p in detector.vae_.parameters())


@pytest.mark.slow
def test_the_latent_objective_learns_to_remove_noise(build, splits):
    options = dict(objective="latent", noise_std=0.5, train_steps=50, train_batch_size=8, learning_rate=5e-3)
    detector = build("latent_unet", "kl4", **options).fit(splits[0])
    with torch.no_grad():
        z = encode(detector.vae_, splits[1]["image"])
        noise = 0.5 * torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        left = z + noise + detector._f(detector.unet_, z + noise) - z
    assert left.square().mean() < 0.8 * noise.square().mean()


def test_the_spectral_term_changes_the_repair(build, splits, fitted):
    other = build("latent_unet", "kl4", spectral_weight=1.0).fit(splits[0])
    scores = [d.predict(splits[1]["image"]).score for d in (other, fitted["latent_unet", "kl4"])]
    assert not torch.equal(*scores)


def test_pixel_loss_of_known_differences():
    x = torch.rand(2, 3, 8, 16)
    assert pixel_loss(x, x, 1.0) == 0
    assert pixel_loss(x + 0.25, x).item() == pytest.approx(0.25, rel=1e-5)
    # a constant has one Fourier coefficient of 128, sqrt(128) times itself
    assert pixel_loss(x + 0.25, x, 2.0).item() == pytest.approx(0.25 + 2 * 0.25 * 128**0.5 / 128, rel=1e-4)


def test_without_training_it_is_the_plain_autoencoder(build, splits, tmp_path):
    detector = build("latent_unet", "kl16", train_steps=0).fit(splits[0])
    prediction = detector.predict(splits[1]["image"])
    assert torch.allclose(prediction.reconstruction, reconstruct(detector.vae_, splits[1]["image"]), atol=1e-6)
    assert prediction.score.std() > 0 and (prediction.parts["displacement"] == 0).all()
    detector.save(tmp_path)
    assert torch.equal(LatentUNet.load(tmp_path, device="cpu").predict(splits[1]["image"]).score, prediction.score)


def test_score_by_displacement(build, splits):
    detector = build("latent_unet", "kl4", score="displacement").fit(splits[0])
    prediction = detector.predict(splits[1]["image"])
    assert torch.equal(prediction.score.argsort(), prediction.parts["displacement"].argsort())


@pytest.mark.slow
def test_default_size_and_bad_settings(build, fitted, splits):
    vae = fitted["latent_unet", "kl4"].vae
    detector = LatentUNet(vae=vae, image_size=SIZE, device="cpu", train_steps=1).fit(splits[0])
    assert 2e6 < sum(p.numel() for p in detector.unet_.parameters()) <= 4e6
    for options in ({"objective": "both"}, {"noise_std": 0.0}, {"spectral_weight": -1.0}, {"width": 12}):
        with pytest.raises(ValueError, match=next(iter(options))):
            build("latent_unet", "kl4", **options)
    with pytest.raises(ValueError, match="multiple of 16"):
        LatentUNet(vae=vae, image_size=72, device="cpu").fit(splits[0])


def test_refuses_another_autoencoder(fitted, tmp_path):
    fitted["latent_unet", "kl4"].save(tmp_path)
    record = json.loads((tmp_path / "detector.json").read_text())
    record["values"]["vae_sha256"] = "0" * 64
    (tmp_path / "detector.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="fitted with weights 000000000000, but here vae = "):
        LatentUNet.load(tmp_path, device="cpu")


@pytest.mark.slow
def test_an_interrupted_training_goes_on(build, splits, fitted, tmp_path, monkeypatch):
    from diffad_utils.training import loop, settings

    class Interrupted(Exception):
        pass

    detector = build("latent_unet", "kl4")
    with monkeypatch.context() as patch:
        original, calls = loop.step_generator, []

        def stop(seed, step, *more):
            calls.append(step)
            if step == 6:
                raise Interrupted
            return original(seed, step, *more)

        patch.setattr(loop, "step_generator", stop)
        patch.setattr(settings, "train", functools.partial(loop.train, checkpoint_every=4))
        with pytest.raises(Interrupted):
            detector.fit(splits[0], tmp_path)
    resumed = build("latent_unet", "kl4").fit(splits[0], tmp_path)
    assert resumed.training_log_.resumed_from == 4
    parts = [d.predict(splits[1]["image"]).parts["mse"] for d in (resumed, fitted["latent_unet", "kl4"])]
    assert torch.allclose(*parts, rtol=1e-4)


# -- plain autoencoder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vae", ["kl4", "kl16", "kl32", "tiny4"])
def test_same_size_and_latent_shape_as_the_autoencoder_taken(vae, fitted):
    detector = fitted["autoencoder", vae]
    template = fitted["latent_unet", vae].vae_
    assert properties(detector.model_, SIZE) == properties(template, SIZE)
    weights = template.state_dict()
    assert any(not torch.equal(value, weights[name]) for name, value in detector.model_.state_dict().items())


@pytest.mark.slow
def test_learns_to_reconstruct(build, splits):
    detector = build("autoencoder", "kl4", train_steps=30, train_batch_size=4, learning_rate=3e-3).fit(splits[0])
    losses = detector.training_log_.losses
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_pretrained_starts_from_the_weights_given(build, splits):
    detector = build("autoencoder", "kl4", pretrained=True, train_steps=1, learning_rate=1e-12).fit(splits[0])
    template = reconstruct(load_vae(detector.vae, device="cpu"), splits[1]["image"])
    assert torch.allclose(detector.reconstruct(splits[1]["image"]), template, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("vae", ["kl4", "tiny4"])
@pytest.mark.parametrize("channels, factor", [(16, 4), (32, 8), (None, 4), (4, 2)])
def test_another_bottleneck(vae, channels, factor, build, splits, tmp_path):
    detector = build("autoencoder", vae, latent_channels=channels, downsampling=factor, train_steps=1).fit(splits[0])
    known = properties(detector.model_, SIZE)
    assert known["latent_shape"] == (channels or 4, SIZE // factor, SIZE // factor)
    with torch.no_grad():
        assert encode(detector.model_, splits[1]["image"]).shape[1:] == known["latent_shape"]
    detector.save(tmp_path)
    loaded = Autoencoder.load(tmp_path, device="cpu")
    assert torch.equal(loaded.reconstruct(splits[1]["image"]), detector.reconstruct(splits[1]["image"]))


@pytest.mark.slow
@pytest.mark.parametrize("channels, factor", [(16, None), (4, None), (None, 4), (8, 2)])
def test_pretrained_with_another_bottleneck_keeps_what_fits(channels, factor, build, splits):
    options = dict(
        pretrained=True, latent_channels=channels, downsampling=factor, train_steps=1, learning_rate=1e-12, seed=3
    )
    model = build("autoencoder", "kl4", **options).fit(splits[0]).model_
    template = load_vae(build("autoencoder", "kl4").vae, device="cpu")
    own, given, missing = model.state_dict(), template.state_dict(), 3 - (factor or 8).bit_length() + 1
    shared = [
        name for name in own if name.startswith("encoder.down_blocks.0.resnets") or name.startswith("decoder.conv_out")
    ]
    assert shared and all(torch.allclose(own[name], given[name]) for name in shared)
    coarsest, follows = (
        "decoder.up_blocks.0.resnets.0.conv2.weight",
        f"decoder.up_blocks.{missing}.resnets.0.conv2.weight",
    )
    assert torch.allclose(own[coarsest], given[follows])
    for name in ("encoder.conv_out.weight", "decoder.conv_in.weight"):
        assert own[name].shape != given[name].shape or not torch.allclose(own[name], given[name], atol=1e-3)


def test_a_saved_autoencoder_does_not_need_the_one_it_was_modelled_on(build, splits, tmp_path):
    torch.manual_seed(1)
    AUTOENCODERS["tiny4"]().save_pretrained(tmp_path / "vae")
    options = dict(vae=str(tmp_path / "vae"), image_size=SIZE, device="cpu", **SMALL["autoencoder"])
    detector = Autoencoder(**options).fit(splits[0])
    detector.save(tmp_path / "detector")
    (tmp_path / "vae").rename(tmp_path / "gone")
    loaded = Autoencoder.load(tmp_path / "detector", device="cpu")
    assert torch.equal(loaded.reconstruct(splits[1]["image"]), detector.reconstruct(splits[1]["image"]))
    assert set(load_file(tmp_path / "detector" / "detector.safetensors")) == set(detector.model_.state_dict())


def test_bad_settings_of_the_autoencoder(build, splits, fitted):
    with pytest.raises(ValueError, match="AutoencoderKL"):
        build("autoencoder", "tiny4", pretrained=True, latent_channels=16).fit(splits[0])
    for factor in (3, 16, 1):
        with pytest.raises(ValueError, match="power of 2 from 2 to 8"):
            bottleneck_config(fitted["autoencoder", "kl4"].model_, downsampling=factor)
    given = dict(vae=fitted["autoencoder", "kl4"].vae, device="cpu", image_size=SIZE)
    for options in ({"crop": 12}, {"crop": 128}, {"crop": -8}, {"image_size": 60}):
        with pytest.raises(ValueError, match="multiples of the downsampling 8"):
            Autoencoder(**given | options).fit(splits[0])

"""The DDPM of images: from scratch, and from a pretrained folder with most of it frozen."""

import dataclasses
import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from diffad_utils import data
from diffad_utils.diffusion import NoiseSchedule, image_noise
from diffad_utils.methods import METHODS, pixel_ddpm
from diffad_utils.methods.pixel_ddpm import PixelDDPM, load_ddpm, unfreeze, x0_loss

SIZE = 32
SMALL = dict(
    image_size=SIZE,
    device="cpu",
    block_out_channels=(8, 8),
    train_steps=6,
    train_batch_size=2,
    warmup_steps=1,
    num_steps=3,
)


def new_unet(**options):
    torch.manual_seed(0)
    levels = 4
    return UNet2DModel(
        **dict(
            sample_size=SIZE,
            block_out_channels=(8,) * levels,
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            add_attention=False,
        )
        | options
    )


@pytest.fixture(scope="module")
def google(tmp_path_factory):
    """Everything in one folder, as google/ddpm-celebahq-256 has it."""
    folder = tmp_path_factory.mktemp("ddpm")
    new_unet().save_pretrained(folder)
    DDPMScheduler(beta_end=0.01).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(splits, google):
    options = {"scratch": {}, "pretrained": {"weights": str(google)}}
    return {kind: PixelDDPM(**SMALL, **more).fit(splits[0]) for kind, more in options.items()}


KINDS = ["scratch", "pretrained"]


def test_is_registered():
    assert METHODS["pixel_ddpm"] is PixelDDPM


@pytest.mark.parametrize("kind", KINDS)
def test_prediction(kind, fitted, splits):
    batch = splits[1]
    prediction = fitted[kind].predict(batch["image"], batch["key"])
    assert prediction.score.shape == (6,) and prediction.score.dtype == torch.float32
    assert prediction.anomaly_map.shape == (6, 64, 64) and prediction.reconstruction.shape == (6, 3, 64, 64)
    assert prediction.reconstruction.min() >= 0 and prediction.reconstruction.max() <= 1
    assert set(prediction.parts) == {"mse", "peak"} and prediction.nfe == 3
    assert torch.isfinite(prediction.score).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_alone_equals_the_image_in_a_batch(kind, fitted, splits):
    images, keys = splits[1]["image"], splits[1]["key"]
    together = fitted[kind].predict(images, keys)
    for i in (0, 4):
        alone = fitted[kind].predict(images[i : i + 1], keys[i : i + 1])
        assert torch.allclose(alone.reconstruction, together.reconstruction[i : i + 1], atol=1e-4)
        assert torch.allclose(alone.score, together.score[i : i + 1], atol=1e-3, rtol=1e-3)
    order = [5, 2, 0, 4, 1, 3]
    shuffled = fitted[kind].predict(images[order], [keys[i] for i in order])
    assert torch.allclose(shuffled.reconstruction, together.reconstruction[order], atol=1e-4)


def test_the_noise_depends_on_the_key_and_the_seed_alone(fitted, splits):
    images, keys = splits[1]["image"][:2], splits[1]["key"][:2]
    detector = fitted["scratch"]
    first = detector.reconstruct(images, keys)
    assert torch.equal(first, detector.reconstruct(images, keys))
    assert not torch.allclose(first, detector.reconstruct(images, ["other", "keys"]), atol=1e-3)
    assert torch.allclose(detector.reconstruct(images)[1:], detector.reconstruct(images[1:]), atol=1e-5)


@pytest.mark.parametrize("noise_timestep, num_steps", [(1, 1), (250, 10), (250, 3), (999, 7), (30, 30)])
def test_a_network_that_knows_the_noise_gives_the_image_back(noise_timestep, num_steps, fitted, splits, monkeypatch):
    """DDIM with the true noise is exact at every step, whatever the steps are."""
    detector, keys = fitted["scratch"], splits[1]["key"]
    noise, seen = image_noise((3, SIZE, SIZE), detector.seed, keys), []

    def eps(x, t):
        seen.append(t.tolist())
        return noise

    monkeypatch.setattr(detector, "predict_noise", eps)
    images = torch.nn.functional.avg_pool2d(splits[1]["image"], 2)
    assert torch.allclose(detector.reconstruct(images, keys, noise_timestep, num_steps), images, atol=2e-4)
    assert len(seen) == num_steps and seen[0] == [noise_timestep] * 6
    assert all(before > after for before, after in zip([t[0] for t in seen], [t[0] for t in seen][1:]))


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, fitted, splits, tmp_path):
    fitted[kind].save(tmp_path)
    loaded = PixelDDPM.load(tmp_path, device="cpu")
    before, after = (d.predict(splits[1]["image"], splits[1]["key"]) for d in (fitted[kind], loaded))
    assert torch.equal(before.score, after.score) and torch.equal(before.anomaly_map, after.anomaly_map)
    assert json.dumps(dataclasses.asdict(loaded)) == json.dumps(dataclasses.asdict(fitted[kind]))


@pytest.mark.slow
def test_same_seed_same_detector(fitted, splits):
    scores = [d.predict(splits[1]["image"]).score for d in (fitted["scratch"], PixelDDPM(**SMALL).fit(splits[0]))]
    assert torch.equal(*scores)
    assert not torch.equal(scores[0], PixelDDPM(**SMALL, seed=1).fit(splits[0]).predict(splits[1]["image"]).score)


def test_the_reconstruction_term_is_the_error_of_the_estimated_image():
    """A network that knows the noise has none; one that says "no noise" leaves all of it, over the share of signal."""
    schedule, generator = NoiseSchedule.linear(), torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 3, 8, 8, generator=generator) for _ in range(2))
    t = torch.tensor([1, 20, 50, 400])
    assert float(x0_loss(lambda x, t: noise, x0, t, noise, schedule)) < 1e-5
    ratio = (1 / schedule.alphas_cumprod[t] - 1).sqrt().view(4, 1, 1, 1)
    left = float(x0_loss(lambda x, t: torch.zeros_like(x), x0, t, noise, schedule))
    assert left == pytest.approx(float((ratio * noise.abs()).mean()), rel=1e-4)


def test_the_reconstruction_term_is_added_at_the_levels_that_are_visited(splits, monkeypatch):
    seen = []

    def spy(eps_fn, x0, t, noise, schedule):
        seen.append((x0, t))
        return x0_loss(eps_fn, x0, t, noise, schedule)

    monkeypatch.setattr(pixel_ddpm, "x0_loss", spy)
    own = PixelDDPM(**SMALL).fit(splits[0])
    assert not seen
    with_term = PixelDDPM(**SMALL, reconstruction_weight=1.0, noise_timestep=30).fit(splits[0])
    assert len(seen) == SMALL["train_steps"] and all(1 <= int(t.min()) <= int(t.max()) <= 30 for _, t in seen)
    assert all(float(x0.min()) >= -1 and x0.shape == (2, 3, SIZE, SIZE) for x0, _ in seen)
    before, after = (d.unet_.conv_out.weight for d in (own, with_term))
    assert not torch.equal(before, after)
    with pytest.raises(ValueError, match="reconstruction_weight must be at least 0, got -1"):
        PixelDDPM(reconstruction_weight=-1)


@pytest.mark.slow
def test_learns_to_predict_the_noise(splits):
    more = dict(block_out_channels=(16, 16), train_steps=40, train_batch_size=4, learning_rate=3e-3)
    losses = PixelDDPM(**SMALL | more).fit(splits[0]).training_log_.losses
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def test_only_the_chosen_blocks_are_trained_and_saved(fitted, google, tmp_path):
    before = load_file(google / "diffusion_pytorch_model.safetensors")
    blocks = ("down_blocks.3.", "mid_block.", "up_blocks.2.", "up_blocks.3.")
    after = fitted["pretrained"].unet_.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(blocks) for name in changed)
    assert all(any(name.startswith(block) for name in changed) for block in blocks)
    fitted["pretrained"].save(tmp_path)
    saved = load_file(tmp_path / "detector.safetensors")
    assert set(saved) == {name for name in before if name.startswith(blocks)}
    fitted["scratch"].save(tmp_path / "scratch")
    assert set(load_file(tmp_path / "scratch" / "detector.safetensors")) == set(fitted["scratch"].unet_.state_dict())


def test_refuses_other_pretrained_weights(fitted, tmp_path):
    fitted["pretrained"].save(tmp_path)
    record = json.loads((tmp_path / "detector.json").read_text())
    record["values"]["weights_sha256"] = "0" * 64
    (tmp_path / "detector.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="fitted with weights 000000000000, but here weights = "):
        PixelDDPM.load(tmp_path, device="cpu")


def test_both_layouts_of_a_pretrained_folder(google, tmp_path):
    unet, schedule = load_ddpm(google)
    assert schedule.T == 1000 and schedule.betas[-1].item() == pytest.approx(0.01)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(beta_end=0.01)).save_pretrained(tmp_path / "pipeline")
    other, other_schedule = load_ddpm(tmp_path / "pipeline")
    assert torch.equal(other_schedule.betas, schedule.betas)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), other.parameters(), strict=True))
    unet.save_pretrained(tmp_path / "alone")
    assert torch.equal(load_ddpm(tmp_path / "alone")[1].betas, NoiseSchedule.linear().betas)


def test_refuses_other_models_before_training(google, splits, tmp_path):
    new_unet(out_channels=6).save_pretrained(tmp_path / "variance")
    new_unet(num_class_embeds=10).save_pretrained(tmp_path / "classes")
    new_unet().save_pretrained(tmp_path / "velocity")
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "velocity")
    new_unet().save_pretrained(tmp_path / "partly")
    file = tmp_path / "partly" / "diffusion_pytorch_model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if not name.startswith("mid_block")}
    save_file(kept, file, {"format": "pt"})
    new_unet().save_pretrained(tmp_path / "another")
    config = json.loads((tmp_path / "another" / "config.json").read_text()) | {"_class_name": "UNet2DConditionModel"}
    (tmp_path / "another" / "config.json").write_text(json.dumps(config))
    reasons = {"variance": "6 out", "classes": "classes: 10", "velocity": "v_prediction", "partly": "lacks"}
    reasons["another"] = "UNet2DConditionModel"
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            PixelDDPM(**SMALL, weights=str(tmp_path / name)).fit(splits[0])
    with pytest.raises(FileNotFoundError):
        PixelDDPM(**SMALL, weights="/nowhere/at/all").fit(splits[0])


def test_unfreeze_takes_whole_blocks_only():
    unet = new_unet()
    unfreeze(unet, ("up_blocks.3", "mid_block"))
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith(("up_blocks.3.", "mid_block.")) for name in trained)
    for blocks in (("up_blocks.4",), ("mid",), ("mid_block", "up_block"), ()):
        with pytest.raises(ValueError, match=r"trainable must name blocks.*mid_block.*up_blocks\.3"):
            unfreeze(unet, blocks)


def test_bad_settings(fitted, splits):
    for options in ({"noise_timestep": 2}, {"num_steps": 0}, {"noise_timestep": 0}):
        with pytest.raises(ValueError, match="num_steps <= noise_timestep"):
            PixelDDPM(**SMALL | options)
    with pytest.raises(ValueError, match="less than the model's 1000"):
        PixelDDPM(**SMALL | {"noise_timestep": 1000}).fit(splits[0])
    with pytest.raises(ValueError, match="multiples of 2, got 33"):
        PixelDDPM(**SMALL | {"image_size": 33}).fit(splits[0])
    with pytest.raises(ValueError, match="score must be"):
        PixelDDPM(**SMALL, score="displacement")
    with pytest.raises(ValueError, match="num_steps <= noise_timestep"):
        fitted["scratch"].reconstruct(splits[1]["image"], None, 5, 6)
    with pytest.raises(RuntimeError, match="not fitted"):
        PixelDDPM(**SMALL).predict(splits[1]["image"])
    with pytest.raises(RuntimeError, match="not fitted"):
        PixelDDPM(**SMALL).save("nowhere")
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fitted["scratch"].predict(torch.full((1, 3, 64, 64), 255.0))
    index = data.load_index("textures", category="carpet")
    with pytest.raises(ValueError, match="anomalous"):
        PixelDDPM(**SMALL).fit(data.ImageDataset(index[index["split"] == "test"], size=SIZE))

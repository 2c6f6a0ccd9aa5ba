"""Training of the small VAE, CLIP and Stable Diffusion: short runs of the very code that made the shipped ones."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from diffad_utils import training
from diffad_utils.foundation import autoencoder, captioned, clip, quality, text_to_image
from diffad_utils.foundation.captioned import FAMILIES, STATES
from diffad_utils.foundation.records import obtain


@pytest.fixture(scope="module")
def pairs():
    return captioned.draw_pairs(36, seed=3)


@pytest.fixture(scope="module")
def vae(pairs):
    return autoencoder.train_autoencoder(pairs, num_steps=20, batch_size=8, crop=64, lr=2e-3)


@pytest.mark.slow
def test_autoencoder_learns(pairs, vae):
    model, log = vae
    assert np.mean(log.losses[-5:]) < 0.75 * np.mean(log.losses[:2])
    assert not model.training


@pytest.mark.slow
def test_latents_are_normalized_and_nothing_else_changes(pairs):
    model = autoencoder.new_autoencoder(1).eval()
    images = pairs.images[:4, 0]
    before = autoencoder.reconstruct(model, images)
    autoencoder.normalize_latents(model, pairs)
    assert np.abs(autoencoder.reconstruct(model, images) - before).max() < 1e-4
    latents = autoencoder.encode(model, pairs.images[:, 0])
    assert latents.shape == (36, 4, 16, 16)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3


@pytest.mark.slow
def test_half_precision_on_disk_costs_nothing_measurable(pairs, vae):
    """Rounded to float16 and back, the VAE returns the same to a small part of a grey level."""
    exact = vae[0]
    rounded = autoencoder.new_autoencoder()
    rounded.load_state_dict({name: value.half().float() for name, value in exact.state_dict().items()})
    images = pairs.images[:4, 0]
    difference = autoencoder.reconstruct(rounded.eval(), images) - autoencoder.reconstruct(exact, images)
    assert np.sqrt(np.square(difference).mean()) < 0.3 / 255


def test_psnr():
    images = np.random.default_rng(0).random((3, 8, 8, 3))
    assert np.allclose(autoencoder.psnr(images, images + 0.1), 20)


def test_crops_are_different_places_of_different_pictures(pairs):
    first, again = (autoencoder.draw_crops(pairs, torch.Generator().manual_seed(2), 6, 64) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (6, 3, 64, 64)
    assert -1 <= first.min() < first.max() <= 1
    assert all(not torch.equal(first[0], other) for other in first[1:])


@pytest.mark.slow
def test_decoder_alone_learns_the_mean_colour_at_the_size_of_use(pairs, vae):
    model = copy.deepcopy(vae[0])
    with torch.no_grad():
        model.decoder.conv_out.bias += 0.5  # a cast of 64 grey levels
    before = copy.deepcopy(model.state_dict())
    images = pairs.images[:18, 0, :64, :64]

    def cast():
        return np.abs((autoencoder.reconstruct(model, images) - images / 255).mean((0, 1, 2))).max()

    at_first = cast()
    autoencoder.train_decoder(pairs, model, num_steps=24, batch_size=8, crops=(64, 32), lr=3e-3)
    assert cast() < 0.6 * at_first
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)  # the latents stay valid
    assert all(parameter.requires_grad for parameter in model.parameters()) and not model.training


@pytest.mark.slow
def test_decoder_loss_is_squared_error_and_that_of_the_mean_colours(pairs, vae):
    images = captioned.to_tensor(pairs.images[:2, 0])
    plain, more = (
        autoencoder.decoder_loss(vae[0], images, torch.Generator().manual_seed(0), weight) for weight in (0.0, 3.0)
    )
    posterior = vae[0].encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(0))
    error = vae[0].decode(posterior.mean + posterior.std * noise).sample - images
    assert torch.isclose(plain, error.square().mean())
    assert torch.isclose(more - plain, 3 * error.mean((2, 3)).square().mean(), atol=1e-6)


@pytest.mark.slow
def test_an_interrupted_decoder_takes_the_same_steps(pairs, vae, tmp_path, monkeypatch):
    settings = dict(num_steps=4, batch_size=1, crops=(64, 32), checkpoint_every=2)
    straight, log = autoencoder.train_decoder(pairs, copy.deepcopy(vae[0]), **settings)
    draw, calls = autoencoder.draw_crops, []

    def fail_at_the_fourth(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(autoencoder, "draw_crops", fail_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        autoencoder.train_decoder(pairs, copy.deepcopy(vae[0]), **settings, checkpoint_folder=tmp_path)
    resumed, second = autoencoder.train_decoder(pairs, copy.deepcopy(vae[0]), **settings, checkpoint_folder=tmp_path)
    assert second.resumed_from == 2 and second.losses == log.losses
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_tiles_are_put_together_where_they_were():
    images = np.arange(2 * 16 * 16 * 3).reshape(2, 16, 16, 3)
    seen = []

    def change(tiles):
        seen.append(tiles)
        return tiles + 1

    assert np.array_equal(quality.as_tiles(images, 8, change), images + 1)
    assert seen[0].shape == (8, 8, 8, 3) and np.array_equal(seen[0][1], images[0, :8, 8:])


def test_quality_of_an_autoencoder_with_a_known_cast(monkeypatch):
    """The exact picture but for a cast: (+3, 0, -2) grey levels on whole pictures, none on tiles."""
    cast = np.array([3, 0, -2]) / 255

    def reconstruct(vae, images, batch_size=32):
        noise = np.where(np.indices(images.shape).sum(0) % 2, 2, -2) / 255
        return images / 255 + noise + (cast if images.shape[1] == 128 else 0)

    monkeypatch.setattr(autoencoder, "reconstruct", reconstruct)
    table = quality.autoencoder_quality(None, 2)
    assert list(table.category) == list(FAMILIES)
    assert np.allclose(table[["red", "green", "blue"]], [3, 0, -2], atol=0.02)
    assert np.allclose(table.colour, np.sqrt(13 / 3), atol=0.02)
    assert np.allclose(table.tiles, -20 * np.log10(2 / 255)) and np.allclose(table.gap, table.psnr - table.tiles)
    assert (table.gap < -3).all()
    sizes = quality.autoencoder_by_size(None, (64, 128), 2)
    assert list(sizes["size"]) == [64, 128] and np.allclose(sizes.largest, [0, 3], atol=0.02)


class OneNorm(torch.nn.Module):
    """An "autoencoder" of one normalisation, which adds `shift` to whole pictures before it."""

    def __init__(self, shift: float):
        super().__init__()
        self.shift, self.norm = shift, torch.nn.GroupNorm(3, 3)

    def encode(self, x):
        mean = x + (self.shift if x.shape[-1] == 128 else 0)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))

    def decode(self, latents):
        return SimpleNamespace(sample=self.norm(latents) * 0.1)


def test_borrowed_statistics_are_those_of_all_tiles_of_the_picture():
    plain, shifted = (quality.statistics_of_tiles(OneNorm(shift), 2) for shift in (0.0, 0.5))
    assert list(plain.category) == list(FAMILIES)
    assert np.allclose(plain.borrowed, plain.whole, atol=1e-3)  # pixel by pixel: all tiles together are the picture
    assert np.allclose(shifted.whole, plain.whole, atol=1e-3)  # its own statistics take a shift away
    assert (np.abs(shifted.borrowed - shifted.whole) > 0.1).all()  # those of the tiles do not
    assert np.allclose(shifted.tiles, plain.tiles)


@pytest.mark.slow
def test_hooks_of_the_measurement_are_gone_afterwards(vae):
    images = quality.normal_images("leather", 1)
    before = autoencoder.reconstruct(vae[0], images)
    assert np.isfinite(quality.statistics_of_tiles(vae[0], 1).drop(columns="category")).all(axis=None)
    assert np.array_equal(autoencoder.reconstruct(vae[0], images), before)


def test_contrastive_loss_with_several_right_answers():
    """With one right caption a picture it is CLIP's loss; with several, equal shares among them are best."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    scale = torch.tensor(2.0)
    plain = open_clip.ClipLoss()(u, v, scale.exp())
    assert torch.isclose(clip.contrastive_loss(u, v, scale, torch.eye(5, dtype=torch.bool)), plain)
    right = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    same = torch.eye(3)[[0, 0, 2]]
    best = clip.contrastive_loss(same, same, torch.tensor(np.log(100.0)), right)
    assert torch.isclose(best, torch.tensor(2 / 3 * np.log(2)).float(), atol=1e-4)


def test_clip_batch(pairs):
    batch = clip.draw_batch(pairs, torch.Generator().manual_seed(0), 10)
    assert batch["images"].shape == (20, 3, 128, 128) and len(batch["captions"]) == 20
    assert batch["right"].shape == (20, 20) and batch["right"].diagonal().all()
    assert not batch["mask"][:10].any() and batch["mask"][10:].flatten(1).any(1).all()
    difference = (batch["images"][:10] - batch["images"][10:]).abs().amax(1)
    assert ((difference > 0.02 / 0.25) == batch["mask"][10:].bool()).float().mean() > 0.99


@pytest.fixture(scope="module")
def small_clip(pairs):
    return clip.train_clip(pairs, num_steps=14, num_pairs=8, lr=2e-3)


@pytest.mark.slow
def test_clip_learns_and_is_opened_by_open_clip(pairs, small_clip, tmp_path):
    model, log = small_clip
    assert np.mean(log.losses[-3:]) < np.mean(log.losses[:3])
    folder = clip.save_clip(model, tmp_path / "clip")
    opened, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    opened.eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    assert torch.equal(tokenize(["a wire mesh"]), clip.tokenizer()(["a wire mesh"]))
    images = pairs.images[:4, 0]
    with torch.no_grad():
        there = opened.encode_image(clip.preprocess(images), normalize=True)
    assert torch.allclose(there, clip.image_features(model, images), atol=0.02)
    from PIL import Image

    assert torch.allclose(preprocess(Image.fromarray(images[0])), clip.preprocess(images)[0], atol=1e-5)


def test_tokenizer_spells_any_text():
    tokenizer = text_to_image.new_tokenizer(text_to_image.all_captions())
    assert len(tokenizer) < 1000
    for text in ("a woven carpet with a hole", "sks, 3 cats!"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.replace(
            " ", ""
        )
    tokens = text_to_image.tokens_of(tokenizer, ["", "a wire mesh"])
    assert tokens.shape == (2, text_to_image.TEXT_LENGTH) and tokens.max() < len(tokenizer)
    again = text_to_image.new_tokenizer(text_to_image.all_captions())
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.slow
def test_text_to_image_learns_and_is_opened_by_diffusers(pairs, vae, tmp_path):
    tokenizer = text_to_image.new_tokenizer(text_to_image.all_captions())
    latents = text_to_image.encode_pairs(vae[0], pairs)
    model, log = text_to_image.train_text_to_image(pairs, latents, tokenizer, num_steps=16, batch_size=8, lr=2e-3)
    assert np.mean(log.losses[-4:]) < np.mean(log.losses[:2])
    folder = text_to_image.save_pipeline(text_to_image.assemble(vae[0], model, tokenizer), tmp_path / "sd")
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear" and pipeline.vae_scale_factor == 8
    saved = dict(pipeline.text_encoder.named_parameters())
    for name, value in model.text_encoder.named_parameters():  # not silently left at random
        assert torch.allclose(saved[name], value, atol=2e-3), name
    images = captioned.to_tensor(pairs.images[:2, 0]).add(1).div(2)
    out = pipeline(
        prompt=["a wire mesh"] * 2, image=images, strength=0.5, num_inference_steps=4, output_type="np"
    ).images
    assert out.shape == (2, 128, 128, 3) and np.isfinite(out).all()
    files = {file.name for file in folder.rglob("*") if file.is_file()}
    assert {"vocab.json", "merges.txt", "model_index.json"} <= files
    assert not any(name.endswith((".bin", ".pt", ".ckpt")) for name in files)


@pytest.mark.slow
def test_an_interrupted_training_takes_the_same_steps(pairs, tmp_path, monkeypatch):
    """Also the running statistics of batch normalisation come back."""
    settings = dict(num_steps=6, num_pairs=4, checkpoint_every=2)
    straight, log = clip.train_clip(pairs, **settings)
    draw, calls = clip.draw_batch, []

    def fail_at_the_fifth(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return draw(*arguments)

    monkeypatch.setattr(clip, "draw_batch", fail_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        clip.train_clip(pairs, **settings, checkpoint_folder=tmp_path)
    resumed, second = clip.train_clip(pairs, **settings, checkpoint_folder=tmp_path)
    assert second.resumed_from == 4 and second.losses == log.losses
    for (name, one), other in zip(straight.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.slow
def test_two_stages_of_clip_resume_too(pairs, tmp_path):
    settings = dict(num_steps=2, blurred_steps=2, num_pairs=4, seed=3)
    first, log = clip.train_in_two_stages(pairs, **settings, checkpoint_folder=tmp_path)
    again, second = clip.train_in_two_stages(pairs, **settings, checkpoint_folder=tmp_path)  # stage 1 is there already
    assert log.losses == second.losses and len(log.losses) == 4
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_blurred_pairs_stay_pairs(pairs):
    sharp, blurred = (clip.draw_batch(pairs, torch.Generator().manual_seed(1), 8, share) for share in (0.0, 1.0))
    roughness = [batch["images"].diff(dim=-1).square().mean((1, 2, 3)) for batch in (sharp, blurred)]
    assert (roughness[1] < roughness[0]).all()
    assert torch.equal(sharp["mask"], blurred["mask"]) and sharp["captions"] == blurred["captions"]


def test_a_finished_model_is_opened_and_not_made_again(tmp_path):
    made = []

    def train(value, device, checkpoint_folder):
        made.append(value)
        return value, training.TrainingLog([3.0, 2.0, 1.0], 60.0)

    def save(value, folder):
        folder.mkdir(parents=True)
        (folder / "model").write_text(str(value))

    def load(folder):
        return int((folder / "model").read_text())

    for _ in range(2):
        value, record = obtain(tmp_path / "m", {"value": 7}, train, save, load)
        assert value == 7 and record["losses"] == [3.0, 2.0, 1.0] and record["minutes"] == 1.0
    assert made == [7]
    assert json.loads((tmp_path / "m" / "training.json").read_text())["settings"] == {"value": 7}
    with pytest.raises(ValueError, match="other settings|trained with"):
        obtain(tmp_path / "m", {"value": 8}, train, save, load)


@pytest.mark.slow
def test_scores_and_names_have_one_value_an_image(pairs, small_clip):
    images = pairs.images[:5, 1]
    names = clip.name_families(small_clip[0], images)
    scores = clip.zero_shot_scores(small_clip[0], images, "carpet")
    assert names.shape == scores.shape == (5,) and set(names) <= set(range(len(FAMILIES)))
    assert np.allclose(scores[2], clip.zero_shot_scores(small_clip[0], images[2:3], "carpet"), atol=1e-4)
    assert len(STATES) == 12

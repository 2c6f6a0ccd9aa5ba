"""Stable Diffusion, its autoencoders and CLIP: the real classes with few and random weights, written to disk in the
released layouts and loaded through `weights.resolve`."""

import dataclasses
import json
import os
import re
import shutil
import time

import numpy as np
import open_clip
import pytest
import timm
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import constants
from PIL import Image
from released_layouts import (
    KL,
    NARROW,
    OLD_ATTENTION,
    V15_UNET,
    original_file,
    original_vae,
    rename,
    write_stable_diffusion,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from diffad_utils import weights
from diffad_utils.models import clip
from diffad_utils.models.backbones import load_backbone
from diffad_utils.models.clip import load_clip
from diffad_utils.models.stable_diffusion import clip_tokenizer, load_pipeline, load_vae, single_file_configs


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory):
    """SD v1.5's layout and classes, with narrow layers."""
    text = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=1)
    return write_stable_diffusion(tmp_path_factory.mktemp("sd") / "tiny", NARROW, {}, text)


@pytest.fixture(scope="module")
def sd_file(sd_folder):
    return original_file(sd_folder, sd_folder.parent / "single" / "v1-5-pruned-emaonly.safetensors")


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """Nothing but what the test puts there: no variable, an empty cache, no network."""
    monkeypatch.delenv("DIFFAD_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def in_hub_cache(tmp_path, hub_id, folder):
    """Put a folder into the Hugging Face cache under a hub id."""
    repository = tmp_path / "cache" / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(folder, target_is_directory=True)


def pictures(number=2, size=64):
    values = np.random.default_rng(0).integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(value).resize((size, size), Image.Resampling.BICUBIC) for value in values]


def image_to_image(pipeline, number=2, steps=4):
    return pipeline(
        ["a woven carpet"] * number,
        image=pictures(number),
        strength=0.5,
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images


# --- Stable Diffusion


@pytest.mark.slow
def test_folder_is_what_diffusers_itself_opens(sd_folder):
    pipeline = load_pipeline(str(sd_folder), device="cpu")
    assert pipeline.resolved.source == "path" and pipeline.resolved.path == sd_folder
    assert pipeline.safety_checker is None and not pipeline.config.requires_safety_checker
    assert type(pipeline.scheduler) is DDIMScheduler
    expected = dict(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    assert expected.items() <= dict(pipeline.scheduler.config).items()
    assert not any(p.requires_grad for part in (pipeline.unet, pipeline.vae) for p in part.parameters())
    theirs = StableDiffusionImg2ImgPipeline.from_pretrained(
        sd_folder, safety_checker=None, feature_extractor=None, requires_safety_checker=False, local_files_only=True
    )
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    ours = image_to_image(pipeline)
    assert ours.shape == (2, 64, 64, 3) and ours.std() > 0.01
    np.testing.assert_allclose(ours, image_to_image(theirs), atol=1e-4)


@pytest.mark.slow
def test_single_file_gives_the_same_pictures(sd_folder, sd_file, capfd):
    pipeline = load_pipeline(str(sd_file), device="cpu")
    assert pipeline.resolved.path == sd_file
    np.testing.assert_allclose(
        image_to_image(pipeline), image_to_image(load_pipeline(str(sd_folder), device="cpu")), atol=1e-4
    )
    assert load_pipeline(str(sd_file.parent), device="cpu").resolved.path == sd_file.parent  # alone in its folder
    captured = capfd.readouterr()
    assert "it/s" not in captured.err + captured.out  # no progress bars


@pytest.mark.slow
def test_hub_cache(sd_folder, tmp_path, monkeypatch):
    in_hub_cache(tmp_path, "someone/tiny-sd", sd_folder)
    pipeline = load_pipeline("someone/tiny-sd", device="cpu")
    assert pipeline.resolved.source == "hf-cache" and "someone/tiny-sd" in pipeline.resolved.message
    assert image_to_image(pipeline, 1).shape == (1, 64, 64, 3)
    # and the name "sd15", if the narrow layers were its own
    known = weights.KNOWN["sd15"]
    forms = tuple(tuple(weights.Part(part.subfolder, {}) for part in form) for form in known.forms)
    monkeypatch.setitem(weights.KNOWN, "sd15", dataclasses.replace(known, forms=forms, signature=forms))
    in_hub_cache(tmp_path, known.hub_ids[0], sd_folder)
    assert load_pipeline(device="cpu").resolved.source == "hf-cache"


@pytest.mark.slow
def test_half_precision_with_little_memory(sd_folder):
    full = load_pipeline(str(sd_folder), device="cpu")
    half = load_pipeline(str(sd_folder), device="cpu", dtype=torch.float16, low_memory=True)
    assert {part.dtype for part in (half.unet, half.vae, half.text_encoder)} == {torch.float16}
    assert half.vae.use_slicing and half.vae.use_tiling and not full.vae.use_tiling
    processors = {type(processor).__name__ for processor in half.unet.attn_processors.values()}
    assert processors == {"SlicedAttnProcessor"}
    assert np.isfinite(image_to_image(half)).all()
    sliced = load_pipeline(str(sd_folder), device="cpu", low_memory=True)
    np.testing.assert_allclose(image_to_image(sliced), image_to_image(full), atol=1e-4)
    generator = torch.Generator().manual_seed(0)
    latents, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 8, 8), (2, 77, 64)))
    with torch.no_grad():
        for call in (
            lambda p, t: p.unet(latents.to(t), 500, context.to(t)).sample,
            lambda p, t: p.vae.decode(latents.to(t)).sample,
        ):
            expected = call(full, torch.float32)
            error = (call(half, torch.float16).float() - expected).norm() / expected.norm()
            assert 0 < error < 0.03


@pytest.mark.slow
def test_folder_with_half_precision_files_only(sd_folder, tmp_path):
    folder = shutil.copytree(sd_folder, tmp_path / "copy")
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    pipeline = load_pipeline(str(folder), device="cpu")
    np.testing.assert_array_equal(image_to_image(pipeline), image_to_image(load_pipeline(str(sd_folder), device="cpu")))


def test_text_to_image_from_the_same_parts(sd_folder):
    parts = load_pipeline(str(sd_folder), device="cpu").components
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a carpet", height=64, width=64, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 64, 64, 3)


def test_configs_of_the_real_file():
    """The numbers of SD v1.5's own config.json files, from the shapes of its tensors."""
    unet, first, text = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
    shapes = {
        f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
        f"{unet}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{unet}out.2.weight": (4, 320, 3, 3),
        f"{first}decoder.conv_in.weight": (512, 4, 3, 3),
        f"{first}quant_conv.weight": (8, 8, 1, 1),
        f"{first}post_quant_conv.weight": (4, 4, 1, 1),
        f"{text}embeddings.position_embedding.weight": (77, 768),
        f"{text}embeddings.token_embedding.weight": (49408, 768),
    }
    widths = (320, 640, 1280, 1280)
    shapes |= {f"{unet}input_blocks.{n}.0.out_layers.3.weight": (w, w, 3, 3) for n, w in zip((1, 4, 7, 10), widths)}
    widths = (128, 256, 512, 512)
    shapes |= {f"{first}encoder.down.{n}.block.0.conv2.weight": (w, w, 3, 3) for n, w in enumerate(widths)}
    shapes |= {f"{text}encoder.layers.{n}.mlp.fc1.weight": (3072, 768) for n in range(12)}
    configs = single_file_configs(shapes)
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet2DConditionModel.from_config(configs["unet"]).parameters()) == 859_520_964
        assert sum(p.numel() for p in AutoencoderKL.from_config(configs["vae"]).parameters()) == 83_653_863
        text_encoder = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    assert sum(p.numel() for p in text_encoder.parameters()) == 123_060_480
    assert configs["text_encoder"]["num_attention_heads"] == 12 and configs["vae"]["scaling_factor"] == 0.18215
    del shapes[f"{unet}input_blocks.10.0.out_layers.3.weight"]
    with pytest.raises(ValueError, match="expected a Stable Diffusion 1.x file .* got none with .*input_blocks.10"):
        single_file_configs(shapes)


def test_tokenizer_is_that_of_stable_diffusion(sd_folder):
    tokenizer = clip_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    texts = ["A flawless WOVEN carpet, with (a hole)!", "it's 3.5 naïve  ü 日本 🙂", ""]
    padded = tokenizer(texts, padding="max_length", truncation=True).input_ids
    ours = [[token for token in row if token != 49407] for row in padded]
    theirs = [[token for token in row if token not in (0, 49407)] for row in open_clip.tokenize(texts).tolist()]
    assert ours == theirs and {len(row) for row in padded} == {77}
    saved = load_pipeline(str(sd_folder), device="cpu").tokenizer
    assert saved(texts, padding="max_length", truncation=True).input_ids == padded


@pytest.mark.slow
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("stored", ["folder", "file"])
def test_a_missing_tensor_is_an_error(sd_folder, sd_file, tmp_path, part, stored):
    beginning = {
        "unet": "model.diffusion_model.middle_block.0",
        "vae": "first_stage_model.decoder.mid",
        "text_encoder": "cond_stage_model.transformer.text_model.final_layer_norm",
    }
    if stored == "folder":
        path = shutil.copytree(sd_folder, tmp_path / "copy")
        file = next((path / part).glob("*.safetensors"))
        state = load_file(file)
        gone = next(name for name in state if re.search(r"^mid_block|^decoder\.mid|final_layer_norm", name))
    else:
        path = file = tmp_path / "v1.safetensors"
        state = load_file(sd_file)
        gone = next(name for name in state if name.startswith(beginning[part]))
    del state[gone]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is not a whole (UNet2DConditionModel|AutoencoderKL|CLIPTextModel)"):
        load_pipeline(str(path), device="cpu")


def test_what_is_no_stable_diffusion(sd_folder, tmp_path):
    folder = shutil.copytree(sd_folder, tmp_path / "copy", ignore=shutil.ignore_patterns("unet"))
    with pytest.raises(ValueError, match="has no unet"):
        load_pipeline(str(folder), device="cpu")
    UNet2DConditionModel(**V15_UNET, **NARROW, in_channels=9).save_pretrained(folder / "unet")  # inpainting
    with pytest.raises(ValueError, match="takes 9 channels .* expected 4"):
        load_pipeline(str(folder), device="cpu")
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="w.safetensors: expected a Stable Diffusion 1.x file"):
        load_pipeline(str(tmp_path / "w.safetensors"), device="cpu")


def test_offline_without_weights_is_an_error_at_once():
    start = time.perf_counter()
    for name, load in (("sd15", load_pipeline), ("vae:sd15", load_vae), ("ViT-B-32/openai", load_clip)):
        with pytest.raises(FileNotFoundError) as error:
            load(device="cpu")
        message = str(error.value)
        assert message.startswith(f"weights: {name} was not found. Tried:")
        assert all(way in message for way in ("into $DIFFAD_WEIGHTS/", "attach them on Kaggle", "with the network on"))
    assert time.perf_counter() - start < 5


# --- autoencoders


def tiny_kl(channels):
    torch.manual_seed(0)
    scaling = dict(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)
    return AutoencoderKL(**KL, latent_channels=channels, **(scaling if channels == 16 else {})).eval()


@pytest.mark.slow
@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("family", ["kl", "tiny"])
def test_autoencoder_folders(tmp_path, family, channels):
    torch.manual_seed(0)
    model = tiny_kl(channels) if family == "kl" else AutoencoderTiny(latent_channels=channels)
    model.save_pretrained(tmp_path / "alone")
    vae = load_vae(str(tmp_path / "alone"), device="cpu")
    assert type(vae) is type(model) and not vae.training and vae.resolved.name == f"vae:{tmp_path / 'alone'}"
    assert all(vae.config[key] == model.config[key] for key in ("scaling_factor", "shift_factor"))
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    encoded = vae.encode(images)
    latents = encoded.latents if family == "tiny" else encoded.latent_dist.mode()
    assert latents.shape == (1, channels, 8, 8)
    torch.testing.assert_close(
        vae.decode(latents).sample, model.decode(latents).sample, rtol=1e-4, atol=1e-4
    )  # channels last round otherwise


def test_real_tiny_autoencoder_by_name_from_the_hub_cache_and_by_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = AutoencoderTiny()  # TAESD's own size
    model.save_pretrained(tmp_path / "taesd")
    in_hub_cache(tmp_path, "madebyollin/taesd", tmp_path / "taesd")
    for name in ("taesd", "vae:taesd", "madebyollin/taesd"):
        vae = load_vae(name, device="cpu")
        assert isinstance(vae, AutoencoderTiny) and vae.resolved.source == "hf-cache"
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "taesd.safetensors").symlink_to(tmp_path / "taesd" / "diffusion_pytorch_model.safetensors")
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    vae = load_vae("taesd", device="cpu", dtype=torch.float16)
    assert vae.resolved.source == "env" and vae.dtype == torch.float16
    assert torch.equal(vae.decoder.layers[0].weight, model.decoder.layers[0].weight.half())


@pytest.mark.slow
def test_autoencoder_of_a_pipeline_and_of_a_single_file(sd_folder, sd_file):
    reference = load_pipeline(str(sd_folder), device="cpu").vae
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    for path in (sd_folder, sd_folder / "vae", sd_file):
        vae = load_vae(str(path), device="cpu")
        assert vae.config.scaling_factor == 0.18215 and vae.config.latent_channels == 4
        torch.testing.assert_close(vae.encode(images).latent_dist.mode(), reference.encode(images).latent_dist.mode())


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["original", "diffusers", "old diffusers"])
def test_autoencoder_in_a_lone_file(tmp_path, layout):
    model = tiny_kl(4)
    state = model.state_dict()
    if layout != "diffusers":
        state = {rename(name, OLD_ATTENTION): value for name, value in state.items()}
    save_file(original_vae(state) if layout == "original" else state, tmp_path / "vae.safetensors")
    vae = load_vae(str(tmp_path / "vae.safetensors"), device="cpu")
    latents = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(
        vae.decode(latents).sample, model.decode(latents).sample, rtol=1e-4, atol=1e-4
    )  # channels last round otherwise


def test_sixteen_channels_in_a_lone_file_need_a_name(tmp_path, monkeypatch):
    save_file(tiny_kl(16).state_dict(), tmp_path / "vae-flux.safetensors")
    with pytest.raises(ValueError, match="16 latent channels and no config.json"):
        load_vae(str(tmp_path / "vae-flux.safetensors"), device="cpu")
    known = weights.KNOWN["vae:flux"]
    monkeypatch.setitem(weights.KNOWN, "vae:flux", dataclasses.replace(known, forms=(), signature=()))
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    vae = load_vae("flux", device="cpu")
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (0.3611, 0.1159)
    assert vae.quant_conv is None and vae.config.latent_channels == 16


def test_what_is_no_autoencoder(tmp_path):
    model = tiny_kl(4)
    model.save_pretrained(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps({**config, "_class_name": "VQModel"}))
    with pytest.raises(ValueError, match="'VQModel', expected AutoencoderKL or AutoencoderTiny"):
        load_vae(str(tmp_path / "a"), device="cpu")
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="not those of an AutoencoderKL"):
        load_vae(str(tmp_path / "w.safetensors"), device="cpu")


# --- CLIP

MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)


@pytest.fixture(scope="module")
def clip_config():
    """ViT-B/32's configuration with one layer in each tower."""
    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = config["text_cfg"]["layers"] = 1
    return config


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory, clip_config):
    """In the layout of the hub's timm/vit_base_patch32_clip_224.openai, float16 as OpenAI's values are."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    state = open_clip.CLIP(**clip_config, quick_gelu=True).state_dict()
    save_file({name: value.half() for name, value in state.items()}, folder / "open_clip_model.safetensors")
    preprocess = dict(
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        interpolation="bicubic",
        resize_mode="shortest",
    )
    content = dict(model_cfg=clip_config | dict(quick_gelu=True), preprocess_cfg=preprocess)
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def tiny_clip(clip_folder):
    return load_clip(str(clip_folder), device="cpu")


def activation(model):
    return type(model.model.visual.transformer.resblocks[0].mlp.gelu).__name__


@pytest.mark.slow
def test_clip_folder_is_what_open_clip_itself_opens(tiny_clip, clip_folder, capfd):
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    texts, images = ["a carpet", "a carpet with a hole"], torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.encode_text(open_clip.tokenize(texts), normalize=True)
        torch.testing.assert_close(tiny_clip.encode_texts(texts), expected)
        expected = theirs.encode_image((images - MEAN) / STD, normalize=True)
        torch.testing.assert_close(tiny_clip.encode_images(images), expected)
    assert tiny_clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    assert {p.dtype for p in tiny_clip.model.parameters()} == {torch.float32} and not tiny_clip.model.training
    assert activation(tiny_clip) == "QuickGELU"


def test_clip_features_have_unit_length_and_let_gradients_through(tiny_clip):
    images = torch.rand(2, 3, 100, 80, requires_grad=True)
    features = tiny_clip.encode_images(images)
    assert features.shape == (2, 512) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    features[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0 and all(p.grad is None for p in tiny_clip.model.parameters())
    torch.testing.assert_close(tiny_clip.encode_texts(["a", "b " * 200]).norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("shape", [(300, 301), (120, 200), (224, 224), (333, 250)])
def test_clip_tensor_path_is_close_to_open_clips_transform(tiny_clip, shape):
    rng = np.random.default_rng(1)
    picture = Image.fromarray(rng.integers(64, 192, (*shape, 3), dtype=np.uint8))  # no overshoot to be cut off
    theirs = tiny_clip.preprocess(picture)[None]
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    ours = clip.resize(images, 224)
    steps = 255 * (theirs * STD + MEAN - ours).abs()
    assert steps.mean() < 0.5 and steps.max() < 4
    with torch.no_grad():
        cosine = tiny_clip.encode_images(images) @ tiny_clip.model.encode_image(theirs, normalize=True).T
    assert cosine > 0.999


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 3, 8, 8).byte(),
        torch.full((1, 3, 8, 8), -0.5),
        torch.full((1, 3, 8, 8), 2.0),
    ],
)
def test_clip_bad_images(tiny_clip, bad):
    with pytest.raises(ValueError, match=r"clip: expected .*images .*in \[0, 1\]"):
        tiny_clip.encode_images(bad)


@pytest.mark.slow
def test_clip_by_name_from_environment_and_hub_cache(clip_folder, tmp_path, monkeypatch):
    in_hub_cache(tmp_path, "timm/vit_base_patch32_clip_224.openai", clip_folder)
    assert load_clip(device="cpu").resolved.source == "hf-cache"
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "clip-vit-b32").symlink_to(clip_folder, target_is_directory=True)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    found = load_clip("ViT-B-32/openai", device="cpu").resolved
    assert found.source == "env" and found.name == "ViT-B-32/openai"


@pytest.mark.slow
def test_clip_lone_file_takes_its_activation_from_its_name(clip_folder, clip_config, tmp_path, monkeypatch):
    file = tmp_path / "w" / "ViT-B-32" / "laion2b_s34b_b79k.safetensors"
    file.parent.mkdir(parents=True)
    os.link(clip_folder / "open_clip_model.safetensors", file)
    with pytest.raises(ValueError, match="not a whole open_clip model as ViT-B-32"):  # 12 layers expected
        load_clip(str(file), device="cpu")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", clip_config)
    assert activation(load_clip(str(file), device="cpu")) == "QuickGELU"
    assert activation(load_clip(str(file), device="cpu", architecture="ViT-B-32/laion2b_s34b_b79k")) == "GELU"
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    named = load_clip("ViT-B-32/laion2b_s34b_b79k", device="cpu")
    assert activation(named) == "GELU" and named.resolved.source == "env"
    assert activation(load_clip("ViT-B-32/openai", device="cpu")) == "QuickGELU"  # by its tensors


def test_what_is_no_clip(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"vision_model.embeddings.patch_embedding.weight": torch.zeros(768, 3, 32, 32)}, file)
    with pytest.raises(ValueError, match="layout of transformers, expected that of open_clip"):
        load_clip(str(tmp_path), device="cpu")
    save_file({"w": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="nothing tells what .* is, got architecture=None"):
        load_clip(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="got architecture='ViT-B-32'"):
        load_clip(str(tmp_path), device="cpu", architecture="ViT-B-32")
    save_file({"w": torch.zeros(1)}, tmp_path / "second.safetensors")
    with pytest.raises(ValueError, match="found model.safetensors, second.safetensors"):
        load_clip(str(tmp_path), device="cpu")


@pytest.mark.slow
def test_clip_never_opens_a_pickle(clip_folder, tmp_path):
    """open_clip's own search takes open_clip_pytorch_model.bin before a model.safetensors."""
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"not to be opened")
    (tmp_path / "open_clip_config.json").symlink_to(clip_folder / "open_clip_config.json")
    (tmp_path / "open_clip_model.safetensors").symlink_to(clip_folder / "open_clip_model.safetensors")
    assert load_clip(str(tmp_path), device="cpu").resolved.source == "path"
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="clip: .*model.safetensors is not a whole open_clip model as ViT-B-32"):
        load_clip(str(tmp_path), device="cpu")


# --- feature backbones by timm's names


def test_backbone_by_timm_name_needs_no_config(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = timm.create_model("resnet10t").eval()
    (tmp_path / "resnet10t").mkdir()
    save_file(model.state_dict(), tmp_path / "resnet10t" / "model.safetensors")
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    backbone = load_backbone("resnet10t", strides=(4, 8))
    images = torch.rand(1, 3, 64, 64)
    expected = model.forward_intermediates((images - backbone.mean) / backbone.std, intermediates_only=True)
    torch.testing.assert_close(backbone(images)[1], expected[2], rtol=1e-4, atol=1e-4)
    assert load_backbone("resnet18", random_seed=0).channels == [64, 64, 128, 256]


def test_backbone_without_a_pyramid_is_refused(tmp_path):
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "test_vit"}')
    with pytest.raises(ValueError, match="test_vit has features at one stride only .16., expected a network with"):
        load_backbone(str(tmp_path))


# --- the true size


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("low_memory", [False, True])
def test_true_stable_diffusion_within_8_gigabytes(tmp_path, monkeypatch, low_memory):
    text = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    unet = dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768)
    vae = dict(block_out_channels=(128, 256, 512, 512))
    with torch.device("cuda"):
        folder = write_stable_diffusion(tmp_path / "sd15", unet, vae, text, torch.float16)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    pipeline = load_pipeline("sd15", low_memory=low_memory)
    assert pipeline.unet.dtype == torch.float16 and pipeline.resolved.path == folder
    images = pipeline("a carpet", image=pictures(1, 512), strength=0.5, num_inference_steps=10, output_type="np").images
    assert images.shape == (1, 512, 512, 3) and np.isfinite(images).all()
    assert torch.cuda.max_memory_reserved() < 8 * 2**30

"""Where weights are looked for, what is taken for them, and what is refused."""

import dataclasses
import hashlib
import json
import math
import os
import sys

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from diffad_utils import cli, weights

RESOLVE, SEARCH = (sys.modules[f"diffad_utils.weights.{name}"] for name in ("resolve", "search"))

RESNET34 = {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer3.5.conv2.weight": torch.zeros(256, 256, 3, 3)}
CLIP = {"visual.conv1.weight": torch.zeros(768, 3, 32, 32), "text_projection": torch.zeros(512, 512)}
VAE = {"decoder.conv_in.weight": torch.zeros(512, 4, 3, 3), "encoder.conv_in.weight": torch.zeros(128, 3, 3, 3)}
UNET_CONTEXT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
UNET = {UNET_CONTEXT: torch.zeros(320, 768), "conv_in.weight": torch.zeros(320, 4, 3, 3)}
TEXT = {"text_model.embeddings.token_embedding.weight": torch.zeros(49408, 768, dtype=torch.float16)}


def write(file, tensors):
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def stable_diffusion(folder):
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", UNET)
    write(folder / "vae" / "diffusion_pytorch_model.safetensors", VAE)
    write(folder / "text_encoder" / "model.safetensors", TEXT)
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Nothing but what the test puts there: no variable, an empty cache, no network."""
    monkeypatch.delenv("DIFFAD_WEIGHTS", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"kaggle_root": tmp_path / "kaggle", "hf_cache": tmp_path / "cache"}
    return lambda name, **options: weights.resolve(name, **{**places, **options})


def cache_entry(cache, hub_id, tensors, name="model.safetensors"):
    """A repository in the layout of the Hugging Face cache."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    write(repository / "snapshots" / revision / name, tensors)
    (repository / "snapshots" / revision / "config.json").write_text("{}")
    return repository / "snapshots" / revision


def test_explicit_folder_and_file(alone, tmp_path):
    file = write(tmp_path / "my weights ü" / "model.safetensors", RESNET34)
    for path in (file.parent, file):
        found = alone(str(path))
        assert (found.source, found.path, found.is_mini) == ("path", path, False)
    assert found.sha256[:12] in found.message and "\n" not in found.message


def test_checksum_is_over_sorted_names_and_contents(tmp_path):
    write(tmp_path / "b" / "x.safetensors", {"w": torch.ones(2)})
    write(tmp_path / "a.safetensors", {"w": torch.zeros(2)})
    (tmp_path / "notes.txt").write_text("not part of it")
    expected = hashlib.sha256()
    for name in ("a.safetensors", "b/x.safetensors"):
        expected.update(name.encode() + b"\0" + hashlib.sha256((tmp_path / name).read_bytes()).digest())
    assert weights.checksum(tmp_path) == expected.hexdigest()
    save_file({"w": torch.full((2,), 3.0)}, tmp_path / "a.safetensors")
    os.utime(tmp_path / "a.safetensors", ns=(1, 1))
    assert weights.checksum(tmp_path) != expected.hexdigest()


@pytest.mark.parametrize("folder", ["resnet34", "resnet34.a1_in1k", "timm/resnet34.a1_in1k"])
def test_environment(alone, tmp_path, monkeypatch, folder):
    name = "timm/resnet34.a1_in1k" if "/" in folder else "resnet34"
    write(tmp_path / "w" / folder / "model.safetensors", RESNET34)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    assert alone(name).source == "env"


def test_environment_comes_before_kaggle_and_cache(alone, tmp_path, monkeypatch):
    cache_entry(tmp_path / "cache", "timm/resnet34.a1_in1k", RESNET34)
    assert alone("resnet34").source == "hf-cache"
    write(tmp_path / "kaggle" / "anything" / "model.safetensors", RESNET34)
    assert alone("resnet34").source == "kaggle"
    write(tmp_path / "w" / "resnet34.safetensors", RESNET34)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    found = alone("resnet34")
    assert found.source == "env" and found.path.name == "resnet34.safetensors"


def test_environment_with_other_tensors_under_that_name(alone, tmp_path, monkeypatch):
    write(tmp_path / "resnet34" / "model.safetensors", CLIP)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match=r"called resnet34, but the tensors .* conv1.weight \[64, 3, 7, 7\]"):
        alone("resnet34")


def test_kaggle_is_recognised_by_files_not_names(alone, tmp_path):
    root = tmp_path / "kaggle"
    write(root / "resnet34" / "pytorch" / "x" / "1" / "model.safetensors", CLIP)  # misleading name
    write(root / "some-upload" / "weights.safetensors", RESNET34)
    stable_diffusion(root / "my model" / "pytorch" / "default" / "3")
    assert alone("clip-vit-b32").path == root / "resnet34" / "pytorch" / "x" / "1"
    assert alone("resnet34").path == root / "some-upload"
    assert alone("sd15").path == root / "my model" / "pytorch" / "default" / "3"
    vae = alone("vae:sd15")
    assert vae.path.name == "vae" and vae.name == "vae:sd15" and vae.source == "kaggle"
    assert vae.sha256 == weights.checksum(vae.path)


def test_kaggle_folder_with_several_networks_gives_the_matching_file(alone, tmp_path):
    root = tmp_path / "kaggle" / "all"
    write(root / "a.safetensors", CLIP)
    write(root / "b.safetensors", RESNET34)
    assert alone("resnet34").path == root / "b.safetensors"


def test_kaggle_broken_and_pickled_neighbours_do_not_stop_the_search(alone, tmp_path):
    root = tmp_path / "kaggle"
    (root / "a").mkdir(parents=True)
    (root / "a" / "model.safetensors").write_bytes(b"\x10")
    (root / "b").mkdir()
    (root / "b" / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(FileNotFoundError, match=r"a/model.safetensors"):
        alone("resnet34")
    write(root / "c" / "model.safetensors", RESNET34)
    assert alone("resnet34").path == root / "c"


def test_stable_diffusion_of_another_line_is_not_sd15(alone, tmp_path):
    folder = stable_diffusion(tmp_path / "kaggle" / "sd")
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", {**UNET, UNET_CONTEXT: torch.zeros(320, 1024)})
    with pytest.raises(FileNotFoundError, match="sd15 was not found"):
        alone("sd15")


def test_hugging_face_cache_also_with_a_plain_hub_id(alone, tmp_path):
    snapshot = cache_entry(tmp_path / "cache", "someone/anything", {"w": torch.zeros(3)})
    found = alone("someone/anything")
    assert (found.source, found.path) == ("hf-cache", snapshot)


def test_incomplete_cache_is_not_taken(alone, tmp_path):
    snapshot = cache_entry(tmp_path / "cache", "timm/resnet34.a1_in1k", RESNET34)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no safetensors file in it"):
        alone("resnet34")


def test_hub_is_not_asked_offline_and_gives_up_quickly(alone, monkeypatch, tmp_path):
    monkeypatch.setattr(SEARCH, "snapshot_download", _only_local(SEARCH.snapshot_download))
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        alone("resnet34")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(SEARCH, "hub_reachable", lambda endpoint: False)
    with pytest.raises(FileNotFoundError, match="does not answer"):
        alone("resnet34")


def _only_local(original):
    def download(*args, **options):
        assert options.get("local_files_only"), "the hub was asked"
        return original(*args, **options)

    return download


def test_hub_download(alone, monkeypatch, tmp_path):
    folder = write(tmp_path / "down" / "model.safetensors", RESNET34).parent
    original = SEARCH.snapshot_download
    monkeypatch.setattr(
        SEARCH,
        "snapshot_download",
        lambda *args, **o: original(*args, **o) if o.get("local_files_only") else str(folder),
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(SEARCH, "hub_reachable", lambda endpoint: True)
    assert alone("resnet34").source == "hub"


def test_unreachable_hub_answers_false_within_seconds():
    assert weights.hub_reachable("http://127.0.0.1:9", timeout=0.5) is False


def test_pickles_are_refused(alone, tmp_path, monkeypatch):
    (tmp_path / "resnet34").mkdir()
    (tmp_path / "resnet34" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    for name in (tmp_path / "resnet34", tmp_path / "resnet34" / "pytorch_model.bin"):
        with pytest.raises(ValueError, match="pytorch_model.bin.*[Pp]ickles"):
            alone(str(name))
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="Pickles can run code"):
        alone("resnet34")


def test_one_pickled_part_of_a_diffusers_folder_is_refused(alone, tmp_path):
    folder = stable_diffusion(tmp_path / "sd")
    assert alone(str(folder)).source == "path"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"vae holds no safetensors"):
        alone(str(folder))


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_truncated_file_is_named(alone, tmp_path, keep):
    file = write(tmp_path / "model.safetensors", RESNET34)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="model.safetensors.*whole"):
        alone(str(tmp_path))


def test_other_contents_are_named(alone, tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        alone(str(file))
    file.write_bytes((8).to_bytes(8, "little") + b"not json")
    with pytest.raises(ValueError, match="model.safetensors .*is not a whole safetensors file"):
        alone(str(file))
    file.with_suffix(".txt").write_text("x")
    with pytest.raises(ValueError, match="not a .safetensors file"):
        alone(str(file.with_suffix(".txt")))


def test_mini_only_where_allowed(alone):
    with pytest.raises(FileNotFoundError) as error:
        alone("efficientnet-b4")
    for place in ("DIFFAD_WEIGHTS", "kaggle", "cache", "tf_efficientnet_b4", "HF_HUB_OFFLINE", "allow_mini"):
        assert place in str(error.value)
    found = alone("efficientnet-b4", allow_mini=True)
    assert found.is_mini and found.source == "mini" and "stands in" in found.message
    asked_for = alone("resnet-mini")
    assert asked_for.is_mini and asked_for.sha256 == found.sha256


def test_real_weights_win_over_the_mini(alone, tmp_path):
    write(tmp_path / "kaggle" / "x.safetensors", RESNET34)
    assert not alone("resnet34", allow_mini=True).is_mini


def test_unknown_names(alone):
    with pytest.raises(ValueError, match="unknown name 'resnet35'.*resnet34.*resnet-mini"):
        alone("resnet35")
    with pytest.raises(ValueError, match="vae:sd15"):
        alone("vae:")
    with pytest.raises(FileNotFoundError, match="no file or folder /nowhere/at/all"):
        alone("/nowhere/at/all")


def test_identify(tmp_path):
    assert weights.identify(write(tmp_path / "a.safetensors", CLIP)) == "clip-vit-b32"
    assert weights.identify(write(tmp_path / "b.safetensors", {"w": torch.zeros(1)})) is None


# --- names of open_clip and timm, autoencoders, single files


def hollow(file, shapes):
    """A whole safetensors file of float16 zeros that takes no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        stream.truncate(8 + len(raw) + end)
    return file


def autoencoder(folder, channels, **config):
    hollow(
        folder / "diffusion_pytorch_model.safetensors",
        {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, channels, 3, 3)},
    )
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **config}))
    return folder


SINGLE_FILE = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
}


def test_open_clip_names(alone, tmp_path):
    file = "open_clip_model.safetensors"
    snapshot = cache_entry(tmp_path / "cache", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", CLIP, file)
    found = alone("ViT-B-32/laion2b_s34b_b79k")
    assert (found.source, found.path) == ("hf-cache", snapshot)
    for name in ("ViT-B-32/openai", "clip-vit-b32"):
        with pytest.raises(FileNotFoundError, match=rf"{name} was not found(.|\n)*hub: timm/vit_base_patch32_clip_224"):
            alone(name)
    cache_entry(tmp_path / "cache", "timm/vit_base_patch32_clip_224.openai", CLIP, file)
    first, second = alone("ViT-B-32/openai"), alone("clip-vit-b32")
    assert first.path == second.path and (first.name, second.name) == ("ViT-B-32/openai", "clip-vit-b32")
    with pytest.raises(ValueError, match="open_clip has no weights 'nobody' of ViT-B-32; it has openai, "):
        alone("ViT-B-32/nobody")


def test_what_shapes_cannot_tell_is_told_by_the_folders_name(alone, tmp_path):
    """OpenAI's and LAION's ViT-B/32 have the same tensors, as have two trainings of ResNet-34."""
    root = tmp_path / "kaggle"
    write(root / "a" / "open_clip_model.safetensors", CLIP)
    write(root / "b" / "model.safetensors", RESNET34)
    assert alone("clip-vit-b32").path == root / "a"
    for name in ("ViT-B-32/laion2b_s34b_b79k", "resnet34.tv_in1k", "timm/resnet34.tv_in1k"):
        with pytest.raises(FileNotFoundError, match="no folder whose path names "):
            alone(name)
    write(root / "clip-vit-b-32-laion2b-s34b-b79k" / "openclip" / "1" / "open_clip_model.safetensors", CLIP)
    assert "laion2b" in str(alone("ViT-B-32/laion2b_s34b_b79k").path)
    write(root / "resnet34-tv-in1k" / "pytorch" / "default" / "1" / "model.safetensors", CLIP)  # of that name only
    with pytest.raises(FileNotFoundError, match="resnet34.tv_in1k was not found"):
        alone("resnet34.tv_in1k")
    write(root / "resnet34-tv-in1k" / "pytorch" / "default" / "2" / "model.safetensors", RESNET34)
    assert alone("resnet34.tv_in1k").path == root / "resnet34-tv-in1k" / "pytorch" / "default" / "2"


VIT = {"patch_embed.proj.weight": (384, 3, 8, 8), "blocks.11.mlp.fc1.weight": (1536, 384)}
EFFICIENTNET = {"conv_stem.weight": (48, 3, 3, 3), "blocks.5.7.conv_pwl.weight": (272, 1632, 1, 1)}
WIDE_RESNET = {"conv1.weight": (64, 3, 7, 7), "layer3.5.conv2.weight": (512, 512, 3, 3)}


@pytest.mark.parametrize(
    ("name", "hub_id", "tensors"),
    [
        ("wide_resnet50_2", "timm/wide_resnet50_2.racm_in1k", WIDE_RESNET),
        ("resnet18", "timm/resnet18.a1_in1k", {"w": (1,)}),
        ("vit_small_patch8_224.dino", "timm/vit_small_patch8_224.dino", VIT),
        ("efficientnet_b4", "timm/efficientnet_b4.ra2_in1k", EFFICIENTNET),
    ],
)
def test_timm_names(alone, tmp_path, name, hub_id, tensors):
    hollow(cache_entry(tmp_path / "cache", hub_id, RESNET34) / "model.safetensors", tensors)
    found = alone(name)
    assert (found.name, found.source) == (name, "hf-cache") and hub_id in found.message
    assert alone("resnet50.a1_in1k", allow_mini=True).path == weights.MINI_ROOT / "resnet"
    with pytest.raises(ValueError, match="timm has no weights 'resnet34.nobody'; of resnet34 it has resnet34.a1_in1k"):
        alone("resnet34.nobody")


def test_autoencoders_are_told_apart_by_their_scaling_factor(alone, tmp_path):
    root = tmp_path / "kaggle"
    sdxl = autoencoder(root / "a", 4, scaling_factor=0.13025)
    sd3 = autoencoder(root / "b" / "sd3" / "vae", 16, scaling_factor=1.5305)
    flux = autoencoder(root / "c", 16, scaling_factor=0.3611)
    assert [alone(f"vae:{name}").path for name in ("sdxl", "sd3", "flux")] == [sdxl, sd3, flux]
    autoencoder(root / "d", 4)  # SD v1.5's, or any other with the default
    for name in ("vae:sd15", "vae:sd-vae-ft-mse", "vae:taesd"):
        with pytest.raises(FileNotFoundError, match=f"{name} was not found"):
            alone(name)
    named = autoencoder(root / "sd-vae-ft-mse", 4)
    assert alone("vae:sd-vae-ft-mse").path == named
    beside_its_unet = stable_diffusion(root / "z") / "vae"
    assert alone("vae:sd15").path == beside_its_unet


def test_tiny_autoencoders_go_by_whole_words(alone, tmp_path):
    for name, channels in (("taesdxl", 4), ("taesd", 4), ("taesd3", 16)):
        hollow(
            tmp_path / "kaggle" / name / "1" / "diffusion_pytorch_model.safetensors",
            {"encoder.layers.0.weight": (64, 3, 3, 3), "decoder.layers.0.weight": (64, channels, 3, 3)},
        )
    for name in ("taesd", "taesdxl", "taesd3"):
        assert alone(f"vae:{name}").path == tmp_path / "kaggle" / name / "1"
    with pytest.raises(FileNotFoundError):
        alone("vae:taef1")


def test_autoencoder_of_a_path_or_hub_id(alone, tmp_path):
    folder = stable_diffusion(tmp_path / "sd")
    assert alone(f"vae:{folder}").path == alone(f"vae:{folder / 'vae'}").path == folder / "vae"
    snapshot = cache_entry(tmp_path / "cache", "someone/pipeline", {"w": torch.zeros(1)}, "unet/model.safetensors")
    with pytest.raises(FileNotFoundError, match="not complete"):  # nothing but a UNet
        alone("vae:someone/pipeline")
    autoencoder(snapshot / "vae", 4)
    assert alone("vae:someone/pipeline").path == snapshot / "vae"
    with pytest.raises(ValueError, match="resnet34 has no autoencoder"):
        alone("vae:resnet34")
    with pytest.raises(ValueError, match="unknown name 'vae:sdxxl'.*vae:sdxl"):
        alone("vae:sdxxl")


@pytest.mark.parametrize("place", ["env", "kaggle", "path"])
def test_stable_diffusion_in_a_single_file(alone, tmp_path, monkeypatch, place):
    root = tmp_path / "kaggle" if place == "kaggle" else tmp_path / "w"
    file = hollow(root / "some" / "v1-5-pruned-emaonly.safetensors", SINGLE_FILE)
    if place == "env":
        monkeypatch.setenv("DIFFAD_WEIGHTS", str(root))
    found = alone(str(file) if place == "path" else "sd15")
    assert found.source == place and found.path in (file, file.parent)
    assert alone(f"vae:{file}" if place == "path" else "vae:sd15").path == found.path
    if place != "path":
        hollow(file.with_name("another.safetensors"), {"w": (1,)})
        assert alone("sd15").path == file  # of two files the one
    hollow(file, {**SINGLE_FILE, "model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)})  # inpainting
    if place != "path":
        with pytest.raises(FileNotFoundError):
            alone("sd15")


def test_environment_also_by_tensors(alone, tmp_path, monkeypatch):
    write(tmp_path / "w" / "whatever" / "model.safetensors", RESNET34)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    found = alone("resnet34")
    assert found.source == "env" and "recognised by its tensors" in found.message


def test_explicit_file_in_the_hub_cache_is_a_link_without_suffix(alone, tmp_path):
    blob = write(tmp_path / "blobs" / "x.safetensors", RESNET34).rename(tmp_path / "blobs" / "0123")
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert alone(str(tmp_path / "model.safetensors")).path == tmp_path / "model.safetensors"


def test_transformers_layout_of_clip_is_not_taken(alone, tmp_path):
    hollow(
        tmp_path / "kaggle" / "clip" / "model.safetensors",
        {"vision_model.embeddings.patch_embedding.weight": (768, 3, 32, 32), "text_projection.weight": (512, 512)},
    )
    with pytest.raises(FileNotFoundError, match="clip-vit-b32 was not found"):
        alone("clip-vit-b32")


def test_hub_is_not_asked_if_the_caller_says_so(alone, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(SEARCH, "snapshot_download", _only_local(SEARCH.snapshot_download))
    monkeypatch.setattr(SEARCH, "hub_reachable", lambda endpoint: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match="hub: not asked, as the caller wished"):
        alone("resnet34", hub=False)


def test_hub_repository_with_pickles_only(alone, monkeypatch, tmp_path):
    (tmp_path / "down").mkdir()
    original, down = SEARCH.snapshot_download, str(tmp_path / "down")
    monkeypatch.setattr(
        SEARCH, "snapshot_download", lambda *args, **o: original(*args, **o) if o.get("local_files_only") else down
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(SEARCH, "hub_reachable", lambda endpoint: True)
    with pytest.raises(FileNotFoundError, match="hub: someone/old: it has no safetensors files"):
        alone("someone/old")


def test_survey_and_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(RESOLVE, "KAGGLE_ROOT", tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(SEARCH, "hub_reachable", lambda endpoint: pytest.fail("the hub was asked"))
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path / "w"))
    write(tmp_path / "w" / "resnet34" / "model.safetensors", RESNET34)
    write(tmp_path / "w" / "dino-vits8" / "model.safetensors", RESNET34)
    hollow(tmp_path / "w" / "sd15.safetensors", {**SINGLE_FILE, "large": (2**15, 2**15)})
    rows = {row["name"]: row for row in weights.survey()}
    assert set(rows) == {*weights.KNOWN, *weights.MINI_NAMES}
    assert rows["resnet34"]["found"] == "env" and rows["resnet34"]["path"] == str(tmp_path / "w" / "resnet34")
    assert rows["resnet34"]["sha256"] == weights.checksum(tmp_path / "w" / "resnet34")[:12]
    assert rows["sd15"]["found"] == "env" and rows["sd15"]["sha256"] == "" and float(rows["sd15"]["size"]) > 1000
    assert rows["dino-vits8"]["found"] == "no" and "the tensors in its files are not" in rows["dino-vits8"]["path"]
    assert rows["clip-vit-b32"]["found"] == "no" and rows["clip-vit-b32"]["path"].startswith("hub: timm/")
    assert rows["resnet-mini"]["found"] == "mini" and rows["resnet-mini"]["role"] == "features"
    assert cli.main(["weights", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in rows) and str(tmp_path / "w" / "resnet34") in listed
    assert cli.main(["weights", "where", "resnet34"]) == 0
    assert str(tmp_path / "w" / "resnet34") in capsys.readouterr().out
    assert cli.main(["weights", "where", "wide_resnet50_2", "--no-mini"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("weights: wide_resnet50_2 was not found. Tried:")
    # the small model that would stand in is shown, and is no success: a script would go on with it
    assert cli.main(["weights", "where", "wide_resnet50_2"]) == 1 and "stands in" in capsys.readouterr().out
    assert cli.main(["weights", "where", "resnet-mini"]) == 0
    assert cli.main(["weights", "where", "nobody"]) == 1


# --- which network, and which training


RESNET50 = {**RESNET34, "layer1.0.conv3.weight": torch.zeros(256, 64, 1, 1)}


def test_a_resnet50_that_sorts_first_is_not_taken_for_a_resnet34(alone, tmp_path):
    root = tmp_path / "kaggle"
    write(root / "a-resnet-50" / "model.safetensors", RESNET50)
    with pytest.raises(FileNotFoundError, match="no folder whose safetensors files hold its tensors"):
        alone("resnet34")
    write(root / "b" / "model.safetensors", RESNET34)
    assert alone("resnet34").path == root / "b"
    write(root / "a-both" / "resnet50.safetensors", RESNET50)  # two networks in one folder
    file = write(root / "a-both" / "small.safetensors", RESNET34)
    assert alone("resnet34").path == file


def test_a_config_that_names_another_network_is_believed(alone, tmp_path):
    file = write(tmp_path / "kaggle" / "a" / "model.safetensors", RESNET34)
    (file.parent / "config.json").write_text(json.dumps({"architecture": "resnet34_of_mine"}))
    with pytest.raises(
        FileNotFoundError, match="has the shapes of resnet34, but its config.json says resnet34_of_mine"
    ):
        alone("resnet34")
    (file.parent / "config.json").write_text(
        json.dumps({"architecture": "resnet34", "pretrained_cfg": {"tag": "a1_in1k"}})
    )
    found = alone("resnet34")
    assert found.training_known and "the training by its config.json" in found.message


def test_what_nothing_says_is_said(alone, tmp_path):
    """Shapes alone tell no training: the message and the record say so, and a folder's name mends it."""
    root = tmp_path / "kaggle"
    write(root / "upload" / "open_clip_model.safetensors", CLIP)
    found = alone("clip-vit-b32")
    assert not found.training_known and found.known == "clip-vit-b32"
    assert "has the shapes of clip-vit-b32, training not known" in found.message
    write(root / "x" / "clip-vit-b32" / "open_clip_model.safetensors", CLIP)  # deeper and later, but named
    found = alone("clip-vit-b32")
    assert found.training_known and found.path == root / "x" / "clip-vit-b32"
    assert "the training by its name" in found.message


@pytest.mark.parametrize("how", ["its name says laion2b", "its open_clip_config.json says quick_gelu False"])
def test_laions_clip_is_not_taken_for_openais(alone, tmp_path, how):
    folder = tmp_path / "kaggle" / ("clip-laion2b" if "name" in how else "clip")
    write(folder / "open_clip_model.safetensors", CLIP)
    if "config" in how:
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 512}}))
    with pytest.raises(FileNotFoundError, match=f"has the shapes of clip-vit-b32, but {how}"):
        alone("clip-vit-b32")


def test_stable_diffusion_1_4_is_not_taken_for_1_5(alone, tmp_path):
    root = tmp_path / "kaggle"
    stable_diffusion(root / "stable-diffusion-v1-4" / "pytorch" / "default" / "1")
    with pytest.raises(FileNotFoundError, match="has the shapes of sd15, but its name says v1-4"):
        alone("sd15")
    fine_tune = stable_diffusion(root / "my-fine-tune")
    found = alone("sd15")
    assert found.path == fine_tune and not found.training_known
    real = stable_diffusion(root / "stable-diffusion-v1-5" / "pytorch" / "default" / "1")
    found = alone("sd15")
    assert found.path == real and found.training_known
    assert alone("vae:sd15").path == real / "vae"


def test_a_known_checksum_says_the_training(alone, tmp_path, monkeypatch):
    file = write(tmp_path / "kaggle" / "upload" / "open_clip_model.safetensors", CLIP)
    known = dataclasses.replace(
        weights.KNOWN["clip-vit-b32"], sha256=frozenset({hashlib.sha256(file.read_bytes()).hexdigest()})
    )
    monkeypatch.setitem(weights.KNOWN, "clip-vit-b32", known)
    found = alone("clip-vit-b32")
    assert found.training_known and "the training by its checksum" in found.message


def test_checksum_is_of_the_files_that_are_read(alone, tmp_path):
    """The usual copy of Stable Diffusion holds the same networks three times over; another file changes nothing."""
    folder = stable_diffusion(tmp_path / "stable-diffusion-v1-5")
    before = alone(str(folder))
    assert before.sha256 == weights.checksum(folder) and before.known == "sd15"
    for extra in (
        "v1-5-pruned-emaonly.safetensors",
        "safety_checker/model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
    ):
        hollow(folder / extra, {"w": (2**15, 2**15)})
    after = alone(str(folder))
    assert after.sha256 == before.sha256
    assert {file.name for file in weights.network_files(folder)} == {
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
    }
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()  # then half precision is what is read
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    write(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors", UNET)
    assert weights.network_files(folder)[0].name == "diffusion_pytorch_model.fp16.safetensors"


def test_shipped_models_keep_the_checksums_of_saved_detectors():
    for folder in ("sd", "sd/vae", "clip", "resnet"):
        role = {"sd": "sd", "sd/vae": "vae", "clip": "clip", "resnet": "features"}[folder]
        path = weights.MINI_ROOT / folder
        assert weights.checksum(path, weights.network_files(path, role)) == weights.checksum(path)


def test_a_subfolder_of_a_models_version_is_searched(alone, tmp_path):
    version = tmp_path / "kaggle" / "models" / "somebody" / "sd" / "pytorch" / "default" / "3"
    folder = stable_diffusion(version / "stable-diffusion-v1-5")
    assert alone("sd15").path == folder


def test_a_look_before_work(alone, tmp_path, monkeypatch):
    places = {"kaggle_root": tmp_path / "kaggle", "hf_cache": tmp_path / "cache"}
    assert weights.missing("resnet34", **places).startswith("weights: resnet34 was not found")
    file = write(tmp_path / "kaggle" / "x" / "model.safetensors", RESNET34)
    monkeypatch.setattr(RESOLVE, "checksum", lambda *args: pytest.fail("it was read through"))
    assert weights.missing("resnet34", **places) == weights.missing("resnet-mini") == ""
    file.write_bytes(file.read_bytes()[:-1])
    assert "not a whole safetensors file" in weights.missing(str(file))
    assert weights.missing("nobody").startswith("weights: unknown name")
    # a hub that answers counts as having it, unless the caller or the user says no
    monkeypatch.setattr(SEARCH, "hub_reachable", lambda endpoint: True)
    monkeypatch.setattr(SEARCH, "hub_is_off", lambda: False)
    assert weights.missing("clip-vit-b32", **places) == "" != weights.missing("clip-vit-b32", hub=False, **places)
    assert "no file or folder" in weights.missing("/nowhere/at/all")

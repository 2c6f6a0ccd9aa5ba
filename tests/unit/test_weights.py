"""Where weights are looked for, what is taken for them, and what is refused."""

import hashlib
import os

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from diffad_utils import weights

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
    monkeypatch.setattr(weights, "snapshot_download", _only_local(weights.snapshot_download))
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        alone("resnet34")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(weights, "hub_reachable", lambda endpoint: False)
    with pytest.raises(FileNotFoundError, match="does not answer"):
        alone("resnet34")


def _only_local(original):
    def download(*args, **options):
        assert options.get("local_files_only"), "the hub was asked"
        return original(*args, **options)

    return download


def test_hub_download(alone, monkeypatch, tmp_path):
    folder = write(tmp_path / "down" / "model.safetensors", RESNET34).parent
    original = weights.snapshot_download
    monkeypatch.setattr(
        weights, "snapshot_download",
        lambda *args, **o: original(*args, **o) if o.get("local_files_only") else str(folder),
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(weights, "hub_reachable", lambda endpoint: True)
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
    with pytest.raises(ValueError, match="model.safetensors is not a safetensors file"):
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

"""Feature backbones: the real architectures with made-up weights on disk, and the shipped small one."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from diffad_utils import weights
from diffad_utils.models import backbones
from diffad_utils.models.backbones import load_backbone


def timm_folder(folder, architecture, *, seed=0, dtype=torch.float32, config=True, mean=None, **arguments):
    """Random weights of a real architecture in the layout of timm's hub repositories."""
    torch.manual_seed(seed)
    model = timm.create_model(architecture, pretrained=False, **arguments).eval()
    for module in model.modules():  # running statistics of their own, so that a lost one shows
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.to(dtype) if value.is_floating_point() else value for key, value in model.state_dict().items()},
        folder / "model.safetensors",
    )
    if config:
        content = {
            "architecture": architecture,
            "num_classes": 1000,
            "model_args": arguments,
            "pretrained_cfg": {"mean": mean or [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        }
        (folder / "config.json").write_text(json.dumps(content))
    return model


@pytest.mark.parametrize(
    ("name", "architecture", "channels"),
    [
        ("resnet34", "resnet34", [64, 64, 128, 256]),
        ("efficientnet-b4", "tf_efficientnet_b4", [24, 32, 56, 160]),  # 272 in sum, as InvAD's
        ("efficientnet-b4", "efficientnet_b4", [24, 32, 56, 160]),
    ],
)
@pytest.mark.slow
def test_real_architectures_from_disk(tmp_path, monkeypatch, name, architecture, channels):
    model = timm_folder(tmp_path / name, architecture)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    backbone = load_backbone(name)
    assert backbone.channels == channels
    assert backbone.resolved.source == "env" and not backbone.resolved.is_mini
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    features = backbone(images)
    assert [tuple(f.shape) for f in features] == [(2, c, 64 // s, 96 // s) for c, s in zip(channels, (2, 4, 8, 16))]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean[:, None, None]) / std[:, None, None]
    model.to(memory_format=torch.channels_last)  # as the backbone: other layouts sum in another order
    with torch.no_grad():
        whole = model.forward_intermediates(normalised, intermediates_only=True)
    torch.testing.assert_close(features[3], whole[3], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_resnet50_beside_a_resnet34(tmp_path, monkeypatch):
    """The larger network sorts first and has the shapes that a ResNet-34 was known by; neither has a config."""
    timm_folder(tmp_path / "a" / "resnet-50", "resnet50", dtype=torch.float16, config=False)
    model = timm_folder(tmp_path / "b" / "resnet-34", "resnet34", config=False)
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    backbone = load_backbone("resnet34")
    assert backbone.resolved.path == tmp_path / "b" / "resnet-34" and backbone.resolved.known == "resnet34"
    assert torch.equal(backbone.net.state_dict()["conv1.weight"], model.conv1.weight)
    with pytest.raises(ValueError, match="no timm backbone"):
        load_backbone(str(tmp_path / "a" / "resnet-50"))


@pytest.mark.slow
def test_weights_without_config_are_known_by_their_tensors(tmp_path):
    timm_folder(tmp_path / "r", "resnet34", config=False)
    assert load_backbone(str(tmp_path / "r" / "model.safetensors")).channels == [64, 64, 128, 256]


def test_normalisation_is_that_of_the_weights(tmp_path):
    timm_folder(tmp_path / "a", "resnet10t", mean=[0.5, 0.25, 0.75])
    backbone = load_backbone(str(tmp_path / "a"))
    assert backbone.mean.flatten().tolist() == [0.5, 0.25, 0.75]


def test_half_precision_files_load_as_float32(tmp_path):
    timm_folder(tmp_path / "a", "resnet10t", dtype=torch.float16)
    assert load_backbone(str(tmp_path / "a"))(torch.rand(1, 3, 32, 32))[0].dtype == torch.float32


def test_strides_are_chosen_and_checked():
    assert load_backbone("resnet-mini", strides=(4, 16)).channels == [32, 160]
    for strides in ((3,), (8, 4), (), (4, 4)):
        with pytest.raises(ValueError, match=r"strides \[2, 4, 8, 16, 32\]"):
            load_backbone("resnet-mini", strides=strides)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape", "deeper"])
@pytest.mark.slow
def test_wrong_weights_are_refused(tmp_path, fault):
    timm_folder(tmp_path, "resnet18" if fault != "deeper" else "resnet34")
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    if fault == "missing":
        del state["layer2.0.conv1.weight"]
    elif fault == "unexpected":
        state["layer2.0.conv9.weight"] = torch.zeros(1)
    elif fault == "shape":
        state["layer2.0.conv1.weight"] = torch.zeros(128, 64, 1, 1)
    else:  # resnet34's file under resnet18's name: all that is needed is there, and more
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "resnet18"}))
    save_file(state, file)
    with pytest.raises(ValueError, match="not a whole set of weights of resnet18"):
        load_backbone(str(tmp_path))


def test_what_is_no_backbone(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no timm backbone"):
        load_backbone(str(tmp_path))
    (tmp_path / "config.json").write_text('{"architecture": "resnet_of_nobody"}')
    with pytest.raises(ValueError, match="resnet_of_nobody"):
        load_backbone(str(tmp_path))


def test_stays_frozen_in_evaluation_mode():
    backbone = load_backbone("resnet-mini")
    holder = torch.nn.Sequential(backbone).train()
    assert not any(module.training for module in holder[0].modules())
    assert not any(p.requires_grad for p in backbone.parameters())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.rand(4, 3, 32, 32, requires_grad=True)
    sum(f.mean() for f in backbone(images)).backward()
    assert images.grad.abs().sum() > 0
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_features_do_not_depend_on_the_batch():
    backbone = load_backbone("resnet-mini")
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    together = backbone(images)
    for number in range(5):
        for alone, f in zip(backbone(images[number : number + 1]), together):
            torch.testing.assert_close(alone[0], f[number], rtol=1e-5, atol=1e-5)


def test_a_cpu_takes_a_few_images_at_a_time_and_gives_the_same_features(monkeypatch):
    backbone, seen = load_backbone("resnet-mini"), []
    backbone.net.register_forward_hook(lambda module, inputs, outputs: seen.append(len(inputs[0])))
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    whole = backbone(images)
    monkeypatch.setattr(backbones, "CPU_PIXELS", 2 * 32 * 32)
    pieces = backbone(images)
    assert seen == [5, 2, 2, 1]
    for one, other in zip(whole, pieces, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(sum(f.square().mean() for f in fs), images)[0] for fs in (whole, pieces)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)
    monkeypatch.setattr(backbones, "CPU_PIXELS", 1)  # one image is the least
    assert len(backbone(images)[0]) == 5 and seen[4:] == [1] * 5
    assert backbone(images[:0])[0].shape[0] == 0


@pytest.mark.parametrize("name", ["resnet-mini", "efficientnet-lite0"])
def test_reflection_takes_the_border_out_of_the_features(name):
    """A constant image has no border to see: with zero padding its features near the border differ from the centre's,
    with the image continued by reflection far less. Shapes are the same, and the first stride is cut exactly."""
    zeros, reflect = (load_backbone(name, random_seed=0, padding=padding) for padding in ("zeros", "reflect"))
    grey = torch.full((1, 3, 96, 70), 0.3)
    pairs = list(zip(zeros(grey), reflect(grey), strict=True))
    assert [a.shape for a, _ in pairs] == [b.shape for _, b in pairs]
    for with_zeros, reflected in pairs[:3]:
        errors = [(f - f[..., 5:6, 4:5]).norm(dim=1).max() / f[..., 5, 4].norm() for f in (with_zeros, reflected)]
        assert errors[1] < 0.5 * errors[0]
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    inside = [f[..., 24:-24, 24:-24] for f in (zeros(image)[0], reflect(image)[0])]
    torch.testing.assert_close(*inside, rtol=1e-4, atol=1e-4)  # far from the border nothing changes


def test_paddings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="padding must be one of zeros, reflect, got 'same'"):
        load_backbone("resnet-mini", padding="same")
    with pytest.raises(ValueError, match="larger than that, got 32 x 64 px"):
        load_backbone("resnet-mini", padding="reflect")(torch.rand(1, 3, 32, 64))


@pytest.mark.parametrize("bad", [torch.zeros(3, 32, 32), torch.zeros(1, 1, 32, 32), torch.zeros(1, 3, 8, 8).byte()])
def test_bad_images(bad):
    with pytest.raises(ValueError, match=r"expected float images \[B, 3, H, W\]"):
        load_backbone("resnet-mini")(bad)


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (load_backbone("resnet-mini", random_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert first.resolved.sha256 == again.resolved.sha256 != other.resolved.sha256
    assert first.resolved.source == "random" and "seed 0" in first.resolved.message
    assert first.channels == load_backbone("resnet-mini").channels
    # every residual block takes part
    assert all(m.weight.any() for m in first.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert load_backbone("resnet34", random_seed=0).channels == [64, 64, 128, 256]  # needs no weights at all


def test_shipped_model():
    backbone = load_backbone("resnet34", allow_mini=True) if _absent("resnet34") else load_backbone("resnet-mini")
    assert backbone.resolved.is_mini and backbone.channels == [24, 32, 56, 160]
    assert sum(p.numel() for p in backbone.parameters()) <= 3_000_000
    folder = weights.MINI_ROOT / "resnet"
    assert (folder / "model.safetensors").stat().st_size < 8e6
    # and plain timm opens the folder
    model = timm.create_model(
        f"local-dir:{folder}", pretrained=True, features_only=True, out_indices=(0, 1, 2, 3)
    ).eval()
    images = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(backbone(images), model((images - backbone.mean) / backbone.std)):
        torch.testing.assert_close(ours, theirs)


def _absent(name):
    try:
        weights.resolve(name)
    except FileNotFoundError:
        return True
    return False

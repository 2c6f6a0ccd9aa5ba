"""Frozen feature backbones: timm networks that return features at several strides.

A thin layer over timm's `features_only` networks: weights come through `weights.resolve` and are loaded strictly,
and the normalisation that belongs to the weights is applied inside, so that callers pass plain images in [0, 1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from diffad_utils import weights

# the architecture of weights that come without a timm config.json; where they have one, that decides
ARCHITECTURES = {
    "resnet34": "resnet34",
    "wide_resnet50_2": "wide_resnet50_2",
    "efficientnet-b4": "tf_efficientnet_b4",
    **{name: packaged.architecture for name, packaged in weights.PACKAGED.items()},
}
TRANSFORMERS = {"dino-vits8": "vit_small_patch8_224"}  # the same of transformers, whose layers have one stride
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PADDINGS = ("zeros", "reflect")
MARGIN = 32  # pixels that are reflected at each side with padding="reflect"
# Pixels that a CPU takes at once, of as many images as that is: their activations stay in its cache.
CPU_PIXELS = 2**17


class Backbone(nn.Module):
    """A frozen features-only network with its input normalisation.

    forward: images [B, 3, H, W], float, in [0, 1] -> list of features [B, C_i, ceil(H / s_i), ceil(W / s_i)].
    channels: C_i. strides: s_i. resolved: where the weights come from (`weights.Resolved`). margin: pixels by which
    images are continued at each side by reflection, cut off the features again; 0: only zeros, the network's own.

    Always in evaluation mode (the batch statistics never change, so an image's features do not depend on its batch)
    and without gradients for the parameters; gradients with respect to the images do flow.
    """

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        strides: tuple[int, ...],
        resolved: weights.Resolved,
        margin: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.channels: list[int] = list(net.feature_info.channels())
        self.strides = tuple(strides)
        self.resolved = resolved
        self.margin = margin
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.requires_grad_(False)
        self.eval()
        self.to(memory_format=torch.channels_last)  # faster for depthwise convolutions, on CPUs too

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode, whatever `mode` says: a parent module's train() must not unfreeze it."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"backbone: expected float images [B, 3, H, W] in [0, 1], got {images.dtype} {list(images.shape)}"
            )
        height, width = images.shape[-2:]
        at_once = max(1, CPU_PIXELS // max(1, height * width))
        if images.device.type != "cpu" or len(images) <= at_once:
            return self._features(images)
        return [torch.cat(level) for level in zip(*map(self._features, images.split(at_once)), strict=True)]

    def _features(self, images: Tensor) -> list[Tensor]:
        images = (images - self.mean) / self.std
        if not self.margin:
            return self.net(images)
        height, width = images.shape[-2:]
        if self.margin >= min(height, width):
            raise ValueError(
                f"backbone: padding='reflect' continues images by {self.margin} px, they must be larger than that, got "
                f"{height} x {width} px"
            )
        features = self.net(F.pad(images, [self.margin] * 4, mode="reflect"))
        return [
            f[..., self.margin // s :, self.margin // s :][..., : -(-height // s), : -(-width // s)]
            for f, s in zip(features, self.strides, strict=True)
        ]


def load_backbone(
    name: str,
    *,
    allow_mini: bool = False,
    strides: tuple[int, ...] = (2, 4, 8, 16),
    random_seed: int | None = None,
    padding: str = "zeros",
) -> Backbone:
    """A frozen backbone with pretrained weights, or with random ones for comparison.

    Parameters
    ----------
    name: "efficientnet-lite0" (ImageNet weights from an installed package; 16, 24, 40, 112 channels at strides 2, 4, 8,
        16), "resnet34", "efficientnet-b4" (24, 32, 56, 160 channels, the 272 of InvAD), "resnet-mini"
        (data/mini/resnet), a timm name ("wide_resnet50_2", "resnet18.a1_in1k"), or a path or
        hub id of a timm model (model.safetensors and config.json).
    allow_mini: take data/mini/resnet if the weights of `name` are not on this machine.
    strides: ascending; any of those that the network has.
    random_seed: the same architecture with random weights from this seed, no trained weights loaded.
    padding: "zeros", as the networks were trained: convolutions pad with zeros, so that features near the border of an
        image differ from those of the same texture inside. "reflect": the image is first continued by reflection,
        `MARGIN` pixels at each side, and the margin is cut off the features; more than twice the time at 128 px. It
        helps a search that treats all positions alike (benchmarks/results/patch-size.md); methods that know where a
        patch lies need not gain, so that zeros are the default.

    Raises
    ------
    FileNotFoundError: no weights (lists where they were looked for). ValueError: unknown name or padding, strides that
    the network does not have, weights that are not those of the architecture.
    """
    if padding not in PADDINGS:
        raise ValueError(f"backbone: padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    if random_seed is not None and _architecture(name):
        config, resolved = {"architecture": _architecture(name)}, None
    else:
        resolved = weights.resolve(name, allow_mini=allow_mini)
        config = read_config(resolved)
    if random_seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            net = _features_net(config, strides)
        _start_residuals(net)
        resolved = _random_resolved(name, config, net, random_seed)
    else:
        net = _features_net(config, strides)
        _load_strict(net, config, resolved.path)
    margin = -(-MARGIN // strides[-1]) * strides[-1] if padding == "reflect" else 0  # whole cells at every stride
    return Backbone(net, *_normalisation(config), strides, resolved, margin)


def load_layers(
    name: str, *, allow_mini: bool = False, strides: tuple[int, ...] = (2, 4, 8), layers: int = 4
) -> Backbone:
    """A frozen backbone for multi-layer features of any timm network: as `load_backbone` where it has several strides,
    and of a vision transformer the patch tokens after the last block of each of ``layers`` equal parts
    (`Backbone.strides` are all its patch size). Images of any size: positions are interpolated, sides padded to the
    patch size.

    name : "dino-vits8" (Caron et al., ICCV 2021), "vit_small_patch8_224.dino", or anything that `load_backbone` takes.
    Raises as `load_backbone`; ``ValueError`` also for a transformer with fewer blocks than ``layers``.
    """
    resolved = weights.resolve(name, allow_mini=allow_mini)
    config = read_config(resolved)
    with torch.device("meta"):
        whole = timm.create_model(config["architecture"], pretrained=False, **config.get("model_args", {}))
    if not isinstance(whole, VisionTransformer):
        return load_backbone(name, allow_mini=allow_mini, strides=strides)
    blocks = len(whole.blocks)
    if not 1 <= layers <= blocks:
        raise ValueError(f"backbone: {config['architecture']} has {blocks} blocks, asked for {layers} layers")
    indices = tuple(blocks * (i + 1) // layers - 1 for i in range(layers))
    arguments = {**config.get("model_args", {}), "dynamic_img_size": True, "dynamic_img_pad": True}
    net = timm.create_model(
        config["architecture"], pretrained=False, features_only=True, out_indices=indices, **arguments
    )
    _load_strict(net.model, config, resolved.path)
    return Backbone(net, *_normalisation(config), tuple(net.feature_info.reduction()), resolved)


def read_config(resolved: weights.Resolved) -> dict[str, Any]:
    """The timm config of resolved weights: architecture, model_args, pretrained_cfg (mean, std).

    From config.json beside the weights, and without one from the name that was asked for, or from the tensors
    themselves (`Resolved.known`).
    Raises ValueError when neither says what the network is.
    """
    folder = resolved.path if resolved.path.is_dir() else resolved.path.parent
    file = folder / "config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        if "architecture" in config:
            return config
    architecture = _architecture(resolved.name) or _architecture(resolved.known)
    if architecture:
        return {"architecture": architecture}
    raise ValueError(
        f"backbone: {resolved.path} is no timm backbone: no config.json with an 'architecture' there, and the tensors "
        f"are not those of {' or '.join(ARCHITECTURES)}"
    )


def _architecture(name: str) -> str | None:
    """timm's architecture of a known name or a timm name, without the tag; None for other names."""
    architecture = (ARCHITECTURES | TRANSFORMERS).get(name, name.partition(".")[0])
    return architecture if timm.is_model(architecture) else None


def _features_net(config: dict[str, Any], strides: tuple[int, ...]) -> nn.Module:
    arguments = dict(config.get("model_args", {}))
    try:
        with torch.device("meta"):
            reductions = timm.create_model(
                config["architecture"], pretrained=False, features_only=True, **arguments
            ).feature_info.reduction()
    except RuntimeError as error:
        raise ValueError(f"backbone: timm has no features for {config['architecture']!r}: {error}") from error
    if len(set(reductions)) < len(reductions):
        raise ValueError(
            f"backbone: {config['architecture']} has features at one stride only ({reductions[0]}), expected a network "
            "with several, such as resnet34; open this one with timm.create_model"
        )
    missing = [stride for stride in strides if stride not in reductions]
    if missing or list(strides) != sorted(set(strides)) or not strides:
        raise ValueError(
            f"backbone: {config['architecture']} has features at strides {reductions}, asked for {list(strides)} "
            "(ascending, each once)"
        )
    net = timm.create_model(
        config["architecture"],
        pretrained=False,
        features_only=True,
        out_indices=tuple(reductions.index(stride) for stride in strides),
        **arguments,
    )
    stage, _, last = net.feature_info.module_name()[-1].partition(".")
    if (
        stage == "blocks" and last.isdigit()
    ):  # timm cuts a ResNet behind the last layer that is asked for, but not an EfficientNet
        net.blocks = net.blocks[: int(last) + 1]
    return net


def _load_strict(net: nn.Module, config: dict[str, Any], path: Path) -> None:
    """Load the tensors that the features need; every one must be there with its shape.

    Tensors of the classifier and of stages after the last stride may be there or not; anything that the whole
    architecture does not have is an error, because then the file belongs to another network.
    """
    file = path if path.is_file() else path / "model.safetensors"
    if not file.is_file():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise ValueError(f"backbone: expected model.safetensors in {path}, found {[f.name for f in files]}")
        file = files[0]
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(file).items()}
    needed = net.state_dict()
    with torch.device("meta"):
        whole = timm.create_model(config["architecture"], pretrained=False, **config.get("model_args", {})).state_dict()
    missing = [key for key in needed if key not in state]
    unexpected = [key for key in state if key not in whole and key not in needed]
    wrong = [
        f"{key} {list(state[key].shape)} instead of {list(needed[key].shape)}"
        for key in needed
        if key in state and state[key].shape != needed[key].shape
    ]
    if missing or unexpected or wrong:
        raise ValueError(
            f"backbone: {file} is not a whole set of weights of {config['architecture']}: "
            f"{len(missing)} tensors missing {missing[:3]}, {len(unexpected)} unexpected {unexpected[:3]}, "
            f"{len(wrong)} of another shape {wrong[:3]}"
        )
    net.load_state_dict({key: state[key] for key in needed}, strict=True)


def _start_residuals(net: nn.Module) -> None:
    """timm starts the last BatchNorm of each residual block at zero, which takes the block's convolutions out of an
    untrained network; at one they take part, the fairer and stronger random network to compare with."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)


def _normalisation(config: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    saved = config.get("pretrained_cfg", config)  # old config.json files have mean and std at the top
    default = timm.models.get_pretrained_cfg(config["architecture"])
    mean = saved.get("mean") or (default.mean if default else IMAGENET_MEAN)
    std = saved.get("std") or (default.std if default else IMAGENET_STD)
    return tuple(mean), tuple(std)


def _random_resolved(name: str, config: dict[str, Any], net: nn.Module, seed: int) -> weights.Resolved:
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode() + b"\0" + value.contiguous().numpy().tobytes())
    checksum = digest.hexdigest()
    message = f"{name}: {config['architecture']} with random weights, seed {seed} (sha256 {checksum[:12]})"
    return weights.Resolved(name, Path(), "random", checksum, False, message)

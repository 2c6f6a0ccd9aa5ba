"""CLIP through open_clip: unit features of images and texts in one space (Radford et al., ICML 2021).

Weights come through `weights.resolve` as safetensors; the architecture is that of open_clip_config.json beside them,
or without one that of their open_clip name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop

from diffad_utils import weights
from diffad_utils.models.device import pick_device

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


@dataclass(frozen=True)
class Clip:
    """A frozen CLIP model in float32.

    model: open_clip's, in evaluation mode. preprocess: open_clip's transform, PIL image -> float32 [3, S, S].
    tokenizer: texts -> int64 [N, L]. resolved: where the weights come from.
    """

    model: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    resolved: weights.Resolved

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def logit_scale(self) -> float:
        """What similarities are multiplied with before the softmax over texts."""
        return float(self.model.logit_scale.detach().exp())

    def encode_images(self, images: Tensor) -> Tensor:
        """Unit features float32 [B, D] of images, float [B, 3, H, W] in [0, 1], of any size; gradients flow.

        Resized and normalised as `preprocess` does, but on the tensor: bicubic with antialiasing in floating point,
        where Pillow rounds to 8 bits after each direction. Of 255 steps a value differs by 0.3 on average and by 2 to 4
        at single pixels, and the cosine of the two features is above 0.999.

        Raises ValueError for another shape or type, or values outside [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"clip: expected float images [B, 3, H, W] in [0, 1], got {images.dtype} {list(images.shape)}"
            )
        low, high = images.detach().aminmax()
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(f"clip: expected images in [0, 1], got values from {low:.3g} to {high:.3g}")
        config = self.model.visual.preprocess_cfg
        side = config["size"] if isinstance(config["size"], int) else config["size"][0]
        images = resize(images.to(self.device, torch.float32), side, config["resize_mode"], config["interpolation"])
        mean, std = (images.new_tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        return self.model.encode_image((images - mean) / std, normalize=True)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features float32 [N, D] of texts; what is longer than the context is cut off."""
        return self.model.encode_text(self.tokenizer(list(texts)).to(self.device), normalize=True)


def load_clip(
    name: str = "ViT-B-32/openai", *, device: str = "auto", allow_mini: bool = False, architecture: str | None = None
) -> Clip:
    """A CLIP model of open_clip.

    Parameters
    ----------
    name: for `weights.resolve`: open_clip's "<architecture>/<tag>", "clip-vit-b32", "clip-mini", a hub id, a folder
        with open_clip_config.json, or a lone safetensors file.
    device: "auto" (CUDA, then MPS, then CPU) or a torch device.
    allow_mini: take data/mini/clip if the weights of `name` are not on this machine.
    architecture: open_clip's "<architecture>/<tag>" of a lone file that `name` does not tell it of. A ViT-B/32 is
        taken for OpenAI's without it; LAION's have another activation and the same shapes.

    Raises
    ------
    FileNotFoundError: no weights (lists where they were looked for). ValueError: unknown name; a file that is not
    open_clip's, such as the `transformers` layout; an architecture that nothing tells; tensors missing.
    """
    device = pick_device(device)
    resolved = weights.resolve(name, allow_mini=allow_mini)
    file, is_described = _file(resolved.path)
    if any(key.startswith("vision_model.") for key in weights.read_header(file)):
        raise ValueError(
            f"clip: {file} is in the layout of transformers, expected that of open_clip (visual.*, transformer.*). Get "
            "open_clip_model.safetensors of the same model, such as the hub's timm/vit_base_patch32_clip_224.openai"
        )
    source, options = (f"local-dir:{file.parent}", {}) if is_described else _built_in(architecture, resolved, file)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(source, device=device, **options)
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:  # whatever a config.json can do wrong
        raise ValueError(f"clip: {file} is not a whole open_clip model as {source} describes it: {error}") from error
    _check_preprocessing(model.visual.preprocess_cfg, source)
    return Clip(model.requires_grad_(False).eval(), preprocess, open_clip.get_tokenizer(source), resolved)


def resize(images: Tensor, size: int, mode: str = "shortest", interpolation: str = "bicubic") -> Tensor:
    """Images [B, 3, H, W] in [0, 1] as [B, 3, size, size]: their shorter side made `size` and the middle cut out
    ("shortest"), or pulled to a square ("squash"). With antialiasing, as open_clip does with Pillow."""
    height, width = images.shape[-2:]
    longer = int(size * max(height, width) / min(height, width))  # rounded down, as torchvision does
    target = (size, size) if mode == "squash" else (size, longer) if height <= width else (longer, size)
    if target != (height, width):
        images = F.interpolate(images, target, mode=interpolation, antialias=True).clamp(0, 1)
    return center_crop(images, [size, size])


def _file(path: Path) -> tuple[Path, bool]:
    """The safetensors file to open, and whether open_clip takes it for that of the open_clip_config.json beside it."""
    folder = path if path.is_dir() else path.parent
    usual = [folder / name for name in FILES if (folder / name).is_file()]
    if usual and path in (folder, usual[0]):
        return usual[0], (folder / "open_clip_config.json").is_file()
    files = [path] if path.is_file() else sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ValueError(f"clip: expected {FILES[0]} in {folder}, found {names}. Give the path of the file")
    return files[0], False


def _built_in(architecture: str | None, resolved: weights.Resolved, file: Path) -> tuple[str, dict]:
    """open_clip's own architecture and preprocessing for a file that no open_clip_config.json describes."""
    guess = "ViT-B-32/openai" if resolved.known == "clip-vit-b32" else ""
    for candidate in (architecture, resolved.name, guess):
        network, _, tag = (candidate or "").partition("/")
        config = open_clip.get_pretrained_cfg(network, tag)
        if config or architecture:
            break
    if not config:
        raise ValueError(
            f"clip: nothing tells what {file} is, got architecture={architecture!r}. Put its open_clip_config.json "
            f"beside it and call it {FILES[0]}, or give open_clip's architecture and tag, such as "
            "'ViT-B-32/laion2b_s34b_b79k'"
        )
    # OpenAI's networks have an activation of their own, which shapes do not show
    options = dict(pretrained=str(file), force_quick_gelu=config.get("quick_gelu", False))
    names = {
        "mean": "image_mean",
        "std": "image_std",
        "interpolation": "image_interpolation",
        "resize_mode": "image_resize_mode",
    }
    return network, options | {names[key]: config[key] for key in names if key in config}


def _check_preprocessing(config: dict, source: str) -> None:
    """Raise for preprocessing that `Clip.encode_images` does not do."""
    side = config["size"]
    is_square = not isinstance(side, (tuple, list)) or side[0] == side[-1]
    if (
        not is_square
        or config["resize_mode"] not in ("shortest", "squash")
        or config["interpolation"] not in ("bicubic", "bilinear")
    ):
        raise ValueError(
            f"clip: {source} wants images as {config}, expected a square, resize_mode 'shortest' or 'squash', and "
            "interpolation 'bicubic' or 'bilinear'"
        )

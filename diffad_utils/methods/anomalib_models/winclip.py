"""WinCLIP (Jeong et al., CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffad_utils.data import ImageDataset, captions
from diffad_utils.methods.anomalib_models.base import AnomalibDetector, anomalib_module
from diffad_utils.models.clip import Clip, load_clip
from diffad_utils.models.clip_features import clip_input


@dataclass(kw_only=True)
class WinCLIP(AnomalibDetector):
    """Windows of an image against prompts about its state, with CLIP; nothing is trained.

    clip : name for `models.clip.load_clip`, a vision transformer of open_clip (the paper's: ViT-B-16-plus-240/
        laion400m_e31). allow_mini is not offered: the shipped CLIP is a ResNet, whose windows cannot be masked.
    k_shot : normal training images to compare with (0: zero-shot), drawn with the seed.
    """

    name: ClassVar[str] = "anomalib:winclip"
    family: ClassVar[str] = "clip"
    contract_attributes: ClassVar[dict[str, Any]] = {"trained": False, "gross_auroc": None}
    FROZEN: ClassVar[str] = "clip."
    WEIGHTS: ClassVar[str] = "clip"

    image_size: int = 240
    clip: str = "ViT-B-16-plus-240/laion400m_e31"
    k_shot: int = 0

    def _prepare(self, train_dataset: ImageDataset) -> None:
        categories = sorted(set(train_dataset.index["category"]))
        if len(categories) != 1:
            raise ValueError(f"anomalib:winclip makes prompts for one category, the training images have {categories}")
        self.category_ = categories[0]

    def _build(self) -> nn.Module:
        self.pretrained_ = clip = load_clip(self.clip, device=self.device)
        if not hasattr(clip.model.visual, "patch_dropout"):
            raise ValueError(
                "anomalib:winclip needs a CLIP whose image encoder is open_clip's vision transformer, got "
                f"{type(clip.model.visual).__name__} for clip={self.clip!r}; give the paper's "
                f"ViT-B-16-plus-240/laion400m_e31 or another ViT"
            )
        return _winclip(clip)

    def _learn(self, images: Tensor) -> None:
        drawn = torch.randperm(len(images))[: self.k_shot]
        references = self._network_input(images[drawn]) if self.k_shot else None
        self.model_.setup(captions.noun(self.category_).split(" ", 1)[1], references)

    def _network_input(self, images: Tensor) -> Tensor:
        return clip_input(self.pretrained_, images)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super()._state()
        return tensors, values | {"category": self.category_, "shots": self.model_.k_shot}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.category_ = values["category"]
        super()._set_state(tensors, values)
        self.model_.k_shot = values["shots"]


def _winclip(clip: Clip) -> nn.Module:
    """anomalib's WinCLIP around a CLIP that is loaded already; its own constructor would download one."""
    module = anomalib_module("models.image.winclip.torch_model")
    prompts = anomalib_module("models.image.winclip.prompting").create_prompt_ensemble

    class Model(module.WinClipModel):  # type: ignore[name-defined]
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.temperature, self.scales, self.apply_transform = module.TEMPERATURE, (2, 3), False
            self.class_name = self.reference_images = None
            self.k_shot = 0
            self.clip = clip.model
            self.clip.visual.output_tokens = True
            self.grid_size = self.clip.visual.grid_size
            self.register_buffer_list("masks", self._generate_masks(), persistent=False)
            self.register_buffer("_text_embeddings", torch.empty(0))
            self.register_buffer_list("_visual_embeddings", [torch.empty(0) for _ in self.scales])
            self.register_buffer("_patch_embeddings", torch.empty(0))

        @torch.no_grad()
        def _collect_text_embeddings(self, class_name: str) -> None:
            # as anomalib's, with this CLIP's tokenizer, whose context may be shorter
            encoded = [self.clip.encode_text(clip.tokenizer(texts).to(clip.device)) for texts in prompts(class_name)]
            self._text_embeddings = torch.stack([features.mean(dim=0) for features in encoded])

    return Model()

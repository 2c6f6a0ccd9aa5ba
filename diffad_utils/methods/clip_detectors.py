"""CLIP without any reconstruction: what the slides' pipelines have to beat.

- `ClipKNN` (``clip_knn``): distance of CLIP's embedding to the nearest normal training images, and of its patch tokens
  for maps, as in PatchCore (Roth et al., CVPR 2022, sections 3.1 and 3.3) without its subsampling.
- `ClipZeroShot` (``clip_zero_shot``): "flawless" against "damaged" prompts, as WinCLIP's classifier (Jeong et al., CVPR
  2023, section 4.1) without its windows.
- `ClipProbe` (``clip_probe``): the slides' future work. A linear classifier on the embeddings, and one on the patch
  tokens, trained on normal images and on copies of them with synthetic defects pasted in as in CutPaste (Li et al.,
  CVPR 2021) and DRAEM (Zavrtanik et al., ICCV 2021, eq. 2); never on a real or a test defect.

All distances of features are 1 - cosine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffad_utils.data import ImageDataset
from diffad_utils.data.captions import categories_of, fill_prompt
from diffad_utils.data.pasted_defects import paste_defect
from diffad_utils.kernels import knn
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset, resize_images
from diffad_utils.models.clip_features import ClipFeatures, clip_features, dense_features, load_clip_for
from diffad_utils.scoring import upsample_map
from diffad_utils.weights import Resolved

SCORES = ("image", "patch")


@dataclass(kw_only=True)
class ClipDetector(Detector):
    """What the CLIP detectors share.

    Parameters
    ----------
    clip : a name for `models.clip.load_clip`; "ViT-B-32/openai" is the slides'.
    allow_mini : whether the shipped small CLIP may stand in where the real weights are not found.
    image_size : images are brought to this size, then to what CLIP takes; not smaller than that.
    """

    family: ClassVar[str] = "clip"
    contract_settings: ClassVar[dict[str, Any]] = {"image_size": 128}

    clip: str = "clip-mini"
    allow_mini: bool = False

    def _load_clip(self) -> None:
        if not hasattr(self, "clip_"):
            self.clip_ = load_clip_for(self.clip, self.image_size, device=self.device, allow_mini=self.allow_mini)

    def networks(self) -> list[torch.nn.Module]:
        return [self.clip_.model] if hasattr(self, "clip_") else []

    def _features(self, images: Tensor) -> ClipFeatures:
        return clip_features(self.clip_, self._input(images))

    def resolved_weights(self) -> dict[str, Resolved]:
        return {"clip": self.clip_.resolved}


@dataclass(kw_only=True)
class ClipKNN(ClipDetector):
    """Distance to the nearest normal training images in CLIP's feature space; see the module's text for the source.

    Parameters
    ----------
    neighbours : the distance is the mean over this many nearest neighbours.
    score : "image", the distance of the image embedding (the slides' baseline), or "patch", the largest of the map.

    Prediction: parts ``image`` and ``patch``; anomaly_map = distance of each patch token to the nearest training
    patches, upsampled.
    """

    name: ClassVar[str] = "clip_knn"
    contract_attributes: ClassVar[dict[str, Any]] = {"trained": False}

    neighbours: int = 1
    score: str = "image"

    def __post_init__(self) -> None:
        _check_score(self.score)
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {self.neighbours}")

    def fit(self, train_dataset: ImageDataset) -> Self:
        """Keep the features of every normal training image. ``ValueError`` if there are fewer than ``neighbours``."""
        check_train_dataset(train_dataset)
        if len(train_dataset) < self.neighbours:
            raise ValueError(f"need at least {self.neighbours} training images (neighbours), got {len(train_dataset)}")
        self._load_clip()
        features = [self._features(batch["image"]) for batch in batches(train_dataset, self.batch_size)]
        self.image_bank_ = torch.cat([f.image for f in features])
        self.patch_bank_ = torch.cat([_rows(f.patches) for f in features])
        return self

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("patch_bank_")
        features = self._features(images)
        maps = self._distance(_rows(features.patches), self.patch_bank_)
        maps = maps.view(len(images), *features.patches.shape[-2:])
        parts = {"image": self._distance(features.image, self.image_bank_), "patch": maps.flatten(1).amax(dim=1)}
        return Prediction(parts[self.score], upsample_map(maps, images.shape[-2:]), parts=parts)

    def _distance(self, queries: Tensor, bank: Tensor) -> Tensor:
        distances, _ = knn(queries, bank, self.neighbours, p=2)
        return (distances.square() / 2).mean(dim=1)  # |a - b|^2 / 2 = 1 - cos for unit vectors

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("patch_bank_")
        banks = {"image_bank": self.image_bank_, "patch_bank": self.patch_bank_}
        return banks, {"clip_sha256": self.clip_.resolved.sha256}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load_clip()
        self._check_weights({"clip": values["clip_sha256"]})
        self.image_bank_, self.patch_bank_ = tensors["image_bank"], tensors["patch_bank"]


@dataclass(kw_only=True)
class ClipZeroShot(ClipDetector):
    """Prompts of anomalous states against prompts of normal ones; see the module's text for the source.

    Nothing is trained: ``fit`` reads the categories off the training images and embeds the prompts.

    Parameters
    ----------
    normal_prompts, anomalous_prompts : templates (`fill_prompt`); the unit features of several are averaged (Radford et
        al., ICML 2021, section 3.1.4).

    Prediction: score = log-odds of the anomalous prompts, CLIP's logit scale times the difference of the cosines: the
    ranking of WinCLIP's softmax without its saturation. anomaly_map = the same for `dense_features`, or None.
    """

    name: ClassVar[str] = "clip_zero_shot"
    contract_attributes: ClassVar[dict[str, Any]] = {"trained": False, "gross_auroc": None}

    normal_prompts: Sequence[str] = ("a flawless {noun}",)
    anomalous_prompts: Sequence[str] = ("a damaged {noun}",)

    def __post_init__(self) -> None:
        for prompts in (self.normal_prompts, self.anomalous_prompts):
            if isinstance(prompts, str) or not prompts or not all(prompt.strip() for prompt in prompts):
                raise ValueError(f"expected a list of prompt templates that are not empty, got {prompts!r}")

    def fit(self, train_dataset: ImageDataset) -> Self:
        """Embed the prompts of the categories of the training images, whose pixels are not looked at."""
        check_train_dataset(train_dataset)
        self._embed(sorted(set(train_dataset.index["category"])))
        return self

    @torch.inference_mode()
    def _embed(self, categories: Sequence[str]) -> None:
        states = [self.normal_prompts, self.anomalous_prompts]
        filled = {c: [[fill_prompt(prompt, c) for prompt in prompts] for prompts in states] for c in categories}
        self._load_clip()
        self.direction_ = {c: self._mean(anomalous) - self._mean(normal) for c, (normal, anomalous) in filled.items()}

    def _mean(self, texts: list[str]) -> Tensor:
        return F.normalize(self.clip_.encode_texts(texts).mean(dim=0), dim=0).cpu()

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("direction_")
        small = self._input(images)
        categories = categories_of(keys, len(images), [*self.direction_])
        direction = self.clip_.logit_scale * torch.stack([self.direction_[c] for c in categories])
        score = (clip_features(self.clip_, small).image * direction).sum(dim=1)
        dense = dense_features(self.clip_, small)
        if dense is None:
            return Prediction(score)
        maps = (dense * direction[:, :, None, None]).sum(dim=1)
        return Prediction(score, upsample_map(maps, images.shape[-2:]))

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("direction_")
        return {}, {"categories": [*self.direction_], "clip_sha256": self.clip_.resolved.sha256}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load_clip()
        self._check_weights({"clip": values["clip_sha256"]})
        self._embed(values["categories"])


@dataclass(kw_only=True)
class ClipProbe(ClipDetector):
    """Logistic regression on CLIP's image embeddings, and on its patch tokens as a segmenter; see the module's text.

    Parameters
    ----------
    pasted_per_image : copies of each training image that get a synthetic defect (`paste_defect`).
    covered : a patch counts as defective from this share of its area on; patches that are touched less are left out.
    regularisation : scikit-learn's C, the inverse strength of the L2 penalty on standardised features.
    max_patches : patches that the segmenter is trained on at most, drawn by the seed; defective ones first, up to half.
    score : "image", the log-odds of the image classifier, or "patch", the largest of the map.

    Prediction: parts ``image`` and ``patch``; anomaly_map = log-odds of each patch, upsampled.
    """

    name: ClassVar[str] = "clip_probe"

    pasted_per_image: int = 2
    covered: float = 0.3
    regularisation: float = 0.01
    max_patches: int = 20_000
    score: str = "image"

    def __post_init__(self) -> None:
        _check_score(self.score)
        if self.pasted_per_image < 1 or not 0 < self.covered <= 1 or self.regularisation <= 0 or self.max_patches < 2:
            raise ValueError(
                "expected pasted_per_image >= 1, covered in (0, 1], regularisation > 0 and max_patches >= 2, got "
                f"{self.pasted_per_image}, {self.covered}, {self.regularisation} and {self.max_patches}"
            )

    def fit(self, train_dataset: ImageDataset) -> Self:
        """Train both classifiers on the normal images and on copies with defects pasted in from other normal images."""
        check_train_dataset(train_dataset)
        if len(train_dataset) < 2:
            raise ValueError("need at least 2 training images, since pasted defects come from another image")
        self._load_clip()
        image_rows, image_labels, patch_rows, coverages = [], [], [], []
        for batch in batches(train_dataset, self.batch_size):
            images, keys = resize_images(batch["image"], self.image_size), batch["key"]
            for copy in range(self.pasted_per_image + 1):
                shown, masks = images, torch.zeros(len(images), *images.shape[-2:])
                if copy:
                    pasted = [self._paste(*pair, copy, train_dataset) for pair in zip(images, keys, strict=True)]
                    shown, masks = (torch.stack(column) for column in zip(*pasted, strict=True))
                features = self._features(shown)
                image_rows.append(features.image)
                image_labels.append(torch.full((len(images),), int(copy > 0)))
                patch_rows.append(_rows(features.patches))
                coverages.append(F.adaptive_avg_pool2d(masks.float(), features.patches.shape[-2:]).flatten())
        self.image_weight_, self.image_bias_ = self._train(torch.cat(image_rows), torch.cat(image_labels))
        patches = self._chosen_patches(torch.cat(patch_rows), torch.cat(coverages))
        self.patch_weight_, self.patch_bias_ = self._train(*patches)
        return self

    def _paste(self, image: Tensor, key: str, copy: int, dataset: ImageDataset) -> tuple[Tensor, Tensor]:
        digest = hashlib.sha256(f"{self.seed}:{copy}:{key}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        source = resize_images(dataset[int(rng.integers(len(dataset)))]["image"][None], self.image_size)[0]
        return paste_defect(image, source, rng)

    def _chosen_patches(self, rows: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        defective, clean = (coverage >= self.covered).nonzero()[:, 0], (coverage == 0).nonzero()[:, 0]
        if len(defective) == 0:
            raise ValueError(
                f"no patch is covered by a pasted defect to {self.covered}: lower `covered` or raise `pasted_per_image`"
            )
        defective = defective[torch.randperm(len(defective), generator=generator)][: self.max_patches // 2]
        clean = clean[torch.randperm(len(clean), generator=generator)][: self.max_patches - len(defective)]
        chosen = torch.cat([defective, clean])
        return rows[chosen], (coverage[chosen] > 0).long()

    def _train(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [D] and bias [] of the log-odds, for features as they are; fitted on standardised ones."""
        from sklearn.linear_model import LogisticRegression  # of the three detectors only this one waits for its import

        mean, std = rows.double().mean(dim=0), rows.double().std(dim=0).clamp_min(1e-6)
        classifier = LogisticRegression(C=self.regularisation, class_weight="balanced", max_iter=1000)
        classifier.fit(((rows - mean) / std).numpy(), labels.numpy())
        weight = torch.from_numpy(classifier.coef_[0]) / std
        return weight, torch.from_numpy(classifier.intercept_)[0] - (weight * mean).sum()

    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("patch_weight_")
        features = self._features(images)
        image = (features.image.double() * self.image_weight_).sum(dim=1) + self.image_bias_
        maps = (features.patches.double() * self.patch_weight_[:, None, None]).sum(dim=1) + self.patch_bias_
        parts = {"image": image.float(), "patch": maps.flatten(1).amax(dim=1).float()}
        return Prediction(parts[self.score], upsample_map(maps.float(), images.shape[-2:]), parts=parts)

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("patch_weight_")
        names = ("image_weight", "image_bias", "patch_weight", "patch_bias")
        return {name: getattr(self, name + "_") for name in names}, {"clip_sha256": self.clip_.resolved.sha256}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._load_clip()
        self._check_weights({"clip": values["clip_sha256"]})
        for name, tensor in tensors.items():
            setattr(self, name + "_", tensor)


def _rows(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B h w, C]."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _check_score(score: str) -> None:
    if score not in SCORES:
        raise ValueError(f"score must be one of {SCORES}, got {score!r}")

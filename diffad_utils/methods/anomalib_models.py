"""Established detectors, through anomalib's own networks, on the same ground as every other method here.

    anomalib:patchcore  Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022
    anomalib:padim      Defard et al., "PaDiM", ICPR 2020 workshops
    anomalib:fastflow   Yu et al., "FastFlow: ... via 2D Normalizing Flows", arXiv 2111.07677
    anomalib:stfpm      Wang et al., "Student-Teacher Feature Pyramid Matching", BMVC 2021
    anomalib:winclip    Jeong et al., "WinCLIP", CVPR 2023

Only the networks, losses and scores are anomalib's (`anomalib.models.image.<name>.torch_model`). Its data modules, its
post-processing with thresholds and minimum and maximum of a validation set (which is the test set by default), and its
downloads are not used: images, splits, backbones and metrics are those of this study. Reverse distillation is left out:
its decoder mirrors the channels of one family of ResNets, so it could not take the shipped backbone; STFPM is the
teacher-student model instead.

anomalib is an extra (``pip install diffad_utils[baselines]``) and slow to import, so it is imported on first use.
"""

from __future__ import annotations

import importlib
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from diffad_utils import kernels, scoring
from diffad_utils.data import ImageDataset, captions
from diffad_utils.io.machine import require_memory
from diffad_utils.methods.base import Detector, Prediction, batches, check_train_dataset
from diffad_utils.models.backbones import Backbone, load_backbone
from diffad_utils.models.clip import Clip, load_clip
from diffad_utils.models.clip_features import clip_input
from diffad_utils.models.device import generators_kept
from diffad_utils.training import TrainingLog, train
from diffad_utils.weights import Resolved


def _anomalib(module: str):
    """A module of anomalib. ``ImportError`` that says how to install it, where it is absent."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it imports every model it has, deprecated parts too
            return importlib.import_module(f"anomalib.{module}")
    except ImportError as error:
        raise ImportError(
            f"the anomalib baselines need the package anomalib ({error}); install it with: pip install "
            f"'diffad_utils[baselines]'"
        ) from error


class _Features(nn.Module):
    """A `Backbone` as anomalib's feature extractor: images in [0, 1] -> {layer: features}."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone
        self.layers = [f"stride{stride}" for stride in backbone.strides]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.layers, self.backbone(images), strict=True))


class _Student(nn.Module):
    """The network of an untrained `Backbone`, this time to be trained: images in [0, 1] -> {layer: features}."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.net = backbone.net.requires_grad_(True)
        self.layers = [f"stride{stride}" for stride in backbone.strides]
        self.register_buffer("mean", backbone.mean)
        self.register_buffer("std", backbone.std)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.layers, self.net((images - self.mean) / self.std), strict=True))


@dataclass(kw_only=True)
class AnomalibDetector(Detector):
    """What the anomalib detectors share: ``model_`` is an anomalib network; its score and map are taken as they are.

    Prediction: score = anomalib's ``pred_score``; anomaly_map = anomalib's, resized to the images; nfe = 0.
    """

    family: ClassVar[str] = "classical"
    FROZEN: ClassVar[str]
    """Prefix of the pretrained weights in ``model_``, which are not saved with the detector."""
    WEIGHTS: ClassVar[str] = "backbone"
    """The field that names them."""

    def fit(self, train_dataset: ImageDataset) -> Self:
        check_train_dataset(train_dataset)
        with generators_kept(self.seed):
            self._prepare(train_dataset)
            self.model_ = self._build().to(self.torch_device)
            count, side = len(train_dataset), self.image_size  # anomalib keeps all of them in memory
            require_memory(self._bytes_to_fit(count), f"{self.name}, fitted to {count} images of {side} px,")
            self._learn(torch.cat([self._input(b["image"]) for b in batches(train_dataset, self.batch_size)]))
        self.model_.eval()
        return self

    @torch.no_grad()
    def predict(self, images: Tensor, keys: Sequence[str] | None = None) -> Prediction:
        self._require_fitted("model_")
        size = images.shape[-2:]
        outputs = [
            self.model_(self._network_input(chunk.to(self.torch_device)))
            for chunk in self._input(images).split(self.batch_size)
        ]
        score = torch.cat([output.pred_score.flatten() for output in outputs])
        maps = torch.cat([output.anomaly_map.reshape(-1, *output.anomaly_map.shape[-2:]) for output in outputs])
        return Prediction(score.float().cpu(), scoring.upsample_map(maps.float().cpu(), size))

    def _bytes_to_fit(self, count: int) -> int:
        """Memory of ``count`` images, float32, and once more as they are joined."""
        return 2 * 4 * count * 3 * self.image_size**2

    def _network_input(self, images: Tensor) -> Tensor:
        """What the network takes, from images [B, 3, S, S] in [0, 1]; a `Backbone` normalises by itself."""
        return images

    def _prepare(self, train_dataset: ImageDataset) -> None:
        """Anything that depends on the training set beside its images."""

    @abstractmethod
    def _build(self) -> nn.Module:
        """The unfitted network, with the pretrained weights in it; sets ``pretrained_``."""

    @abstractmethod
    def _learn(self, images: Tensor) -> None:
        """Fit ``model_`` to normal images [N, 3, S, S] in [0, 1]."""

    @property
    def resolved(self):
        """Where the pretrained weights are from (`weights.Resolved`), for ``run.note_weights``."""
        self._require_fitted("model_")
        return self.pretrained_.resolved

    def resolved_weights(self) -> dict[str, Resolved]:
        return {self.WEIGHTS: self.pretrained_.resolved}

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._require_fitted("model_")
        learned = {
            name: value.clone() for name, value in self.model_.state_dict().items() if not name.startswith(self.FROZEN)
        }
        return learned, {"weights_sha256": self.pretrained_.resolved.sha256}

    def _set_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        with generators_kept(self.seed):
            self.model_ = self._build()
        self._check_weights({self.WEIGHTS: values["weights_sha256"]})
        missing, unexpected = self.model_.load_state_dict(tensors, strict=False)
        lost = [name for name in missing if not name.startswith(self.FROZEN)]
        if lost or unexpected:
            raise ValueError(
                f"the saved detector does not fit the network: {lost[:3]} missing, {unexpected[:3]} unexpected"
            )
        self.model_.to(self.torch_device).eval()


@dataclass(kw_only=True)
class BackboneDetector(AnomalibDetector):
    """On features of a frozen backbone.

    backbone : name for `models.backbones.load_backbone`. allow_mini : whether the shipped mini may stand in.
    strides : the feature levels; 4, 8, 16 are layers 1 to 3 of a ResNet.
    """

    FROZEN: ClassVar[str] = "feature_extractor."

    backbone: str = "efficientnet-lite0"
    allow_mini: bool = False
    strides: Sequence[int] = (4, 8, 16)

    def _features(self) -> _Features:
        if not hasattr(self, "pretrained_"):
            self.pretrained_ = load_backbone(self.backbone, allow_mini=self.allow_mini, strides=tuple(self.strides))
        return _Features(self.pretrained_)

    @property
    def _cells(self) -> int:
        """Feature vectors an image."""
        return (self.image_size // min(self.strides)) ** 2

    def _drawn(self, n: int, count: int) -> Tensor:
        """``count`` of the numbers below ``n``, int64, at random with the seed alone, whatever else was drawn."""
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[:count]


@dataclass(kw_only=True)
class PatchCore(BackboneDetector):
    """Distance of patch features to a bank of those of normal images (Roth et al., sec. 3).

    The paper keeps a greedily chosen coreset of the patches (sec. 3.2, algorithm 1), 1 % to 25 % of them. Choosing it
    takes longer than everything else here, so the default is what is often run in its place: a random tenth. Below 1 %
    the greedy coreset keeps little but outliers, and detection suffers. Distances are exact, from `kernels.knn`.

    strides : the paper's layers 2 and 3. coreset_ratio : share of the patches that is kept, at least ``num_neighbors``
        of them: the score's weight is one minus a softmax over a patch's neighbours in the bank, and is 0 where a patch
        is its only neighbour.
    subsampling : which are kept, "random" or "greedy" (the paper's). num_neighbors : of the score's re-weighting (the
        paper's b).
    """

    name: ClassVar[str] = "anomalib:patchcore"
    published_as: ClassVar[str] = "PatchCore"
    contract_settings: ClassVar[dict[str, Any]] = {"coreset_ratio": 0.05}

    strides: Sequence[int] = (8, 16)
    coreset_ratio: float = 0.1
    subsampling: str = "random"
    num_neighbors: int = 9

    def __post_init__(self) -> None:
        if self.subsampling not in ("random", "greedy"):
            raise ValueError(f"PatchCore: subsampling must be 'random' or 'greedy', got {self.subsampling!r}")
        if not 0 < self.coreset_ratio <= 1:
            raise ValueError(f"PatchCore: coreset_ratio must be above 0 and at most 1, got {self.coreset_ratio}")

    def _build(self) -> nn.Module:
        return _patchcore(self._features(), self.num_neighbors)

    def _bytes_to_fit(self, count: int) -> int:
        """Also the embeddings, and once more as they are joined."""
        return super()._bytes_to_fit(count) + 2 * 4 * count * self._cells * sum(self.pretrained_.channels)

    def _learn(self, images: Tensor) -> None:
        self.model_.train()
        for chunk in images.split(self.batch_size):
            self.model_(chunk.to(self.torch_device))
        patches = sum(len(rows) for rows in self.model_.embedding_store)
        if patches < self.num_neighbors:
            raise ValueError(
                f"PatchCore needs at least num_neighbors = {self.num_neighbors} patches of normal images, got "
                f"{patches} from {len(images)} images of {self.image_size} px: give more or larger images"
            )
        ratio = max(self.coreset_ratio, (self.num_neighbors + 0.5) / patches)
        if self.subsampling == "greedy":
            self.model_.subsample_embedding(ratio)
            return
        kept = self._drawn(patches, int(ratio * patches)).sort().values
        self.model_.memory_bank = torch.vstack(self.model_.embedding_store)[kept.to(self.torch_device)]
        self.model_.embedding_store.clear()


def _patchcore(features: _Features, num_neighbors: int) -> nn.Module:
    """anomalib's PatchCore on ``features``, its neighbours from `kernels.knn`: exact, and in bounded memory."""

    class Model(_anomalib("models.image.patchcore.torch_model").PatchcoreModel):  # type: ignore[misc]
        def nearest_neighbors(self, embedding: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
            distances, rows = kernels.knn(embedding, self.memory_bank, n_neighbors)
            return (distances[:, 0], rows[:, 0]) if n_neighbors == 1 else (distances, rows)

    # anomalib builds an extractor of its own first; an untrained one, which is replaced
    model = Model(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False, num_neighbors=num_neighbors)
    model.feature_extractor, model.layers = features, features.layers
    return model


@dataclass(kw_only=True)
class PaDiM(BackboneDetector):
    """Mahalanobis distance to a Gaussian over the normal images at each position.

    n_features : randomly drawn channels (the paper's Rd; 100 for a ResNet-18), at most as many as there are.
    """

    name: ClassVar[str] = "anomalib:padim"
    published_as: ClassVar[str] = "PaDiM"
    contract_settings: ClassVar[dict[str, Any]] = {"n_features": 24}

    n_features: int = 100

    def _build(self) -> nn.Module:
        features = self._features()
        model = _anomalib("models.image.padim.torch_model").PadimModel(
            backbone="resnet18", layers=["layer1", "layer2", "layer3"], pre_trained=False, n_features=1
        )
        channels = sum(features.backbone.channels)
        model.feature_extractor, model.layers, model.n_features_original = features, features.layers, channels
        model.n_features = min(self.n_features, channels)
        model.idx = self._drawn(channels, model.n_features)
        return model

    def _bytes_to_fit(self, count: int) -> int:
        """Also the embeddings, twice; their covariances, and the inverses of these, while they are computed."""
        floats = 2 * count * self._cells * self.model_.n_features + 3 * self._cells * self.model_.n_features**2
        return super()._bytes_to_fit(count) + 4 * floats

    def _learn(self, images: Tensor) -> None:
        self.model_.train()
        for chunk in images.split(self.batch_size):
            self.model_(chunk.to(self.torch_device))
        self.model_.fit()


@dataclass(kw_only=True)
class TrainedDetector(BackboneDetector):
    """Trained by gradient descent with `training.train` (AdamW, cosine).

    anomalib's defaults are Adam at 1e-3 (FastFlow) and SGD at 0.4 (STFPM), without a schedule.
    """

    train_steps: int = 300
    train_batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5

    def _learn(self, images: Tensor) -> None:
        loss = self._loss()

        def loss_fn(model: nn.Module, generator: torch.Generator) -> Tensor:
            chosen = torch.randint(len(images), (min(self.train_batch_size, len(images)),), generator=generator)
            return loss(*model(images[chosen].to(self.torch_device)))

        self.training_log_: TrainingLog = train(
            self.model_,
            loss_fn,
            num_steps=self.train_steps,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=min(20, self.train_steps // 10),
            seed=self.seed,
            description=self.name,
        )

    @abstractmethod
    def _loss(self) -> nn.Module:
        """anomalib's loss of what the network returns in training."""


@dataclass(kw_only=True)
class FastFlow(TrainedDetector):
    """A normalising flow on each feature level. flow_steps : coupling blocks a level (the paper: 8 for ResNets)."""

    name: ClassVar[str] = "anomalib:fastflow"
    published_as: ClassVar[str] = "FastFlow"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 20, "train_batch_size": 4, "flow_steps": 2}

    flow_steps: int = 8
    conv3x3_only: bool = True
    hidden_ratio: float = 1.0

    def _build(self) -> nn.Module:
        if self.image_size % max(self.strides):
            raise ValueError(
                f"anomalib:fastflow needs an image_size that is a multiple of {max(self.strides)}, got "
                f"{self.image_size}"
            )
        module = _anomalib("models.image.fastflow.torch_model")
        model = module.FastflowModel((self.image_size, self.image_size), "resnet18", pre_trained=False, flow_steps=1)
        self._features()
        model.feature_extractor = self.pretrained_
        shapes = [
            (c, self.image_size // s, self.image_size // s)
            for c, s in zip(self.pretrained_.channels, self.strides, strict=True)
        ]
        model.norms = nn.ModuleList(nn.LayerNorm(shape) for shape in shapes)
        model.fast_flow_blocks = nn.ModuleList(
            module.create_fast_flow_block([*shape], self.conv3x3_only, self.hidden_ratio, self.flow_steps)
            for shape in shapes
        )
        return model

    def _loss(self) -> nn.Module:
        return _anomalib("models.image.fastflow.loss").FastflowLoss()


@dataclass(kw_only=True)
class STFPM(TrainedDetector):
    """A student of the backbone's architecture, trained from random weights to match its features on normal images."""

    name: ClassVar[str] = "anomalib:stfpm"
    contract_settings: ClassVar[dict[str, Any]] = {"train_steps": 20, "train_batch_size": 4}
    FROZEN: ClassVar[str] = "teacher_model."

    def _build(self) -> nn.Module:
        module = _anomalib("models.image.stfpm.torch_model")
        model = module.STFPMModel.__new__(module.STFPMModel)  # its constructor would download a teacher
        nn.Module.__init__(model)
        model.tiler = None
        model.teacher_model = self._features()
        student = load_backbone(
            self.backbone, allow_mini=self.allow_mini, strides=tuple(self.strides), random_seed=self.seed
        )
        model.student_model = _Student(student)
        model.anomaly_map_generator = module.AnomalyMapGenerator()
        return model

    def _loss(self) -> nn.Module:
        return _anomalib("models.image.stfpm.loss").STFPMLoss()


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
    module = _anomalib("models.image.winclip.torch_model")
    prompts = _anomalib("models.image.winclip.prompting").create_prompt_ensemble

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


BY_NAME = {cls.name: cls for cls in (PatchCore, PaDiM, FastFlow, STFPM, WinCLIP)}
"""These detectors by their names in `METHODS`."""

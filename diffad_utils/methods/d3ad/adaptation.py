"""Domain adaptation of a feature extractor: images and their reconstructions are brought together in feature space.

Sources: D3AD, eq. 10 (see `conditioning`), and Mousakhan, Brox, Tayyub, "Anomaly Detection with Conditioned Denoising
Diffusion Models" (DDAD, arXiv 2305.15956, section 3.4) with its public code. A diffusion model, and the autoencoder
around it, leave small traces everywhere. The extractor is fine-tuned on *normal* images until it no longer sees them.

The smallest loss of all is that of an extractor that says the same of every image. DDAD holds against it by staying
close to the frozen copy; eq. 10 does not, so `adapt` watches the variance of the features and undoes an epoch that
loses too much of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffad_utils.training import step_generator

Features = Sequence[Tensor]
"""One feature map [B, C, h, w] a block."""


KEPT_VARIANCE = 0.5
"""Share of the variance before that every block has to keep; an epoch that falls below it is undone."""


def d3ad_loss(x: Features, x_hat: Features) -> Tensor:
    """D3AD eq. 10: sum over blocks of the global average of 1 - cosine similarity over channels. A scalar."""
    return sum((1 - F.cosine_similarity(a, b, dim=1)).mean() for a, b in zip(x, x_hat, strict=True))


def flattened_loss(x: Features, x_hat: Features) -> Tensor:
    """As both public codes have it: one cosine a block and image, of the whole flattened feature map. A scalar."""
    return sum(
        (1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)).mean() for a, b in zip(x, x_hat, strict=True)
    )


LOSSES = {"positions": d3ad_loss, "flattened": flattened_loss}


def ddad_loss(
    x: Features, x_hat: Features, frozen_x: Features, frozen_x_hat: Features, distillation_weight: float
) -> Tensor:
    """DDAD's loss: `flattened_loss`, plus ``distillation_weight`` times the distance of either's features to those of
    the frozen extractor. A scalar."""
    distillation = flattened_loss(x, frozen_x) + flattened_loss(x_hat, frozen_x_hat)
    return flattened_loss(x, x_hat) + distillation_weight * distillation


def feature_variance(features: Tensor) -> float:
    """How much the directions of features [N, C, h, w] differ over images and positions: 1 - |mean unit vector|².

    In [0, 1]; 0 where all point the same way. Cosine distances see directions only, so this is what a collapse takes
    away.
    """
    unit = F.normalize(features.double(), dim=1)
    return float(1 - unit.mean(dim=(0, 2, 3)).square().sum())


@dataclass
class AdaptationLog:
    """Mean loss of each epoch; variance of each block before and after (`feature_variance`), and what became of it.

    ``epochs`` counts those that were kept; ``undone`` says whether one was taken back because features collapsed.
    """

    losses: list[float] = field(default_factory=list)
    variance_before: list[float] = field(default_factory=list)
    variance_after: list[float] = field(default_factory=list)
    epochs: int = 0
    undone: bool = False


def adapt(
    extractor: nn.Module,
    images: Tensor,
    reconstruct: Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor]],
    *,
    epochs: int,
    loss: str = "positions",
    distillation_weight: float = 0.0,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    batch_statistics: bool = False,
    seed: int = 0,
) -> tuple[nn.Module, AdaptationLog]:
    """A fine-tuned copy of the extractor, frozen again, and what happened; the one given stays as it is.

    Parameters
    ----------
    images : normal training images float [N, 3, H, W] in [0, 1], on the CPU.
    reconstruct : ``reconstruct(rows int64 [B], generator)`` -> (targets, reconstructions), both [B, 3, H, W]: images
        whose features should agree, for these rows of ``images``. Draws what is random from the CPU generator.
    epochs : passes over the images; 0 gives a plain copy.
    loss : "positions", D3AD's eq. 10 (`d3ad_loss`), or "flattened", as its public code has it (`flattened_loss`).
    distillation_weight : 0: the loss above. Larger: DDAD's loss with this weight (`ddad_loss`).
    learning_rate : of AdamW, 1e-4 in both public codes.
    batch_statistics : whether batch normalisation is in training mode meanwhile, as in both public codes: images and
        reconstructions are then each normalised by their own batch, and the running statistics move. Afterwards the
        extractor is in evaluation mode in any case.
    """
    adapted, log = copy.deepcopy(extractor), AdaptationLog()
    log.variance_before = log.variance_after = _variances(adapted, images, batch_size)
    adapted.requires_grad_(True)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=learning_rate)
    for epoch in range(epochs):
        before, losses = copy.deepcopy(adapted.state_dict()), []
        _batch_norms(adapted, training=batch_statistics)
        generator = step_generator(seed, epoch)
        for rows in torch.randperm(len(images), generator=generator).split(batch_size):
            targets, reconstructions = reconstruct(rows, generator)
            x, x_hat = adapted(targets), adapted(reconstructions)
            if distillation_weight:
                with torch.no_grad():
                    frozen = extractor(targets), extractor(reconstructions)
                value = ddad_loss(x, x_hat, *frozen, distillation_weight)
            else:
                value = LOSSES[loss](x, x_hat)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        log.losses.append(sum(losses) / len(losses))
        _batch_norms(adapted, training=False)
        variances = _variances(adapted, images, batch_size)
        if any(after < KEPT_VARIANCE * start for after, start in zip(variances, log.variance_before, strict=True)):
            adapted.load_state_dict(before)
            log.undone = True
            break
        log.variance_after, log.epochs = variances, epoch + 1
    return adapted.requires_grad_(False).eval(), log


def _batch_norms(network: nn.Module, training: bool) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(training)


@torch.no_grad()
def _variances(extractor: nn.Module, images: Tensor, batch_size: int) -> list[float]:
    device = next(extractor.parameters()).device
    blocks = zip(*(extractor(part.to(device)) for part in images.split(batch_size)), strict=True)
    return [feature_variance(torch.cat([part.cpu() for part in block])) for block in blocks]

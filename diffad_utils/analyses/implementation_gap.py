"""Is the gap between denoising and reconstruction a matter of implementation (claim C31)?

D3AD under changes of implementation alone: no noise at the start, guidance by the image, more steps, and a decoder
that was fine-tuned on the normal training images. Beside it the autoencoder that has the same encoder and the same
fine-tuned decoder, and no denoiser between them. What is left between the two is the denoiser's.

Used by notebook 06; entry point: `measure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from diffad_utils.analyses.d3ad_study import means
from diffad_utils.analyses.ddad_study import removal_table
from diffad_utils.analyses.detector_variants import Variants
from diffad_utils.analyses.task import Task
from diffad_utils.data import ImageDataset
from diffad_utils.methods.autoencoder import Autoencoder
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.metrics.bootstrap import bootstrap_percentiles
from diffad_utils.metrics.image_quality import reconstruction

AUTOENCODER = "autoencoder, no denoiser"
PSNR = "PSNR, dB"
MEASURE = "PSNR of the autoencoder minus that of the best D3AD with changes of implementation only, dB"


@dataclass(frozen=True)
class ImplementationGap:
    """What changes of implementation do to D3AD.

    table : label, measure ("PSNR, dB" of normal images; "removal" of defects, where there are counterparts; "I-AUROC"),
    value, low, high (95 % over images). effect : `gap`.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = ("label", "value", "low", "high")

    table: pd.DataFrame
    effect: dict[str, np.ndarray]

    @property
    def kept(self) -> pd.DataFrame:
        """The rows of PSNR."""
        return self.table[self.table["measure"] == PSNR]

    @property
    def cost(self) -> pd.DataFrame:
        """The other rows."""
        return self.table[self.table["measure"] != PSNR]

    @property
    def autoencoder(self) -> float:
        """The autoencoder's PSNR, dB."""
        return float(self.kept.set_index("label").loc[AUTOENCODER, "value"])

    def in_words(self) -> str:
        """What the setting of D3AD with the highest PSNR detects and removes."""
        values = self.table.pivot(index="label", columns="measure", values="value")
        best = values.drop(AUTOENCODER)[PSNR].idxmax()
        rest = ", ".join(
            f"{measure} {values.loc[best, measure]:.3f} (autoencoder: {values.loc[AUTOENCODER, measure]:.3f})"
            for measure in ("removal", "I-AUROC")
            if measure in values
        )
        return f"D3AD keeps normal images best with {best}: {values.loc[best, PSNR]:.1f} dB. There it has {rest}."


def measure(
    variants: Variants, without: Prediction, normal: Task, hurt: Task | None, parameters: Mapping[str, Any]
) -> ImplementationGap:
    """Fine-tune the decoder for ``decoder_steps`` and try every change with it.

    Parameters
    ----------
    variants : of a fitted D3AD on the whole task. without : D3AD's own map of Dec(Enc(x)), on all of it.
    normal : normal test images of the task. hurt : defective ones with counterparts, or None. Their reconstructions go
        through the fine-tuned decoder; scores are those of the detector's own decoder.
    parameters : of the run; ``decoder_steps``, ``guidance_weights``.
    """
    detector: Any = variants.detector  # D3AD
    task = variants.task
    tuned = tuned_decoder(detector, task.train, parameters["decoder_steps"])
    settings = changes(detector, parameters["guidance_weights"])
    values = psnr(normal.images, reconstructed(variants, tuned, settings, normal))
    rows = [(name, PSNR, *bootstrap_percentiles(means(v, normal))) for name, v in values.items()]
    if hurt is not None:
        removal = removal_table(reconstructed(variants, tuned, settings, hurt), hurt)
        for name, part in removal.groupby("method", sort=False):
            rows.append((name, "removal", *bootstrap_percentiles(means(part["removal"], hurt))))
    scores = {AUTOENCODER: without.score} | {name: variants.predict(**own).score for name, own in settings.items()}
    for name, score in scores.items():
        found = task.accuracy(score)
        rows.append((name, "I-AUROC", found["I-AUROC"], found["low"], found["high"]))
    table = pd.DataFrame(rows, columns=["label", "measure", "value", "low", "high"])
    return ImplementationGap(table, gap(values, normal))


def tuned_decoder(detector: D3AD, train: ImageDataset, steps: int) -> Autoencoder:
    """The autoencoder of a fitted D3AD with its decoder fine-tuned on ``train``; the encoder stays, so D3AD's latents
    can be decoded by it."""
    return Autoencoder(
        vae=detector.vae,
        allow_mini=detector.allow_mini,
        pretrained=True,
        train_encoder=False,
        image_size=detector.image_size,
        train_steps=steps,
        learning_rate=5e-4,
        seed=detector.seed,
        device=detector.device,
    ).fit(train)


def changes(detector: D3AD, guidance_weights: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Changes of implementation by name: settings for `Variants`. All start without noise, as D3AD does."""
    start = {"noise_fraction": 0.0}
    weights = {f"eta = {weight:g}": start | {"guidance_weight": float(weight)} for weight in guidance_weights}
    most = max((float(weight) for weight in guidance_weights), default=0.0)
    steps = 2 * detector.num_steps
    finer = {"guidance_weight": most, "num_steps": steps, "plan": "sub-sequence"}  # the code's plan needs multiples
    return weights | {f"eta = {most:g}, {steps} steps": start | finer}


def reconstructed(variants: Variants, tuned: Autoencoder, settings: Mapping[str, Mapping], task: Task) -> dict:
    """Reconstructions [n, 3, S, S] of a task's images by name, all through the fine-tuned decoder; the autoencoder's
    first."""
    found = {AUTOENCODER: tuned.predict(task.images, task.keys).reconstruction}
    for name, own in settings.items():
        latents = variants.fitted(**own).reconstruction(task.images, task.keys).state_hat
        found[name] = tuned.decode(latents)
    return found


def psnr(images: Tensor, reconstructions: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Peak signal-to-noise ratio of each image by name, dB [n]: how well what should stay is kept."""
    return {name: reconstruction(images.numpy(), x.numpy())["psnr"] for name, x in reconstructions.items()}


def gap(values: Mapping[str, np.ndarray], task: Task) -> dict[str, np.ndarray]:
    """C31: the autoencoder's PSNR on normal images minus that of the best setting of D3AD, in each resample.

    The best is picked in every resample anew, which favours D3AD and so speaks against the claim, if anything.
    """
    others = np.stack([means(v, task) for name, v in values.items() if name != AUTOENCODER])
    return {MEASURE: means(values[AUTOENCODER], task) - others.max(axis=0)}

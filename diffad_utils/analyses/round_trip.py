"""What a reconstruction does to normal images, and which images to look at: a survey over a data set's categories.

Images are float [N, 3, H, W] in [0, 1].

Used by notebook 02; entry points: `survey`, `psnr`, `psnr_by_category`, `planted_rows`,
`linear_bottlenecks`, `answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from diffad_utils import data, weights
from diffad_utils.analyses import frequencies, survival
from diffad_utils.analyses.frequencies import Reconstruct
from diffad_utils.analyses.summaries import Means, compared, in_words
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import detects
from diffad_utils.data import ImageDataset
from diffad_utils.models import autoencoders
from diffad_utils.models.stable_diffusion import load_vae


class Survey(NamedTuple):
    """Test images of several categories of a data set, a few of each."""

    normal: dict  # a batch, as from `data.load_batch`
    category: np.ndarray  # of each normal image
    defects: ImageDataset  # anomalous images

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(self.category))


def survey(
    dataset: str,
    categories: Sequence[str] = (),
    images: int = 10,
    size: int = 128,
    root: str | None = None,
    seed: int = 0,
) -> Survey:
    """At most ``images`` normal and as many anomalous test images of each category, drawn at random.

    Parameters
    ----------
    categories : which; empty for all that the data set has under ``root``.
    size : side of the square images, pixels.

    Raises
    ------
    diffad_utils.data.DataError: as `data.load_index`.
    """
    names = list(categories) or data.categories(dataset, root=root)
    table = pd.concat([data.load_index(dataset, root=root, category=name, seed=seed) for name in names])
    drawn = table[table["split"] == "test"].sample(frac=1, random_state=seed)
    drawn = drawn.groupby(["category", "label"]).head(images)
    drawn = drawn.sort_values(["category", "label", "image"], ignore_index=True)
    normal, anomalous = (drawn[drawn["label"] == value] for value in (0, 1))
    batch = data.load_batch(ImageDataset(normal, size=size))
    return Survey(batch, normal["category"].to_numpy(), ImageDataset(anomalous, size=size))


def psnr(images: Tensor, reconstructions: Tensor, colour: bool = True) -> np.ndarray:
    """PSNR of each reconstruction in dB, float64 [N].

    Without ``colour`` the mean colour error is taken off first: what the mean of each channel over the image is off.
    """
    if not colour:
        reconstructions = reconstructions - (reconstructions - images).mean(dim=(2, 3), keepdim=True)
    error = (reconstructions - images).double().square().mean(dim=(1, 2, 3))
    return (-10 * error.log10()).numpy()


def mean_colour_error(images: Tensor, reconstructions: Tensor) -> np.ndarray:
    """How far the mean colour of each image is off, in grey levels of 255 (root mean square over channels): [N]."""
    return 255 * (reconstructions - images).double().mean(dim=(2, 3)).square().mean(dim=1).sqrt().numpy()


def times_ten(images: Tensor, reconstructions: Tensor) -> Tensor:
    """Ten times the residual on mid-grey, which stands for none, clipped to [0, 1]: [N, 3, H, W]."""
    return (0.5 + 10 * (images - reconstructions)).clamp(0, 1)


def from_worst_to_best(psnr: np.ndarray) -> list[int]:
    """Rows of the lowest PSNR, the lower quarter, the median and the highest of values [N]."""
    order = psnr.argsort()
    return order[[0, len(order) // 4, len(order) // 2, -1]].tolist()


def psnr_by_category(surveyed: Survey, reconstructions: Mapping[str, Tensor], means: Means) -> pd.DataFrame:
    """PSNR on the normal images of a survey: a row a category and reconstruction [N, 3, H, W].

    Columns as `Means.rows`: the name is the category, the group the reconstruction.
    """
    rows = []
    for name, made in reconstructions.items():
        values = psnr(surveyed.normal["image"], made)
        rows.append(means.rows({c: values[surveyed.category == c] for c in surveyed.names}, name))
    return pd.concat(rows, ignore_index=True)


def planted_rows(
    reconstructions: Mapping[str, Reconstruct],
    normal: Task,
    areas: Sequence[float],
    contrasts: Sequence[float],
    means: Means,
) -> pd.DataFrame:
    """Survival of discs planted in the images of ``normal`` (`survival.planted_table`).

    Columns as `Means.rows`, with the name of the reconstruction and the disc as group, such as "discs of 0.1 % of the
    image"; also area (percent of the image) and contrast (text, such as "0.1").
    """
    rows = []
    for name, reconstruct in reconstructions.items():
        table = survival.planted_table(reconstruct, normal.images, normal.keys, areas, contrasts, normal.seed)
        for (area, contrast), part in table.groupby(["area", "planted"]):
            row = means.rows({name: part["survival"].to_numpy()}, f"discs of {100 * area:g} % of the image")
            rows.append(row.assign(area=100 * area, contrast=f"{contrast:g}"))
    return pd.concat(rows, ignore_index=True)


def linear_bottlenecks(images: Tensor, channels: Sequence[int], downsamplings: Sequence[int]) -> dict[str, Reconstruct]:
    """The best linear autoencoder of training images (`frequencies.linear_bottleneck`) for several latent shapes.

    Every number of channels with the first downsampling, and the first number of channels with the others; the names
    are such as "4 channels, 8 x".
    """
    shapes = [(count, downsamplings[0]) for count in channels] + [(channels[0], f) for f in downsamplings[1:]]
    return {f"{count} channels, {f} x": frequencies.linear_bottleneck(images, count, f) for count, f in shapes}


def of_vae(vae: autoencoders.VAE) -> Reconstruct:
    """Dec(Enc(x)) of an autoencoder, as a function of images and keys."""

    def reconstruct(images: Tensor, keys: Sequence[str] | None = None) -> Tensor:
        return autoencoders.reconstruct(vae, images)

    return reconstruct


def attached(names: Sequence[str], device: str, note: Callable[[weights.Resolved], None]) -> dict[str, Reconstruct]:
    """`of_vae` of the autoencoders of ``names`` that are on this machine; a line says which are not.

    note : is told of the weights of each, such as `study.Run.note_weights`.
    """
    found = {}
    for name in names:
        if weights.missing(name if name.startswith("vae:") else f"vae:{name}"):
            print(f"{name} was not found and is left out: see `diffad weights where`")
            continue
        vae = load_vae(name, device=device)
        note(vae.resolved)
        found[name] = of_vae(vae)
    return found


def survival_in_words(table: pd.DataFrame) -> str:
    """table : `survival.survival_by_group`, all of them in the first row."""
    row = table.iloc[0]
    return (
        f"{row['lost (< 0.25)']:.0%} of them keep less than a quarter of themselves, {row['kept (> 0.75)']:.0%} more "
        f"than three quarters. {row['below the error']:.0%} have less contrast than the error there."
    )


def answer(
    task: str,
    jpeg: Sequence[float],
    survival_rows: pd.DataFrame,
    kind: str,
    shapes: Mapping[str, Sequence[float]],
    objective: Sequence[float],
    controls: Mapping[str, Sequence[float]],
) -> str:
    """Notebook 02's three questions and what this run answers.

    Parameters
    ----------
    jpeg : PSNR of JPEG at quality 75 minus that of the round trip, dB: (mean, low, high, ...), over all categories.
    survival_rows : of `survival.survival_by_group`, the whole first; ``kind`` is what survives.
    shapes : PSNR of best linear codes with larger latents minus that of the narrowest, by name.
    objective : PSNR of the trained autoencoder minus that of image-to-image, which has the same bottleneck.
    controls : rival -> I-AUROC of the pixel DDPM, which has no bottleneck, minus the rival's.
    """
    everything = survival_rows.iloc[0]
    ends = everything.reindex(["low", "high"]).astype(float)
    mean = f"{everything['survival']:.2f} (no interval, as they are fewer than ten)"
    interval = mean if ends.isna().any() else in_words([everything["survival"], *ends])
    lost = f"the PSNR of JPEG at quality 75 {compared(jpeg)} the round trip's ({in_words(jpeg, ' dB', sign=True)})"
    widest = max(shapes, key=lambda name: float(shapes[name][0]), default=None)
    shape = ""
    if widest:
        size = widest.replace(", ", " and sides ").replace(" x", " times smaller")  # "32 channels, 8 x"
        shape = (
            f"The best linear codes differ in the shape of their latent alone. The PSNR with {size} "
            f"{compared(shapes[widest])} that of the narrowest code ({in_words(shapes[widest], ' dB', sign=True)}). "
        )
    return (
        f"**How much is lost before any diffusion starts?** On normal images {lost}. **Are the defects part of the "
        f"loss?** In the mean {interval} of a {kind} survives the round trip, and {everything['lost (< 0.25)']:.0%} "
        f"keep less than a quarter. **Is the bottleneck to blame?** {shape}With the same bottleneck, an autoencoder "
        f"trained to reconstruct {compared(objective)} image-to-image ({in_words(objective, ' dB', sign=True)}). "
        f"On {task} {detects('the pixel DDPM, which has no bottleneck,', controls)}."
    )

"""One category of a data set, as every notebook uses it: its images, and accuracy with intervals on them.

Used by notebooks 01 to 07. Entry points: `load_task`, `Task.accuracy`, `Task.difference`, `Task.subset`,
`Task.trivial_baseline`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from diffad_utils import data, metrics
from diffad_utils.data import ImageDataset
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.trivial import Trivial, best_statistic
from diffad_utils.study.run import Run


class TrivialBaseline(NamedTuple):
    """The best global statistic of an image, chosen with the test labels: a baseline that is too good, if anything."""

    statistic: str
    auroc: float  # I-AUROC of that statistic
    prediction: Prediction  # of `Trivial`, whose own score is the largest deviation of all statistics

    @property
    def chosen(self) -> Prediction:
        """The prediction whose score is that statistic, so that every metric of the baseline is of the same score."""
        return replace(self.prediction, score=self.prediction.parts[self.statistic])

    def record(self) -> dict[str, Any]:
        """As `study.Run.record` takes it."""
        return {"statistic": self.statistic, "I-AUROC": self.auroc}


@dataclass(frozen=True)
class Task:
    """Training images and a batch of test images of one category. Made by `load_task`.

    ``batch`` is as from ``data.load_batch``: ``image`` [N, 3, S, S] in [0, 1], ``mask`` [N, S, S], ``label`` [N],
    ``key``, and ``twin`` [N, 3, S, S] (the defect-free counterparts) where the data set has them.
    """

    name: str  # "textures/leather"
    train: ImageDataset
    test: ImageDataset  # all test images, also of a subset
    rows: Tensor  # int64 [N], the rows of `test` that `batch` holds
    batch: dict
    seed: int = 0
    bootstrap_samples: int = 1000

    @property
    def images(self) -> Tensor:
        return self.batch["image"]

    @property
    def labels(self) -> Tensor:
        return self.batch["label"]

    @property
    def masks(self) -> Tensor:
        return self.batch["mask"]

    @property
    def keys(self) -> list[str]:
        return list(self.batch["key"])

    @property
    def kinds(self) -> list[str]:
        """The kind of defect of each test image, as the data set names it; ``good`` where there is none."""
        return self.test.index["defect"].iloc[self.rows.tolist()].tolist()

    @property
    def with_masks(self) -> Tensor:
        """bool [N]: normal images and those whose defect has a mask; metrics of pixels are of these alone."""
        return torch.from_numpy(metrics.with_masks(self.labels, self.masks))

    @property
    def has_masks(self) -> bool:
        return bool(self.with_masks.any())

    @property
    def defect_areas(self) -> Tensor:
        """The share of its image that each defect with a mask covers, [n]; its mean is the chance that a random pixel
        of these images lies in a defect."""
        return self.masks[self.with_masks & (self.labels == 1)].float().mean(dim=(1, 2))

    @property
    def has_counterparts(self) -> bool:
        """Whether each defect image has a defect-free counterpart."""
        return "twin" in self.batch

    def take(self, rows: Tensor) -> Task:
        """The test images ``rows`` (int64 [n], positions in this task's batch), the training images unchanged."""
        picked = {
            name: values[rows] if isinstance(values, Tensor) else [values[i] for i in rows.tolist()]
            for name, values in self.batch.items()
        }
        return replace(self, rows=self.rows[rows], batch=picked)

    def subset(self, n: int) -> Task:
        """At most ``n`` test images drawn at random with the task's seed, half of them anomalous at most."""
        return self.take(drawn(self.labels, n, self.seed))

    def examples(self, defects: int = 6, normal: int = 2) -> Tensor:
        """Rows to show, int64: a defect of each kind in turn until there are ``defects``, then ``normal`` images."""
        kinds = self.test.index.iloc[self.rows.tolist()].reset_index(drop=True)
        anomalous = kinds[kinds["label"] == 1]
        turn = anomalous.groupby("defect", sort=True).cumcount()
        order = anomalous.assign(turn=turn).sort_values(["turn", "defect"], kind="stable").index[:defects]
        return torch.tensor([*order, *kinds[kinds["label"] == 0].index[:normal]])

    def accuracy(self, score: Tensor, anomaly_map: Tensor | None = None) -> dict[str, float]:
        """I-AUROC of ``score`` [N] with its 95 % interval over images; with maps [N, S, S] also AUPRO, where masks are.

        Returns
        -------
        ``{"I-AUROC", "low", "high"}`` and ``"AUPRO"``.
        """
        low, high = metrics.bootstrap_interval(
            metrics.image_auroc, score, self.labels, n=self.bootstrap_samples, seed=self.seed
        )
        row = {"I-AUROC": float(metrics.image_auroc(score, self.labels)), "low": low, "high": high}
        return row | self._aupro(anomaly_map)

    def _aupro(self, anomaly_map: Tensor | None) -> dict[str, float]:
        """``{"AUPRO"}`` of maps [N, S, S]; empty without maps, and where there are no masks."""
        if anomaly_map is None or not self.has_masks:
            return {}
        return {"AUPRO": float(metrics.aupro(anomaly_map[self.with_masks], self.masks[self.with_masks]))}

    def difference(self, score: Tensor, other: Tensor) -> tuple[float, float, float]:
        """I-AUROC of ``score`` [N] minus that of ``other`` [N], and its 95 % interval: paired, over images."""
        return metrics.paired_bootstrap_difference(
            metrics.image_auroc, score, other, self.labels, n=self.bootstrap_samples, seed=self.seed
        )

    def control_row(
        self, score: Tensor, control: Tensor, what: str = "", anomaly_map: Tensor | None = None
    ) -> dict[str, Any]:
        """How a method compares with its control; what ``experiments["no_diffusion"]`` of a run holds, and
        the other keys of `diffusion_controls.RECORDED`.

        Parameters
        ----------
        score, control : [N], the method's and its control's.
        what : the control in words.
        anomaly_map : the control's maps, [N, S, S].

        Returns
        -------
        ``I-AUROC`` of the control; ``difference``, the method's minus the control's, with the paired 95 % interval over
        images ``low``, ``high``; ``what`` where it is given; ``AUPRO`` of the control where there are maps and masks.
        """
        difference, low, high = self.difference(score, control)
        row = {"I-AUROC": float(metrics.image_auroc(control, self.labels)), "difference": difference}
        named = {"what": what} if what else {}
        return row | {"low": low, "high": high} | named | self._aupro(anomaly_map)

    def trivial_baseline(self) -> TrivialBaseline:
        """The best trivial statistic on this task's test images."""
        detector = Trivial(image_size=self.images.shape[-1], seed=self.seed, device="cpu").fit(self.train)
        prediction = detector.predict(self.images, self.keys)
        return TrivialBaseline(*best_statistic(prediction.parts, self.labels), prediction)


def drawn(labels: Tensor, n: int, seed: int) -> Tensor:
    """At most ``n`` of the images with ``labels`` [N], at random, half of each kind at most: rows int64, ascending."""
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.nonzero(labels == value)[:, 0] for value in (0, 1)]
    return (
        torch.cat([group[torch.randperm(len(group), generator=generator)[: n // 2]] for group in groups]).sort().values
    )


def drawn_test_images(index: pd.DataFrame, n: int) -> pd.DataFrame:
    """The samples of one category with `drawn` test images, at most ``n``; with all of them for ``n`` = 0. The draw is
    the same for every method and seed, so that they can be compared. It takes at most half of each kind, which changes
    the share of defects, and with it AP and F1max."""
    test = index[index["split"] == "test"]
    if not 0 < n < len(test):
        return index
    kept = test.index[drawn(torch.tensor(test["label"].to_numpy()), n, seed=0).numpy()]
    print(
        f"{len(kept)} of {len(test)} test images, at most {n // 2} of each kind, drawn at random (parameter "
        "test_images). AP and F1max depend on the share of defects, so they are not those of all images."
    )
    return index.drop(test.index.difference(kept))


RENDERED = {"test_good": 40, "test_anomalous": 60}
"""Test images of a category of `textures`, where no more are asked for."""


def rendered_test_images(dataset: str, n: int) -> dict[str, int]:
    """Arguments of `data.load_index` for ``n`` test images, where the data set renders as many as one likes: 40 % of
    them normal, as otherwise. Empty for data sets of files, and where ``n`` asks for no more than there are.

    >>> rendered_test_images("textures", 160), rendered_test_images("elpv", 160)
    ({'test_good': 64, 'test_anomalous': 96}, {})
    """
    if dataset != "textures" or n <= sum(RENDERED.values()):
        return {}
    good = n * RENDERED["test_good"] // sum(RENDERED.values())
    return {"test_good": good, "test_anomalous": n - good}


def load_task(run: Run) -> Task:
    """The task of a run: its parameters name data set, category, seed, size and resamplings.

    The files are checked before any work, the images are noted in the run's manifest, and a line says which anomalous
    images have no usable mask. With a parameter ``test_images`` above 0 the test images are `drawn_test_images`, or for
    more than `textures` has otherwise `rendered_test_images`.

    Raises
    ------
    diffad_utils.data.DataError: as `data.load_index`, `data.validate` and `data.require_both_classes`.
    """
    p = run.parameters
    wanted = p.get("test_images", 0)
    more = rendered_test_images(p.dataset, wanted)
    index = data.load_index(p.dataset, root=p.data_root or None, category=p.category, seed=p.seed, **more)
    data.validate(index)
    data.require_both_classes(index)
    index = drawn_test_images(index, wanted)
    run.note_data(index)
    train, test = (ImageDataset(index[index["split"] == split], size=p.image_size) for split in ("train", "test"))
    task = Task(
        f"{p.dataset}/{p.category}",
        train,
        test,
        torch.arange(len(test)),
        data.load_batch(test),
        seed=p.seed,
        bootstrap_samples=p.get("bootstrap_samples", 1000),
    )
    if task.has_masks and not task.with_masks.all():
        print(f"metrics of pixels leave out {int((~task.with_masks).sum())} anomalous images without a mask")
    return task

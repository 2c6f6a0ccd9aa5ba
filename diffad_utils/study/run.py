"""Parameters, run folder, manifest and results of one notebook run.

A notebook starts with its parameters cell and then::

    from diffad_utils import study
    run = study.start("07_invad", globals())

and ends with ``run.record(...)``. Everything goes to

    <output_root>/<profile>/<dataset>/<category>/<method>/seed-<n>/

through a folder beside it that takes its place only when the run is recorded, so a complete earlier run
survives a failed one. ``metrics.json`` is written last: a folder that has one is complete.

A notebook hands over what it has measured with ``run.keep(...)`` as soon as it is there. If the notebook fails later,
that and the figures are found in ``seed-<n>.incomplete``, marked by ``incomplete.json`` in the place of
``metrics.json``.

``metrics.json`` holds only what the seed and the data determine (sorted keys, floats rounded to ten
significant digits, no times), so two runs can be compared byte by byte. Times, memory, device, versions and
checksums are in ``manifest.json``. What depends on no data lies once in the study (see `data_independent`).
"""

from __future__ import annotations

import atexit
import datetime
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from diffad_utils.io import checkpoints, store
from diffad_utils.io.files import shorten, to_json, write_atomically
from diffad_utils.io.machine import versions
from diffad_utils.study.collected import Collected
from diffad_utils.study.data_independent import share
from diffad_utils.study.folders import method_of, profile_folder, run_folder
from diffad_utils.study.manifest import (
    count_weights,
    describe_index,
    device_name,
    git_state,
    peak_memory,
    processor_name,
    provenance,
    resolve_device,
    seed_everything,
)
from diffad_utils.study.parameters import Parameters, parameters_of_session
from diffad_utils.study.records import RunRecord
from diffad_utils.study.rules import ParameterError
from diffad_utils.study.shown import display
from diffad_utils.study.tables import image_intervals, score_table, small_maps, usable_masks

FINGERPRINT = "DIFFAD_FINGERPRINT"
"""Environment variable with the checksums of notebook and code that a headless run was started with."""

INCOMPLETE = "incomplete.json"
"""What a run that failed leaves in the place of ``metrics.json``."""


class Run:
    """One notebook run: its parameters, its folder and what it records. Made by `start`.

    Attributes:
        parameters: checked `Parameters`.
        folder: Path of the finished run; it holds an earlier complete run, or nothing, until `record`.
        seed: int.
        device: ``"cpu"``, ``"cuda"``, ... as resolved from the parameter ``device``.
    """

    def __init__(self, notebook: str, parameters: Parameters, method: str | None = None):
        self.notebook = notebook
        self.parameters = parameters
        self.method = method or method_of(notebook)
        self.folder = run_folder(notebook, parameters, method)
        self.seed = parameters["seed"]
        self.device = resolve_device(parameters.get("device", "auto"))
        self._staging: Path | None = None
        self._recorded = False
        self._figures: list[dict] = []
        self._weights: list[dict] = []
        self._data: list[dict] = []
        self._others: list[str] = []
        self._beside: Run | None = None
        self._started = datetime.datetime.now(datetime.UTC)
        self._clock = time.perf_counter()

    def path(self, name: str) -> Path:
        """Where to write an own file of this run (``run.path("samples.npz")``); parents are made.

        It belongs to the run folder once the run is recorded. Writing to `folder` itself before that
        would change an earlier run's folder and be lost.
        """
        if self._recorded:
            base = self.folder
        else:
            if self._staging is None:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                prefix = f".{self.folder.name}.partial-"
                self._staging = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=prefix))
                self._staging.chmod(0o755)
                atexit.register(self._leave_incomplete)
            base = self._staging
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _leave_incomplete(self) -> None:
        """The process ends and the run was not recorded: what it measured stays, under a name that says so."""
        if not (self._staging / INCOMPLETE).is_file():
            shutil.rmtree(self._staging, ignore_errors=True)
            return
        shutil.rmtree(self._incomplete, ignore_errors=True)
        os.rename(self._staging, self._incomplete)

    @property
    def _incomplete(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.incomplete")

    def keep(
        self, prediction: Any, batch: dict, metrics: dict, *, detector: Any = None, timing: dict | None = None
    ) -> None:
        """Write the scores and metrics that are there by now, so that a later failure does not lose them.

        Arguments as for `record`, which writes them anew with everything else. Until then ``incomplete.json`` stands in
        the place of ``metrics.json``, so that nothing takes the run for a complete one.
        """
        score_table(prediction, batch).to_parquet(self.path("scores.parquet"), index=False)
        manifest = self._manifest(prediction, batch, detector, timing or {})
        write_atomically(self.path("manifest.json"), to_json(manifest, "manifest.json"))
        write_atomically(self.path(INCOMPLETE), to_json({"metrics": metrics}, INCOMPLETE))

    def note_weights(self, resolved: Any) -> None:
        """Put a ``weights.Resolved`` (name, source, sha256, is_mini, message) into the manifest."""
        entry = {key: getattr(resolved, key) for key in ("name", "source", "sha256", "is_mini")}
        entry["message"] = shorten(str(resolved.message))
        if entry not in self._weights:
            self._weights.append(entry)

    def note_data(self, index: pd.DataFrame) -> None:
        """Put counts and checksums of a table of samples into the manifest (see `describe_index`)."""
        entry = describe_index(index)
        if entry not in self._data:
            self._data.append(entry)

    def note_runs(self, records: list[RunRecord]) -> None:
        """Put the weights and tasks of the runs that this one summarises into the manifest: captions name them."""
        for record in records:
            task = record.dataset, [record.category]  # what it used beside, such as to train on, is in its own manifest
            own = [entry for entry in record.manifest["data"] if (entry["dataset"], [*entry["categories"]]) == task]
            for mine, theirs in ((self._weights, record.manifest["weights"]), (self._data, own)):
                mine += [entry for entry in theirs if entry not in mine]

    @property
    def provenance(self) -> str:
        """Profile, data and weights in one line, for captions."""
        return provenance(self.parameters, self._data, self._weights)

    def _source(self, data: str | None, weights: Sequence[Any] | None) -> str:
        """`provenance` of what is not made of all the run's data and weights; see `figure`."""
        noted = {(entry["name"], entry["source"]): entry for entry in self._weights}
        named = [(each.name, each.source) for each in weights or ()]
        if unknown := sorted({*named} - {*noted}):
            raise ValueError(f"weights {unknown} were not noted in this run: expected some of {sorted(noted)}")
        used = self._weights if weights is None else [noted[each] for each in named]
        return provenance(self.parameters, self._data, used, data)

    def figure(
        self, fig: Figure, name: str, caption: str, *, data: str | None = None, weights: Sequence[Any] | None = None
    ) -> None:
        """Save a matplotlib figure as ``figures/<name>.png``, note its caption, show both and close it.

        Parameters
        ----------
        fig : matplotlib figure.
        name : file name without ending; letters, digits, ``_`` and ``-``. A name used again replaces.
        caption : what is seen and what follows; profile, data and weights are added to it.
        data : what it is made of where that is not the run's data, such as "a Gaussian toy, no images"; None: they are.
        weights : the noted weights (``weights.Resolved``) that have a part in it, () for none; None: all of them.

        Raises
        ------
        ValueError
            `name` is not a plain name, `caption` is empty or `weights` were not noted.
        """
        import matplotlib.pyplot as plt

        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"figure name {name!r}: use letters, digits, _ and - only")
        if not caption.strip():
            raise ValueError(f"figure {name!r} needs a caption")
        source = self._source(data, weights)
        target = self.path(f"figures/{name}.png")
        # no Software or date entry: the same picture gives the same bytes
        fig.savefig(target, dpi=100, bbox_inches="tight", metadata={"Software": None})
        fig.set_layout_engine("none")  # it is laid out by now, and need not be again to be shown
        entry = {"name": name, "caption": caption.strip(), "provenance": source}
        self._figures = [figure for figure in self._figures if figure["name"] != name] + [entry]
        write_atomically(self.path("figures.json"), to_json({"figures": self._figures}, "figures.json"))
        display(fig, f"{caption.strip()} *({source})*")
        plt.close(fig)  # or the notebook would show it a second time

    def table(self, table: Any, caption: str, *, data: str | None = None, weights: Sequence[Any] | None = None) -> None:
        """Display a table, and below it its caption with profile, data and weights.

        Parameters
        ----------
        table : pandas table (a Series is shown as a row), Styler, or anything else that a notebook displays.
        caption, data, weights : as for `figure`, with its errors.
        """
        if not caption.strip():
            raise ValueError("a table needs a caption, got an empty text")
        shown = table.to_frame().T if isinstance(table, pd.Series) else table
        display(shown, f"{caption.strip()} *({self._source(data, weights)})*")

    def say(self, text: str, of_figure: bool = True) -> None:
        """Display a sentence in Markdown and keep it with the figure before it, if there is one.

        For what a picture shows where that names a number, which the text of a notebook may not state by itself.

        Parameters
        ----------
        text : Markdown; what is seen, and what it does not show.
        of_figure : False for a sentence that is not about the figure before it, such as a notebook's answer.

        Raises
        ------
        ValueError
            `text` is empty.
        """
        if not text.strip():
            raise ValueError("say() needs a sentence, got an empty text")
        if self._figures and of_figure:
            self._figures[-1].setdefault("text", []).append(text.strip())
            write_atomically(self.path("figures.json"), to_json({"figures": self._figures}, "figures.json"))
        display(text.strip())

    def record(
        self,
        prediction: Any = None,
        batch: dict | None = None,
        metrics: dict | None = None,
        *,
        detector: Any = None,
        experiments: dict | None = None,
        timing: dict | None = None,
        maps: bool = False,
        intervals: dict | None = None,
        trivial_baseline: dict | None = None,
        claims: list[dict] | None = None,
        data_independent: dict | None = None,
    ) -> Path:
        """Write the run's files and put its folder in place of an earlier one.

        Parameters
        ----------
        prediction : ``Prediction`` for the images in `batch`, or None for a notebook that summarises runs; or, for a
            test set that is larger than memory, `Collected`, which has its batch.
        batch : dict with key (list of str) and label [N]; None with `prediction` None.
        metrics : name -> value, from ``metrics.evaluate``; what could not be computed is absent.
        detector : the fitted detector; its class and number of weights go into the manifest.
        experiments : anything else the notebook measured that is a function of seed and data.
        timing : name -> number (``ms_per_image``, ``fit_s``, ...); goes into the manifest.
        maps : also write ``maps.npz``: key [N], anomaly_map [N, h, w] (`small_maps`) and, where anomalous images
            have them, mask bool [N, H, W]. A reconstruction leaves ``reconstruction.parquet``, one row an
            image.
        intervals : metric name -> (low, high); None: bootstrap over images for I-AUROC and I-AP.
        trivial_baseline : the best trivial statistic and its metrics on the same data, if the notebook computed it.
        claims : findings on published claims, each from ``claims.finding``; written as ``claims.json``.
        data_independent : experiments and claims that no data went into; for the study's file, as `share` says.

        Returns
        -------
        The run's folder.

        Raises
        ------
        ValueError
            a value is NaN or infinite, or lengths do not match; as `share`.
        """
        if self._recorded:
            raise ValueError(f"{self.notebook}: record() was already called; a run is recorded once, at its end")
        if isinstance(prediction, Collected):
            batch = prediction.batch
        if prediction is not None:
            scores = self._write_scores(prediction, batch, maps)
            if intervals is None:
                intervals = image_intervals(scores, metrics or {})
        manifest = self._manifest(prediction, batch, detector, timing or {})
        result = {
            "metrics": metrics or {},
            "intervals": intervals or {},
            "trivial_baseline": trivial_baseline or {},
            "experiments": experiments or {},
        }
        text = to_json(result, "metrics.json")
        if data_independent:  # before the run counts as complete, which needs it
            root = profile_folder(self.parameters)
            shared = share(root, self.notebook, data_independent, result["experiments"], claims or [])
            manifest["data_independent"] = os.path.relpath(shared, self.folder).replace(os.sep, "/")
        if claims:
            write_atomically(self.path("claims.json"), to_json({"claims": claims}, "claims.json"))
        write_atomically(self.path("manifest.json"), to_json(manifest, "manifest.json"))
        self.path(INCOMPLETE).unlink(missing_ok=True)
        write_atomically(self.path("metrics.json"), text)
        self._publish()
        shutil.rmtree(self._incomplete, ignore_errors=True)
        if self._beside is None:
            checkpoints.close_run()
            store.close_run()
        return self.folder

    def _write_scores(self, prediction: Any, batch: dict, maps: bool) -> pd.DataFrame:
        """What there is for every image: ``scores.parquet``, ``maps.npz``, ``reconstruction.parquet``."""
        if isinstance(prediction, Collected):
            scores = prediction.scores()
            scores.to_parquet(self.path("scores.parquet"), index=False)
            prediction.write(self.path, maps)
            return scores
        scores = score_table(prediction, batch)
        scores.to_parquet(self.path("scores.parquet"), index=False)
        if maps and prediction.anomaly_map is not None:
            arrays = {"key": scores["key"].to_numpy(str), "anomaly_map": small_maps(prediction.anomaly_map)}
            np.savez_compressed(self.path("maps.npz"), **arrays, **usable_masks(batch))
        if getattr(prediction, "reconstruction", None) is not None and "image" in batch:
            from diffad_utils.metrics.counterfactual import reconstruction_table

            images = reconstruction_table(prediction.reconstruction, batch).assign(key=scores["key"])
            images.to_parquet(self.path("reconstruction.parquet"), index=False)
        return scores

    def record_method(self, method: str, prediction: Any, batch: dict, metrics: dict, **more: Any) -> Path:
        """Write the run folder of another method that this notebook measured on the same data (05 has three, say).

        Its folder lies next to this run's, under the method's own name, with the same parameters, data and weights, so
        that the comparison finds every method in the same way. Call it before `record`.

        Parameters
        ----------
        method : a name of ``methods.METHODS`` other than this run's.
        prediction, batch, metrics : as for `record`.
        more : its keyword arguments.

        Raises
        ------
        ValueError
            the method is this run's own, or the run is recorded already.
        """
        if method == self.method or self._recorded:
            raise ValueError(f"record_method({method!r}) is for other methods than {self.method!r}, before record()")
        other = Run(self.notebook, self.parameters, method)
        other._beside = self
        other._weights, other._data, other._started, other._clock = (
            self._weights,
            self._data,
            self._started,
            self._clock,
        )
        folder = other.record(prediction, batch, metrics, **more)
        self._others.append(method)
        return folder

    def _manifest(self, prediction: Any, batch: dict, detector: Any, timing: dict) -> dict:
        manifest = {
            "notebook": self.notebook,
            "method": self.method,
            "other_methods": self._others,
            "parameters": dict(self.parameters) | {"output_root": "", "data_root": ""},  # places are not settings
            "versions": versions(),
            "git": git_state(),
            "weights": self._weights,
            "data": self._data,
            "device": self.device,
            "device_name": device_name(self.device),
            "platform": platform.system(),
            "processor": processor_name(),
            "cpu_count": os.cpu_count(),
            "fingerprint": os.environ.get(FINGERPRINT, ""),
            "started": self._started.isoformat(timespec="seconds"),
            "wall_s": time.perf_counter() - self._clock,
            "peak_memory_bytes": peak_memory(),
            "timing": timing,
            "from_store": store.taken(),
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            manifest["torch_threads"] = torch.get_num_threads()
            manifest["tf32"] = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        if prediction is not None:
            manifest |= {"nfe": prediction.nfe, "images": len(batch["key"])}
        if detector is not None:
            # what the average of the weights came to; the parameters have what was asked for
            reached = getattr(getattr(detector, "training_log_", None), "ema_decay", None)
            manifest["detector"] = {
                "class": type(detector).__name__,
                "family": getattr(detector, "family", "unknown"),
                "weights": count_weights(detector),
            } | ({} if reached is None else {"ema_decay": reached})
        return manifest

    def _publish(self) -> None:
        """Rename the finished staging folder to the run's name; an earlier run goes only now."""
        old = self._staging.with_name(self._staging.name.replace(".partial-", ".old-"))
        if self.folder.exists():
            os.rename(self.folder, old)
        os.rename(self._staging, self.folder)
        atexit.unregister(self._leave_incomplete)
        shutil.rmtree(old, ignore_errors=True)
        self._recorded = True


def start(notebook: str, namespace: dict) -> Run:
    """Check the parameters of the running notebook, seed everything and return its `Run`.

    Parameters
    ----------
    notebook : the notebook's name without ending, such as ``"07_invad"``.
    namespace : the notebook's ``globals()``.

    Raises
    ------
    ParameterError
        see `parameters_of_session`; also a missing common parameter.
    """
    parameters = parameters_of_session(notebook, namespace)
    is_summary = method_of(notebook) is None
    needed = ["profile", "seed"] + ([] if is_summary else ["dataset", "category"])
    missing = [name for name in needed if name not in parameters]
    if missing:
        raise ParameterError(f"{notebook}: the parameters cell lacks {', '.join(missing)}")
    seed_everything(parameters["seed"])
    run = Run(notebook, parameters)
    settings = dict(parameters) | {"output_root": "", "data_root": "", "notebook": notebook}
    root = profile_folder(parameters)
    store.open_run(root)
    checkpoints.open_run(root / checkpoints.FOLDER / run.folder.relative_to(root), to_json(settings, "parameters"))
    return run

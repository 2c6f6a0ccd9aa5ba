"""A report to pass on: a profile's runs without what only a new computation needs, as a folder or one archive.

Used by ``diffad site``; entry point: `write_site`.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffad_utils import execution, study
from diffad_utils.analyses import conventions, example_cases, map_summaries, method_results
from diffad_utils.io import store
from diffad_utils.io.png import small_png
from diffad_utils.report import pages
from diffad_utils.study import data_independent

COMPARED = ("manifest.json", "metrics.json", "claims.json", "scores.parquet", "reconstruction.parquet")
"""Kept of every run: with `map_summaries`, what `diffad compare`, the claims and notebook 08 read."""

SHOWN = ("run.ipynb", "run.html", execution.TAKEN, "figures.json", "strips")
"""Kept besides of a run with a page. The notebook itself goes once the page is written, as forest plots do."""


def write_site(root: str | Path, target: str | Path, most_pages: int | None = None) -> Path:
    """Copy what of a profile's runs can be read or compared, and write its pages there anew.

    Models, checkpoints and the store stay behind. In the place of the maps each run has what notebook 08 takes from
    them (`map_summaries`), and the best diffusion method of each task the maps of the examples that 08 draws. So 08
    gives the same on the copy, and ``diffad study --take`` can go on from it.

    Parameters
    ----------
    root : the profile's output, such as ``reports/standard``.
    target : the folder to write. An earlier site there is replaced; it has the file `pages.SITE`.
    most_pages : at most so many executed notebooks become pages, `shown_runs`; None: all. The front page, the
        comparison's page and the numbers of all runs are there in any case.

    Returns
    -------
    Path of the front page.

    Raises
    ------
    FileNotFoundError
        `root` has no complete run.
    FileExistsError
        `target` holds something else than a site, or is `root`, above it or below it.
    """
    root, target = Path(root).resolve(), Path(target).resolve()
    records = study.load_runs(root)
    if not records:
        raise FileNotFoundError(f"{root}: no complete run in it; run `make report PROFILE={root.name}` first")
    if target == root or target in root.parents or root in target.parents:
        raise FileExistsError(f"{target} is the folder of the runs, above it or below it: give another folder")
    if target.exists() and not (target / pages.SITE).is_file():
        raise FileExistsError(f"{target} exists and is no site (it has no {pages.SITE}): give another, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".site-") as aside:
        if target.exists():
            target.rename(Path(aside) / "before")
        try:
            _write(root, target, records, most_pages)
        except BaseException:  # an interruption, too, leaves what was there
            shutil.rmtree(target, ignore_errors=True)
            if (Path(aside) / "before").exists():
                (Path(aside) / "before").rename(target)
            raise
    return target / "index.html"


def _write(root: Path, target: Path, records: Sequence[study.RunRecord], most_pages: int | None) -> None:
    with_page = {record.folder for record in shown_runs(records, most_pages)}
    with_maps, own = _examples(records), _comparison_parameters(root)
    settings = {name: own[name] for name in ("bootstrap_samples", "batch_sizes", "top_pixels", "seed")}
    store.open_run(root)  # 08 has computed the same
    try:
        for record in records:
            copy = target / record.folder.relative_to(root)
            _copy(record.folder, copy, COMPARED + SHOWN * (record.folder in with_page))
            _shorten_manifest(copy / "manifest.json")
            for table in copy.glob("*.parquet"):
                _shorten_table(table)
            if record.folder in with_maps:
                example_cases.save_example_maps(record, copy, own["false_alarms"], own["wall_images"])
            if summary := conventions.summarise_maps(record, **settings):
                map_summaries.save(summary, copy)
    finally:
        store.close_run()
    _copy(root, target, (pages.COMPARISON, data_independent.FOLDER))
    for figure in (target / pages.COMPARISON / "figures").glob("*.png"):
        study.write_atomically(figure, small_png(figure.read_bytes()))
    study.write_atomically(target / execution.FINISHED, study.to_json(execution.finished(root), execution.FINISHED))
    missing = [*study.unfinished_runs(root), *(f"{note['label']} (failed)" for note in execution.failures(root))]
    pages.write(target, missing=missing)
    for shown in [*target.rglob("run.ipynb"), *(target / pages.COMPARISON / "figures").glob("claim_*.png")]:
        shown.unlink()  # the pages have them: a notebook's own, forests.html every forest plot
    study.write_atomically(target / pages.SITE, "Made by `diffad site`, which replaces this folder.\n")


def _shorten_manifest(file: Path) -> None:
    """Manifests are a fourth of a large study's numbers. Here they have a line an entry, and what came from the store
    (hundreds of entries) stands in the manifest of the notebook's own method alone, without the store's keys."""
    manifest = json.loads(file.read_text(encoding="utf-8"))
    own = manifest["method"] in (study.method_of(manifest["notebook"]), None)
    taken = manifest.get("from_store", []) if own else []
    manifest["from_store"] = [{name: value for name, value in entry.items() if name != "key"} for entry in taken]
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in manifest.items()]
    study.write_atomically(file, "{\n" + ",\n".join(lines) + "\n}\n")


def _shorten_table(file: Path) -> None:
    """A table of some hundred images is half headers: the same columns and values, packed more tightly."""
    table = pq.read_table(file)
    scores = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    small = io.BytesIO()
    pq.write_table(
        table,
        small,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table.schema.names if name not in scores],
        use_byte_stream_split=scores,
        write_statistics=False,
        store_schema=False,
    )
    study.write_atomically(file, small.getvalue())


def _comparison_parameters(root: Path) -> dict[str, Any]:
    """The parameters of notebook 08 as it has them, or as its run here had."""
    own = study.notebook_parameters(study.repository() / "notebooks" / f"08_{pages.COMPARISON}.ipynb")
    manifest = root / pages.COMPARISON / "manifest.json"
    if manifest.is_file():
        own |= json.loads(manifest.read_text(encoding="utf-8"))["parameters"]
    return own


def _examples(records: Sequence[study.RunRecord]) -> set[Path]:
    """Folder of the first seed of the best diffusion method of each task, from which 08 draws examples: by mean I-AUROC
    over seeds, among those with maps."""
    of: dict[tuple[str, str, str], list[study.RunRecord]] = defaultdict(list)
    for record in records:
        if method_results.family_of(record) == "diffusion" and "I-AUROC" in record.metrics:
            of[record.dataset, record.category, record.method].append(record)
    best: dict[tuple[str, str], tuple[float, Path]] = {}
    for (dataset, category, _), members in of.items():
        task = dataset, category
        first = min(members, key=lambda record: record.seed)
        mean = sum(record.metrics["I-AUROC"] for record in members) / len(members)
        if example_cases.has_maps(first) and mean > best.get(task, (-1.0, first.folder))[0]:
            best[task] = mean, first.folder
    return {folder for _, folder in best.values()}


def shown_runs(records: Sequence[study.RunRecord], most: int | None) -> list[study.RunRecord]:
    """The runs with an executed notebook, at most ``most``: first seeds first, and in turn from each data set, those of
    the tasks with the most methods first."""
    methods = Counter((record.dataset, record.category) for record in records)
    tasks = sorted(methods, key=lambda task: (-methods[task], task))
    rank: dict[tuple[str, str], int] = {}
    seen: dict[str, int] = defaultdict(int)
    for dataset, category in tasks:
        rank[dataset, category] = seen[dataset]
        seen[dataset] += 1
    runs = [record for record in records if any((record.folder / name).is_file() for name in ("run.ipynb", "run.html"))]
    runs.sort(key=lambda r: (r.seed, rank[r.dataset, r.category], r.dataset, r.manifest["notebook"]))
    return runs[:most]


def _copy(source: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)

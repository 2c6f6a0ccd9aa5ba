"""Is a data set complete, readable and what it seems to be? All that is wrong with it, and all that was taken for it.

`report` says everything of any data set: layout, counts, files, masks, ranges, copies, what is not read and what will
be left out of which metric. `check` is its list of problems, `validate` stops a notebook before anything is trained.
What may be touched: a new kind of fault is measured in `contents` and gets its sentence here.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from diffad_utils.data.contents import Contents, contents, contradictions, copies_between_splits, open_quickly
from diffad_utils.data.facts import Facts, facts_in, note_facts
from diffad_utils.data.images import FULL_SCALE
from diffad_utils.data.index import categories, find_root, load_index, read_rows, resolve_category, unknown_name
from diffad_utils.data.layouts import LAYOUTS, DataError, DataWarning, Layout, list_images
from diffad_utils.data.loading import ImageDataset, name_once
from diffad_utils.data.masks import read_mask
from diffad_utils.data.problems import Problem, Report
from diffad_utils.data.published import count_problems, groups_of, published_counts
from diffad_utils.data.rows import doubtful_labels, missing_files, missing_masks, repeated_keys
from diffad_utils.data.unread import masks_of_normal, unread_files

__all__ = [
    "Problem",
    "Report",
    "check",
    "count_problems",
    "limits",
    "open_quickly",
    "published_counts",
    "report",
    "require_both_classes",
    "summary",
    "validate",
]

_NOTHING = Contents({}, {}, [])


# ------------------------------------------------------------------------------------------------- files


def file_problems(index: pd.DataFrame, found: Contents | None = None) -> list[Problem]:
    """Open every file of an index: missing files, unreadable or truncated ones, masks of another size than their
    image. Rendered samples (textures) are skipped."""
    on_disk = index[index["dataset"] != "textures"]
    found = contents(on_disk) if found is None else found
    problems = [Problem(file, "missing", message) for file, message in missing_files(on_disk)]
    return problems + [Problem(*error) for error in found.errors]


def mask_faults(index: pd.DataFrame, found: Contents) -> list[tuple[str, str]]:
    """(file, fault) for the masks of an index that are empty or not to be believed."""
    masks = [mask for mask in index["mask"] if isinstance(mask, str) and mask in found.masks]
    return [(mask, found.masks[mask].fault) for mask in masks if found.masks[mask].fault]


def _usable(found: Contents, mask: str | None) -> bool:
    return mask in found.masks and found.masks[mask].share > 0


def limits(index: pd.DataFrame, found: Contents) -> list[tuple[str, str, str]]:
    """(category, rule, sentence) for what a category's test set does not allow to be measured. rule is "split" where
    the test set lacks normal or anomalous images, "metric" where masks are lacking.

    An index without test images (a training set alone) has no limits.
    """
    said = []
    for (dataset, category), rows in index[index["split"] == "test"].groupby(["dataset", "category"], sort=False):
        anomalous = rows[rows["label"] == 1]
        if len(anomalous) == 0:
            message = (
                "no anomalous test image: no metric of images or pixels is defined. Fitting, scores and maps work; to "
                "measure them, put images with defects into the test set"
            )
            said.append((category, "split", message))
        if len(anomalous) == len(rows):
            folders = ", ".join(sorted(rows["defect"].unique()))
            message = (
                "no normal test image: I-AUROC, I-AP and I-F1max are not defined. If one of the folders "
                f"({folders}) holds normal images, call it good; else put some normal images into the test set"
            )
            said.append((category, "split", message))
        bare = 0 if dataset == "textures" else sum(not _usable(found, mask) for mask in anomalous["mask"])
        if 0 < bare == len(anomalous):
            said.append((category, "metric", "no masks: P-AUROC, P-AP, P-F1max and AUPRO are left out"))
        elif bare:
            message = (
                f"{bare} of {len(anomalous)} anomalous test images have no usable mask: they count for I-AUROC, I-AP "
                "and I-F1max and are left out of P-AUROC, P-AP, P-F1max and AUPRO"
            )
            said.append((category, "metric", message))
    return said


def validate(index: pd.DataFrame) -> None:
    """Open all files of an index before anything is trained on them.

    Raises DataError (a ValueError) that lists the first ten problems by file and rule, and how many there are; and
    ValueError for an index without rows. What does not stop the work is said in a DataWarning: masks that cannot be
    used, test images that are copies of training images, metrics that the test set does not allow.
    """
    if len(index) == 0:
        raise ValueError("index has zero images; did a filter leave nothing?")
    found = contents(index)
    problems = file_problems(index, found)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:10])
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise DataError(f"{len(problems)} problem(s) in the data:\n{listed}{more}")
    name_once(mask_faults(index, found))
    for category, facts in facts_in(index).items():
        for _, message in _taken(category, facts, None, has_masks=False):
            warnings.warn(message, DataWarning, stacklevel=2)
    for problem in _range_problems(index, found):
        warnings.warn(str(problem), DataWarning, stacklevel=2)
    copies = copies_between_splits(index, found)
    if copies:
        listed = "\n".join(f"  {test} is {train}" for test, train in copies[:10])
        more = f"\n  ... and {len(copies) - 10} more" if len(copies) > 10 else ""
        message = (
            f"{len(copies)} test image(s) are copies of training images: scores on them mean nothing.\n{listed}{more}"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
    for category, rule, message in limits(index, found):
        if rule == "split":
            warnings.warn(f"{category}: {message}", DataWarning, stacklevel=2)


def require_both_classes(index: pd.DataFrame) -> None:
    """Raise DataError, saying what to do, unless every category has normal and anomalous test images.

    For notebooks, which compare both. `validate` warns only: a detector is fitted, and makes maps, without them.
    """
    lacking = [f"{category}: {message}" for category, rule, message in limits(index, _NOTHING) if rule == "split"]
    if lacking:
        offer = (
            "Without them, fit a method and look at its maps: "
            "METHODS['invad']().fit(train).predict_dataset(test), with METHODS from diffad_utils.methods"
        )
        raise DataError("\n".join(["this notebook compares normal and anomalous test images", *lacking, offer]))


def summary(index: pd.DataFrame) -> pd.DataFrame:
    """One row a category of an index, as in `Report.table`; every file is decoded. Of textures, which have none, the
    numbers of images and masks alone."""
    found, facts = contents(index), facts_in(index)
    copied = {test for test, _ in copies_between_splits(index, found)}
    rows = [
        _summary(name, part, found, facts[f"{dataset}/{name}"], int(part["image"].isin(copied).sum()))
        for (dataset, name), part in index.groupby(["dataset", "category"], sort=False)
    ]
    table = pd.DataFrame(rows)
    if set(index["dataset"]) != {"textures"}:
        return table
    rendered = {"masks": table["test anomalous"], "without mask": 0}
    return table[["category", "train", "test normal", "test anomalous"]].assign(**rendered)


def orphan_problems(index: pd.DataFrame, root: Path) -> list[Problem]:
    """Mask files that belong to no image, in the folders where masks were expected."""
    used = {os.path.realpath(path) for path in [*index["image"], *index["mask"].dropna()]}
    problems = []
    for folder in sorted({os.path.dirname(mask) for mask in index["mask"].dropna()}):
        for path in list_images(Path(folder), root):
            if os.path.realpath(path) not in used:
                problems.append(Problem(str(path), "orphan", "mask without an image of that name"))
    return problems


# ------------------------------------------------------------------------------------------------- report


def _textures_summary(category: str | None) -> list[dict]:
    """The table of `Report` for rendered samples: counts, of which every anomalous one has a mask."""
    index = load_index("textures", category=category)
    rows = []
    for name, part in index.groupby("category", sort=False):
        groups = groups_of(part, by_defect=False)
        counts = {group: groups[group] for group in ("train", "test normal", "test anomalous")}
        rows.append({"category": name, **counts, "masks": groups["test anomalous"], "without mask": 0, "copies": 0})
    return rows


def _unpaired_problems(dataset: str, index: pd.DataFrame) -> list[Problem]:
    """Anomalous images for which the data set's own table names no mask (only where it promises masks)."""
    if LAYOUTS[dataset].masks != "yes":
        return []
    bare = index[(index["label"] == 1) & index["mask"].isna()]
    message = "anomalous image without a mask in the data set's table"
    return [Problem(image, "missing", message) for image in bare["image"]]


def _read_tolerantly(dataset: str, root: Path, category: str | None) -> tuple[pd.DataFrame | None, list[Problem]]:
    """Rows of every category (or of the one asked for) that can be read, and a problem for each that cannot."""
    options = {"uncertain": True} if dataset == "elpv" else {}
    try:
        names = sorted(LAYOUTS[dataset].categories(root)) if category is None else [category]
    except DataError as error:
        return None, [Problem(str(root), "layout", str(error))]
    tables, problems = [], []
    for name in names:
        try:
            tables.append(read_rows(dataset, root, name, **options))
        except DataError as error:
            problems.append(Problem(str(root / name), "layout", str(error)))
    return (note_facts(pd.concat(tables, ignore_index=True)) if tables else None), problems


def _textures_problems() -> list[Problem]:
    """Render one sample of every category and defect, small; nothing is on disk that could be missing."""
    index = load_index("textures").drop_duplicates(["category", "split", "defect"])
    samples = ImageDataset(index, 64, cache=False)
    problems = []
    for i in range(len(samples)):
        sample = samples[i]
        image, mask = sample["image"], sample["mask"]
        if not (image.isfinite().all() and image.min() >= 0 and image.max() <= 1):
            problems.append(Problem(sample["key"], "unreadable", "rendered values are not finite or not in [0, 1]"))
        if bool(mask.any()) != bool(sample["label"]):
            problems.append(Problem(sample["key"], "mask", "mask does not agree with the label"))
    return problems


def _content_problems(index: pd.DataFrame, found: Contents) -> list[Problem]:
    """Copies, contradictions and pictures whose range was lost."""
    problems = [
        Problem(test, "copy", f"test image is a copy of the training image {train}")
        for test, train in copies_between_splits(index, found)
    ]
    problems += [
        Problem(bad, "copy", f"labelled anomalous, and the same picture is labelled normal as {good}")
        for bad, good in contradictions(index, found)
    ]
    return problems + _range_problems(index, found)


def _range_problems(index: pd.DataFrame, found: Contents) -> list[Problem]:
    """Pictures that come out nearly black, as their range was lost or is not that of the others."""
    problems, facts = [], facts_in(index)
    for (dataset, category), rows in index.groupby(["dataset", "category"], sort=False):
        measured = [(path, found.images[path]) for path in rows["image"] if path in found.images]
        full = {8: 255, 16: facts[f"{dataset}/{category}"].grey_scale, 32: 1}
        dark = [(p, image) for p, image in measured if not image.cut and 16 * image.high <= full.get(image.bits, 0)]
        if 0 < len(dark) < len(measured):
            path, image = max(dark, key=lambda pair: pair[1].high)
            message = (
                f"{len(dark)} of {len(measured)} pictures of {category} come out nearly black: values up to "
                f"{image.high:g} of {full[image.bits]}. Save all of them with one range"
            )
            problems.append(Problem(path, "range", message))
        cut = [path for path, image in measured if image.cut and image.high <= 63]
        if cut:
            message = (
                f"{len(cut)} picture(s) of {category} have 16 bits a colour and values up to "
                f"{max(found.images[path].high for path in cut) / 255:.0%} of their range: they come out nearly black. "
                "Stretch them to the full range, or save them with 8 bits"
            )
            problems.append(Problem(cut[0], "range", message))
        shallow = [image for _, image in measured if image.bits == 8 and not image.cut]
        if shallow and max(image.high for image in shallow) <= 31:
            high = max(image.high for image in shallow)
            message = (
                f"the largest value in {len(shallow)} images of {category} is {high:g} of 255: they are nearly black"
            )
            problems.append(Problem(measured[0][0], "range", f"{message}. Was their range lost when they were saved?"))
    return problems


def _mask_problems(layout: Layout, index: pd.DataFrame, found: Contents) -> tuple[list[Problem], list[Problem]]:
    """(problems, notes) about masks: those that a data set is known to lack are notes."""
    said = [(mask, Problem(mask, "mask", fault)) for mask, fault in mask_faults(index, found)]
    said += [(image, Problem(image, "missing", message)) for image, message in missing_masks(index)]
    problems = [problem for file, problem in said if Path(file).stem not in layout.without_mask]
    known = "without a usable mask, as published: left out of metrics of pixels"
    notes = [Problem(file, "mask", known) for file, _ in said if Path(file).stem in layout.without_mask]
    return problems, notes


def _unread_problems(
    layout: Layout, root: Path, index: pd.DataFrame, category: str | None, broken: list[str]
) -> tuple[list[Problem], list[Problem]]:
    """(problems, notes) about files that are not read, but for those of categories that cannot be read at all."""
    used = [*index["image"], *index["mask"].dropna(), *index["twin"].dropna()]
    seen = {os.path.dirname(mask) for mask in index["mask"].dropna()}  # see orphan_problems
    problems, notes = [], []
    scanned = root if category is None else layout.folder_of(root, category)
    for part in unread_files(layout, scanned, used):
        if part.folder not in seen and not any(Path(part.folder).is_relative_to(folder) for folder in broken):
            found = Problem(part.folder, "unread", f"{part.count} file(s) {part.suffix} are not read: {part.why}")
            (notes if part.known else problems).append(found)
    return problems, notes


def _normal_mask_problems(layout: Layout, root: Path, index: pd.DataFrame, category: str | None) -> list[Problem]:
    """Masks of normal images that are not black: a wrong label, or pictures that only have the names of masks."""
    used = [*index["image"], *index["mask"].dropna(), *index["twin"].dropna()]
    scanned = root if category is None else layout.folder_of(root, category)
    problems = []
    for path in masks_of_normal(scanned, used):
        try:
            marked = bool(read_mask(path, layout.mask_kind).any())
        except DataError as error:
            problems.append(Problem(str(path), "unreadable", str(error).removeprefix(f"{path}: ")))
            continue
        if marked:
            message = (
                "taken as the mask of a normal image, but not black: is that image anomalous, or this one a picture?"
            )
            problems.append(Problem(str(path), "label", message))
    return problems


_KINDS = {
    "classes": "levels of the masks are taken as class numbers: every pixel that is not black is anomalous",
    "soft": "levels of the masks are taken as soft edges: a pixel is anomalous from half of full scale on, or from "
    "half of its mask's own maximum where that is lower",
    None: "masks have one level besides black",
}


def _taken(category: str, facts: Facts, declared: str | None, has_masks: bool) -> list[tuple[str, str]]:
    """(rule, sentence) for what was taken for what in a category."""
    said = []
    if has_masks:
        why = f" (known of the data set: {declared})" if declared else ""
        said.append(("mask", f"{category}: {_KINDS[facts.mask_kind]}{why}"))
    if facts.grey_scale != FULL_SCALE:
        bits = int(facts.grey_scale + 1).bit_length() - 1
        said.append(("range", f"{category}: 16-bit files with {bits} bits of grey, divided by {facts.grey_scale}"))
    return said


def _span(values: list) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _summary(category: str, rows: pd.DataFrame, found: Contents, facts: Facts, copies: int) -> dict:
    images = [found.images[path] for path in rows["image"] if path in found.images]
    anomalous = rows[(rows["label"] == 1) & (rows["split"] == "test")]
    masks = [found.masks[mask] for mask in anomalous["mask"] if _usable(found, mask)]
    groups = groups_of(rows, by_defect=False)
    return {
        "category": category,
        **{name: groups[name] for name in ("train", "test normal", "test anomalous")},
        "masks": len(masks),
        "without mask": len(anomalous) - len(masks),
        "mask kind": (facts.mask_kind or "two levels") if masks else "none",
        "regions": sum(mask.regions for mask in masks),
        "mask share": round(float(np.median([mask.share for mask in masks])), 5) if masks else None,
        "width": _span([image.width for image in images]) if images else "",
        "height": _span([image.height for image in images]) if images else "",
        "bits": ", ".join(f"{bits} ({count})" for bits, count in sorted(Counter(i.bits for i in images).items())),
        "values": f"{min(i.low for i in images):g} to {max(i.high for i in images):g}" if images else "",
        "copies": copies,
    }


def report(dataset: str, root: str | os.PathLike | None = None, category: str | None = None) -> Report:
    """Everything that is wrong with a data set on disk or worth knowing about it.

    Compares the number of images with the published ones (`published_counts`), decodes every file, pairs every
    anomalous image with its mask and every mask with its image, compares pictures between training and test by their
    pixels, lists what is not read, and says how masks and greys are taken and what is left out of which metric.
    textures are not on disk: one sample of every category and defect is rendered.

    category: look at this one only; None = all that are there.

    Raises ValueError for an unknown data set or category or a root in another layout, FileNotFoundError if none is
    found.
    """
    if dataset == "textures":
        return Report(dataset, "rendered", _textures_problems(), categories=_textures_summary(category))
    if dataset not in LAYOUTS:
        raise ValueError(unknown_name("data set", dataset, ("textures", *LAYOUTS)))
    layout, folder = LAYOUTS[dataset], find_root(dataset, root)
    if category is not None:
        category = resolve_category(category, categories(dataset, folder), dataset)
    index, problems = _read_tolerantly(dataset, folder, category)
    if index is None:
        problems = problems or [Problem(str(folder), "layout", f"no images; expected {layout.expected}")]
        return Report(dataset, str(folder), problems)
    found, facts = contents(index), facts_in(index)
    problems += count_problems(dataset, index, folder, category)
    problems += [Problem(image, "layout", message) for image, message in repeated_keys(index)]
    problems += [Problem(image, "label", message) for image, message in doubtful_labels(index)]
    problems += file_problems(index, found)
    of_masks, notes = _mask_problems(layout, index, found)
    not_read, left_out = _unread_problems(
        layout, folder, index, category, [p.file for p in problems if p.rule == "layout"]
    )
    problems += of_masks + _unpaired_problems(dataset, index) + _content_problems(index, found) + not_read
    notes += left_out
    problems += orphan_problems(index, folder) + _normal_mask_problems(layout, folder, index, category)
    for name, rule, message in limits(index, found):
        (problems if rule == "split" else notes).append(Problem(str(folder), rule, f"{name}: {message}"))
    summaries = []
    copied = {test for test, _ in copies_between_splits(index, found)}
    for name, rows in index.groupby("category", sort=False):
        known = facts[f"{dataset}/{name}"]
        has_masks = any(_usable(found, mask) for mask in rows["mask"])
        notes += [Problem(str(folder), *said) for said in _taken(name, known, layout.mask_kind, has_masks)]
        defects = Counter(rows.loc[(rows["label"] == 1) & (rows["split"] == "test"), "defect"])
        taken = ", ".join(f"{defect} ({count})" for defect, count in sorted(defects.items())) or "none"
        notes.append(Problem(str(folder), "label", f"{name}: taken as anomalous in test: {taken}"))
        summaries.append(_summary(name, rows, found, known, int(rows["image"].isin(copied).sum())))
    return Report(dataset, str(folder), problems, notes, summaries)


def check(dataset: str, root: str | os.PathLike | None = None, category: str | None = None) -> list[Problem]:
    """What is wrong with a data set on disk; an empty list means it is complete and sound. See `report`, whose
    `problems` these are."""
    return report(dataset, root, category).problems

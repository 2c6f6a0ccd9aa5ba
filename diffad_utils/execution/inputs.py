"""Before a run: are its categories, enough of their images, and its pretrained weights there?

What is wrong is said before any work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffad_utils import study
from diffad_utils.execution.profiles import PlannedRun, ProfileError, RunPlan
from diffad_utils.execution.progress import state
from diffad_utils.io.messages import did_you_mean

Known = dict[tuple[str, str | None], list[str]]
"""Categories that were looked up already, by data set and its folder."""

STANDS_IN = {"other_backbones"}
"""Parameters for whose weights a small model stands in where they are not here (`analyses.backbone_study`)."""


def check_categories(where: str, parameters: Mapping[str, Any], known: Known | None = None) -> None:
    """Check that the data sets of ``parameters`` are there and have the categories that they name.

    Parameters
    ----------
    where : begins the message.
    parameters : ``dataset``, ``category``, and where they are ``data_root``, ``categories`` (further ones), and
        ``other_dataset`` and ``other_category`` (of images that a model did not see; an empty one is chosen later).
    known : what was looked up already, which this adds to.

    Raises
    ------
    ProfileError, FileNotFoundError
        with the known categories, or where the data set was looked for.
    """
    from diffad_utils import data

    known = {} if known is None else known
    dataset, root = parameters["dataset"], parameters.get("data_root") or None
    own = dataset, parameters["category"]
    other = parameters.get("other_dataset"), parameters.get("other_category")
    if other == own:
        raise ProfileError(
            f"{where}: other_category is {other[1]}, the category that is trained on: name another one, or none for "
            "the one that follows in the list"
        )
    named = [(dataset, root, name) for name in [own[1], *(parameters.get("categories") or ())]]
    named += [(other[0], root if other[0] == dataset else None, other[1])] if all(other) else []
    for of, place, name in named:
        if (of, place) not in known:
            known[of, place] = list(data.categories(of, place))
        there = known[of, place]
        if name not in there:
            hint = did_you_mean(name, there)
            raise ProfileError(f"{where}: {of} has no category {name!r}{hint}; known: {', '.join(there)}")


def check_weights(where: str, parameters: Mapping[str, Any], *, here: bool) -> None:
    """Check the pretrained weights that a run with ``parameters`` loads: their names, and with ``here`` their files.

    Raises
    ------
    ProfileError
        a name that nothing knows, a path without weights; with ``here`` also weights that are not on this machine and
        that no hub gives, unless the notebook leaves them out or replaces them (`STANDS_IN`).
    """
    from diffad_utils import weights
    from diffad_utils.weights import needs

    needed = needs.weights_of({name: value for name, value in parameters.items() if name not in STANDS_IN})
    for name in needs.weights_of(parameters):
        why = weights.missing(name)
        if "was not found" not in why:
            if why:
                raise ProfileError(f"{where}: {why}")
        elif here and needed.get(name):
            raise ProfileError(
                f"{where}: the weights {name} are not on this machine, and no hub answers; `diffad weights where "
                f"{name}` says where they are looked for, and `diffad weights list` which are here"
            )


def check_train_images(where: str, parameters: Mapping[str, Any]) -> None:
    """Check that the category has enough training images for a run that asks for more than one (k of notebook 06).

    Raises
    ------
    ProfileError
        with the number that is needed, the number there is, and what to do.
    """
    from diffad_utils import data
    from diffad_utils.weights import needs

    if needs.least_train_images(parameters) > 1:
        dataset, category = parameters["dataset"], parameters["category"]
        index = data.load_index(dataset, parameters.get("data_root") or None, category)
        if few := needs.too_few_train_images(parameters, int((index["split"] == "train").sum())):
            raise ProfileError(f"{where}: {dataset}/{category} lacks images: the run needs {few}")


def check_run(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Check data and weights of one run with all its ``parameters``. Raises as the checks do."""
    if study.method_of(notebook.stem) is None:  # a summary of runs
        return
    check_categories(notebook.stem, parameters)
    check_train_images(notebook.stem, parameters)
    check_weights(notebook.stem, parameters, here=True)


def check_data(runs: Iterable[PlannedRun]) -> None:
    """Check the data of planned runs, and the names of their weights. Raises as the checks do."""
    known: Known = {}
    for run, parameters in _with_all_parameters(runs):
        check_categories(run.name, parameters, known)
        check_train_images(run.name, parameters)
        check_weights(run.name, parameters, here=False)


def check_weights_here(plan: RunPlan, runs: Iterable[PlannedRun]) -> None:
    """Check that the weights of those runs of a plan that are not done are on this machine, or given by the hub.

    Raises as `check_weights` does.
    """
    for run, parameters in _with_all_parameters(runs):
        try:
            check_weights(run.name, parameters, here=True)
        except ProfileError:
            if state(plan, run) != "done":  # asked last: it takes a second
                raise


def _with_all_parameters(runs: Iterable[PlannedRun]) -> list[tuple[PlannedRun, dict[str, Any]]]:
    """The runs that have data of their own, with the notebook's parameters and theirs."""
    return [(run, study.notebook_parameters(run.notebook) | run.parameters) for run in runs if not run.is_summary]

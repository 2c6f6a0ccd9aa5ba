"""Before a run: are its categories and its pretrained weights there? What is wrong is said before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffad_utils import study
from diffad_utils.execution.profiles import ProfileError, RunPlan
from diffad_utils.io.messages import did_you_mean
from diffad_utils.io.notebooks import read_cells

Known = dict[tuple[str, str | None], list[str]]
"""Categories that were looked up already, by data set and its folder."""


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
        that no hub gives, unless the notebook leaves them out.
    """
    from diffad_utils import weights
    from diffad_utils.weights import needs

    for name, is_needed in needs.weights_of(parameters).items():
        why = weights.missing(name)
        if "was not found" not in why:
            if why:
                raise ProfileError(f"{where}: {why}")
        elif here and is_needed:
            raise ProfileError(
                f"{where}: the weights {name} are not on this machine, and no hub answers; `diffad weights where "
                f"{name}` says where they are looked for, and `diffad weights list` which are here"
            )


def check_run(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Check categories and weights of one run with all its ``parameters``. Raises as the two checks do."""
    if study.method_of(notebook.stem) is None:  # a summary of runs
        return
    check_categories(notebook.stem, parameters)
    stands_in = any("allow_mini=True" in cell.source for cell in read_cells(notebook))
    check_weights(notebook.stem, parameters, here=not stands_in)


def check_data(plan: RunPlan) -> None:
    """Check the categories of all runs of a plan, and the names of their weights. Raises as the two checks do."""
    known: Known = {}
    for run in (run for run in plan.runs if not run.is_summary):
        parameters = study.notebook_parameters(run.notebook) | run.parameters
        check_categories(run.name, parameters, known)
        check_weights(run.name, parameters, here=False)

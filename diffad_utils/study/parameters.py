"""The cell tagged ``parameters``: what it holds by default, what papermill injected, and whether every value is
allowed."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from diffad_utils.io.messages import did_you_mean
from diffad_utils.io.notebooks import read_cells
from diffad_utils.io.paths import repository
from diffad_utils.study.rules import RULES, ParameterError

OWN_CELL = "# Parameters:"
"""First words of the parameters cell that a notebook is committed with."""


INJECTED_CELL = "# Parameters"
"""First line, exactly, of the cell that papermill adds."""


def _assignments(source: str) -> list[tuple[ast.expr, ast.expr]]:
    """(target, value) of every assignment at the top level of `source`, in order."""
    pairs = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            pairs += [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            pairs.append((node.target, node.value))
    return pairs


def assigned_names(source: str) -> list[str]:
    """Names that the top level of `source` assigns, in order and each once; tuples are taken apart."""
    targets = [target for target, _ in _assignments(source)]
    names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return list(dict.fromkeys(names))


def default_parameters(source: str) -> dict:
    """Names and values of a notebook's parameters cell, read without running it.

    papermill's own reader misses ``a, b = 1, 2`` and ``g = 3; h = 4``; this one does not.

    Raises
    ------
    ParameterError
        a value is not a literal, or the cell is not Python.
    """
    parameters = {}
    try:
        for target, value in _assignments(source):
            literal = ast.literal_eval(value)
            if isinstance(target, (ast.Tuple, ast.List)):
                parameters.update(zip([name.id for name in target.elts], literal, strict=True))  # type: ignore[attr-defined]
            else:
                parameters[target.id] = literal  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise ParameterError(f"the parameters cell may only assign literal values to names: {error}") from error
    return parameters


def notebook_parameters(notebook: str | Path) -> dict:
    """Names and default values of the one cell tagged ``parameters`` in the notebook file.

    Raises
    ------
    FileNotFoundError
        no such notebook.
    ParameterError
        not exactly one such cell, or one without the expected first line.
    """
    path = Path(notebook)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such notebook")
    try:
        tagged = [cell for cell in read_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    except ValueError as error:
        raise ParameterError(str(error)) from error
    if len(tagged) != 1:
        raise ParameterError(f"{path.name} has {len(tagged)} cells tagged `parameters`, expected exactly one")
    source = tagged[0].source
    if not source.startswith(OWN_CELL):
        raise ParameterError(f"{path.name}: the parameters cell must start with the line `{OWN_CELL} ...`")
    try:
        return default_parameters(source)
    except ParameterError as error:
        raise ParameterError(f"{path.name}: {error}") from error


def _same_type(value: Any, default: Any) -> bool:
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(_same_type(item, default[0]) for item in value if default)
    return isinstance(value, type(default))


def _type_name(default: Any) -> str:
    if isinstance(default, (list, tuple)):
        return f"list of {_type_name(default[0])}" if default else "list"
    return "number" if isinstance(default, float) else type(default).__name__


CATEGORIES = {"category": "dataset", "other_category": "other_dataset"}
"""Parameters that name a category, and the parameter that names its data set."""


def _is_number_for_category(name: str, value: object) -> bool:
    return name in CATEGORIES and isinstance(value, int) and not isinstance(value, bool)


def with_category_names(parameters: dict) -> dict:
    """The parameters with categories as names where YAML or a shell made a number of them: 1 or "1" is BTAD's "01".

    Raises:
        ParameterError: no category of the data set is written with these digits.
    """
    from diffad_utils import data

    named = dict(parameters)
    for name, of in CATEGORIES.items():
        value = parameters.get(name)
        if _is_number_for_category(name, value) or (isinstance(value, str) and value.isdecimal()):
            dataset = parameters.get(of, "")
            root = parameters.get("data_root") if of == "dataset" or dataset == parameters.get("dataset") else None
            try:
                named[name] = data.resolve_category(value, data.category_names(dataset, root), dataset)
            except data.DataError as error:
                raise ParameterError(f"parameter `{name}`: {error}") from error
    return named


def check_parameters(where: str, given: dict, defaults: dict) -> None:
    """Check given parameters against a notebook's defaults and `RULES`.

    Parameters
    ----------
    where : what to name in the error (the notebook).
    given : the parameters to check.
    defaults : the notebook's own parameters with their default values, which fix the types (an int is
        welcome where the default is a float; a default of None allows any type).

    Raises
    ------
    ParameterError
        naming the parameter, its value and what is allowed.
    """
    for name, value in given.items():
        if name not in defaults:
            hint = did_you_mean(name, defaults, mark="`")
            raise ParameterError(f"{where}: unknown parameter `{name}`{hint}; known: {', '.join(sorted(defaults))}")
        default = defaults[name]
        if _is_number_for_category(name, value) and isinstance(default, str):
            continue  # `with_category_names` finds the name
        if not _same_type(value, default):
            quotes = "; write it in quotes" if name in CATEGORIES else ""
            raise ParameterError(
                f"{where}: parameter `{name}` is {value!r} ({type(value).__name__}), expected {_type_name(default)}"
                f" as in its default {default!r}{quotes}"
            )
        rule = RULES.get(name)
        if rule is None or value is None:
            continue
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if not rule.allows(item):
                hint = did_you_mean(item, rule.choices or ())
                raise ParameterError(f"{where}: parameter `{name}` is {value!r}, allowed: {rule}{hint}")
        if isinstance(value, (list, tuple)) and len(set(value)) < rule.least:
            raise ParameterError(
                f"{where}: parameter `{name}` is {value!r}, expected at least {rule.least} different values"
            )


class Parameters(dict):
    """A notebook's parameters, as a dictionary and as attributes (``run.parameters.category``)."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            hint = did_you_mean(name, self, mark="`")
            raise AttributeError(f"no parameter `{name}`{hint}; there are: {', '.join(sorted(self))}") from None


def _first_line(source: str) -> str:
    return source.split("\n", 1)[0].strip()


def _parameters_from_file(notebook: str, namespace: dict) -> dict:
    """Defaults from the notebook's file, for front ends that keep no history of cells (nbval)."""
    places = (Path.cwd(), repository() / "notebooks")
    path = next((folder / f"{notebook}.ipynb" for folder in places if (folder / f"{notebook}.ipynb").is_file()), None)
    defaults = notebook_parameters(path) if path is not None else {}
    if not defaults or not defaults.keys() <= namespace.keys():
        raise ParameterError(f"{notebook}: run the parameters cell first (its first line is `{OWN_CELL} ...`)")
    return defaults


def parameters_of_session(notebook: str, namespace: dict) -> Parameters:
    """The checked parameters of a running notebook.

    Parameters
    ----------
    notebook : its name, for errors.
    namespace : the notebook's ``globals()``; ``In`` holds the source of the cells run so far. Where a front
        end keeps no such history, the names are read from the notebook's file.

    Raises
    ------
    ParameterError
        no parameters cell was run; papermill injected a name that the notebook does not
        have; wrong type; value out of range.
    """
    cells = [source for source in namespace.get("In", []) if _first_line(source).startswith(INJECTED_CELL)]
    own = [source for source in cells if _first_line(source).startswith(OWN_CELL)]
    defaults = default_parameters(own[-1]) if own else _parameters_from_file(notebook, namespace)
    injected = [source for source in cells if _first_line(source) == INJECTED_CELL]
    given = {name: namespace.get(name) for source in injected for name in assigned_names(source)}
    given |= {name: namespace.get(name, default) for name, default in defaults.items()}
    check_parameters(notebook, given, defaults)
    return Parameters(with_category_names({name: given[name] for name in defaults}))

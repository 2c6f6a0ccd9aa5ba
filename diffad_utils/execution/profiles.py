"""Profiles and plans: a YAML file with parameters for every notebook becomes the list of runs of a study.

A profile (``workflow/profiles/<name>.yaml``) has one section a notebook::

    defaults:
      seed: [0]            # every notebook runs once for each seed
      minutes: 30          # time limit of one run
      parameters: {size: 256}
    07_invad:
      grid:
        - {dataset: elpv, category: mono}
        - {dataset: textures, category: [carpet, grid], parameters: {epochs: 10}, seed: [0]} # for these only
      parameters: {epochs: 20}
    08_comparison: {}      # summarises all runs: once, after all the others

A user's own profile is such a file anywhere, its output is called after it. With ``extends: smoke`` (a name, or a path
beside the file) it says only what differs: mappings are merged key by key, everything else replaces, and a section that
is ``false`` is left out. A ``data_root`` that is a relative path is relative to the folder of the file that names it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffad_utils import study
from diffad_utils.io.messages import did_you_mean

DEFAULT_MINUTES = 60


WORK = ".workflow"
"""Folder in a profile's output with one folder a run: parameters.yaml, run.log, done or run.failed.ipynb."""


class ProfileError(ValueError):
    """A profile names an unknown notebook, key or parameter, or a value out of range."""


@dataclass(frozen=True)
class PlannedRun:
    """One papermill run.

    Attributes:
        name: ``07_invad/elpv/mono/seed-0``, also its folder below ``.workflow``.
        notebook: path of the notebook. parameters: what is injected. folder: where its results will be.
        threads: cores it may use. memory_mb: memory it may use. gpus: devices it needs (0 or more), if the machine
            has any. minutes: time limit. is_summary: reads the other runs, so runs after them.
    """

    name: str
    notebook: Path
    parameters: dict
    folder: Path
    threads: int
    memory_mb: int
    gpus: int
    minutes: int
    is_summary: bool

    @property
    def label(self) -> str:
        """``07_invad elpv/mono seed 0``, for people."""
        return label_of(self.notebook, self.parameters)


@dataclass(frozen=True)
class RunPlan:
    """All runs of a profile; `root` is the profile's output folder."""

    profile: str
    root: Path
    runs: tuple[PlannedRun, ...]

    def work(self, run: PlannedRun) -> Path:
        """The run's folder for parameters, log and fingerprint."""
        return self.root / WORK / run.name


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-4`` as a number (YAML 1.1 takes it for text), and ``010`` as text (YAML 1.1 takes it
    for 8): digits after a zero are a name, such as a category's."""

    def number(self, node: yaml.ScalarNode) -> int | str:
        text = self.construct_scalar(node)
        return text if re.fullmatch(r"0\d+", text) else self.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)

_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


YAML_LIMIT = 100_000
"""Values that a YAML text may stand for, anchors written out: nine lines of them can name a billion."""


def read_yaml(text: str) -> Any:
    """YAML with plain types only; ``1e-4`` is a float, ``010`` is text.

    Raises
    ------
    yaml.YAMLError
        not YAML, another type than text, number, truth value, list and mapping, an anchor inside
        itself, or more than `YAML_LIMIT` values.
    """
    try:
        root = yaml.compose(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("its lists or mappings are nested too deeply") from error
    if _size(root, {}) > YAML_LIMIT:
        raise yaml.YAMLError(f"its anchors stand for more than {YAML_LIMIT} values")
    return yaml.load(text, Loader=_Loader)


def _size(node: Any, known: dict[int, float]) -> float:
    """Number of values of a YAML node with every anchor written out; infinite inside itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # until it is counted: met again before that, it holds itself
        inner = [] if node is None or isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def label_of(notebook: Path, parameters: dict) -> str:
    if study.method_of(Path(notebook).stem) is None:
        return f"{Path(notebook).stem} ({parameters['profile']})"
    task = f"{parameters['dataset']}/{parameters['category']}"
    return f"{Path(notebook).stem} {task} seed {parameters['seed']}"


def _check_keys(where: str, section: Any, known: tuple[str, ...]) -> dict:
    section = {} if section is None else section
    if not isinstance(section, dict):
        raise ProfileError(f"{where}: expected keys ({', '.join(known)}), got {section!r}")
    for key in section:
        if key not in known:
            hint = did_you_mean(key, known, mark="`")
            raise ProfileError(f"{where}: unknown key `{key}`{hint}; known: {', '.join(known)}")
    return section


RESOURCES = {"threads": (1, 1), "memory_mb": (4000, 1), "gpus": (0, 0), "minutes": (DEFAULT_MINUTES, 1)}
"""What a run may use: key -> (default, least value)."""


def _count(where: str, key: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ProfileError(f"{where}: `{key}` is {value!r}, expected a whole number of at least {least}")
    return value


def _parameters(where: str, section: dict) -> dict:
    parameters = section.get("parameters")
    if not isinstance(parameters, dict | None):
        raise ProfileError(f"{where}: `parameters` is {parameters!r}, expected names with values, like {{seed: 1}}")
    return parameters or {}


def _seeds(given: dict, default: Sequence[Any]) -> Sequence[Any]:
    seeds = given.get("seed", default)
    return seeds if isinstance(seeds, list) else [seeds]


def _tasks(where: str, section: dict, is_summary: bool, seeds: Sequence[Any]) -> list[tuple[dict, dict, Any]]:
    """The dataset/category pairs of a section, each with parameters of its own and a seed; a summary notebook has the
    one empty pair."""
    grid = section.get("grid")
    if is_summary:
        if grid is not None:
            raise ProfileError(f"{where}: this notebook summarises all runs and takes no `grid`")
        return [({}, {}, seeds[0])]
    if not isinstance(grid, list) or not grid:
        raise ProfileError(f"{where}: `grid` must list {{dataset: ..., category: ...}} entries")
    tasks = []
    for i, entry in enumerate(grid):
        entry = _check_keys(f"{where}: grid[{i}]", entry, ("dataset", "category", "parameters", "seed"))
        if not {"dataset", "category"} <= set(entry):
            raise ProfileError(f"{where}: grid[{i}] needs both dataset and category, got {entry}")
        categories = entry["category"] if isinstance(entry["category"], list) else [entry["category"]]
        tasks += [
            ({"dataset": entry["dataset"], "category": category}, _parameters(f"{where}: grid[{i}]", entry), seed)
            for category in categories
            for seed in _seeds(entry, seeds)
        ]
    return tasks


def profile_names(profiles: Path | None = None) -> list[str]:
    """Names of the profiles in a folder (default: the repository's)."""
    return sorted(path.stem for path in (profiles or study.repository() / "workflow" / "profiles").glob("*.yaml"))


def profile_file(profile: str, profiles: Path) -> tuple[str, Path]:
    """Name and file of a profile given by its name in the folder `profiles`, or by the path of a YAML file.

    Raises
    ------
    ProfileError
        there is none; a user's file has the name of another profile, whose results it would replace.
    """
    if Path(profile).suffix in (".yaml", ".yml") or "/" in profile or os.sep in profile:
        file = Path(profile).expanduser().resolve()
        named = profiles / f"{file.stem}.yaml"
        if not file.is_file():
            raise ProfileError(f"there is no profile {file}")
        if named.is_file() and not named.samefile(file):
            raise ProfileError(
                f"{file}: there is a profile {file.stem!r} already, whose results it would replace; rename the file"
            )
        return file.stem, file
    file = profiles / f"{profile}.yaml"
    if not file.is_file():
        names = profile_names(profiles)
        hint, known = did_you_mean(profile, names), ", ".join(names) or "none"
        raise ProfileError(f"no profile {profile!r}{hint}; there are: {known}; or give the path of a YAML file")
    return profile, file


def _merged(base, over):
    """`over` on top of `base`: mappings key by key, an absent section as it is in `base`; everything else replaces."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return base if over is None else over
    return {
        key: _merged(base.get(key), over[key]) if key in over else base[key]
        for key in [*base, *(over.keys() - base.keys())]
    }


def read_profile(file: Path, profiles: Path, seen: tuple[Path, ...] = ()) -> dict:
    """A profile's content with what it extends filled in, and each ``data_root`` from the folder of its file on.

    Raises
    ------
    ProfileError
        not YAML, not a mapping, an unknown profile to extend, or one that extends itself.
    """
    if file in seen:
        raise ProfileError(f"{file.name}: extends itself, through {', '.join(path.name for path in seen)}")
    try:
        content = read_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"{file.name} is not valid YAML: {error}") from error
    content = _with_absolute_roots(content, file.parent)
    if not isinstance(content, dict) or "extends" not in content:
        return content
    base = content.pop("extends")
    if not isinstance(base, str):
        raise ProfileError(f"{file.name}: `extends` is {base!r}, expected the name or path of a profile")
    beside = file.parent / base
    found = beside.resolve() if beside.is_file() else profile_file(base, profiles)[1]
    merged = _merged(read_profile(found, profiles, (*seen, file)) or {}, content)
    return {name: section for name, section in merged.items() if section is not False}


def _with_absolute_roots(content: Any, folder: Path) -> Any:
    """A profile's content with each ``data_root`` as an absolute path: a kernel runs in the folder of its notebook."""
    if isinstance(content, list):
        return [_with_absolute_roots(item, folder) for item in content]
    if not isinstance(content, dict):
        return content
    return {
        key: str((folder / Path(value).expanduser()).resolve())
        if key == "data_root" and isinstance(value, str) and value
        else _with_absolute_roots(value, folder)
        for key, value in content.items()
    }


def load_plan(
    profile: str,
    *,
    notebooks: str | Path | None = None,
    profiles: str | Path | None = None,
    output_root: str | Path | None = None,
) -> RunPlan:
    """Expand a profile into runs, checking everything that can be checked without data.

    Parameters
    ----------
    profile : name of a YAML file in `profiles`, or the path of one.
    notebooks, profiles, output_root : folders; defaults ``notebooks``, ``workflow/profiles`` and
        ``reports`` of the repository.

    Raises
    ------
    ProfileError
        unknown profile, notebook, key or parameter; value of the wrong type or out of range;
        the same run twice.
    """
    repository = study.repository()
    profiles = Path(profiles or repository / "workflow" / "profiles")
    notebooks = Path(notebooks or repository / "notebooks")
    profile, file = profile_file(str(profile), profiles)
    known = sorted(path.stem for path in notebooks.glob("*.ipynb"))
    content = _check_keys(file.name, read_profile(file, profiles), ("defaults", *known, "extends"))
    defaults = _check_keys(f"{file.name}: defaults", content.pop("defaults", {}), _SECTION_KEYS[1:])
    runs = []
    for name in sorted(content):
        runs += _section_runs(file.name, profile, notebooks / f"{name}.ipynb", content[name], defaults, output_root)
    runs.sort(key=lambda run: run.is_summary)  # stable: summary notebooks last, the others in their order
    names = [run.name for run in runs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ProfileError(f"{file.name}: listed twice: {', '.join(twice)}")
    root = Path(output_root or study.reports_folder()) / profile
    return RunPlan(profile, root, tuple(runs))


_SECTION_KEYS = ("grid", "seed", "parameters", *RESOURCES)


def _section_runs(
    file: str, profile: str, notebook: Path, section: Any, defaults: dict, output_root: str | Path | None
) -> list[PlannedRun]:
    where = f"{file}: {notebook.stem}"
    section = _check_keys(where, section, _SECTION_KEYS)
    is_summary = study.method_of(notebook.stem) is None
    try:
        own = study.notebook_parameters(notebook)
    except study.ParameterError as error:
        raise ProfileError(str(error)) from error
    common = {"profile": profile} | ({"output_root": str(Path(output_root).resolve())} if output_root else {})
    # a default applies to the notebooks that have the parameter; a section's own must be known
    shared = {name: value for name, value in _parameters(f"{file}: defaults", defaults).items() if name in own}
    seeds = _seeds(section, _seeds(defaults, [0]))
    resources = {
        key: _count(where, key, section.get(key, defaults.get(key, usual)), least)
        for key, (usual, least) in RESOURCES.items()
    }
    runs = []
    for task, of_task, seed in _tasks(where, section, is_summary, seeds):
        parameters = shared | _parameters(where, section) | of_task | common | task | {"seed": seed}
        try:
            study.check_parameters(where, parameters, own)
            parameters = study.with_category_names(parameters)
        except study.ParameterError as error:
            raise ProfileError(str(error)) from error
        if str(parameters.get("device", "")).startswith("cuda") and not resources["gpus"]:
            raise ProfileError(f"{where}: `device` is {parameters['device']!r} but `gpus` is 0; set `gpus: 1`")
        tail = [parameters["dataset"], parameters["category"], f"seed-{seed}"] if not is_summary else []
        name = "/".join([notebook.stem, *map(str, tail)])
        folder = study.run_folder(notebook.stem, parameters)
        runs.append(PlannedRun(name, notebook, parameters, folder, is_summary=is_summary, **resources))
    return runs


def yaml_text(parameters: dict) -> str:
    """The parameters as the YAML that papermill reads."""
    return yaml.safe_dump(parameters, sort_keys=True, allow_unicode=True)

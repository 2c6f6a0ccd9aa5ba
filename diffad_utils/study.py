"""Parameters, run folder, manifest and results of one notebook run.

A notebook starts with its parameters cell and then::

    from diffad_utils import study
    run = study.start("07_invad", globals())

and ends with ``run.record(...)``. Everything goes to

    <output_root>/<profile>/<dataset>/<category>/<method>/seed-<n>/

through a folder beside it that takes its place only when the run is recorded, so a complete earlier run
survives a failed one. ``metrics.json`` is written last: a folder that has one is complete.

``metrics.json`` holds only what the seed and the data determine (sorted keys, floats rounded to ten
significant digits, no times), so two runs can be compared byte by byte. Times, memory, device, versions and
checksums are in ``manifest.json``.
"""

from __future__ import annotations

import ast
import atexit
import datetime
import difflib
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from diffad_utils import checkpoints
from diffad_utils.places import reports, repository

OWN_CELL = "# Parameters:"
"""First words of the parameters cell that a notebook is committed with."""

INJECTED_CELL = "# Parameters"
"""First line, exactly, of the cell that papermill adds."""

METHOD_OF_NOTEBOOK = {
    "01_data": "trivial",
    "02_vae_bottleneck": "latent_unet",
    "03_img2img_sweep": "img2img",
    "08_comparison": None,
}
"""Method folder of a notebook; None: one folder for the whole profile. Others: the name after the number."""

MAPS_LIMIT_BYTES = 4_000_000
"""Cap for ``maps.npz`` before compression: bigger maps are averaged down by factors of two until they fit."""

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "open_clip_torch",
    "timm",
    "anomalib",
    "numpy",
    "pandas",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "papermill",
    "elpv-dataset",
)
"""Packages whose versions the manifest lists."""


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type, or outside its allowed values."""


# --- parameters ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """Allowed values of one parameter; for a list the rule holds for each element.

    Args:
        choices: the allowed values, or None.
        low, high: closed bounds for numbers, or None. `above` is an open lower bound.
        pattern: regular expression that a string must match as a whole, or None.
    """

    choices: tuple | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    pattern: str | None = None

    def allows(self, value) -> bool:
        """Whether one scalar `value` obeys the rule."""
        if self.choices is not None:
            return value in self.choices
        if self.pattern is not None:
            return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
        )

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(json.dumps(choice) for choice in self.choices)
        if self.pattern is not None:
            return f"a name that matches {self.pattern}"
        bounds = [
            f"at least {self.low:.10g}" if self.low is not None else "",
            f"above {self.above:.10g}" if self.above is not None else "",
            f"at most {self.high:.10g}" if self.high is not None else "",
        ]
        return " and ".join(bound for bound in bounds if bound) or "any finite number"


_COUNT = Rule(low=1)
_NAME = Rule(pattern=r"[\w][\w .+-]*")  # becomes a folder's name, so no separators and no leading dot
_FRACTION = Rule(low=0, high=1)
_PROMPT = Rule(pattern=r"\S(.*\S)?")
_DATASET = Rule(
    choices=("textures", "elpv", "mvtec_ad", "mvtec_ad_2", "visa", "btad", "mpdd", "mtd", "real_iad", "bmad", "folder")
)
_WEIGHTS = Rule(pattern=r"\S(.*\S)?")  # a name, a path or a hub id: `weights.resolve` knows them

RULES: dict[str, Rule] = {
    "profile": _NAME,
    "dataset": _DATASET,
    "category": _NAME,
    "categories": _NAME,
    "seed": Rule(low=0, high=2**31 - 1),
    "device": Rule(pattern=r"auto|cpu|mps|cuda(:\d+)?"),
    "size": Rule(low=16, high=2048),
    "image_size": Rule(low=16, high=2048),
    "grid": Rule(low=2, high=128),
    "batch_size": Rule(low=1, high=4096),
    "train_images": _COUNT,
    "test_images": _COUNT,
    "epochs": _COUNT,
    "train_steps": _COUNT,
    "steps": _COUNT,
    "num_steps": Rule(low=1, high=1000),
    "inversion_steps": Rule(low=1, high=1000),
    "step_counts": Rule(low=1, high=1000),
    "T": Rule(low=2, high=10000),
    "learning_rate": Rule(above=0, high=1),
    "weight_decay": _FRACTION,
    "ema_decay": _FRACTION,
    "grad_clip": Rule(above=0),
    "dropout": _FRACTION,
    "spacing": Rule(choices=("reference", "paper")),
    "spacings": Rule(choices=("reference", "paper")),
    "backbone": Rule(choices=("resnet-mini", "resnet34", "efficientnet-b4", "dino-vits8")),
    "baselines": Rule(choices=("patchcore", "padim", "fastflow", "stfpm", "winclip")),
    "coreset_ratio": Rule(above=0, high=1),
    "baseline_steps": _COUNT,
    "winclip_weights": _WEIGHTS,
    "width": _COUNT,
    "depth": Rule(low=1, high=128),
    "num_heads": Rule(low=1, high=128),
    "train_batch_size": Rule(low=1, high=4096),
    "noise_timesteps": Rule(low=1, high=999),
    "denoising_steps": Rule(low=1, high=1000),
    "denoising_step_counts": Rule(low=1, high=1000),
    "sweep_images": Rule(low=4),
    "survey_size": Rule(low=16, high=2048),
    "strides": Rule(choices=(2, 4, 8, 16, 32)),
    "holdout": Rule(above=0, high=0.5),
    "bootstrap": Rule(low=10, high=100000),
    "bootstrap_samples": Rule(low=10, high=100000),
    "level": Rule(above=0.5, high=0.999),
    "strength": Rule(above=0, high=1),
    "strengths": Rule(above=0, high=1),
    "guidance_scale": Rule(low=0, high=100),
    "guidance_scales": Rule(low=0, high=100),
    "num_inference_steps": Rule(low=1, high=1000),
    "round_trip_steps": Rule(low=1, high=1000),
    "sweep_seeds": Rule(low=0, high=2**31 - 1),
    "alpha": _FRACTION,
    "alphas": _FRACTION,
    "calibration_images": Rule(low=2),
    "strip_strengths": Rule(above=0, high=1),
    "pair_images": Rule(low=2),
    "prompt": Rule(pattern=r".*\S.*"),
    "negative_prompt": Rule(pattern=r".*"),
    "weights": _WEIGHTS,
    "clip": _WEIGHTS,
    "search_trials": Rule(low=0, high=100000),
    "threads": Rule(low=1, high=1024),
    "space": Rule(choices=("pixel", "latent")),
    "block_out_channels": Rule(low=8, high=4096),
    "layers_per_block": Rule(low=1, high=16),
    "attention_levels": Rule(low=0, high=15),
    "dsm_steps": _COUNT,
    "T_d": Rule(low=0, high=1000),
    "stride": Rule(low=1, high=1000),
    "strip_timestep": Rule(low=1, high=1000),
    "strip_images": Rule(low=4),
    "toy_steps": _COUNT,
    "vae": _WEIGHTS,
    "vaes": _WEIGHTS,
    "pixel_ddpm_weights": _WEIGHTS,
    "pixel_ddpm_size": Rule(low=16, high=1024),
    "latent_unet_steps": _COUNT,
    "autoencoder_steps": _COUNT,
    "pixel_ddpm_steps": _COUNT,
    "objectives": Rule(choices=("pixel", "latent")),
    "spectral_weight": Rule(low=0, high=100),
    "noise_std": Rule(above=0, high=10),
    "noise_timestep": Rule(low=1, high=999),
    "latent_channels": Rule(low=1, high=256),
    "downsamplings": Rule(choices=(2, 4, 8, 16, 32)),
    "survey_images": Rule(low=2),
    "planted_images": Rule(low=2),
    "planted_areas": Rule(above=0, high=0.25),
    "planted_contrasts": Rule(above=0, high=0.5),
    "bottleneck_steps": _COUNT,
    "attention_resolutions": Rule(low=1, high=256),
    "max_train_timestep": Rule(low=2, high=1000),
    "t_max": Rule(low=10, high=999),
    "k": Rule(low=1, high=1000),
    "plan": Rule(choices=("paper", "code")),
    "guidance_weight": Rule(low=0, high=100),
    "guidance_weights": Rule(low=0, high=100),
    "adaptation_epochs": Rule(low=0, high=100),
    "adaptation_study": Rule(low=0, high=100),
    "adaptation_rate": Rule(above=0, high=1),
    "map_weight": _FRACTION,
    "map_weights": _FRACTION,
    "noise_fractions": _FRACTION,
    "high_steps": Rule(low=10, high=999),
    "ddad_size": Rule(low=32, high=2048),
    "ddad_steps": _COUNT,
    "ddad_channels": Rule(low=8, high=4096),
    "ddad_weight": Rule(low=0, high=100),
    "ddad_weights": Rule(low=0, high=100),
    "removal_images": Rule(low=2),
    "img2img_weights": _WEIGHTS,
    "instance_prompt": _PROMPT,
    "lora_prompt": Rule(pattern=r"|\S(.*\S)?"),
    "base_prompt": _PROMPT,
    "class_prompt": _PROMPT,
    "rank": Rule(low=1, high=1024),
    "ranks": Rule(low=1, high=1024),
    "lora_alpha": Rule(low=0, high=4096),
    "lora_dropout": Rule(low=0, high=0.9),
    "target_modules": Rule(pattern=r"[\w.]+"),
    "prior_weight": Rule(low=0, high=100),
    "class_images": _COUNT,
    "gradient_accumulation_steps": Rule(low=1, high=1024),
    "mixed_precision": Rule(choices=("no", "fp16", "bf16")),
    "optimizer": Rule(choices=("adamw", "adamw8bit")),
    "holdout_fraction": Rule(above=0, high=0.5),
    "snapshot_steps": _COUNT,
    "study_images": Rule(low=4),
    "loss_timesteps": Rule(low=0, high=999),
    "other_dataset": _DATASET,
    "other_category": Rule(pattern=r"|[\w][\w .+-]*"),
}
"""Allowed values by parameter name, the same in every notebook. A name without a rule is checked for its type only."""


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

    Raises:
        ParameterError: a value is not a literal, or the cell is not Python.
    """
    parameters = {}
    try:
        for target, value in _assignments(source):
            literal = ast.literal_eval(value)
            if isinstance(target, (ast.Tuple, ast.List)):
                parameters.update(zip([name.id for name in target.elts], literal, strict=True))
            else:
                parameters[target.id] = literal
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise ParameterError(f"the parameters cell may only assign literal values to names: {error}") from error
    return parameters


def notebook_parameters(notebook: str | Path) -> dict:
    """Names and default values of the one cell tagged ``parameters`` in the notebook file.

    Raises:
        FileNotFoundError: no such notebook.
        ParameterError: not exactly one such cell, or one without the expected first line.
    """
    path = Path(notebook)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such notebook")
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ParameterError(f"{path} is not a notebook ({type(error).__name__}: {error})") from error
    if len(tagged) != 1:
        raise ParameterError(f"{path.name} has {len(tagged)} cells tagged `parameters`, expected exactly one")
    source = "".join(tagged[0]["source"])
    if not source.startswith(OWN_CELL):
        raise ParameterError(f"{path.name}: the parameters cell must start with the line `{OWN_CELL} ...`")
    try:
        return default_parameters(source)
    except ParameterError as error:
        raise ParameterError(f"{path.name}: {error}") from error


def _same_type(value, default) -> bool:
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple)) and all(_same_type(item, default[0]) for item in value if default)
    return isinstance(value, type(default))


def _type_name(default) -> str:
    if isinstance(default, (list, tuple)):
        return f"list of {_type_name(default[0])}" if default else "list"
    return "number" if isinstance(default, float) else type(default).__name__


CATEGORIES = {"category": "dataset", "other_category": "other_dataset"}
"""Parameters that name a category, and the parameter that names its data set."""


def _is_number_for_category(name: str, value) -> bool:
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

    Args:
        where: what to name in the error (the notebook).
        given: the parameters to check.
        defaults: the notebook's own parameters with their default values, which fix the types (an int is
            welcome where the default is a float; a default of None allows any type).

    Raises:
        ParameterError: naming the parameter, its value and what is allowed.
    """
    for name, value in given.items():
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f" (did you mean `{close[0]}`?)" if close else ""
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
                close = difflib.get_close_matches(str(item), [str(choice) for choice in rule.choices or ()], n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise ParameterError(f"{where}: parameter `{name}` is {value!r}, allowed: {rule}{hint}")


class Parameters(dict):
    """A notebook's parameters, as a dictionary and as attributes (``run.parameters.category``)."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no parameter `{name}`; there are: {', '.join(sorted(self))}") from None


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

    Args:
        notebook: its name, for errors.
        namespace: the notebook's ``globals()``; ``In`` holds the source of the cells run so far. Where a front
            end keeps no such history, the names are read from the notebook's file.

    Raises:
        ParameterError: no parameters cell was run; papermill injected a name that the notebook does not
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


# --- where things are ------------------------------------------------------------------------------------------------


def reports_folder() -> Path:
    """``$DIFFAD_REPORTS`` if set (tests and re-execution in place use it), else ``reports`` of the checkout."""
    return reports()


def method_of(notebook: str) -> str | None:
    """Folder name of the notebook's method (``07_invad`` -> ``invad``); None for one that joins all runs."""
    return METHOD_OF_NOTEBOOK.get(notebook, re.sub(r"^\d+_", "", notebook))


def profile_folder(parameters: dict) -> Path:
    """The folder of a profile's results (needs profile, output_root)."""
    return Path(parameters.get("output_root") or reports_folder()) / parameters["profile"]


def run_folder(notebook: str, parameters: dict, method: str | None = None) -> Path:
    """The folder of a run with these parameters (needs profile, dataset, category, seed, output_root)."""
    root = profile_folder(parameters)
    method = method or method_of(notebook)
    if method is None:
        return root / re.sub(r"^\d+_", "", notebook)
    folder = method.replace(":", "_")  # anomalib:patchcore; a colon is no folder name everywhere
    return root / parameters["dataset"] / parameters["category"] / folder / f"seed-{parameters['seed']}"


# --- files -----------------------------------------------------------------------------------------------------------


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write through a temporary file in the same folder and rename, so a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _plain(value, where: str):
    """`value` as JSON types; floats rounded to ten significant digits; NaN and infinity are refused."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}: leave out what could not be computed")
        return float(f"{value:.10g}")
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"{where} is a {type(value).__name__}, expected numbers, text, lists or dictionaries")


def to_json(content: dict, where: str) -> str:
    """JSON text with sorted keys and rounded floats: equal content gives equal bytes.

    Raises:
        ValueError: a value is NaN, infinite or of another type; `where` and the key are named.
    """
    return json.dumps(_plain(content, where), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_index(index: pd.DataFrame, content_limit: int = 512 * 2**20) -> dict:
    """Counts and checksums of a table of samples, for the manifest.

    Args:
        index: as from ``data.load_index``.
        content_limit: above this many bytes in image files only names, labels and sizes are hashed.

    Returns:
        dict with dataset, categories, train, test, test_anomalous, sha256 (of names, labels and splits, the
        same wherever the data lies), and for image files bytes and, below the limit, content_sha256.
        Rendered data has no files: there the names fix the content together with the git revision.
    """
    names, content = hashlib.sha256(), hashlib.sha256()
    images = sorted(
        index[["category", "split", "defect", "label", "image"]].astype(str).itertuples(index=False),
        key=lambda row: (row.category, row.split, row.defect, Path(row.image).name),
    )
    paths = [Path(row.image) for row in images if os.path.isfile(row.image)]
    total = sum(path.stat().st_size for path in paths)
    for row in images:
        names.update("\t".join([*row[:4], Path(row.image).name]).encode() + b"\n")
    for path in paths if total <= content_limit else []:
        content.update(path.read_bytes())
    test = index[index["split"] == "test"]
    summary = {
        "dataset": str(index["dataset"].iloc[0]),
        "categories": sorted(index["category"].unique().tolist()),
        "train": int((index["split"] == "train").sum()),
        "test": len(test),
        "test_anomalous": int((test["label"] == 1).sum()),
        "sha256": names.hexdigest(),
    }
    if paths:
        summary["bytes"] = total
        if total <= content_limit:
            summary["content_sha256"] = content.hexdigest()
    return summary


def shorten(text: str) -> str:
    """`text` with the checkout's and the user's folder replaced, since run folders get published."""
    return text.replace(str(repository()), ".").replace(str(Path.home()), "~")


# --- surroundings ----------------------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions of Python and of the packages in `PACKAGES` that are installed, and of this package."""
    from diffad_utils import __version__

    found = {"python": platform.python_version(), "diffad_utils": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_state(root: Path | None = None) -> dict:
    """Revision and whether tracked files differ from it (reports aside); both None without git or commits."""
    root = root or repository()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    status = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports") if revision else None
    return {"revision": revision, "dirty": None if status is None else bool(status)}


def resolve_device(device: str = "auto") -> str:
    """What `training.pick_device` makes of the parameter, as a string.

    Raises:
        ParameterError: a GPU is asked for and there is none, or no device has that name.
    """
    from diffad_utils.training import pick_device

    try:
        return str(pick_device(device))
    except (ValueError, RuntimeError) as error:  # torch's own for an unknown name
        raise ParameterError(f"parameter `device`: {error}") from error


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def peak_memory() -> dict[str, int]:
    """Highest memory so far, in bytes: ``process`` (resident set) and, with CUDA in use, ``cuda``."""
    if sys.platform == "win32":
        import psutil

        peak = {"process": psutil.Process().memory_info().peak_wset}
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB elsewhere
        peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# --- a run -----------------------------------------------------------------------------------------------------------


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
                atexit.register(self._discard)
            base = self._staging
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _discard(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def note_weights(self, resolved) -> None:
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
        """Put the weights and data of the runs that this one joins into the manifest, so that captions name them."""
        for record in records:
            for mine, theirs in ((self._weights, record.manifest["weights"]), (self._data, record.manifest["data"])):
                mine += [entry for entry in theirs if entry not in mine]

    @property
    def provenance(self) -> str:
        """Profile, data and weights in one line, for captions."""
        return provenance(self.parameters, self._data, self._weights)

    def figure(self, fig, name: str, caption: str, *, dpi: int = 100) -> None:
        """Save a matplotlib figure as ``figures/<name>.png``, note its caption, show both and close it.

        Args:
            fig: matplotlib figure.
            name: file name without ending; letters, digits, ``_`` and ``-``. A name used again replaces.
            caption: what is seen and what follows; profile, data and weights are added to it.
            dpi: dots per inch of the saved picture.

        Raises:
            ValueError: `name` is not a plain name or `caption` is empty.
        """
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"figure name {name!r}: use letters, digits, _ and - only")
        if not caption.strip():
            raise ValueError(f"figure {name!r} needs a caption")
        target = self.path(f"figures/{name}.png")
        # no Software or date entry: the same picture gives the same bytes
        fig.savefig(target, dpi=dpi, bbox_inches="tight", metadata={"Software": None})
        entry = {"name": name, "caption": caption.strip(), "provenance": self.provenance}
        self._figures = [figure for figure in self._figures if figure["name"] != name] + [entry]
        write_atomically(self.path("figures.json"), to_json({"figures": self._figures}, "figures.json"))
        _show(fig, f"{caption.strip()} *({self.provenance})*")

    def record(
        self,
        prediction=None,
        batch: dict | None = None,
        metrics: dict | None = None,
        *,
        detector=None,
        experiments: dict | None = None,
        timing: dict | None = None,
        maps: bool = False,
        intervals: dict | None = None,
        floor: dict | None = None,
        claims: list[dict] | None = None,
    ) -> Path:
        """Write the run's files and put its folder in place of an earlier one.

        Args:
            prediction: ``Prediction`` for the images in `batch`, or None for a notebook that joins runs.
            batch: dict with key (list of str) and label [N]; None with `prediction` None.
            metrics: name -> value, from ``metrics.evaluate``; what could not be computed is absent.
            detector: the fitted detector; its class and number of weights go into the manifest.
            experiments: anything else the notebook measured that is a function of seed and data.
            timing: name -> number (``ms_per_image``, ``fit_s``, ...); goes into the manifest.
            maps: also write ``maps.npz``: key [N], anomaly_map [N, h, w] (`small_maps`) and, where every anomalous
                image has one, mask bool [N, H, W]. A reconstruction leaves ``reconstruction.parquet``, one row an
                image.
            intervals: metric name -> (low, high); None: bootstrap over images for I-AUROC and I-AP.
            floor: the trivial floor's metrics on the same data, if the notebook computed it.
            claims: findings on published claims, each from ``claims.finding``; written as ``claims.json``.

        Returns:
            The run's folder.

        Raises:
            ValueError: a value is NaN or infinite, or lengths do not match.
        """
        if self._recorded:
            raise ValueError(f"{self.notebook}: record() was already called; a run is recorded once, at its end")
        if prediction is not None:
            scores = score_table(prediction, batch)
            if intervals is None:
                intervals = image_intervals(scores, metrics or {})
            scores.to_parquet(self.path("scores.parquet"), index=False)
            if maps and prediction.anomaly_map is not None:
                arrays = {"key": scores["key"].to_numpy(str), "anomaly_map": small_maps(prediction.anomaly_map)}
                np.savez_compressed(self.path("maps.npz"), **arrays, **usable_masks(batch))
            if getattr(prediction, "reconstruction", None) is not None and "image" in batch:
                from diffad_utils.diagnostics import reconstruction_table

                images = reconstruction_table(prediction.reconstruction, batch).assign(key=scores["key"])
                images.to_parquet(self.path("reconstruction.parquet"), index=False)
        manifest = self._manifest(prediction, batch, detector, timing or {})
        result = {
            "metrics": metrics or {},
            "intervals": intervals or {},
            "floor": floor or {},
            "experiments": experiments or {},
        }
        text = to_json(result, "metrics.json")
        if claims:
            write_atomically(self.path("claims.json"), to_json({"claims": claims}, "claims.json"))
        write_atomically(self.path("manifest.json"), to_json(manifest, "manifest.json"))
        write_atomically(self.path("metrics.json"), text)
        self._publish()
        if self._beside is None:
            checkpoints.close_run()
        return self.folder

    def record_method(self, method: str, prediction, batch: dict, metrics: dict, **more) -> Path:
        """Write the run folder of another method that this notebook measured on the same data (05 has three, say).

        It stands beside this run's folder, under the method's own name, with the same parameters, data and weights, so
        that the comparison finds every method in the same way. Call it before `record`.

        Args:
            method: a name of ``methods.METHODS`` other than this run's.
            prediction, batch, metrics: as for `record`. more: its keyword arguments.

        Raises:
            ValueError: the method is this run's own, or the run is recorded already.
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

    def _manifest(self, prediction, batch, detector, timing: dict) -> dict:
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
            "device_name": _device_name(self.device),
            "platform": platform.system(),
            "cpu_count": os.cpu_count(),
            "started": self._started.isoformat(timespec="seconds"),
            "wall_s": time.perf_counter() - self._clock,
            "peak_memory_bytes": peak_memory(),
            "timing": timing,
        }
        torch = sys.modules.get("torch")
        if torch is not None:
            manifest["torch_threads"] = torch.get_num_threads()
        if prediction is not None:
            manifest |= {"nfe": prediction.nfe, "images": len(batch["key"])}
        if detector is not None:
            manifest["detector"] = {"class": type(detector).__name__, "weights": _count_weights(detector)}
        return manifest

    def _publish(self) -> None:
        """Rename the finished staging folder to the run's name; an earlier run goes only now."""
        old = self._staging.with_name(self._staging.name.replace(".partial-", ".old-"))
        if self.folder.exists():
            os.rename(self.folder, old)
        os.rename(self._staging, self.folder)
        atexit.unregister(self._discard)
        shutil.rmtree(old, ignore_errors=True)
        self._recorded = True


def start(notebook: str, namespace: dict, *, method: str | None = None) -> Run:
    """Check the parameters of the running notebook, seed everything and return its `Run`.

    Args:
        notebook: the notebook's name without ending, such as ``"07_invad"``.
        namespace: the notebook's ``globals()``.
        method: folder name of the method where a notebook has more than one; default by `method_of`.

    Raises:
        ParameterError: see `parameters_of_session`; also a missing common parameter.
    """
    parameters = parameters_of_session(notebook, namespace)
    joins = (method or method_of(notebook)) is None
    needed = ["profile", "seed"] + ([] if joins else ["dataset", "category"])
    missing = [name for name in needed if name not in parameters]
    if missing:
        raise ParameterError(f"{notebook}: the parameters cell lacks {', '.join(missing)}")
    seed_everything(parameters["seed"])
    run = Run(notebook, parameters, method)
    settings = dict(parameters) | {"output_root": "", "data_root": "", "notebook": notebook}
    root = profile_folder(parameters)
    checkpoints.open_run(root / checkpoints.FOLDER / run.folder.relative_to(root), to_json(settings, "parameters"))
    return run


def provenance(parameters: dict, data: list[dict], weights: list[dict]) -> str:
    """``profile smoke · data elpv/mono · weights resnet-mini (shipped mini)``."""
    places = [f"{entry['dataset']}/{'+'.join(entry['categories'])}" for entry in data]
    if not places and "dataset" in parameters:
        places = [f"{parameters['dataset']}/{parameters['category']}"]
    names = [f"{entry['name']} ({'shipped mini' if entry['is_mini'] else entry['source']})" for entry in weights]
    parts = [f"profile {parameters['profile']}"]
    parts += [f"data {', '.join(places)}"] if places else []
    parts += [f"weights {', '.join(names)}" if names else "no pretrained weights"]
    return " · ".join(parts)


def _show(fig, text: str) -> None:
    import matplotlib.pyplot as plt
    from IPython import get_ipython
    from IPython.display import Markdown, display

    if get_ipython() is not None:
        display(fig)
        display(Markdown(text))
    plt.close(fig)  # or the notebook would show it a second time


def _count_weights(detector) -> int:
    import torch

    modules = [detector] if isinstance(detector, torch.nn.Module) else list(vars(detector).values())
    if hasattr(detector, "networks"):
        modules = detector.networks()
    modules = [module for module in modules if isinstance(module, torch.nn.Module)]
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


# --- results ---------------------------------------------------------------------------------------------------------


def defect_of(key: str) -> str:
    """The defect in a sample's key ``dataset/category/split/defect/name``."""
    parts = key.split("/", 4)
    if len(parts) != 5:
        raise ValueError(f"sample key {key!r} is not of the form dataset/category/split/defect/name")
    return parts[3]


def score_table(prediction, batch: dict) -> pd.DataFrame:
    """One row an image: key, label (int), defect, score (float), and one float column for every part.

    Raises:
        ValueError: lengths differ, or a part's name clashes with a column.
    """
    keys = list(batch["key"])
    columns = {"score": prediction.score} | dict(prediction.parts)
    clashes = {"key", "label", "defect"} & columns.keys()
    if clashes or "score" in prediction.parts:
        raise ValueError(f"parts of a score may not be named {', '.join(sorted(clashes)) or 'score'}")
    table = {"key": keys, "label": np.asarray(batch["label"]).astype(int), "defect": [defect_of(key) for key in keys]}
    for name, values in columns.items():
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
        if array.shape != (len(keys),):
            raise ValueError(f"{name} has shape {array.shape}, expected ({len(keys)},): one number an image")
        table[name] = array
    return pd.DataFrame(table)


def image_intervals(scores: pd.DataFrame, metrics: dict) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals over images for those of I-AUROC and I-AP that `metrics` has."""
    from diffad_utils import metrics as measures

    functions = {"I-AUROC": measures.image_auroc, "I-AP": measures.image_ap}
    score, label = scores["score"].to_numpy(), scores["label"].to_numpy()
    return {
        name: measures.bootstrap_interval(function, score, label)
        for name, function in functions.items()
        if name in metrics
    }


def small_maps(maps, limit: int = MAPS_LIMIT_BYTES) -> np.ndarray:
    """Anomaly maps [N, h, w], averaged down by factors of two until they take at most `limit` bytes.

    float16, or float32 where half precision would overflow, or leave fewer than 256 levels between the lowest and the
    highest value. ``ValueError`` for maps that are not finite.
    """
    import torch

    maps = torch.as_tensor(maps).detach().float().cpu()
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("anomaly_map has NaN or infinite values; nothing was written")
    largest, spread = maps.abs().max(), maps.max() - maps.min()
    fits = largest < np.finfo(np.float16).max and (
        spread == 0 or spread >= largest / 8
    )  # 11 bits of which 3 are shared
    kind = np.dtype(np.float16 if fits else np.float32)
    while maps.numel() * kind.itemsize > limit and min(maps.shape[1:]) >= 2:
        maps = torch.nn.functional.avg_pool2d(maps[:, None], 2)[:, 0]
    return maps.numpy().astype(kind)


def usable_masks(batch: dict) -> dict[str, np.ndarray]:
    """``{"mask": bool [N, H, W]}`` if every anomalous image of the batch has a mask, else nothing (see
    `metrics.evaluate`)."""
    if batch.get("mask") is None:
        return {}
    mask, anomalous = np.asarray(batch["mask"], dtype=bool), np.asarray(batch["label"]) == 1
    return {"mask": mask} if anomalous.any() and mask[anomalous].any(axis=(1, 2)).all() else {}


@dataclass(frozen=True)
class RunRecord:
    """A finished run as read from its folder.

    Attributes:
        folder: Path. dataset, category, method: str. seed: int.
        metrics, intervals, floor, experiments: dicts of ``metrics.json``.
        manifest: dict of ``manifest.json``. figures: list of dicts name, caption, provenance.
        claims: list of dicts of ``claims.json`` (see ``claims.finding``); empty where the run judged none.
    """

    folder: Path
    dataset: str
    category: str
    method: str
    seed: int
    metrics: dict
    intervals: dict
    floor: dict
    experiments: dict
    manifest: dict = field(repr=False)
    figures: list = field(repr=False)
    claims: list = field(repr=False, default_factory=list)

    @property
    def ms_per_image(self) -> float | None:
        """Prediction time an image in milliseconds, if it was measured."""
        return self.manifest.get("timing", {}).get("ms_per_image")

    def scores(self) -> pd.DataFrame:
        """One row an image: key, label, defect, score, parts."""
        return pd.read_parquet(self.folder / "scores.parquet")

    def maps(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(keys [N], anomaly maps [N, h, w] as `small_maps` made them), or None if the run kept none."""
        path = self.folder / "maps.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return file["key"], file["anomaly_map"]

    def masks(self) -> np.ndarray | None:
        """Ground truth bool [N, H, W] in the order of `maps`, or None if the run kept none or the data have none."""
        path = self.folder / "maps.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as file:
            return file.get("mask", None)

    def reconstructions(self) -> pd.DataFrame | None:
        """One row an image: key, label, SSIM, PSNR and, with twins, removal and drift; None for methods that do not
        reconstruct."""
        path = self.folder / "reconstruction.parquet"
        return pd.read_parquet(path) if path.is_file() else None


def load_run(folder: str | Path) -> RunRecord:
    """Read one complete run folder.

    Raises:
        FileNotFoundError: the folder has no ``metrics.json``, so the run did not finish.
    """
    folder = Path(folder)
    if not (folder / "metrics.json").is_file():
        raise FileNotFoundError(f"{folder}: no metrics.json, so no finished run; run its notebook first")
    result = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    captions, findings = folder / "figures.json", folder / "claims.json"
    parameters = manifest["parameters"]
    return RunRecord(
        folder=folder,
        dataset=parameters.get("dataset", ""),
        category=parameters.get("category", ""),
        method=manifest["method"] or folder.name,
        seed=parameters["seed"],
        metrics=result["metrics"],
        intervals=result["intervals"],
        floor=result["floor"],
        experiments=result["experiments"],
        manifest=manifest,
        figures=json.loads(captions.read_text(encoding="utf-8"))["figures"] if captions.is_file() else [],
        claims=json.loads(findings.read_text(encoding="utf-8"))["claims"] if findings.is_file() else [],
    )


def unfinished_runs(profile_folder: str | Path) -> list[str]:
    """Run folders without ``metrics.json``, as ``dataset/category/method/seed-<n>``: interrupted, failed, or still
    running.

    What a killed run left behind no longer counts once the run has been finished by another attempt.
    """
    root, names = Path(profile_folder), set()
    partial = re.compile(r"^\.(seed-\d+)\.partial-.*$")
    for folder in root.glob("*/*/*/*seed-*"):
        run = folder.with_name(partial.sub(r"\1", folder.name))
        hidden = any(part.startswith(".") for part in run.relative_to(root).parts[:-1])
        finished = run / "metrics.json"
        superseded = finished.is_file() and (folder == run or folder.stat().st_mtime <= finished.stat().st_mtime)
        if folder.is_dir() and not hidden and not superseded:
            names.add(run.relative_to(root).as_posix())
    return sorted(names)


def load_runs(profile_folder: str | Path) -> list[RunRecord]:
    """Every complete run in ``<profile_folder>/<dataset>/<category>/<method>/seed-<n>/``, sorted by these.

    Unfinished folders are left out. The comparison's own folder is not a run; read it with `load_run`.
    """
    found = Path(profile_folder).glob("*/*/*/seed-*/metrics.json")
    records = [load_run(path.parent) for path in found if not any(part.startswith(".") for part in path.parts[-5:-1])]
    return sorted(records, key=lambda record: (record.dataset, record.category, record.method, record.seed))


def table(records: list[RunRecord]) -> pd.DataFrame:
    """One row a run: dataset, category, method, seed, nfe, ms_per_image, every metric, and for each interval
    the columns ``<metric> low`` and ``<metric> high``. What a run lacks is NaN."""
    rows = []
    for record in records:
        row = {"dataset": record.dataset, "category": record.category, "method": record.method, "seed": record.seed}
        row |= {"nfe": record.manifest.get("nfe"), "ms_per_image": record.ms_per_image} | record.metrics
        for name, (low, high) in record.intervals.items():
            row |= {f"{name} low": low, f"{name} high": high}
        rows.append(row)
    return pd.DataFrame(rows)

"""Image-to-image over a grid of settings: what settings share is computed once, results go to disk as they come.

A sweep is a folder::

    sweep.json                                             what it is of: settings, images, prompts, weights
    strength-0.35_guidance-7.5_steps-30_seed-0.safetensors one file a finished setting: latents and what was measured

A setting's file appears when its last image is done, by a rename, so a sweep that was killed goes on with the settings
that have none. Which rows (an image with a setting) go through the networks together is fixed by ``sweep.json`` and not
by what is left to do, so a resumed sweep computes the very same numbers as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from diffad_utils import metrics, scoring
from diffad_utils.data import resize_mask
from diffad_utils.io import checkpoints, store
from diffad_utils.io.files import write_atomically
from diffad_utils.methods.base import check_images
from diffad_utils.methods.img2img.engine import Img2ImgEngine, Setting, check_prompts
from diffad_utils.methods.kept import key_of
from diffad_utils.models.clip import Clip
from diffad_utils.models.clip_features import clip_features
from diffad_utils.scoring import residual_parts

SWEPT = "swept"

Measure = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""``measure(indices int64 [B], reconstructions float32 [B, 3, H, W]) -> {name: tensor [B, ...]}``, row by row."""


def grid(
    strengths: Sequence[float],
    guidance_scales: Sequence[float],
    num_inference_steps: Sequence[int],
    seeds: Sequence[int] = (0,),
) -> list[Setting]:
    """Every combination; a warning names those that compute the same (`Setting.computation`).

    Raises ``ValueError`` for an empty axis or a value that `Setting` refuses.
    """
    axes = strengths, guidance_scales, num_inference_steps, seeds
    if not all(map(len, axes)):
        raise ValueError(f"the grid is empty: {' x '.join(str(len(axis)) for axis in axes)} settings")
    settings = [Setting(*values) for values in product(*axes)]
    for first, *others in equal_settings(settings):
        if others:
            names = ", ".join(str(settings[number]) for number in others)
            warnings.warn(
                f"{settings[first]} runs the same {settings[first].executed_steps} steps as {names}: computed once",
                stacklevel=2,
            )
    return settings


def equal_settings(settings: Sequence[Setting]) -> list[list[int]]:
    """The settings by number, those of equal `Setting.computation` together, in the order of their first."""
    groups: dict[tuple, list[int]] = {}
    for number, setting in enumerate(settings):
        groups.setdefault(setting.computation, []).append(number)
    return list(groups.values())


def expected_evaluations(settings: Sequence[Setting], num_images: int) -> int:
    """UNet evaluations of a sweep: images x sum over settings of executed steps x (2 with guidance, 1 without).

    Settings that compute the same count once.
    """
    return num_images * sum(settings[first].evaluations for first, *_ in equal_settings(settings))


def row_batches(settings: Sequence[Setting], num_images: int, batch_size: int) -> list[list[tuple[int, int]]]:
    """Batches of rows (setting, image), both by number: at most ``batch_size`` rows of one length each.

    Rows of equal executed steps and equally guided follow one another setting by setting, so that a batch may hold the
    end of one setting and the beginning of the next, and settings are finished one after another. Guided ones come
    first, which need the most memory; then the short ones. Of settings that compute the same only the first is there.
    """
    groups: dict[tuple[bool, int], list[int]] = {}
    for number, *_ in equal_settings(settings):
        setting = settings[number]
        groups.setdefault((setting.guided, setting.executed_steps), []).append(number)
    batches = []
    for _, members in sorted(groups.items(), key=lambda group: (not group[0][0], group[0][1])):
        rows = [(number, image) for number in members for image in range(num_images)]
        batches += [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return batches


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    settings, keys : what was swept. evaluations : UNet evaluations of this call, counted. expected_evaluations : of the
    whole sweep, by the formula; the two agree where nothing was resumed. seconds : wall time of this call by stage
    ("encode", "unet", "decode", "measure").
    """

    folder: Path
    settings: list[Setting]
    keys: list[str]
    evaluations: int
    expected_evaluations: int
    seconds: dict[str, float]

    def load(self, setting: Setting) -> dict[str, Tensor]:
        """What was stored of a setting: "latents" [N, C, h, w] and what was measured [N, ...], in `keys` order."""
        if setting not in self.settings:
            raise ValueError(f"{setting} is not among the {len(self.settings)} settings of this sweep")
        return load_file(_file(self.folder, setting))

    def scores(self) -> pd.DataFrame:
        """One row an image and setting: the setting's four values, key, and each number that was measured."""
        tables = []
        for setting in self.settings:
            numbers = {name: values.numpy() for name, values in self.load(setting).items() if values.ndim == 1}
            tables.append(pd.DataFrame(asdict(setting) | {"key": self.keys} | numbers))
        return pd.concat(tables, ignore_index=True)


def run(
    engine: Img2ImgEngine,
    images: Tensor,
    keys: Sequence[str],
    prompts: Sequence[str],
    settings: Sequence[Setting],
    folder: str | Path,
    *,
    negative_prompt: str = "",
    measure: Measure | None = None,
    record: Mapping[str, Any] | None = None,
) -> Sweep:
    """img2img of every image with every setting; goes on where an earlier call in the same folder stopped.

    Parameters
    ----------
    images : float [N, 3, H, W] in [0, 1], sides as the engine wants them. keys : [N], each once; they seed the noise.
    prompts : [N], one an image.
    measure : called for each batch of reconstructions; what it returns is stored beside the latents.
    record : JSON values that the results depend on besides the arguments (the CLIP weights of ``measure``, say).

    The engine's batch size and workers are taken when a sweep begins, and from ``sweep.json`` when it goes on. Where
    memory runs out the batches are split, and stay split when the sweep goes on; only then may a resumed sweep differ
    in the last bits.

    Raises ``ValueError`` before anything is computed: for an empty prompt with guidance, keys or settings that occur
    twice, lengths or sizes that do not fit, steps that the model does not have, and a folder that holds another sweep.
    """
    keys, prompts, settings, folder = list(keys), list(prompts), list(settings), Path(folder)
    check_sweep(engine, images, keys, prompts, settings)
    texts = [engine.embed(prompt, negative_prompt) for prompt in prompts]
    description = {
        "settings": [asdict(setting) for setting in settings],
        "keys": keys,
        "prompts": prompts,
        "negative_prompt": negative_prompt,
        "images": _checksum(images),
        "weights": _weights(engine),
        "device": engine.device.type,
        "dtype": str(engine.unet.dtype),
        "record": dict(record or {}),
    }
    sizes = _open(folder, description, engine)
    evaluations, seconds = engine.evaluations, dict(engine.seconds)
    equal = {group[0]: [_file(folder, settings[number]) for number in group] for group in equal_settings(settings)}
    for files in equal.values():  # an earlier call may have stopped between files of equal content
        done = next((file for file in files if file.exists()), None)
        for file in files if done else ():
            if not file.exists():
                write_atomically(file, done.read_bytes())
    unfinished = {number for number, files in equal.items() if not files[0].exists()}
    restored = Counter()
    names = {number: store_key(engine, description, sizes, measure, settings[number]) for number in unfinished}
    for number in sorted(unfinished):
        if stages := _taken(names[number], equal[number]):
            unfinished.remove(number)
            restored.update(stages)
    computed = [*unfinished]
    posterior = engine.encode(images) if unfinished else None
    pending: dict[int, dict[int, dict[str, Tensor]]] = {number: {} for number in unfinished}
    batches = row_batches(settings, len(keys), sizes["batch_size"])
    batches = [rows for rows in batches if unfinished & {number for number, _ in rows}]
    for rows in tqdm(batches, desc="img2img sweep", mininterval=5.0, disable=len(batches) < 2):
        chosen, row_settings = [image for _, image in rows], [settings[number] for number, _ in rows]
        latents = engine.denoise(posterior[chosen], [keys[i] for i in chosen], [texts[i] for i in chosen], row_settings)
        outputs = {"latents": latents}
        if measure is not None:
            x_hat = engine.decode(latents)
            with engine.timed("measure"):
                outputs |= measure(torch.tensor(chosen), x_hat)
        for row, (number, image) in enumerate(rows):
            if number in unfinished:
                pending[number][image] = {name: values[row] for name, values in outputs.items()}
        for number in [n for n in dict.fromkeys(n for n, _ in rows) if len(pending.get(n, ())) == len(keys)]:
            rows_of_setting = pending.pop(number)
            for file in equal[number]:
                _write(file, rows_of_setting)
        if rows is not batches[-1] and checkpoints.time_is_up():
            checkpoints.pause(
                f"img2img sweep: {len(equal) - len(pending)} of {len(equal)} settings done, the session's time is up"
            )
        _note_sizes(folder, sizes, engine)
    spent = {stage: engine.seconds[stage] - seconds.get(stage, 0.0) for stage in engine.seconds}
    for number in computed:
        _keep(names[number], equal[number][0], {stage: s / len(computed) for stage, s in spent.items()})
    spent = dict(restored + Counter(spent))
    expected = expected_evaluations(settings, len(keys))
    return Sweep(folder, settings, keys, engine.evaluations - evaluations, expected, spent)


def store_key(
    engine: Img2ImgEngine, description: Mapping, sizes: Mapping, measure: Measure | None, setting: Setting
) -> str | None:
    """The name in the run's store of a setting's file, which may depend, in its last bits, on the whole sweep: what
    goes through the networks together is the sweep's. None for a ``measure`` that does not say what it depends on."""
    given = {"engine": engine, "sweep": description, "sizes": sizes, "measure": measure, "setting": setting}
    return None if store.active() is None else key_of(run, given, None)


def _taken(key: str | None, files: Sequence[Path]) -> dict[str, float] | None:
    """Put a setting's files where the store has them: the seconds by stage that they took, or None."""
    kept, start = store.active(), store.clock()
    entry = None if kept is None or key is None else kept.take(SWEPT, key)
    if entry is None:
        return None
    content = (entry.folder / "setting.safetensors").read_bytes()
    for file in files:
        write_atomically(file, content)
    store.note_taken(entry)
    store.set_clock(start + entry.note["seconds"])
    return entry.note["stages"]


def _keep(key: str | None, file: Path, stages: Mapping[str, float]) -> None:
    kept, start = store.active(), store.clock()
    if kept is not None and key is not None:
        note = {"what": f"sweep, {file.stem}", "seconds": sum(stages.values()), "stages": dict(stages)}
        kept.put(SWEPT, key, lambda folder: shutil.copyfile(file, folder / "setting.safetensors"), **note)
        store.set_clock(start)


class ResidualMeasure:
    """`Measure` of the hybrid score's parts, with what belongs to the originals computed once.

    Returns numbers [B]: ``mse``, ``clip`` (1 - cosine of CLIP's image features; not without ``clip``), ``ssim``; and
    maps: ``mse_map`` float32 [B, m, m], the squared error averaged down to at most ``map_size`` pixels a side, and
    ``clip_map`` [B, h, w], 1 - cosine of CLIP's patch tokens.

    Parameters
    ----------
    images : the originals, float [N, 3, H, W] in [0, 1]. clip : or None for the squared error alone.
    """

    def __init__(self, images: Tensor, clip: Clip | None = None, map_size: int = 128, batch_size: int = 32):
        self.images, self.clip, self.map_size = images, clip, map_size
        if clip is not None:
            parts = [clip_features(clip, part) for part in images.split(batch_size)]
            self.features = type(parts[0])(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def depends_on(self) -> Any:
        """What its results depend on besides arguments, for the store."""
        return [self.images, self.clip and self.clip.model, self.map_size]

    def __call__(self, indices: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
        x, features = self.images[indices], None
        if self.clip is not None:
            features = type(self.features)(*(f[indices] for f in self.features)), clip_features(self.clip, x_hat)
        parts, maps = residual_parts(x, x_hat, features)
        parts["ssim"] = torch.from_numpy(metrics.reconstruction(x, x_hat)["ssim"]).float()
        side = [min(self.map_size, length) for length in x.shape[-2:]]
        maps["mse"] = F.adaptive_avg_pool2d(maps["mse"], side)
        return parts | {f"{name}_map": values for name, values in maps.items()}


def evaluate(
    sweep: Sweep, labels: Sequence[int], masks: Tensor | None, held_out: Sequence[bool], alpha: float = 0.5
) -> pd.DataFrame:
    """One row a setting: how well it detects and localises, and how far its reconstructions are from normal images.

    Parameters
    ----------
    sweep : with the outputs of a `ResidualMeasure` that had CLIP.
    labels : [N] in the order of ``sweep.keys``; masks : bool [N, H, W], or None where the data set has none.
    held_out : [N], the normal training images that the parts are calibrated on, setting by setting; the metrics are of
        the others.

    Columns: the setting, executed_steps, evaluations; I-AUROC of the calibrated hybrid score, and ``I-AUROC raw`` of
    the slides' sum; ``I-AUROC mse``, ``I-AUROC clip``; AUPRO and P-AUROC of the calibrated map with ``masks``; and over
    normal test images the means ``ssim``, ``clip similarity`` and ``mse``.
    """
    labels, held_out = np.asarray(labels), np.asarray(held_out, dtype=bool)
    if not len(labels) == len(held_out) == len(sweep.keys):
        raise ValueError(f"expected {len(sweep.keys)} labels and held_out, got {len(labels)} and {len(held_out)}")
    if labels[held_out].any():
        raise ValueError("calibration images must be normal; some that are held out are labelled anomalous")
    test, rows, small = ~held_out, [], None
    normal = test & (labels == 0)
    for setting in sweep.settings:
        stored = sweep.load(setting)
        parts = {name: stored[name] for name in ("mse", "clip")}
        maps = {name: scoring.upsample_map(stored[f"{name}_map"], stored["mse_map"].shape[-2:]) for name in parts}
        calibration = scoring.Calibration.fit({name: values[held_out] for name, values in parts.items()})
        scores = {
            "I-AUROC": scoring.hybrid_score(parts, alpha, calibration),
            "I-AUROC raw": scoring.hybrid_score(parts, alpha),
            "I-AUROC mse": parts["mse"],
            "I-AUROC clip": parts["clip"],
        }
        row = asdict(setting) | {"executed_steps": setting.executed_steps, "evaluations": setting.evaluations}
        row |= {name: metrics.image_auroc(values[test], labels[test]) for name, values in scores.items()}
        if masks is not None:
            pixels = scoring.Calibration.fit({name: values[held_out].flatten() for name, values in maps.items()})
            hybrid = scoring.hybrid_score(maps, alpha, pixels)[test]
            if small is None:
                small = torch.stack([resize_mask(mask, tuple(hybrid.shape[-2:])) for mask in masks[test]])
                marked = metrics.with_masks(labels[test], small)
            if marked.any():
                maps_and_masks = hybrid[marked], small[marked]
                row |= {"AUPRO": metrics.aupro(*maps_and_masks), "P-AUROC": metrics.pixel_auroc(*maps_and_masks)}
        row |= {"ssim": stored["ssim"][normal].mean().item(), "mse": parts["mse"][normal].mean().item()}
        rows.append(row | {"clip similarity": 1 - parts["clip"][normal].mean().item()})
    return pd.DataFrame(rows)


def check_sweep(
    engine: Img2ImgEngine, images: Tensor, keys: list[str], prompts: list[str], settings: list[Setting]
) -> None:
    check_images(images)
    if not len(images) == len(keys) == len(prompts):
        raise ValueError(f"{len(images)} images, {len(keys)} keys and {len(prompts)} prompts: expected equal numbers")
    if not keys or not settings:
        raise ValueError(f"nothing to do: {len(keys)} images and {len(settings)} settings")
    for name, values in (("keys", keys), ("settings", [str(setting) for setting in settings])):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"{name} must be different from one another, got {twice} more than once")
    check_prompts(prompts, settings)
    engine.check_size(*images.shape[-2:])
    for setting in settings:
        engine.schedule(setting)


def _file(folder: Path, setting: Setting) -> Path:
    return folder / f"{setting}.safetensors"


def _checksum(images: Tensor) -> str:
    return hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest()


def _weights(engine: Img2ImgEngine) -> str:
    """Checksum of the networks' weights; that of the files they came from would not show an adapter."""
    total = hashlib.sha256()
    for network in (engine.unet, engine.vae, engine.pipeline.text_encoder):
        for name, tensor in sorted(network.state_dict().items()):
            total.update(name.encode() + b"\0")
            total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _open(folder: Path, description: dict, engine: Img2ImgEngine) -> dict[str, int]:
    """The batch sizes of the sweep in ``folder``, which begins here or goes on; sets the engine's."""
    path = folder / "sweep.json"
    sizes = {"batch_size": engine.batch_size, "rows_at_once": engine.batch_size, "decode_size": engine.decode_size}
    sizes["workers"] = engine.workers
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        sizes = found.pop("sizes")
        differing = [name for name in description if found.get(name) != json.loads(json.dumps(description[name]))]
        if differing:
            names = ", ".join(differing)
            raise ValueError(f"{folder} holds another sweep ({names} differ): remove it, or use another folder")
    else:
        write_atomically(path, json.dumps(description | {"sizes": sizes}, indent=1, sort_keys=True))
    engine.batch_size, engine.decode_size = sizes["rows_at_once"], sizes["decode_size"]
    engine.workers = sizes["workers"]
    return sizes


def _note_sizes(folder: Path, sizes: dict[str, int], engine: Img2ImgEngine) -> None:
    """Put what the engine has come down to, for want of memory, into ``sweep.json``."""
    now = {"rows_at_once": engine.batch_size, "decode_size": engine.decode_size}
    if any(sizes[name] != size for name, size in now.items()):
        sizes |= now
        content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        write_atomically(folder / "sweep.json", json.dumps(content | {"sizes": sizes}, indent=1, sort_keys=True))


def _write(path: Path, rows: dict[int, dict[str, Tensor]]) -> None:
    ordered = [rows[image] for image in sorted(rows)]
    tensors = {name: torch.stack([row[name] for row in ordered]).contiguous() for name in ordered[0]}
    write_atomically(path, save(tensors))

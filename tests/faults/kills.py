"""kill -9 at random moments: of a training, of an img2img sweep, of a whole study. Twenty kills and more; minutes.

    python tests/faults/kills.py [training] [sweep] [study] [--kills 8] [--seed 0] [--profile kills]
    # all notebooks with the smoke profile's parameters: hours
    python tests/faults/kills.py study --profile tests/faults/every_notebook.yaml --kills 20 --bursts
    # against a study that has finished here, undisturbed and with this code
    python tests/faults/kills.py study --profile smoke --kills 20 --bursts --expected reports/reference/smoke

Each part runs once undisturbed, then again in another folder with its process group killed at random moments until it
gets through. It passes if what was finished is never computed again, nothing half-written is taken for finished, and
the results are the undisturbed ones: weights and sweep files byte by byte, every ``metrics.json`` of the study too.
Exit code 0 if all parts pass. ``make test-faults`` runs it; the test suite has a short version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

TRAINING = """
import sys, time, torch
from pathlib import Path
from safetensors.torch import save_file
from diffad_utils import training

torch.set_num_threads(1)
folder = Path(sys.argv[1])
if (folder / "result.safetensors").exists():
    sys.exit()
(folder / "ready").touch()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.SiLU(), torch.nn.Linear(64, 64))

def loss(net, generator):
    time.sleep(0.002)  # a step that takes a while
    x = torch.randn(32, 64, generator=generator)
    return (net(x) - x.flip(1)).square().mean()

log = training.train(model, loss, num_steps=1200, lr=1e-3, seed=3, ema_decay=0.99, warmup_steps=20,
                     checkpoint_folder=folder / "checkpoint", checkpoint_every=25)
save_file(model.state_dict(), folder / "result.safetensors")
print("resumed from", log.resumed_from)
"""

SWEEP = """
import sys, torch
from pathlib import Path
from diffad_utils import data
from diffad_utils.methods.img2img import sweep
from diffad_utils.methods.img2img import Img2ImgEngine
from diffad_utils.models.stable_diffusion import load_pipeline

torch.set_num_threads(1)
index = data.load_index("textures", category="leather")
batch = data.load_batch(data.ImageDataset(index[index["split"] == "test"].head(6), size=128))
engine = Img2ImgEngine(load_pipeline("sd-mini", device="cpu", allow_mini=True), batch_size=6)
engine.workers = 1
settings = sweep.grid([0.3, 0.5, 0.7], [1.0, 5.0], [10, 20], [0, 1])
(Path(sys.argv[1]) / "ready").touch()
done = sweep.run(engine, batch["image"], batch["key"], ["a flawless leather"] * 6, settings, Path(sys.argv[1]) / "sweep",
                 measure=sweep.ResidualMeasure(batch["image"], None))
print("evaluations", done.evaluations, "of", done.expected_evaluations)
"""  # noqa: E501


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def command_of(part: str, folder: Path, profile: str) -> list[str]:
    if part == "study":
        return [
            sys.executable,
            "-m",
            "diffad_utils.cli",
            "study",
            profile,
            "-j",
            "2",
            "--output",
            str(folder / "out"),
            "--state",
            str(folder),
            *(["--profiles", str(REPOSITORY / "tests" / "faults")] if profile == "kills" else []),
        ]
    return [sys.executable, "-c", {"training": TRAINING, "sweep": SWEEP}[part], str(folder)]


def finished(part: str, folder: Path) -> dict[str, tuple[int, str]]:
    """Finished pieces of work: name -> (time of writing, SHA-256)."""
    patterns = {
        "training": ["result.safetensors"],
        "sweep": ["sweep/*.safetensors"],
        "study": ["out/*/*/*/*/seed-*/metrics.json", "out/*/comparison/metrics.json"],
    }
    files = sorted(file for pattern in patterns[part] for file in folder.glob(pattern))
    return {
        str(f.relative_to(folder)): (f.stat().st_mtime_ns, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files
    }


def run(part: str, folder: Path, profile: str, kill_after: float | None) -> tuple[int | None, float]:
    """(exit code, or None if the process group was killed; seconds of work). The work begins when imports are done."""
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    with open(folder / "log.txt", "a") as log:
        process = subprocess.Popen(
            command_of(part, folder, profile), stdout=log, stderr=log, env=_environment(), start_new_session=True
        )
        while part != "study" and not ready.exists() and process.poll() is None:
            time.sleep(0.05)
        start = time.monotonic()
        try:
            return process.wait(timeout=kill_after), time.monotonic() - start
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, time.monotonic() - start


def expected_of(report: Path) -> tuple[dict[str, str], float]:
    """What an undisturbed study left in ``reports/<profile>``: content of the results, and about how long it took."""
    files = sorted([*report.glob("*/*/*/seed-*/metrics.json"), *report.glob("comparison/metrics.json")])
    results = {f"out/{report.name}/{f.relative_to(report)}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    manifests = [json.loads(f.with_name("manifest.json").read_text()) for f in files]
    longest = {}  # a notebook may leave several methods
    for m in manifests:
        key = m["notebook"], m["started"]
        longest[key] = max(longest.get(key, 0), m["wall_s"])
    return results, sum(longest.values()) / 2


def intervals(seconds: float, kills: int, bursts: bool, rng: random.Random) -> list[float | None]:
    """Seconds that each attempt is given; the last is left alone. ``bursts``: five short ones and a long one in turn,
    so that notebooks which take longer than the mean get through now and then."""
    shares = (
        [(5, 6) if attempt % 6 == 5 else (0.1, 0.5) for attempt in range(kills)] if bursts else [(0.4, 2.4)] * kills
    )
    return [rng.uniform(*share) * seconds / kills for share in shares] + [None]


def check(
    part: str,
    folder: Path,
    kills: int,
    rng: random.Random,
    profile: str = "kills",
    report: Path | None = None,
    bursts: bool = False,
) -> list[str]:
    """Problems found; empty is good. ``report``: a finished study to compare with, instead of running one
    undisturbed."""
    if report is not None and part == "study":
        expected, seconds = expected_of(report)
    else:
        code, seconds = run(part, folder / "undisturbed", profile, None)
        if code != 0:
            return [f"{part}: the undisturbed run failed, see {folder / 'undisturbed' / 'log.txt'}"]
        expected = {name: content for name, (_, content) in finished(part, folder / "undisturbed").items()}
    problems, place, done, before = [], folder / "disturbed", 0, {}
    for attempt, limit in enumerate(intervals(seconds, kills, bursts, rng)):
        code, _ = run(part, place, profile, limit)
        after = finished(part, place)
        done += code is None
        problems += [
            f"{part}: {name} was computed again after kill {attempt}"
            for name in before
            if after.get(name) != before[name]
        ]
        problems += [
            f"{part}: {name} differs from the undisturbed run"
            for name, (_, c) in after.items()
            if expected.get(name) != c
        ]
        before = after
        print(
            f"{part}: attempt {attempt}, {len(after)} of {len(expected)} pieces finished", file=sys.stderr, flush=True
        )
        if code is not None:
            if code != 0:
                problems.append(f"{part}: attempt {attempt} failed with exit code {code}, see {place / 'log.txt'}")
            break
    if set(before) != set(expected):
        problems.append(f"{part}: {len(before)} of {len(expected)} pieces were finished")
    print(
        f"{part}: undisturbed {seconds:.0f} s, {len(expected)} piece(s); {done} kill(s); {len(problems)} problem(s)",
        flush=True,
    )
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=["training", "sweep", "study"])
    parser.add_argument("--kills", type=int, default=8, help="kills of each part, at most (default 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--profile", default="kills", help="profile of the study: kills (beside this file), smoke, ..., or a YAML file"
    )
    parser.add_argument(
        "--bursts", action="store_true", help="short and long times between kills, for notebooks that take minutes"
    )
    parser.add_argument(
        "--expected",
        type=Path,
        help="report folder of that profile, finished undisturbed with this code on this machine",
    )
    options = parser.parse_args()
    rng, problems = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            problems += check(
                part, Path(folder) / part, options.kills, rng, options.profile, options.expected, options.bursts
            )
        for problem in problems:
            print(problem)
        if problems:
            for log in sorted(Path(folder).rglob("log.txt")):
                print(f"--- {log}\n{log.read_text()[-2000:]}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

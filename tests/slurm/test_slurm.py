"""A grid through Snakemake's SLURM executor on a real cluster of one machine. Only with DIFFAD_SLURM=1 (make
test-slurm)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from small_notebooks import JOIN, PARAMETERS, RECORD, REPOSITORY, START, WORK, write_notebook

from diffad_utils import execution, study
from diffad_utils.execution import profiles

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("DIFFAD_SLURM") != "1",
        reason="DIFFAD_SLURM=1 is not set: changes the machine (see make test-slurm)",
    ),
]

WAIT = """import os, time
from pathlib import Path
open(Path(p.output_root) / "executions", "a").write(p.category + "\\n")
if p.category == "grid" and not (Path(p.output_root) / "go").exists():
    time.sleep(600)  # until it is killed"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def place(tmp_path):
    """Tiny notebooks, a profile of four runs and the comparison, and the repository's SLURM profile made quick."""
    for name in ("notebooks", "profiles", "slurm", "out"):
        (tmp_path / name).mkdir()
    for name in ("01_data", "07_invad"):
        write_notebook(tmp_path / f"notebooks/{name}.ipynb", [PARAMETERS, START.format(name=name), WAIT, WORK, RECORD])
    write_notebook(tmp_path / "notebooks/08_comparison.ipynb", [PARAMETERS, START.format(name="08_comparison"), JOIN])
    grid = [{"dataset": "textures", "category": ["carpet", "grid", "leather"]}]
    content = {
        "defaults": {"minutes": 5, "memory_mb": 600},
        "07_invad": {"grid": grid},
        "01_data": {"grid": [grid[0] | {"category": "carpet"}]},
    }
    (tmp_path / "profiles/smoke.yaml").write_text(yaml.safe_dump(content | {"08_comparison": None}))
    settings = yaml.safe_load((REPOSITORY / "workflow/cluster/slurm/config.yaml").read_text())
    settings |= {
        "slurm-init-seconds-before-status-checks": 2,
        "slurm-logdir": str(tmp_path / "logs"),
        "latency-wait": 15,
        "jobs": 4,
    }
    settings["default-resources"] |= {"slurm_partition": "test", "runtime": 5, "mem_mb": 500}
    (tmp_path / "slurm/config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def start(place: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "diffad_utils.cli", "study", "smoke", "--cluster", str(place / "slurm")]
    for option, folder in {"notebooks": "notebooks", "profiles": "profiles", "output": "out", "state": "."}.items():
        command += [f"--{option}", str(place / folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    log = open(place / "study.log", "a")
    return subprocess.Popen(
        command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def states(place: Path) -> dict[str, str]:
    plan = profiles.load_plan(
        "smoke", notebooks=place / "notebooks", profiles=place / "profiles", output_root=place / "out"
    )
    return {row["run"]: row["state"] for row in execution.status(plan)}


def wait_until(condition, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(1.0)


SLOW = "07_invad/textures/grid/seed-0"


def executions(place: Path) -> list[str]:
    return sorted((place / "out/executions").read_text().split())


def test_a_grid_with_one_job_killed_and_the_workflow_killed(cluster, place):
    study_process = start(place)
    wait_until(lambda: list(states(place).values()).count("done") == 3 and states(place)[SLOW] == "running")
    # one job is killed: it counts as failed, is tried once more, and the others are not touched
    running = lambda: [name for name, state in cluster.jobs() if state == "RUNNING"]  # noqa: E731
    wait_until(lambda: len(running()) == 1)  # a job ends a moment after its run is recorded
    (job,) = running()
    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    wait_until(lambda: executions(place).count("grid") == 2)
    assert states(place)[SLOW] == "running"
    # the workflow itself is killed with -9: its job goes on on the cluster, and a new start does not submit it again
    os.killpg(study_process.pid, signal.SIGKILL)
    study_process.wait()
    again = start(place)
    assert again.wait(120) == 2
    assert "an earlier start is still at 07_invad/textures/grid/seed-0" in (place / "study.log").read_text()
    for job, _ in cluster.jobs():
        subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    wait_until(lambda: not cluster.jobs())
    # with that out of the way the same command finishes, and only what was missing runs
    (place / "out/go").touch()
    assert start(place).wait(400) == 0, (place / "study.log").read_text()[-3000:]
    assert set(states(place).values()) == {"done"}
    assert executions(place) == ["carpet", "carpet", "grid", "grid", "grid", "leather"]
    assert study.load_run(place / "out/smoke/comparison").experiments["count"] == 4
    assert (place / "out/smoke/index.html").is_file()

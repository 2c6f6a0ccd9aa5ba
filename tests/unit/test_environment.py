"""One set of versions, however it is installed."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, Version]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK, flags=re.MULTILINE)
    return {normal(name): Version(version) for name, version in found}


def test_every_line_of_the_lock_is_a_pin_with_hashes_and_no_address():
    for line in LOCK.splitlines():
        assert re.match(r"(#|    --hash=sha256:[0-9a-f]{64}( \\)?$|[A-Za-z0-9._-]+==[^ ]+ .*\\$)", line), line
    assert "://" not in LOCK and "--index" not in LOCK and "--find-links" not in LOCK
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_lock_holds_every_dependency_within_its_range():
    locked = pins()
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    for text in PROJECT["dependencies"] + extras:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[normal(requirement.name)], prereleases=True), text


def test_the_lock_can_build_the_package_itself():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for text in build:  # installed without build isolation
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins()[normal(requirement.name)])


def test_conda_installs_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.lock"]}  # the lock itself, so no second list can differ
    assert [name.split("=")[0] for name in conda] == ["python", "pip"]
    version = conda[0].split("=")[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{version}.0")


def test_the_small_cpu_build_leaves_out_cuda_and_nothing_else():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    program = re.search(r"awk '(/\^\[a-z\]/.*?)' requirements\.lock", makefile).group(1).replace("$$", "$")
    kept = subprocess.run(
        ["awk", program, "requirements.lock"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = {normal(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", kept, flags=re.MULTILINE)}
    left_out = set(pins()) - names
    assert {"torch", "torchvision", "triton"} <= left_out
    assert all(re.match(r"(torch|torchvision|triton|nvidia-|cuda-)", name) for name in left_out)
    assert "torchmetrics" in names and "pytorch-lightning" not in left_out
    assert kept.count("--hash") < LOCK.count("--hash")
    assert not re.search(r"^    --hash", kept.split("\n", 3)[2])  # no hash without its package


@pytest.mark.parametrize("name", ["Makefile", "environment.yml", "pyproject.toml", ".ci/run"])
def test_no_file_names_a_package_index(name):
    assert "://" not in (ROOT / name).read_text(encoding="utf-8")


def test_ci_runs_make_test_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[-1] == "exec make test"
    assert all(line.startswith(("#!", "set ", "cd ")) for line in lines[:-1])


def test_make_help_lists_every_target():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("report", "test", "lab", "notebooks", "clean", "lock", "setup"):
        assert f"make {target} " in done.stdout

"""What the README shows works as it stands: its example of a method keeps the contract, its links and commands
exist."""

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from diffad_utils.methods import Detector

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code(section: str) -> list[str]:
    """Python blocks of the section with this heading."""
    text = README.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


METHOD, TEST = code("Add a method")
_names: dict = {"__name__": "readme_example"}
sys.modules["readme_example"] = type(sys)("readme_example")  # dataclasses look their module up
exec(METHOD, _names)
exec(TEST, _names)

TestEigenImages = _names["TestEigenImages"]


def test_the_example_is_a_detector_of_about_forty_lines():
    assert issubclass(_names["EigenImages"], Detector)
    assert len([line for line in METHOD.splitlines() if line.strip()]) <= 45


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\bmake ([a-z][a-z-]*)\b", README)) - {"it", "sure", "removal"})
)
def test_make_targets_exist(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"(?:bin/)?diffad ((?:data |weights |kaggle )?[a-z]+)", README)))
)
def test_commands_exist(command):
    from diffad_utils import cli

    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0, command


def test_the_costs_are_those_that_the_script_computes_from_the_shipped_report():
    command = [sys.executable, ROOT / "workflow" / "cost.py", ROOT / "reports" / "smoke"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (?:workers|1|8|32) \|.*$", found, flags=re.M)
    assert len(rows) == 4 and all(row in README for row in rows), found


def test_the_time_of_the_whole_study_is_that_of_the_shipped_report():
    manifests = [json.loads(path.read_text()) for path in (ROOT / "reports" / "smoke").rglob("manifest.json")]
    last = json.loads((ROOT / "reports" / "smoke" / "comparison" / "manifest.json").read_text())
    first = min(datetime.fromisoformat(manifest["started"]).timestamp() for manifest in manifests)
    minutes = (datetime.fromisoformat(last["started"]).timestamp() + last["wall_s"] - first) / 60
    (said,) = re.findall(r"\((\d+) minutes on the two cores", README)
    assert abs(int(said) - minutes) < 1.5  # setting up and writing the report come to it

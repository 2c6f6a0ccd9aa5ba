"""What the README shows works as it stands: its example of a method keeps the contract, its links and commands
exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cost
import pandas as pd
import pytest

from diffad_utils import execution, study
from diffad_utils.methods import Detector

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / name / "README.md").read_text(encoding="utf-8")
    for name in ("notebooks", "data", "workflow", "diffad_utils", "reports")
}
"""The pages beside it, by folder."""

TEXT = "\n".join([README, *PAGES.values()])
LINKS = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def code(section: str) -> list[str]:
    """Python blocks of the package's section with this heading."""
    text = PAGES["diffad_utils"].split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


METHOD, ENTRY, TEST = code("Add a method")
_names: dict = {"__name__": "readme_example"}
sys.modules["readme_example"] = type(sys)("readme_example")  # dataclasses look their module up
exec(METHOD, _names)
exec(TEST, _names)

TestEigenImages = _names["TestEigenImages"]  # the last step: a method in a package of one's own


def test_the_example_is_a_detector_of_about_forty_lines():
    assert issubclass(_names["EigenImages"], Detector)
    assert len([line for line in METHOD.splitlines() if line.strip()]) <= 45


def newcomer(root: Path, method: str) -> dict[str, str]:
    """A copy of what a method needs, with the README's recipe followed to the letter; the environment to use it in."""
    for name in ("diffad_utils", "tests/unit", "tests/helpers"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "data").symlink_to(ROOT / "data")
    (root / "diffad_utils/methods/eigen_images.py").write_text(method, encoding="utf-8")
    registry = root / "diffad_utils/methods/__init__.py"
    head, brace, tail = registry.read_text(encoding="utf-8").partition("METHODS = Registry(\n    {\n")
    registry.write_text(f"{head}{brace}{ENTRY}{tail}", encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_recipe_followed_to_the_letter_passes_every_test(tmp_path):
    environment = newcomer(tmp_path, METHOD)
    pattern = r"`\.venv/bin/python (-m pytest tests/unit/methods/test_contract\.py) -k eigen_images`"
    (command,) = re.findall(pattern, PAGES["diffad_utils"])
    tests = [sys.executable, *command.split(), "-k", "eigen_images or registry or families", "-p", "no:cacheprovider"]
    found = subprocess.run(tests, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0 and re.search(r"\b(1[89]|2\d) passed", found.stdout), found.stdout[-3000:]


@pytest.mark.slow
def test_the_front_page_counts_a_new_diffusion_method_without_another_edit(tmp_path):
    """The recipe with another family, a run of it on record, and the report's first sentence."""
    method = METHOD.replace('family: ClassVar[str] = "classical"', 'family: ClassVar[str] = "diffusion"')
    environment = newcomer(tmp_path, method)
    answer = [sys.executable, "-c", ANSWER, str(tmp_path)]
    found = subprocess.run(answer, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "1 of 1 diffusion methods are above the trivial baseline" in found.stdout, found.stderr[-3000:]


ANSWER = """
import sys
import numpy as np, torch
from diffad_utils import metrics, study
from diffad_utils.analyses import conclusion, diffusion_controls, ledger, method_results
from diffad_utils.methods import METHODS, Prediction
from diffad_utils.methods.trivial import PARTS

root, n = sys.argv[1], 40
label = np.arange(n) % 2
keys = [f"textures/carpet/test/{'hole' if label[i] else 'good'}/{i:03d}" for i in range(n)]
batch = {"key": keys, "label": torch.from_numpy(label)}
for method, strength in (("trivial", 0.1), ("eigen_images", 3.0)):
    parameters = study.Parameters(
        profile="smoke", dataset="textures", category="carpet", seed=0, device="cpu", output_root=root
    )
    run = study.Run("01_data" if method == "trivial" else "07_invad", parameters, method)
    generator = np.random.default_rng(len(method))
    parts = {name: torch.from_numpy(generator.normal(size=n)) for name in PARTS} if method == "trivial" else {}
    prediction = Prediction(torch.from_numpy(strength * label + generator.normal(size=n)), parts=parts)
    run.record(prediction, batch, metrics.evaluate(prediction, batch), detector=METHODS[method]())
measured = method_results.measure(study.load_runs(f"{root}/smoke"), 100)
print(conclusion.answer(ledger.ledger([]), measured, diffusion_controls.controls([]))[0])
"""


@pytest.mark.parametrize(
    ("folder", "target"),
    sorted(
        {(".", target) for target in LINKS.findall(README)}
        | {(folder, target) for folder, text in PAGES.items() for target in LINKS.findall(text)}
    ),
)
def test_links_lead_somewhere(folder, target):
    assert (ROOT / folder / target).exists(), target


def test_anchors_are_headings():
    for page, anchor in re.findall(r"\]\(([a-z_]+)/README\.md#([^)]+)\)", README):
        headings = re.findall(r"^#+ (.+)$", PAGES[page], flags=re.M)
        assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in headings}, anchor


def test_the_readme_is_for_two_minutes():
    assert len(re.sub(r"\(\S+\)", "", README).split()) < 600


@pytest.mark.parametrize(
    "target", sorted(set(re.findall(r"\bmake ([a-z][a-z-]*)\b", TEXT)) - {"it", "sure", "removal"})
)
def test_make_targets_exist(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.M), target


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"(?:bin/)?diffad ((?:data |weights |kaggle )?[a-z]+)", TEXT)))
)
def test_commands_exist(command):
    from diffad_utils import cli

    with pytest.raises(SystemExit) as stop:
        cli.main([*command.split(), "--help"])
    assert stop.value.code == 0, command


@pytest.mark.slow
def test_the_costs_are_those_that_the_script_computes_from_the_shipped_report():
    command = [sys.executable, ROOT / "workflow" / "cost.py", ROOT / "reports" / "reference" / "smoke"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (?:workers|1|8|32) \|.*$", found, flags=re.M)
    assert len(rows) == 4 and all(row in PAGES["workflow"] for row in rows), found


def test_the_time_of_the_whole_study_is_that_of_the_shipped_report():
    runs = cost.measured(ROOT / "reports" / "reference" / "smoke")
    minutes = sum(sum(entry["seconds"]) for entry in runs.values()) / 2 / 60  # two runs at a time
    (said,) = re.findall(r"\(about (\d+) minutes on the two cores", README)
    assert abs(int(said) - minutes) < 1.5


def test_parameters_of_shown_runs_exist():
    """`diffad run 06 -p eta=7` once stood here, and 06 has no eta."""
    shown = re.findall(r"diffad run (\d\d)((?: +-p +\"?\w+=[^ \n#]*)+)", TEXT)
    assert len(shown) > 3
    for number, given in shown:
        (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
        names = re.findall(r"-p +\"?(\w+)=", given)
        assert set(names) <= study.notebook_parameters(path).keys(), (number, names)


def test_the_answer_is_that_of_the_committed_study_and_of_08():
    folder = ROOT / "reports" / "reference" / "standard"
    recorded = json.loads((folder / "comparison" / "metrics.json").read_text())["experiments"]
    answer = recorded["short_answer"]
    tasks = {(run.dataset, run.category) for run in study.load_runs(folder)}
    planned = {
        (run.parameters["dataset"], run.parameters["category"])
        for run in execution.load_plan("standard").runs
        if run.notebook.stem != "08_comparison"
    }
    so_far = f"{len(tasks)} of its {len(planned)} tasks so far" if tasks < planned else f"{len(planned)} tasks"
    assert f"**In short** (standard study, {so_far}, small models): {answer}\n" in README
    notebook = json.loads((ROOT / "notebooks" / "08_comparison.ipynb").read_text(encoding="utf-8"))
    outputs = [
        "".join(text) for cell in notebook["cells"] for output in cell.get("outputs", []) for text in _texts(output)
    ]
    assert any(f"**{answer}**" in text and all(part in text for part in recorded["answer"]) for text in outputs), (
        "the times in them show whether both are of the same runs"
    )
    summary = pd.read_csv(folder / "comparison" / "summary.csv")
    shown = next(text for text in outputs if "class='summary" in text)
    assert all(f"{value:.3g}</td>" in shown for value in summary["ms an image"].dropna())


def _texts(output: dict) -> list:
    return [text for kind, text in output.get("data", {}).items() if kind in ("text/markdown", "text/html")]

"""What marks a run as out of date: the code of its own method, and not that of others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diffad_utils import execution

ROOT = Path(__file__).parents[3]
INVAD = ROOT / "notebooks" / "07_invad.ipynb"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package that may be edited."""
    ignored, copy = shutil.ignore_patterns("__pycache__"), tmp_path_factory.mktemp("copy") / "diffad_utils"
    return Path(shutil.copytree(ROOT / "diffad_utils", copy, ignore=ignored))


@pytest.fixture(scope="module")
def unedited(package):
    return execution.code_digest(INVAD, package)


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        ("methods/img2img/lora.py", False),
        ("methods/anomalib_models/padim.py", False),
        ("methods/d3ad/maps.py", False),
        ("methods/invad/score.py", True),
        ("methods/invad/feature_dit.py", True),  # imported inside a function
        ("methods/base.py", True),
        ("training/loop.py", True),
        ("scoring.py", True),
    ],
)
def test_an_edit_marks_the_runs_that_use_it(package, unedited, module, changed):
    text = (package / module).read_text(encoding="utf-8")
    (package / module).write_text(text + "\nEDITED = True\n", encoding="utf-8")
    edited = execution.code_digest(INVAD, package)
    (package / module).write_text(text, encoding="utf-8")
    assert (edited != unedited) == changed


@pytest.mark.slow
def test_importing_one_method_imports_neither_the_others_nor_what_they_need():
    heavy = [
        "accelerate",
        "anomalib",
        "diffusers",
        "matplotlib",
        "open_clip",
        "peft",
        "sklearn",
        "timm",
        "torchvision",
        "transformers",
    ]
    code = (
        "import sys; from diffad_utils.methods.invad import InvAD; "
        f"print([m for m in {heavy} if m in sys.modules], "
        "sorted(m for m in sys.modules if m.startswith('diffad_utils.methods.')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    ours = ["base", "invad", "invad.detector", "invad.score", "kept", "stored"]
    assert found.strip() == f"[] {[f'diffad_utils.methods.{name}' for name in ours]}"

"""Nothing that comes from data, names or parameters is run or shown as code, and nothing listens on the network."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from data_trees import mvtec_tree
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from runs import session
from small_notebooks import PARAMETERS, START, write_notebook

from diffad_utils import data, execution, report, study

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'
"""What a file, a defect's folder or a caption might be called."""

QUIET = """
import psutil
addresses = {c.laddr.ip for c in psutil.Process().net_connections("inet")}
run.record(metrics={}, experiments={"elsewhere": sorted(addresses - {"127.0.0.1", "::1"})})
"""


def live(text: str) -> list[str]:
    """Tags in a page that would run something: scripts, and tags with event handlers or javascript: addresses."""
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "script" or any(
                name.startswith("on") or "javascript:" in (value or "") for name, value in attributes
            ):
                found.append(self.get_starttag_text())

    Reader().feed(text)
    return found


@pytest.mark.slow
def test_the_kernel_of_a_run_is_on_no_network(tmp_path):
    write_notebook(tmp_path / "08_comparison.ipynb", [PARAMETERS, START.format(name="08_comparison"), QUIET])
    folder = execution.run_notebook(
        tmp_path / "08_comparison.ipynb",
        {"profile": "smoke", "output_root": str(tmp_path / "out")},
        work=tmp_path / "work",
    )
    assert study.load_run(folder).experiments == {"elsewhere": []}


def policy_of(text: str) -> str:
    return re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]


def without_own_script(text: str) -> str:
    """A page without the one script that its policy allows, by the hash of its text."""
    allowed = re.findall(r"script-src 'sha256-([^']*)'", policy_of(text))
    assert len(allowed) <= 1
    for script in re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL):
        if base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in allowed:
            text = text.replace(f"<script>{script}</script>", "")
    return text


def test_pages_show_evil_names_as_text(tmp_path):
    import matplotlib.pyplot as plt

    run = study.start("07_invad", session(tmp_path))
    fig, axis = plt.subplots(figsize=(2, 1))
    axis.plot([0, 1])
    run.figure(fig, "curve", f"A picture of {EVIL}.")
    run._data.append({"dataset": EVIL, "categories": [EVIL], "train": 1, "test": 1, "test_anomalous": 0, "sha256": "0"})
    run._weights.append({"name": EVIL, "source": EVIL, "sha256": "0", "is_mini": False, "message": EVIL})
    folder = run.record(metrics={}, experiments={EVIL: EVIL})
    cells = [new_markdown_cell("# Title"), new_code_cell("x", outputs=[new_output("stream", text=EVIL)])]
    nbformat.write(new_notebook(cells=cells), folder / "run.ipynb")
    report.write(tmp_path / "smoke")
    pages = [tmp_path / "smoke" / "index.html", *(tmp_path / "smoke").rglob("run.html")]
    assert len(pages) >= 2
    for page in pages:
        assert live(without_own_script(page.read_text(encoding="utf-8"))) == [], page


def test_pages_forbid_scripts_whatever_they_hold(tmp_path):
    """An executed notebook's own HTML goes into its page as it is; the page's policy runs no script and loads
    nothing."""
    folder = study.start("07_invad", session(tmp_path)).record(metrics={})
    cells = [new_code_cell("x", outputs=[new_output("display_data", {"text/html": EVIL})])]
    nbformat.write(new_notebook(cells=cells), folder / "run.ipynb")
    report.write(tmp_path / "smoke")
    for page in [tmp_path / "smoke" / "index.html", *(tmp_path / "smoke").rglob("run.html")]:
        policy = policy_of(page.read_text(encoding="utf-8"))
        assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy.partition("script-src")[2], page
        # at most the report's own script, by its hash, which no other text has
        assert re.sub(r"'sha256-[^']*'", "", policy.partition("script-src")[2]).strip() == "", page
        assert "script-src" not in policy or len(re.findall("'sha256-", policy)) == 1, page


@pytest.mark.parametrize("name", [EVIL.replace("/", "_"), "a & b", '"quoted"', "$(touch x)", "; touch x"])
def test_a_folder_of_ones_own_may_be_called_anything(tmp_path, name):
    root = mvtec_tree(tmp_path / "set", "part")
    (root / "part" / "test" / "broken").rename(root / "part" / "test" / name)
    (root / "part" / "ground_truth" / "broken").rename(root / "part" / "ground_truth" / name)
    index = data.load_index("folder", root)
    assert name in set(index["defect"])
    assert not Path("x").exists()


@pytest.mark.slow
def test_pickles_are_opened_in_two_places_and_restricted():
    """Our own checkpoints, and a package's own file whose checksum is known; both cannot run code."""
    import ast

    package = Path(study.__file__).parents[1]
    opened = {}
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "pickle.load", "pickle.loads"):
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("weights_only") == "True", f"{file}:{node.lineno}"
                opened.setdefault(file.relative_to(package).parts[0], []).append(file.name)
    assert {name.removesuffix(".py") for name in opened} == {"training", "weights"}
    assert opened["weights"] == ["packaged.py"]

"""What is saved of an executed notebook: no progress bars, no large pictures."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import nbformat

from diffad_utils import study

LARGE_NOTEBOOK = 1_400_000  # bytes; what is committed should load quickly on a web page


def published_form(executed: Path, notebook: Path) -> str:
    """The executed notebook as text, without the places and times of this machine."""
    content = json.loads(executed.read_text(encoding="utf-8"))
    note = content["metadata"].get("papermill", {})
    content["metadata"]["papermill"] = {"input": notebook.name, "duration_s": note.get("duration")}
    for cell in content["cells"]:
        for key in ("papermill", "execution"):
            cell["metadata"].pop(key, None)
        drop_progress_bars(cell)
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return text.replace(str(study.repository()), ".").replace(str(Path.home()), "~")


def drop_progress_bars(cell: dict) -> None:
    """Take out what progress bars drew over and over, which a saved notebook shows line below line."""
    if "outputs" in cell:
        cell["outputs"] = [
            output
            for output in cell["outputs"]
            if output.get("name") != "stderr" or "\r" not in "".join(output["text"])
        ]


def fit_pictures(content: nbformat.NotebookNode) -> None:
    """Give the notebook's pictures fewer and fewer colours, as long as it is larger than `LARGE_NOTEBOOK`.

    256 make a figure a third of its size and are not seen; 64 and 16 are for notebooks with dozens of charts.
    """
    for colours in (256, 64, 16):
        if len(nbformat.writes(content)) <= LARGE_NOTEBOOK:
            return
        reduce_colours(content.cells, colours)


def reduce_colours(cells: list[dict], colours: int = 256) -> None:
    """Every PNG among the outputs as `io.png.small_png` makes it."""
    from diffad_utils.io.png import small_png

    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            content = small_png(base64.b64decode(output["data"]["image/png"]), colours=colours)
            output["data"]["image/png"] = base64.b64encode(content).decode("ascii")

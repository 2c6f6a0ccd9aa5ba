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


LARGE_PICTURE = 50_000  # bytes; mostly photographs, which stay readable with fewer pixels


def fit_pictures(content: nbformat.NotebookNode) -> None:
    """Make the notebook's pictures smaller, step by step, as long as it is larger than `LARGE_NOTEBOOK`.

    256 colours make a figure a third of its size and are not seen. Then large pictures lose pixels. 64 colours are for
    notebooks with dozens of charts; with 16, two of 25 methods would share one.
    """
    for colours, scale in ((256, 1.0), (256, 0.8), (256, 0.8), (64, 1.0), (256, 0.8), (256, 0.8)):
        if len(nbformat.writes(content)) <= LARGE_NOTEBOOK:
            return
        shrink_pictures(content.cells, colours, scale)


def shrink_pictures(cells: list[dict], colours: int = 256, scale: float = 1.0) -> None:
    """Every PNG among the outputs as `io.png.small_png` makes it; ``scale`` is for those above `LARGE_PICTURE`."""
    from diffad_utils.io.png import small_png

    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if "image/png" in output.get("data", {}):
            content = base64.b64decode(output["data"]["image/png"])
            content = small_png(content, scale if len(content) > LARGE_PICTURE else 1.0, colours)
            output["data"]["image/png"] = base64.b64encode(content).decode("ascii")

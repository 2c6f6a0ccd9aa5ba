"""What is saved of an executed notebook: no progress bars, no large pictures."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import nbformat

from diffad_utils import study

LARGE_NOTEBOOK = 1_450_000  # bytes; what is committed should load quickly on a web page


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


PHOTOGRAPH = 10_000  # colours: more than any chart has


def fit_pictures(content: nbformat.NotebookNode) -> None:
    """Make the notebook's pictures smaller, as long as it is larger than `LARGE_NOTEBOOK`.

    256 colours make a figure a third of its size and are not seen; with fewer, hues of a chart would be gone. Then
    photographs lose pixels, a fifth of their width at a time.
    """
    from diffad_utils.io.png import small_png

    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    pictures = [output["data"] for output in outputs if "image/png" in output.get("data", {})]
    photographs = [data for data in pictures if _colours(data["image/png"]) > PHOTOGRAPH]
    for shrunk, scale in [(pictures, 1.0), *[(photographs, 0.8)] * 5]:
        if len(nbformat.writes(content)) <= LARGE_NOTEBOOK:
            return
        for data in shrunk:
            smaller = small_png(base64.b64decode(data["image/png"]), scale)
            data["image/png"] = base64.b64encode(smaller).decode("ascii")


def _colours(picture: str) -> int:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return len(image.convert("RGB").getcolors(image.width * image.height))

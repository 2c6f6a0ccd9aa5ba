"""Strips: recorded, read back, and shown with a slider."""

import io
import json
import re
import types

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_markdown_cell, new_notebook
from PIL import Image

from diffad_utils import report, study
from diffad_utils.analyses import strips
from diffad_utils.analyses.task import Task
from diffad_utils.io.png import sprite_sheet
from diffad_utils.report import strips as pages

KINDS = ["hole <&>", "cut", "good"]
STRENGTHS, OMEGAS = [0.1, 0.3, 0.5, 0.7], [0.0, 0.5, 1.0]


def task(side=32):
    images = torch.linspace(0.2, 0.8, 3)[:, None, None, None].expand(3, 3, side, side).clone()
    images[:2, :, 8:16, 8:16] = 1.0
    index = pd.DataFrame({"defect": KINDS, "label": [1, 1, 0]})
    batch = {"image": images, "label": torch.tensor([1, 1, 0]), "key": [f"k/{i}" for i in range(3)]}
    return Task("textures/carpet", None, types.SimpleNamespace(index=index), torch.arange(3), batch)


def strip_of(axes, survival=True, side=32):
    """What is left of the squares falls from setting to setting; the normal image has no survival."""
    shown, count = task(side), int(np.prod([len(values) for values in axes.values()]))
    left = torch.linspace(0.9, 0.1, count, dtype=torch.float64)
    x_hats = shown.images * left[:, None, None, None, None].float()
    maps = (shown.images - x_hats).abs().mean(dim=2)
    kept = left[:, None] * torch.tensor([1.0, 0.5, float("nan")], dtype=torch.float64)
    return strips.Strip(shown, axes, x_hats, maps, "residual", kept if survival else None)


def new_run(root, notebook="03_img2img_sweep"):
    parameters = {"profile": "smoke", "dataset": "textures", "category": "carpet", "seed": 0, "device": "cpu"}
    return study.Run(notebook, study.Parameters(**parameters, output_root=str(root)))


def finished(root, *named, notebook="03_img2img_sweep"):
    run = new_run(root, notebook)
    for name, strip in named:
        strip.record(run, name, "Squares, <as> drawn.")
    batch = {"key": [f"textures/carpet/test/good/{i}" for i in range(4)], "label": torch.tensor([0, 0, 1, 1])}
    prediction = types.SimpleNamespace(score=torch.arange(4.0), anomaly_map=None, parts={}, nfe=3)
    folder = run.record(prediction, batch, {"I-AUROC": 0.9}, intervals={})
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title")]), folder / "run.ipynb")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    finished(root, ("strength", strip_of({"strength": STRENGTHS})))
    finished(root, ("noise", strip_of({"T": [80, 160], "omega": OMEGAS})), notebook="06_d3ad")
    report.write(root / "smoke")
    return root / "smoke"


def test_a_strip_is_read_back_as_it_was_recorded(root):
    (found,) = pages.load(root / "textures/carpet/img2img/seed-0")
    assert found["axes"] == [{"name": "strength", "values": ["0.1", "0.3", "0.5", "0.7"]}]
    assert found["examples"] == KINDS and found["settings"][2]["name"] == "strength 0.5"
    survival = [[example.get("survival") for example in setting["examples"]] for setting in found["settings"]]
    assert survival[0] == ["0.90", "0.45", None] and survival[3] == ["0.10", "0.05", None]
    assert (
        "from" not in found["text"] and "0.45 to 0.90 at strength 0.1 and 0.05 to 0.10 at strength 0.7" in found["text"]
    )


def test_each_place_in_the_sheet_shows_the_picture_that_is_named_there(root):
    folder = root / "textures/carpet/d3ad/seed-0"
    (found,) = pages.load(folder)
    strip = strip_of({"T": [80, 160], "omega": OMEGAS})
    sheet = Image.open(folder / "strips/noise.jpg")
    columns, rows = sheet.width // strips.TILE, sheet.height // strips.TILE
    assert found["size"] == f"{100 * columns}% {100 * rows}%" == "300% 1300%"
    for k, setting in enumerate(found["settings"]):
        assert setting["name"] == f"T {(80, 160)[k // 3]}, omega {OMEGAS[k % 3]:g}"
        for n, example in enumerate(setting["examples"]):
            for (name, place), expected in zip(
                example["tiles"],
                (strip.task.images[n], strip.x_hats[k, n], strips.heat(strip.maps, found["limit"])[k, n]),
                strict=True,
            ):
                x, y = (float(value) / 100 for value in re.findall(r"[\d.]+", place))
                left, top = round(x * (columns - 1)) * strips.TILE, round(y * (rows - 1)) * strips.TILE
                tile = np.asarray(sheet.crop((left, top, left + strips.TILE, top + strips.TILE))) / 255
                assert np.abs(tile.mean((0, 1)) - expected.mean((1, 2)).numpy()).max() < 0.02, (name, k, n)


@pytest.mark.parametrize("page", ["strips.html", "textures/carpet/img2img/seed-0/run.html"])
def test_a_page_holds_a_labelled_slider_and_every_setting_and_loads_nothing(root, page):
    text = (root / page).read_text(encoding="utf-8")
    inputs = re.findall(
        r'<label for="([^"]+)">(\w+)</label><input type="range" id="([^"]+)"[^>]*aria-valuetext="', text
    )
    names = ["strength", "T", "omega"] if page == "strips.html" else ["strength"]
    assert sorted(name for _, name, _ in inputs) == sorted(names) and all(a == b for a, _, b in inputs)
    assert text.count('<div class="setting') - text.count('<div class="settings"') == (
        10 if page == "strips.html" else 4
    )
    assert text.count('role="img" style=') == text.count('class="tile"') == 9 * (10 if page == "strips.html" else 4)
    assert 'aria-label="cut: reconstruction at strength 0.5"' in text and "hole &lt;&amp;&gt;" in text
    assert "hole <" not in text and "<as>" not in text
    assert "http://" not in text and "https://" not in text and "<link" not in text and "@import" not in text
    loaded = re.findall(r"""(?:src|href)=["']([^"']+)|url\(([^)]{,60})""", text)
    assert all(a.startswith("#") or a.endswith(".html") or u.startswith("data:image/") for a, u in loaded)
    assert len(text) < report.PAGE_LIMIT_BYTES


def test_the_front_page_links_the_sliders_and_their_script_is_the_one_allowed(root):
    from diffad_utils.report.environment import inline, script_digest

    assert '<a href="strips.html">' in (root / "index.html").read_text(encoding="utf-8")
    text = (root / "strips.html").read_text(encoding="utf-8")
    assert text.count("<script") == 1 and f"<script>{inline('strip.js')}</script>" in text
    assert f"script-src 'sha256-{script_digest('strip.js')}'" in text


@pytest.mark.slow
def test_without_strips_there_is_no_page(tmp_path):
    folder = finished(tmp_path)
    report.write(tmp_path / "smoke")
    assert not (tmp_path / "smoke/strips.html").exists()
    assert "strips.html" not in (tmp_path / "smoke/index.html").read_text(encoding="utf-8")
    assert "<script" not in (folder / "run.html").read_text(encoding="utf-8")


def test_strips_that_find_no_room_are_links_to_their_runs(root, tmp_path, monkeypatch):
    runs = [({"title": f"run {i}", "page": f"{i}/run.html"}, root / "textures/carpet/img2img/seed-0") for i in range(3)]
    one = len(pages.html(pages.load(runs[0][1])[0]).encode())
    monkeypatch.setattr(pages, "LIMIT_BYTES", one + one // 2)
    assert pages.write(tmp_path, runs) == "strips.html"
    text = (tmp_path / "strips.html").read_text(encoding="utf-8")
    assert text.count('type="range"') == 1
    assert 'href="1/run.html#strip-strength"' in text and 'href="2/run.html#strip-strength"' in text


@pytest.mark.slow
def test_without_counterparts_the_strip_says_so(tmp_path):
    folder = finished(tmp_path, ("strength", strip_of({"strength": STRENGTHS}, survival=False)))
    report.write(tmp_path / "smoke")
    text = (folder / "run.html").read_text(encoding="utf-8")
    assert "no defect-free counterparts" in text and "<svg" not in text and "no defect<" not in text
    assert json.loads((folder / "strips/strength.json").read_text(encoding="utf-8"))["survival"] is None


def test_what_does_not_fit_is_refused(tmp_path):
    strip, run = strip_of({"strength": STRENGTHS}), new_run(tmp_path)
    with pytest.raises(ValueError, match="letters, digits"):
        strip.record(run, "a/b", "caption")
    with pytest.raises(ValueError, match="needs a caption"):
        strip.record(run, "a", " ")
    with pytest.raises(ValueError, match=r"maps has shape .* expected \[4, 3"):
        strips.Strip(strip.task, strip.axes, strip.x_hats, strip.maps[:2], "residual", None)
    with pytest.raises(ValueError, match="one or two axes"):
        strips.Strip(strip.task, {}, strip.x_hats, strip.maps, "residual", None)


def test_a_sheet_stays_below_its_limit():
    noise = np.random.default_rng(0).random((6, 3, 64, 64))
    assert len(sprite_sheet(noise, 3, 20_000)) <= 20_000 < len(sprite_sheet(noise, 3, 10**6))
    assert Image.open(io.BytesIO(sprite_sheet(noise, 3, 20_000))).size == (192, 128)
    with pytest.raises(ValueError, match="show fewer"):
        sprite_sheet(noise, 3, 100)
    with pytest.raises(ValueError, match="rows of 4"):
        sprite_sheet(noise, 4, 10**6)

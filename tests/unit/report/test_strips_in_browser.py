"""The sliders in a headless Chromium, as wide as a phone and as a desk: the strips of the reference report."""

import json
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from diffad_utils.report import strips

REFERENCE = Path(__file__).parents[3] / "reports/reference/smoke"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; test_strips_page tests the structure"),
]

SHOWN = """(() => {
  const strip = document.activeElement.closest(".strip");
  const settings = [...strip.querySelectorAll(".setting")].filter((s) => s.offsetParent !== null);
  const tiles = [...settings[0].querySelectorAll(".tile")];
  return JSON.stringify({
    axes: [...strip.querySelectorAll("input")].map((i) => [i.labels[0].textContent, i.dataset.values.split(" ")]),
    said: [...strip.querySelectorAll("input")].map((i) => i.getAttribute("aria-valuetext")),
    outputs: [...strip.querySelectorAll("output")].map((o) => o.textContent),
    settings: settings.map((s) => s.querySelector("h4").textContent),
    names: [...new Set(tiles.map((t) => t.parentElement.textContent.trim().replaceAll("\\u00ad", "")))],
    smallest: Math.min(...tiles.map((t) => Math.min(t.offsetWidth, t.offsetHeight))),
    pictures: tiles.every((t) => getComputedStyle(t).backgroundImage.startsWith('url("data:image/')),
    places: tiles.map((t) => t.style.backgroundPosition),
    survival: [...settings[0].querySelectorAll(".curve span")].map((s) => s.textContent),
    overlap: [...strip.querySelectorAll(".axis, .shown .tiles > div")].some((a) => a.scrollWidth > a.clientWidth),
  });
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page, written anew, so that it is of these templates."""
    folders = [strip.parent for strip in sorted(REFERENCE.glob("*/*/*/seed-0/strips"))]
    root = tmp_path_factory.mktemp("report")
    runs = [({"title": folder.parent.name, "page": f"{folder.parent.name}.html"}, folder) for folder in folders]
    return root / strips.write(root, runs)


@pytest.fixture(params=[390, 1400])
def page(browser, written, request):
    browser.open(written, request.param)
    return browser


def shown(page):
    return json.loads(page.run(SHOWN))


def next_slider(page):
    """Press Tab until a slider has the focus."""
    for _ in range(20):
        page.press("Tab")
        if page.run("document.activeElement.type") == "range":
            return
    raise AssertionError("no slider is reached with twenty times Tab")


def test_the_page_fits_and_asks_for_nothing(page, written):
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert [url for url in page.requests if not url.startswith("data:")] == [written.resolve().as_uri()]
    assert not page.complaints  # such as a script or a picture that the page's own policy refused


def test_one_setting_is_seen_with_picture_reconstruction_map_and_survival(page):
    next_slider(page)
    found = shown(page)
    assert len(found["settings"]) == 1 and found["pictures"] and found["smallest"] >= 60 and not found["overlap"]
    assert found["names"][:2] == ["image", "reconstruction"] and found["names"][2] in ("residual", "anomaly map")
    with_counterparts = page.run("document.querySelectorAll('.strip .curve').length")
    assert with_counterparts and all(text.startswith("survival ") for text in found["survival"])


def test_the_arrow_keys_move_each_slider_and_what_it_shows(page):
    axes = page.run("document.querySelectorAll('.strip input').length")
    moved = set()
    for _ in range(axes):
        next_slider(page)
        name = page.run("document.activeElement.labels[0].textContent")
        before, picture = shown(page), page.screenshot()
        page.press("ArrowRight")
        after = shown(page)
        values = dict(after["axes"])[name]
        assert f"{name} {values[1]}" in after["settings"][0] and values[1] in after["outputs"]
        assert after["outputs"] == after["said"] != before["said"]
        assert after["places"] != before["places"] and page.screenshot() != picture
        page.press("End")
        assert f"{name} {values[-1]}" in shown(page)["settings"][0]
        page.press("Home")
        assert shown(page) == before
        moved.add(name)
    assert moved == {"strength", "T", "omega"}  # the sliders of 03 and of 06

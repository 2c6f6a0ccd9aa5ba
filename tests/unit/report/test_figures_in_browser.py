"""Figures of several panels in a headless Chromium, as wide as a phone and as a desk: a desk shows letters that can be
read, a phone the whole figure until it is tapped, and the page itself never scrolls sideways."""

import json
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser

from diffad_utils.report import narrow, pages

NOTEBOOK = Path(__file__).parents[3] / "notebooks/05_esm.ipynb"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; test_narrow tests the structure"),
]

SHOWN = """(() => JSON.stringify({
  page: document.documentElement.scrollWidth,
  shown: [...document.querySelectorAll(".wide img")].map((i) => [i.offsetWidth, i.naturalWidth]),
  boxes: Math.max(...[...document.querySelectorAll(".wide")].map((b) => b.getBoundingClientRect().right)),
}))()"""


HINT = "getComputedStyle(document.querySelector('.zoom'), '::after').content"
UNFOLDED = "document.querySelector('.code .highlight').checkVisibility({contentVisibilityAuto: true})"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "run.html"
    target.write_text(pages.notebook_page(NOTEBOOK, title="05", back="index.html"), encoding="utf-8")
    return target


LARGE = narrow.READABLE_PIXELS / narrow.SMALLEST_POINTS
"""CSS pixels a pixel of a figure, where its letters can be read: a point is a pixel in these pictures."""

TAP = "(() => { const img = document.querySelector('.zoom img'); img.click(); return img.offsetWidth; })()"


def test_a_desk_shows_letters_of_nine_pixels(tmp_path, written):
    with Browser(tmp_path / "profile") as browser:
        browser.open(written, 1400)
        found = json.loads(browser.run(SHOWN))
        assert found["page"] == 1400 and found["boxes"] <= 1400
        assert len(found["shown"]) > 20
        assert all(shown >= across * LARGE - 1 for shown, across in found["shown"])
        assert browser.run(HINT) == "none" and browser.run(UNFOLDED)
        before = found["shown"][0][0]
        assert browser.run(TAP) == before  # there is nothing to enlarge


def test_a_phone_shows_a_figure_whole_and_a_tap_or_the_space_bar_enlarges_it(tmp_path, written):
    with Browser(tmp_path / "profile") as browser:
        browser.open(written, 390)
        found = json.loads(browser.run(SHOWN))
        assert found["page"] == 390 and found["boxes"] <= 390
        assert len(found["shown"]) > 20 and all(shown <= 390 for shown, _ in found["shown"])
        assert "enlarge" in browser.run(HINT) and not browser.run(UNFOLDED)

        across = found["shown"][0][1]
        assert browser.run(TAP) >= across * LARGE - 1
        assert "scroll" in browser.run(HINT)
        assert browser.run("document.documentElement.scrollWidth") == 390  # the box scrolls, not the page
        box = "document.querySelector('.wide')"
        assert browser.run(f"{box}.scrollWidth > {box}.clientWidth")
        assert browser.run(f"{box}.getAttribute('aria-label')") == "Figure 1 of this page"
        assert browser.run(TAP) <= 390

        browser.run("document.querySelector('.zoom input').focus()")
        browser.press("Space")
        assert browser.run("document.querySelector('.zoom img').offsetWidth") > 390

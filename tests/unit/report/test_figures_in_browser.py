"""Figures of several panels in a headless Chromium, as wide as a phone and as a desk: they can be read, the page itself
does not scroll sideways, and the keyboard reaches what does."""

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


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "run.html"
    target.write_text(pages.notebook_page(NOTEBOOK, title="05", back="index.html"), encoding="utf-8")
    return target


@pytest.mark.parametrize("width", [390, 1400])
def test_letters_are_nine_pixels_high_and_the_page_does_not_scroll_sideways(tmp_path, written, width):
    with Browser(tmp_path / "profile") as browser:
        browser.open(written, width)
        found = json.loads(browser.run(SHOWN))
        assert found["page"] == width and found["boxes"] <= width
        assert len(found["shown"]) > 20
        enlarged = narrow.READABLE_PIXELS / narrow.SMALLEST_POINTS  # a point is a pixel in these pictures
        assert all(shown >= across * enlarged - 1 for shown, across in found["shown"])

        browser.run("document.querySelector('.wide').focus({preventScroll: true})")
        assert browser.run("document.activeElement.getAttribute('aria-label')") == "Figure 1 of this page"
        scrolls = "document.activeElement.scrollWidth > document.activeElement.clientWidth"
        assert browser.run(scrolls) == (width < 800)

        hint = "getComputedStyle(document.querySelector('.far'), '::after').content"
        assert ("scroll" in browser.run(hint)) == (width < 800)
        unfolded = "document.querySelector('.code .highlight').checkVisibility({contentVisibilityAuto: true})"
        assert browser.run(unfolded) == (width > 800)

"""Tables on paper, in a headless Chromium as wide as an A4 page between its margins."""

import json

import markupsafe
import pandas as pd
import pytest
from browser import CHROMIUM, Browser

from diffad_utils.report import tables
from diffad_utils.report.environment import environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

A4_PIXELS = 703
"""CSS pixels of 186 mm."""

SUMMARY = {
    "method": "pixel_ddpm_inversion",
    "family": "diffusion",
    "tasks": 3,
    "I-AUROC": 0.5,
    "low": 0.4,
    "high": 0.6,
    "AUPRO": 0.5,
    "AUPRO low": 0.4,
    "AUPRO high": 0.6,
    "without diffusion": 0.5,
    "trivial baseline": 0.5,
    "ms an image": 123.4,
    "follows": "Not shown to differ from the trivial baseline. " * 4,
}


def test_the_sentences_of_the_summary_have_a_third_of_the_page_and_nothing_is_cut_off(tmp_path):
    page = tmp_path / "page.html"
    template = "<!DOCTYPE html><style>{{ css }}</style><main>{{ table }}</main>"
    table = markupsafe.Markup(tables.summary_html(pd.DataFrame([SUMMARY] * 3)))
    page.write_text(environment().from_string(template).render(table=table), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.call("Emulation.setEmulatedMedia", media="print")
        browser.open(page, A4_PIXELS)
        widths = "['table', 'td.wrap'].map((name) => document.querySelector(name).offsetWidth)"
        whole, sentences = json.loads(browser.run(f"JSON.stringify({widths})"))
    assert whole <= A4_PIXELS and sentences >= whole / 3

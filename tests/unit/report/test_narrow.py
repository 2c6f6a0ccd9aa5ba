"""Tables for narrow screens."""

from diffad_utils.report import narrow
from diffad_utils.report.narrow import stacked


def test_cells_carry_the_heading_of_their_column():
    page = stacked(
        "<p>a</p><table class='dataframe'><thead><tr><th></th><th>x</th><th>y &amp; z</th></tr></thead>"
        "<tbody><tr><th>0</th><td>1</td><td>2</td></tr></tbody></table><p>b</p>"
    )
    assert page.startswith("<p>a</p><table") and page.endswith("</table><p>b</p>")
    assert 'class="dataframe stack"' in page and '<td data-head="x">1</td><td data-head="y &amp; z">2</td>' in page
    assert "<th>0</th>" in page


def test_words_begin_at_the_left_and_numbers_end_at_the_right():
    head = "<thead><tr><th>what</th><th>x</th></tr></thead>"
    page = stacked(f"<table>{head}<tr><td>a word</td><td>NaN</td></tr><tr><td>1</td><td>1e-5</td></tr></table>")
    assert '<th class="text">what</th><th>x</th>' in page
    assert '<td class="text" data-head="what">1</td><td data-head="x">1e-5</td>' in page


def test_the_row_with_the_name_of_the_index_goes():
    head = "<thead><tr><th></th><th>x</th></tr><tr><th>method</th><th></th></tr></thead>"
    page = stacked(f"<table>{head}<tbody><tr><th>A</th><td>1</td></tr></tbody></table>")
    assert "method" not in page and '<td data-head="x">1</td>' in page


def test_figures_stand_in_a_box_and_wide_ones_can_be_enlarged():
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (700).to_bytes(4, "big")
    assert narrow.readable_width(header, 72) == 900  # 7 points are 7 pixels there, and shall be 9
    assert narrow.readable_width(header, 144) == 450
    figure = '<div class="output_png output_subarea">\n<img alt="a" width="900" src="data:x">\n</div>'
    page = narrow.boxed(f"<p>{figure}</p>{figure}<img src='other'>")
    opening = '<div class="wide" tabindex="0" role="region" aria-label="Figure {0} of this page">'
    opening += '<label class="zoom"><input type="checkbox" aria-label="Enlarge: Figure {0} of this page"><img alt="a"'
    assert all(page.count(opening.format(number)) == 1 for number in (1, 2)) and page.count("<label") == 2
    assert page.endswith("<img src='other'>")
    assert "zoom" not in narrow.boxed(figure.replace("900", "400"))  # a phone shows all of it, and it can be read


def test_a_phone_shows_the_version_that_a_run_saved_for_it():
    figure = '<div class="output_png output_subarea">\n<img alt="a &lt; b" width="900" src="data:x">\n</div>'
    page = narrow.boxed(figure, {"a < b": "data:y"})
    assert '<picture><source media="(max-width: 40rem)" srcset="data:y"><img alt="a &lt; b"' in page
    assert "zoom" not in page and "<picture>" not in narrow.boxed(figure, {"another": "data:y"})


def test_symbols_at_the_head_of_a_column_are_spelt_out():
    page = stacked("<table><thead><tr><th>n</th><th>N</th></tr></thead><tr><td>1</td><td>2</td></tr></table>")
    assert "<th>n (number)</th><th>N</th>" in page and 'data-head="n (number)">1' in page


def test_code_is_in_details_and_nothing_else_is():
    cell = '<div class="input_area">\n<div class=" highlight hl-ipython3"><pre>a = {}\nb</pre></div>\n</div>'
    page = narrow.folded(f"{cell.format(1)}<div class=' highlight'><pre>text</pre></div>{cell.format(2)}")
    assert page.count("<details") == page.count("</pre></div></details>") == 2 and "<pre>text</pre></div><div" in page


def test_tables_with_several_headings_scroll_and_others_stay_as_they_are():
    several = (
        "<table><thead><tr><th>a</th><th>b</th></tr><tr><th>c</th><th>d</th></tr></thead><tr><td>1</td></tr></table>"
    )
    done = "<table class='claims stack'><thead><tr><th>a</th></tr></thead></table>"
    assert stacked(several) == f'<div class="wide" tabindex="0" role="region" aria-label="Table">{several}</div>'
    assert stacked(done) == done and stacked("<table><tr><td>1</td></tr></table>").count("stack") == 0

"""Tables for narrow screens."""

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


def test_other_tables_stay_as_they_are():
    several = (
        "<table><thead><tr><th>a</th><th>b</th></tr><tr><th>c</th><th>d</th></tr></thead><tr><td>1</td></tr></table>"
    )
    done = "<table class='claims stack'><thead><tr><th>a</th></tr></thead></table>"
    assert stacked(several) == several
    assert stacked(done) == done and stacked("<table><tr><td>1</td></tr></table>").count("stack") == 0

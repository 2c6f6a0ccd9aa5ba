"""The pages of a report."""

import base64
import io
import re
import types
import urllib.parse

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from diffad_utils import cli, execution, report, study
from diffad_utils.analyses import ledger as judged
from diffad_utils.io.paths import repository
from diffad_utils.report import evidence, front
from diffad_utils.study import claims


def finished(
    root,
    notebook: str,
    metrics: dict,
    intervals=None,
    category="carpet",
    seed=0,
    trivial_baseline=None,
    figure=True,
    claims=None,
    method=None,
    notebook_file=True,
    **timing,
):
    """A recorded run with an executed notebook; returns its folder."""
    parameters = study.Parameters(
        profile="smoke", dataset="textures", category=category, seed=seed, device="cpu", output_root=str(root)
    )
    run = study.Run(notebook, parameters, method)
    if figure:
        fig, axis = plt.subplots(figsize=(2, 1))
        axis.plot([0, 1])
        run.figure(fig, "curve", "Scores <of> normal & anomalous images.")
    score = torch.arange(4.0)
    prediction = types.SimpleNamespace(score=score, anomaly_map=None, parts={}, nfe=3)
    keys = [f"textures/{category}/test/{'good' if i < 2 else 'hole'}/{i}" for i in range(4)]
    batch = {"key": keys, "label": (score >= 2).long()}
    folder = run.record(
        prediction,
        batch,
        metrics,
        intervals=intervals or {},
        trivial_baseline=trivial_baseline,
        timing=timing,
        claims=claims,
    )
    cells = [
        new_markdown_cell("## Is it, really?"),
        new_markdown_cell(
            "# Title\n\n$$\\frac{a}{b} = \\sqrt{x_t}$$\n\nand $\\bar\\alpha_t$, and $\\nosuchcommand{x}$."
        ),
        new_code_cell("print('<b>')", outputs=[new_output("stream", text="<b>\n")]),
    ]
    if notebook_file:
        nbformat.write(new_notebook(cells=cells), folder / "run.ipynb")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    finished(
        root, "01_data", {"I-AUROC": 0.60, "I-AP": 0.7}, {"I-AUROC": (0.5, 0.7)}, trivial_baseline={"I-AUROC": 0.65}
    )
    finished(
        root,
        "07_invad",
        {"I-AUROC": 0.90, "AUPRO": 0.8},
        {"I-AUROC": (0.85, 0.95)},
        ms_per_image=12.345,
        claims=FINDINGS,
    )
    finished(root, "07_invad", {"I-AUROC": 0.5}, {"I-AUROC": (0.4, 0.6)}, category="grid", claims=FINDINGS[:1])
    compared(root)
    (root / "smoke/textures/carpet/esm/.seed-0.partial-x").mkdir(parents=True)
    report.write(root / "smoke")
    return root / "smoke"


def test_the_front_page_says_how_much_of_the_profile_is_there(root, tmp_path):
    count = len(execution.load_plan("smoke").runs)
    assert f"<b>In part:</b> 2 of the {count} runs of the profile are finished." in (root / "index.html").read_text()
    folder = finished(tmp_path, "07_invad", {"I-AUROC": 0.5}).parents[3]
    folder.rename(tmp_path / "my-own")
    assert "In part" not in report.write(tmp_path / "my-own").read_text(), "nobody knows its plan"


def finding(claim, low, high):
    return claims.finding(
        claim, (low + high) / 2, low, high, 40, measure="I-AUROC of this minus <that>", section="Is it, really?"
    )


FINDINGS = [finding("C37", 0.01, 0.1), finding("C39", -0.1, 0.1)]


def compared(root):
    """The comparison's run, as far as the pages read it."""
    run = study.Run("08_comparison", study.Parameters(profile="smoke", seed=0, device="cpu", output_root=str(root)))
    table = pd.DataFrame(
        [
            {
                "dataset": "textures",
                "category": "carpet",
                "method": "trivial",
                "seeds": 1,
                "above_baseline": None,
                "statistic": "mean_low",
                "I-AUROC": 0.65,
            },
            {
                "dataset": "textures",
                "category": "carpet",
                "method": "invad",
                "seeds": 1,
                "above_baseline": True,
                "I-AUROC": 0.9,
                "I-AUROC low": 0.85,
                "I-AUROC high": 0.95,
            },
            {
                "dataset": "textures",
                "category": "carpet",
                "method": "esm",
                "seeds": 1,
                "above_baseline": False,
                "I-AUROC": 0.6,
                "I-AUROC low": 0.5,
                "I-AUROC high": 0.7,
            },
        ]
    )
    study.write_atomically(run.path("table.csv"), table.to_csv(index=False))
    fig, _axis = plt.subplots(figsize=(2, 1))
    run.figure(fig, "pareto", "Accuracy <against> time.")
    run.record(
        metrics={},
        experiments={
            "answer": ["Yes & no.", "Because.", "Of many claims, some."],
            "winners": [["textures/carpet", "invad", "I-AUROC"]],
        },
    )
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 08")]), run.folder / "run.ipynb")


def test_the_page_needs_nothing_from_elsewhere(root):
    """Links to the sources may be followed; nothing is loaded."""
    sources = set(front.sources()["address"])
    for page in [root / "index.html", *root.rglob("run.html")]:
        text = page.read_text(encoding="utf-8")
        assert text.count("<script") == (page.name == "index.html") and "<script src" not in text
        assert "<link" not in text and "@import" not in text
        loaded = re.findall(r"""(?:src|href)=["']([^"']+)""", text)
        for address in loaded:
            if not address.startswith(("data:", "#")) and address not in sources:
                assert (page.parent / address.partition("#")[0]).is_file() or address.startswith("comparison/table."), (
                    address
                )


def test_the_front_page_has_the_answer_the_table_and_the_figure_of_the_comparison(root):
    text = (root / "index.html").read_text(encoding="utf-8")
    assert (
        text.index("Yes &amp; no.") < text.index("<table class='results stack sortable'>") < text.index('id="ledger"')
    )
    assert "<b>0.900</b><small>0.850–0.950</small>" in text and "trivial baseline (mean_low)" in text
    assert "<tr class='grey'" in text and "<tr class='baseline'" in text
    assert 'alt="Accuracy &lt;against&gt; time."' in text
    assert "Ignored, since not finished: textures/carpet/esm/seed-0." in text
    assert "4 results from 4 runs of 3 notebooks" in text


def test_the_ledger_links_each_finding_to_its_section(root):
    text = (root / "index.html").read_text(encoding="utf-8")
    supported = re.search(r'<tr id="C37">.*?</tr>', text, re.DOTALL).group()
    assert 'class="verdict inconclusive"' in supported and supported.count('class="finding"') == 1
    assert supported.count("<div>textures/") == 2 and "(no evidence: another measure than the one fixed" in supported
    assert "I-AUROC of this minus &lt;that&gt;" in supported
    assert re.search(r"textures/carpet: <b><a [^>]*>\+0.055 \[\+0.010, \+0.100\]</a></b>, n = 40", supported)
    assert 'class="verdict inconclusive"' in re.search(r'<tr id="C39">.*?</tr>', text, re.DOTALL).group()
    page, fragment = re.search(r'href="(textures/carpet[^"#]*)#([^"]*)"', supported).groups()
    assert f'id="{urllib.parse.unquote(fragment)}"' in (root / page).read_text(encoding="utf-8")
    assert len(re.findall(r'<li id="C\d+[a-c]?">', text)) == len(claims.published_claims()) - 2


def test_findings_of_a_measure_are_a_line_a_task_with_a_note_once():
    def finding(category, seed, *notes, measure="change of AP"):
        shared = {"measure": measure, "margin": 0.0, "weights": "w", "notebook": "04_lora", "section": "s"}
        return shared | {"dataset_category": category, "seed": seed, "notes": list(notes)}

    rows = [finding("a", 0, "all", "few"), finding("b", 0, "all", "x"), finding("a", 1, "all", "few")]
    group, other = evidence.grouped([*rows, finding("b", 1, "all"), finding("a", 0, "few", measure="change of PSNR")])
    assert [group["measure"], other["measure"]] == ["change of AP", "change of PSNR"]
    assert group["notes"] == ["all"] and other["notes"] == ["few"]
    assert [(task["task"], task["notes"]) for task in group["tasks"]] == [("a", ["few"]), ("b", [])]
    assert [(f["seed"], f["notes"]) for task in group["tasks"] for f in task["findings"]] == [
        *[(0, []), (1, [])],
        *[(0, ["x"]), (1, [])],
    ]


def test_without_the_comparison_the_page_says_so(tmp_path):
    finished(tmp_path, "07_invad", {"I-AUROC": 0.9})
    text = report.write(tmp_path / "smoke").read_text(encoding="utf-8")
    assert "The comparison has not run" in text and "<table class='results" not in text and "07_invad" in text


@pytest.mark.slow
def test_a_method_recorded_by_another_notebook_shares_that_notebooks_page(tmp_path):
    folder = finished(tmp_path, "07_invad", {"I-AUROC": 0.9})
    other = finished(tmp_path, "07_invad", {"I-AUROC": 0.8}, method="sgm", notebook_file=False, claims=FINDINGS)
    text = report.write(tmp_path / "smoke").read_text(encoding="utf-8")
    assert not (other / "run.html").exists()
    assert (folder / "run.html").relative_to(tmp_path / "smoke").as_posix() + "#Is-it" in text


@pytest.mark.slow
def test_pages_stay_below_their_limit_and_pictures_have_an_alternative_text(tmp_path):
    folder = finished(tmp_path, "07_invad", {"I-AUROC": 0.9})
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    picture = new_output("display_data", data={"image/png": base64.b64encode(buffer.getvalue()).decode()})
    caption = new_output("display_data", data={"text/markdown": "Noise, as seen. *(profile smoke)*"})
    nbformat.write(new_notebook(cells=[new_code_cell("x", outputs=[picture, caption])]), folder / "run.ipynb")
    whole = report.notebook_page(folder / "run.ipynb", title="t", back="b")
    small = report.notebook_page(folder / "run.ipynb", title="t", back="b", limit=100_000)
    assert len(whole) > 150_000 and len(small) <= 100_000
    assert 'alt="Noise, as seen."' in small or "alt='Noise, as seen.'" in small


def test_notebooks_keep_their_formulas_and_escape_their_output(root):
    text = (root / "textures/carpet/invad/seed-0/run.html").read_text(encoding="utf-8")
    assert "<mfrac>" in text and "<msqrt>" in text
    assert "\\nosuchcommand{x}" in text  # unknown: readable as it was written
    assert "&lt;b&gt;" in text
    assert 'href="../../../../index.html"' in text


@pytest.mark.slow
def test_the_same_runs_give_the_same_page(root):
    before = (root / "index.html").read_bytes()
    report.write(root)
    assert (root / "index.html").read_bytes() == before


def test_without_runs(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no complete run"):
        report.write(tmp_path / "smoke")
    assert cli.main(["report", "smoke", "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffad: ") and error.count("\n") == 1


class TestCommandLine:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["study", "smok"], "no profile 'smok' (did you mean 'smoke'?); there are: "),
            (["run", "07", "-p", "sed=1"], "unknown parameter `sed` (did you mean `seed`?)"),
            (["run", "07", "-p", "seed"], "expected name=value"),
            (["run", "07", "-p", "seed=one"], "`seed` is 'one' (str), expected int"),
            (["run", "77"], "no notebook matches '77'"),
            (["run", "0"], "more than one notebook matches '0'"),
            (["data", "check", "nowhere"], "nowhere"),
        ],
    )
    def test_bad_input_is_one_sentence_and_exit_code_2(self, arguments, message, capsys):
        assert cli.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error

    def test_values_keep_their_parameters_type(self):
        given = {"category": (1, "01"), "epochs": (5, "5"), "rate": (1e-4, "1e-4")}
        defaults = {"category": "carpet", "epochs": 1, "rate": 0.1}
        assert cli._typed(given, defaults) == {"category": "01", "epochs": 5, "rate": 1e-4}


def test_a_card_a_source_says_what_stands_and_what_falls():
    ledger = judged.ledger([]).to_dict("records")
    changed = [
        row
        | {"verdict": {"C37": claims.SUPPORTED, "C39": claims.NOT_SUPPORTED}.get(row["claim_id"], claims.NOT_TESTED)}
        for row in ledger
    ]
    cards = {card["name"]: card for card in front.cards(changed)}
    assert sum(card["claims"] for card in cards.values()) == len(ledger)
    kinds = {label: [row["claim_id"] for row in rows] for label, _, rows in cards["InvAD"]["measured"]}
    held, failed = (f"{word} in every task where measured, by different amounts" for word in ("Holds", "Fails"))
    assert kinds == {"Stands": ["C37"], "Falls": ["C39"], held: [], failed: [], "Varies": []}
    sides = {"C37": claims.SUPPORTED, "C38": "", "C39": claims.NOT_SUPPORTED}
    varied = [
        row | {"verdict": claims.VARIES, "in_every_task": sides[row["claim_id"]]} if row["claim_id"] in sides else row
        for row in ledger
    ]
    (card,) = (card for card in front.cards(varied) if card["name"] == "InvAD")
    kinds = {label: [row["claim_id"] for row in rows] for label, _, rows in card["measured"]}
    assert kinds == {"Stands": [], "Falls": [], held: ["C37"], failed: ["C39"], "Varies": ["C38"]}
    assert all(card["address"].startswith("https://") and card["says"].endswith(".") for card in cards.values())


def test_forest_plots_have_a_page_of_their_own(tmp_path):
    ledger = judged.ledger([]).to_dict("records")
    record = types.SimpleNamespace(folder=tmp_path / "comparison")
    assert front.write_forests(tmp_path, record, ledger) == set() and not (tmp_path / front.FORESTS).exists()
    (tmp_path / "comparison" / "figures").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "comparison" / "figures" / "claim_C14.png")
    assert front.write_forests(tmp_path, record, ledger) == {"C14"}
    page = (tmp_path / front.FORESTS).read_text(encoding="utf-8")
    assert page.count("<img") == 1 and 'id="C14"' in page and 'alt="Forest plot of C14' in page


def test_a_card_parts_what_was_measured_on_images_from_formulas_and_printed_tables():
    stands = {"C44", "C50b", "C65"}  # trainings, printed numbers, a formula
    changed = [
        row | {"verdict": claims.SUPPORTED if row["claim_id"] in stands else claims.NOT_TESTED}
        for row in judged.ledger([]).sort_values("claim_id", ascending=False).to_dict("records")
    ]
    for part, expected in (("measured", {"C44"}), ("by_itself", {"C50b", "C65"})):
        (rows,) = (rows for card in front.cards(changed) for label, _, rows in card[part] if rows)
        assert {row["claim_id"] for row in rows} == expected


@pytest.mark.slow
def test_sentences_stand_below_their_figure_and_a_narrow_version_beside_it(tmp_path):
    parameters = study.Parameters(profile="smoke", seed=0, device="cpu", output_root=str(tmp_path))
    run = study.Run("08_comparison", parameters)
    fig, _axis = plt.subplots(figsize=(2, 1))
    fig.savefig(run.path("figures/answer-narrow.png"))
    run.figure(fig, "answer", "All methods.")
    run.say("One of two is better.")
    run.record(metrics={}, experiments={"short_answer": "Perhaps.", "answer": ["Perhaps, since."]})
    finished(tmp_path, "07_invad", {"I-AUROC": 0.9})
    text = report.write(tmp_path / "smoke").read_text(encoding="utf-8")
    assert '<p class="short">Perhaps.</p>' in text
    assert '<span class="said">One of two is better.</span>' in text
    assert text.count("<source media=") == 1 and 'alt="All methods. One of two is better."' in text
    assert 'id="agreement"' in text  # there is a reference of this profile


def test_pages_of_runs_of_an_earlier_version_can_be_written(tmp_path):
    """Their table says above_floor."""
    run = study.Run("08_comparison", study.Parameters(profile="old", seed=0, device="cpu", output_root=str(tmp_path)))
    row = {"dataset": "a", "category": "b", "method": "invad", "seeds": 1, "above_floor": False, "I-AUROC": 0.6}
    study.write_atomically(run.path("table.csv"), pd.DataFrame([row]).to_csv(index=False))
    run.record(metrics={}, experiments={"answer": ["No."]})
    parameters = study.Parameters(
        profile="old", dataset="textures", category="carpet", seed=0, device="cpu", output_root=str(tmp_path)
    )
    study.Run("07_invad", parameters).record(metrics={"I-AUROC": 0.6})
    text = report.write(tmp_path / "old").read_text(encoding="utf-8")
    assert "<tr class='grey'" in text and '<p class="short">No.</p>' in text


def test_every_formula_of_the_notebooks_is_shown_as_one():
    """Display and inline formulas; an accent stays on its letter where there is an index."""
    formulas = []
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        text = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
        formulas += re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", "\n\n".join(text), flags=re.S)
    shown = [report.mathml(block or inline, bool(block)) for block, inline in formulas]
    assert len(shown) > 300 and [html for html in shown if not html.startswith("<math")] == []
    assert "<msub><mover><mi>" in report.mathml(r"\bar\alpha_t", block=False)
    for unreadable in (r"\frac{1}{", r"\nosuchcommand{x}"):
        assert report.mathml(unreadable, block=True) == f"<pre class='tex'>{unreadable}</pre>"

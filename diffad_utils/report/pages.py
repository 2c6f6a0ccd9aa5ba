"""The pages of a report: a front page and every executed notebook, readable from disk and without a network.

`write` reads only what the runs left in their folders (`study.load_runs`); the table, the answer and the figures of the
front page are those that the comparison (08) recorded, the ledger is made of the runs' own findings. Pictures are
embedded, formulas become MathML, and no page loads anything from elsewhere or is larger than `PAGE_LIMIT_BYTES`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import markupsafe
import pandas as pd

from diffad_utils import execution, study
from diffad_utils.analyses import agreement, shown_ledger
from diffad_utils.analyses import ledger as judged
from diffad_utils.io.notebooks import read_cells
from diffad_utils.io.png import small_png
from diffad_utils.report import benchmarks, evidence, front, narrow, strips
from diffad_utils.report.environment import environment
from diffad_utils.study import claims, data_independent

SITE = "site.txt"
"""The file by which a copy made by `site.write_site` is known."""

COMPARISON = "comparison"


PAGE_LIMIT_BYTES = 5_000_000


NOTEBOOK_DPI = 72
"""Of the pictures that a notebook displays (`plots.set_style`)."""


FRONT_COLUMNS = (
    "I-AUROC",
    "I-AP",
    "I-F1max",
    "P-AUROC",
    "P-AP",
    "AUPRO",
    "removal",
    "drift",
    "SSIM",
    "NFE",
    "parameters",
    "training s",
    "ms an image",
    "memory GiB",
)


def code_digest() -> str:
    """Checksum of what makes the pages: this room with its templates, what it imports, and the benchmarks' results."""
    results = [file.read_bytes() for file in [*benchmarks.result_files(), *_reference_files()]]
    return hashlib.sha256(b"".join([execution.package_digest("report").encode(), *results])).hexdigest()[:16]


def _reference_files() -> list[Path]:
    """What the agreement with the reference is read from."""
    names = ("metrics.json", "claims.json", f"{data_independent.FOLDER}/*.json")
    return sorted(file for name in names for file in study.reference_folder().rglob(name))


def mathml(tex: str, block: bool) -> str:
    """A TeX formula as MathML, which browsers show without a script; what cannot be read: the TeX itself."""
    known = re.sub(r"\\[bB]ig(?=\\\|)", "", tex.strip())  # it does not enlarge the bars of a norm
    known = known.replace(r"\tag", r"\qquad\tag")  # a browser puts it at the end, not at the margin
    try:
        from latex2mathml.converter import convert

        shown = convert(known, display="block" if block else "inline")
        shown = shown.replace("<mi>&#x02032;</mi>", "<mo>&#x02032;</mo>")  # a prime as a letter flies off
    except Exception:  # not installed, as on Kaggle, or one of its many errors; the source stays readable
        shown = "\\"
    if "\\" not in shown:
        return shown
    text = markupsafe.escape(tex.strip())  # a command that it does not know comes back as it was
    return f"<pre class='tex'>{text}</pre>" if block else f"<code class='tex'>{text}</code>"


def _exporter():
    from nbconvert.exporters import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return mathml(body, block=True)

        def inline_math(self, body: str) -> str:
            return mathml(body, block=False)

        def latex_environment(self, name: str, body: str) -> str:
            return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)

    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True)
    exporter.log.setLevel("ERROR")  # it warns of every figure without alternative text

    def markdown(source: str) -> str:
        return MarkdownWithMath(renderer=Renderer(escape=False)).render(source)

    exporter.register_filter("markdown2html", markdown)
    return exporter


def notebook_page(
    path: Path,
    *,
    title: str,
    back: str,
    limit: int = PAGE_LIMIT_BYTES,
    shown: Sequence[strips.Strip] = (),
    on_phones: Mapping[str, str] | None = None,
) -> str:
    """An executed notebook as one HTML page of at most ``limit`` bytes: its pictures are made smaller until it fits.

    Parameters
    ----------
    path : the ``.ipynb`` file.
    title : page title.
    back : relative address of the front page.
    shown : strips of the run, below the notebook.
    on_phones : caption of a figure -> address of its version for narrow screens (`front.on_phones`).
    """
    import nbformat
    from pygments.formatters import HtmlFormatter

    styles = {
        name: markupsafe.Markup(HtmlFormatter(style=style).get_style_defs(".highlight"))
        for name, style in (("pygments", "default"), ("pygments_dark", "github-dark"))
    }
    for scale in (1.0, 0.7, 0.5, 0.35, 0.2):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            _prepare_outputs(cell.get("outputs", []), scale)
        body, _ = _exporter().from_notebook_node(notebook)
        body = re.sub(r"<em>\((profile .*?)\)</em>(?=</p>)", r'<span class="tail">\1</span>', body)
        body = narrow.folded(narrow.boxed(narrow.stacked(body), on_phones))
        page = (
            environment()
            .get_template("notebook.html")
            .render(
                title=title,
                back=back,
                body=markupsafe.Markup(body),
                strips=[strips.html(strip) for strip in shown],
                **styles,
            )
        )
        if len(page.encode()) <= limit:
            break
    return page


def _prepare_outputs(outputs: list, scale: float) -> None:
    """Pictures smaller, and with the caption that follows them as their alternative text; without the empty lines that
    progress bars leave."""
    outputs[:] = [output for output in outputs if output.output_type != "stream" or output.text.strip()]
    for output, following in itertools.zip_longest(outputs, outputs[1:], fillvalue={}):
        picture = output.get("data", {}).get("image/png")
        if picture is None:
            continue
        output["data"].pop("text/html", None)
        content = base64.b64decode(picture)
        output["data"]["image/png"] = base64.b64encode(small_png(content, scale)).decode("ascii")
        caption = following.get("data", {}).get("text/markdown", "")
        text = re.sub(r"\s*\*\(.*\)\*$", "", "".join(caption)).strip() or "figure of the cell above"
        width = narrow.readable_width(content, NOTEBOOK_DPI)
        output.setdefault("metadata", {})["image/png"] = {"alt": text, "width": width}


def _question(path: Path) -> str:
    """The question that an executed notebook starts with, or nothing."""
    if not path.is_file():
        return ""
    cells = read_cells(path)
    found = re.search(r"\*\*Question\.\*\*\s*(.+)", cells[0].source if cells else "")
    return re.sub(r"[*_`]", "", found.group(1)).strip() if found else ""


def _answer(record: study.RunRecord) -> markupsafe.Markup | None:
    """What a run answers to its notebook's question, with its Markdown's bold words; None for one that does not say."""
    said = record.experiments.get("answer")
    if not isinstance(said, str):
        return None
    return markupsafe.Markup(re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", str(markupsafe.escape(said))))


def _export_notebook(record: study.RunRecord, root: Path) -> str | None:
    """Write run.html beside run.ipynb; returns its address relative to `root`, or None without a notebook."""
    source, target = record.folder / "run.ipynb", record.folder / "run.html"
    if not source.is_file():
        if (record.folder / execution.TAKEN).is_file() and target.is_file():
            return target.relative_to(root).as_posix()  # it came with its page
        target.unlink(missing_ok=True)
        return None
    back = os.path.relpath(root / "index.html", record.folder).replace(os.sep, "/")
    versions = front.on_phones(record)
    text = notebook_page(source, title=_title(record), back=back, shown=strips.load(record.folder), on_phones=versions)
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        study.write_atomically(target, text)
    return target.relative_to(root).as_posix()


def _title(record: study.RunRecord) -> str:
    if record.method == COMPARISON:
        return record.manifest["notebook"]
    return f"{record.method} on {record.dataset}/{record.category}, seed {record.seed}"


def _run_page(record: study.RunRecord, root: Path) -> Path:
    """The page that shows how a run was made: its own notebook's, or that of the notebook's main method beside it."""
    own, main = record.folder / "run.html", study.method_of(record.manifest["notebook"])
    beside = root / record.dataset / record.category / str(main) / record.folder.name / "run.html"
    return own if own.is_file() or main is None else beside


def _describe(record: study.RunRecord, root: Path) -> dict:
    manifest, page = record.manifest, _run_page(record, root)
    memory = manifest["peak_memory_bytes"]
    return {
        "title": _title(record),
        "notebook": manifest["notebook"],
        "page": page.relative_to(root).as_posix() if page.is_file() else None,
        "task": f"{record.dataset}/{record.category}" if record.dataset else "all",
        "method": record.method,
        "seed": record.seed,
        "started": manifest["started"].replace("T", " ").replace("+00:00", " UTC"),
        "wall": f"{manifest['wall_s']:.0f} s",
        "device": manifest["device"] if manifest["device"] == "cpu" else manifest["device_name"],
        "cores": manifest.get("cpu_count"),
        "memory": " + ".join(f"{value / 2**30:.1f} GiB{' GPU' if k == 'cuda' else ''}" for k, value in memory.items()),
        "git": _revision(manifest["git"]),
        "manifest": (record.folder / "manifest.json").relative_to(root).as_posix(),
    }


def _revision(git: dict) -> str:
    if not git.get("revision"):
        return "unknown"
    return git["revision"][:10] + (" + changes" if git.get("dirty") else "")


def anchor(heading: str) -> str:
    """The fragment of a heading on a notebook's page, as nbconvert names it, quoted for an address."""
    return urllib.parse.quote(heading.strip().replace(" ", "-"))


def ledger_rows(records: Sequence[study.RunRecord], root: Path) -> list[dict]:
    """One row a claim, those with findings first: the columns of `claims.ledger`, ``exploratory``, and ``evidence``,
    its findings in groups (`evidence.grouped`)."""
    found = claims.findings(judged.distinct(records))
    pages = {str(record.folder): _run_page(record, root) for record in records}
    rows = []
    for row in shown_ledger.for_readers(judged.ledger(records)).to_dict("records"):
        found_here = []
        for item in found[found["claim_id"] == row["claim_id"]].to_dict("records"):
            page = pages[item["folder"]]
            address = f"{page.relative_to(root).as_posix()}#{anchor(item['section'])}" if page.is_file() else None
            text, note = claims.effect_and_note(item)
            notes = [note] * bool(note) + [f"no evidence: {item['objection']}"] * bool(item["objection"])
            found_here.append(item | {"text": shown_ledger.zeros(text), "notes": notes, "page": address})
        exploratory = row["claim_id"] in judged.EXPLORATORY
        rows.append(row | {"exploratory": exploratory, "evidence": evidence.grouped(found_here)})
    return sorted(rows, key=lambda row: not row["evidence"])


def _read_comparison(root: Path) -> dict | None:
    """The table, the answer and the figures that the comparison recorded; None where it has no finished run."""
    if not (root / COMPARISON / "metrics.json").is_file():
        return None
    record = study.load_run(root / COMPARISON)
    found = {
        "record": record,
        "page": _export_notebook(record, root),
        "short": record.experiments.get("short_answer", ""),
        "answer": record.experiments.get("answer", []),
        "figure": front.figures(record, [front.ANSWER]),
        "strips": front.figures(record, front.STRIPS),
        "further": front.figures(record, front.FURTHER),
        "summary": front.summary(record),
        "false_alarms": f"{record.manifest['parameters'].get('false_alarms', 0):.0%}",
        "table": None,
    }
    path = record.folder / "table.csv"
    if path.is_file():
        from diffad_utils.report import tables  # brings torch, which the command line can do without

        table = pd.read_csv(path).rename(columns={"above_floor": "above_baseline"})  # as runs of 0.1 called it
        table["above_baseline"] = [None if pd.isna(value) else bool(value) for value in table["above_baseline"]]
        table["statistic"] = table["statistic"].fillna("") if "statistic" in table else ""
        winners = {tuple(entry) for entry in record.experiments.get("winners", [])}
        found["table"] = markupsafe.Markup(tables.to_html(table, winners, FRONT_COLUMNS))
    return found


def _same_everywhere(records: Sequence[study.RunRecord]) -> dict[str, str]:
    """Versions of the packages over all runs; several, joined, where runs differ."""
    seen: dict[str, dict] = {}
    for record in records:
        for name, version in record.manifest.get("versions", {}).items():
            seen.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in sorted(seen.items())}


def _failed_page(note: dict, root: Path) -> str | None:
    """The half-executed notebook of a failed run as a page beside it; returns its address relative to `root`."""
    source = Path(note["notebook"])
    if not source.is_file():
        return None
    target = source.with_suffix(".html")
    back = os.path.relpath(root / "index.html", target.parent).replace(os.sep, "/")
    study.write_atomically(target, notebook_page(source, title=f"FAILED: {note['label']}", back=back))
    return target.relative_to(root).as_posix()


def _describe_agreement(found: agreement.Agreement | None) -> dict | None:
    """What the page shows of an agreement with the reference: sentence, rows (largest difference first), verdicts."""
    if found is None:
        return None
    runs = found.runs.sort_values("largest relative difference", ascending=False, na_position="first")
    rows = runs.set_axis(["run", "largest", "metric", "ours", "reference", "findings", "why"], axis="columns")
    statements = claims.published_claims()["statement"]
    return {
        "sentence": found.sentence(),
        "expected": agreement.EXPECTED,
        "rows": rows.to_dict("records"),
        "verdicts": [
            row | {"statement": statements.get(row["claim"], "")} for row in found.verdicts.to_dict("records")
        ],
    }


def _in_part(root: Path) -> str:
    """How much of the profile is there, if not all of it, as a sentence; empty for a profile that is not known here."""
    try:
        plan = execution.load_plan(root.name)
    except execution.ProfileError:
        return ""
    runs = [root / run.folder.relative_to(plan.root) for run in plan.runs]
    done = [folder for folder in runs if (folder / "metrics.json").is_file()]
    return f"{len(done)} of the {len(runs)} runs of the profile are finished." if len(done) < len(runs) else ""


def write(root: str | Path, missing: Sequence[str] | None = None) -> Path:
    """Write ``index.html`` and one HTML page an executed notebook from the complete runs in a profile's folder.

    Parameters
    ----------
    root : the profile's output, such as ``reports/smoke``.
    missing : runs to name as not finished, where `root` cannot tell; None: what is unfinished there.

    Returns
    -------
    Path of the front page.

    Raises
    ------
    FileNotFoundError
        the folder has neither a complete run nor a failed one.
    FileExistsError
        the folder is a copy without notebooks (`site.write_site`), which would lose its pages.
    """
    root = Path(root)
    if (root / SITE).is_file():
        raise FileExistsError(f"{root} was made by `diffad site`: make it anew from the runs with that command")
    records = study.load_runs(root)
    failed = execution.failures(root)
    if not records and not failed:
        raise FileNotFoundError(f"{root}: no complete run in it; run `make report PROFILE={root.name}` first")
    for record in records:
        _export_notebook(record, root)
    joined = _read_comparison(root)
    everything = [*records, *([joined["record"]] if joined else [])]
    runs = [_describe(record, root) for record in everything]
    notebooks: dict[str, dict] = {}
    for record, run in zip(everything, runs, strict=True):
        entry = notebooks.setdefault(run["notebook"], {"question": "", "pages": {}, "answers": {}})
        entry["question"] = entry["question"] or _question(record.folder / "run.ipynb")
        entry["question"] = entry["question"] or _question(
            study.repository() / "notebooks" / f"{run['notebook']}.ipynb"
        )
        label = run["task"] + (f", seed {run['seed']}" if record.seed else "")
        entry["pages"].setdefault((label, run["page"]), []).append(run["method"])
        if said := _answer(record):
            entry["answers"][label] = said
    for note in failed:
        note["page"] = _failed_page(note, root)
        for kind in ("log", "notebook"):
            note[kind] = Path(note[kind]).relative_to(root).as_posix()

    def unique(kind, key):
        return list({entry[key]: entry for r in records for entry in r.manifest[kind]}.values())

    agreed = agreement.with_reference(root)
    if agreed is not None:
        agreed.write(root)
    ledger = ledger_rows(everything, root)
    text = (
        environment()
        .get_template("report.html")
        .render(
            profile=root.name,
            in_part=_in_part(root),
            comparison=joined,
            runs=runs,
            pages=sum(len(entry["pages"]) for entry in notebooks.values()),
            # the autoencoder of a small diffusion model is part of that model
            minis=list(
                dict.fromkeys(e["name"].removeprefix("vae:") for e in unique("weights", "name") if e["is_mini"])
            ),
            notebooks=dict(sorted(notebooks.items())),
            failed=failed,
            ignored=study.unfinished_runs(root) if missing is None else missing,
            cards=front.cards(ledger),
            ledger=[row for row in ledger if row["evidence"]],
            forests=front.write_forests(root, joined["record"] if joined else None, ledger),
            untested=[row for row in ledger if row["verdict"] in (claims.NOT_TESTED, claims.OUT_OF_SCOPE)],
            printed=[row for row in ledger if not row["evidence"] and row["verdict"] in claims.DECIDED],
            weights=unique("weights", "name"),
            data=unique("data", "sha256"),
            versions=_same_everywhere(records),
            agreement=_describe_agreement(agreed),
            benchmarks=benchmarks.write(root),
            strips=strips.write(root, [(run, record.folder) for run, record in zip(runs, everything, strict=True)]),
            # from the runs, not the clock: the same runs give the same page
            latest=max((run["started"] for run in runs), default=""),
        )
    )
    study.write_atomically(root / "index.html", text)
    return root / "index.html"

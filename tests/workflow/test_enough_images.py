"""How many test images stand behind each finding, from the parameters of a run alone: `standard` decides from all.

`COUNTS` says for each claim on how many images, defects or normal images a notebook judges it, where the data set has
``good`` normal and ``bad`` defective test images with masks and counterparts. It is held against what the reference
runs recorded, and then says what `standard` will have.
"""

from pathlib import Path

import nbformat
import pytest

from diffad_utils import data, study
from diffad_utils.analyses.task import rendered_test_images
from diffad_utils.execution import profiles
from diffad_utils.study import claims
from diffad_utils.study.parameters import default_parameters

ROOT = Path(__file__).parents[2]


def total(good, bad, p):
    return good + bad


def defects(good, bad, p):
    return bad


def subset(name):
    """`Task.subset` takes half of each kind at most."""
    return lambda good, bad, p: min(good, p[name] // 2) + min(bad, p[name] // 2)


def of_kind(name, kind):
    """Normal or defective images of such a subset."""
    return lambda good, bad, p: min((good, bad)[kind], p[name] // 2)


def normal(name):
    """The first normal test images."""
    return lambda good, bad, p: min(good, p[name])


def swept_defects(good, bad, p):
    return min(bad, p["sweep_images"] // 2)


NORMAL, DEFECTIVE = 0, 1
COUNTS = {
    "02_vae_bottleneck": {
        ("C01", "C02"): lambda good, bad, p: len(data.categories("textures")) * min(good, p["survey_images"]),
        ("C14", "C19", "C20"): of_kind("sweep_images", NORMAL),
        ("C15a", "C98"): total,
    },
    "03_img2img_sweep": {
        ("C05a", "C05b", "C06", "C07", "C09"): swept_defects,
        ("C08",): lambda good, bad, p: swept_defects(good, bad, p) // 2,
        ("C10", "C11", "C12", "C13", "C21", "C28"): normal("pair_images"),
        ("C22", "C23", "C25", "C26", "C32b"): total,
        ("C27", "C29", "C32a"): subset("sweep_images"),
    },
    "04_lora": {
        ("C16",): of_kind("study_images", DEFECTIVE),
        ("C17a", "C17b", "C24a"): subset("study_images"),
        ("C18", "C24b"): of_kind("study_images", NORMAL),
    },
    "05_esm": {
        ("C42", "C44", "C46", "C47a", "C55", "C56", "C64", "C94", "C95"): total,
        ("C45",): defects,
        ("C47b", "C51", "C52", "C62"): subset("sweep_images"),
        ("C49a", "C49b", "C50a", "C53", "C54"): subset("strip_images"),
    },
    "06_d3ad": {
        ("C42", "C68", "C69", "C70", "C71", "C72", "C73", "C74a", "C74b", "C89", "C90", "C91", "C96"): total,
        ("C75a",): lambda good, bad, p: bad // 2,
        ("C75b", "C77"): defects,
        ("C76",): lambda good, bad, p: bad // 3,
        ("C88",): lambda good, bad, p: 2 * bad // 3,
        ("C66", "C93"): lambda good, bad, p: min(bad, p["removal_images"]),
        ("C78",): lambda good, bad, p: min(bad, p["removal_images"]) // 3,
        ("C79a", "C79b", "C80"): lambda good, bad, p: good,
        ("C31", "C81", "C82"): lambda good, bad, p: min(good, 30),
        ("C97",): lambda good, bad, p: p["space_repetitions"],
    },
    "07_invad": {("C33", "C34", "C35"): subset("sweep_images"), ("C37", "C38", "C39"): total},
}
DIFFER = {"C46": defects, "C36": total, "C24a": total}
"""Claims with findings on other images besides: C46 and C24a in their own notebook, C36 in notebook 08."""


def image_counts(category, wanted=0):
    index = data.load_index("textures", category=category, **rendered_test_images("textures", wanted))
    test = index[index["split"] == "test"]
    return int((test["label"] == 0).sum()), int((test["label"] == 1).sum())


def expected(notebook, parameters, category="leather"):
    """Claim -> images behind it."""
    counts = image_counts(category, parameters["test_images"])
    return {claim: count(*counts, parameters) for names, count in COUNTS[notebook].items() for claim in names}


def parameters_of(run):
    cells = nbformat.read(run.notebook, as_version=4).cells
    (source,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return default_parameters(source) | dict(run.parameters)


def runs_of(profile, notebook):
    plan = profiles.load_plan(profile).runs
    return [run for run in plan if run.notebook.stem == notebook and run.parameters["dataset"] == "textures"]


@pytest.mark.parametrize("notebook", COUNTS)
def test_the_counts_are_those_that_the_reference_runs_recorded(notebook):
    (run,) = [run for run in runs_of("smoke", notebook) if run.parameters["category"] == "leather"]
    found = expected(notebook, parameters_of(run))
    folder = ROOT / "reports/reference/smoke/textures/leather"
    records = [study.load_run(path.parent) for path in sorted(folder.rglob("claims.json"))]
    recorded = claims.findings([record for record in records if record.manifest["notebook"] == notebook])
    checked = [row for row in recorded.itertuples() if row.claim_id in found]
    assert len({row.claim_id for row in checked}) >= 5
    for row in checked:
        also = DIFFER.get(row.claim_id, lambda *_: None)(*image_counts("leather"), None)
        assert row.n in (found[row.claim_id], also), row.claim_id


@pytest.mark.parametrize("notebook", COUNTS)
def test_standard_judges_on_enough_images(notebook):
    """Seed 0 never has fewer than claims.csv asks for, seeds 1 and 2 where a claim is between trainings. Methods are
    compared on all test images."""
    table = claims.published_claims()
    for run in runs_of("standard", notebook):
        parameters = parameters_of(run)
        good, bad = image_counts(run.parameters["category"], parameters["test_images"])
        assert (good, bad) == (64, 96)
        for claim, n in expected(notebook, parameters, run.parameters["category"]).items():
            least = int(table.loc[claim, "min_n"])
            if run.parameters["seed"] == 0 or table.loc[claim, "kind"] == "between trainings":
                assert n >= least, f"{claim}: n = {n}, claims.csv asks for {least}"
            if claim in ("C44", "C47a", "C70", "C71", "C98", "C37", "C22"):
                assert n == good + bad, f"{claim} is judged on {n} of {good + bad} images"


OTHERS = {"C03", "C04", "C60b", "C92a", "C92b"}
"""How many images these have is decided by the data (sizes of defects) or by repetitions of a timing."""
JOINT = {"C15a", "C15b", "C24c", "C30", "C36", "C40", "C62", "C67"}
"""Of notebook 08, from runs of several methods."""


def test_standard_leaves_eight_claims_untested_and_the_ledger_says_what_each_needs():
    """All eight name data that are not here. The rest has an experiment, or is about printed numbers or mathematics."""
    table = claims.published_claims()
    tested = {claim for counts in COUNTS.values() for names in counts for claim in names} | OTHERS | JOINT
    here = {run.parameters["dataset"] for run in profiles.load_plan("standard").runs if "dataset" in run.parameters}
    untested = [
        name
        for name, claim in table.iterrows()
        if claim["kind"] not in ("arithmetic", "mathematical")
        and not (name in tested and (claim["datasets"] == "any" or set(claim["datasets"].split()) & here))
    ]
    numbers = {name[:3] for name in untested}
    assert numbers == {"C41", "C43", "C57", "C58", "C59", "C85", "C86", "C87"}
    ledger = claims.ledger([]).set_index("claim_id")
    for name in untested:
        needs = ledger.loc[name, "would_change"]
        assert needs.startswith("not tested, needs ") and table.loc[name, "scope"] in needs
        assert table.loc[name, "how_to_test"] in needs and ledger.loc[name, "verdict"] == claims.OUT_OF_SCOPE

"""The profiles have the data sets that the papers report, with the study's own baselines on each."""

import pytest

from diffad_utils.execution import profiles

REPORTED = {
    "05_esm": {"mvtec_ad", "visa", "mpdd"},
    "06_d3ad": {"mvtec_ad", "visa", "btad"},
    "07_invad": {"mvtec_ad", "visa", "mpdd", "bmad"},
}
"""By notebook: the data sets of its paper (data/published/results.csv); InvAD's abstract adds medical images."""


def grid(*names: str) -> dict[str, set[tuple[str, str]]]:
    """By notebook: the data sets and categories of these profiles together."""
    found: dict[str, set[tuple[str, str]]] = {}
    for name in names:
        for run in profiles.load_plan(name).runs:
            task = run.parameters.get("dataset"), run.parameters.get("category")
            found.setdefault(run.notebook.stem, set()).add(task)
    return found


@pytest.mark.parametrize("names", [("paper",), ("kaggle", "kaggle-others")])
def test_every_method_runs_on_the_data_of_its_paper_beside_the_baselines(names):
    tasks = grid(*names)
    for notebook, datasets in REPORTED.items():
        assert {dataset for dataset, _ in tasks[notebook]} == datasets
        assert tasks[notebook] <= tasks["01_data"]  # the trivial baseline and the detectors without diffusion


def test_standard_trains_three_seeds_of_every_network():
    runs = [run for run in profiles.load_plan("standard").runs if run.notebook.stem != "08_comparison"]
    for notebook in {run.notebook.stem for run in runs}:
        own = [run.parameters for run in runs if run.notebook.stem == notebook]
        assert len({(p["dataset"], p["category"]) for p in own}) == 11
        # 01 and 03 train nothing: three seeds of 03 where a trained method is compared with it, and of 01 where the
        # seed decides which images are tested
        assert len(own) == {"01_data": 15, "03_img2img_sweep": 15}.get(notebook, 33)
        assert {p["seed"] for p in own} == {0, 1, 2}
        if notebook == "01_data":
            assert {p["dataset"] for p in own if p["seed"]} == {"elpv"}
        trained = {(p["dataset"], p["category"]) for p in own if "ganomaly" in p.get("baselines", [])}
        # a decided verdict needs two categories
        assert trained == ({("elpv", "mono"), ("textures", "leather")} if notebook == "01_data" else set())
        assert all(p["training_seeds"] == 1 for p in own if "training_seeds" in p)  # a run for each seed

"""The comparison reads runs and nothing else: its intervals, marks, statistics, exports and sentences."""

import dataclasses
import json
import re
import shutil
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from diffad_utils import metrics, study
from diffad_utils.analyses import (
    by_defect,
    comparison,
    conclusion,
    conventions,
    diffusion_controls,
    example_cases,
    in_words,
    map_summaries,
    method_list,
    method_results,
    over_tasks,
)
from diffad_utils.analyses import ledger as judged
from diffad_utils.analyses.published import beside_published, disagreements, published_gaps, published_results
from diffad_utils.io import store
from diffad_utils.methods import METHODS
from diffad_utils.methods.trivial import PARTS
from diffad_utils.report import tables
from diffad_utils.study import claims

ROOT = Path(__file__).parents[3]
N = 40


def recorded(
    root,
    method: str,
    strength: float,
    category="carpet",
    seed=0,
    masks=False,
    rebuilt=False,
    n=N,
    bare=(),
    first=0,
    **more,
):
    """A run whose scores separate the classes by ``strength`` standard deviations; the images ``bare`` lack masks, and
    the numbers in the keys begin with ``first``."""
    notebook = "01_data" if method == "trivial" else "07_invad"
    parameters = study.Parameters(
        profile="smoke", dataset="textures", category=category, seed=seed, device="cpu", output_root=str(root)
    )
    run = study.Run(notebook, parameters, method)
    generator = np.random.default_rng([seed, len(method), *map(ord, category)])
    label = (np.arange(n) % 2).astype(int)
    noise = generator.normal(size=n)
    keys = [f"textures/{category}/test/{'hole' if label[i] else 'good'}/{first + i:03d}" for i in range(n)]
    batch = {"key": keys, "label": torch.from_numpy(label)}
    parts = {name: torch.from_numpy(generator.normal(size=n)) for name in PARTS} if method == "trivial" else {}
    prediction = types.SimpleNamespace(
        score=torch.from_numpy(strength * label + noise),
        anomaly_map=None,
        reconstruction=None,
        parts=parts,
        nfe=int(method == "invad"),
    )
    if masks:
        mask = torch.zeros(n, 24, 24, dtype=torch.bool)
        for i in np.flatnonzero(label):
            mask[i, 5 : 9 + i % 9, 6:11] = True
        batch["mask"], maps = mask, torch.from_numpy(generator.random((n, 24, 24)).astype(np.float32))
        prediction.anomaly_map = maps + strength * 0.3 * mask
        mask[list(bare)] = False
    if rebuilt:
        batch["image"] = torch.rand(n, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        batch["twin"] = torch.where(mask[:, None], 0.5, batch["image"])
        prediction.reconstruction = (batch["twin"] + 0.01).clamp(0, 1)
    values = metrics.evaluate(prediction, batch)
    if rebuilt:
        from diffad_utils.metrics.counterfactual import reconstruction_metrics

        values |= reconstruction_metrics(prediction.reconstruction, batch)
    timing = {"fit_s": 2.0, "ms_per_image": 5.0 * (1 + len(method)), "ms_at_64px": 4.0, "ms_at_128px": 9.0}
    run.record(prediction, batch, values, maps=masks, timing=timing, **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    recorded(root, "trivial", 0.1, masks=True)
    recorded(root, "invad", 3.0, masks=True, rebuilt=True)
    recorded(root, "anomalib:padim", 0.3, masks=True)
    return root / "smoke"


@pytest.fixture(scope="module")
def measured(root):
    return method_results.measure(study.load_runs(root), n=300)


def row(measured, method):
    return next(r for r in measured if r.method == method)


def test_values_are_the_exact_ones_and_lie_in_their_intervals(root, measured):
    record = next(r for r in study.load_runs(root) if r.method == "invad")
    found = row(measured, "invad")
    for name in method_results.QUALITY:
        assert found.values[name] == record.metrics[name]
        low, high = found.interval(name)
        assert low <= found.values[name] <= high, name
        assert low < high or name in ("SSIM", "drift")
    assert found.values["NFE"] == 1 and found.values["training s"] == 2.0 and found.interval("NFE") is None


def test_image_intervals_are_those_of_the_plain_bootstrap(root, measured):
    record = next(r for r in study.load_runs(root) if r.method == "invad")
    images = method_results.images_of(record)
    expected = metrics.bootstrap_interval(
        metrics.image_auroc, images["score"].to_numpy(), images["label"].to_numpy(), n=300
    )
    assert row(measured, "invad").interval("I-AUROC") == expected


def test_the_grid_of_thresholds_moves_pixel_metrics_by_less_than_two_thousandths(root):
    """As said, on the test set itself and on resamples of it, against the exact metrics."""
    record = next(r for r in study.load_runs(root) if r.method == "anomalib:padim")
    _, maps, masks = method_results.maps_of(record)
    times = np.concatenate([np.ones((1, N), dtype=int), *metrics.bootstrap_draws(masks.any(axis=(1, 2)), 3, 0)])
    found = metrics.metrics_from_counts(metrics.pixel_counts(maps, masks), times)
    for i, drawn in enumerate(times):
        chosen = np.repeat(np.arange(N), drawn)
        for name, function in metrics.PIXEL_METRICS.items():
            assert found[name][i] == pytest.approx(function(maps[chosen], masks[chosen]), abs=2e-3), name


def test_the_table_for_a_paper_is_escaped_and_complete():
    task = {"dataset": "textures", "category": "carpet", "seeds": 1, "AUPRO": float("nan")}
    trivial = task | {"method": "trivial", "statistic": "r_max", "above_baseline": None, "I-AUROC": 0.5}
    other = task | {"method": "esm_sigma", "statistic": None, "above_baseline": True, "I-AUROC": 0.9}
    latex = tables.to_latex(pd.DataFrame([trivial, other]), {("textures/carpet", "esm_sigma", "I-AUROC")})
    assert latex.splitlines() == [
        r"\begin{tabular}{llrrr}",
        r"\toprule",
        r"data & method & seeds & I-AUROC & AUPRO \\",
        r"\midrule",
        r"\textit{textures/carpet} & \textit{trivial baseline (r\_max)} & \textit{1} & \textit{0.500} & \textit{--} \\",
        r"textures/carpet & esm\_sigma & 1 & \textbf{0.900} & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_the_trivial_baseline_is_marked_and_what_is_not_above_it_greyed(measured):
    table = comparison.table(measured)
    assert table["method"].tolist()[0] == "trivial" and table["statistic"][0] in PARTS
    above = table.set_index("method")["above_baseline"]
    assert above["invad"] is True and above["anomalib:padim"] is False and above["trivial"] is None
    winners = comparison.clear_winners(measured)
    assert ("textures/carpet", "invad", "I-AUROC") in winners and not any(
        method == "trivial" for _, method, _ in winners
    )
    text = tables.to_markdown(table, winners)
    assert ("*trivial baseline (" in text and "**1.000" in text) or "**0.9" in text
    assert re.search(r"color:#8a919b\">anomalib:padim", text)
    latex = tables.to_latex(table, winners)
    assert (
        r"\textcolor{gray}{anomalib:padim}" in latex and r"\textbf{" in latex and latex.count(r"\\") == len(table) + 1
    )
    page = tables.to_html(table, winners)
    assert (
        "<tr class='grey'" in page and "<tr class='baseline'" in page and "<b>" in page and page.count("<small>") > 10
    )


def test_no_bold_without_a_clear_winner(tmp_path):
    recorded(tmp_path, "invad", 1.0)
    recorded(tmp_path, "sigma", 1.0)
    assert comparison.clear_winners(method_results.measure(study.load_runs(tmp_path / "smoke"), 200)) == set()


def test_deleting_a_methods_runs_removes_its_rows_and_nothing_else(root, tmp_path, measured):
    shutil.copytree(root, tmp_path / "smoke")
    shutil.rmtree(tmp_path / "smoke/textures/carpet/anomalib_padim")
    (tmp_path / "smoke/textures/carpet/esm/.seed-0.partial-xyz").mkdir(parents=True)
    less = method_results.measure(study.load_runs(tmp_path / "smoke"), n=300)
    before = comparison.table(measured).drop(columns="memory GiB")
    expected = before[before["method"] != "anomalib:padim"].reset_index(drop=True)
    pd.testing.assert_frame_equal(comparison.table(less).drop(columns="memory GiB"), expected)
    assert study.unfinished_runs(tmp_path / "smoke") == ["textures/carpet/esm/seed-0"]
    shutil.rmtree(tmp_path / "smoke/textures/carpet/trivial")
    alone = method_results.measure(study.load_runs(tmp_path / "smoke"), n=50)
    assert comparison.table(alone)["method"].tolist() == ["invad"] and comparison.against_baseline(alone).empty


def test_methods_on_different_images_are_compared_on_those_they_share(tmp_path):
    recorded(tmp_path, "invad", 3.0)
    recorded(tmp_path, "esm", 0.3, n=30)
    records = study.load_runs(tmp_path / "smoke")
    measured = method_results.measure(records, 200)
    a, b = row(measured, "invad"), row(measured, "esm")
    found = comparison.difference(a, b, "I-AUROC")
    shared = method_results.images_of(records[0])["key"]
    scores = [method_results.images_of(r).set_index("key").loc[shared] for r in (records[1], records[0])]
    expected = metrics.paired_bootstrap_difference(
        metrics.image_auroc, scores[0]["score"], scores[1]["score"], scores[0]["label"].to_numpy(), 200
    )
    assert found == pytest.approx(expected) and comparison.table(measured)["images"].tolist() == [40, 30]
    recorded(tmp_path, "ddad", 0.3, n=12)
    few = method_results.measure(study.load_runs(tmp_path / "smoke"), 50)
    assert comparison.difference(row(few, "invad"), row(few, "ddad"), "I-AUROC") is None  # six of a class: too few
    assert set(comparison.pairwise(few)["b"]) == {"esm"} and comparison.clear_winners(few) == set()


def test_seeds_on_other_numbers_of_images_are_not_averaged(tmp_path):
    recorded(tmp_path, "invad", 1.0)
    recorded(tmp_path, "invad", 1.0, n=30, seed=1)
    with pytest.raises(ValueError, match="different numbers of test images"):
        method_results.measure(study.load_runs(tmp_path / "smoke"), 50)


def test_seeds_may_have_test_images_of_their_own(tmp_path):
    """As ELPV's, whose split depends on the seed: methods are compared on the images of each seed that both have."""
    for seed in range(3):
        for method, strength in (("invad", 1.0), ("esm", 0.4)):
            recorded(tmp_path, method, strength, seed=seed, first=10 * seed)
    recorded(tmp_path, "trivial", 0.1)  # the first seed alone
    records = study.load_runs(tmp_path / "smoke")
    measured = method_results.measure(records, 200)
    a, b, baseline = (row(measured, name) for name in ("invad", "esm", "trivial"))
    assert len(a.scores) == N + 20 and a.scores["label"].notna().all() and a.values["images"] == N
    assert a.values["I-AUROC"] == pytest.approx(np.mean([r.metrics["I-AUROC"] for r in records if r.method == "invad"]))
    assert not comparison.same_images(a, b) and not comparison.same_images(a, baseline)
    change, low, high = comparison.difference(a, b, "I-AUROC")
    assert change == pytest.approx(a.values["I-AUROC"] - b.values["I-AUROC"])
    own = [
        metrics.paired_bootstrap_difference(
            metrics.image_auroc, *(scores[seed].to_numpy() for scores in both), both[0]["label"].to_numpy(), 200
        )
        for seed in range(3)
        for both in [[r.scores[["label", seed]].dropna() for r in (a, b)]]
    ]
    _, least, most = np.mean(own, axis=0)  # as wide as one seed's, and the spread over seeds
    error = student([one[0] for one in own])
    assert change - low == pytest.approx(np.hypot(change - least, error))
    assert high - change == pytest.approx(np.hypot(most - change, error))
    ends = metrics.percentile_interval(a.samples["I-AUROC"])
    single = method_results.measure(records[:1], 200)[0].samples["I-AUROC"]
    assert np.diff(ends) == pytest.approx(np.diff(metrics.percentile_interval(single)), rel=0.5), "not a third of it"
    labels = baseline.scores["label"].to_numpy()
    mine = a.scores[0].dropna()
    expected = metrics.paired_bootstrap_difference(
        metrics.image_auroc, mine.to_numpy(), baseline.scores[0].to_numpy(), labels, 200
    )
    assert mine.index.equals(baseline.scores.index)
    assert comparison.difference(a, baseline, "I-AUROC") == pytest.approx(expected)


def student(values) -> float:
    """Half of Student's interval of three seeds."""
    return 4.302653 * np.std(values, ddof=1) / np.sqrt(3)


def test_an_interval_of_several_seeds_is_of_images_and_seeds(tmp_path):
    for seed in range(3):
        recorded(tmp_path, "invad", 1.0, seed=seed)
        recorded(tmp_path, "esm", 0.5, seed=seed)
    recorded(tmp_path, "trivial", 0.1)
    records = study.load_runs(tmp_path / "smoke")
    measured = method_results.measure(records, 50)
    found, other, baseline = (row(measured, name) for name in ("invad", "esm", "trivial"))
    values = np.array([r.metrics["I-AUROC"] for r in records if r.method == "invad"])
    assert found.seeds == (0, 1, 2) and found.values["I-AUROC"] == pytest.approx(values.mean())
    least, most = metrics.percentile_interval(found.samples["I-AUROC"])
    low, high = found.interval("I-AUROC")
    assert values.mean() - low == pytest.approx(np.hypot(values.mean() - least, student(values)), rel=1e-5)
    assert high == 1.0 < values.mean() + np.hypot(most - values.mean(), student(values)), "an AUROC ends at 1"
    pairs = {"esm": (other, values - other.per_seed["I-AUROC"]), "trivial": (baseline, values)}
    for rival, seeds in pairs.values():  # seed by seed; a baseline with one seed adds nothing
        change, low, high = comparison.difference(found, rival, "I-AUROC")
        gaps = found.samples["I-AUROC"] - rival.samples["I-AUROC"]
        assert high - change == pytest.approx(np.hypot(np.quantile(gaps, 0.975) - change, student(seeds)), rel=1e-5)


def test_samples_of_pixel_metrics_lie_around_the_exact_value(tmp_path, monkeypatch):
    """Maps are kept smaller than they were measured, which moves the level of a metric."""
    recorded(tmp_path, "invad", 1.5, masks=True)
    (record,) = study.load_runs(tmp_path / "smoke")
    shifted = {name: 0.2 + 0.1 * np.linspace(-1, 1, 101) for name in ("P-AUROC", "P-AP", "AUPRO")}
    monkeypatch.setattr(method_results, "pixel_samples", lambda record, n, seed: shifted)
    (found,) = method_results.measure([record], 101)
    for name in shifted:
        low, high = found.interval(name)
        assert (low, high) == pytest.approx((max(found.values[name] - 0.095, 0), min(found.values[name] + 0.095, 1)))


def test_averages_over_tasks_are_compared_task_by_task(tmp_path):
    """As on ELPV, where a baseline has more seeds, and so more images, than a method."""
    for category in ("carpet", "grid"):
        recorded(tmp_path, "invad", 2.0, category)
        for seed in range(2):
            recorded(tmp_path, "trivial", 0.1, category, seed=seed, first=10 * seed)
    records = study.load_runs(tmp_path / "smoke")
    measured = method_results.measure(records, 100)
    average, baseline = (row(method_results.averages(measured), name) for name in ("invad", "trivial"))
    by_task = [comparison.difference(*pair, "I-AUROC") for pair in zip(average.parts, baseline.parts, strict=True)]
    change, low, high = comparison.difference(average, baseline, "I-AUROC")
    effects, lows, highs = np.transpose(by_task)
    assert change == pytest.approx(effects.mean()) and change - low < (effects - lows).max()
    assert (change - low) ** 2 == pytest.approx(((effects - lows) ** 2).sum() / 4)
    assert (high - change) ** 2 == pytest.approx(((highs - effects) ** 2).sum() / 4)
    summary = diffusion_controls.summary_table(
        measured, diffusion_controls.controls(records), by_defect.recall(records)
    )
    assert summary["follows"][0] == (
        "Against the trivial baseline: of 2 tasks better in 2, worse in 0. No control without diffusion was recorded."
    )


class TestOverCategories:
    @pytest.fixture(scope="class")
    @classmethod
    def many(cls, tmp_path_factory):
        root = tmp_path_factory.mktemp("many")
        for category in ("carpet", "grid", "tile", "wood", "brick", "gravel"):
            for method, strength in (("trivial", 0.0), ("invad", 3.0), ("esm", 1.0), ("ddad", 0.1)):
                recorded(root, method, strength, category)
        return method_results.measure(study.load_runs(root / "smoke"), n=100)

    def test_ranks(self, many):
        found = comparison.ranks(many)
        assert found.tasks == 6 and found.average.index[0] == "invad" and found.p < 0.05
        assert found.average["invad"] < 1.2 and found.average.sum() == pytest.approx(10)
        assert found.pairs.loc["invad", "ddad"] < 0.05 < found.pairs.loc["invad", "esm"]
        few = [r for r in many if r.category in ("carpet", "grid", "tile", "wood")]
        assert comparison.ranks(few) is None

    def test_a_method_without_every_category_is_left_out_of_the_ranks(self, many):
        found = comparison.ranks([r for r in many if (r.method, r.category) != ("esm", "wood")])
        assert sorted(found.average.index) == ["ddad", "invad", "trivial"] and found.left_out == ("esm",)
        assert in_words.of_ranks(found).endswith(" Without esm: it was not measured on every task.")
        both = found._replace(left_out=("esm", "sgm"))
        assert in_words.of_ranks(both).endswith(" Without esm, sgm: they were not measured on every task.")
        complete = comparison.ranks(many)
        assert complete.left_out == () and "Without" not in in_words.of_ranks(complete)

    def test_averages(self, many):
        (average,) = [r for r in method_results.averages(many) if r.dataset == "textures" and r.method == "esm"]
        single = [r.values["I-AUROC"] for r in many if r.method == "esm"]
        assert average.values["I-AUROC"] == pytest.approx(np.mean(single)) and average.values["images"] == 6 * N
        width = [np.ptp(r.interval("I-AUROC")) for r in many if r.method == "esm"]
        assert np.ptp(average.interval("I-AUROC")) < np.mean(width)  # six categories know more than one

    def test_the_answer_counts_where_there_are_many(self, many):
        first, *_ = conclusion.answer(judged.ledger([]), many, diffusion_controls.controls([]))
        assert first.startswith("No diffusion") is False


def test_recall_by_size(root):
    table = by_defect.recall_by_size(study.load_runs(root))
    found = table[table["method"] == "invad"]
    assert found["n"].sum() == N // 2 and found["area"].is_monotonic_increasing and (found["recall"] >= 0.5).all()
    assert (table["low"] <= table["recall"]).all() and (table["recall"] <= table["high"]).all()


def test_pareto(measured):
    table = comparison.table(measured)
    front = comparison.pareto(table)
    names = set(table["method"][front])
    assert (
        "invad" in names and "anomalib:padim" not in names
    )  # dearer than the trivial baseline's, and worse than invad


def test_time_by_size(root):
    found = method_results.time_by_size(study.load_runs(root))
    assert (
        found.query("method == 'invad'")[["pixels", "ms an image"]].to_numpy().tolist() == [[64, 4], [128, 9]]
        and len(found) == 6
    )
    assert method_results.time_by_size([]).empty


def test_found_missed_and_invented_are_told_by_the_threshold(root, measured):
    records = study.load_runs(root)
    found = example_cases.cases(records, measured, false_alarms=0.2, count=3)
    assert set(found["method"]) == {"invad"} and set(found["case"]) <= set(example_cases.CASES)
    assert (found.groupby("case").size() <= 3).all()
    images = method_results.images_of(next(r for r in records if r.method == "invad")).set_index("key")
    label = images.loc[found["key"], "label"].to_numpy()
    flagged = (found["score"] > found["threshold"]).to_numpy()
    normal = images.loc[images["label"] == 0, "score"]
    assert 0.1 < (normal > found["threshold"].iloc[0]).mean() <= 0.2, "no more than the share that is asked for"
    assert ((found["case"] != "invented").to_numpy() == (label == 1)).all()
    assert ((found["case"] != "missed").to_numpy() == flagged).all()


def test_a_copy_has_the_maps_of_the_cases_and_what_all_lie_between(tmp_path):
    recorded(tmp_path / "all", "invad", 0.3, masks=True)
    (record,) = study.load_runs(tmp_path / "all" / "smoke")
    shutil.copytree(record.folder, tmp_path / "copy")
    (tmp_path / "copy" / "maps.npz").unlink()
    copy = study.load_run(tmp_path / "copy")
    assert example_cases.has_maps(record) and not example_cases.has_maps(copy)
    with pytest.raises(FileNotFoundError, match=example_cases.EXAMPLE_MAPS):
        example_cases.example_maps(copy)
    example_cases.save_example_maps(record, copy.folder, 0.2, 2)
    measured = method_results.measure([record], n=20)
    found = [example_cases.cases([runs], measured, 0.2, 2) for runs in (record, copy)]
    pd.testing.assert_frame_equal(*found)
    whole, part = example_cases.example_maps(record), example_cases.example_maps(copy)
    assert sorted(part.key) == sorted(found[0]["key"]) and part.anomaly_map.dtype == whole.anomaly_map.dtype
    here = [whole.key.tolist().index(key) for key in part.key]
    assert np.array_equal(part.anomaly_map, whole.anomaly_map[here]) and np.array_equal(part.bounds, whole.bounds)


def test_pictures_of_tasks_and_cases_come_from_the_data(root, measured):
    records = [r for r in study.load_runs(study.reference_folder() / "smoke") if r.category == "leather"]
    record = next(r for r in records if r.method == "invad")
    shown = example_cases.task_pictures([record])["textures/leather"]
    assert shown.images.shape[1:] == (128, 128, 3) and shown.titles[:2] == ["normal", "normal"]
    assert not shown.masks[:2].any() and shown.masks[2:].any(axis=(1, 2)).all()
    missing = types.SimpleNamespace(dataset="visa", category="pcb1", seed=0, manifest={"parameters": {}})
    assert example_cases.task_pictures([missing], "/nowhere") == {}


@pytest.mark.slow
def test_published_numbers():
    published = published_results()
    assert published["value"].between(0, 1).all()
    spread = disagreements(published)
    assert (
        (spread["range"] >= 0).all()
        and spread["range"].is_monotonic_decreasing
        and spread["values"].str.contains(";").all()
    )
    gaps = published_gaps(published)
    assert (gaps["gap"] >= 0).all() and len(gaps) > 5
    table = pd.DataFrame(
        [
            {
                "dataset": "mvtec_ad",
                "category": "bottle",
                "method": "anomalib:patchcore",
                "I-AUROC": 0.9,
                "I-AUROC low": 0.8,
                "I-AUROC high": 0.95,
            }
        ]
    )
    found = beside_published(table, published, "paper")
    assert set(found["metric"]) == {"I-AUROC"} and (found["published"] == 1.0).all() and (found["ours"] == 0.9).all()
    assert beside_published(table, published, "smoke").empty
    said = {cls.published_as for cls in METHODS.values()} - {""}
    assert len(said) == 14 and said <= set(published["method"])


@pytest.mark.slow
def test_the_answer_names_the_best_rival_without_clip(tmp_path):
    for method, strength in (("invad", 2.5), ("clip_knn", 4.0), ("anomalib:padim", 0.0), ("trivial", 0.1)):
        recorded(tmp_path, method, strength)
    first, *_ = conclusion.answer(
        judged.ledger([]),
        method_results.measure(study.load_runs(tmp_path / "smoke"), 200),
        diffusion_controls.controls([]),
    )
    assert (
        "detector without diffusion (clip_knn" in first
        and "; without CLIP's it is better than the best (anomalib:padim" in first
    )
    assert first.endswith("Both winners were chosen on these test images; the intervals ignore that choice.")


@pytest.mark.slow
def test_the_family_is_the_manifest_s_and_for_older_runs_the_class_s(tmp_path):
    """A method that nobody here has heard of counts by what its run recorded."""
    detector = types.SimpleNamespace(family="diffusion")
    for method, more in (("ours", {"detector": detector}), ("invad", {}), ("trivial", {}), ("elsewhere", {})):
        recorded(tmp_path, method, 2.0, **more)
    measured = method_results.measure(study.load_runs(tmp_path / "smoke"), 100)
    found = {row.method: row.family for row in measured}
    assert found == {"ours": "diffusion", "invad": "diffusion", "trivial": "classical", "elsewhere": "unknown"}
    first, *_ = conclusion.answer(judged.ledger([]), measured, diffusion_controls.controls([]))
    assert "of 2 diffusion methods" in first and "elsewhere" not in first


def test_own_runs_are_compared_and_without_any_the_committed_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "reference_folder", lambda: tmp_path / "reference")
    recorded(tmp_path / "reference", "invad", 3.0)
    ours = tmp_path / "ours" / "smoke"
    folder, (committed,) = comparison.finished_runs(ours)
    assert folder == tmp_path / "reference" / "smoke" and committed.folder.is_relative_to(folder)
    recorded(tmp_path / "ours", "invad", 3.0)
    folder, (own,) = comparison.finished_runs(ours)
    assert folder == ours and own.folder.is_relative_to(ours)
    with pytest.raises(FileNotFoundError, match="no finished run in .*nowhere.* run the other notebooks"):
        comparison.finished_runs(tmp_path / "nowhere")


def test_the_answer_follows_the_ledger(measured):
    ledger = judged.ledger([])
    arithmetic = claims.published_claims().query("kind == 'arithmetic'")
    none = diffusion_controls.controls([])
    first, _, cost, second, third = conclusion.answer(ledger, measured, none)
    assert (
        "1 of 1 diffusion methods are above the trivial baseline" in first
        and "better than the best detector without diffusion" in first
    )
    assert cost.startswith("At what cost: an image takes a diffusion method ") and "a detector without" in cost
    assert "None can be decided here" in second and f"{len(arithmetic)} were judged here" in third
    decided = ledger.assign(
        verdict=ledger["claim_id"].map({"C07": "supported", "C30": "not supported"}).fillna("not tested here")
    )
    sides = {"C07": "supported", "C30": "not supported"}
    decided["in_every_task"] = decided["claim_id"].map(sides).fillna("")
    *_, second, third = conclusion.answer(decided, measured, none)
    assert (
        "supported here: “No strength" in second
        and "(C07, " in second
        and "not supported here: “Latent diffusion" in second
    )
    assert "2 were judged here: 1 are supported, 1 are not" in third
    vary = decided.assign(verdict=decided["verdict"].replace("not supported", "varies"))
    *_, second, third = conclusion.answer(vary, measured, none)
    assert "clearly below the margin in every task where measured, by different amounts: “Latent" in second
    assert "1 vary between categories (1 of them in size only: clearly on one side" in third


def test_no_result_stands_in_the_text_of_the_comparison_or_of_the_pages():
    """Numbers come from cells and run files. What may stand in text: the notebook's own number and the 95 % of the
    intervals."""
    cells = json.loads((ROOT / "notebooks/08_comparison.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = {f"cell {i}": "".join(c["source"]) for i, c in enumerate(cells) if c["cell_type"] == "markdown"}
    for template in (ROOT / "diffad_utils/report/templates").glob("*.html"):
        body = re.sub(
            r"<style>.*?</style>|{%.*?%}|{{.*?}}|{#.*?#}|<[^>]*>",
            " ",
            template.read_text(encoding="utf-8"),
            flags=re.DOTALL,
        )
        texts[template.name] = body
    assert len(texts) > 10
    for where, text in texts.items():
        allowed = r"^# 08 |\b95[ \u00a0]%|\bC\d+[a-c]?\b|D3AD|F1|img2img|notebook 08"  # names, the intervals' level
        assert not re.findall(r"\d", re.sub(allowed, "", text)), where


@pytest.mark.filterwarnings("ignore:1 of 20 anomalous images have no mask")
def test_an_anomalous_image_without_a_mask_counts_for_no_metric_of_pixels(tmp_path):
    """In results, conventions and recall by size, as in `metrics.evaluate`."""
    recorded(tmp_path, "invad", 1.5, masks=True, bare=[7])
    (record,) = study.load_runs(tmp_path / "smoke")
    keys, maps, masks = method_results.maps_of(record)
    assert len(keys) == N - 1 and not any(key.endswith("/007") for key in keys)
    assert metrics.aupro(maps, masks) == pytest.approx(record.metrics["AUPRO"], abs=1e-3)  # maps are kept in fp16
    (found,) = method_results.measure([record], n=50)
    low, high = found.interval("AUPRO")
    assert low <= record.metrics["AUPRO"] <= high
    table = conventions.effects_of_conventions(record).set_index("convention")
    assert table.loc["AUPRO on 200 thresholds", "ours"] == pytest.approx(metrics.aupro(maps, masks))
    assert by_defect.recall_by_size([record])["n"].sum() == N // 2 - 1


def test_what_the_comparison_takes_from_maps_is_the_same_without_them(tmp_path):
    """A copy that has the summary in the place of the maps gives the same numbers, and refuses other settings."""
    recorded(tmp_path / "all", "invad", 0.3, masks=True)
    (record,) = study.load_runs(tmp_path / "all" / "smoke")
    settings = {"bootstrap_samples": 50, "seed": 3, "batch_sizes": [4], "top_pixels": 7}
    shutil.copytree(record.folder, tmp_path / "copy")
    (tmp_path / "copy" / "maps.npz").unlink()
    map_summaries.save(conventions.summarise_maps(record, **settings), tmp_path / "copy")
    copy = study.load_run(tmp_path / "copy")
    whole, part = (method_results.measure([found], n=50, seed=3)[0] for found in (record, copy))
    assert "AUPRO" in whole.samples and whole.values == part.values
    assert all(np.array_equal(whole.samples[name], part.samples[name]) for name in whole.samples | part.samples)
    of_both = [conventions.effects_of_conventions(found, [4], top_pixels=7, seed=3) for found in (record, copy)]
    pd.testing.assert_frame_equal(*of_both)
    assert {"AUPRO", "I-AUROC"} == set(of_both[0]["metric"])
    pd.testing.assert_frame_equal(*(by_defect.recall_by_size([found]) for found in (record, copy)))
    again = conventions.summarise_maps(copy, **settings)
    assert again.samples.keys() == map_summaries.read(copy).samples.keys()
    with pytest.raises(ValueError, match=r"has no maps, and its map_summary.npz was made with top_pixels = \[7\]"):
        conventions.effects_of_conventions(copy, [4], top_pixels=9, seed=3)
    with pytest.raises(ValueError, match="bootstrap_samples"):
        method_results.measure([copy], n=60, seed=3)


def test_what_comes_from_maps_is_computed_once(tmp_path, monkeypatch):
    """It is in the store then, by the content of maps and scores."""
    recorded(tmp_path, "invad", 0.3, masks=True)
    (record,) = study.load_runs(tmp_path / "smoke")
    store.open_run(tmp_path / "smoke")
    try:
        first = method_results.measure([record], n=50)[0], conventions.effects_of_conventions(record)
        monkeypatch.setattr(metrics, "pixel_counts", None)
        monkeypatch.setattr(metrics, "aupro", None)
        second = method_results.measure([record], n=50)[0], conventions.effects_of_conventions(record)
        assert all(np.array_equal(first[0].samples[name], second[0].samples[name]) for name in first[0].samples)
        pd.testing.assert_frame_equal(first[1], second[1])
        with pytest.raises(TypeError):
            method_results.measure([record], n=60)
    finally:
        store.close_run()


# --- controls, the summary, claims between methods --------------------------------------------------------------------

CONTROL = {"I-AUROC": 0.8, "difference": 0.1, "low": 0.05, "high": 0.15, "what": "norms of the latents"}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    """Two tasks with a diffusion method that has a control, one that has none, another method and the baseline."""
    root = tmp_path_factory.mktemp("controlled")
    for category in ("carpet", "grid"):
        recorded(root, "trivial", 0.1, category, masks=True)
        recorded(root, "invad", 3.0, category, masks=True, experiments={"no_diffusion": CONTROL})
        recorded(root, "d3ad", 2.9, category, masks=True, experiments={"untrained": [{"steps": 0}]})
        recorded(root, "anomalib:padim", 1.0, category, masks=True, experiments={"no_diffusion": CONTROL})  # to ignore
    records = study.load_runs(root / "smoke")
    return records, method_results.measure(records, n=100)


def test_controls_are_read_where_runs_recorded_them(controlled):
    records, measured = controlled
    found = diffusion_controls.controls(records)
    assert found["method"].tolist() == ["invad"] * 2 and found["what"].unique().tolist() == ["norms of the latents"]
    value, difference, low, high = diffusion_controls.pooled_control(found, "invad")
    expected = over_tasks.mean_over_tasks([0.1] * 2, [0.05] * 2, [0.15] * 2)
    assert (value, difference) == pytest.approx((0.8, 0.1)) and (difference, low, high) == pytest.approx(expected)
    assert diffusion_controls.pooled_control(found, "d3ad") is None
    against = diffusion_controls.against_controls(measured, found)
    assert len(against) == 6 and against["control"].notna().sum() == 2
    ends = against.loc[against["method"] == "invad", ["control low", "control high"]].to_numpy()
    assert ends == pytest.approx(np.array([[0.75, 0.85]] * 2))  # 0.9 is beyond, as zero is beyond the difference's
    assert against.groupby("task")["I-AUROC"].apply(lambda v: v.is_monotonic_decreasing).all()
    assert (against["baseline low"] <= against["baseline"]).all()
    assert against.loc[against["above both"], "method"].tolist() == ["invad"] * 2  # d3ad has no control
    worse = diffusion_controls.against_controls(measured, found.assign(low=-0.1))
    assert not worse["above both"].any() and "In 0 of 4 cases" in in_words.of_answer(worse)
    assert diffusion_controls.controls([]).empty


def test_the_summary_has_students_intervals_as_the_figures(controlled):
    """Of few tasks and of many, so that table and figure cannot disagree, and one more task changes no meaning."""
    _, measured = controlled
    many = [
        dataclasses.replace(row, category=f"t{t}", values=row.values | {"I-AUROC": row.values["I-AUROC"] - 0.05 * t})
        for t in range(over_tasks.MANY + 1)
        for row in measured
        if row.category == "grid" and row.method in ("invad", "trivial")
    ]
    tasks = [row.task for row in many if row.method == "invad"]
    found = pd.DataFrame({"task": tasks, "method": "invad", "kind": "no_diffusion", "what": "w", "I-AUROC": 0.8})
    found["difference"] = np.linspace(-0.2, 0.4, len(tasks))
    found = found.assign(low=found["difference"] - 0.01, high=found["difference"] + 0.01)
    expected = over_tasks.mean_over_tasks(found["difference"], found["low"], found["high"])
    value, *over = diffusion_controls.pooled_control(found, "invad")
    assert value == pytest.approx(0.8) and tuple(over) == expected and over[1] < 0 < over[2]
    recall = pd.DataFrame({"method": "invad", "recall": [0.2, 0.4]})
    row = diffusion_controls.summary_table(many, found, recall).set_index("method").loc["invad"]
    assert row["high"] - row["low"] > 0.1, "tasks differ, and the interval has it"
    assert row["recall"] == pytest.approx(0.3) and row["low"] >= 0 and row["high"] <= 1
    assert "On average not shown to differ from its strongest control: of 7 tasks better in" in row["follows"]
    for part in (found.head(3), found.head(1)):
        own = part["difference"], part["low"], part["high"]
        assert diffusion_controls.pooled_control(part, "invad")[1:] == over_tasks.mean_over_tasks(*own)
    assert over_tasks.mean_over_tasks([0.5], [0.3], [0.6]) == (0.5, 0.3, 0.6)


def test_the_summary_says_what_follows(controlled):
    records, measured = controlled
    found = diffusion_controls.controls(records), by_defect.recall(records)
    table = diffusion_controls.summary_table(measured, *found).set_index("method")
    assert table.index.tolist()[-1] == "anomalib:padim" and (table["tasks"] == 2).all()
    assert table.loc["invad", "follows"].endswith("Against its strongest control: of 2 tasks better in 2, worse in 0.")
    assert "No control" in table.loc["d3ad", "follows"] and "iffusion" not in table.loc["anomalib:padim", "follows"]
    assert table.loc["invad", "without diffusion"] == pytest.approx(0.8)
    assert table["AUPRO"].notna().all() and table["AUPRO low"].isna().all() and table["trivial baseline"].nunique() == 1
    page = tables.summary_html(table.reset_index())
    assert page.count("<tr") == 4 and "data-head='AUPRO'" in page
    assert f"data-head='Defects found'>{table.loc['invad', 'recall']:.0%}</td>" in page


def test_long_tables_of_the_comparison_are_behind_a_click_and_scroll_there(controlled):
    records, measured = controlled
    ledger, controls = claims.ledger(records), diffusion_controls.controls(records)
    shown = {
        "2 controls": tables.every_control(controls),
        "16 rows": tables.every_value(comparison.table([*measured, *method_results.averages(measured)]), set()),
        "claims that are not tested": tables.untested_claims(ledger),
        "judged claims": tables.judged_claims(ledger),
        "claims beside what is printed": tables.claims_beside_printed(ledger),
    }
    for title, page in shown.items():
        assert page.data.startswith("<details><summary>") and title in page.data[:100]
        assert "<div class='scroll' tabindex='0' role='region' aria-label=" in page.data and "<table" in page.data
    assert "no diffusion" in shown["2 controls"].data and "no_diffusion" not in shown["2 controls"].data
    assert tables.every_control(controls.iloc[:0]).data.startswith("<details><summary>0 controls")
    summary = diffusion_controls.summary_table(measured, controls, by_defect.recall(records))
    assert tables.summary(summary).data == tables.summary_html(summary)


@pytest.mark.parametrize(
    ("over", "control", "said"),
    [
        ((0.1, 0.05, 0.2), (0.8, 0.1, 0.05, 0.2), "Better than the trivial baseline. Better than its strongest"),
        ((0.1, -0.05, 0.2), (0.8, -0.1, -0.2, -0.05), "Not shown to differ from the trivial baseline. Worse than its"),
        ((-0.1, -0.2, -0.05), (0.8, 0.0, -0.1, 0.1), "Worse than the trivial baseline. Not shown to differ"),
        (None, None, "Not compared with the trivial baseline. No control"),
    ],
)
def test_what_follows_goes_by_the_intervals(over, control, said):
    assert diffusion_controls.what_follows("diffusion", over, control).startswith(said)


def test_what_follows_counts_the_tasks_behind_an_average():
    """An average may be carried by one task, so it never stands alone."""
    pooled = (0.5, 0.2, 0.1, 0.3)
    said = diffusion_controls.what_follows("diffusion", None, pooled, [], [1, 0, -1, 1])
    assert said.endswith("On average better than its strongest control: of 4 tasks better in 2, worse in 1.")
    one = diffusion_controls.what_follows("diffusion", pooled[1:], pooled, [1], [1])
    assert one == "Better than the trivial baseline, on one task. Better than its strongest control, on one task."


def test_the_short_answer_is_short_and_computed(controlled, measured):
    records, many = controlled
    found = diffusion_controls.controls(records)
    text = conclusion.short_answer(many, found)
    assert len(text.split()) <= conclusion.MOST_WORDS and "Of 4 cases (a method on a task), diffusion beats" in text
    assert (
        "without diffusion in 2 (of 2), both in 2. Averaged over 2 tasks, the best diffusion method, d3ad, has" in text
    )
    assert text.endswith("on 2 of 2 tasks, loses on 0.")
    none = found.assign(low=-0.1, high=0.1)
    said = conclusion.short_answer([row for row in many if row.method != "anomalib:padim"], none)
    assert said.startswith("They find defects, but diffusion is not shown to be why.")
    assert conclusion.short_answer([], found).startswith("No diffusion method")
    others = found.assign(method="anomalib:padim", low=-0.2, high=-0.1)  # a control of a method without diffusion
    assert conclusion.short_answer(many, pd.concat([found, others])) == text


def test_the_answer_says_on_which_data_and_whose_methods_the_cases_are(controlled):
    """Procedural pictures are no industrial images, and a combination of this study is nobody's claim."""
    records, measured = controlled
    found = diffusion_controls.controls(records)
    elsewhere = [
        dataclasses.replace(row, dataset="elpv", category="mono") for row in measured if row.category == "grid"
    ]
    own = [dataclasses.replace(row, method="sgm_inversion") for row in measured if row.method == "d3ad"]
    cases = [*measured, *elsewhere, *own]
    assert " (0 of 2 on elpv, 2 of 6 on procedural textures)" in conclusion.short_answer(cases, found)
    said = conclusion.answer(judged.ledger([]), cases, found)[1]
    assert (
        "6 cases are of methods from elsewhere: above the trivial baseline in 6, above the control in 2, above both"
        in said
    )
    assert (
        "2 cases are of combinations made in this study: above the trivial baseline in 2, above the control in 0"
        in said
    )
    assert "cases above a control" not in said, "each control here is above the trivial baseline"
    weak = conclusion.answer(judged.ledger([]), cases, found.assign(**{"I-AUROC": 0.1}))[1]
    assert "In 2 of the 2 cases above a control" in weak and "are not adjusted for their number." in weak
    far = [dataclasses.replace(row, dataset=f"d{i}") for i in range(4) for row in cases]
    text = conclusion.short_answer(far, found)
    assert " on d0, " not in text and len(text.split()) <= conclusion.MOST_WORDS, "no room for four data sets"
    assert "about 1 of 32 would lie above it by chance" in conclusion.answer(judged.ledger([]), far, found)[1]


def test_the_answer_has_the_difference_of_the_best_two_with_its_interval(controlled):
    records, measured = controlled
    found = diffusion_controls.controls(records)
    more = [
        dataclasses.replace(row, category=name) for row in measured if row.category == "carpet" for name in ("b", "c")
    ]
    said = conclusion.answer(judged.ledger([]), [*measured, *more], found)[1]
    of = {(row.task, row.method): row for row in measured}
    by_task = [
        comparison.difference(of[f"textures/{c}", "d3ad"], of[f"textures/{c}", "anomalib:padim"], "I-AUROC")
        for c in ("carpet", "carpet", "carpet", "grid")
    ]
    change, low, high = over_tasks.mean_over_tasks(*np.transpose(by_task))
    assert f"d3ad minus anomalib:padim is {change:+.3f} [{low:+.3f}, {high:+.3f}], Student's" in said
    assert " minus " not in conclusion.answer(judged.ledger([]), measured, found)[1], "two tasks say nothing"


def test_methods_are_listed_with_their_sources(controlled):
    _, measured = controlled
    assert set(METHODS) == set(method_list.ABOUT)
    table = method_list.table([*((row.method, row.family) for row in measured), ("mine", "classical")])
    assert table["method"].tolist() == [*dict.fromkeys(row.method for row in measured), "mine"]
    assert table["source"].iloc[-1] == "–" and method_list.is_from_elsewhere("mine")
    assert not method_list.is_from_elsewhere("d3ad_masked") and method_list.is_from_elsewhere("esm_sigma")


def test_recall_is_at_a_share_of_false_alarms(tmp_path):
    """Of all defective images, by task and by kind; the trivial baseline is no detector."""
    recorded(tmp_path, "trivial", 0.1, masks=True)
    for seed in (0, 1):
        recorded(tmp_path, "invad", 1.0, masks=True, seed=seed)
    recorded(tmp_path, "anomalib:padim", 3.0, masks=True)
    records = study.load_runs(tmp_path / "smoke")
    found = by_defect.recall(records, 0.1).set_index("method")
    expected = []
    for record in (record for record in records if record.method == "invad"):
        images = record.scores()
        normal = np.sort(images.loc[images["label"] == 0, "score"])
        threshold = normal[int(np.ceil(0.9 * (len(normal) - 1)))]
        assert (normal > threshold).mean() <= 0.1
        expected.append((images.loc[images["label"] == 1, "score"] > threshold).mean())
    assert found.loc["invad", "recall"] == pytest.approx(np.mean(expected))
    assert found.loc["invad", "n"] == (images["label"] == 1).sum()
    assert by_defect.recall_by_kind(records, 0.1).empty, "one kind"
    for record in records:
        images = record.scores()
        images["defect"] = np.where(images["label"] == 0, "good", np.where(images.index % 3 == 0, "hole", "crack"))
        images.to_parquet(record.folder / "scores.parquet", index=False)
    kinds = by_defect.recall_by_kind(records, 0.1)
    parts = kinds[kinds["method"] == "invad"]
    assert np.average(parts["recall"], weights=parts["n"]) == pytest.approx(found.loc["invad", "recall"])
    table = by_defect.by_method(by_defect.recall(records, 0.1), "task")
    assert table["method"].tolist() == ["invad", "anomalib:padim", "trivial"]
    assert table["mean"].tolist() == pytest.approx(found.loc[table["method"], "recall"].tolist())
    said = in_words.of_recall(by_defect.recall(records, 0.1), 0.1)
    share = found["recall"]
    assert said.startswith(
        f"With at most 10% of normal images flagged, the best diffusion method, invad, finds {share['invad']:.0%} and "
        f"the best other detector, anomalib:padim, {share['anomalib:padim']:.0%} of the defective images, averaged "
        "over 1 task."
    )
    assert in_words.of_recall(found.iloc[:0].reset_index(), 0.1) == in_words.ALONE
    apart = pd.DataFrame({"task": ["t", "u", "v"], "method": ["invad", "padim", "trivial"], "recall": 0.5, "n": 9})
    apart = apart.assign(family=["diffusion", "classical", ""])
    assert in_words.of_recall(apart, 0.1) == in_words.ALONE, "not of the same tasks"

    two = pd.DataFrame(
        {"task": "t", "family": ["diffusion"] * 2 + ["classical"] * 2, "defect": ["a", "b"] * 2, "n": 12}
    )
    two = two.assign(method=["invad"] * 2 + ["padim"] * 2, recall=[0.1, 0.2, 0.4, 0.9])
    said = in_words.of_kinds(two, 0.05)
    assert "invad falls furthest behind padim on b: 20% against 90% found. Hardest for both is a: 10% and 40%." in said
    assert in_words.of_kinds(two[:2], 0.05) == in_words.ALONE
    assert "invad falls behind padim on no kind." in in_words.of_kinds(two.assign(recall=[0.9, 0.9, 0.1, 0.2]), 0.05)
    easy = pd.DataFrame({"task": "easy", "method": "glad", "family": "diffusion", "defect": ["a", "b"], "recall": 1.0})
    others = two.assign(task="easy")
    assert "invad falls furthest" in in_words.of_kinds(pd.concat([two, others, easy.assign(n=12)]), 0.05)
    page = tables.shares(by_defect.by_method(two[:3], "defect"), "t").data
    assert "<th>method</th>" in page.replace(' style="text-align: right;"', "").split("</tr>")[0].split("<tr>")[1][:40]
    assert "NaN" not in page and "–" in page and "40%" in page


def test_claims_changed_after_a_run_are_marked(tmp_path):
    """They are those that data/published/README.md names."""
    text = (study.repository() / "data" / "published" / "README.md").read_text(encoding="utf-8")
    (passage,) = re.findall(r"Changed after runs had been seen.*?\n\n", text, flags=re.S)
    named = set(re.findall(r"C\d+[a-c]?", passage)) - {"C29", "C34", "C41"}  # models of the change, or data only
    assert set(judged.EXPLORATORY) == named
    run = types.SimpleNamespace(path=tmp_path.joinpath)
    conclusion.write_ledger(run, judged.ledger([]), claims.findings([]))
    written = pd.read_csv(run.path("ledger.csv")).set_index("claim_id")["exploratory"]
    assert written["C13"] and not written["C14"]
    assert pd.read_parquet(run.path("findings.parquet")).empty


def test_of_several_controls_the_strongest_stands_for_all(tmp_path):
    """Controls are told by their key: earlier records do not say what theirs are, or say the same of two."""
    bare = {name: value for name, value in CONTROL.items() if name != "what"}
    weak, strong = bare | {"I-AUROC": 0.6}, bare | {"low": -0.1}
    other = CONTROL | {"I-AUROC": 0.99}  # of another method, or a list: no control of this one
    both = {"no_diffusion": weak, "no_diffusion_one_category": strong, "no_diffusion_base": other, "untrained": weak}
    both |= {"no_diffusion_controls": [other], "base_no_diffusion": other}
    for seed in (0, 1):
        recorded(tmp_path, "invad", 3.0, seed=seed, experiments=both)
        both["no_diffusion_one_category"] = strong | {"what": "said later"}
    found = diffusion_controls.controls(study.load_runs(tmp_path / "smoke"))
    assert found[["kind", "what", "I-AUROC", "low"]].to_numpy().tolist() == [
        ["no_diffusion", "said later", 0.8, -0.1],
        ["untrained", diffusion_controls.KINDS["untrained"], 0.6, 0.05],
    ]


def test_of_the_reference_invad_is_held_against_the_stronger_of_its_controls():
    records = study.load_runs(study.reference_folder() / "smoke")
    found = diffusion_controls.controls(records).set_index(["task", "method", "kind"])["I-AUROC"]
    (record,) = [r for r in records if (r.category, r.method) == ("leather", "invad")]
    keys = ("no_diffusion", "no_diffusion_one_category")
    assert found["textures/leather", "invad", "no_diffusion"] == max(record.experiments[k]["I-AUROC"] for k in keys)


def test_methods_that_share_no_images_are_not_compared(controlled):
    records, measured = controlled
    apart = [
        dataclasses.replace(row, scores=row.scores.rename(lambda key: f"other/{key}"))
        if row.family == "classical"
        else row
        for row in measured
    ]
    found = diffusion_controls.controls(records)
    assert "The best diffusion method of a task beats" not in conclusion.short_answer(apart, found)
    assert "The best diffusion method of a task beats" in conclusion.short_answer(measured, found)
    assert conclusion.OTHER_IMAGES in conclusion.answer(judged.ledger([]), apart, found)[0]


def test_every_figure_has_its_sentence(controlled):
    records, measured = controlled
    table = comparison.table(measured)
    timed = comparison.known(table, "ms an image")
    found = diffusion_controls.controls(records)
    sentences = [
        in_words.of_tasks(measured),
        in_words.of_answer(diffusion_controls.against_controls(measured, found)),
        in_words.of_controls(found),
        in_words.of_controls(found.iloc[:0]),
        in_words.of_pairs(comparison.pairwise(measured)),
        in_words.of_cost(timed, comparison.pareto(timed)),
        in_words.of_localisation(comparison.known(table, "AUPRO")),
        in_words.of_sizes(by_defect.recall_by_size(records), 0.05),
    ]
    assert all(text.endswith(".") and "nan" not in text for text in sentences)
    assert "the method is above in 2 (invad on textures/carpet, textures/grid) and below in 0; in 0 no" in sentences[2]
    itself = found.assign(kind="untrained", low=[-0.1, 0.1])
    assert "Of 2 comparisons" in (said := in_words.of_controls(pd.concat([found, itself])))
    assert "Against itself untrained a method is above in 1 of 2." in said
    assert comparison.known(table, "no such column").empty
    sizes = pd.DataFrame({"bin": [0, 1, 2], "recall": [0.2, 0.6, 0.4], "n": 20, "area": 1.0})
    sizes = sizes.assign(task="textures/carpet", method="invad", family="diffusion")
    of_baseline = sizes.assign(method="trivial", family="", recall=1.0)
    seeds = pd.concat([sizes.assign(method="padim", family="classical", recall=r) for r in (0.0, 0.2)])
    said = in_words.of_sizes(pd.concat([sizes, of_baseline, seeds]), 0.05)
    assert "third of the defects invad finds 20%, 60%, 40%; padim finds 10%, 10%, 10%, averaged" in said
    beaten = in_words.of_cost(timed, pd.Series(timed["family"] != "diffusion", index=timed.index))
    assert "On every task each diffusion method has another" in beaten and "none" not in beaten


def test_a_caption_names_the_data_and_weights_of_what_it_shows(controlled):
    records, _ = controlled
    rows = pd.DataFrame({"task": ["textures/grid"], "method": ["invad"]})
    assert example_cases.source_of(rows, records)["data"] == "textures/grid"
    entry = {"name": "resnet", "source": "mini"}
    (record,) = (r for r in records if (r.category, r.method) == ("grid", "invad"))
    own = dataclasses.replace(record, manifest=record.manifest | {"weights": [entry, entry]})
    split = pd.DataFrame({"dataset": ["textures"], "category": ["grid"], "method": ["invad"]})
    (weights,) = example_cases.source_of(split, [own, *records])["weights"]
    assert (weights.name, weights.source) == ("resnet", "mini")


def test_strips_say_what_they_show_and_by_which_method():
    rows = pd.DataFrame({"method": ["invad"], "task": ["textures/carpet"]})
    for case, start in (("found", "Defective images above"), ("invented", "Normal images above")):
        said = in_words.of_case(case, rows)
        assert said.startswith(start) and said.endswith("best diffusion method of each task: invad on textures/carpet.")

"""Every figure draws, has labelled axes where it has axes, and shows what it was given."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from diffad_utils import plots

LABELS = [0, 0, 0, 1, 1, 1]
SCORES = {"a": [0.1, 0.4, 0.2, 0.5, 0.3, 0.9], "b": [1.0, 2.0, 3.0, 2.5, 3.5, 4.0]}


@pytest.fixture(autouse=True)
def close():
    plots.set_style()
    yield
    plt.close("all")


def test_image_grid_hides_empty_places_and_draws_outlines():
    masks = torch.zeros(5, 16, 16, dtype=torch.bool)
    masks[0, 4:8, 4:8] = True
    figure = plots.image_grid(torch.rand(5, 3, 16, 16), ["x"] * 5, columns=3, masks=masks)
    assert len(figure.axes) == 6 and sum(bool(axis.images) for axis in figure.axes) == 5
    assert figure.axes[0].collections and not figure.axes[1].collections


def test_labelled_rows_share_one_scale_a_row():
    maps = torch.rand(3, 16, 16)
    figure = plots.labelled_rows({"image": torch.rand(3, 3, 16, 16), "mask": maps > 0.5, "map": maps}, ["1", "2", "3"])
    limits = {axis.images[0].get_clim() for axis in figure.axes[6:9]}
    assert limits == {(float(maps.min()), float(maps.max()))}


@pytest.mark.slow
@pytest.mark.parametrize("with_masks", [True, False])
def test_strength_strips_show_images_over_residuals(with_masks):
    images, masks = torch.rand(2, 3, 16, 16), torch.rand(2, 16, 16) > 0.8
    x_hats = images.expand(4, 2, 3, 16, 16).clone()
    x_hats[3, 1] += 0.5
    figure = plots.strength_strips(images, x_hats, masks if with_masks else None, [0, 0.1, 0.3, 0.7], ["hole", "stain"])
    axes = figure.axes[:20]
    assert [axis.get_title() for axis in axes[:5]] == ["x", "x̂, VAE only", "x̂, 0.1", "x̂, 0.3", "x̂, 0.7"]
    assert bool(axes[5].images) == with_masks
    residuals = [axes[row * 5 + column].images[0].get_array() for row in (1, 3) for column in range(1, 5)]
    assert [float(r.max()) > 0.4 for r in residuals] == [False] * 7 + [True]


def test_border_maps_have_a_row_a_padding_and_one_scale():
    rows = {
        "zeros": {8: torch.rand(4, 4), 16: torch.rand(2, 2)},
        "reflect": {8: torch.zeros(4, 4), 16: torch.zeros(2, 2)},
    }
    axes = plots.border_maps(rows).axes[:4]
    assert [axis.get_title() for axis in axes] == ["stride 8", "stride 16", "", ""]
    assert [axes[0].get_ylabel(), axes[2].get_ylabel()] == ["zeros", "reflect"]
    largest = max(float(m.max()) for m in rows["zeros"].values())
    assert all(axis.images[0].get_clim() == (1e-3, largest) for axis in axes)


def test_maps_of_several_rows_on_one_scale():
    rows = {"a": torch.rand(3, 8, 8), "b": 2 * torch.rand(3, 8, 8)}
    limits = {axis.images[0].get_clim() for axis in plots.labelled_rows(rows, shared_scale=True).axes[:6]}
    assert limits == {(min(float(m.min()) for m in rows.values()), max(float(m.max()) for m in rows.values()))}


def test_one_panel_a_measure():
    columns = {"x": [0.1, 0.5] * 2, "k": list("aabb")} | {
        f"{m}{end}": [1.0, 2.0, 3.0, 4.0] for m in "uvw" for end in ("", " low", " high")
    }
    figure = plots.panels_with_intervals(
        pd.DataFrame(columns), "x", {m: m.upper() for m in "uvw"}, "strength", hue="k", columns=2
    )
    assert [axis.get_title() for axis in figure.axes] == ["U", "V", "W", ""] and not figure.axes[3].axison
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.roc_curves(SCORES, LABELS),
        lambda: plots.score_histograms(SCORES, LABELS),
        lambda: plots.defect_sizes([0.2, 1.0, 9.0]),
        lambda: plots.training_curve([1.0, 0.5, 0.3]),
        lambda: plots.lines_with_intervals(
            pd.DataFrame(
                {"steps": [1, 3, 1, 3], "v": [0.5, 0.6, 0.7, 0.8], "low": 0.4, "high": 0.9, "k": list("aabb")}
            ),
            "steps",
            "v",
            "k",
            "steps",
            "I-AUROC",
            trivial_baseline=0.5,
            log_x=True,
        ),
        lambda: plots.heat_maps(
            pd.DataFrame(
                {"s": [0.1, 0.5] * 4, "g": [3, 3, 9, 9] * 2, "n": [20] * 4 + [30] * 4, "v": range(8), "w": range(8)}
            ),
            {"v": "I-AUROC", "w": "SSIM"},
            "s",
            "g",
            "n",
            {"s": "strength", "g": "guidance", "n": "steps"},
        ),
        lambda: plots.compromise(
            pd.DataFrame({"s": [0.1, 0.5], "r": [0.2, 0.6], "r low": 0.1, "r high": 0.9}),
            "s",
            {"r": "removal"},
            "strength",
            (0.3, 0.4),
        ),
        lambda: plots.pareto(
            pd.DataFrame({"d": [0.2, 0.6], "r": [0.1, 0.8], "s": [0.1, 0.5]}), [True, False], "d", "r", "s", (0.5, 0.5)
        ),
        lambda: plots.alpha_curves(
            pd.DataFrame(
                {
                    "alpha": [0, 1] * 2,
                    "kind": ["raw"] * 2 + ["calibrated"] * 2,
                    "I-AUROC": 0.6,
                    "low": 0.5,
                    "high": 0.7,
                    "effective_alpha": 0.5,
                    "mse_share": 0.5,
                }
            ),
            trivial_baseline=0.6,
        ),
        lambda: plots.intervals_chart(
            pd.DataFrame({"m": ["x", "y"], "v": [0.5, 0.7], "low": [0.4, 0.6], "high": [0.6, 0.8], "g": ["d", "d"]}),
            "m",
            "v",
            "low",
            "high",
            "I-AUROC",
            "g",
        ),
        lambda: plots.panels_with_intervals(
            pd.DataFrame({"rank": [1, 8], "v": [0.5, 0.7], "v low": [0.4, 0.6], "v high": [0.6, 0.8]}),
            "rank",
            {"v": "SSIM"},
            "rank",
            references={"v": 0.9},
            reference_label="VAE",
        ),
    ],
)
def test_charts_have_labelled_axes(draw):
    figure = draw()
    axes = [axis for axis in figure.axes if axis.has_data()]
    bottom = max(axis.get_subplotspec().rowspan.stop for axis in axes)
    assert axes and all(axis.get_xlabel() for axis in axes if axis.get_subplotspec().rowspan.stop == bottom)


def test_heat_maps_state_their_scale_which_is_never_narrow():
    table = pd.DataFrame(
        {
            "s": [0.1, 0.5] * 2,
            "g": [3, 3, 9, 9],
            "n": 20,
            "near": [0.98, 0.99, 0.98, 0.99],
            "wide": [0.2, 0.5, 0.7, 0.8],
        }
    )
    figure = plots.heat_maps(
        table, {"near": "near one", "wide": "wide"}, "s", "g", "n", {"s": "strength", "g": "guidance", "n": "steps"}
    )
    assert [axis.get_title() for axis in figure.axes] == ["near one\n0.90 to 1.00", "wide\n0.20 to 0.80"]
    assert np.allclose([axis.collections[0].get_clim() for axis in figure.axes], [(0.9, 1.0), (0.2, 0.8)])


@pytest.mark.parametrize(
    "drifts, removals", [([0.62, 0.71], [0.25, 0.28]), ([0.6, 1.4], [-0.3, 0.1]), ([0.1, 0.2], [0.9, 1.0])]
)
def test_pareto_cuts_no_point_off(drifts, removals):
    (axis,) = plots.pareto(
        pd.DataFrame({"d": drifts, "r": removals, "s": [0.1, 0.5]}), [True, True], "d", "r", "s", (0.5, 0.5)
    ).axes
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    assert left == 0 and right - max(drifts) > 0.05 * (right - left)
    assert min(removals) - low > 0.05 * (high - low) and high >= max(1.0, max(removals))


def test_roc_legend_names_the_area():
    texts = [text.get_text() for text in plots.roc_curves(SCORES, LABELS).axes[0].get_legend().get_texts()]
    assert texts[0] == "a: 0.889" and texts[-1].startswith("chance")


METHODS = pd.DataFrame(
    {
        "task": ["a/b"] * 3 + ["c/d"] * 3,
        "method": ["x", "y", "z"] * 2,
        "I-AUROC": [0.6, 0.7, 0.8, 0.5, 0.9, 0.7],
        "I-AUROC low": [0.5] * 6,
        "I-AUROC high": [0.95] * 6,
        "ms an image": [1.0, 10.0, 500.0, 2.0, 20.0, 400.0],
        "training s": [1.0, 2.0, 3.0] * 2,
        "NFE": [0, 3, 50] * 2,
        "area": [0.5, 2.0, 8.0] * 2,
        "recall": [0.1, 0.5, 0.9] * 2,
        "family": ["diffusion", "classical", ""] * 2,
        "bin": [0] * 6,
    }
)


def test_method_scatter_has_a_panel_a_task_and_one_legend():
    figure = plots.method_scatter(
        METHODS, "ms an image", "I-AUROC", "ms", "I-AUROC", pd.Series([True, False, True] * 2), log_x=True
    )
    assert [axis.get_title() for axis in figure.axes] == ["a/b", "c/d"] and all(
        axis.get_xscale() == "log" for axis in figure.axes
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["x", "y", "z"]


def test_a_method_looks_the_same_in_every_figure_and_different_from_the_others():
    styles = plots.method_styles([f"m{i:02d}" for i in range(25)])
    assert len({(style["color"], style["marker"]) for style in styles.values()}) == 25


def test_difference_matrices_mark_what_is_unclear():
    pairs = pd.DataFrame(
        {
            "task": ["t/u"] * 3,
            "a": ["x", "x", "y"],
            "b": ["y", "z", "z"],
            "difference": [0.1, 0.3, 0.2],
            "low": [-0.1, 0.1, 0.1],
            "high": [0.2, 0.4, 0.3],
        }
    )
    axis = plots.difference_matrices(pairs).axes[0]
    values = axis.images[0].get_array().filled(0)
    assert values[0, 2] == 0.3 and values[2, 0] == -0.3 and axis.get_title() == "t/u"
    assert sorted(map(tuple, axis.collections[0].get_offsets().tolist())) == [(0.0, 1.0), (1.0, 0.0)]


AGAINST = pd.DataFrame(
    {
        "task": ["a/b", "a/b", "c/d"],
        "method": ["x", "y", "x"],
        "family": ["diffusion", "classical", "diffusion"],
        "I-AUROC": [0.9, 0.8, 0.7],
        "low": [0.85, 0.7, 0.6],
        "high": [0.95, 0.9, 0.8],
        "control": [0.88, np.nan, np.nan],
        "control low": [0.84, np.nan, np.nan],
        "control high": [0.91, np.nan, np.nan],
        "baseline": [0.6, 0.6, np.nan],
        "baseline low": [0.5, 0.5, np.nan],
        "baseline high": [0.7, 0.7, np.nan],
    }
)


@pytest.mark.parametrize("columns", [1, 2])
def test_the_answer_has_a_panel_a_task_with_its_control_and_baseline(columns):
    figure = plots.answer_chart(AGAINST, columns)
    first, second = (axis for axis in figure.axes if axis.axison)
    assert [axis.get_title(loc="left") for axis in (first, second)] == ["a/b", "c/d"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["y", "x"]
    diamonds = [line for line in first.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [0.88]
    assert [0.84, 0.91] in [list(line.get_xdata()) for line in first.lines]  # its interval
    assert len(first.patches) == 1 and len(second.patches) == 0  # the interval of the trivial baseline


def test_a_method_is_as_high_in_a_small_panel_as_in_a_large_one():
    """On one axis, so that columns of panels can be read together."""
    sizes = {"t/0": 12, "t/1": 5, "t/2": 14, "t/3": 8}
    one = AGAINST[:1]
    table = pd.concat([one.assign(task=task, method=f"m{i}") for task, n in sizes.items() for i in range(n)])
    figure = plots.answer_chart(table, 2)
    figure.canvas.draw()
    drawn = {axis.get_title(loc="left"): axis for axis in figure.axes if axis.axison}
    assert len({axis.get_xlim() for axis in drawn.values()}) == 1
    high = [drawn[task].get_window_extent().height / n for task, n in sizes.items()]
    assert max(high) < 1.35 * min(high)


def test_controls_and_claims_are_coloured_by_their_interval():
    rows = pd.DataFrame(
        {
            "task": ["a/b"] * 3,
            "method": ["up", "down", "unclear"],
            "kind": ["no_diffusion", "untrained", "no_diffusion"],
            "difference": [0.1, -0.1, 0.0],
            "low": [0.05, -0.2, -0.1],
            "high": [0.2, -0.05, 0.1],
        }
    )
    axis = plots.control_chart(rows).axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["unclear, a/b", "down, a/b (untrained)", "up, a/b"]
    ledger = pd.DataFrame(
        {
            "claim_id": ["C01", "C02"],
            "statement": ["The round trip leaves an error.", "Very " * 40],
            "verdict": ["supported", "inconclusive"],
            "effect": [0.5, 0.0],
            "low": [0.3, -0.2],
            "high": [0.7, 0.2],
            "margin": [0.1, 0.1],
        }
    )
    axis = plots.claims_chart(ledger).axes[0]
    named = [label.get_text() for label in axis.get_yticklabels()]
    assert named[1] == "C01 The round trip leaves an error." and named[0].startswith("C02 Very") and len(named[0]) <= 78
    points = axis.collections
    offsets = next(c for c in points if len(c.get_offsets()) == 2).get_offsets()
    np.testing.assert_allclose(offsets[:, 0], [-0.5, 2.0])


def test_rows_of_tasks_and_strips_of_cases_draw(tmp_path):
    images, masks = np.zeros((2, 16, 16, 3)), np.zeros((2, 16, 16), dtype=bool)
    masks[1, 4:9, 4:9] = True
    figure = plots.task_rows({"a/b": (images, masks, ["normal", "hole"]), "c/d": (images[:1], None, ["normal"])})
    figure.savefig(tmp_path / "tasks.png")
    assert [axis.get_title() for axis in figure.axes] == ["normal", "hole", "normal", ""]
    strip = plots.case_strip(images, masks, ["a", "b"], np.zeros((2, 8, 8)))
    strip.savefig(tmp_path / "strip.png")
    assert [axis.get_title() for axis in strip.axes[:2]] == ["a", "b"]
    narrow = plots.case_strip(images, masks, ["a", "b"], np.zeros((2, 8, 8)), columns=1)
    assert [axis.get_title() for axis in narrow.axes] == ["a", "", "b", ""], "each image stands above its own map"
    assert narrow.get_figwidth() < strip.get_figwidth() <= narrow.get_figheight()


@pytest.mark.slow
@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.recall_chart(METHODS),
        lambda: plots.cost_growth(METHODS, [1, 100]),
        lambda: plots.cost_growth(
            METHODS, [1, 100], pd.DataFrame({"method": ["x", "x"], "pixels": [64, 128], "ms an image": [3.0, 11.0]})
        ),
        lambda: plots.range_chart(
            pd.DataFrame({"name": ["m", "n"], "low": [0.5, 0.6], "high": [0.7, 0.8]}),
            "name",
            "low",
            "high",
            "published",
        ),
        lambda: plots.critical_differences(
            pd.Series({"x": 1.2, "y": 2.0, "z": 2.8}),
            pd.DataFrame([[1.0, 0.2, 0.01], [0.2, 1.0, 0.3], [0.01, 0.3, 1.0]], index=list("xyz"), columns=list("xyz")),
        ),
        lambda: plots.convention_effects(
            pd.DataFrame({"convention": ["crop", "ties"], "metric": ["AUPRO", "I-AUROC"], "change": [-0.3, 0.001]}),
            {"here": [0.1, 0.2], "there": []},
        ),
    ],
)
def test_charts_of_the_comparison_draw(draw, tmp_path):
    figure = draw()
    figure.savefig(tmp_path / "figure.png")
    assert any(axis.get_xlabel() for axis in figure.axes)


def test_frequency_curves_leave_out_the_mean_and_mark_the_limit():
    frequency = torch.arange(0, 46) / 64  # beyond 1/2 there are only corners
    curve = (frequency, *(scale / (frequency + 0.01) ** 2 for scale in (1.0, 0.9, 1.1)))
    figure = plots.frequency_curves(
        {"power": {"image": curve}, "gain": {"gain": (frequency, *[1 - frequency] * 3)}}, limit=1 / 16
    )
    power, gain = figure.axes
    assert (power.get_yscale(), gain.get_yscale()) == ("log", "linear")
    assert power.lines[0].get_xdata().tolist() == frequency[1:33].tolist() and power.lines[1].get_xdata()[0] == 1 / 16


def test_defect_survival_draws_every_defect_and_the_floor():
    n = 24
    values = torch.linspace(0.01, 1, n)
    columns = {"area": values / 10, "contrast": values, "vae_error": 0.05, "survival": values}
    table = pd.DataFrame(columns | {"defect": ["hole", "scratch"] * (n // 2)})
    left, right = plots.defect_survival(table).axes[:2]
    assert len(left.collections[0].get_offsets()) == n and left.lines[0].get_ydata()[n // 2] == pytest.approx(0.05)
    assert sum(len(points.get_offsets()) for points in right.collections) == n


def test_defect_survival_of_a_few_sizes_has_one_floor_for_each():
    columns = {
        "area": [0.01, 0.02] * 6,
        "contrast": 0.1,
        "vae_error": [0.1, 0.3] * 6,
        "survival": 0.5,
        "planted": [0.1] * 6 + [0.2] * 6,
    }
    left = plots.defect_survival(pd.DataFrame(columns), "planted").axes[0]
    assert left.lines[0].get_xdata().tolist() == [1.0, 2.0] and left.lines[0].get_ydata().tolist() == [0.1, 0.3]


def test_band_gains_has_a_point_for_each_name_and_band():
    rows = [
        {"name": name, "band": band, "gain": 1.0, "low": 0.5, "high": 1.5}
        for name in ("a", "b")
        for band in ("low", "high", "all")
    ]
    axis = plots.band_gains(pd.DataFrame(rows)).axes[0]
    assert len(axis.containers) == 2 and [t.get_text() for t in axis.get_xticklabels()] == ["low", "high", "all"]


def test_bins_stages_and_points_by_size():
    figure = plots.bin_shares({"training": [2, 3, 3], "defective": [3, 4]}, 5)
    heights = [bar.get_height() for container in figure.axes[0].containers for bar in container]
    assert sorted(round(height, 3) for height in heights if height > 0) == [0.333, 0.5, 0.5, 0.667]
    assert [text.get_text() for text in figure.axes[0].get_legend().texts] == ["training", "defective"]
    figure = plots.stage_times({"encode": 1.0, "decode": 3.0})
    assert figure.axes[0].get_xlabel() == "milliseconds an image"
    assert [text.get_text() for text in figure.axes[0].texts] == [" 3 ms (75%)", " 1 ms (25%)"]
    figure = plots.stage_times({"a step of one": 1.25, "of another": 3.0}, whole=False)
    assert [text.get_text() for text in figure.axes[0].texts] == [" 3 ms", " 1.25 ms"]
    table = pd.DataFrame({"area": [0.2, 1.0, 8.0], "distance": [1.0, 2.0, 3.0], "defect": list("aab")})
    axis = plots.points_by_size(table, "area", "distance", "defect", "area, %", "distance").axes[0]
    assert axis.get_xscale() == "log" and "1" in [label.get_text() for label in axis.get_xticklabels()]


def test_claim_forest_has_a_mark_for_each_run_category_and_the_pooled_effect():
    rows = pd.DataFrame(
        [
            ("a minus b", "leather, seed 0", 0.1, 0.0, 0.2, "seed"),
            ("a minus b", "leather (2 seeds, n = 100)", 0.2, 0.1, 0.3, "category"),
            ("a minus b", "2 categories together", 0.25, -0.1, 0.6, "pooled"),
            ("a minus c", "leather (n = 100)", 0.3, 0.2, 0.4, "category"),
        ],
        columns=["variant", "label", "effect", "low", "high", "level"],
    )
    first, second = plots.claim_forest(rows, 0.02, "C44: a is better").axes
    assert [tick.get_text() for tick in first.get_yticklabels()] == rows["label"][2::-1].tolist()
    assert len(first.containers) == 3 and len(second.containers) == 1
    assert first.lines[-1].get_xdata() == [0.02, 0.02] and "margin 0.02" in second.get_xlabel()
    with pytest.raises(ValueError, match="no evidence"):
        plots.claim_forest(rows[:0], 0.0)


def test_a_method_against_its_controls():
    table = pd.DataFrame(
        {"label": ["method", "control"], "I-AUROC": [0.9, 0.7], "low": [0.8, 0.6], "high": [0.95, 0.8]}
    )
    figure = plots.against_control(table, [3.0, 1.0, 2.0], [0.1, 0.2, 0.3], [0, 1, 1])
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["control", "method"]  # the first row is on top
    normal, anomalous = right.collections
    assert normal.get_offsets().tolist() == [[3, 1]] and anomalous.get_offsets().tolist() == [[1, 2], [2, 3]]


def test_means_are_drawn_by_group_about_their_reference():
    table = pd.DataFrame({"name": ["a", "b"], "mean": [0.1, 0.3], "low": [0.0, 0.2], "high": [0.2, 0.4], "group": "g"})
    figure = plots.larger(plots.means_chart(table, "gain", 0.25))
    (axis,) = figure.axes
    assert axis.get_title() == "g" and axis.get_xlabel() == "gain" and axis.title.get_fontsize() == 10
    assert [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == ":"] == [0.25]
    names = ["method", "metric", "value", "from", "to"]
    renamed = table[["name", "group", "mean", "low", "high"]].set_axis(names, axis=1)
    (other,) = plots.means_chart(renamed, "gain").axes
    assert other.get_title() == "g" and [tick.get_text() for tick in other.get_yticklabels()] == ["b", "a"]
    assert [line.get_xdata()[0] for line in other.lines if line.get_linestyle() == ":"] == [0.5]


def test_lines_can_be_on_a_logarithmic_axis():
    table = pd.DataFrame({"x": [1, 2], "y": [0.1, 10.0], "name": "a"})
    axis = plots.lines_with_intervals(table, "x", "y", "name", "x", "y", log_y=True).axes[0]
    assert axis.get_yscale() == "log"

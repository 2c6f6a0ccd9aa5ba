"""Claims that need runs of several methods or categories: the diffused space, and one number of steps for all."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from diffad_utils.analyses import joint_claims, score_sweeps
from diffad_utils.metrics import intervals
from diffad_utils.study import claims, verdicts

LABELS = np.arange(80) % 2
KEYS = [f"image {i}" for i in range(80)]


def run(method, category="leather", seed=0, gap=0.0, part=None, **experiments):
    """A run whose part separates the classes by ``gap`` standard deviations."""
    rng = np.random.default_rng([len(method), seed, len(category)])
    table = pd.DataFrame({"key": KEYS, "label": LABELS, "score": 0.0})
    if part:
        table[part] = gap * LABELS + rng.standard_normal(len(LABELS))
    where = {"dataset": "textures", "category": category, "method": method, "seed": seed}
    manifest = {"parameters": {"sweep_images": 60} if method == "invad" else {}}
    return SimpleNamespace(**where, experiments=experiments, scores=lambda: table, manifest=manifest)


def rival(t, steps, value, group="textures/leather"):
    name = f"reconstruction, t = {t}, {steps} step{'s' * (steps > 1)}"
    return {"method": name, "group": group, "I-AUROC": value, "low": value - 0.05, "high": value + 0.05}


RIVALS = [
    {"method": "inversion, S = 3", "group": "textures/leather", "I-AUROC": 1.0, "low": 1.0, "high": 1.0},
    *[rival(t, 10, value) for t, value in ((100, 0.7), (250, 0.8), (500, 0.9), (800, 0.6))],
    rival(500, 1, 0.95),
    rival(500, 10, 0.1, group="textures/carpet"),
]


def test_one_score_in_three_spaces():
    records = [
        run("pixel_ddpm", gap=0.1, part="mse"),
        run("sgm", gap=1.5, part="re"),
        run("invad", rivals=RIVALS, setting={"name": "unified"}),
        run("esm"),
    ]
    found = joint_claims.spaces(records)
    assert found["training"].tolist() == ["textures, unified", "textures/leather", "textures/leather"]
    assert found["space"].tolist() == ["features", "latents", "pixels"]
    assert found["images"].tolist() == [60, 80, 80], "rivals of InvAD are measured on the images of its sweeps"
    assert found.loc[0, "method"].endswith("t = 500, 10 steps")  # the middle level, not the best of them
    assert found.loc[1, "low"] < found.loc[1, "I-AUROC"] < found.loc[1, "high"]
    (row,) = joint_claims.space_findings(found, "Spaces")
    assert row["n"] == 60
    assert row["effect"] == pytest.approx(0.9 - found.loc[2, "I-AUROC"]) and row["verdict"] == "supported"
    assert (row["dataset"], row["category"], row["seed"]) == ("textures", "leather", 0)
    assert row["training"] == "textures, unified"
    claim = claims.published_claims().loc["C36"]
    assert verdicts.variant_of(claim, row["measure"]) == claim["variants"]
    half = (row["interval"][1] - row["interval"][0]) / 2
    assert half > 0.05 and half > (found.loc[2, "high"] - found.loc[2, "low"]) / 2
    assert "in 1 of 1 runs (on 1 task), and below it in 0. The images" in joint_claims.spaces_in_words(found)
    wide = found.assign(low=found["I-AUROC"] - 0.5, high=found["I-AUROC"] + 0.5)
    assert joint_claims.spaces_in_words(wide).startswith("No difference between features and pixels is shown in the")
    assert "cannot be compared" in joint_claims.spaces_in_words(joint_claims.spaces(records[:2]))
    assert joint_claims.spaces([]).empty and joint_claims.space_findings(joint_claims.spaces([]), "") == []


def test_lora_is_compared_with_the_autoencoder_on_normal_images():
    pair = [run("lora", gap=5.0, part="mse"), run("autoencoder", gap=50.0, part="mse")]
    (row,) = joint_claims.identity_findings(pair, "Claims")
    tables = [record.scores().query("label == 0")["mse"].mean() for record in pair]
    assert row["effect"] == pytest.approx(1000 * (tables[0] - tables[1])) and row["n"] == 40
    claim = claims.published_claims().loc["C24c"]
    assert verdicts.variant_of(claim, row["measure"]) == claim["variants"] and int(claim["min_n"]) <= row["n"]
    assert (row["category"], row["seed"]) == ("leather", 0)
    assert joint_claims.identity_findings([pair[0], run("autoencoder", seed=1, part="mse")], "") == []
    assert joint_claims.identity_findings([pair[0], run("autoencoder")], "") == []  # no such part


def settings_of_categories(best, gain, rng):
    """Scores [3, 80] of each category, whose setting ``best`` separates better by ``gain``."""
    return [rng.standard_normal((3, 80)) + LABELS * (0.5 + gain * (np.arange(3) == b))[:, None] for b in best]


def test_a_setting_for_each_pays_only_where_categories_differ():
    rng, labels = np.random.default_rng(0), [LABELS] * 3
    differ = joint_claims.choice_for_each(settings_of_categories((0, 1, 2), 2.0, rng), labels, 10, 100)
    assert len(differ) == 3 and all(np.percentile(draws, 2.5) > 0 for bounds in differ for draws in bounds)
    assert all(0.05 < lower[0] < upper[0] for lower, upper in differ)
    alike = joint_claims.choice_for_each(settings_of_categories((1, 1, 1), 2.0, rng), labels, 10, 100)
    assert all(abs(draws[0]) < 0.01 for bounds in alike for draws in bounds)
    with pytest.raises(ValueError, match="two or more categories"):
        joint_claims.choice_for_each([np.zeros((3, 80))], [LABELS])


def test_a_choice_among_equals_gains_nothing_on_average():
    """On the images that it was made on, the best of three equal settings is above the others. The bounds lie on both
    sides of 0."""
    gains, naive = [], []
    for i in range(30):
        scores = settings_of_categories((0, 1), 0.0, np.random.default_rng(i))
        bounds = joint_claims.choice_for_each(scores, [LABELS] * 2, 5, 1)
        gains.append(np.mean([[draws[0] for draws in both] for both in bounds], axis=0))
        reached = np.stack([intervals.auroc(s, LABELS, np.ones((1, 80), int))[0] for s in scores])
        naive.append(reached.max(axis=1).mean() - reached.mean(axis=0).max())
    lower, upper = np.mean(gains, axis=0)
    assert lower < -0.005 < 0.005 < np.mean(naive) < upper


def test_timesteps_are_judged_over_categories_of_one_seed():
    rng = np.random.default_rng(0)

    def kept(best):
        (scores,) = settings_of_categories((best,), 2.0, rng)
        return {"ESM": {"T_d": [20, 50, 100], "labels": LABELS.tolist(), "scores": scores.tolist()}}

    records = [run("esm", category, timestep_scores=kept(i)) for i, category in enumerate(("leather", "wood", "tile"))]
    found = joint_claims.timestep_findings(records, "Steps", n=50)
    claim = claims.published_claims().loc["C62"]
    assert [row["category"] for row in found] == ["leather", "leather", "wood", "wood", "tile", "tile"]
    assert [verdicts.variant_of(claim, row["measure"]) for row in found] == verdicts.phrases(claim) * 3
    assert all(0.02 < low["effect"] < high["effect"] for low, high in zip(found[::2], found[1::2], strict=True))
    assert found[0]["n"] == 80 and "T_d of 20, 50, 100" in found[0]["note"]
    alone = [run("esm", "leather", seed=1, timestep_scores=kept(0))]
    assert joint_claims.timestep_findings([*alone, run("esm", "wood", seed=2)], "Steps") == []


def test_the_sweep_is_recorded_with_its_scores():
    table = pd.DataFrame({"variant": ["ESM", "ESM", "SGM"], "T_d": [20, 50, 20]})
    scores = {"ESM": {4: torch.tensor([0.1, 0.2]), 10: torch.tensor([0.3, 0.4])}, "SGM": {4: torch.tensor([1.0, 2.0])}}
    found = score_sweeps.timestep_scores(table, scores, torch.tensor([0, 1]))
    assert found["ESM"]["T_d"] == [20, 50] and found["ESM"]["labels"] == [0, 1]
    assert np.shape(found["ESM"]["scores"]) == (2, 2) and found["SGM"]["T_d"] == [20]


def test_the_deviation_over_trainings_is_not_biased():
    """With three trainings a standard deviation is 11 % too small on average, its logarithm here is not."""
    rng, printed = np.random.default_rng(0), joint_claims.PRINTED_GAIN
    drawn = np.array([joint_claims.against_chance(printed / 2 * rng.standard_normal(3)) for _ in range(4000)])
    value, low, high = drawn.T
    assert value.mean() == pytest.approx(0, abs=3 * value.std() / np.sqrt(4000))
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.95, abs=0.02)
    assert verdicts.standard_error(low, high).mean() == pytest.approx(value.std(), rel=0.05)
    for bad in ([0.1, 0.2], [0.1, 0.1, 0.1]):
        with pytest.raises(ValueError, match="3 or more trainings that differ"):
            joint_claims.against_chance(bad)


def test_a_printed_difference_is_compared_with_that_between_trainings():
    def trained(seed, gain, category="leather"):
        row = claims.finding(
            "C44", gain, gain - 0.05, gain + 0.05, 100, measure="I-AUROC of ESM minus SGM", section="Seeds"
        )
        manifest = {"notebook": "05_esm", "weights": []}
        where = {"dataset": "textures", "category": category, "seed": seed, "method": "esm", "folder": ""}
        return SimpleNamespace(**where, claims=[row], experiments={}, manifest=manifest)

    gains = 0.001, 0.002, 0.004
    (row,) = joint_claims.chance_findings([trained(seed, gain) for seed, gain in enumerate(gains)], "Claims")
    claim = claims.published_claims().loc["C67"]
    assert verdicts.variant_of(claim, row["measure"]) == claim["variants"] and row["margin"] == 0
    assert (row["effect"], *row["interval"]) == joint_claims.against_chance(gains)
    assert row["effect"] > 2 and (row["category"], row["seed"], row["n"]) == ("leather", 0, 100)
    assert row["note"] == "seeds 0, 1, 2"
    two = [trained(0, 0.1, "wood"), trained(1, 0.2, "wood")]
    assert joint_claims.chance_findings([*two, *(trained(s, 0.1) for s in range(3))], "Claims") == []

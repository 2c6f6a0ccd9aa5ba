"""InvAD against its controls, over training, steps and noise; the findings that come of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tasks import run_of

from diffad_utils import data
from diffad_utils.analyses import inversion
from diffad_utils.analyses import inversion_sweeps as sweeps
from diffad_utils.analyses.task import load_task
from diffad_utils.io import store
from diffad_utils.io.files import to_json
from diffad_utils.methods import kept, stored
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.invad.feature_dit import FeatureDiT
from diffad_utils.study import claims, verdicts

SMALL = dict(backbone="resnet-mini", grid=4, width=32, depth=1, num_heads=2, train_steps=3, warmup_steps=1)


def a_run(folder, **changed):
    return run_of("07_invad", folder, **{"categories": ["wood", "carpet"], "train_images": 240} | changed)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return a_run(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def task(run):
    return load_task(run)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    return lambda name: folder / name


def detector_images(task):
    return data.ImageDataset(task.train.index.head(20), size=32)


@pytest.fixture(scope="module")
def detector(run, task, snapshots):
    few = detector_images(task)
    return InvAD(image_size=32, device="cpu", category="leather", **SMALL).fit(few, snapshots("unified"), [2, 3])


@pytest.fixture(scope="module")
def features(detector, task):
    return detector.features(task.images)


def test_the_own_category_is_whole_and_the_others_share_the_rest(run, task):
    images = inversion.unified_training_images(run, task)
    assert images.index["category"].value_counts().to_dict() == {"leather": 200, "carpet": 20, "wood": 20}
    assert (images.index["label"] == 0).all() and (images.index["split"] == "train").all()
    assert set(task.train.index["image"]) <= set(images.index["image"])


def test_categories_whose_unions_hold_every_image_share_one_training(tmp_path):
    found = []
    for category in ("leather", "wood"):
        run = a_run(tmp_path, category=category, categories=["leather", "wood"], train_images=400)
        found.append(inversion.unified_training_images(run, load_task(run)))
    assert len(found[0]) == 400 and found[0].index.equals(found[1].index)
    settings = dict(image_size=32, device="cpu", **SMALL)
    assert len({stored.key_of(InvAD(**settings), images, {}) for images in found}) == 1


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"categories": ["cloth"]}, "categories .'cloth'. are not there"),
        ({"train_images": 200}, "train_images=200 leaves 0 images for each of 2 other categories"),
    ],
)
def test_a_union_that_cannot_be_is_refused(tmp_path, task, changed, message):
    with pytest.raises(ValueError, match=message):
        inversion.unified_training_images(a_run(tmp_path, **changed), task)


@pytest.mark.slow
def test_controls_stand_beside_the_method(task, detector, features):
    found = inversion.controls(task, detector, features)
    assert found.table["label"].tolist() == [
        "InvAD",
        "untrained network",
        "no diffusion",
        inversion.ONE_CATEGORY,  # the detector has seen 20 of the images
        "trivial baseline",
    ]
    assert torch.equal(
        found.scores["InvAD"], detector.prediction_from_latents(detector.invert(features), (32, 32)).score
    )
    value = dict(zip(found.table["label"], found.table["I-AUROC"], strict=True))
    assert value["untrained network"] == pytest.approx(value["no diffusion"], abs=1e-3)
    assert set(found.records) == set(inversion.RECORDED)
    for name, (label, what) in inversion.RECORDED.items():
        record = found.records[name]
        assert set(record) == {"I-AUROC", "AUPRO", "difference", "low", "high", "what"}
        assert record["I-AUROC"] == value[label] and record["what"] == what
        assert record["difference"] == pytest.approx(value["InvAD"] - value[label])
        assert record["low"] <= record["difference"] <= record["high"]


@pytest.mark.slow
def test_curves_begin_untrained_and_end_with_the_detector(task, detector, features, snapshots):
    curve, plain = inversion.training_curves(task, detector, features, snapshots, [2, 3], seeds=2)
    assert curve["network"].unique().tolist() == ["InvAD, seed 0", "InvAD, seed 1", "InvAD, no skip connection"]
    assert curve["step"].tolist() == [0, 2, 3, 0, 2, 3, 2, 3]
    score = detector.prediction_from_latents(detector.invert(features), (32, 32)).score
    assert curve["I-AUROC"][2] == task.accuracy(score)["I-AUROC"]
    assert plain.shape == score.shape and not torch.equal(plain, score)
    without, none = inversion.training_curves(task, detector, features, snapshots, [2, 3], seeds=1, no_skip=False)
    assert none is None and without.equals(curve[:3])


def test_a_rerun_evaluates_no_network_and_gives_the_same_bytes(
    task, detector, features, snapshots, tmp_path, monkeypatch
):
    some = task.subset(20)

    def measured() -> str:
        curve, plain = inversion.training_curves(task, detector, features, snapshots, [2, 3], seeds=1)
        against = inversion.controls(task, detector, features)
        steps = sweeps.inversion_steps(some, detector, features[some.rows], [1, 3])
        rivals = sweeps.reconstructions(
            some, detector, features[some.rows], [100, 500], 2, [1, 2], {"plain": plain[:20]}
        )
        tables = {"curve": curve, "table": against.table, "steps": steps.table, "rivals": rivals.table}
        found = {name: sweeps.as_records(table) for name, table in tables.items()}
        return to_json(found | {"scores": [score.tolist() for score in rivals.scores.values()]}, "metrics.json")

    without = measured()
    monkeypatch.setattr(kept, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(kept, "BYTES_A_SECOND", 10**15)  # a fast machine keeps results of any size, too
    store.open_run(tmp_path)
    try:
        first = measured()
        monkeypatch.setattr(FeatureDiT, "forward", lambda *_: pytest.fail("a network was evaluated"))
        assert first == without and measured() == without
        assert "retrained_scores" in {entry["what"] for entry in store.taken()}
    finally:
        store.close_run()


def test_the_models_noise_and_random_noise_are_of_the_same_level(task, detector, features):
    found = inversion.noise_of_the_model(task, detector, features, (333, 666))
    assert found["t"].tolist() == [333, 333, 666, 666] and found["noise"].tolist() == ["of the model", "random"] * 2
    cosine = found.set_index(["t", "noise"])["cosine"]
    expected = float(detector.schedule.alphas_cumprod[333].sqrt())  # of standardised features and noise, |x|^2 ~ |e|^2
    assert cosine[333, "random"] == pytest.approx(expected, abs=0.1)
    assert cosine[333, "of the model"] > cosine[333, "random"]
    difference = found.attrs["differences"][333, "cosine"]
    assert difference[0] == pytest.approx(cosine[333, "of the model"] - cosine[333, "random"], abs=1e-6)
    with pytest.raises(ValueError, match=r"timesteps \[334\] are not visited"):
        inversion.noise_of_the_model(task, detector, features, (334,))


def test_scaling_over_the_test_set_moves_scores():
    class Some:
        @staticmethod
        def accuracy(score):
            return {"I-AUROC": float(score.mean())}

    parts = {"nll": torch.tensor([0.0, 1.0, 2.0]), "spread": torch.tensor([0.0, 1.0, 1.0])}
    found = inversion.scaled_over_test_set(Some, parts, torch.zeros(3))
    assert found["range of their scores"] == pytest.approx(2)
    assert found["largest change of a score"] == pytest.approx(0.5)  # 1.5 becomes 2 without the last image


def test_steps_and_rivals_are_rows_with_scores(task, detector, features):
    some = task.subset(20)
    steps = sweeps.inversion_steps(some, detector, features[some.rows], [1, 3])
    assert list(steps.scores) == [("reference", 3), ("paper", 1), ("paper", 3)]
    assert steps.table["steps"].tolist() == [3, 1, 3]
    rivals = sweeps.reconstructions(
        some, detector, features[some.rows], [100, 500], 2, [1, 2], {"no diffusion": some.labels}
    )
    assert list(rivals.scores) == [(100, 2), (500, 2), (500, 1)]
    assert rivals.table["NFE"].tolist() == [3, 0, 2, 2, 1] and rivals.table["I-AUROC"][1] == 1
    assert "AUPRO" not in sweeps.as_records(rivals.table)[1] and "AUPRO" in sweeps.as_records(rivals.table)[2]
    lines = sweeps.with_level(steps.table, "steps", "spacing", "no diffusion", {"I-AUROC": 0.5})
    assert lines["spacing"].value_counts()["no diffusion"] == 2 and lines["steps"].tolist()[-2:] == [1, 3]
    assert rivals.table["I-AUROC"][0] == some.accuracy(steps.scores["reference", 3])["I-AUROC"]


def test_both_bounds_of_the_ranges(task):
    """Noise levels from perfect to useless against step counts that are all perfect: the range is larger by a half."""
    perfect = task.labels.double()
    random = torch.rand(len(perfect), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sweeps.range_bounds(task, [perfect, random], [perfect, perfect + 1])
    assert [verdicts.variant_of(claims.published_claims().loc["C34"], measure) for _, measure in found] == [
        "noise levels, cross-fitted, minus",
        "noise levels, on the same images, minus",
    ]
    lower, upper = found.values()
    assert lower[0] == pytest.approx(0.5, abs=0.1) and upper[0] == pytest.approx(lower[0], abs=0.02)
    assert lower[1] > 0.2


def test_both_measures_of_a_timestep_are_judged():
    effects = {(333, "I-AUROC"): (0.1, 0.05, 0.15), (333, "cosine"): (0.01, -0.05, 0.07)}
    effects |= {(500, "I-AUROC"): (-0.1, -0.2, 0.0), (500, "cosine"): (0.5, 0.49, 0.51)}
    found = sweeps.noise_findings(effects)
    assert list(found.values()) == list(effects.values())
    row = claims.published_claims().loc["C38"]
    assert [verdicts.variant_of(row, measure) for _, measure in found] == [*["at t = 333"] * 2, *["at t = 500"] * 2]


def test_findings_have_the_fixed_measures_and_their_images(task):
    some, effect = task.subset(20), (0.1, 0.05, 0.15)
    found = {
        ("C33", "I-AUROC of 3 minus 25 inversion steps"): effect,
        ("C37", "I-AUROC of the final latent minus the same score on features without diffusion"): effect,
    }
    rows = sweeps.findings(found, task, some, "a small denoiser")
    assert [row["n"] for row in rows] == [20, len(task.labels)] and rows[1]["section"] == "Is it the inversion?"
    table = claims.published_claims()
    assert all(verdicts.variant_of(table.loc[row["claim_id"]], row["measure"]) for row in rows)


def test_features_standardised_on_the_category_are_those_of_a_network_for_it_alone(task, features, detector):
    few = replace(task, train=detector_images(task))
    own, normal = inversion.standardised_on_one_category(few, detector, features)
    assert torch.allclose(own, features, atol=1e-4)  # this detector has seen no other category
    assert torch.allclose(normal, detector.holdout_features_, atol=1e-4)
    assert inversion.ONE_CATEGORY not in inversion.controls(few, detector, features).scores


@pytest.mark.slow
def test_classes_in_words_name_what_is_there(task, detector, features):
    rows, found = sweeps.class_rows(task, {"unified": (detector, features)})
    assert [row["setting"] for row in rows] == ["unified, InvAD", "unified, untrained", "unified, no diffusion"]
    assert sweeps.classes_in_words(task, found).endswith("so there is nothing to compare with.")
    _, found = sweeps.class_rows(task, {"unified": (detector, features), "one category": (detector, features)})
    said = sweeps.classes_in_words(task, found)
    assert said.endswith(
        "The unified network is not shown to differ from the network for one category: exactly 0 I-AUROC."
    )
    assert np.isfinite([row["low"] for row in rows]).all()

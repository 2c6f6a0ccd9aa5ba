"""What is particular to trivial and InvAD; what all methods share is in test_contract.py."""

import copy
import json
import shutil

import pytest
import torch
from tiny_models import write_clip, write_stable_diffusion

from diffad_utils import data
from diffad_utils.methods import METHODS, Prediction
from diffad_utils.methods.invad.score import prediction
from diffad_utils.methods.trivial import PARTS, STATISTICS, best_statistic

SMALL = {
    "trivial": {},
    "invad": {
        "grid": 4,
        "width": 32,
        "depth": 1,
        "num_heads": 2,
        "train_steps": 150,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
    },
}


@pytest.fixture(scope="module")
def fitted(splits):
    return {name: METHODS[name](image_size=64, device="cpu", **SMALL[name]).fit(splits[0]) for name in SMALL}


def test_predict_dataset_joins_batches(fitted, splits):
    dataset, detector = splits[0], fitted["trivial"]
    detector.batch_size, seen = 5, []
    joined = detector.predict_dataset(dataset, on_batch=lambda done, total: seen.append((done, total)))
    assert len(joined) == 12 and seen == [(5, 12), (10, 12), (12, 12)]
    assert torch.allclose(joined.score, detector.predict(data.load_batch(dataset)["image"]).score, atol=1e-4)
    with pytest.raises(ValueError, match="empty"):
        Prediction.concatenate([])


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
def test_compiled_networks_give_the_same_scores(fitted, splits):
    compiled = copy.deepcopy(fitted["invad"])
    assert compiled.compile() is compiled
    found, expected = (detector.predict(splits[1]["image"]) for detector in (compiled, fitted["invad"]))
    assert torch.allclose(found.score, expected.score, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compile_reaches_both_halves_of_the_autoencoder(splits, tmp_path):
    weights, clip = str(write_stable_diffusion(tmp_path / "sd")), str(write_clip(tmp_path / "clip"))
    detector = METHODS["img2img"](
        weights=weights,
        clip=clip,
        image_size=64,
        device="cpu",
        num_inference_steps=4,
        strength=0.5,
        calibration_images=2,
    )
    expected, calls = detector.fit(splits[0]).predict(splits[1]["image"]).reconstruction, []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    found = detector.compile(backend=backend, dynamic=False).predict(splits[1]["image"]).reconstruction
    assert torch.allclose(found, expected, atol=1e-5) and len(calls) >= 3  # encoder, UNet, decoder


# -- trivial -----------------------------------------------------------------------------------------------------------


def test_trivial_finds_what_is_darker_and_what_is_brighter(fitted, splits):
    image = splits[1]["image"][:1]
    prediction = fitted["trivial"].predict(torch.cat([image, image * 0.3, 1 - 0.2 * (1 - image)]))
    parts = prediction.parts
    assert set(parts) == set(PARTS)
    assert parts["mean"][1] > 3 * parts["mean"][0] and parts["mean"][2] > 3 * parts["mean"][0]
    assert parts["mean_low"][1] > 0 > parts["mean_low"][2] and torch.equal(parts["mean_high"], -parts["mean_low"])
    assert torch.equal(prediction.score, torch.stack([parts[name] for name in STATISTICS]).amax(dim=0))


def test_best_statistic_is_the_best():
    labels = torch.tensor([0, 0, 1, 1])
    parts = {"a": torch.tensor([0.0, 1.0, 2.0, 3.0]), "b": torch.tensor([3.0, 2.0, 1.0, 0.0])}
    assert best_statistic(parts, labels) == ("a", 1.0)


# -- InvAD -------------------------------------------------------------------------------------------------------------


def test_invad_parts_and_nfe(fitted, splits):
    prediction = fitted["invad"].predict(splits[1]["image"])
    assert set(prediction.parts) == {"nll", "spread"} and prediction.nfe == 3 and prediction.reconstruction is None
    other = fitted["invad"].with_settings(num_steps=5, spacing="paper")
    assert other.predict(splits[1]["image"]).nfe == 5
    assert torch.equal(fitted["invad"].predict(splits[1]["image"]).score, prediction.score)


def test_invad_reference_latent_is_the_noise_predicted_at_the_last_timestep(fitted, splits):
    detector = fitted["invad"].with_settings(num_steps=3, spacing="reference")
    x0 = detector.features(splits[1]["image"])
    from diffad_utils.diffusion import ddim_invert

    with torch.no_grad():
        _, states = ddim_invert(detector._eps_fn(), x0, detector.schedule, 3, "reference", True)
        predicted = detector.denoiser_(states[-2], torch.full((6,), 999))
    assert torch.allclose(detector.invert(x0), predicted, atol=1e-5)


def test_invad_reconstruction_depends_on_the_key_alone(fitted, splits):
    detector, keys = fitted["invad"], splits[1]["key"]
    features = detector.features(splits[1]["image"])
    together = detector.reconstruct(features, keys, noise_timestep=300, num_steps=3)
    alone = detector.reconstruct(features[2:3], keys[2:3], noise_timestep=300, num_steps=3)
    assert torch.allclose(together[2:3], alone, atol=1e-4)
    assert not torch.allclose(together[2:3], detector.reconstruct(features[2:3], ["another key"], 300, 3), atol=1e-2)


def test_invad_is_loaded_as_it_was(fitted, splits, tmp_path):
    fitted["invad"].save(tmp_path)
    loaded = METHODS["invad"].load(tmp_path, device="cpu")
    images = splits[1]["image"]
    assert torch.equal(fitted["invad"].predict(images).score, loaded.predict(images).score)
    for act in (loaded.with_settings, loaded.retrain, lambda: loaded.at_step(0)):
        with pytest.raises(RuntimeError, match="a loaded detector has none"):
            act()


def test_invad_untrained_says_what_the_features_say(fitted, splits):
    """With the linear skip an untrained network only rescales the features, so the control agrees with it."""
    detector = fitted["invad"]
    features, size = detector.features(splits[1]["image"]), splits[1]["image"].shape[-2:]
    untrained = detector.at_step(0)
    found = untrained.prediction_from_latents(untrained.invert(features), size)
    control = prediction(features, detector.holdout_features_, size)
    assert torch.allclose(found.score, control.score, rtol=1e-3, atol=1e-3) and control.nfe == 0
    assert not torch.allclose(found.score, detector.predict(splits[1]["image"]).score, atol=0.05)


def test_invad_snapshots_are_the_training_on_its_way(fitted, splits, tmp_path):
    short = {"train_steps": 6, "warmup_steps": 1}
    detector = fitted["invad"].retrain(tmp_path, [2, 6], **short)
    features = detector.features(splits[1]["image"])
    assert torch.equal(detector.at_step(6, tmp_path).invert(features), detector.invert(features))
    assert not torch.equal(detector.at_step(2, tmp_path).invert(features), detector.invert(features))
    again = fitted["invad"].retrain(**short)
    assert torch.equal(again.invert(features), detector.invert(features))  # watching does not change the training
    plain = fitted["invad"].retrain(linear_skip=False, **short)
    assert plain.denoiser_.linear_skip is None and fitted["invad"].denoiser_.linear_skip is not None
    with pytest.raises(FileNotFoundError, match="snapshot_steps that hold 3"):
        detector.at_step(3, tmp_path)
    with pytest.raises(ValueError, match="needs a checkpoint_folder"):
        fitted["invad"].retrain(snapshot_steps=[2])
    with pytest.raises(ValueError, match="retrain cannot change grid"):
        fitted["invad"].retrain(grid=8)


@pytest.mark.slow
def test_invad_calibrates_on_the_category_it_is_asked_about():
    index = data.load_index("textures")
    train = index[(index["split"] == "train") & index["category"].isin(["carpet", "wood"])].groupby("category").head(8)
    images = data.ImageDataset(train, size=64)
    small = SMALL["invad"] | {"train_steps": 2, "warmup_steps": 1, "image_size": 64, "device": "cpu"}
    both, wood = (METHODS["invad"](category=name, **small).fit(images) for name in ("", "wood"))
    assert len(both.train_features_) == len(wood.train_features_) == 12  # two held out of each
    assert len(both.holdout_features_) == 4 and len(wood.holdout_features_) == 2
    assert all(any(torch.equal(x, y) for y in both.holdout_features_) for x in wood.holdout_features_)
    assert torch.equal(both.denoiser_.embed.weight, wood.denoiser_.embed.weight)  # one network for both
    asked = both.with_settings(category="wood")
    assert asked.calibration_ == wood.calibration_ and asked.category == "wood" and both.category == ""
    with pytest.raises(ValueError, match="'leather' has no training images, which are of carpet, wood"):
        both.with_settings(category="leather")
    with pytest.raises(ValueError, match="'leather' has no training images, which are of carpet, wood"):
        METHODS["invad"](category="leather", **small).fit(images)


def test_invad_refuses_bad_settings_before_training():
    for settings in ({"spacing": "leading"}, {"num_steps": 1}, {"score": "max"}):
        with pytest.raises(ValueError, match="spacing|num_steps|score"):
            METHODS["invad"](**settings)


def test_invad_refuses_other_backbone_weights(fitted, tmp_path):
    fitted["invad"].save(tmp_path)
    record = json.loads((tmp_path / "detector.json").read_text())
    record["values"]["backbone_sha256"] = "0" * 64
    (tmp_path / "detector.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="fitted with weights .* but here backbone = "):
        METHODS["invad"].load(tmp_path)


class WithBatchStatistics(METHODS["trivial"]):
    """Scores that are centred over what is predicted together, as they must not be."""

    def predict(self, images, keys=None):
        prediction = super().predict(images, keys)
        prediction.score = prediction.score - self.shift * prediction.score.mean()
        return prediction


def test_scores_that_depend_on_the_batch_are_found(splits):
    detector, batch = METHODS["trivial"]().fit(splits[0]), splits[1]
    detector.check_batch_independence(batch, detector.predict(batch["image"], batch["key"]))
    leaking = WithBatchStatistics().fit(splits[0])
    leaking.shift = 0.2
    with pytest.raises(RuntimeError, match=r"scores .* alone and .* among \d+ images, expected at most .* in float32"):
        leaking.check_batch_independence(batch, leaking.predict(batch["image"], batch["key"]))


def test_the_tolerance_is_that_of_the_coarsest_network():
    detector = METHODS["invad"](inference_precision="bf16")
    assert detector.running_dtype() == torch.bfloat16
    detector.inference_precision = "fp32"
    assert detector.running_dtype() == torch.float32
    detector.network = torch.nn.Linear(1, 1).half()
    assert detector.running_dtype() == torch.float16


def test_scores_that_are_not_finite_or_missing_are_found(splits):
    detector, batch = METHODS["trivial"]().fit(splits[0]), splits[1]
    prediction = detector.predict(batch["image"], batch["key"])
    with pytest.raises(RuntimeError, match="expected one an image"):
        detector.check_batch_independence(batch, Prediction(prediction.score[1:]))
    prediction.score[2] = torch.nan
    with pytest.raises(RuntimeError, match=f"the score of {batch['key'][2]} is not finite"):
        detector.check_batch_independence(batch, prediction)

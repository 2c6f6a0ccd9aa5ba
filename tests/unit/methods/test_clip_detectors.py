"""CLIP detectors: the contract, and what each of them computes."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from tiny_models import CLIP_SIDE, write_clip

from diffad_utils import data
from diffad_utils.methods import METHODS, clip_detectors
from diffad_utils.methods.clip_detectors import ClipKNN, ClipProbe, ClipZeroShot, paste_defect
from diffad_utils.metrics import image_auroc, pixel_auroc
from diffad_utils.models.clip import load_clip
from diffad_utils.models.clip_features import clip_features, dense_features, load_clip_for
from diffad_utils.scoring import cosine_map

NAMES = ("clip_knn", "clip_zero_shot", "clip_probe")
KINDS = ("resnet", "vit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: str(write_clip(tmp_path_factory.mktemp(kind), kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def clips(folders):
    return {kind: load_clip(folder, device="cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def splits():
    index = data.load_index("textures", category="carpet")
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(3)
    train = index[index["split"] == "train"].head(10)
    return data.ImageDataset(train, size=80), data.load_batch(data.ImageDataset(test, size=80))


@pytest.fixture(scope="module")
def fitted(folders, splits):
    return {
        (name, kind): METHODS[name](image_size=80, device="cpu", clip=folders[kind], batch_size=4).fit(splits[0])
        for name in NAMES
        for kind in KINDS
    }


cases = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in NAMES for kind in KINDS])


# -- contract ----------------------------------------------------------------------------------------------------------


@cases
def test_prediction_shapes(fitted, splits, name, kind):
    prediction = fitted[name, kind].predict(splits[1]["image"], splits[1]["key"])
    assert prediction.score.shape == (6,) and prediction.score.dtype == torch.float32
    assert prediction.anomaly_map.shape == (6, 80, 80) and prediction.anomaly_map.dtype == torch.float32
    assert torch.isfinite(prediction.score).all() and torch.isfinite(prediction.anomaly_map).all()
    assert prediction.nfe == 0 and prediction.reconstruction is None
    assert fitted[name, kind].predict(torch.rand(2, 3, 50, 90)).anomaly_map.shape == (2, 50, 90)


@cases
def test_an_image_alone_equals_the_image_in_a_batch(fitted, splits, name, kind):
    batch, detector = splits[1], fitted[name, kind]
    together = detector.predict(batch["image"], batch["key"])
    for i in (0, 4):
        alone = detector.predict(batch["image"][i : i + 1], [batch["key"][i]])
        assert torch.allclose(alone.score, together.score[i : i + 1], atol=1e-4, rtol=1e-4)
        assert torch.allclose(alone.anomaly_map, together.anomaly_map[i : i + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@cases
def test_save_and_load_give_the_same_predictions(fitted, folders, splits, name, kind, tmp_path):
    detector, images = fitted[name, kind], splits[1]["image"]
    detector.save(tmp_path)
    before, after = detector.predict(images), METHODS[name].load(tmp_path, device="cpu").predict(images)
    assert torch.equal(before.score, after.score) and torch.equal(before.anomaly_map, after.anomaly_map)
    record = json.loads((tmp_path / "detector.json").read_text())
    record["values"]["clip_sha256"] = "0" * 64
    (tmp_path / "detector.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="fitted with weights .* but here clip = "):
        METHODS[name].load(tmp_path, device="cpu")


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_detector(fitted, folders, splits, name):
    again = METHODS[name](image_size=80, device="cpu", clip=folders["vit"], batch_size=3).fit(splits[0])
    images = splits[1]["image"]
    assert torch.allclose(again.predict(images).score, fitted[name, "vit"].predict(images).score, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input(fitted, folders, splits, name):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        fitted[name, "vit"].predict(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fitted[name, "vit"].predict(torch.full((1, 3, 64, 64), 2.0))
    with pytest.raises(RuntimeError, match="not fitted"):
        METHODS[name]().predict(splits[1]["image"])
    index = data.load_index("textures", category="carpet")
    with pytest.raises(ValueError, match="anomalous"):
        METHODS[name](clip=folders["vit"]).fit(data.ImageDataset(index[index["split"] == "test"], size=80))
    with pytest.raises(ValueError, match="takes images of 64 x 64 pixels, but image_size is 48"):
        METHODS[name](clip=folders["vit"], image_size=48, device="cpu").fit(splits[0])


def test_bad_settings_are_refused_at_once():
    for name, values in (
        ("clip_knn", {"score": "map"}),
        ("clip_knn", {"neighbours": 0}),
        ("clip_zero_shot", {"normal_prompts": "good"}),
        ("clip_zero_shot", {"anomalous_prompts": ["  "]}),
        ("clip_probe", {"covered": 0.0}),
        ("clip_probe", {"score": ""}),
    ):
        with pytest.raises(ValueError, match="|".join(values) if name != "clip_zero_shot" else "prompt templates"):
            METHODS[name](**values)


# -- features ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_loader(clips, kind):
    images = torch.rand(3, 3, 90, 90)
    features = clip_features(clips[kind], images)
    assert torch.allclose(features.image, clips[kind].encode_images(images).detach(), atol=1e-5)
    assert torch.allclose(features.patches.norm(dim=1), torch.ones(3, 4, 4), atol=1e-5)
    assert dense_features(clips[kind], images).shape == (3, 24, *((2, 2) if kind == "resnet" else (4, 4)))


def test_dense_features_of_a_resnet_average_to_its_feature_where_attention_is_even(clips):
    pool, images = clips["resnet"].model.visual.attnpool, torch.rand(2, 3, 64, 64)
    saved = {name: value.clone() for name, value in pool.state_dict().items()}
    with torch.no_grad():
        for parameter in (pool.q_proj.weight, pool.q_proj.bias, pool.positional_embedding):
            parameter.zero_()
        inputs = []
        handle = pool.register_forward_hook(lambda _, args, output: inputs.append((args[0], output)))
        whole = clip_features(clips["resnet"], images).image
        handle.remove()
        x, pooled = inputs[0]
        places = pool.c_proj(pool.v_proj(x.flatten(2).transpose(1, 2)))
        assert torch.allclose(places.mean(dim=1), pooled, atol=1e-5)  # the mean token is their mean, too
        dense = dense_features(clips["resnet"], images)
        assert torch.allclose(dense.flatten(2).transpose(1, 2), F.normalize(places, dim=-1), atol=1e-5)
        assert torch.allclose(F.normalize(places.mean(dim=1), dim=-1), whole, atol=1e-5)
    pool.load_state_dict(saved)


def test_dense_features_of_a_transformer_are_its_last_tokens_where_attention_adds_nothing(clips):
    visual, images = clips["vit"].model.visual, torch.rand(2, 3, 64, 64)
    attention = visual.transformer.resblocks[-1].attn.out_proj
    saved = {name: value.clone() for name, value in attention.state_dict().items()}
    before = dense_features(clips["vit"], images)
    with torch.no_grad():
        attention.weight.zero_()
        attention.bias.zero_()
        output = visual.forward_intermediates((images - 0.5) / 0.25, normalize_intermediates=True)
        tokens = output["image_intermediates"][-1]
        expected = F.normalize(tokens.permute(0, 2, 3, 1) @ visual.proj, dim=-1).permute(0, 3, 1, 2)
        assert torch.allclose(dense_features(clips["vit"], images), expected, atol=1e-5)
    attention.load_state_dict(saved)
    assert not torch.allclose(before, expected, atol=1e-3)


def test_cosine_map():
    a = F.normalize(torch.randn(4, 8), dim=1)
    b = F.normalize(torch.randn(4, 8), dim=1)
    assert torch.allclose(cosine_map(a, b), 1 - F.cosine_similarity(a, b), atol=1e-6)
    angle = 1e-4  # 1 - cos is 5e-9, less than float32 resolves next to 1
    c, d = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle)]])
    assert cosine_map(c, d).item() == pytest.approx(angle**2 / 2, rel=1e-3)


def test_images_are_never_enlarged_for_clip(folders):
    assert load_clip_for(folders["vit"], CLIP_SIDE, device="cpu").model is not None
    with pytest.raises(ValueError, match="image_size=64 or more"):
        load_clip_for(folders["vit"], CLIP_SIDE - 1, device="cpu")


# -- nearest neighbours ------------------------------------------------------------------------------------------------


def test_knn_distances(fitted, clips, splits):
    detector, train = fitted["clip_knn", "vit"], data.load_batch(splits[0])["image"]
    seen = detector.predict(train)
    assert seen.score.abs().max() < 1e-6 and seen.anomaly_map.abs().max() < 1e-6  # the training images themselves
    images = splits[1]["image"]
    bank, queries = (clip_features(clips["vit"], x).image for x in (train, images))
    expected = (1 - queries @ bank.T).sort(dim=1).values
    assert torch.allclose(detector.predict(images).score, expected[:, 0], atol=1e-5)
    three = ClipKNN(image_size=80, clip=detector.clip, device="cpu", neighbours=3, score="image").fit(splits[0])
    assert torch.allclose(three.predict(images).score, expected[:, :3].mean(dim=1), atol=1e-5)
    patch = ClipKNN(image_size=80, clip=detector.clip, device="cpu", score="patch").fit(splits[0]).predict(images)
    assert torch.equal(patch.score, patch.parts["patch"])
    with pytest.raises(ValueError, match="at least 20"):
        ClipKNN(image_size=80, clip=detector.clip, device="cpu", neighbours=20).fit(splits[0])


def test_knn_map_points_at_what_is_new(fitted, splits):
    images = data.load_batch(splits[0])["image"][:2]
    images[1, :, 40:, 40:] = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    prediction = fitted["clip_knn", "resnet"].predict(images)
    assert prediction.score[1] > prediction.score[0]
    assert prediction.anomaly_map[1, 50:, 50:].mean() > 3 * prediction.anomaly_map[1, :30, :30].mean()


# -- zero shot ---------------------------------------------------------------------------------------------------------


def test_zero_shot_score_is_the_log_odds_of_the_softmax(fitted, clips, splits):
    detector, clip, images = fitted["clip_zero_shot", "vit"], clips["vit"], splits[1]["image"]
    with torch.no_grad():
        texts = clip.encode_texts(["a flawless woven carpet", "a damaged woven carpet"])
        logits = clip.logit_scale * clip.encode_images(images) @ texts.T
    odds = logits.softmax(dim=1)[:, 1]
    assert torch.allclose(detector.predict(images).score.sigmoid(), odds, atol=1e-5)


def test_zero_shot_prompts(folders, splits):
    index = data.load_index("textures")
    train = index[(index["split"] == "train") & index["category"].isin(["carpet", "wood"])].groupby("category").head(1)
    train, two = data.ImageDataset(train, size=64), ["a flawless {noun}", "a perfect {category}"]
    detector = ClipZeroShot(clip=folders["resnet"], image_size=64, device="cpu", normal_prompts=two).fit(train)
    keys = ["textures/wood/test/good/0", "textures/carpet/test/good/0"]
    images = splits[1]["image"][:1].expand(2, -1, -1, -1)
    scores = detector.predict(images, keys).score
    assert scores[0] != scores[1] and torch.equal(detector.predict(images, keys[::-1]).score, scores.flip(0))
    with pytest.raises(ValueError, match="give the image keys"):
        detector.predict(images)
    with pytest.raises(ValueError, match="gravel"):
        detector.predict(images[:1], ["textures/gravel/test/good/0"])
    with pytest.raises(ValueError, match="kind"):
        ClipZeroShot(clip=folders["resnet"], image_size=64, normal_prompts=["a {kind}"]).fit(train)


# -- probe -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), height=st.integers(24, 64), width=st.integers(24, 64))
def test_pasted_defects(seed, height, width):
    image, source = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    pasted, mask = paste_defect(image, source, np.random.default_rng(seed))
    assert 0 < mask.float().mean() <= 0.1 + 2 / mask.numel()
    assert torch.equal(pasted[:, ~mask], image[:, ~mask]) and not torch.equal(pasted[:, mask], image[:, mask])
    assert pasted.min() >= 0 and pasted.max() <= 1 and pasted.dtype == torch.float32
    again, _ = paste_defect(image, source, np.random.default_rng(seed))
    assert torch.equal(again, pasted)


def test_probe_learns_what_is_pasted(folders, monkeypatch):
    def white_square(image, source, rng):
        mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
        top, left = rng.integers(0, 40, 2)
        mask[top : top + 24, left : left + 24] = True
        return torch.where(mask, 1.0, image), mask

    monkeypatch.setattr(clip_detectors, "paste_defect", white_square)
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(20), size=64)
    good = index[(index["split"] == "test") & (index["label"] == 0)].head(10)
    images, rng = data.load_batch(data.ImageDataset(good, size=64))["image"], np.random.default_rng(1)
    pairs = [white_square(image, None, rng) for image in images]
    pasted, masks = (torch.stack(column) for column in zip(*pairs, strict=True))
    detector = ClipProbe(image_size=64, device="cpu", clip=folders["resnet"]).fit(train)
    prediction = detector.predict(torch.cat([images, pasted]))
    assert image_auroc(prediction.parts["patch"], [0] * 10 + [1] * 10) > 0.9
    assert pixel_auroc(prediction.anomaly_map[10:], masks) > 0.9
    assert prediction.score[10:].mean() > prediction.score[:10].mean()


def test_probe_weights_are_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 6, generator=generator) * torch.tensor([1, 5, 0.1, 2, 1, 1]) + 3
    labels = torch.arange(200) % 2
    rows[labels == 1, 0] += 1
    weight, bias = ClipProbe()._train(rows, labels)
    standard = ((rows.double() - rows.double().mean(0)) / rows.double().std(0)).numpy()
    reference = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000).fit(standard, labels.numpy())
    expected = torch.from_numpy(reference.decision_function(standard))
    assert torch.allclose(rows.double() @ weight + bias, expected, atol=1e-8)


def test_probe_is_trained_on_normal_images_alone(folders, splits, monkeypatch):
    seen = []

    def bright(self, image, key, copy, dataset):
        seen.append(key)
        return image, image[0] > 0.5

    monkeypatch.setattr(ClipProbe, "_paste", bright)
    ClipProbe(image_size=80, device="cpu", clip=folders["vit"], pasted_per_image=2).fit(splits[0])
    assert sorted(seen) == sorted(2 * data.load_batch(splits[0])["key"]) and all("/train/good/" in key for key in seen)
    monkeypatch.setattr(ClipProbe, "_paste", lambda self, image, *_: (image, image[0] > 2))
    with pytest.raises(ValueError, match="no patch is covered"):
        ClipProbe(image_size=80, device="cpu", clip=folders["vit"]).fit(splits[0])

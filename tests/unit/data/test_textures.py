"""The embedded data set: determinism, exact twins and masks, disjoint splits, and nothing that a global statistic
sees."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.stats import rankdata

from diffad_utils.data import textures
from diffad_utils.data.textures import AREA, CATEGORIES, DEFECTS, THRESHOLD, rendering, surfaces
from diffad_utils.data.textures.canvas import canvas

PAIRS = [(category, defect) for category, kinds in CATEGORIES.items() for defect in kinds]


def fresh(*args, **kwargs):
    """Render without what earlier calls left in the caches."""
    rendering._render.cache_clear()
    rendering._reference.cache_clear()
    return textures.render(*args, **kwargs)


def digest(sample):
    return hashlib.sha256(sample.image.tobytes() + sample.twin.tobytes() + sample.mask.tobytes()).hexdigest()


def test_enough_categories_and_defects():
    assert len(CATEGORIES) >= 9 and len(DEFECTS) >= 7
    assert {"carpet", "grid", "leather", "tile", "wood", "connector", "blister", "brick", "gravel"} <= set(CATEGORIES)
    assert {"missing_part", "misplaced_part"} <= set(CATEGORIES["connector"]) & set(CATEGORIES["blister"])
    for kinds in CATEGORIES.values():
        assert len(set(kinds)) == len(kinds) >= 7


@pytest.mark.parametrize("category", CATEGORIES)
def test_two_calls_give_the_same_bytes(category):
    defect = CATEGORIES[category][0]
    assert digest(fresh(category, "train", 3, size=64)) == digest(fresh(category, "train", 3, size=64))
    first = fresh(category, "test", 3, size=64, defect=defect)
    assert digest(first) == digest(fresh(category, "test", 3, size=64, defect=defect))


@pytest.mark.slow
def test_another_process_gives_the_same_bytes():
    code = (
        "import hashlib; from diffad_utils.data import textures as t; h = hashlib.sha256()\n"
        "for c, kinds in t.CATEGORIES.items():\n"
        "    s = t.render(c, 'test', 5, size=128, defect=kinds[-1])\n"
        "    h.update(s.image.tobytes() + s.twin.tobytes() + s.mask.tobytes())\n"
        "print(h.hexdigest())"
    )
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, text=True, capture_output=True, check=True
    )
    here = hashlib.sha256()
    for category, kinds in CATEGORIES.items():
        sample = fresh(category, "test", 5, size=128, defect=kinds[-1])
        here.update(sample.image.tobytes() + sample.twin.tobytes() + sample.mask.tobytes())
    assert other.stdout.strip() == here.hexdigest()


def test_order_does_not_matter():
    keys = list(textures.index("wood", train=3, test_good=3, test_anomalous=8).image)
    forward = {key: textures.load_key(key, 64).tobytes() for key in keys}
    rendering._render.cache_clear()
    rendering._reference.cache_clear()
    assert forward == {key: textures.load_key(key, 64).tobytes() for key in reversed(keys)}


def test_everything_in_the_key_matters():
    base = textures.render("tile", "test", 0, size=64).image
    others = [
        textures.render("tile", "test", 1, size=64),
        textures.render("tile", "train", 0, size=64),
        textures.render("tile", "test", 0, seed=1, size=64),
        textures.render("tile", "test", 0, size=64, defect="stain"),
    ]
    for other in others:
        assert np.abs(other.twin - base).mean() > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
def test_size_changes_the_sampling_not_the_scene(category):
    for defect in (None, *CATEGORIES[category][:2]):
        small = textures.render(category, "test", 2, size=128, defect=defect)
        large = textures.render(category, "test", 2, size=256, defect=defect)
        reduced = large.image.reshape(128, 2, 128, 2, 3).mean((1, 3))
        assert np.corrcoef(small.image.ravel(), reduced.ravel())[0, 1] > 0.9
        if defect:
            shared = large.mask.reshape(128, 2, 128, 2).any((1, 3)) & small.mask
            assert shared.sum() > 0.8 * small.mask.sum()


def test_any_size():
    for size in (16, 50, 100, 300, (64, 96)):
        sample = textures.render("grid", "test", 0, size=size, defect="stain")
        shape = (size, size) if isinstance(size, int) else size
        assert sample.image.shape == (*shape, 3) and sample.mask.shape == shape and sample.mask.any()
    square, wide = (textures.render("leather", "train", 1, size=s).image for s in (64, (64, 128)))
    assert np.corrcoef(square.ravel(), wide.reshape(64, 64, 2, 3).mean(2).ravel())[0, 1] > 0.9


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("category,defect", PAIRS)
def test_twin_differs_exactly_in_the_mask(category, defect, size):
    for number in (0, 1):
        image, twin, mask, name = textures.render(category, "test", number, size=size, defect=defect)
        assert name == defect and image.dtype == twin.dtype == np.float32 and mask.dtype == bool
        assert min(image.min(), twin.min()) >= 0 and max(image.max(), twin.max()) <= 1
        assert np.array_equal(np.abs(image - twin).max(2) > THRESHOLD, mask)
        assert AREA[0] <= mask.mean() <= AREA[1]
        assert not np.array_equal(image, textures.render(category, "test", number, size=size).image)


def test_normal_images_are_their_own_twins():
    sample = textures.render("carpet", "train", 0, size=64)
    assert sample.defect == "good" and not sample.mask.any() and np.array_equal(sample.image, sample.twin)


def test_images_are_eight_bit_and_read_only():
    sample = textures.render("gravel", "test", 0, size=64, defect="hole")
    levels = sample.image * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    with pytest.raises(ValueError, match="read-only"):
        sample.image[0, 0, 0] = 0


@pytest.mark.slow
def test_normal_images_vary():
    """The mean training image explains little of a new normal image (objects hold still more than surfaces do)."""
    for category in CATEGORIES:
        images = np.stack([textures.render(category, "train", i, size=64).image for i in range(24)])
        centred = images - images.mean((1, 2), keepdims=True)
        residual = (centred[20:] - centred[:20].mean(0)).std() / centred[20:].std()
        assert residual > (0.3 if category in ("blister", "connector") else 0.7), category


@pytest.mark.parametrize("category", ["brick", "gravel"])
def test_photographs_come_from_the_package_and_splits_are_disjoint(category, monkeypatch):
    assert surfaces._photograph(category).shape == (512, 512)
    (low, middle), (after, high) = surfaces.PHOTO_REGIONS["train"], surfaces.PHOTO_REGIONS["test"]
    assert 0 <= low < middle < after < high <= 512
    marked = np.zeros((512, 512), np.float32)
    marked[:, after:] = 1  # what test images may see
    marked[:, middle:after] = np.nan  # what nobody may
    monkeypatch.setattr(surfaces, "_photograph", lambda name: marked)
    board = canvas(64, 64)
    for i in range(40):
        for split, seen in (("train", 0), ("test", 1)):
            color = getattr(surfaces, category)(board, np.random.default_rng(i), split).color
            assert np.isfinite(color).all() and ((color > 0) == seen).all()


def test_a_missing_photograph_is_named():
    with pytest.raises(FileNotFoundError, match="no_such_photo.png.*reinstall scikit-image"):
        surfaces._photograph("no_such_photo")


def test_index():
    table = textures.index("carpet")
    assert list(table.columns) == ["dataset", "category", "split", "label", "defect", "image", "mask", "twin"]
    assert list(table.index) == list(range(300)) and table.image.is_unique
    assert table.groupby(["split", "label"]).size().to_dict() == {("test", 0): 40, ("test", 1): 60, ("train", 0): 200}
    assert set(table[table.label == 1].defect) == set(CATEGORIES["carpet"])
    normal, anomalous = table[table.label == 0], table[table.label == 1]
    assert (normal.defect == "good").all() and all(m is None for m in (*normal["mask"], *normal["twin"]))
    assert (anomalous["mask"] == anomalous["image"] + "#mask").all() and (
        anomalous["twin"] == anomalous["image"] + "#twin"
    ).all()
    assert table.equals(table.sort_values(["category", "split", "defect", "image"]))
    assert len(textures.index()) == 300 * len(CATEGORIES)
    assert set(textures.index("carpet", test_anomalous=20).image) < set(table.image)
    assert not set(textures.index("carpet", seed=1).image) & set(table.image)


def test_keys():
    key = textures.format_key(3, "wood", "test", "crack", 7)
    assert key == "textures:seed=3/wood/test/crack/0007"
    assert textures.parse_key(key) == (3, "wood", "test", "crack", 7, "image")
    assert textures.parse_key(key + "#mask").part == "mask"
    sample = textures.render("wood", "test", 7, seed=3, size=64, defect="crack")
    assert np.array_equal(textures.load_key(key, 64), sample.image)
    assert np.array_equal(textures.load_key(key + "#twin", 64), sample.twin)
    assert np.array_equal(textures.load_key(key + "#mask", 64), sample.mask)


@pytest.mark.parametrize(
    "call,message",
    [
        (lambda: textures.render("silk", "train", 0), "unknown category 'silk'; known ones: blister, brick"),
        (lambda: textures.render("wood", "val", 0), "unknown split 'val'"),
        (
            lambda: textures.render("wood", "test", 0, defect="missing_part"),
            "'wood' has no defect 'missing_part'; it has",
        ),
        (lambda: textures.render("wood", "train", 0, defect="crack"), "normal images only"),
        (lambda: textures.render("wood", "train", -1), "0 or more"),
        (lambda: textures.render("wood", "train", 0, size=8), "at least 16 pixels, got 8"),
        (lambda: textures.index("silk"), "unknown category"),
        (lambda: textures.parse_key("wood/test/0001"), "is no key; expected textures:seed="),
        (lambda: textures.load_key("textures:seed=0/silk/test/good/0001"), "unknown category"),
    ],
)
def test_errors_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_export_writes_an_mvtec_tree_without_loss(tmp_path):
    textures.export(tmp_path, ["grid"], size=64, seed=2, train=2, test_good=1, test_anomalous=7)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert {
        "grid/train/good/0001.png",
        "grid/test/good/0000.png",
        "grid/test/stain/0001.png",
        "grid/ground_truth/stain/0001_mask.png",
        "grid/twin/stain/0001.png",
    } <= written
    assert len(written) == 2 + 1 + 3 * 7
    sample = textures.render("grid", "test", 1, seed=2, size=64, defect="stain")
    read = {
        name: np.asarray(Image.open(tmp_path / "grid" / name))
        for name in ("test/stain/0001.png", "twin/stain/0001.png", "ground_truth/stain/0001_mask.png")
    }
    image, twin, mask = read.values()
    assert np.array_equal(image, np.rint(sample.image * 255)) and np.array_equal(twin, np.rint(sample.twin * 255))
    assert np.array_equal(mask, sample.mask * 255)
    assert np.array_equal(np.abs(image.astype(int) - twin).max(2) >= 5, mask == 255)


def statistics(image):
    grey = image.mean(2)
    rows, columns = np.gradient(grey)
    return [
        grey.mean(),
        grey.std(),
        *np.percentile(grey, [1, 5, 95]),
        np.hypot(rows, columns).mean(),
        np.abs(grey - ndimage.gaussian_filter(grey, 1.0)).mean(),
    ]


def auroc(scores, labels):
    positives = labels.sum()
    return (rankdata(scores)[labels == 1].sum() - positives * (positives + 1) / 2) / (
        positives * (len(labels) - positives)
    )


def trivial_baseline(table, size):
    """Best I-AUROC of seven global statistics, each used upwards, downwards and as |z| against the training images."""
    values = np.array([statistics(textures.load_key(key, size)) for key in table.image])
    train, labels = (table.split == "train").to_numpy(), table.label[table.split == "test"].to_numpy()
    z = (values[~train] - values[train].mean(0)) / values[train].std(0)
    return max(auroc(scores, labels) for scores in np.hstack([z, -z, np.abs(z)]).T)


@pytest.mark.slow
def test_trivial_baseline_is_low_and_defects_are_visible():
    baseline, contrast = {}, []
    for category in CATEGORIES:
        table = textures.index(category, train=50)
        baseline[category] = trivial_baseline(table, 64)
        for row in table[table.label == 1][::3].itertuples():
            image, twin, mask = (textures.load_key(key, 64) for key in (row.image, row.twin, row.mask))
            contrast.append(np.abs(image - twin).max(2)[mask].mean())
    assert max(baseline.values()) <= 0.70 and np.mean(list(baseline.values())) <= 0.62, baseline
    assert 0.08 <= np.median(contrast) <= 0.2  # hidden from global statistics, not from the eye
    assert np.percentile(contrast, 5) < 0.06 and np.percentile(contrast, 95) > 0.2

"""Bad input of many kinds gives one clear sentence that names the file or the parameter, before any work is done.

The corpus is made here by rules (every cut, bit and value below is one case); the last test counts it.
"""

import csv
import json
import os
import pickle
import struct
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from diffad_utils import cli, data, execution, metrics, study, weights
from diffad_utils.data import index as index_module
from diffad_utils.data.check import open_quickly
from diffad_utils.data.loading import read_image, read_mask

FORMATS = ("png", "jpg", "bmp", "tif")
CUTS = (0, 1, 7, 20, 0.1, 0.4, 0.7, 0.9)
FLIPS = range(40)
EXPECTED = (ValueError, OSError)
"""What the command line turns into one line and exit code 2: DataError, ParameterError and ProfileError are
ValueErrors."""


@pytest.fixture(autouse=True)
def no_other_roots(tmp_path, monkeypatch):
    monkeypatch.delenv("DIFFAD_DATA", raising=False)
    monkeypatch.setattr(index_module, "REPOSITORY_DATA", tmp_path / "repository" / "data")
    monkeypatch.setattr(index_module, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")


def sentence(error: BaseException, *named: str, lines: int = 1) -> str:
    """The message, which has to be short, of so many lines at most, and to name what is wrong."""
    text = str(error)
    assert text and text.count("\n") < lines and len(text) < 700, text
    assert all(str(name) in text for name in named), (named, text)
    return text


def picture(path: Path, size=(48, 40), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def mask(path: Path, size=(48, 40), value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), np.uint8)
    values[10:20, 12:24] = value
    Image.fromarray(values).save(path)
    return path


def tree(root: Path, category: str = "part") -> Path:
    for i in range(3):
        picture(root / category / "train" / "good" / f"{i}.png", seed=i)
        picture(root / category / "test" / "good" / f"{i}.png", seed=10 + i)
        picture(root / category / "test" / "cut" / f"{i}.png", seed=20 + i)
        mask(root / category / "ground_truth" / "cut" / f"{i}_mask.png")
    return root


# -- image files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_images(tmp_path, suffix, cut):
    path = picture(tmp_path / f"image.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: cut if isinstance(cut, int) else int(cut * len(content))])
    for read in (read_image, open_quickly, read_mask):
        with pytest.raises(EXPECTED) as error:
            read(path)
        sentence(error.value, path.name)


@pytest.mark.parametrize("flip", FLIPS)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_flipped_bits(tmp_path, suffix, flip):
    """A PNG's checksums find every flipped bit. A JPEG may decode to another picture, or is refused by name."""
    path = picture(tmp_path / f"image.{suffix}")
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(flip)
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    if suffix == "png":
        with pytest.raises(EXPECTED) as error:
            open_quickly(path)
        sentence(error.value, path.name)
        return
    try:
        image = read_image(path)
    except EXPECTED as error:
        sentence(error, path.name)
    else:
        assert image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("side", [20_000, 60_000, 200_000])
def test_decompression_bombs(tmp_path, side):
    """A small file that declares a huge picture is refused by Pillow's limit, not decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")
    )
    for read in (read_image, open_quickly):
        with pytest.raises(EXPECTED, match="pixels") as error:
            read(path)
        sentence(error.value, "bomb.png")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"<script>alert(1)</script>", b"\x00" * 4096],
)
def test_no_images_at_all(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    for read in (read_image, open_quickly, read_mask):
        with pytest.raises(EXPECTED) as error:
            read(path)
        sentence(error.value, "image.png")


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(47, 40), (48, 39), (40, 48), (1, 1), (480, 400)])
def test_masks_of_another_size(tmp_path, size):
    root = tree(tmp_path)
    target = root / "part" / "ground_truth" / "cut" / "1_mask.png"
    Image.fromarray(np.full((size[1], size[0]), 255, np.uint8)).save(target)
    with pytest.raises(EXPECTED, match="equal") as error:
        data.load_batch(data.ImageDataset(data.load_index("folder", root), size=32))
    sentence(error.value, "1_mask.png", f"{size[0]} x {size[1]}")


@pytest.mark.parametrize("value", [1, 2, 17, 127, 128, 254])
def test_masks_with_other_values_than_0_and_255_count_as_set(tmp_path, value):
    assert read_mask(mask(tmp_path / "m.png", value=value)).sum() == 120


def test_an_empty_mask_is_named(tmp_path):
    root = tree(tmp_path)
    mask(root / "part" / "ground_truth" / "cut" / "1_mask.png", value=0)
    with pytest.warns(data.DataWarning, match=r"1_mask\.png: mask is empty"):
        batch = data.load_batch(data.ImageDataset(data.load_index("folder", root), size=32))
    assert batch["mask"].flatten(1).any(1).sum() == 2 and batch["label"].sum() == 3


# -- layouts -----------------------------------------------------------------------------------------------------------

BY_PATH = ("mvtec_ad", "visa", "btad", "mpdd", "mtd", "real_iad", "bmad", "folder")


@pytest.mark.parametrize("kind", ["nowhere", "file", "empty", "strangers"])
@pytest.mark.parametrize("dataset", BY_PATH)
def test_roots_that_hold_no_such_data_set(tmp_path, dataset, kind):
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("x")
    elif kind == "empty":
        root.mkdir()
    elif kind == "strangers":
        picture(root / "holiday" / "beach.jpg")
        (root / "notes.txt").write_text("nothing of use")
    with pytest.raises(EXPECTED) as error:
        data.load_index(dataset, root)
    sentence(error.value, str(root))
    assert cli.main(["data", "check", dataset, "--root", str(root)]) in (1, 2)


def test_a_class_without_training_images(tmp_path):
    root = tree(tmp_path)
    for file in (root / "part" / "train" / "good").iterdir():
        file.unlink()
    problems = data.check("folder", root)
    assert problems and any("part" in str(problem) for problem in problems)


@pytest.mark.parametrize(
    "name",
    [
        "Ünïcödé ☃.png",
        "日本語.png",
        "with space.png",
        "a" * 240 + ".png",
        "semi;colon.png",
        "$(touch x).png",
        "<script>.png",
        "-rf.png",
    ],
)
def test_odd_file_names_are_just_names(tmp_path, name):
    root = tree(tmp_path)
    try:
        picture(root / "part" / "train" / "good" / name)
    except OSError:
        pytest.skip("the file system has no such names")
    index = data.load_index("folder", root)
    assert name in {os.path.basename(path) for path in index["image"]}
    assert len(data.load_batch(data.ImageDataset(index, size=16))["key"]) == 10
    assert not (Path.cwd() / "x").exists()


@pytest.mark.parametrize("where", ["train/good/evil.png", "test/cut/evil.png", "test/good/evil.png"])
def test_links_out_of_the_root_are_refused(tmp_path, where):
    root, secret = tree(tmp_path / "root"), picture(tmp_path / "secret.png")
    (root / "part" / where).symlink_to(secret)
    with pytest.raises(EXPECTED) as error:
        data.load_index("folder", root)
    sentence(error.value, "evil.png")


def visa(root: Path, **dialect) -> Path:
    for name in ("Normal/0.JPG", "Normal/1.JPG", "Anomaly/0.JPG"):
        picture(root / "candle" / "Data" / "Images" / name)
    mask(root / "candle" / "Data" / "Masks" / "Anomaly" / "0.png")
    rows = [["object", "split", "label", "image", "mask"]]
    rows += [
        ["candle", split, "normal", f"candle/Data/Images/Normal/{i}.JPG", ""]
        for i, split in enumerate(("train", "test"))
    ]
    rows += [["candle", "test", "anomaly", "candle/Data/Images/Anomaly/0.JPG", "candle/Data/Masks/Anomaly/0.png"]]
    (root / "split_csv").mkdir(parents=True)
    with open(root / "split_csv" / "1cls.csv", "w", newline="") as file:
        csv.writer(file, **dialect).writerows(rows)
    return root


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ":"])
def test_tables_with_odd_separators_are_read_or_refused_by_name(tmp_path, delimiter):
    assert len(data.load_index("visa", visa(tmp_path / "plain"))) == 3
    try:
        index = data.load_index("visa", visa(tmp_path / "odd", delimiter=delimiter))
    except EXPECTED as error:
        sentence(error, "1cls.csv")
    else:
        assert len(index) == 3


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01\x02", b"object,split\n", b"\xff\xfe\x00", b"a,b,c,d,e\n1,2,3,4,5\n", b'"unclosed']
)
def test_broken_tables(tmp_path, content):
    root = visa(tmp_path / "visa")
    (root / "split_csv" / "1cls.csv").write_bytes(content)
    with pytest.raises(EXPECTED) as error:
        data.load_index("visa", root)
    sentence(error.value, "1cls.csv")


def test_an_image_listed_twice(tmp_path):
    root = visa(tmp_path / "visa")
    table = root / "split_csv" / "1cls.csv"
    table.write_text(table.read_text() + "candle,test,normal,candle/Data/Images/Normal/1.JPG,\n")
    with pytest.raises(EXPECTED, match="same key") as error:
        data.load_index("visa", root)
    sentence(error.value, "1.JPG")


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/hostname", "candle/../../secret.png"])
def test_tables_that_point_out_of_the_root(tmp_path, path):
    root = visa(tmp_path / "visa")
    table = root / "split_csv" / "1cls.csv"
    table.write_text(table.read_text().replace("candle/Data/Images/Normal/0.JPG", path))
    with pytest.raises(EXPECTED) as error:
        data.load_index("visa", root)
    sentence(error.value, "leads out", path.rsplit("/", 1)[-1])


# -- parameters --------------------------------------------------------------------------------------------------------


def _outside(rule: study.Rule) -> list:
    """Values that a rule does not allow."""
    if rule.choices is not None:
        return ["no such choice"] if isinstance(rule.choices[0], str) else [-7]
    if rule.pattern is not None:
        return [value for value in ("", "../up", "\n") if not rule.allows(value)]
    low, high = rule.low if rule.low is not None else rule.above, rule.high
    return (
        [low - 1 for low in [low] if low is not None]
        + [high * 2 + 1 for high in [high] if high is not None]
        + [float("nan"), float("inf")]
    )


OUTSIDE = [(name, value) for name, rule in study.RULES.items() for value in _outside(rule)]
WRONG_TYPES = [
    (default, value)
    for default, values in (
        (3, ["3", 2.5, True, [3], {"a": 1}, None]),
        (0.5, ["0.5", True, [0.5]]),
        ("text", [1, 2.0, ["text"], {}]),
        ([1, 2], [1, "12", ["1"], {}]),
        (True, [1, "true", 0.0]),
    )
    for value in values
]


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_parameters_out_of_range(name, value):
    default = study.RULES[name].choices[0] if study.RULES[name].choices else value
    with pytest.raises(study.ParameterError) as error:
        study.check_parameters("07_invad", {name: value}, {name: default})
    sentence(error.value, name, "07_invad", "allowed")


@pytest.mark.parametrize(("default", "value"), WRONG_TYPES)
def test_parameters_of_the_wrong_type(default, value):
    with pytest.raises(study.ParameterError) as error:
        study.check_parameters("07_invad", {"unruled": value}, {"unruled": default})
    sentence(error.value, "unruled", "expected")


@pytest.mark.parametrize(
    "category",
    [
        "; rm -rf ~",
        "$(touch x)",
        "`touch x`",
        "../../etc",
        "/etc",
        "a/b",
        "..",
        "",
        "\n",
        "a\x00b",
        "'; DROP TABLE runs; --",
        "<script>",
    ],
)
def test_categories_that_are_no_names(category, capsys):
    defaults = {"category": "leather", "dataset": "textures", "profile": "smoke", "seed": 0}
    with pytest.raises(study.ParameterError) as error:
        study.check_parameters("07_invad", {"category": category}, defaults)
    sentence(error.value, "category")
    assert cli.main(["run", "07", "-p", f"category={category}"]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("diffad: ") and "Traceback" not in captured and captured.count("\n") == 1
    assert not (Path.cwd() / "x").exists()


# -- profiles ----------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
PROFILES = {
    "unknown section": "09_tea: {}\n",
    "unknown key": "07_invad: {grids: []}\n",
    "unknown parameter": "07_invad: {grid: [{dataset: elpv, category: mono}], parameters: {num_stepz: 3}}\n",
    "out of range": "07_invad: {grid: [{dataset: elpv, category: mono}], parameters: {num_steps: 0}}\n",
    "wrong type": "07_invad: {grid: [{dataset: elpv, category: mono}], parameters: {num_steps: three}}\n",
    "unknown data set": "07_invad: {grid: [{dataset: imagenet, category: cat}]}\n",
    "a list": "- 07_invad\n",
    "a text": "hello\n",
    "a number of minutes": "defaults: {minutes: -5}\n07_invad: {grid: [{dataset: elpv, category: mono}]}\n",
    "twice": "07_invad: {grid: [{dataset: elpv, category: mono}, {dataset: elpv, category: mono}]}\n",
    "no YAML": "07_invad: {grid: [\n",
    "an object": "07_invad: !!python/object/apply:os.system ['touch x']\n",
    "another object": "07_invad: !!python/name:os.system\n",
    "tabs": "07_invad:\n\tgrid: []\n",
    "anchors to a huge structure": LAUGHS,
    "lists in lists in lists": "[" * 20_000 + "]" * 20_000,
    "an anchor to itself": "07_invad: &a {grid: *a}\n",
}


@pytest.mark.parametrize("kind", PROFILES)
def test_broken_profiles(tmp_path, kind, capsys):
    (tmp_path / "mine.yaml").write_text(PROFILES[kind])
    with pytest.raises(EXPECTED) as error:
        execution.load_plan("mine", profiles=tmp_path)
    sentence(error.value, "mine.yaml", lines=8)  # YAML errors show the place
    assert cli.main(["study", "mine", "--profiles", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert not (Path.cwd() / "x").exists()


# -- weights -----------------------------------------------------------------------------------------------------------


def _weights(folder: Path, kind: str) -> Path:
    good = folder / "model.safetensors"
    save_file({"weight": torch.arange(1000.0)}, good)
    content = good.read_bytes()
    if kind == "pickle by another name":
        good.write_bytes(pickle.dumps({"weight": [1.0]}))
    elif kind == "torch file by another name":
        torch.save({"weight": torch.zeros(3)}, good)
    elif kind.startswith("cut at"):
        good.write_bytes(content[: int(float(kind.split()[-1]) * len(content))])
    elif kind == "huge header":
        good.write_bytes(struct.pack("<Q", 2**60) + content[8:])
    elif kind == "broken header":
        good.write_bytes(struct.pack("<Q", 10) + b"{not json}" + content[8:])
    elif kind == "pointer":
        good.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    elif kind == "text":
        good.write_text("weights")
    return good


KINDS = [
    "pickle by another name",
    "torch file by another name",
    "huge header",
    "broken header",
    "pointer",
    "text",
    *(f"cut at {cut}" for cut in (0, 0.001, 0.01, 0.5, 0.99)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_weights(tmp_path, kind):
    file = _weights(tmp_path, kind)
    with pytest.raises(EXPECTED) as error:
        weights.resolve(str(file), hub=False)
    sentence(error.value, "model.safetensors")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt", ".pkl"])
def test_pickles_are_never_opened(tmp_path, suffix):
    class Boom:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    file = tmp_path / f"model{suffix}"
    file.write_bytes(pickle.dumps(Boom()))
    for place in (file, tmp_path):
        with pytest.raises(EXPECTED) as error:
            weights.resolve(str(place), hub=False)
        sentence(error.value, "safetensors")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["resnet34", "clip-vit-b32", "sd15"])
def test_a_network_of_another_architecture(tmp_path, name, monkeypatch):
    (tmp_path / name).mkdir()
    save_file({"some.layer.weight": torch.zeros(4, 4)}, tmp_path / name / "model.safetensors")
    monkeypatch.setenv("DIFFAD_WEIGHTS", str(tmp_path))
    with pytest.raises(EXPECTED) as error:
        weights.resolve(name, hub=False)
    sentence(error.value, name, lines=12)  # lists the places looked at


# -- scores ------------------------------------------------------------------------------------------------------------

IMAGE_LEVEL = [metrics.image_auroc, metrics.image_ap, metrics.image_f1max]
PIXEL_LEVEL = [metrics.pixel_auroc, metrics.pixel_ap, metrics.pixel_f1max, metrics.aupro]
BAD_SCORES = {"NaN": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf")}


@pytest.mark.parametrize(("metric", "kind"), list(product(IMAGE_LEVEL + PIXEL_LEVEL, BAD_SCORES)))
def test_scores_that_are_not_finite(metric, kind):
    shape = (4,) if metric in IMAGE_LEVEL else (4, 8, 8)
    scores, labels = np.random.default_rng(0).random(shape), np.zeros(shape, int)
    scores[2], labels[:2] = BAD_SCORES[kind], 1
    with pytest.raises(ValueError, match="NaN") as error:
        metric(scores, labels)
    sentence(error.value, "[2]")


@pytest.mark.parametrize(
    ("metric", "labels"),
    list(product(IMAGE_LEVEL, [[0, 0, 0], [1, 1, 1], [0, 1], [0, 1, 2], [0.0, 0.5, 1.0], None, []])),
)
def test_labels_that_make_no_sense(metric, labels):
    with pytest.raises(ValueError) as error:
        metric([0.1, 0.2, 0.3], labels)
    sentence(error.value)


def test_a_recorded_run_never_holds_nan():
    with pytest.raises(ValueError, match="metrics.json.I-AUROC is nan"):
        study.to_json({"I-AUROC": float("nan")}, "metrics.json")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        json.dumps({"cells": []}),
        json.dumps({"cells": [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "x = f()"}]}),
    ],
)
def test_notebooks_that_are_none(tmp_path, content, capsys):
    (tmp_path / "07_mine.ipynb").write_text(content)
    assert cli.main(["run", "07", "--notebooks", str(tmp_path)]) == 2
    captured = capsys.readouterr().err
    assert "07_mine" in captured and "Traceback" not in captured


def test_the_corpus_is_large():
    count = (
        len(FORMATS) * len(CUTS)
        + 2 * len(FLIPS)
        + 4 * len(BY_PATH)
        + len(OUTSIDE)
        + len(WRONG_TYPES)
        + len(PROFILES)
        + len(KINDS)
        + len(BAD_SCORES) * (len(IMAGE_LEVEL) + len(PIXEL_LEVEL))
    )
    assert count >= 200, count

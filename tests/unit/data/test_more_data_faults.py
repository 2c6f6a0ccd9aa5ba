"""More of what people feed a reader, beside test_data_faults: names, folders, ranges and masks of other kinds."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffad_utils import data
from diffad_utils.data import index as index_module
from diffad_utils.execution import read_yaml


@pytest.fixture(autouse=True)
def no_other_roots(tmp_path, monkeypatch):
    monkeypatch.delenv("DIFFAD_DATA", raising=False)
    monkeypatch.setattr(index_module, "REPOSITORY_DATA", tmp_path / "repository" / "data")
    monkeypatch.setattr(index_module, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")


def picture(path: Path, dtype=np.uint8, high=256) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(generator.integers(0, high, (24, 32), dtype=dtype)).save(path)
    return path


def mask(path: Path, values=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        values = np.zeros((24, 32), np.uint8)
        values[4:12, 6:14] = 255
    Image.fromarray(values).save(path)
    return path


def tree(root: Path, name="part", *, masks=True, suffix="png") -> Path:
    for i in range(3):
        for place in ("train/good", "test/good", "test/scratch"):
            picture(root / name / place / f"{i:03d}.{suffix}")
        if masks:
            mask(root / name / "ground_truth" / "scratch" / f"{i:03d}_mask.png")
    return root


def said(root: Path, rule: str, dataset="folder") -> list[str]:
    return [str(problem) for problem in data.check(dataset, root) if problem.rule == rule]


# ------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("name", ["good_ones", "ok_parts", "000_good", "Normal images"])
def test_a_folder_that_sounds_normal_beside_good(tmp_path, name):
    tree(tmp_path, masks=False)
    picture(tmp_path / "part" / "test" / name / "x.png")
    with pytest.warns(data.DataWarning, match=rf"(?s){name}.*taken as anomalous"):
        data.load_index("folder", tmp_path)
    assert len(said(tmp_path, "label")) == 1


@pytest.mark.parametrize("name", ["not_good", "no-good", "bad_good", "not ok", "goodness", "look"])
def test_a_folder_that_does_not_sound_normal(tmp_path, name):
    tree(tmp_path, masks=False)
    picture(tmp_path / "part" / "test" / name / "x.png")
    found = data.report("folder", tmp_path)
    assert found.ok and any(f"{name} (1), scratch (3)" in note.message for note in found.notes)


def test_two_folders_of_normal_images_with_the_same_names(tmp_path):
    tree(tmp_path)
    picture(tmp_path / "part" / "test" / "OK" / "001.png")
    assert len(said(tmp_path, "layout")) == 1
    with pytest.raises(data.DataError, match="rename one"):
        data.load_index("folder", tmp_path)


@pytest.mark.parametrize("place", ["ground_truth/good", "test/good"])
def test_masks_of_normal_images_are_black(tmp_path, place):
    tree(tmp_path)
    mask(tmp_path / "part" / place / "000_mask.png", np.zeros((24, 32), np.uint8))
    assert data.report("folder", tmp_path).ok
    mask(tmp_path / "part" / place / "000_mask.png")
    (problem,) = said(tmp_path, "label")
    assert "000_mask.png" in problem and "not black" in problem


# -------------------------------------------------------------------------------------------------- masks


@pytest.mark.parametrize("name", ["annotations", "Ground Truth", "anomaly_mask", "GT", "segmentation"])
@pytest.mark.parametrize("parent", ["part", "part/test", "part/test/scratch"])
def test_folders_of_masks(tmp_path, name, parent):
    tree(tmp_path, masks=False)
    inner = "" if parent.endswith("scratch") else "scratch"
    for i in range(3):
        mask(tmp_path / parent / name / inner / f"{i:03d}.png")
    index = data.load_index("folder", tmp_path)
    assert len(index) == 9 and index["mask"].notna().sum() == 3
    assert data.report("folder", tmp_path).ok


def test_masks_in_one_folder_without_the_defects(tmp_path):
    tree(tmp_path, masks=False)
    for i in range(3):
        mask(tmp_path / "part" / "test" / "annotations" / f"{i:03d}.png")
    with pytest.warns(data.DataWarning, match="annotations: 3 file"):
        assert len(data.load_index("folder", tmp_path)) == 9
    assert len(said(tmp_path, "unread")) == 1


@pytest.mark.parametrize("name", ["{}_annotation.png", "{}_labels.png", "{}-anno.bmp", "masks_{}.png"])
def test_masks_beside_the_images(tmp_path, name):
    tree(tmp_path, masks=False)
    for i in range(3):
        mask(tmp_path / "part" / "test" / "scratch" / name.format(f"{i:03d}"))
    index = data.load_index("folder", tmp_path)
    assert len(index) == 9 and index["mask"].notna().sum() == 3


def test_two_masks_of_one_image(tmp_path):
    tree(tmp_path, masks=False)
    for i in range(3):
        for kind in ("gt", "mask"):
            mask(tmp_path / "part" / "test" / "scratch" / f"{i:03d}_{kind}.png")
    with pytest.warns(data.DataWarning, match=r"3 file\(s\) of folder are not read"):
        assert len(data.load_index("folder", tmp_path)) == 9
    assert not data.report("folder", tmp_path).ok


@pytest.mark.parametrize("ending", ["_defect.png", ".webp"])
def test_images_named_after_the_others(tmp_path, ending):
    tree(tmp_path, masks=False, suffix="jpg")
    for i in range(3):
        mask(tmp_path / "part" / "test" / "scratch" / f"{i:03d}{ending}")
    (problem,) = said(tmp_path, "label")
    assert "half of 6 image(s) test/scratch" in problem


def test_pictures_that_only_have_the_names_of_masks(tmp_path):
    tree(tmp_path, masks=False, suffix="jpg")
    for i in range(3):
        picture(tmp_path / "part" / "test" / "scratch" / f"{i:03d}.png")
        picture(tmp_path / "part" / "train" / "good" / f"{i:03d}.png")
    assert len([problem for problem in said(tmp_path, "mask") if "picture" in problem]) == 3
    assert len([problem for problem in said(tmp_path, "label") if "picture" in problem]) == 3


@pytest.mark.parametrize(("rows", "columns"), [((0, 24), (0, 5)), ((2, 22), (3, 29)), ((10, 14), (0, 32))])
def test_inverted_masks_of_one_defect(tmp_path, rows, columns):
    tree(tmp_path)
    values = np.full((24, 32), 255, np.uint8)
    values[slice(*rows), slice(*columns)] = 0
    picture(tmp_path / "part" / "test" / "edge" / "0.png")
    mask(tmp_path / "part" / "ground_truth" / "edge" / "0_mask.png", values)
    (problem,) = said(tmp_path, "mask")
    assert "other way round" in problem


@pytest.mark.parametrize("columns", [12, 16])
def test_large_masks_at_the_border_are_believed(tmp_path, columns):
    tree(tmp_path)
    values = np.zeros((24, 32), np.uint8)
    values[:, :columns] = 255
    mask(tmp_path / "part" / "ground_truth" / "scratch" / "000_mask.png", values)
    assert data.report("folder", tmp_path).ok


# -------------------------------------------------------------------------------------------------- ranges


def deep_colours(path: Path, high: int) -> None:
    """A TIFF with 16 bits a colour, which Pillow reads and cannot write."""
    pixels = np.random.default_rng(0).integers(0, high, (24, 32, 3)).astype("<u2").tobytes()
    tags = [(256, 32), (257, 24), (258, 0), (259, 1), (262, 2), (273, 0), (277, 3), (278, 24), (279, len(pixels))]
    bits = 8 + 2 + 12 * len(tags) + 4
    values = dict(tags) | {258: bits, 273: bits + 6}
    entries = b"".join(
        struct.pack("<HHII", tag, *((3, 3) if tag == 258 else (4, 1)), values[tag]) for tag in sorted(values)
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(head + struct.pack("<HHH", 16, 16, 16) + pixels)


def test_twelve_bits_a_colour_in_a_tiff_beside_others(tmp_path):
    tree(tmp_path)
    deep_colours(tmp_path / "part" / "test" / "good" / "deep.tif", 4096)
    (problem,) = said(tmp_path, "range")
    assert "deep.tif" in problem and "nearly black" in problem
    with pytest.warns(data.DataWarning, match="nearly black"):
        data.validate(data.load_index("folder", tmp_path))
    deep_colours(tmp_path / "part" / "test" / "good" / "deep.tif", 65536)
    assert data.report("folder", tmp_path).ok


@pytest.mark.parametrize(("dtype", "high", "rest"), [(np.uint16, 4096, 65536), (np.uint8, 16, 256)])
def test_training_images_of_another_range(tmp_path, dtype, high, rest):
    tree(tmp_path)
    for file in tmp_path.glob("part/t*/*/*.png"):
        picture(file, dtype, high if "train" in file.parts else rest)
    (problem,) = said(tmp_path, "range")
    assert "3 of 9 pictures" in problem
    with pytest.warns(data.DataWarning, match="3 of 9 pictures"):
        data.validate(data.load_index("folder", tmp_path))


@pytest.mark.parametrize("values", [np.float32(255), np.float32(np.nan), np.int32(70_000), np.float32(-1)])
def test_values_that_cannot_be_read_are_said_before_work(tmp_path, values):
    tree(tmp_path)
    pixels = np.zeros((24, 32), values.dtype)
    pixels[3:9], pixels[0] = values, 1
    Image.fromarray(pixels).save(tmp_path / "part" / "test" / "good" / "odd.tif")
    assert len(said(tmp_path, "range")) == 1
    with pytest.raises(data.DataError, match="range"):
        data.validate(data.load_index("folder", tmp_path))


# -------------------------------------------------------------------------------------------------- folders


def test_a_root_that_holds_several(tmp_path):
    tree(tmp_path / "a", "one")
    assert data.find_root("folder", tmp_path) == tmp_path / "a"
    tree(tmp_path / "b", "two")
    with pytest.raises(data.DataError, match=r"holds 2 folders .*: a, b\. Give one"):
        data.find_root("folder", tmp_path)


def test_a_root_too_deep_names_the_right_one(tmp_path):
    tree(tmp_path, "hazelnut")
    for inside in ("hazelnut", "hazelnut/train"):
        with pytest.raises(data.DataError, match=rf"{tmp_path} is in that layout: give it as root"):
            data.find_root("mvtec_ad", tmp_path / inside)


def test_what_systems_leave_is_no_data_set(tmp_path):
    tree(tmp_path / "mvtec", "hazelnut")
    for place in ("train/good", "test/good", "test/crack"):
        picture(tmp_path / "__MACOSX" / "hazelnut" / place / "._000.png")
    assert data.find_root("mvtec_ad", tmp_path) == tmp_path / "mvtec"


@pytest.mark.parametrize("how", ["a level deeper", "test only"])
def test_folders_that_are_no_category_are_named(tmp_path, how):
    tree(tmp_path, "a")
    tree(tmp_path / "b" if how == "a level deeper" else tmp_path, "b")
    if how == "test only":
        os.rename(tmp_path / "b" / "train", tmp_path / "elsewhere")
    with pytest.warns(data.DataWarning, match=r"file\(s\) of folder are not read"):
        assert set(data.load_index("folder", tmp_path)["category"]) == {"a"}
    with pytest.raises(data.DataError, match="is there, but not in the layout of a category"):
        data.load_index("folder", tmp_path, "b")


def test_digits_after_a_zero_are_a_name_in_yaml():
    assert read_yaml("{a: 010, b: [007, 0, 10], c: -3, d: 08}") == {"a": "010", "b": ["007", 0, 10], "c": -3, "d": "08"}

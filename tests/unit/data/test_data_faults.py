"""What people feed a reader: each fault is said before work, or simply works. Every tree is written here."""

import json
import os
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_trees import mvtec_tree
from PIL import Image
from scipy import ndimage

from diffad_utils import cli, data, study
from diffad_utils.data import index as index_module
from diffad_utils.data.layouts import LAYOUTS
from diffad_utils.execution import profiles


@pytest.fixture(autouse=True)
def no_other_roots(tmp_path, monkeypatch):
    monkeypatch.delenv("DIFFAD_DATA", raising=False)
    monkeypatch.setattr(index_module, "REPOSITORY_DATA", tmp_path / "repository" / "data")
    monkeypatch.setattr(index_module, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")


def picture(path: Path, seed=None, dtype=np.uint8, high=256, size=(24, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    Image.fromarray(np.random.default_rng(seed).integers(0, high, size, dtype=dtype)).save(path)
    return path


def mask(path: Path, value=255, size=(24, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[4:12, 6:14] = value
    Image.fromarray(values).save(path)
    return path


def tree(root: Path, name="part", *, normal="good", defect="scratch", masks=True, count=3) -> Path:
    for i in range(count):
        picture(root / name / "train" / "good" / f"{i:03d}.png")
        picture(root / name / "test" / normal / f"{i:03d}.png")
        picture(root / name / "test" / defect / f"{i:03d}.png")
        if masks:
            mask(root / name / "ground_truth" / defect / f"{i:03d}_mask.png")
    return root


def silently(dataset, root, **options):
    """`load_index` where nothing may be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", data.DataWarning)
        return data.load_index(dataset, root, **options)


def rules(found) -> set[str]:
    return {problem.rule for problem in found}


# ------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("name", ["good", "OK", "Good", "normal", "defect-free", "no_defect", "GOOD", "Ok", "i.O."])
def test_normal_test_images_under_another_name(tmp_path, name):
    index = silently("folder", tree(tmp_path, normal=name))
    assert index[index["split"] == "test"].groupby("defect")["label"].agg(["size", "max"]).to_dict("index") == {
        "good": {"size": 3, "max": 0},
        "scratch": {"size": 3, "max": 1},
    }
    assert data.report("folder", tmp_path).ok


@pytest.mark.parametrize("name", ["not_good", "ungood", "bad", "okra", "broken"])
def test_names_that_only_look_normal_are_defects(tmp_path, name):
    index = silently("folder", tree(tmp_path, defect=name))
    assert set(index.loc[index["label"] == 1, "defect"]) == {name}


def test_normal_training_images_under_another_name(tmp_path):
    tree(tmp_path)
    (tmp_path / "part" / "train" / "good").rename(tmp_path / "part" / "train" / "OK")
    assert (silently("folder", tmp_path)["split"] == "train").sum() == 3


@pytest.mark.parametrize(
    "name", ["{}_mask.png", "{}_gt.png", "{}-mask.png", "{}_GT.PNG", "mask_{}.png", "{}_label.bmp"]
)
def test_masks_beside_the_images(tmp_path, name):
    tree(tmp_path, masks=False)
    for i in range(3):
        mask(tmp_path / "part" / "test" / "scratch" / name.format(f"{i:03d}"))
        mask(tmp_path / "part" / "test" / "good" / name.format(f"{i:03d}"), value=0)
    index = silently("folder", tmp_path)
    assert len(index) == 9 and index["mask"].notna().sum() == 3
    assert data.load_batch(data.ImageDataset(index, 16))["mask"].flatten(1).any(1).sum() == 3


def test_masks_of_jpegs_may_just_have_their_names(tmp_path):
    for i in range(3):
        picture(tmp_path / "part" / "train" / "good" / f"{i}.jpg")
        picture(tmp_path / "part" / "test" / "good" / f"{i}.jpg")
        picture(tmp_path / "part" / "test" / "dent" / f"{i}.jpg")
        mask(tmp_path / "part" / "test" / "dent" / f"{i}.png")
    index = silently("folder", tmp_path)
    assert len(index) == 9 and index["mask"].notna().sum() == 3


def test_a_name_that_says_mask_without_an_image_is_an_image(tmp_path):
    tree(tmp_path)
    picture(tmp_path / "part" / "test" / "good" / "face_mask.png")
    index = silently("folder", tmp_path)
    assert len(index) == 10


# ------------------------------------------------------------------------------------- a folder more, or less


def test_mvtec_ad_2_with_test_public_renamed(tmp_path):
    tree(tmp_path, masks=False, defect="bad")
    for i in range(3):
        mask(tmp_path / "part" / "test" / "ground_truth" / "bad" / f"{i:03d}_mask.png")
    index = silently("folder", tmp_path)
    assert len(index) == 9 and index["mask"].notna().sum() == 3 and "ground_truth" not in set(index["defect"])


def mvtec_ad_2(root: Path, name="vial") -> Path:
    for i in range(2):
        for place in ("train/good", "validation/good", "test_public/good", "test_public/bad", "test_private"):
            picture(root / name / place / f"{i:03d}_regular.png")
        mask(root / name / "test_public" / "ground_truth" / "bad" / f"{i:03d}_regular_mask.png")
    return root


def test_mvtec_ad_2_has_a_layout_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFAD_DATA", str(mvtec_ad_2(tmp_path / "some name")))
    assert data.categories("mvtec_ad_2") == ["vial"]
    index = silently("mvtec_ad_2", None)
    assert index.groupby(["split", "label"]).size().to_dict() == {("train", 0): 2, ("test", 0): 2, ("test", 1): 2}
    assert index["mask"].notna().sum() == 2 and not index["image"].str.contains("private|validation").any()
    found = data.report("mvtec_ad_2")
    said = {Path(note.file).name: note.message for note in found.notes if note.rule == "unread"}
    assert "evaluation server" in said["test_private"] and "2 file(s) .png" in said["good"]
    with pytest.raises(FileNotFoundError):
        data.find_root("folder")


def test_whatever_lies_deeper_is_named_with_its_count(tmp_path):
    tree(tmp_path)
    for i in range(4):
        picture(tmp_path / "part" / "test" / "dent" / "cam1" / f"{i}.png")
    with pytest.warns(data.DataWarning, match=r"(?s)4 file\(s\) of folder are not read.*dent.cam1: 4 file"):
        assert len(data.load_index("folder", tmp_path)) == 9
    found = [problem for problem in data.check("folder", tmp_path) if problem.rule == "unread"]
    assert len(found) == 1 and found[0].file.endswith("cam1") and "4 file(s) .png" in found[0].message


def test_many_folders_that_are_not_read_are_named_by_the_one_around_them(tmp_path):
    tree(tmp_path, masks=False, count=8)
    for i in range(8):  # as MVTec LOCO AD has its masks
        mask(tmp_path / "part" / "ground_truth" / "scratch" / f"{i:03d}" / "000.png")
        mask(tmp_path / "part" / "ground_truth" / "scratch" / f"{i:03d}" / "001.png")
    (problem,) = [problem for problem in data.check("folder", tmp_path) if problem.rule == "unread"]
    assert problem.file.endswith("scratch") and "16 file(s) .png" in problem.message


def test_types_of_files_that_are_not_read_are_named(tmp_path):
    tree(tmp_path)
    np.save(tmp_path / "part" / "train" / "good" / "more.npy", np.zeros(3))
    (problem,) = data.check("folder", tmp_path)
    assert problem.rule == "unread" and "convert it" in problem.message


# --------------------------------------------------------------------------------- images without a usable mask


@pytest.mark.parametrize("how", ["no file", "empty"])
def test_one_anomalous_image_without_a_mask(tmp_path, how):
    tree(tmp_path)
    file = tmp_path / "part" / "ground_truth" / "scratch" / "001_mask.png"
    file.unlink() if how == "no file" else mask(file, value=0)
    with pytest.warns(data.DataWarning, match=r"001(_mask)?\.png: .*mask") as said:
        index = data.load_index("folder", tmp_path)
        data.validate(index)
        batch = data.load_batch(data.ImageDataset(index, 16))
    assert len(said) == 1  # named once
    assert batch["label"].sum() == 3 and batch["mask"].flatten(1).any(1).sum() == 2
    found = data.report("folder", tmp_path)
    assert not found.ok and found.categories[0]["without mask"] == 1 and found.categories[0]["masks"] == 2
    assert any("1 of 3 anomalous test images have no usable mask" in note.message for note in found.notes)


def mtd(root: Path) -> Path:
    for i in range(6):
        picture(root / "MT_Free" / "Imgs" / f"exp1_num_{1000 * i}.jpg")
        mask(root / "MT_Free" / "Imgs" / f"exp1_num_{1000 * i}.png", value=0)
    for stem, value in (("exp3_num_45042", 0), ("exp1_num_90000", 255)):
        picture(root / "MT_Uneven" / "Imgs" / f"{stem}.jpg")
        mask(root / "MT_Uneven" / "Imgs" / f"{stem}.png", value)
    return root


def test_the_empty_masks_of_the_magnetic_tiles_are_known(tmp_path):
    found = data.report("mtd", mtd(tmp_path))
    assert rules(found.problems) == {"count"}
    (note,) = [note for note in found.notes if "without a usable mask, as published" in note.message]
    assert note.file.endswith("exp3_num_45042.png")
    index = data.load_index("mtd", tmp_path)
    with pytest.warns(data.DataWarning, match=r"1 mask.*empty"):
        data.validate(index)
    assert data.load_batch(data.ImageDataset(index, 16))["mask"].flatten(1).any(1).sum() == 1


@pytest.mark.parametrize("shape", ["inverted", "alpha"])
def test_masks_that_cover_nearly_everything(tmp_path, shape):
    tree(tmp_path)
    for file in (tmp_path / "part" / "ground_truth" / "scratch").iterdir():
        values = np.asarray(Image.open(file))
        rgba = np.dstack([np.full((*values.shape, 3), 255, np.uint8), values])
        Image.fromarray(255 - values if shape == "inverted" else rgba).save(file)
    said = [problem.message for problem in data.check("folder", tmp_path)]
    assert len(said) == 3 and all(
        ("other way round" if shape == "inverted" else "transparency") in text for text in said
    )
    with pytest.warns(data.DataWarning, match="3 mask"):
        data.validate(data.load_index("folder", tmp_path))


# ------------------------------------------------------------------------------------------ copies and ranges


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_test_images_that_are_copies_of_training_images(tmp_path, suffix):
    tree(tmp_path)
    source = tmp_path / "part" / "train" / "good" / "001.png"
    copy = tmp_path / "part" / "test" / "good" / f"another name.{suffix}"
    Image.open(source).convert("RGB").save(copy)
    index = data.load_index("folder", tmp_path)
    assert data.copies_between_splits(index) == [(str(copy), str(source))]
    with pytest.warns(data.DataWarning, match="1 test image.* copies of training images"):
        data.validate(index)
    found = data.report("folder", tmp_path)
    assert rules(found.problems) == {"copy"} and found.categories[0]["copies"] == 1


def test_one_picture_with_two_labels(tmp_path):
    tree(tmp_path)
    (tmp_path / "part" / "test" / "scratch" / "002.png").write_bytes(
        (tmp_path / "part" / "test" / "good" / "000.png").read_bytes()
    )
    (problem,) = data.check("folder", tmp_path)
    assert problem.rule == "copy" and "labelled normal" in problem.message


@pytest.mark.parametrize(("bits", "suffix"), [(12, "png"), (12, "tif"), (10, "png"), (14, "tif")])
def test_deep_pictures_that_use_part_of_their_range(tmp_path, bits, suffix):
    tree(tmp_path)
    for i in range(3):
        picture(tmp_path / "part" / "test" / "good" / f"deep{i}.{suffix}", i, np.uint16, 2**bits)
    index = silently("folder", tmp_path)
    with pytest.warns(data.DataWarning, match=rf"{bits} bits of grey, divided by {2**bits - 1}"):
        data.validate(index)
    images = data.load_batch(data.ImageDataset(index, (24, 32)))["image"]
    assert images.flatten(1).mean(1).min() > 0.4  # none is nearly black beside the others
    found = data.report("folder", tmp_path)
    assert found.ok and any(f"{bits} bits of grey" in note.message for note in found.notes)
    part = data.ImageDataset(index[index["image"].str.contains("deep0")], (24, 32))[0]["image"]
    assert any((part == image).all() for image in images)  # a part of the index is read as the whole


def test_a_range_that_the_file_states(tmp_path):
    values = np.full((24, 32), 900, np.uint16)
    tree(tmp_path)
    Image.fromarray(values).save(tmp_path / "part" / "test" / "good" / "dark.tif", tiffinfo={281: 4095})
    index = data.load_index("folder", tmp_path)
    image = data.ImageDataset(index[index["image"].str.contains("dark")], (24, 32))[0]["image"]
    assert np.allclose(image.numpy(), 900 / 4095, atol=1e-4)


def test_pictures_whose_range_was_lost(tmp_path):
    tree(tmp_path)
    for file in tmp_path.glob("part/t*/*/*.png"):
        picture(file, high=16)
    assert "range" in rules(data.check("folder", tmp_path))


# ------------------------------------------------------------------------------ what cannot be measured is said


def test_no_normal_or_no_anomalous_test_image(tmp_path):
    tree(tmp_path / "a")
    tree(tmp_path / "b")
    for file in (tmp_path / "a" / "part" / "test" / "good").iterdir():
        file.unlink()
    for file in (tmp_path / "b" / "part" / "test" / "scratch").iterdir():
        file.unlink()
    for file in (tmp_path / "b" / "part" / "ground_truth" / "scratch").iterdir():
        file.unlink()
    for name, text in (("a", "no normal test image"), ("b", "no anomalous test image")):
        (problem,) = data.check("folder", tmp_path / name)
        assert problem.rule == "split" and text in problem.message
        index = data.load_index("folder", tmp_path / name)
        with pytest.warns(data.DataWarning, match=text):
            data.validate(index)
    assert "maps work" in problem.message


def real_iad(root: Path, *with_images: str) -> Path:
    for name in ("audiojack", "toy"):
        folder = root / "realiad_jsons"
        folder.mkdir(parents=True, exist_ok=True)
        entries = {
            "meta": {"normal_class": "OK", "prefix": f"{name}/"},
            "train": [{"anomaly_class": "OK", "image_path": "OK/S1/a.jpg", "mask_path": None}],
            "test": [
                {"anomaly_class": "OK", "image_path": "OK/S2/b.jpg", "mask_path": None},
                {"anomaly_class": "AK", "image_path": "NG/AK/S3/c.jpg", "mask_path": "NG/AK/S3/c.png"},
                {"anomaly_class": "AK", "image_path": "NG/AK/S3/d.jpg", "mask_path": None},
            ],
        }
        (folder / f"{name}.json").write_text(json.dumps(entries))
        if name in with_images:
            for file in ("OK/S1/a", "OK/S2/b", "NG/AK/S3/c", "NG/AK/S3/d"):
                picture(root / "realiad_256" / name / f"{file}.jpg")
            mask(root / "realiad_256" / name / "NG/AK/S3/c.png")
    return root


def test_a_category_whose_images_are_missing_is_none(tmp_path):
    root = real_iad(tmp_path, "toy")
    assert data.categories("real_iad", root) == ["toy"]
    with pytest.warns(data.DataWarning, match=r"(?s)1 of 2 anomalous images have no mask.*d\.jpg"):
        index = data.load_index("real_iad", root)
    assert set(index["category"]) == {"toy"} and len(index) == 4
    with pytest.raises(ValueError, match=r"'audiojack' of real_iad is not in .*holds toy"):
        data.load_index("real_iad", root, "audiojack")
    assert any("audiojack is missing" in str(problem) for problem in data.check("real_iad", root))


def test_only_one_category_of_visa(tmp_path):
    lines = ["object,split,label,image,mask"]
    for name in ("candle", "cashew"):
        lines += [
            f"{name},{split},normal,{name}/Data/Images/Normal/{i}.JPG," for i, split in enumerate(("train", "test"))
        ]
        lines += [f"{name},test,anomaly,{name}/Data/Images/Anomaly/0.JPG,{name}/Data/Masks/Anomaly/0.png"]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text("\n".join(lines))
    for file in ("Normal/0", "Normal/1", "Anomaly/0"):
        picture(tmp_path / "cashew" / "Data" / "Images" / f"{file}.JPG")
    mask(tmp_path / "cashew" / "Data" / "Masks" / "Anomaly" / "0.png", value=3)
    assert data.categories("visa", tmp_path) == ["cashew"] and len(silently("visa", tmp_path)) == 3


# ------------------------------------------------------------------------------------------- finding, naming


@pytest.mark.parametrize("where", ["datasets/owner/slug/folder", "datasets/owner/slug/folder/inner", "slug/a/b/c"])
def test_data_deep_in_kaggles_mount(tmp_path, where):
    root = tree(tmp_path / "kaggle" / "input" / where, "hazelnut")
    assert data.find_root("mvtec_ad") == root


def test_many_folders_beside_the_data(tmp_path):
    base = tmp_path / "kaggle" / "input" / "datasets" / "owner" / "slug"
    for i in range(2100):
        (base / f"f{i:04d}").mkdir(parents=True)
    root = tree(base / "zz" / "data", "hazelnut", count=1)
    assert data.find_root("mvtec_ad") == root
    with pytest.raises(FileNotFoundError, match=r"up to 6 levels and 30000 folders"):
        data.find_root("btad")


def test_data_two_folders_below_the_root_given(tmp_path):
    root = tree(tmp_path / "download" / "unpacked", "hazelnut")
    assert data.find_root("mvtec_ad", tmp_path) == root


def btad(root: Path) -> Path:
    for name in ("01", "02"):
        for place in ("train/ok", "test/ok", "test/ko"):
            picture(root / name / place / "0000.png")
        mask(root / name / "ground_truth" / "ko" / "0000.png")
    return root


@pytest.mark.parametrize("category", [1, "1", "01"])
def test_a_category_that_became_a_number(tmp_path, category):
    assert set(silently("btad", btad(tmp_path), category=category)["category"]) == {"01"}
    given = {"dataset": "btad", "category": category, "data_root": str(tmp_path)}
    study.check_parameters("07_invad", given, {"dataset": "elpv", "category": "mono", "data_root": ""})
    assert study.with_category_names(given)["category"] == "01"


def test_a_category_of_digits_in_a_profile(tmp_path):
    text = "07_invad: {grid: [{dataset: btad, category: [01, 3]}], parameters: {data_root: ROOT}}\n"
    (tmp_path / "mine.yaml").write_text(text.replace("ROOT", str(tmp_path / "nowhere")))
    plan = profiles.load_plan("mine", profiles=tmp_path)  # published names, where there are no data
    assert [run.parameters["category"] for run in plan.runs] == ["01", "03"]
    assert all(run.name.split("/")[2] == run.parameters["category"] == run.folder.parts[-3] for run in plan.runs)


@pytest.mark.parametrize("category", [7, 1.0, True])
def test_a_number_that_names_no_category(tmp_path, category):
    with pytest.raises(ValueError, match=r"category .* of btad is no name .*known: 01, 02.*in quotes"):
        data.load_index("btad", btad(tmp_path), category)


def test_a_name_of_digits_is_itself(tmp_path):
    tree(tmp_path, "1")
    tree(tmp_path, "01")
    assert set(silently("folder", tmp_path, category="1")["category"]) == {"1"}
    with pytest.raises(ValueError, match="in quotes"):
        data.load_index("folder", tmp_path, 1)


# --------------------------------------------------------------------------------------------- data check


def test_data_check_says_all_of_it(tmp_path, capsys):
    root = tree(tmp_path / "set")
    assert cli.main(["data", "check", "folder", "--root", str(root)]) == 0
    text = capsys.readouterr().out
    assert "all right" in text and "masks have one level" in text and "mask share" in text
    mask(root / "part" / "ground_truth" / "scratch" / "000_mask.png", value=0)
    assert cli.main(["data", "check", "folder", "--root", str(root), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"] and [problem["rule"] for problem in found["problems"]] == ["mask"]
    assert found["categories"][0]["test anomalous"] == 3 and found["root"] == str(root)


@pytest.mark.slow
def test_data_check_of_one_category(tmp_path, capsys):
    root = btad(tmp_path)
    (root / "02" / "test" / "ko" / "0000.png").unlink()
    assert cli.main(["data", "check", "btad", "--root", str(root), "--category", "1", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [row["category"] for row in found["categories"]] == ["01"]
    assert {problem["rule"] for problem in found["problems"]} == {"count"}
    assert not any("02" in problem["message"] or "missing" in problem["message"] for problem in found["problems"])
    assert len(data.report("textures", category="tile").table()) == 1


@pytest.mark.skipif("DIFFAD_TEST_MTD" not in os.environ, reason="DIFFAD_TEST_MTD is not set to magnetic tile data")
def test_the_real_magnetic_tiles():
    root = Path(os.environ["DIFFAD_TEST_MTD"])
    found = data.report("mtd", root)
    known = LAYOUTS["mtd"].without_mask
    there = {path.stem for path in root.glob("MT_Uneven/Imgs/*.png")} & known
    notes = {Path(note.file).stem for note in found.notes if "without a usable mask" in note.message}
    assert rules(found.problems) <= {"count"} and notes == there
    assert found.categories[0]["without mask"] == len(there)
    masks = [np.asarray(Image.open(path)).astype(int) for path in root.glob("MT_*/Imgs/*.png")]
    halves = [ndimage.label(2 * values >= values.max(), np.ones((3, 3)))[1] for values in masks if values.any()]
    assert found.categories[0]["regions"] == sum(halves)


@pytest.mark.parametrize(
    ("given", "expected"), [(1, "01"), ("1", "01"), (8, "010"), (10, "010"), ("10", "010"), ("010", "010")]
)
def test_digits_that_yaml_made_a_number_of(given, expected):
    """papermill's -y reads 010 as YAML 1.1 does, in base eight."""
    assert index_module.resolve_category(given, ["01", "010"]) == expected


def test_a_number_in_base_ten_goes_before_base_eight():
    assert index_module.resolve_category(8, ["010", "08"]) == "08"


def test_a_root_through_the_folder_above_is_read_without_a_warning(tmp_path, monkeypatch):
    mvtec_tree(tmp_path / "data" / "mvtec_ad", "carpet")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = data.load_index("mvtec_ad", category="carpet", root="../data/mvtec_ad")
    assert set(table["split"]) == {"train", "test"}

"""Readers, roots and splits, on small trees written here in each data set's official layout."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_trees import image, mask, mvtec_tree

from diffad_utils import data
from diffad_utils.data import index as index_module
from diffad_utils.data.layouts import LAYOUTS, MTD_TILE_GAP, mtd_tiles, seeded_order, seeded_train

COLUMNS = ["dataset", "category", "split", "label", "defect", "image", "mask", "twin"]


@pytest.fixture(autouse=True)
def no_other_roots(tmp_path, monkeypatch):
    """Searches see only what a test sets up."""
    monkeypatch.delenv("DIFFAD_DATA", raising=False)
    monkeypatch.setattr(index_module, "REPOSITORY_DATA", tmp_path / "repository" / "data")
    monkeypatch.setattr(index_module, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")


def counts(index: pd.DataFrame) -> dict:
    return index.groupby(["split", "label"]).size().to_dict()


def assert_contract(index: pd.DataFrame, dataset: str):
    assert list(index.columns) == COLUMNS
    assert isinstance(index.index, pd.RangeIndex)
    assert set(index["dataset"]) == {dataset}
    assert set(index["split"]) <= {"train", "test"} and set(index["label"]) <= {0, 1}
    assert ((index["defect"] == "good") == (index["label"] == 0)).all()
    assert all(value is None or isinstance(value, str) for column in ("mask", "twin") for value in index[column])
    order = [(row.category, row.split, row.defect, os.path.basename(row.image)) for row in index.itertuples()]
    assert order == sorted(order)
    keys = [data.sample_key(row) for row in index.to_dict("records")]
    assert len(set(keys)) == len(keys)


# ------------------------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize(("dataset", "categories"), [("mvtec_ad", ("bottle", "zipper")), ("mpdd", ("tubes",))])
def test_mvtec_layout(tmp_path, dataset, categories):
    root = mvtec_tree(tmp_path / "set", *categories)
    index = data.load_index(dataset, root)
    assert_contract(index, dataset)
    assert data.categories(dataset, root) == sorted(categories)
    one = data.load_index(dataset, str(root), categories[0])
    assert counts(one) == {("train", 0): 3, ("test", 0): 2, ("test", 1): 2}
    bad = one[one["label"] == 1].iloc[0]
    assert bad["mask"] == str(root / categories[0] / "ground_truth" / "broken" / "000_mask.png")
    assert one[one["label"] == 0]["mask"].isna().all()
    assert data.sample_key(bad) == f"{dataset}/{categories[0]}/test/broken/000.png"


def visa_csv_tree(root: Path) -> Path:
    lines = ["object,split,label,image,mask"]
    for i in range(4):
        split = "train" if i < 3 else "test"
        image(root / "candle" / "Data" / "Images" / "Normal" / f"{i:04d}.JPG")
        lines.append(f"candle,{split},normal,candle/Data/Images/Normal/{i:04d}.JPG,")
    image(root / "candle" / "Data" / "Images" / "Anomaly" / "000.JPG")
    mask(root / "candle" / "Data" / "Masks" / "Anomaly" / "000.png", value=2)
    lines.append("candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png")
    (root / "split_csv").mkdir()
    (root / "split_csv" / "1cls.csv").write_text("\n".join(lines) + "\n")
    return root


def test_visa_csv(tmp_path):
    index = data.load_index("visa", visa_csv_tree(tmp_path / "visa"))
    assert_contract(index, "visa")
    assert counts(index) == {("train", 0): 3, ("test", 0): 1, ("test", 1): 1}
    sample = data.ImageDataset(index, (10, 12))[index.index[index["label"] == 1][0]]
    assert sample["mask"].sum() == 12  # class number 2 counts as anomalous
    assert index[index["label"] == 1]["defect"].tolist() == ["bad"]


def renamed_endings(root: Path, before: str, after: str) -> None:
    for path in list(root.rglob(f"*{before}")):
        path.rename(path.with_suffix(after))


def test_endings_in_other_letters_than_the_table_has_are_read(tmp_path):
    """Copies of VisA and others come with .jpg for .JPG, or .PNG for .png; a table keeps the names of its authors."""
    visa = visa_csv_tree(tmp_path / "visa")
    before = data.load_index("visa", visa)
    renamed_endings(visa, ".JPG", ".jpg")
    renamed_endings(visa, ".png", ".PNG")
    assert data.categories("visa", visa) == ["candle"]
    index = data.load_index("visa", visa)
    data.validate(index)
    assert index["image"].tolist() == [path.replace(".JPG", ".jpg") for path in before["image"]]
    assert index["mask"].dropna().tolist() == [str(visa / "candle/Data/Masks/Anomaly/000.PNG")]
    iad = real_iad_tree(tmp_path / "iad", nested=False)
    count = len(data.load_index("real_iad", iad))
    renamed_endings(iad, ".jpg", ".JPG")
    index = data.load_index("real_iad", iad)
    data.validate(index)
    assert len(index) == count and index["image"].str.endswith(".JPG").all()


def test_visa_converted_tree(tmp_path):
    root = tmp_path / "visa"
    for name in ("train/good/0.png", "test/good/1.png", "test/bad/2.png"):
        image(root / "candle" / name)
    mask(root / "candle" / "ground_truth" / "bad" / "2.png")
    index = data.load_index("visa", root, "candle")
    assert_contract(index, "visa")
    assert counts(index) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    assert index["mask"].dropna().tolist() == [str(root / "candle" / "ground_truth" / "bad" / "2.png")]


def test_visa_csv_with_other_columns_or_values_is_refused(tmp_path):
    root = visa_csv_tree(tmp_path / "visa")
    table = root / "split_csv" / "1cls.csv"
    good = table.read_text()
    table.write_text(good.replace("object,split", "item,split"))
    with pytest.raises(ValueError, match=r"1cls\.csv.*object"):
        data.load_index("visa", root)
    table.write_text(good.replace("test,anomaly", "test,odd"))
    with pytest.raises(ValueError, match=r"line 6.*'odd'"):
        data.load_index("visa", root)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_btad(tmp_path, suffix):
    for category in ("01", "02"):
        image(tmp_path / category / "train" / "ok" / "0000.bmp")
        image(tmp_path / category / "test" / "ok" / "0001.bmp")
        image(tmp_path / category / "test" / "ko" / "0002.bmp")
        mask(tmp_path / category / "ground_truth" / "ko" / f"0002{suffix}")
    index = data.load_index("btad", tmp_path)
    assert_contract(index, "btad")
    assert data.categories("btad", tmp_path) == ["01", "02"]
    assert counts(index) == {("train", 0): 2, ("test", 0): 2, ("test", 1): 2}
    assert all(name.endswith(suffix) for name in index["mask"].dropna())


def real_iad_tree(root: Path, nested: bool) -> Path:
    jsons = root / "realiad_jsons" / "realiad_jsons" if nested else root / "realiad_jsons"
    jsons.mkdir(parents=True)
    entries = {"train": [], "test": []}
    for split, number in (("train", 1), ("train", 2), ("test", 3)):
        name = f"OK/S{number:04d}/view.jpg"
        image(root / "realiad_256" / "toy" / name)
        entries[split].append({"category": "toy", "anomaly_class": "OK", "image_path": name, "mask_path": None})
    name, truth = "NG/AK/S0004/view.jpg", "NG/AK/S0004/view.png"
    image(root / "realiad_256" / "toy" / name)
    mask(root / "realiad_256" / "toy" / truth)
    entries["test"].append({"category": "toy", "anomaly_class": "AK", "image_path": name, "mask_path": truth})
    meta = {"normal_class": "OK", "prefix": "toy/", "pre_transform": None}
    (jsons / "toy.json").write_text(json.dumps({"meta": meta, **entries}))
    return root


@pytest.mark.parametrize("nested", [True, False])
def test_real_iad(tmp_path, nested):
    root = real_iad_tree(tmp_path / "Real-IAD", nested)
    index = data.load_index("real_iad", root)
    assert_contract(index, "real_iad")
    assert counts(index) == {("train", 0): 2, ("test", 0): 1, ("test", 1): 1}
    assert index["defect"].unique().tolist() == ["AK", "good"]
    with pytest.raises(ValueError, match="realiad_1024"):
        data.load_index("real_iad", root, "toy", resolution="1024")
    with pytest.raises(ValueError, match="variant"):
        data.load_index("real_iad", root, "toy", varriant="realiad_jsons_sv")


def test_real_iad_broken_json_names_the_file(tmp_path):
    root = real_iad_tree(tmp_path, nested=False)
    (root / "realiad_jsons" / "toy.json").write_text('{"train": []')
    with pytest.raises(ValueError, match=r"toy\.json"):
        data.load_index("real_iad", root)


def test_bmad_with_and_without_masks(tmp_path):
    for name in ("train/good/img", "test/good/img", "test/Ungood/img", "valid/Ungood/img"):
        image(tmp_path / "Brain" / name / "00003_60.png")
    mask(tmp_path / "Brain" / "test" / "Ungood" / "label" / "00003_60.png")
    for name in ("train/good", "test/good", "test/Ungood"):
        image(tmp_path / "camelyon16" / name / "1000.png")
    index = data.load_index("bmad", tmp_path)
    assert_contract(index, "bmad")
    brain, cells = (index[index["category"] == name] for name in ("Brain", "camelyon16"))
    assert counts(brain) == counts(cells) == {("train", 0): 1, ("test", 0): 1, ("test", 1): 1}
    assert brain["mask"].notna().sum() == 1 and cells["mask"].notna().sum() == 0
    assert not any("valid" in name for name in index["image"])


def test_folder_masks_are_optional_and_a_missing_one_is_named(tmp_path):
    root = mvtec_tree(tmp_path / "parts", "screw head")
    assert data.load_index("folder", root)["mask"].notna().sum() == 2
    single = data.load_index("folder", root / "screw head")
    assert single["category"].unique().tolist() == ["screw head"]
    (root / "screw head" / "ground_truth" / "broken" / "001_mask.png").unlink()
    with pytest.warns(data.DataWarning, match=r"(?s)1 of 2 anomalous images.*broken/001\.png: anomalous image without"):
        assert data.load_index("folder", root)["mask"].notna().sum() == 1
    (root / "screw head" / "ground_truth" / "broken" / "000_mask.png").unlink()
    (root / "screw head" / "ground_truth" / "broken").rmdir()
    (root / "screw head" / "ground_truth").rmdir()
    assert data.load_index("folder", root)["mask"].isna().all()


def test_folder_reads_an_export_of_textures_with_its_twins(tmp_path):
    data.export_textures(tmp_path, ["carpet"], size=32, train=2, test_good=1, test_anomalous=2)
    index = data.load_index("folder", tmp_path, "carpet")
    assert counts(index) == {("train", 0): 2, ("test", 0): 1, ("test", 1): 2}
    exported = data.load_batch(data.ImageDataset(index, 32))
    rendered = data.load_batch(
        data.ImageDataset(data.load_index("textures", None, "carpet", train=2, test_good=1, test_anomalous=2), 32)
    )
    for name in ("image", "twin", "mask"):
        assert np.array_equal(exported[name], rendered[name])


def test_textures(tmp_path):
    index = data.load_index("textures", category="wood", seed=3)
    assert_contract(index, "textures")
    assert counts(index) == {("train", 0): 200, ("test", 0): 40, ("test", 1): 60}
    assert index["image"].str.startswith("textures:seed=3/wood/").all()
    assert set(data.load_index("textures")["category"]) == set(data.categories("textures"))


# --------------------------------------------------------------------------------------------------- ELPV


@pytest.mark.slow
def test_elpv_mono_and_poly():
    mono = data.load_index("elpv", category="mono")
    assert_contract(mono, "elpv")
    assert counts(mono) == {("train", 0): 470, ("test", 0): 118, ("test", 1): 313}
    both = data.load_index("elpv", uncertain=True)
    assert len(both) == 2624 and data.categories("elpv") == ["mono", "poly"]
    assert both["defect"].value_counts().to_dict() == {
        "good": 1508,
        "defective": 715,
        "probability_1_3": 295,
        "probability_2_3": 106,
    }
    assert set(both[both["split"] == "train"]["defect"]) == {"good"}


@pytest.mark.slow
def test_elpv_split_is_seeded_and_does_not_change_with_options():
    first, again = (data.load_index("elpv", category="poly", seed=0) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = data.load_index("elpv", category="poly", seed=1)
    train = [set(index[index["split"] == "train"]["image"]) for index in (first, other)]
    assert len(train[0]) == len(train[1]) and train[0] != train[1]
    more = data.load_index("elpv", category="poly", uncertain=True)
    assert set(more[more["split"] == "train"]["image"]) == train[0]
    half = data.load_index("elpv", category="poly", train_fraction=0.5)
    assert (half["split"] == "train").sum() == 460
    with pytest.raises(ValueError, match="train_fraction"):
        data.load_index("elpv", category="poly", train_fraction=1.5)


def test_elpv_copy_with_a_broken_table(tmp_path):
    image(tmp_path / "images" / "cell0001.png")
    (tmp_path / "labels.csv").write_text("images/cell0001.png 0.5 mono\n")
    with pytest.raises(ValueError, match=r"labels\.csv, line 1.*0\.5"):
        data.load_index("elpv", tmp_path)


# ---------------------------------------------------------------------------------------------------- MTD


def mtd_tree(root: Path, free: list[tuple[int, int]], cracks: list[tuple[int, int]]) -> Path:
    for name, files in (("MT_Free", free), ("MT_Crack", cracks)):
        for exposure, number in files:
            image(root / name / "Imgs" / f"exp{exposure}_num_{number}.jpg")
            mask(root / name / "Imgs" / f"exp{exposure}_num_{number}.png", value=0 if name == "MT_Free" else 255)
    return root


def test_mtd_keeps_all_exposures_of_a_tile_on_one_side(tmp_path):
    free = [(e, 10_000 * tile + 20 * e) for tile in range(1, 11) for e in (1, 2, 3)]
    cracks = [(4, 10_000 + 80), (1, 500_000)]  # the first shows tile 1 again
    root = mtd_tree(tmp_path, free, cracks)
    splits = []
    for seed in range(6):
        index = data.load_index("mtd", root, seed=seed)
        assert_contract(index, "mtd")
        assert counts(index) == {("train", 0): 24, ("test", 0): 6, ("test", 1): 2}
        train = index[index["split"] == "train"]["image"]
        tiles = {"train": set(), "test": set()}
        for row in index[index["label"] == 0].itertuples():
            tiles[row.split].add(int(Path(row.image).stem.split("_num_")[1]) // 10_000)
        assert not tiles["train"] & tiles["test"]
        assert 1 in tiles["test"]  # shown with a defect, so never trained on
        splits.append(frozenset(train))
    assert len(set(splits)) > 1
    assert index[index["label"] == 1]["mask"].str.endswith(".png").all()


def test_mtd_numbers_that_name_the_tile(tmp_path):
    root = mtd_tree(tmp_path, [(e, n) for n in range(10) for e in (1, 2)], [(1, 3)])
    index = data.load_index("mtd", root)
    assert counts(index) == {("train", 0): 16, ("test", 0): 4, ("test", 1): 1}
    number = index["image"].str.extract(r"_num_(\d+)")[0]
    free = index["label"] == 0
    assert not set(number[free & (index["split"] == "train")]) & set(number[free & (index["split"] == "test")])


def test_mtd_tiles():
    step = MTD_TILE_GAP
    tiles = mtd_tiles([100, 100 + step, 101 + 2 * step, 5000, 9000, 9020])
    assert tiles == {100: 100, 100 + step: 100, 101 + 2 * step: 101 + 2 * step, 5000: 5000, 9000: 9000, 9020: 9000}
    assert mtd_tiles([1, 2, 3]) == {1: 1, 2: 2, 3: 3}
    assert mtd_tiles([]) == {}


def test_mtd_odd_file_name(tmp_path):
    root = mtd_tree(tmp_path, [(1, 1), (1, 9000)], [(1, 20_000)])
    image(root / "MT_Free" / "Imgs" / "tile.jpg")
    with pytest.raises(ValueError, match=r"tile\.jpg.*exp<i>_num_<n>"):
        data.load_index("mtd", root)


@pytest.mark.skipif("DIFFAD_TEST_MTD" not in os.environ, reason="DIFFAD_TEST_MTD is not set to magnetic tile data")
def test_mtd_real_data():
    index = data.load_index("mtd", os.environ["DIFFAD_TEST_MTD"])
    assert_contract(index, "mtd")
    free = index[index["label"] == 0]
    assert abs((free["split"] == "train").mean() - 0.8) < 0.02
    data.validate(index)
    bare = index["mask"].fillna("").map(lambda path: Path(path).stem in LAYOUTS["mtd"].without_mask)
    batch = data.load_batch(data.ImageDataset(index[(index["label"] == 1) & ~bare], 64))
    assert batch["mask"].flatten(1).any(dim=1).all()


# ------------------------------------------------------------------------------------------ seeded splits


def test_seeded_order_ignores_input_order_and_other_names():
    names = [f"image {i}" for i in range(50)]
    order = seeded_order(names, 7)
    assert seeded_order(reversed(names), 7) == order != seeded_order(names, 8)
    assert seeded_order(names[:25], 7) == [name for name in order if name in names[:25]]


def test_seeded_train_takes_whole_groups_and_never_overshoots():
    groups = {f"g{i}": [f"{i}-{j}" for j in range(1 + i % 4)] for i in range(20)}
    chosen = seeded_train(groups, 0, 37)
    assert len(chosen) == 37
    assert all(set(members) <= chosen or not set(members) & chosen for members in groups.values())


# -------------------------------------------------------------------------------------------------- roots


def test_root_order_argument_environment_repository_kaggle(tmp_path, monkeypatch):
    kaggle = mvtec_tree(tmp_path / "kaggle" / "input" / "some-slug" / "version 2", "bottle")
    assert data.find_root("mvtec_ad") == kaggle
    repository = mvtec_tree(tmp_path / "repository" / "data" / "mvtec_ad", "bottle")
    assert data.find_root("mvtec_ad") == repository
    own = mvtec_tree(tmp_path / "own", "bottle")
    monkeypatch.setenv("DIFFAD_DATA", str(own))
    assert data.find_root("mvtec_ad") == own
    argument = mvtec_tree(tmp_path / "argument", "bottle")
    assert data.find_root("mvtec_ad", argument) == argument
    assert data.find_root("mvtec_ad", "") == own


def test_environment_may_hold_data_sets_and_several_folders(tmp_path, monkeypatch):
    many = tmp_path / "many"
    mpdd = mvtec_tree(many / "metal parts", "tubes", "connector")
    mtd = mtd_tree(many / "tiles", [(1, 1), (1, 9000)], [(1, 20_000)])
    mvtec = mvtec_tree(tmp_path / "elsewhere", "cable")
    monkeypatch.setenv("DIFFAD_DATA", os.pathsep.join([str(tmp_path / "nowhere"), str(many), str(mvtec)]))
    assert (data.find_root("mpdd"), data.find_root("mtd"), data.find_root("mvtec_ad")) == (mpdd, mtd, mvtec)
    assert data.find_root("mpdd", many) == mpdd
    with pytest.raises(FileNotFoundError, match="visa.*nowhere"):
        data.find_root("visa")


def test_kaggle_recognises_by_layout_not_by_name(tmp_path):
    base = tmp_path / "kaggle" / "input"
    visa = visa_csv_tree_at(base / "mvtec-ad")  # a misleading name
    mvtec = mvtec_tree(base / "datasets" / "someone" / "visa", "hazelnut")
    own = mvtec_tree(base / "my-parts", "gizmo")
    assert data.find_root("visa") == visa
    assert data.find_root("mvtec_ad") == mvtec
    assert data.find_root("folder") == own


def visa_csv_tree_at(root: Path) -> Path:
    root.mkdir(parents=True)
    return visa_csv_tree(root)


def test_export_of_textures_is_not_taken_for_mvtec_ad(tmp_path, monkeypatch):
    data.export_textures(tmp_path / "export", ["tile"], size=16, train=1, test_good=1, test_anomalous=1)
    monkeypatch.setenv("DIFFAD_DATA", str(tmp_path / "export"))
    with pytest.raises(FileNotFoundError):
        data.find_root("mvtec_ad")
    assert data.find_root("folder") == tmp_path / "export"


def test_root_in_another_layout_says_what_was_expected_and_found(tmp_path):
    image(tmp_path / "holiday" / "beach.png")
    with pytest.raises(ValueError, match=r"mvtec_ad.*Expected: <category>/train/good.*Found: beach\.png") as error:
        data.load_index("mvtec_ad", tmp_path / "holiday")
    assert str(tmp_path / "holiday") in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.load_index("mvtec_ad", tmp_path / "nothing")
    with pytest.raises(ValueError, match="got a file"):
        data.load_index("mvtec_ad", tmp_path / "holiday" / "beach.png")
    with pytest.raises(FileNotFoundError, match=r"DIFFAD_DATA \(not set\).*data/btad/README"):
        data.load_index("btad")


# ------------------------------------------------------------------------------------------------- names


def test_unknown_names_list_the_known_and_suggest(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown data set 'mvtec' \(did you mean 'mvtec_ad'\?\); known: .*textures, elpv"
    ):
        data.load_index("mvtec")
    with pytest.raises(ValueError, match=r"unknown category of elpv 'momo' \(did you mean 'mono'\?\); known: mono"):
        data.load_index("elpv", category="momo")
    with pytest.raises(ValueError, match=r"unknown category of textures.*\(did you mean 'carpet'\?\)"):
        data.load_index("textures", category="carpett")
    root = mvtec_tree(tmp_path, "bottle")
    with pytest.raises(ValueError, match=r"category 'zipper' of mvtec_ad is not in .*which holds bottle"):
        data.load_index("mvtec_ad", root, "zipper")
    with pytest.raises(ValueError, match="unknown category of mvtec_ad 'botle'.*'bottle'"):
        data.load_index("mvtec_ad", root, "botle")
    with pytest.raises(ValueError, match="unknown option of data set elpv 'uncertian'.*'uncertain'"):
        data.load_index("elpv", category="mono", uncertian=True)
    with pytest.raises(ValueError, match="unknown data set"):
        data.categories("nonsense")


def test_names_with_spaces_and_other_letters(tmp_path):
    root = tmp_path / "Größe und Maß"
    for name in ("train/good/naïve 1.png", "test/good/第二 张.png", "test/Riß quer/ä ö.png"):
        image(root / "boîte à vis" / name)
    mask(root / "boîte à vis" / "ground_truth" / "Riß quer" / "ä ö_mask.png")
    index = data.load_index("folder", root)
    data.validate(index)
    batch = data.load_batch(data.ImageDataset(index, 8))
    assert batch["key"][0] == "folder/boîte à vis/test/Riß quer/ä ö.png"
    assert batch["mask"][0].any()


def test_zero_images(tmp_path):
    (tmp_path / "bottle" / "train" / "good").mkdir(parents=True)
    (tmp_path / "bottle" / "test" / "good").mkdir(parents=True)
    with pytest.raises(ValueError, match="'bottle' of mvtec_ad has no train and no test images"):
        data.load_index("mvtec_ad", tmp_path)
    image(tmp_path / "bottle" / "train" / "good" / "000.png")
    with pytest.raises(ValueError, match="has no test images"):
        data.load_index("mvtec_ad", tmp_path, "bottle")


# ------------------------------------------------------------------------------------- links and escapes


def test_a_data_set_behind_a_link_below_the_mount_is_found(tmp_path):
    mount = tmp_path / "kaggle" / "input"
    (mount / "some-input").mkdir(parents=True)
    real = mvtec_tree(tmp_path / "elsewhere" / "mvtec_ad", "bottle")
    (mount / "some-input" / "set").symlink_to(real, target_is_directory=True)
    (mount / "some-input" / "again").symlink_to(mount, target_is_directory=True)  # upwards: no circle
    assert data.find_root("mvtec_ad").resolve() == real.resolve()


def test_links_out_of_the_root_are_refused_links_inside_work(tmp_path):
    root = mvtec_tree(tmp_path / "set", "bottle")
    good = root / "bottle" / "train" / "good"
    (good / "003.png").symlink_to(good / "000.png")
    assert counts(data.load_index("mvtec_ad", root))[("train", 0)] == 4
    secret = image(tmp_path / "outside" / "secret.png")
    (good / "004.png").symlink_to(secret)
    with pytest.raises(ValueError, match=r"004\.png leads out of the data set's folder"):
        data.load_index("mvtec_ad", root)
    (good / "004.png").unlink()
    (root / "bottle" / "test" / "cut").symlink_to(secret.parent, target_is_directory=True)
    with pytest.raises(ValueError, match="cut leads out"):
        data.load_index("mvtec_ad", root)


def test_a_linked_split_folder_is_refused_but_the_root_may_be_a_link(tmp_path):
    real = mvtec_tree(tmp_path / "real", "bottle")
    (tmp_path / "link").symlink_to(real, target_is_directory=True)
    assert len(data.load_index("mvtec_ad", tmp_path / "link")) == 7
    root = tmp_path / "patched"
    mvtec_tree(root, "cable")
    (root / "bottle").mkdir()
    for name in ("train", "test", "ground_truth"):
        (root / "bottle" / name).symlink_to(real / "bottle" / name, target_is_directory=True)
    with pytest.raises(ValueError, match="leads out"):
        data.load_index("mvtec_ad", root, "bottle")


def test_tables_cannot_point_out_of_the_root(tmp_path):
    image(tmp_path / "secret.png")
    root = visa_csv_tree_at(tmp_path / "visa")
    table = root / "split_csv" / "1cls.csv"
    good = table.read_text()
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        table.write_text(good + f"candle,test,normal,{path},\n")
        with pytest.raises(ValueError, match="leads out"):
            data.load_index("visa", root)


def test_listed_files_that_are_not_there(tmp_path):
    root = visa_csv_tree_at(tmp_path / "visa")
    (root / "candle" / "Data" / "Masks" / "Anomaly" / "000.png").unlink()
    with pytest.warns(data.DataWarning, match=r"000\.png"):
        assert data.load_index("visa", root)["mask"].isna().all()
    (root / "candle" / "Data" / "Images" / "Normal" / "0001.JPG").unlink()
    with pytest.raises(ValueError, match=r"1 file.*(?s:.*)0001\.JPG"):
        data.load_index("visa", root)


def test_describe_lists_every_data_set(tmp_path, monkeypatch):
    root = mtd_tree(tmp_path / "tiles", [(1, 1), (1, 9000)], [(1, 20_000)])
    monkeypatch.setenv("DIFFAD_DATA", str(root))
    table = data.describe().set_index("dataset")
    assert tuple(table.index) == data.DATASETS
    assert {"categories", "licence", "where", "masks"} <= set(table.columns)
    assert table.loc["mtd", "where"] == str(root) and table.loc["visa", "where"] == "not found"
    assert table.loc["textures", "where"] == "rendered" and table.loc["elpv", "masks"] == "no"

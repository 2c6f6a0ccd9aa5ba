"""`check` and `validate` find every kind of damage, name the file, and are silent on sound data."""

import os

import numpy as np
import pytest
from PIL import Image

from diffad_utils import data
from diffad_utils.data.check import Problem, count_problems, open_quickly, published_counts


def write(path, size=(20, 16), colour=(80, 90, 100), noise=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    if noise:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    else:
        Image.new("RGB", size, colour).save(path)
    return path


def write_mask(path, size=(20, 16), area=slice(4, 9)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), np.uint8)
    values[area, area] = 255
    Image.fromarray(values).save(path)
    return path


@pytest.fixture
def tree(tmp_path):
    for i in range(4):
        write(tmp_path / "part" / "train" / "good" / f"{i}.png")
        write(tmp_path / "part" / "test" / "good" / f"{i}.jpg", noise=True)
        write(tmp_path / "part" / "test" / "cut" / f"{i}.png")
        write_mask(tmp_path / "part" / "ground_truth" / "cut" / f"{i}_mask.png")
    return tmp_path


def rules(problems: list[Problem]) -> set[tuple[str, str]]:
    return {(os.path.basename(problem.file), problem.rule) for problem in problems}


def test_a_sound_tree_has_no_problems(tree):
    assert data.check("folder", tree) == []
    data.validate(data.load_index("folder", tree))


def test_every_kind_of_damage_is_listed(tree):
    part = tree / "part"
    (part / "ground_truth" / "cut" / "0_mask.png").unlink()
    write_mask(part / "ground_truth" / "cut" / "1_mask.png", size=(16, 20))
    write_mask(part / "ground_truth" / "cut" / "2_mask.png", area=slice(0, 0))
    (part / "ground_truth" / "cut" / "3_mask.png").write_text("no image")
    write_mask(part / "ground_truth" / "cut" / "9_mask.png")
    jpeg = part / "test" / "good" / "1.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:-200])
    png = part / "train" / "good" / "2.png"
    png.write_bytes(png.read_bytes()[:-30])
    (part / "train" / "good" / "3.png").write_text("hello")
    problems = data.check("folder", tree)
    assert rules(problems) == {
        ("0.png", "missing"),
        ("1_mask.png", "mask"),
        ("2_mask.png", "mask"),
        ("3_mask.png", "mask"),
        ("9_mask.png", "orphan"),
        ("1.jpg", "unreadable"),
        ("2.png", "unreadable"),
        ("3.png", "unreadable"),
    }
    text = "\n".join(map(str, problems))
    assert "16 x 20" in text and "empty" in text and "without its mask" in text


def test_validate_lists_the_files_and_how_many(tree):
    index = data.load_index("folder", tree)
    for i in range(4):
        (tree / "part" / "train" / "good" / f"{i}.png").write_bytes(b"")
        write_mask(tree / "part" / "ground_truth" / "cut" / f"{i}_mask.png", size=(5, 5))
        (tree / "part" / "test" / "good" / f"{i}.jpg").unlink()
    with pytest.raises(ValueError, match=r"(?s)12 problem\(s\).*good/0\.jpg.*and 2 more") as error:
        data.validate(index)
    assert str(tree) in str(error.value)
    with pytest.raises(ValueError, match="zero images"):
        data.validate(index.head(0))


def test_validate_skips_rendered_samples():
    data.validate(data.load_index("textures", category="tile"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_quick_opening_finds_truncation(tmp_path, suffix, kept):
    path = write(tmp_path / f"image.{suffix}", size=(90, 70), noise=True)
    assert open_quickly(path) == (70, 90)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"image\.{suffix}"):
        open_quickly(path)


def test_quick_opening_finds_a_flipped_bit_in_a_png(tmp_path):
    path = write(tmp_path / "image.png", noise=True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"image\.png"):
        open_quickly(path)


# ------------------------------------------------------------------------------------------------- counts


def test_published_counts_add_up_to_the_papers_totals():
    def total(dataset, *groups):
        return sum(row[group] for row in published_counts(dataset).values() for group in groups or row)

    assert (total("mvtec_ad", "train"), total("mvtec_ad", "test normal", "test anomalous")) == (3629, 1725)
    assert (total("visa"), total("visa", "train", "test normal")) == (10821, 9621)
    assert total("btad") == 2540 and total("mpdd") == 1346 and total("mtd") == 1344
    assert (total("elpv"), total("elpv", "good"), total("elpv", "defective")) == (2624, 1508, 715)
    assert published_counts("mtd")["magnetic_tile"]["good"] == 952
    assert published_counts("folder") == {}


@pytest.mark.slow
def test_elpv_is_complete_and_sound():
    assert data.check("elpv") == []


@pytest.mark.slow
def test_textures_render():
    assert data.check("textures") == []


@pytest.mark.slow
def test_missing_elpv_cells_are_counted(tmp_path):
    index = data.load_index("elpv", uncertain=True)
    problems = count_problems("elpv", index[index["category"] == "mono"].iloc[1:], "here")
    assert [problem.rule for problem in problems] == ["count", "count"]
    assert "312 images, 313 expected" in problems[0].message and "category poly is missing (1550" in problems[1].message


def test_incomplete_mvtec_ad(tree):
    (tree / "part").rename(tree / "bottle")
    problems = data.check("mvtec_ad", tree)
    assert {problem.rule for problem in problems} == {"count"}
    assert len(problems) == 3 + 14
    assert "category bottle, train: 4 images, 209 expected" in problems[0].message


def test_one_empty_category_does_not_hide_the_others(tree):
    (tree / "hollow" / "train" / "good").mkdir(parents=True)
    (tree / "hollow" / "test" / "good").mkdir(parents=True)
    (tree / "part" / "ground_truth" / "cut" / "0_mask.png").unlink()
    assert rules(data.check("folder", tree)) == {("hollow", "layout"), ("0.png", "missing")}


def test_a_link_out_of_the_root_is_a_problem(tree, tmp_path_factory):
    outside = write(tmp_path_factory.mktemp("outside") / "secret.png")
    (tree / "part" / "train" / "good" / "9.png").symlink_to(outside)
    problems = data.check("folder", tree)
    assert rules(problems) == {("part", "layout")} and "leads out" in problems[0].message


def test_check_of_unknown_or_absent_data(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'mvtec_add'.*'mvtec_ad'"):
        data.check("mvtec_add")
    with pytest.raises(FileNotFoundError):
        data.check("visa", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Expected"):
        data.check("visa", tmp_path)


def test_real_iad_table_without_a_mask(tmp_path):
    write(tmp_path / "realiad_256" / "toy" / "OK" / "S1" / "a.jpg")
    write(tmp_path / "realiad_256" / "toy" / "NG" / "AK" / "S2" / "b.jpg")
    (tmp_path / "realiad_jsons").mkdir()
    (tmp_path / "realiad_jsons" / "toy.json").write_text(
        '{"meta": {"normal_class": "OK", "prefix": "toy/"},'
        '"train": [{"anomaly_class": "OK", "image_path": "OK/S1/a.jpg", "mask_path": null}],'
        '"test": [{"anomaly_class": "AK", "image_path": "NG/AK/S2/b.jpg", "mask_path": null}]}'
    )
    problems = data.check("real_iad", tmp_path)
    assert ("b.jpg", "missing") in rules(problems)
    assert sum(problem.rule == "count" for problem in problems) == 29


@pytest.mark.skipif("DIFFAD_TEST_MTD" not in os.environ, reason="DIFFAD_TEST_MTD is not set to magnetic tile data")
def test_real_magnetic_tiles_differ_from_the_full_set_in_counts_only():
    problems = data.check("mtd", os.environ["DIFFAD_TEST_MTD"])
    assert {problem.rule for problem in problems} <= {"count"}


@pytest.mark.parametrize(("label", "said"), [(0, "no normal test image"), (1, "no anomalous test image")])
def test_notebooks_refuse_a_test_set_of_one_kind_and_offer_what_works(label, said):
    index = data.load_index("textures", category="leather")
    one_kind = index[(index["split"] == "train") | (index["label"] != label)]
    with pytest.raises(data.DataError, match=rf"leather: {said}[\s\S]*fit a method and look at its maps"):
        data.require_both_classes(one_kind)
    data.require_both_classes(index)


def test_summary_of_an_index_counts_what_is_rendered():
    row = data.summary(data.load_index("textures", category="leather")).iloc[0]
    assert row["masks"] == row["test anomalous"] > 0 and row["without mask"] == 0

"""Images and masks of every kind to tensors; unreadable ones to errors that name the file."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from diffad_utils import data
from diffad_utils.data import loading
from diffad_utils.data.loading import resize_image, resize_mask


def index_of(*samples: dict) -> pd.DataFrame:
    rows = [
        dict(dataset="folder", category="c", split="test", label=0, defect="good", mask=None, twin=None)
        | {name: str(value) if name in ("image", "mask", "twin") else value for name, value in sample.items()}
        for sample in samples
    ]
    return pd.DataFrame(rows)


def gradient(height=10, width=16) -> np.ndarray:
    return np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)


# ------------------------------------------------------------------------------------------------- images


def test_rgb_and_grey(tmp_path):
    grey = gradient()
    Image.fromarray(grey).save(tmp_path / "grey.png")
    colour = np.stack([grey, 255 - grey, grey // 2], axis=2)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    got = data.read_image(tmp_path / "grey.png")
    assert got.dtype == torch.float32 and got.shape == (3, 10, 16)
    assert torch.equal(got[0], got[2]) and torch.allclose(got[0], torch.from_numpy(grey / 255).float())
    wanted = torch.from_numpy(colour / 255).float().permute(2, 0, 1)
    assert torch.allclose(data.read_image(tmp_path / "colour.png"), wanted)


def test_alpha_is_dropped(tmp_path):
    grey = gradient()
    rgba = np.stack([grey, grey, grey, np.zeros_like(grey)], axis=2)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba[..., 2:]).save(tmp_path / "la.png")
    for name in ("rgba.png", "la.png"):
        assert torch.allclose(data.read_image(tmp_path / name)[1], torch.from_numpy(grey / 255).float())


def test_palette_and_bilevel(tmp_path):
    image = Image.new("P", (4, 2))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 1, 0, 0, 0, 2])
    image.save(tmp_path / "palette.png", transparency=0)
    got = data.read_image(tmp_path / "palette.png")
    assert got[:, 0, 1].tolist() == [1, 0, 0] and got[:, 1, 3].tolist() == [0, 0, 1]
    assert got[:, 0, 0].tolist() == [0, 0, 0]
    Image.fromarray(gradient() > 100).save(tmp_path / "bits.png")
    assert set(data.read_image(tmp_path / "bits.png").unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_keeps_its_precision(tmp_path, suffix):
    values = np.array([[0, 1, 300], [32768, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    got = data.read_image(tmp_path / f"deep.{suffix}")
    assert got.shape == (3, 2, 3) and got.dtype == torch.float32
    assert torch.allclose(got[0], torch.from_numpy(values / 65535).float(), atol=1e-7)


def test_float_images_must_be_in_range(tmp_path):
    Image.fromarray(np.array([[0.0, 0.25], [0.5, 1.0]], np.float32)).save(tmp_path / "ok.tif")
    assert data.read_image(tmp_path / "ok.tif")[0, 0, 1] == 0.25
    Image.fromarray(np.array([[0.0, 7.0]], np.float32)).save(tmp_path / "high.tif")
    with pytest.raises(ValueError, match=r"high\.tif.*0 to 7"):
        data.read_image(tmp_path / "high.tif")


def test_jpeg_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    red = data.read_image(tmp_path / "print.jpg")[:, 4, 4]
    assert red[0] > 0.9 and red[1] < 0.2


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"cut\.{suffix}: not a readable image, or truncated"):
        data.read_image(path)
    with pytest.raises(ValueError, match=rf"cut\.{suffix}"):
        data.ImageDataset(index_of({"image": path}))[0]


def test_no_image_empty_file_and_missing_file(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png", "gone.png"):
        with pytest.raises(ValueError, match=name):
            data.read_image(tmp_path / name)


def test_decompression_bomb_limit_stays_on(tmp_path, monkeypatch):
    assert Image.MAX_IMAGE_PIXELS is not None
    Image.new("L", (40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match=r"bomb\.png: too many pixels"):
        data.read_image(tmp_path / "bomb.png")


# -------------------------------------------------------------------------------------------------- masks


def test_masks_of_every_kind_agree(tmp_path):
    wanted = np.zeros((12, 9), bool)
    wanted[3:7, 2:5] = True
    Image.fromarray(wanted).save(tmp_path / "bits.png")
    Image.fromarray(wanted.astype(np.uint8)).save(tmp_path / "class.png")  # VisA: 1, 2, ...
    Image.fromarray(wanted.astype(np.uint8) * 255).save(tmp_path / "full.bmp")
    Image.fromarray(wanted.astype(np.uint16) * 65535).save(tmp_path / "deep.png")
    rgba = np.zeros((12, 9, 4), np.uint8)
    rgba[..., 3] = 255
    rgba[wanted, 1] = 200
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    palette = Image.fromarray(wanted.astype(np.uint8)).convert("P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(wanted.astype(np.uint8) * 255).save(tmp_path / "lossy.jpg", quality=95)
    for name in ("bits.png", "class.png", "full.bmp", "deep.png", "rgba.png", "palette.png", "lossy.jpg"):
        got = data.read_mask(tmp_path / name)
        assert got.dtype == torch.bool
        assert np.array_equal(got, wanted), name


@pytest.mark.parametrize("size", [64.0, (3, 4, 5), "64", 0, (8, -1), None])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="size must be a positive int"):
        data.ImageDataset(data.load_index("textures", category="carpet"), size)


def test_a_sample_number_is_whole():
    with pytest.raises(TypeError, match="integer"):
        data.ImageDataset(data.load_index("textures", category="carpet"), 16)[1.5]


def test_resize_mask_by_area():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[0:2, 0:2] = True  # covers one new pixel wholly
    mask[4, 4:6] = True  # exactly half of another
    mask[7, 7] = True  # a quarter of a third
    small = resize_mask(mask, (4, 4))
    assert small.nonzero().tolist() == [[0, 0], [2, 2]]
    assert torch.equal(resize_mask(mask, (8, 8)), mask)
    assert torch.equal(resize_mask(small, (8, 8)).view(4, 2, 4, 2).all(3).all(1), small)


@pytest.mark.parametrize("size", [(7, 5), (16, 16), (33, 64), (1, 1)])
def test_resize_mask_never_vanishes_and_never_appears(size):
    generator = np.random.default_rng(1)
    for _ in range(30):
        height, width = generator.integers(1, 200, 2)
        mask = torch.zeros(int(height), int(width), dtype=torch.bool)
        assert not resize_mask(mask, size).any()
        mask[int(generator.integers(height)), int(generator.integers(width))] = True
        assert resize_mask(mask, size).any()
        assert resize_mask(torch.ones_like(mask), size).all()


def test_resize_mask_keeps_a_thin_line_whole():
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[100, :] = True
    small = resize_mask(mask, (32, 32))
    assert small[12].all() and small.sum() == 32


def test_resize_image_keeps_range_and_mean():
    image = torch.rand(3, 61, 83, generator=torch.Generator().manual_seed(0))
    small = resize_image(image, (16, 24))
    assert small.shape == (3, 16, 24) and small.min() >= 0 and small.max() <= 1
    assert abs(small.mean() - image.mean()) < 0.01
    assert resize_image(image, (61, 83)) is image


# ------------------------------------------------------------------------------------------------ dataset


@pytest.fixture
def pair(tmp_path):
    Image.fromarray(gradient(20, 30)).save(tmp_path / "normal.png")
    Image.fromarray(gradient(40, 24)).save(tmp_path / "cut.png")
    mask = np.zeros((40, 24), np.uint8)
    mask[10:20, 6:12] = 255
    Image.fromarray(mask).save(tmp_path / "cut_mask.png")
    return index_of(
        {"image": tmp_path / "normal.png"},
        {"image": tmp_path / "cut.png", "mask": tmp_path / "cut_mask.png", "label": 1, "defect": "cut"},
    )


def test_sample_contract(pair):
    dataset = data.ImageDataset(pair, (20, 12))
    normal, cut = dataset[0], dataset[1]
    assert len(dataset) == 2 and dataset.index.equals(pair)
    assert normal["image"].shape == (3, 20, 12) and normal["image"].dtype == torch.float32
    assert normal["mask"].dtype == torch.bool and not normal["mask"].any()
    assert (normal["label"], cut["label"]) == (0, 1) and isinstance(cut["label"], int)
    assert cut["key"] == "folder/c/test/cut/cut.png" and "twin" not in cut
    assert cut["mask"].nonzero().min(0).values.tolist() == [5, 3] and cut["mask"].sum() == 15
    assert dataset[-1]["key"] == cut["key"]
    with pytest.raises(IndexError):
        dataset[2]
    assert [sample["key"] for sample in dataset] == [normal["key"], cut["key"]]


def test_collate_and_load_batch_stack_images_of_varying_size(pair):
    batch = data.load_batch(data.ImageDataset(pair, 16))
    assert batch["image"].shape == (2, 3, 16, 16) and batch["mask"].shape == (2, 16, 16)
    assert batch["label"].dtype == torch.int64 and batch["label"].tolist() == [0, 1]
    assert batch["key"] == ["folder/c/test/good/normal.png", "folder/c/test/cut/cut.png"]
    assert "twin" not in batch
    loader = torch.utils.data.DataLoader(data.ImageDataset(pair, 16), batch_size=2, collate_fn=data.collate)
    assert torch.equal(next(iter(loader))["image"], batch["image"])
    with pytest.raises(ValueError, match="no samples"):
        data.collate([])


def test_collate_twins():
    index = data.load_index("textures", category="leather", train=2, test_good=1, test_anomalous=2)
    dataset = data.ImageDataset(index, 32)
    batch = data.load_batch(dataset)
    normal = batch["label"] == 0
    assert torch.equal(batch["twin"][normal], batch["image"][normal])
    differs = (batch["twin"] - batch["image"]).abs().amax(1) > 0
    assert (differs[~normal] & batch["mask"][~normal]).flatten(1).any(1).all()
    assert torch.equal((differs & batch["mask"]), batch["mask"])
    sample = dict(dataset[int((~normal).nonzero()[0])])
    without = {name: value for name, value in sample.items() if name != "twin"}
    with pytest.raises(ValueError, match="without a twin"):
        data.collate([sample, without])


def test_cache_gives_equal_samples_that_cannot_be_spoilt(pair, monkeypatch):
    cached, plain = data.ImageDataset(pair, 16), data.ImageDataset(pair, 16, cache=False)
    cached[1]["image"].zero_()
    assert torch.equal(cached[1]["image"], plain[1]["image"]) and plain[1]["image"].max() > 0
    reads = []
    original = loading.read_image
    monkeypatch.setattr(loading, "read_image", lambda path: reads.append(path) or original(path))
    cached[1], cached[0], cached[0], plain[0], plain[0]
    assert len(reads) == 3
    monkeypatch.setattr(loading, "CACHE_BYTES", 10)
    small = data.ImageDataset(pair, 16)
    small[0], small[0]
    assert len(reads) == 5


def test_filtered_index_works_and_empty_or_foreign_ones_do_not(pair):
    assert data.ImageDataset(pair[pair["label"] == 1], 8)[0]["label"] == 1
    with pytest.raises(ValueError, match="zero images"):
        data.ImageDataset(pair[pair["label"] == 5])
    with pytest.raises(ValueError, match="'key'|'mask'"):
        data.ImageDataset(pd.DataFrame({"image": ["a.png"]}))
    for size in (0, (8, 0), -4):
        with pytest.raises(ValueError, match="size"):
            data.ImageDataset(pair, size)


def test_bad_masks_are_named(pair, tmp_path):
    wrong = tmp_path / "wrong size.png"
    Image.new("L", (40, 24), 255).save(wrong)  # width and height swapped
    with pytest.raises(ValueError, match=r"wrong size\.png: mask is 40 x 24 .*cut\.png is 24 x 40"):
        data.ImageDataset(pair.assign(mask=[None, str(wrong)]), 16)[1]
    black = tmp_path / "black.png"
    Image.new("L", (24, 40)).save(black)
    with pytest.warns(data.DataWarning, match=r"black\.png: .*empty"):
        assert not data.ImageDataset(pair.assign(mask=[None, str(black)]), 16)[1]["mask"].any()
    with pytest.raises(ValueError, match=r"gone\.png: no such file"):
        data.ImageDataset(pair.assign(mask=[None, str(tmp_path / "gone.png")]), 16)[1]


def test_textures_sample_has_size_twin_and_mask():
    index = data.load_index("textures", category="carpet", train=1, test_good=1, test_anomalous=1)
    sample = data.ImageDataset(index[index["label"] == 1], (24, 40))[0]
    assert sample["image"].shape == sample["twin"].shape == (3, 24, 40) and sample["mask"].any()
    assert sample["key"].startswith("textures/carpet/test/")
    normal = data.ImageDataset(index[index["label"] == 0], 24)[0]
    assert "twin" not in normal and not normal["mask"].any()


def test_elpv_has_no_masks():
    index = data.load_index("elpv", category="mono")
    sample = data.ImageDataset(index[index["label"] == 1].head(1), 64)[0]
    assert sample["image"].shape == (3, 64, 64) and not sample["mask"].any() and sample["label"] == 1


def test_a_stack_of_tiff_pages_is_refused_and_a_preview_is_not(tmp_path):
    large, small = (Image.fromarray(np.full((side, side), value, np.uint8)) for side, value in ((8, 100), (4, 200)))
    large.save(tmp_path / "preview.tif", save_all=True, append_images=[small])
    assert data.read_image(tmp_path / "preview.tif").shape == (3, 8, 8)
    assert data.read_image(tmp_path / "preview.tif").max() == pytest.approx(100 / 255)
    large.save(tmp_path / "stack.tif", save_all=True, append_images=[large, small])
    with pytest.raises(data.DataError, match=r"stack\.tif: 3 pages in one TIFF, 2 of the same size; expected one"):
        data.read_image(tmp_path / "stack.tif")


def test_deep_grey_with_white_as_zero_is_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values = np.arange(16, dtype=np.uint16).reshape(4, 4)
    tifffile.imwrite(tmp_path / "white.tif", values, photometric="miniswhite")
    with pytest.raises(data.DataError, match=r"white\.tif: I;16.* stores white as zero"):
        data.read_image(tmp_path / "white.tif")
    tifffile.imwrite(tmp_path / "eight.tif", values.astype(np.uint8), photometric="miniswhite")
    assert data.read_image(tmp_path / "eight.tif")[0, 0, 0] == 1  # 0 is white, and Pillow turns 8 bits round

"""The same detectors on several backbones: shared features give what a detector computes alone, and what a border
does to the features of a constant image."""

import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import backbone_study
from diffad_utils.methods.anomalib_models import PaDiM, PatchCore
from diffad_utils.methods.invad.detector import InvAD
from diffad_utils.models.backbones import load_backbone

INVAD = {"grid": 4, "width": 32, "depth": 1, "num_heads": 2, "train_steps": 3}


@pytest.fixture(scope="module")
def train():
    index = data.load_index("textures", category="carpet")
    return data.ImageDataset(index[index["split"] == "train"].head(6), size=64)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("resnet-mini")


@pytest.mark.slow
def test_shared_features_give_what_each_detector_finds_alone(train, backbone):
    made = {
        "PatchCore": lambda: PatchCore(image_size=64, device="cpu", backbone="resnet-mini"),
        "PaDiM": lambda: PaDiM(image_size=64, device="cpu", backbone="resnet-mini", n_features=12),
        "InvAD": lambda: InvAD(image_size=64, device="cpu", backbone="resnet-mini", **INVAD),
    }
    batch = data.load_batch(train)
    found = backbone_study.detectors_on(
        backbone, train, batch["image"], batch["key"], {name: make() for name, make in made.items()}
    )
    assert list(found) == ["nearest patch", *made]
    for name, make in made.items():
        alone = make().fit(train).predict(batch["image"], batch["key"])
        torch.testing.assert_close(found[name].score, alone.score, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found[name].anomaly_map, alone.anomaly_map, rtol=1e-3, atol=1e-3)


def test_features_of_a_batch_are_computed_once(backbone):
    calls = []
    shared = backbone_study.SharedFeatures(backbone)
    handle = backbone.register_forward_hook(lambda *_: calls.append(1))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = shared.at((8, 16))(images), shared.at((4,))(images.clone())
    shared.at((8,))(images + 0.01)
    handle.remove()
    assert len(calls) == 2 and [f.shape[-1] for f in first] == [8, 4] and second[0].shape[-1] == 16
    assert shared.at((4, 8)).channels == backbone.channels[1:3]
    with pytest.raises(ValueError, match=r"strides \(2, 4, 8, 16\), asked for \[32\]"):
        shared.at((8, 32))


def test_nearest_patch_by_hand():
    """Two normal patches at 0 and 1, test patches at 0.25 and 3: distances 0.25 and 2."""
    train, test = torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.25, 3.0]]], [[[1.0, 0.0]]]])
    found = backbone_study.nearest_patch(train, test, (1, 2), share=1.0)
    assert found.score.tolist() == [2.0, 0.0]
    torch.testing.assert_close(found.anomaly_map[0], torch.tensor([[0.25, 2.0]]))
    one = backbone_study.nearest_patch(train, test, (1, 2), share=0.01, seed=1)  # one patch at least
    assert one.score.tolist() in ([3.0, 1.0], [2.0, 1.0])
    with pytest.raises(ValueError, match="above 0 and at most 1, got 1.5"):
        backbone_study.nearest_patch(train, test, (1, 2), share=1.5)


def test_only_padding_moves_the_features_of_a_constant_image(backbone):
    with_zeros = backbone_study.border_maps(backbone, 96)
    table = backbone_study.border_deviation(with_zeros).set_index("stride")
    assert list(table.index) == [2, 4, 8, 16] and with_zeros[8].shape == (12, 12)
    assert with_zeros[8][6, 6] == 0 and (table["largest"] > 0.05).all()
    reflected = load_backbone("resnet-mini", padding="reflect")
    mended = backbone_study.border_deviation(backbone_study.border_maps(reflected, 96)).set_index("stride")
    assert (mended["largest"] < table["largest"]).all() and mended.loc[2, "cells off"] == 0
    assert ((table["cells off"] >= 0) & (table["cells off"] + table["identical cells"] <= 1)).all()

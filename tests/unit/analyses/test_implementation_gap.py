"""C31's comparison: one encoder and one fine-tuned decoder on both sides, and the best setting of D3AD on its."""

import numpy as np
import pytest
import torch
from tasks import few_images

from diffad_utils.analyses import implementation_gap
from diffad_utils.analyses.detector_variants import Variants
from diffad_utils.methods.autoencoder import Autoencoder
from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.study import claims, verdicts

SMALL = {"image_size": 64, "device": "cpu", "train_steps": 2, "train_batch_size": 4, "warmup_steps": 1}


@pytest.fixture(scope="module")
def task():
    return few_images(train=12, good=3, anomalous=3)


@pytest.fixture(scope="module")
def variants(task):
    detector = D3AD(**SMALL, block_out_channels=(16, 16), k=3, holdout_fraction=0.2, adaptation_epochs=0)
    return Variants(detector.fit(task.train), task)


def test_only_the_decoder_is_trained(variants, task):
    tuned, before = implementation_gap.tuned_decoder(variants.detector, task.train, 2), variants.detector.vae_
    moved = {
        name.split(".")[0]
        for name, value in tuned.model_.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert moved == {"decoder", "post_quant_conv"}
    found = implementation_gap.reconstructed(variants, tuned, {}, task)[implementation_gap.AUTOENCODER]
    assert torch.allclose(found, tuned.decode(variants.detector.encode(task.images)), atol=1e-4)
    with pytest.raises(ValueError, match="with pretrained=False that is a random one"):
        Autoencoder(train_encoder=False, image_size=64, device="cpu").fit(task.train)


def test_the_gap_is_to_the_best_setting_and_is_what_the_claim_measures(task):
    values = {
        implementation_gap.AUTOENCODER: np.array([30.0, 31.0, 32.0]),
        "eta = 0": np.array([20.0, 21.0, 22.0]),
        "eta = 8": np.array([27.0, 28.0, 29.0]),
    }
    ((measure, draws),) = implementation_gap.gap(values, task).items()
    assert draws == pytest.approx(3.0)
    assert verdicts.variant_of(claims.published_claims().loc["C31"], measure) == "with changes of implementation only"


def test_all_changes_are_measured_on_the_same_images(variants, task):
    normal, hurt = (task.take(torch.nonzero(task.labels == label)[:, 0]) for label in (0, 1))
    without = Prediction(torch.arange(6.0))
    found = implementation_gap.measure(
        variants, without, normal, hurt, {"decoder_steps": 2, "guidance_weights": [0.0, 8.0]}
    )
    labels = [implementation_gap.AUTOENCODER, "eta = 0", "eta = 8", "eta = 8, 20 steps"]
    assert [list(part["label"]) for _, part in found.table.groupby("measure", sort=False)] == [labels] * 3
    assert set(found.cost["measure"]) == {"removal", "I-AUROC"}
    best = found.kept.set_index("label")["value"].drop(implementation_gap.AUTOENCODER).max()
    assert found.effect[implementation_gap.MEASURE][0] == pytest.approx(found.autoencoder - best)
    assert f"{best:.1f} dB" in found.in_words()

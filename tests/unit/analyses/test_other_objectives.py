"""C94's comparison: the same network and steps, ESM's objective in the place of the detector's own."""

import pytest
import torch

from diffad_utils import data, study
from diffad_utils.analyses import other_objectives, score_claims
from diffad_utils.analyses.small_networks import D3AD_NETWORK
from diffad_utils.analyses.task import Task
from diffad_utils.diffusion import NoiseSchedule, epsilon_loss, noisy_batch
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.esm.equations import esm_loss
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.models.unet import small_unet
from diffad_utils.study import claims, verdicts

SETTINGS = {
    "D3AD": D3AD.contract_settings | {"image_size": 64, "allow_mini": True, "device": "cpu"},
    "pixel DDPM": PixelDDPM.contract_settings | {"device": "cpu"},
}


@pytest.fixture(scope="module")
def task():
    index = data.load_index("textures", category="leather", train=12, test_good=3, test_anomalous=3)
    train, test = (data.ImageDataset(index[index["split"] == split], size=64) for split in ("train", "test"))
    return Task("textures/leather", train, test, torch.arange(6), data.load_batch(test), bootstrap_samples=20)


@pytest.fixture(scope="module")
def found(task):
    return other_objectives.compare(task, SETTINGS, task.trivial_baseline())


def test_training_begins_where_eq_10_is_the_plain_objective():
    """With sigma_t^2 = 1 - alpha_bar_t eq. 10 is the loss of the noise plus a constant."""
    schedule = NoiseSchedule.linear()
    network = small_unet(3, 16, (8, 8), seed=0, groups=8)
    streams = other_objectives.TwoStreams(network, schedule)
    drawn = noisy_batch(torch.randn(4, 3, 16, 16), schedule, 4, torch.Generator().manual_seed(0))
    eps, log_variance = streams.predict(drawn.x_t, drawn.t)
    alphas = schedule.alphas_cumprod[drawn.t]
    constant = (1 - alphas).log().mean()
    plain = epsilon_loss(lambda x, t: network(x, t, return_dict=False)[0], drawn)
    assert float(esm_loss(eps, drawn.noise, log_variance, alphas).detach()) == pytest.approx(
        float((plain + constant).detach()), rel=1e-4
    )
    assert streams.mean_stream is network and streams.variance_stream is not network


def test_both_objectives_train_the_same_network_as_long(task):
    for name, (own, by_eq_10) in other_objectives.PAIRS.items():
        first, second = (cls(**SETTINGS[name]).fit(task.train) for cls in (own, by_eq_10))
        assert len(first.training_log_.losses) == len(second.training_log_.losses)
        before, after = (d.unet_.state_dict() for d in (first, second))
        assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)


def test_the_effect_is_the_difference_that_the_claim_names(found):
    value = found.table.set_index(["method", "objective"])["I-AUROC"]
    for name, effect in found.effects.items():
        gap = value[name, other_objectives.BY_EQ_10] - value[name, other_objectives.OWN]
        assert effect.effect == pytest.approx(gap) and effect.n == 6
    judged = found._replace(not_judged=[]).judged()
    rows = score_claims.esm_findings(judged, "")
    assert len(rows) == 2 and {row["claim_id"] for row in rows} == {"C94"}
    claim = claims.published_claims().loc["C94"]
    assert {verdicts.variant_of(claim, row["measure"]) for row in rows} == {"ESM's objective minus the method's own"}


def test_a_detector_that_finds_nothing_is_not_judged(found):
    left_out = found._replace(not_judged=["D3AD"])
    assert list(left_out.judged()) == ["C94 pixel DDPM"]
    assert "D3AD: the I-AUROC by eq. 10" in left_out.in_words() and "the claim is not judged" in left_out.in_words()


def test_settings_are_fields_of_the_detectors():
    parameters = {"objective_steps": 3, "seed": 1, "vae": "sd-mini", "backbone": "resnet-mini", "image_size": 64}
    made = other_objectives.settings(parameters, "cpu")
    for name, own in made.items():
        detector = other_objectives.PAIRS[name][1](**own)
        assert (detector.train_steps, detector.seed) == (3, 1)


def test_the_small_network_is_that_of_notebook_06():
    defaults = study.notebook_parameters(study.repository() / "notebooks" / "06_d3ad.ipynb")
    same = {name: tuple(v) if isinstance(v := defaults[name], list) else v for name in D3AD_NETWORK}
    assert same == D3AD_NETWORK

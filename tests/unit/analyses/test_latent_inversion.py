"""Inversion with any network: a Gaussian whose score is known, and what does not depend on the batch."""

import pytest
import torch

from diffad_utils.analyses.latent_inversion import invert_and_score, truncated
from diffad_utils.diffusion import NoiseSchedule

SCHEDULE = NoiseSchedule.linear()


def gaussian_eps(x, t):
    """The best prediction of the noise where clean samples are standard normal: sqrt(1 - alpha_bar) x."""
    return (1 - SCHEDULE.alphas_cumprod[t]).sqrt().reshape(-1, 1, 1, 1).to(x) * x


@pytest.fixture(scope="module")
def states():
    generator = torch.Generator().manual_seed(0)
    normal, test = (torch.randn(n, 3, 8, 8, generator=generator) for n in (12, 10))
    test[5:, :, 2:4, 2:4] += 4.0
    return test, normal


def test_what_does_not_fit_the_prior_scores_higher(states):
    found = invert_and_score(gaussian_eps, *states, SCHEDULE, (16, 16), num_steps=20)
    for prediction in found:
        assert prediction.score[5:].min() > prediction.score[:5].max()
        assert prediction.anomaly_map.shape == (10, 16, 16)
        inside, outside = prediction.anomaly_map[5:, 5:7, 5:7].mean(), prediction.anomaly_map[5:, 10:, 10:].mean()
        assert inside > 2 * outside
    assert (found.inverted.nfe, found.no_diffusion.nfe) == (20, 0)


def test_the_last_latent_of_the_reference_spacing_is_the_predicted_noise(states):
    """For this network every move scales x, so both the score's order and the map's shape are those of the states."""
    test, normal = states
    plain = invert_and_score(lambda x, t: x, test, normal, SCHEDULE, (8, 8), num_steps=2).inverted
    ratio = plain.anomaly_map / test.square().sum(dim=1).sqrt()
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)


def test_an_image_does_not_depend_on_the_others(states):
    test, normal = states
    together = invert_and_score(gaussian_eps, test, normal, SCHEDULE, (8, 8), batch_size=4)
    alone = invert_and_score(gaussian_eps, test[3:4], normal, SCHEDULE, (8, 8))
    for a, b in zip(together, alone, strict=True):
        assert torch.allclose(a.score[3:4], b.score, atol=1e-5)


def test_wrong_input_is_refused(states):
    test, normal = states
    with pytest.raises(ValueError, match="one shape"):
        invert_and_score(gaussian_eps, test, normal[:, :2], SCHEDULE, (8, 8))
    with pytest.raises(ValueError, match="at least 2 held-out"):
        invert_and_score(gaussian_eps, test, normal[:1], SCHEDULE, (8, 8))
    with pytest.raises(ValueError, match="2 to 1000"):
        truncated(SCHEDULE, 1001)
    assert truncated(SCHEDULE, 400).T == 400

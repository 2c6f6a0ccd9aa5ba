"""Inversion with another detector's network: a Gaussian whose score is known, the control, and fitted networks."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from diffad_utils import data
from diffad_utils.diffusion import NoiseSchedule
from diffad_utils.methods.base import Detector
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.d3ad.inversion import D3ADInversion
from diffad_utils.methods.invad.score import channel_norm
from diffad_utils.methods.inversion import Inversion
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.methods.pixel_ddpm_inversion import PixelDDPMInversion

SCHEDULE = NoiseSchedule.linear()


@dataclass(kw_only=True)
class GaussianNetwork(Detector):
    """Knows that clean samples are standard normal: the noise is best predicted by sqrt(1 - alpha_bar) x."""

    name: ClassVar[str] = "gaussian"
    family: ClassVar[str] = "diffusion"

    def fit(self, train_dataset):
        return self

    def predict(self, images, keys=None):
        raise NotImplementedError

    def _state(self):
        return {}, {}

    def _set_state(self, tensors, values):
        pass


@dataclass(kw_only=True)
class GaussianInversion(Inversion):
    name: ClassVar[str] = "gaussian_inversion"
    NETWORK: ClassVar[type[Detector]] = GaussianNetwork
    NETWORKS = ()

    image_size: int = 8

    def encode(self, x):
        return 8 * (x - 0.5)

    def eps_fn(self, keys, count):
        return lambda x, t: (1 - SCHEDULE.alphas_cumprod[t]).sqrt().reshape(-1, 1, 1, 1).to(x) * x

    @property
    def schedule(self):
        return SCHEDULE


class Images(torch.utils.data.Dataset):
    """Images whose states are standard normal, as a training set."""

    def __init__(self, images):
        self.images = images
        self.index = data.load_index("textures", category="carpet").iloc[:0].reindex(range(len(images)))
        self.index["label"] = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        mask = torch.zeros(8, 8, dtype=torch.bool)
        return {"image": self.images[i], "mask": mask, "label": 0, "key": str(i)}


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(0)
    train, test = ((0.5 + torch.randn(n, 3, 8, 8, generator=generator) / 8).clamp(0, 1) for n in (40, 10))
    test[5:, :, 2:4, 2:4] = 1.0
    return Images(train), test


@pytest.fixture(scope="module")
def fitted(samples):
    return GaussianInversion(holdout_fraction=0.5, inversion_steps=20).fit(samples[0])


@pytest.mark.parametrize("steps", [20, 0])
def test_what_does_not_fit_the_prior_scores_higher(fitted, samples, steps):
    found = fitted.with_settings(inversion_steps=steps).predict(samples[1])
    assert found.score[5:].min() > found.score[:5].max()
    inside, outside = found.anomaly_map[5:, 2:4, 2:4].mean(), found.anomaly_map[5:, 5:, 5:].mean()
    assert inside > 1.5 * outside
    assert found.nfe == steps


def test_the_control_is_the_standardised_state(fitted, samples):
    control, states = fitted.with_settings(inversion_steps=0), fitted.encode(samples[1])
    mean, std = (getattr(fitted.held_out_states_, of)(dim=(0, 2, 3), keepdim=True) for of in ("mean", "std"))
    assert torch.allclose(control.predict(samples[1]).anomaly_map, channel_norm((states - mean) / std), atol=1e-5)


def test_this_network_scales_each_state(fitted, samples):
    """Every move of this network scales x, so the map's shape is that of the state's norms."""
    ratio = fitted.predict(samples[1]).anomaly_map / channel_norm(fitted.encode(samples[1]))
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4)


def test_calibrated_on_held_out_normal_images(fitted):
    """Two parts, each with mean 0 and standard deviation 1 over the 20 held-out images."""
    scores = fitted.predict(fitted.held_out_states_ / 8 + 0.5).score
    assert len(scores) == 20 and abs(float(scores.mean())) < 1e-3 and 0.5 < float(scores.std()) <= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spacing": "even"}, "spacing must be one of"),
        ({"inversion_steps": -1}, "num_steps must be"),
        ({"inversion_steps": 1}, "num_steps must be"),
        ({"settings": {"image_size": 16}}, "image_size"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GaussianInversion(**settings)


def test_settings_of_the_network_are_checked_by_it():
    with pytest.raises(ValueError, match="noise must be one of"):
        PixelDDPMInversion(settings={"noise": "perlin"})


@pytest.fixture(scope="module")
def texture():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=32)
    return train, data.load_batch(data.ImageDataset(index[index["split"] == "test"].head(3), size=32))


def test_a_fitted_network_is_taken_as_it_is(texture):
    """With the network of a fitted detector, or with the same settings: the same inversion."""
    train, batch = texture
    network = PixelDDPM(**PixelDDPM.contract_settings, device="cpu").fit(train)
    before = {name: value.clone() for name, value in network.unet_.state_dict().items()}
    of = PixelDDPMInversion.of(network, train)
    anew = PixelDDPMInversion(**PixelDDPMInversion.contract_settings, device="cpu").fit(train)
    assert of.network_ is network and of.image_size == 32
    assert torch.equal(of.predict(batch["image"]).score, anew.predict(batch["image"]).score)
    assert all(torch.equal(before[name], value) for name, value in network.unet_.state_dict().items())
    with pytest.raises(ValueError, match="takes the network of a D3AD, got a PixelDDPM"):
        D3ADInversion().fit(train, network=network)


def test_with_settings_needs_the_held_out_states(texture, tmp_path):
    inversion = PixelDDPMInversion(**PixelDDPMInversion.contract_settings, device="cpu").fit(texture[0])
    inversion.save(tmp_path)
    with pytest.raises(RuntimeError, match="held-out states"):
        PixelDDPMInversion.load(tmp_path, device="cpu").with_settings(inversion_steps=0)


def test_d3ad_ends_at_the_last_timestep_that_it_was_trained_on():
    inversion = D3ADInversion(settings={"max_train_timestep": 400})
    inversion.network_ = D3AD(max_train_timestep=400)
    assert inversion.schedule.T == 400
    assert torch.equal(inversion.schedule.betas, inversion.network_.schedule.betas[:400])
    with pytest.raises(ValueError, match="2 to 1000"):
        SCHEDULE.first(1001)

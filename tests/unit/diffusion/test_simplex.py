"""Simplex noise: mean, variance and spectrum, independence and repeatability, and the detectors that take it."""

import pytest
import torch

from diffad_utils import data
from diffad_utils.diffusion import NoiseSchedule, draw_noise, image_noise, noisy_batch, simplex_noise
from diffad_utils.methods.d3ad import DDAD
from diffad_utils.methods.pixel_ddpm import PixelDDPM


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("side", "settings"), [(32, {}), (16, {}), (32, {"octaves": 1, "period": 8})])
def test_mean_and_variance_at_every_position(side, settings):
    """3000 fields: the standard error of a position's mean is 0.018, that of its variance at most 0.026."""
    noise = simplex_noise((3000, side, side), seeded(), **settings)
    assert noise.dtype == torch.float32
    assert noise.mean(dim=0).abs().max() < 0.09  # 5 standard errors
    assert (noise.square().mean(dim=0) - 1).abs().max() < 0.13
    assert abs(float(noise.square().mean()) - 1) < 0.02


def test_channels_and_images_are_independent():
    noise = simplex_noise((2000, 3, 16, 16), seeded())
    products = [(noise[:, 0] * noise[:, 1]).mean(dim=0), (noise[:-1, 0] * noise[1:, 0]).mean(dim=0)]
    assert all(float(product.abs().max()) < 0.12 for product in products)


def low_share(noise: torch.Tensor) -> float:
    """Share of the power at frequencies up to 1/16 a pixel, but for frequency 0, of fields [N, S, S]."""
    power = torch.fft.fft2(noise).abs().square().mean(dim=0)
    frequencies = torch.fft.fftfreq(noise.shape[-1])
    radius = (frequencies[:, None].square() + frequencies.square()).sqrt()
    return float(power[(radius > 0) & (radius <= 1 / 16)].sum() / power.sum())


def test_spectrum_against_gaussian_noise():
    """Gaussian noise is white: its share is that of the frequencies, 48 of 4096. Simplex noise falls with frequency."""
    gaussian, simplex = (draw_noise((100, 64, 64), seeded(), kind) for kind in ("gaussian", "simplex"))
    assert low_share(gaussian) == pytest.approx(48 / 4096, rel=0.1)
    assert low_share(simplex) > 0.3
    shares = [low_share(simplex_noise((100, 64, 64), seeded(), decay=decay)) for decay in (0.5, 0.8, 1.2)]
    assert shares == sorted(shares, reverse=True)


def test_neighbours_are_alike_and_no_corner_is_special():
    noise = simplex_noise((2000, 32, 32), seeded())
    assert float((noise[:, :, 1:] * noise[:, :, :-1]).mean()) > 0.4
    assert abs(float(noise[:, 0, 0].var()) - 1) < 0.15


def test_repeatable_by_seed_and_by_key():
    assert torch.equal(simplex_noise((2, 16, 16), seeded(3)), simplex_noise((2, 16, 16), seeded(3)))
    assert not torch.equal(simplex_noise((2, 16, 16), seeded(3)), simplex_noise((2, 16, 16), seeded(4)))
    both, alone = (image_noise((3, 16, 16), 0, keys, "simplex") for keys in (["a", "b"], ["b"]))
    assert torch.equal(both[1], alone[0])


def test_gaussian_noise_is_what_it_was():
    assert torch.equal(draw_noise((2, 3), seeded()), torch.randn(2, 3, generator=seeded()))
    batch = noisy_batch(torch.zeros(5, 1, 16, 16), NoiseSchedule.linear(), 4, seeded(), kind="simplex")
    assert float((batch.noise[..., 1:] * batch.noise[..., :-1]).mean()) > 0.2


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((16,), {}, r"\[..., H, W\]"),
        ((3, 16, 1), {}, "at least 2"),
        ((16, 16), {"period": 1}, "period >= 2"),
        ((16, 16), {"octaves": 0}, "octaves >= 1"),
        ((16, 16), {"decay": 0}, "decay > 0"),
    ],
)
def test_bad_settings_are_refused(shape, settings, message):
    with pytest.raises(ValueError, match=message):
        simplex_noise(shape, seeded(), **settings)


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="got 'perlin'"):
        draw_noise((2, 16, 16), seeded(), "perlin")
    for detector in (PixelDDPM, DDAD):
        with pytest.raises(ValueError, match="noise must be one of"):
            detector(noise="perlin")


@pytest.fixture(scope="module")
def samples():
    index = data.load_index("textures", category="carpet")
    train = data.ImageDataset(index[index["split"] == "train"].head(12), size=64)
    return train, data.load_batch(data.ImageDataset(index[index["split"] == "test"].head(3), size=64))


@pytest.mark.parametrize(
    "make",
    [
        lambda noise: PixelDDPM(**PixelDDPM.contract_settings, device="cpu", noise=noise),
        lambda noise: DDAD(
            **DDAD.contract_settings | {"image_size": 64, "space": "latent", "allow_mini": True},
            device="cpu",
            noise=noise,
        ),
    ],
    ids=["pixel_ddpm", "latent"],
)
def test_a_detector_trains_and_predicts_with_it(make, samples, tmp_path):
    train, batch = samples
    gaussian, simplex = (make(noise).fit(train) for noise in ("gaussian", "simplex"))
    assert gaussian.training_log_.losses != simplex.training_log_.losses
    found = simplex.predict(batch["image"], batch["key"])
    assert not torch.equal(found.score, gaussian.predict(batch["image"], batch["key"]).score)
    simplex.check_batch_independence(batch, found)
    simplex.save(tmp_path)
    loaded = type(simplex).load(tmp_path, device="cpu")
    assert loaded.noise == "simplex"
    assert torch.allclose(loaded.predict(batch["image"], batch["key"]).score, found.score, atol=1e-5)

"""What reconstructions do to defects and to spatial frequencies, on maps for which theory gives the answer."""

import math

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import j0
from sklearn.decomposition import PCA
from torchvision.transforms.functional import gaussian_blur

from diffad_utils import data
from diffad_utils.analyses import frequencies, survival
from diffad_utils.metrics import bootstrap
from diffad_utils.metrics.counterfactual import absolute_error, defect_survival, masked_mean, moments, squared_error
from diffad_utils.models.autoencoders import decode, encode, properties, reconstruct

SIZE = 64


def everywhere(maps):
    return moments(maps, torch.ones_like(maps, dtype=torch.bool))


def noise(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def response(height, width, sigma):
    """Of a Gaussian filter, at each frequency of the DFT."""
    return torch.exp(-2 * (math.pi * sigma * frequencies._radius(height, width)) ** 2)


def periodic_blur(images, sigma):
    return torch.fft.ifft2(torch.fft.fft2(images.double()) * response(*images.shape[-2:], sigma)).real


def blob(s, size=SIZE):
    y, x = torch.meshgrid(*[torch.arange(size) - size / 2] * 2, indexing="ij")
    return torch.exp(-(x**2 + y**2) / (2 * s**2)).expand(1, 3, size, size)


def blur(images, keys=None, sigma=2.0):
    return gaussian_blur(images, kernel_size=2 * math.ceil(5 * sigma) + 1, sigma=sigma)


def identity(images, keys=None):
    return images


# -- defect survival ---------------------------------------------------------------------------------------------------


def test_survival_of_the_identity_is_1_and_of_a_constant_0():
    normal, anomalous = torch.rand(4, 3, 32, 48), torch.rand(4, 3, 32, 48)
    grey = torch.full_like(normal, 0.5)
    assert torch.allclose(defect_survival(anomalous, normal, anomalous, normal), torch.ones(4).double())
    assert torch.equal(defect_survival(anomalous, normal, grey, grey), torch.zeros(4).double())
    dimmed = defect_survival(anomalous, normal, 0.3 * anomalous, 0.3 * normal)
    assert torch.allclose(dimmed, torch.full((4,), 0.3).double())


@pytest.mark.parametrize("s, sigma", [(2.0, 1.0), (3.0, 2.0), (2.5, 5.0), (5.0, 3.0)])
def test_survival_of_a_gaussian_spot_under_a_gaussian_blur(s, sigma):
    """A spot of width s after a blur of width sigma: survival = 1 / (1 + sigma² / (2 s²)), two Gaussian integrals."""
    twin = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    image = twin + 0.2 * blob(s, 96)
    measured = defect_survival(image, twin, blur(image, sigma=sigma), blur(twin, sigma=sigma))
    assert measured.item() == pytest.approx(1 / (1 + sigma**2 / (2 * s**2)), rel=0.01)


@given(st.integers(0, 10**6), st.floats(0.3, 6.0))
@settings(max_examples=25, deadline=None)
def test_survival_under_a_filter_is_its_mean_response_over_the_energy_of_the_defect(seed, sigma):
    normal, anomalous = noise(2, 3, 24, 32, seed=seed), noise(2, 3, 24, 32, seed=seed + 1)
    energy = torch.fft.fft2(anomalous - normal).abs().square()
    theory = (energy * response(24, 32, sigma)).sum(dim=(1, 2, 3)) / energy.sum(dim=(1, 2, 3))
    measured = defect_survival(anomalous, normal, periodic_blur(anomalous, sigma), periodic_blur(normal, sigma))
    assert torch.allclose(measured, theory, rtol=1e-9)


def test_survival_refuses_images_without_a_defect_and_shapes_that_differ():
    images = torch.rand(3, 3, 16, 16)
    twins = images.clone()
    twins[1] += 0.1
    with pytest.raises(ValueError, match=r"\[0, 2\] are the same as their twins"):
        defect_survival(images, twins, images, twins)
    with pytest.raises(ValueError, match="same shape"):
        defect_survival(images, twins, images, twins[:2])


@pytest.fixture(scope="module")
def textures():
    index = data.load_index("textures")
    test = index[(index["split"] == "test") & index["category"].isin(["carpet", "wood"])]
    chosen = test.groupby(["category", "label"], group_keys=False).head(6)
    return data.ImageDataset(chosen, size=SIZE)


def test_survival_table_of_known_maps(textures):
    exact = survival.survival_table(identity, textures, batch_size=5)
    anomalous = textures.index[textures.index["label"] == 1]
    assert list(exact["category"]) == list(anomalous["category"]) and list(exact["defect"]) == list(anomalous["defect"])
    assert len(exact) == 12 and (exact["survival"] - 1).abs().max() < 1e-9
    assert (exact[["vae_error", "error_inside", "error_outside"]] == 0).all(axis=None)
    batch = data.load_batch(data.ImageDataset(anomalous, size=SIZE))
    assert list(exact["key"]) == batch["key"]
    assert np.allclose(exact["area"], batch["mask"].float().mean(dim=(1, 2)))
    for i in (0, 7):
        difference = (batch["image"] - batch["twin"])[i][:, batch["mask"][i]]
        assert exact["contrast"][i] == pytest.approx(difference.square().mean().sqrt().item(), rel=1e-5)

    grey = survival.survival_table(lambda images, keys: torch.full_like(images, 0.5), textures)
    assert (grey["survival"] == 0).all()
    floor = (batch["twin"][3] - 0.5)[:, batch["mask"][3]].square().mean().sqrt().item()
    assert grey["vae_error"][3] == pytest.approx(floor, rel=1e-5)


def test_survival_table_of_a_blur_is_what_theory_gives_for_each_defect(textures):
    sigma = 1.5
    table = survival.survival_table(lambda images, keys: periodic_blur(images, sigma).float(), textures)
    batch = data.load_batch(data.ImageDataset(textures.index[textures.index["label"] == 1], size=SIZE))
    energy = torch.fft.fft2((batch["image"] - batch["twin"]).double()).abs().square()
    theory = (energy * response(SIZE, SIZE, sigma)).sum(dim=(1, 2, 3)) / energy.sum(dim=(1, 2, 3))
    assert np.allclose(table["survival"], theory, rtol=0.01)
    assert table["survival"].between(0.05, 0.95).any()


def test_survival_table_row_by_row_and_under_equal_keys(textures):
    seen = []

    def noted(images, keys):
        seen.append(list(keys))
        return blur(images)

    together = survival.survival_table(noted, textures, batch_size=16)
    assert seen[0] == seen[1] == list(together["key"])
    anomalous = textures.index[textures.index["label"] == 1]
    alone = data.ImageDataset(anomalous.iloc[[4]], size=SIZE)
    columns = ["area", "contrast", "survival", "vae_error", "error_inside", "error_outside"]
    row = survival.survival_table(blur, alone)[columns].iloc[0].astype(float)
    assert np.allclose(row, together[columns].iloc[4].astype(float), rtol=1e-5)
    x = data.load_batch(alone)
    same_category = anomalous[anomalous["category"] == together["category"][4]]
    twins = data.load_batch(data.ImageDataset(same_category, size=SIZE))["twin"]
    inside = moments(absolute_error(x["image"], blur(x["image"])), x["mask"])
    d_prime = survival.d_prime(inside, everywhere(absolute_error(twins, blur(twins))))
    assert together["detectability"][4] == pytest.approx(d_prime.item(), rel=1e-4)
    normal = data.ImageDataset(textures.index[textures.index["label"] == 0], size=SIZE)
    with pytest.raises(ValueError, match="no anomalous image"):
        survival.survival_table(identity, normal)


# -- spectra -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [True, False])
def test_spectrum_of_white_noise_is_flat_and_equals_its_variance(window):
    spectrum = frequencies.power_spectrum(0.3 * noise(40, 2, 48, 64), window)
    power = spectrum.power.mean(dim=(0, 1))
    assert power[3:-2] == pytest.approx(np.full(len(power) - 5, 0.09), rel=0.12)
    assert power[3:].mean().item() == pytest.approx(0.09, rel=0.02)
    assert spectrum.energy.sum(dim=2).mean().item() == pytest.approx(0.09, rel=0.02)


@pytest.mark.parametrize("cycles", [(0, 12), (16, 0), (9, 12)])
def test_spectrum_of_a_wave_peaks_at_its_frequency_with_half_the_square_of_its_amplitude(cycles):
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(2 * SIZE), indexing="ij")
    wave = 0.5 + 0.2 * torch.cos(2 * math.pi * (cycles[0] * y / SIZE + cycles[1] * x / SIZE))
    spectrum = frequencies.power_spectrum(wave[None, None])
    peak = spectrum.energy[0, 0, 3:].argmax() + 3
    assert spectrum.frequency[peak].item() == pytest.approx(math.hypot(*cycles) / SIZE, abs=0.5 / SIZE)
    near = (spectrum.frequency - math.hypot(*cycles) / SIZE).abs() < 3 / SIZE
    assert spectrum.energy[0, 0, near].sum().item() == pytest.approx(0.02, rel=0.01)
    assert spectrum.energy[0, 0, 0].item() == pytest.approx(0.25, rel=0.01)


@given(st.integers(0, 10**6), st.integers(5, 33), st.integers(5, 33))
@settings(max_examples=30, deadline=None)
def test_energy_adds_up_to_the_mean_square(seed, height, width):
    images = noise(2, 3, height, width, seed=seed) + 0.4
    spectrum = frequencies.power_spectrum(images, window=False)
    square = images.square().mean(dim=(2, 3))
    assert torch.allclose(spectrum.energy.sum(dim=2), square)
    assert torch.allclose(frequencies.band_energy(images, window=False).sum(dim=1), square.mean(dim=1))
    windowed = frequencies.band_energy(images, (0, math.inf))[:, 0]
    assert torch.allclose(windowed, frequencies.band_energy(images).sum(dim=1))
    assert torch.allclose(frequencies.band_energy(images[1:]), frequencies.band_energy(images)[1:])


def test_the_window_keeps_the_borders_out_of_the_high_frequencies():
    ramp = torch.linspace(0, 1, SIZE).expand(1, 1, SIZE, SIZE)
    high = [frequencies.band_energy(ramp, (1 / 8, math.inf), window).item() for window in (True, False)]
    assert high[0] < 1e-4 * high[1]


def test_bands_take_what_lies_in_them_and_refuse_edges_that_do_not_ascend():
    x = torch.arange(SIZE)
    waves = torch.stack([torch.cos(2 * math.pi * cycles * x / SIZE).expand(3, SIZE, SIZE) for cycles in (2, 6, 12, 24)])
    assert torch.allclose(frequencies.band_energy(waves, window=False), 0.5 * torch.eye(4).double(), atol=1e-9)
    edge = torch.cos(2 * math.pi * x / 16).expand(1, 1, SIZE, SIZE)  # exactly 1/16: the lower edge belongs to the band
    assert frequencies.band_energy(edge, window=False)[0].argmax() == 1
    for bands in ((0.1,), (0.2, 0.1), (0.1, 0.1)):
        with pytest.raises(ValueError, match="ascending"):
            frequencies.band_energy(waves, bands)


# -- transfer ----------------------------------------------------------------------------------------------------------


def test_transfer_of_the_identity_and_of_a_constant():
    x = noise(2, 3, 32, 48)
    same = frequencies.transfer(x, x)
    assert torch.allclose(same.amplitude, torch.ones_like(same.amplitude))
    assert torch.allclose(same.gain, torch.ones_like(same.gain))
    grey = frequencies.transfer(x, torch.full_like(x, 0.5))
    assert grey.amplitude[..., 1:].abs().max() < 1e-9 and grey.gain[..., 1:].abs().max() < 1e-9
    assert frequencies.transfer(torch.full_like(x, 0.5), x).gain[..., 1:].isnan().all()
    with pytest.raises(ValueError, match="same shape"):
        frequencies.transfer(x, x[..., :16])


@pytest.mark.parametrize("window, tolerance", [(False, 0.015), (True, 0.05)])
def test_transfer_of_a_gaussian_blur(window, tolerance):
    sigma, x = 1.2, noise(60, 1, SIZE, SIZE)
    result = frequencies.transfer(x, periodic_blur(x, sigma), window)
    theory = torch.exp(-2 * (math.pi * sigma * result.frequency) ** 2)
    seen = (theory > 0.05) & (result.frequency >= 3 / SIZE)
    for values in (result.amplitude, result.gain):
        assert torch.allclose(values.mean(dim=(0, 1))[seen], theory[seen], rtol=tolerance, atol=0.01)


def test_transfer_of_additive_noise():
    """It adds to the amplitude, by sqrt(1 + noise / signal), and leaves the gain at 1."""
    x = noise(40, 2, SIZE, SIZE)
    result = frequencies.transfer(x, x + noise(40, 2, SIZE, SIZE, seed=1, scale=0.5))
    assert result.amplitude.mean(dim=(0, 1))[6:-2] == pytest.approx(math.sqrt(1.25), rel=0.04)
    assert result.amplitude[..., 6:-2].mean().item() == pytest.approx(math.sqrt(1.25), rel=0.005)
    assert result.gain.mean(dim=(0, 1))[6:-2] == pytest.approx(1, abs=0.06)
    assert result.gain[..., 6:-2].mean().item() == pytest.approx(1, abs=0.005)


def test_transfer_of_a_shift():
    """It leaves the amplitude at 1; the gain is the mean of cos(2 pi f.s) over a ring, about J0(2 pi f |s|)."""
    x = noise(100, 1, SIZE, SIZE)
    result = frequencies.transfer(x, x.roll(3, dims=3), window=False)
    assert torch.allclose(result.amplitude, torch.ones_like(result.amplitude))
    cosine = torch.cos(2 * math.pi * 3 * torch.fft.fftfreq(SIZE, dtype=torch.float64)).expand(SIZE, SIZE)
    ring = (frequencies._radius(SIZE, SIZE) * SIZE).round().long()
    lattice = torch.stack([cosine[ring == k].mean() for k in range(len(result.frequency))])
    gain = result.gain.mean(dim=(0, 1))
    assert (gain - lattice)[4:].abs().max() < 0.03
    bessel = torch.from_numpy(j0(2 * math.pi * 3 * result.frequency.numpy()))
    assert (gain - bessel)[result.frequency <= 0.5].abs().mean() < 0.03
    windowed = frequencies.transfer(x, x.roll(3, dims=3)).amplitude
    assert windowed[..., 6:-2].mean().item() == pytest.approx(1, abs=0.01)


# -- repair, sharpness, JPEG -------------------------------------------------------------------------------------------


def test_recovered_energy():
    x, error = noise(3, 3, 32, 32), noise(3, 3, 32, 32, seed=1)
    for left, share in ((0.0, 1.0), (1.0, 0.0), (0.5, 0.75), (2.0, -3.0)):
        recovered = frequencies.recovered_energy(x, x + error, x + left * error)
        assert torch.allclose(recovered, torch.full((3, 4), share).double())
    blurred = periodic_blur(error, 3.0)  # only the lowest band is repaired
    recovered = frequencies.recovered_energy(x, x + error, x + error - blurred, window=False).mean(dim=0)
    assert recovered[0] > 0.9 and 0 < recovered[2] < 0.03 and recovered[3].abs() < 1e-4
    assert frequencies.recovered_energy(x, x, x + error).isnan().all()


def test_jpeg_loses_more_at_lower_quality(textures):
    images = torch.stack([textures[i]["image"] for i in range(2)])
    errors = [squared_error(images, frequencies.jpeg(images, quality)).mean() for quality in (95, 60, 10)]
    assert 0 < errors[0] < errors[1] < errors[2] and frequencies.jpeg(images, 60).shape == images.shape


# -- by place ----------------------------------------------------------------------------------------------------------


def test_errors_inside_and_outside_a_mask():
    x, x_hat = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, :2, :2] = mask[0, 2, 2] = mask[0, 6:, 6:] = True  # two regions: 4 + 1 touching at a corner, and 4
    x_hat[0, :, :2, :2], x_hat[0, :, 2, 2], x_hat[0, :, 6:, 6:], x_hat[0, :, 0, 7] = 0.1, 0.6, -0.3, 1.0
    absolute, squared = absolute_error(x, x_hat), squared_error(x, x_hat)
    assert absolute.shape == (2, 8, 8)
    assert masked_mean(absolute, mask)[0].item() == pytest.approx((4 * 0.1 + 0.6 + 4 * 0.3) / 9)
    assert masked_mean(squared, ~mask)[0].item() == pytest.approx(1 / 55)
    assert masked_mean(absolute, mask)[1].isnan() and masked_mean(absolute, ~mask)[1] == 0
    with pytest.raises(ValueError, match="same shape"):
        masked_mean(absolute, mask[:1])


def test_detectability_of_known_distributions():
    masks = torch.zeros(2, 200, 200, dtype=torch.bool)
    masks[:, :100] = True
    residuals, normal = 1 + noise(2, 200, 200), noise(3, 200, 200, seed=1)
    residuals[1] = 3 + 2 * (residuals[1] - 1)
    residuals[:, 100:] = 50  # outside the mask does not count
    d_prime = survival.d_prime(moments(residuals, masks), everywhere(normal))
    assert d_prime.tolist() == pytest.approx([1.0, 3 / math.sqrt(2.5)], abs=0.03)
    assert survival.d_prime(moments(normal[:2], masks), everywhere(normal)).abs().max() < 0.03
    assert torch.allclose(survival.d_prime(moments(residuals[1:], masks[1:]), everywhere(normal)), d_prime[1:])
    assert survival.d_prime(moments(residuals, torch.zeros_like(masks)), everywhere(normal)).isnan().all()


def test_mean_interval():
    values = noise(400, 2).numpy() + np.array([0.0, 1.0])
    interval = bootstrap.mean_interval(values)
    assert np.allclose(interval.mean, values.mean(axis=0))
    assert np.allclose((interval.high - interval.low) / 2, 1.96 / 20, rtol=0.12)
    assert interval.low[1] > 0.8 and interval.low[0] < 0 < interval.high[0]
    again = bootstrap.mean_interval(torch.from_numpy(values))
    assert all(np.array_equal(a, b) for a, b in zip(interval, again))
    with pytest.raises(ValueError, match="not finite"):
        bootstrap.mean_interval([1.0, np.nan, 2.0])


# -- the round trip ----------------------------------------------------------------------------------------------------


def kl(channels, **options):
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        latent_channels=channels,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        mid_block_add_attention=False,
        **options,
    ).eval()


def tiny(channels):
    torch.manual_seed(0)
    return AutoencoderTiny(
        latent_channels=channels,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).eval()


SD3 = dict(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False)


@pytest.mark.parametrize(
    "build, channels, options", [(kl, 4, {}), (kl, 16, SD3), (kl, 32, {}), (tiny, 4, {}), (tiny, 16, {})]
)
def test_round_trip(build, channels, options):
    vae = build(channels, **options)
    images = torch.rand(10, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = vae.encode(2 * images - 1)
        raw = raw.latent_dist.mode() if isinstance(vae, AutoencoderKL) else raw.latents
        expected = (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1)
        z = encode(vae, images)
    shift = vae.config.get("shift_factor") or 0
    assert torch.allclose(z, (raw - shift) * vae.config.scaling_factor, atol=1e-5)
    rebuilt = reconstruct(vae, images)
    assert rebuilt.shape == images.shape and rebuilt.dtype == torch.float32
    assert torch.allclose(rebuilt, expected, atol=1e-5)
    assert torch.allclose(reconstruct(vae, images[3:4]), rebuilt[3:4], atol=1e-5)
    known = properties(vae, 32)
    assert known["latent_shape"] == (vae.config.latent_channels, 8, 8) == (z.shape[1], z.shape[2], 8)
    assert known["downsampling"] == 4 and known["compression"] == pytest.approx(3 * 32 * 32 / (z.shape[1] * 64))
    with pytest.raises(ValueError, match="multiples of 4"):
        encode(vae, images[..., :30])


def test_decoding_is_differentiable_beyond_the_range_of_images():
    vae = kl(4)
    z = 100 * torch.randn(1, 4, 4, 4)
    z.requires_grad_()
    decode(vae, z).sum().backward()
    assert z.grad.abs().sum() > 0


# -- planted defects and gains -----------------------------------------------------------------------------------------


def test_planted_discs_have_the_area_and_contrast_asked_for_and_stay_where_they_are():
    images = torch.stack([torch.full((3, 64, 64), 0.3), torch.full((3, 64, 64), 0.7)])
    changed, mask = survival.plant(images, ["a", "b"], area=0.02, contrast=0.1)
    assert mask.double().mean(dim=(1, 2)).numpy() == pytest.approx([0.02, 0.02], rel=0.1)
    inside = (changed - images).mean(dim=1)[mask]
    assert inside.abs().max() == pytest.approx(0.1, abs=1e-6)
    assert (changed[0] >= images[0]).all() and (changed[1] <= images[1]).all()  # away from the ends of the range
    stronger = survival.plant(images, ["a", "b"], area=0.02, contrast=0.3)[1]
    assert torch.equal(stronger, mask) and not torch.equal(mask[0], mask[1])
    swapped = survival.plant(images.flip(0), ["b", "a"], area=0.02, contrast=0.1)
    assert torch.equal(swapped[0].flip(0), changed)
    for area in (1e-5, 0.9):
        with pytest.raises(ValueError, match="does not fit"):
            survival.plant(images, ["a", "b"], area, 0.1)


def test_planted_table_of_known_maps():
    images, keys = 0.3 + 0.1 * torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), ["a", "b", "c"]
    table = survival.planted_table(lambda x, k: 0.6 * x + 0.1, images, keys, [0.005, 0.05], [0.1, 0.2])
    assert len(table) == 12 and np.allclose(table["survival"], 0.6)
    assert np.allclose(table["contrast"], table["planted"], rtol=0.15)  # the edge is soft
    blurred = survival.planted_table(lambda x, k: blur(x, sigma=2.0), images, keys, [0.005, 0.05], [0.1, 0.2])
    means = blurred.groupby(["area", "planted"])["survival"].mean().to_numpy().reshape(2, 2)
    assert (means[1] > means[0] + 0.1).all() and np.allclose(
        means[:, 0], means[:, 1], atol=1e-3
    )  # a filter: size counts


def test_gain_table_of_a_residual_that_is_halved_in_one_band():
    x = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    columns = torch.arange(64)
    fine, coarse = (0.05 * torch.cos(2 * torch.pi * f * columns).expand(6, 3, 64, 64) for f in (24 / 64, 2 / 64))
    others = {"half": x + fine / 2 + coarse, "same": x + fine + coarse}
    table = frequencies.gain_table(x, others["same"], others, (0.0, 1 / 8, float("inf")), n=50)
    gain = table.set_index(["name", "band"])["gain"]
    assert gain["half", "above 0.125"] == pytest.approx(20 * np.log10(2), rel=1e-3)
    assert gain["half", "below 0.125"] == pytest.approx(0, abs=1e-3)
    assert gain["half", "all"] == pytest.approx(10 * np.log10(2 / 1.25), rel=1e-2)
    assert np.allclose(gain["same"], 0) and set(table["band"]) == {"below 0.125", "above 0.125", "all"}


def test_linear_bottleneck_is_scikit_learns_pca_of_the_patches():
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    patches = images.double().unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48).numpy()
    pca = PCA(5, svd_solver="full").fit(patches)
    expected = torch.from_numpy(pca.inverse_transform(pca.transform(patches))).reshape(6, 4, 4, 3, 4, 4)
    expected = expected.permute(0, 3, 1, 4, 2, 5).reshape(6, 3, 16, 16).float().clamp(0, 1)
    assert torch.allclose(frequencies.linear_bottleneck(images, 5, 4)(images), expected, atol=1e-6)


def test_linear_bottleneck_is_exact_with_all_channels_and_loses_what_it_leaves_out():
    images = 0.2 + 0.6 * torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(frequencies.linear_bottleneck(images, 12, 2)(images), images, atol=1e-6)
    errors = [
        (frequencies.linear_bottleneck(images, channels, 2)(images) - images).square().mean().item()
        for channels in (1, 6, 11)
    ]
    variance = images.var(dim=(0, 2, 3)).mean().item()
    assert errors == sorted(errors, reverse=True)
    assert errors[1] == pytest.approx(
        variance * 6 / 12, rel=0.1
    )  # white noise: a share of the variance for each component
    colours = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    flat = colours.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert torch.allclose(frequencies.linear_bottleneck(flat, 3, 4)(flat), flat, atol=1e-6)  # one colour a patch
    with pytest.raises(ValueError, match="from 1 to 12"):
        frequencies.linear_bottleneck(images, 13, 2)
    with pytest.raises(ValueError, match="multiples of 5"):
        frequencies.linear_bottleneck(images, 3, 5)

"""What remains of D3AD and DDAD without their diffusion model: the controls of "is it the diffusion?".

D3AD: the distance that chooses the step, alone (a nearest-neighbour detector), and the same map from Dec(Enc(x)), which
is T = 0. DDAD has neither a gate nor an autoencoder, and its map of the plain image is zero. Its control keeps the
features, maps and constants and replaces the network by the best *linear* denoiser of the noise level that DDAD starts
from (`wiener_filter`), which knows mean and spectrum of the normal training images and nothing else.

Used by notebook 06; entry points: `d3ad_controls`, `ddad_control`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffad_utils.methods.base import Prediction
from diffad_utils.methods.d3ad import D3AD, DDAD
from diffad_utils.methods.d3ad.maps import Maps, ddad_anomaly_map, image_score
from diffad_utils.methods.reconstruction import SMOOTHING
from diffad_utils.scoring import upsample_map

GATE = "nearest neighbours alone"
AUTOENCODER = "Dec(Enc(x)), T = 0"
LINEAR = "linear denoiser"


@torch.inference_mode()
def d3ad_controls(detector: D3AD, maps: Sequence[Maps], size: tuple[int, int]) -> dict[str, Prediction]:
    """D3AD's two controls from its own maps of the images, a batch each: by name, without network evaluations.

    `GATE`: the mean distance to the nearest training features as the score, no map. `AUTOENCODER`: eq. 9 with
    z_hat = z_0, so that only the feature distance of x and Dec(Enc(x)) is left. ``size`` : (H, W) of the maps.
    """
    gate = torch.cat([part.reconstruction.distances for part in maps]).float()
    scores, finished, images = [], [], []
    for part in maps:
        x_hat = detector.decode(part.reconstruction.state.to(detector.torch_device))
        feature = detector.feature_map(part.reconstruction.features, x_hat)
        found = detector.anomaly_map(torch.zeros_like(part.residual), feature)
        scores.append(image_score(found))
        finished.append(upsample_map(found, size))
        images.append(x_hat)
    alone = Prediction(torch.cat(scores), torch.cat(finished), torch.cat(images))
    return {GATE: Prediction(gate), AUTOENCODER: alone}


def wiener_filter(clean: Tensor, noise_variance: float) -> Callable[[Tensor], Tensor]:
    """The linear stationary denoiser of least squared error for white noise (Wiener, 1949).

    x_hat = mean + F^-1[S / (S + noise_variance) F[x - mean]], with the mean and the power spectrum S of ``clean``
    [n, C, H, W] (``clean`` in units in which the noise has ``noise_variance`` a value).

    >>> flat = wiener_filter(torch.zeros(2, 1, 4, 4), 1.0)  # nothing ever differs from the mean
    >>> float(flat(torch.ones(1, 1, 4, 4)).abs().max())
    0.0
    """
    mean = clean.mean(dim=0)
    spectrum = torch.fft.fft2(clean - mean, norm="ortho").abs().square().mean(dim=0)
    gain = spectrum / (spectrum + noise_variance)

    def denoise(x: Tensor) -> Tensor:
        return mean + torch.fft.ifft2(gain * torch.fft.fft2(x - mean)).real

    return denoise


@torch.inference_mode()
def ddad_control(detector: DDAD, maps: Sequence[Maps], training: Tensor, size: tuple[int, int]) -> Prediction:
    """DDAD with the linear denoiser in the place of its network, from its maps of the images, a batch each.

    training : normal images [n, 3, H, W] in [0, 1]. The constants that bring the two maps to one
    scale are taken anew from the same held-out normal images, so the control is as good as it can be.
    """
    alpha = float(detector.schedule.alphas_cumprod[detector.start_timestep])
    side = (detector.image_size, detector.image_size)
    training = torch.nn.functional.interpolate(training, size=side, mode="bilinear", antialias=True)
    denoise = wiener_filter(detector.encode(training), (1 - alpha) / alpha)

    def controlled(part: Maps) -> tuple[Tensor, Tensor, Tensor]:
        state = part.reconstruction.state
        state_hat = denoise(state)
        x, x_hat = detector.decode(state), detector.decode(state_hat)
        residual = detector.residual_map(x, x_hat, state, state_hat)
        return residual, detector.feature_map(part.reconstruction.features, x_hat), x_hat

    held_out = [controlled(part)[:2] for part in detector.held_out_maps_]
    pixel, feature = (float(torch.cat(kind).flatten(1).amax(dim=1).mean()) for kind in zip(*held_out, strict=True))
    sigma = SMOOTHING * detector.image_size
    found = []
    for part in maps:
        residual, distance, x_hat = controlled(part)
        finished = ddad_anomaly_map(residual, distance, v=detector.v, sigma=sigma, scales=(pixel, feature))
        found.append(Prediction(image_score(finished), upsample_map(finished, size), x_hat))
    return Prediction.concatenate(found)

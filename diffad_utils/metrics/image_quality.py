"""How far a reconstruction is from its image: MSE, PSNR, SSIM."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from skimage.metrics import structural_similarity

from diffad_utils.metrics.checks import check_scores


def reconstruction(x: ArrayLike, x_hat: ArrayLike, window: str = "uniform") -> dict[str, np.ndarray]:
    """Image by image, how close ``x_hat`` is to ``x``.

    Parameters
    ----------
    x, x_hat : [N,C,H,W] images in [0, 1] (clamp first); computed in float64.
    window : window of the SSIM. "uniform" is scikit-image's default, which most published numbers come from: 7 x 7
        mean, sample covariance. "gaussian" is Wang et al.'s: sigma 1.5, 11 x 11, population covariance. Both are
        averaged over channels and over the pixels whose window lies inside the image; the two differ by up to 0.03
        on ordinary distortions, so name the one you report.

    Returns
    -------
    dict of float64 [N]: ``mse``; ``psnr`` in dB with peak 1, inf where the images are equal; ``ssim`` in [-1, 1].

    Raises
    ------
    ValueError
        shapes that differ or are not [N,C,H,W]; empty; NaN or infinite values; values outside [0, 1] by
        more than 1e-3; images smaller than the window; unknown window.

    Examples
    --------
    Every pixel is 0.1 off: mean squared error 0.01, so 10 log10(1 / 0.01) = 20 dB.

    >>> found = reconstruction(np.full((1, 3, 8, 8), 0.5), np.full((1, 3, 8, 8), 0.6))
    >>> round(float(found["mse"][0]), 4), round(float(found["psnr"][0]), 2)
    (0.01, 20.0)
    """
    windows = {
        "uniform": (7, {}),
        "gaussian": (11, {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
    }
    if window not in windows:
        raise ValueError(f"window must be one of {sorted(windows)}, got {window!r}")
    side, options = windows[window]
    x, x_hat = (check_scores(images, name, "NCHW") for images, name in ((x, "x"), (x_hat, "x_hat")))
    if x.shape != x_hat.shape:
        raise ValueError(f"shapes differ: x {list(x.shape)}, x_hat {list(x_hat.shape)}")
    if min(x.shape[2:]) < side:
        raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} are smaller than the {side} x {side} SSIM window")
    for images, name in ((x, "x"), (x_hat, "x_hat")):
        low, high = images.min(), images.max()
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(f"{name} must lie in [0, 1], got [{low:g}, {high:g}]; rescale or clamp it first")
    mse, ssim = np.empty(len(x)), np.empty(len(x))
    for n, pair in enumerate(zip(x, x_hat, strict=True)):
        a, b = (image.astype(np.float64) for image in pair)
        mse[n] = np.mean((a - b) ** 2)
        ssim[n] = structural_similarity(a, b, channel_axis=0, data_range=1.0, **options)
    with np.errstate(divide="ignore"):
        psnr = -10.0 * np.log10(mse)
    return {"mse": mse, "psnr": psnr, "ssim": ssim}

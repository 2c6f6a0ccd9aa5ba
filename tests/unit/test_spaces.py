"""Work in pieces where memory runs out, and the two spaces that diffusion models work in."""

import doctest
import importlib
import warnings

import pytest
import torch
from diffusers import AutoencoderKL

from diffad_utils.diffusion import autocast
from diffad_utils.models.autoencoders import LatentSpace, PixelSpace, decode, encode
from diffad_utils.models.device import in_pieces


def fitting(limit: int, seen: list[tuple[int, int]]):
    """A function of slices on a device whose memory holds ``limit`` rows."""

    def function(rows: slice) -> list[int]:
        if rows.stop - rows.start > limit:
            raise torch.OutOfMemoryError("no memory")
        seen.append((rows.start, rows.stop))
        return list(range(rows.start, rows.stop))

    return function


def test_pieces_are_halved_and_what_is_done_is_kept():
    seen: list[tuple[int, int]] = []
    with pytest.warns(UserWarning, match="with 8 images at once; going on with 4"):
        found, size = in_pieces(fitting(5, seen), 11, 8)
    assert (
        [row for piece in found for row in piece] == list(range(11)) and size == 4 and seen == [(0, 4), (4, 8), (8, 11)]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert in_pieces(fitting(5, seen), 3, 64) == ([[0, 1, 2]], 64)  # what fits changes nothing
        assert in_pieces(fitting(5, seen), 0, 4) == ([], 4)


def test_one_row_that_does_not_fit_and_other_errors_are_errors():
    with pytest.raises(torch.OutOfMemoryError, match="single image"), pytest.warns(UserWarning):
        in_pieces(fitting(0, []), 4, 4)

    def broken(rows: slice):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_pieces(broken, 4, 4)


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    widths = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 3}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**widths, **kinds, scaling_factor=0.5, shift_factor=0.25).eval().requires_grad_(False)


def test_latent_space_is_encode_and_decode_in_pieces(vae):
    images = torch.rand(11, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    space = LatentSpace(vae)
    latents = space.encode(images)
    assert space.downsampling == 2 and space.shape(16) == (3, 8, 8) == tuple(latents.shape[1:])
    assert torch.allclose(latents, encode(vae, images), atol=1e-5)
    x_hat = space.decode(latents)
    assert torch.allclose(x_hat, decode(vae, latents).clamp(0, 1), atol=1e-5) and x_hat.dtype == torch.float32
    drawn = space.encode(images, torch.ones_like(latents))
    std = vae.encode(2 * images - 1).latent_dist.std
    assert torch.allclose(drawn, latents + 0.5 * std, atol=1e-5)


def test_a_space_in_bfloat16_gives_float32_near_the_same(vae):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    exact, short = LatentSpace(vae).encode(images), LatentSpace(vae, "bf16").encode(images)
    assert short.dtype == torch.float32 and 0 < (short - exact).abs().max() < 0.1
    with autocast(torch.device("cpu"), "bf16"):  # a caller's does not reach into fp32
        assert torch.equal(LatentSpace(vae).encode(images), exact)


def test_pixel_space_is_the_image_in_minus_one_to_one():
    images = torch.rand(2, 3, 8, 8)
    space = PixelSpace()
    assert space.shape(8) == (3, 8, 8) and space.downsampling == 1
    assert torch.equal(space.encode(images), 2 * images - 1)
    assert torch.allclose(space.decode(space.encode(images)), images, atol=1e-6)


@pytest.mark.parametrize(
    "module", ["diffusion.objectives", "scoring", "methods.invad.score", "methods.d3ad.maps", "metrics.pixel"]
)
def test_examples_in_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"diffad_utils.{module}"))
    assert found.attempted > 0 and found.failed == 0

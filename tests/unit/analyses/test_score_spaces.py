"""How Gaussian a space is, on distributions whose distance is known, and the comparison of two spaces."""

import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import score_claims, score_spaces
from diffad_utils.analyses.task import Task
from diffad_utils.methods.esm import ESM
from diffad_utils.study import claims, verdicts


def test_a_gaussian_is_near_and_two_values_are_far():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(300, 4, generator=generator) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 3
    value, low, high = score_spaces.distance_to_gaussian(normal)
    assert value < 0.04 and low <= high
    signs = torch.randint(0, 2, (300, 4), generator=generator).float()
    assert score_spaces.distance_to_gaussian(signs)[0] == pytest.approx(0.34, abs=0.03)  # Phi(1) - 1/2
    constant = torch.cat([normal, torch.ones(300, 2)], dim=1)  # elements that never change say nothing
    assert score_spaces.distance_to_gaussian(constant)[0] == pytest.approx(value)


def test_both_spaces_are_measured_on_the_same_images():
    index = data.load_index("textures", category="leather", train=12, test_good=3, test_anomalous=3)
    train, test = (data.ImageDataset(index[index["split"] == split], size=32) for split in ("train", "test"))
    task = Task("textures/leather", train, test, torch.arange(6), data.load_batch(test), bootstrap_samples=20)
    shared = {"block_out_channels": (8, 16), "dsm_steps": 2, "train_steps": 2, "train_batch_size": 2, "warmup_steps": 1}
    shared |= {"noise_timesteps": (20,), "stride": 5, "device": "cpu", "image_size": 32, "space": "latent"}
    latent = ESM(**shared, noise_timestep=20).fit(train)
    found = score_spaces.compare(task, latent, latent.predict(task.images, task.keys), 16, shared)
    assert list(found.table["space"].unique()) == ["latents", "pixels, 16 px"] and found.noise_timestep == 20
    values = found.table.set_index(["measure", "space"])["value"]["I-AUROC"]
    assert found.effect.effect == pytest.approx(values["latents"] - values["pixels, 16 px"])
    (finding,) = score_claims.esm_findings({"C95": found.effect}, "briefly trained")
    assert verdicts.variant_of(claims.published_claims().loc["C95"], finding["measure"]) == "features minus pixels"
    assert "16 px" not in found.in_words() and "T_d = 20" in found.in_words()

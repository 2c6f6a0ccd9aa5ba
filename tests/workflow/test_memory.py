"""What trainings take of a GPU, computed without one."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))

import budget
import memory

from diffad_utils import study
from diffad_utils.execution import profiles


def test_a_network_that_can_be_counted_by_hand():
    """Two layers on 5 rows: kept are the input (5 x 10), what ReLU gives (5 x 20), and for Adam four copies of the
    weights and one of the moving average."""
    net = memory._meta(lambda: nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3)))
    x = torch.zeros(5, 10, device="meta")
    weights = 10 * 20 + 20 + 20 * 3 + 3
    kept = 5 * 10 + 5 * 20
    expected = 4 * (weights * 5 + kept + 2 * 5 * 20)
    assert memory.training_bytes(memory.Training(lambda: net(x), net, [])) == memory.CUDA_CONTEXT + expected
    without = memory.training_bytes(memory.Training(lambda: net(x), net, [], ema=False))
    assert without == memory.CUDA_CONTEXT + expected - 4 * weights


def test_attention_keeps_its_inputs_and_output_only():
    tokens, width = 1000, 8
    x = torch.zeros(1, 1, tokens, width, device="meta", requires_grad=True)
    with memory._fused_attention():
        output = nn.functional.scaled_dot_product_attention(x * 1, x * 2, x * 3)
    assert output.shape == x.shape and output.requires_grad
    assert sum(tensor.numel() for tensor in output.grad_fn.saved_tensors) == 4 * tokens * width


@pytest.mark.parametrize("profile", ["kaggle", "kaggle-quick"])
def test_every_training_fits_a_t4(profile):
    found = {(notebook, training): size for notebook, training, size in memory.table(profile)}
    assert len(found) == 9
    run = next(run for run in profiles.load_plan(profile).runs if run.notebook.stem == "02_vae_bottleneck")
    parameters = study.notebook_parameters(run.notebook) | run.parameters
    # the notebook's own batch of four does not fit: two do
    batch = {"latent_unet_batch_size": parameters.get("latent_unet_batch_size", 2)}
    found["02_vae_bottleneck", "latent_unet"] = memory.training_bytes(memory.latent_unet(parameters | batch)) / 2**30
    assert {name: size for name, size in found.items() if size > memory.LIMIT} == {}


def test_the_quick_profile_takes_less_than_an_hour_a_notebook():
    rows = budget.table("kaggle-quick", 13.0, 3.2)
    minutes = {}
    for notebook, _, _, _, part in rows:
        minutes[notebook] = minutes.get(notebook, budget.OVERHEAD / 60) + part
    assert len(minutes) == 7 and max(minutes.values()) < 60
    assert sum(minutes.values()) < 30 * 60  # a week's quota, with room for a second try


def test_the_quick_profile_has_one_category():
    plan = profiles.load_plan("kaggle-quick")
    assert {run.parameters["category"] for run in plan.runs if not run.is_summary} == {"carpet"}
    assert len(plan.runs) == 8

"""Short versions of tests/faults/workflow.py: kernels started together, a grid killed with -9."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "faults" / "workflow.py"
specification = importlib.util.spec_from_file_location("workflow_under_stress", SCRIPT)
stress = importlib.util.module_from_spec(specification)
sys.modules[specification.name] = stress  # for the processes that it starts
specification.loader.exec_module(stress)

pytestmark = pytest.mark.slow


def test_kernels_started_together_do_not_collide(tmp_path):
    assert stress.kernels(tmp_path, rounds=1, together=4) == []


def test_a_killed_grid_ends_with_the_same_numbers_and_repeats_nothing(tmp_path):
    assert stress.grid(tmp_path / "grid", runs=4, kills=1, rng=random.Random(2)) == []

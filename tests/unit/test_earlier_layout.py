"""What was saved before the package had rooms (tests/data/earlier_layout) still opens, or says why not."""

import ast
import importlib.util
import inspect
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import diffad_utils
from diffad_utils import kaggle, report, study, training
from diffad_utils.methods import METHODS

SAVED = Path(__file__).parents[1] / "data" / "earlier_layout"
TOLERANCE = 1e-5
"""Relative to the largest value. Networks see images channels last now, and one map is smoothed as two products: both
round otherwise. Without such a step the values are equal."""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["trivial", "invad", "esm", "d3ad", "anomalib_padim"])
def test_a_detector_says_what_it_said(folder):
    with np.load(SAVED / "detectors" / "images.npz") as file:
        images, keys = torch.from_numpy(file["images"]).float() / 255, list(file["keys"])
    method = json.loads((SAVED / "detectors" / folder / "detector.json").read_text())["method"]
    said = METHODS[method].load(SAVED / "detectors" / folder, device="cpu").predict(images, keys)
    found = {"score": said.score, "anomaly_map": said.anomaly_map[:, ::4, ::4]}
    found |= {f"parts.{name}": values for name, values in said.parts.items()}
    with np.load(SAVED / "detectors" / folder / "expected.npz") as expected:
        assert set(expected.files) <= set(found)  # a component may have come since
        for name in expected.files:
            allowed = TOLERANCE * np.abs(expected[name]).max()
            np.testing.assert_allclose(found[name].numpy(), expected[name], rtol=0, atol=allowed, err_msg=name)


def test_a_detector_with_a_setting_that_is_gone_says_so():
    expected = r"class_conditional = True, but InvAD has no such setting: fit it again with this version$"
    with pytest.raises(ValueError, match=expected):
        METHODS["invad"].load(SAVED / "detectors" / "invad_by_class")


@pytest.mark.slow
def test_a_detector_of_weights_that_were_trained_anew_says_so():
    """sd-mini's decoder was trained anew after these had been saved: other weights, other results."""
    expected = (
        r"fitted with weights d1c2db21eba9, but here weights = 'sd-mini' resolves to .*: fit it again, or load it"
    )
    with pytest.raises(ValueError, match=expected):
        METHODS["img2img"].load(SAVED / "detectors" / "img2img", device="cpu")


@pytest.mark.slow
def test_a_run_is_read_and_reported(tmp_path):
    profile = tmp_path / "smoke"
    shutil.copytree(SAVED / "run", profile / "textures" / "leather" / "invad" / "seed-0")
    [run] = study.load_runs(profile)
    assert (run.dataset, run.category, run.method, run.seed) == ("textures", "leather", "invad", 0)
    assert run.metrics["I-AUROC"] == 0.8433333333 and run.trivial_baseline["I-AUROC"] == 0.5908333333
    assert len(run.claims) == 8 and len(run.figures) == 6 and run.maps() is None
    scores = run.scores()
    assert len(scores) == 100 and {"key", "label", "score", "nll", "spread"} <= set(scores)
    page = report.write(profile).read_text(encoding="utf-8")
    assert "<b>+0.688" in page and "textures/leather/invad/seed-0" in page, "the effect behind C38, and the run"


def test_a_training_goes_on_where_it_was(tmp_path):
    """The rest of the steps, the averaged weights, running statistics and the dropout's draws: as without a stop."""
    shutil.copy(SAVED / "checkpoint" / "checkpoint.pt", tmp_path)
    expected = json.loads((SAVED / "checkpoint" / "expected.json").read_text())
    network, loss = small_training()
    settings = {"num_steps": 12, "lr": 1e-2, "ema_decay": 0.9, "warmup_steps": 2, "checkpoint_every": 6}
    log = training.train(network, loss, checkpoint_folder=tmp_path, **settings)
    assert log.resumed_from == 6
    np.testing.assert_allclose(log.losses, expected["losses"], rtol=1e-5)
    # The normalization takes the first layer's bias away again: its gradient is rounding alone, which Adam makes as
    # large as a step. So it wanders by up to `lr` a step, with the running mean, as the processor rounds.
    free = {"0.bias": 6 * 1e-2, "1.running_mean": 6 * 1e-2}
    for name, values in network.state_dict().items():
        wanted = np.array(expected["state"][name])
        np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-4, atol=free.get(name, 1e-6), err_msg=name)


def small_training():
    """As in make.py."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.25), nn.Linear(8, 1))

    def loss(model, generator):
        x = torch.randn(16, 4, generator=generator)
        return ((model(x)[:, 0] - x.sum(1)) ** 2).mean()

    return network, loss


def kernel_cells():
    content = json.loads((SAVED / "kernel" / "07_invad.ipynb").read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_a_kernel_still_fits_what_it_calls():
    """Its metadata are those that are pushed today, and a session's first and last cell call what is there."""
    metadata = json.loads((SAVED / "kernel" / "kernel-metadata.json").read_text())
    kaggle.check_metadata(metadata)
    assert f"somebody/{kaggle.DATASET}" in metadata["dataset_sources"]
    cells = kernel_cells()
    assert f"{kaggle.DATASET} to this notebook" in cells[0] and "diffad_utils-*.whl" in cells[0]
    for cell, name in ((cells[0], "begin"), (cells[-1], "finish")):
        [arguments] = re.findall(rf"kaggle\.{name}\((.*)\)", cell)
        values = ast.literal_eval(f"[{arguments.replace('globals()', '{}')}]")
        inspect.signature(getattr(kaggle, name)).bind(*values)


def test_a_kernel_with_the_package_of_another_version_says_so():
    """A bundle of then is whole: it installs the wheel beside it. With today's wheel its imports name what to do."""
    [imports] = [cell for cell in kernel_cells() if "score_study" in cell and "import numpy" in cell]
    [line] = [line for line in imports.splitlines() if line.startswith("from diffad_utils import")]
    with pytest.raises(ImportError, match=r"now diffad_utils\.study\.claims: .*build the kernel again"):
        exec(line)


def test_modules_of_then_lie_where_the_message_says():
    for name, module in diffad_utils.EARLIER_MODULES.items():
        assert importlib.util.find_spec(f"diffad_utils.{module}"), name
        with pytest.raises(ImportError, match=re.escape(module)):
            getattr(diffad_utils, name)
    assert not hasattr(diffad_utils, "nothing_of_this_name")

"""What several test files need."""

import hypothesis
import pytest
import torch

from diffad_utils import data
from diffad_utils.io import store

hypothesis.settings.register_profile("any machine", deadline=None)  # no test depends on how busy the machine is
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small convolutions gain nothing from more threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_store_left_open():
    """A run that a test starts and never records must not give its results to the next test."""
    yield
    store.close_run()


@pytest.fixture(scope="session")
def splits():
    """(twelve normal training images, a test batch of three normal and three defective ones) of textures/carpet, 64
    pixels."""
    index = data.load_index("textures", category="carpet")
    train = index[index["split"] == "train"].head(12)
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(3)
    return data.ImageDataset(train, size=64), data.load_batch(data.ImageDataset(test, size=64))

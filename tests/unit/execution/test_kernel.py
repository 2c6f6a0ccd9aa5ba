"""What a kernel runs before a notebook's first cell."""

import nbformat
import pytest
from nbclient import NotebookClient

from diffad_utils.execution import notebook


@pytest.mark.slow
@pytest.mark.parametrize(("gpus", "expected"), [([], "False"), (["0"], "True")])
def test_a_kernel_that_sees_a_gpu_asks_for_deterministic_kernels(monkeypatch, gpus, expected):
    monkeypatch.setattr(notebook, "visible_gpus", lambda: gpus)
    cells = [nbformat.v4.new_code_cell("import torch\nprint(torch.are_deterministic_algorithms_enabled())")]
    client = NotebookClient(nbformat.v4.new_notebook(cells=cells), kernel_manager_class=notebook.kernel_manager_class())
    executed = client.execute()
    assert executed.cells[0].outputs[0].text.strip() == expected

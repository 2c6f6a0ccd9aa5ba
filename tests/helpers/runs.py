"""What a run needs and a test has not: a notebook's namespace, a prediction, a batch."""

import types

import torch

OWN = """# Parameters: the smoke profile's values
profile = "smoke"  # name
dataset, category = "textures", "carpet"
seed = 0; device = "cpu"
output_root = ""
data_root = ""
learning_rate = 1e-3
step_counts = [1, 2,
               3]
spacing: str = "reference"
class_conditional = False
"""


def session(root, injected: str = "", own: str = OWN) -> dict:
    """The namespace of a notebook that ran its parameters cell and, if given, an injected one."""
    injected = f"# Parameters\noutput_root = {str(root)!r}\n{injected}"
    namespace: dict = {"In": ["", own, injected]}
    exec(own, namespace)
    exec(injected, namespace)
    return namespace


def make_prediction(n: int = 8, **parts):
    score = torch.arange(n, dtype=torch.float32)
    return types.SimpleNamespace(
        score=score, anomaly_map=torch.rand(n, 16, 16), reconstruction=None, parts={"nll": score * 2} | parts, nfe=3
    )


def make_batch(n: int = 8) -> dict:
    label = (torch.arange(n) >= n // 2).long()
    keys = [f"textures/carpet/test/{'hole' if label[i] else 'good'}/{i:04d}" for i in range(n)]
    return {"key": keys, "label": label}

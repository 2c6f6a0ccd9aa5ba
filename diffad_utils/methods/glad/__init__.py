"""GLAD's two ideas on D3AD's latent diffusion: training with pasted anomalies, and a step by the image's own criterion.

`pasted.py` is the training, `steps.py` the criterion, `detector.py` the method, which names source and differences.
"""

from diffad_utils.methods.glad.detector import GLAD

__all__ = ["GLAD"]

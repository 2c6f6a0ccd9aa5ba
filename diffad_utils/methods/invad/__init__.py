"""InvAD: detection by DDIM inversion of features, without reconstruction.

`detector.py` is the method, `score.py` its score, `feature_dit.py` its network.
"""

from diffad_utils.methods.invad.detector import InvAD

__all__ = ["InvAD"]

"""Explicit score matching (ESM, ESM-sigma) and its baseline SGM.

`equations.py` has the paper's equations 3 to 15 (eq. 10 is `esm_loss`), `dual_stream.py` its network, `settings.py` and
`base.py` what the three detectors share, `noise_level.py` the choice of T_d.
"""

from diffad_utils.methods.esm.esm import ESM
from diffad_utils.methods.esm.esm_sigma import ESMSigma
from diffad_utils.methods.esm.sgm import SGM

__all__ = ["ESM", "SGM", "ESMSigma"]

"""D3AD and its ancestor DDAD: dynamic conditioning, noiseless scaling, adapted features.

`d3ad.py` and `ddad.py` are the methods, `conditioned.py` what both share, `conditioning.py` Algorithm 2 and eq. 8,
`maps.py` eq. 9, `adaptation.py` eq. 10.
"""

from diffad_utils.methods.d3ad.d3ad import D3AD
from diffad_utils.methods.d3ad.ddad import DDAD

__all__ = ["D3AD", "DDAD"]

"""D3AD and its ancestor DDAD: dynamic conditioning, noiseless scaling, adapted features.

`maps.py` is eq. 9 whole, `conditioning.py` Algorithm 2 and eq. 11, `adaptation.py` eq. 10; `d3ad.py` and `ddad.py` are
the methods, `conditioned.py` what both do alike and `settings.py` their common fields.
"""

from diffad_utils.methods.d3ad.d3ad import D3AD
from diffad_utils.methods.d3ad.ddad import DDAD

__all__ = ["D3AD", "DDAD"]

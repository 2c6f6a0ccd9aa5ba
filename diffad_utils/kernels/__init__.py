"""Kernels: the few inner loops that are worth writing with memory and hardware in mind.

What may be touched: how it is computed. Results stay those of the plain forms that the tests compare with.
"""

from diffad_utils.kernels.knn import knn, open_bank

__all__ = ["knn", "open_bank"]

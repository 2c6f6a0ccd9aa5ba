"""Kernels: the few inner loops that are worth writing with memory and hardware in mind."""

from diffad_utils.kernels.knn import knn, open_bank

__all__ = ["knn", "open_bank"]

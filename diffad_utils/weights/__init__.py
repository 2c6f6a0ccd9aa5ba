"""Pretrained weights: a name becomes a folder of safetensors files on this machine.

`known` is the table of names and what their files look like, `safetensors_files` reads and checks files, `resolve`
searches. Another set of weights is an entry of the table; nothing else has to change.
"""

from diffad_utils.weights.known import KNOWN, MINI_NAMES, MINIS, Known, Part, find_known
from diffad_utils.weights.resolve import (
    KAGGLE_ROOT,
    MINI_ROOT,
    SEARCH_DEPTH,
    Resolved,
    hub_reachable,
    identify,
    resolve,
    survey,
)
from diffad_utils.weights.safetensors_files import PICKLES, checksum, read_header, read_json, safetensors_files

__all__ = [
    "KAGGLE_ROOT",
    "KNOWN",
    "MINIS",
    "MINI_NAMES",
    "MINI_ROOT",
    "PICKLES",
    "SEARCH_DEPTH",
    "Known",
    "Part",
    "Resolved",
    "checksum",
    "find_known",
    "hub_reachable",
    "identify",
    "read_header",
    "read_json",
    "resolve",
    "safetensors_files",
    "survey",
]

"""Pretrained weights: a name becomes a folder of safetensors files on this machine (`resolve`).

`known` is the table of names and of what their files look like: another set of weights is an entry there. `search` has
the places, `recognise` says what lies in a folder, `safetensors_files` reads files, `packaged` those of installed
packages, `needs` what a run's parameters ask for. Nothing here opens a network; that is `models`' business.
"""

from diffad_utils.weights.known import KNOWN, MINI_NAMES, MINIS, Known, Part, find_known
from diffad_utils.weights.packaged import PACKAGED, cache_folder
from diffad_utils.weights.recognise import identify
from diffad_utils.weights.resolve import KAGGLE_ROOT, MINI_ROOT, Resolved, missing, resolve, survey
from diffad_utils.weights.safetensors_files import (
    PICKLES,
    checksum,
    is_pipeline,
    network_files,
    read_header,
    read_json,
    safetensors_files,
)
from diffad_utils.weights.search import SEARCH_DEPTH, hub_reachable

__all__ = [
    "KAGGLE_ROOT",
    "KNOWN",
    "MINIS",
    "MINI_NAMES",
    "MINI_ROOT",
    "PACKAGED",
    "PICKLES",
    "SEARCH_DEPTH",
    "Known",
    "Part",
    "Resolved",
    "cache_folder",
    "checksum",
    "find_known",
    "hub_reachable",
    "identify",
    "is_pipeline",
    "missing",
    "network_files",
    "read_header",
    "read_json",
    "resolve",
    "safetensors_files",
    "survey",
]

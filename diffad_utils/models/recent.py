"""What a network makes of batches that come again, kept in memory for a while.

Variants of a detector are applied to the same images, and part of the work is the same for all of them: the latents of
the images, and the features that reconstructions are compared with. An entry's name is the checksum of the batch and of
everything else that the result depends on, as in `feature_cache`. Another batch of the same images is another entry, so
that nothing is rounded otherwise than it would be without.

Beside the store (`methods.kept`), whose entries are of one detector with its settings, these are of images and a
frozen network alone: every variant and every method of a run shares them, in a first run and without a store, too.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffad_utils.io import store

LIMIT = 2**28
"""Bytes of results that are kept; the ones used last stay."""


class _Entry(NamedTuple):
    result: list[Tensor]
    seconds: float

    @property
    def size(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.result)


class Recent:
    """Results by name, the ones used last. `store.clock` goes on by the seconds that they took when computed."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.on = limit, True
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    def __call__(
        self, extract: Callable[[Tensor], list[Tensor]], batch: Tensor, description: Mapping[str, Any]
    ) -> list[Tensor]:
        """``extract(batch)``, tensors that nobody may change, of a batch [B, ...].

        description : what else they depend on, as JSON values.
        """
        if not self.on:
            return extract(batch)
        key = _checksum(batch, description)
        if key in self._entries:
            self._entries.move_to_end(key)
            store.set_clock(store.clock() + self._entries[key].seconds)
            return self._entries[key].result
        start = store.clock()
        self._entries[key] = _Entry(extract(batch), store.clock() - start)
        result = self._entries[key].result
        while sum(entry.size for entry in self._entries.values()) > self.limit:
            self._entries.popitem(last=False)
        return result

    @contextmanager
    def off(self) -> Iterator[None]:
        """Computes everything anew, to measure how long it takes."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before


recent = Recent()
"""The one that all detectors of a process share."""


def _checksum(batch: Tensor, description: Mapping[str, Any]) -> str:
    fixed = {"threads": torch.get_num_threads(), "dtype": str(batch.dtype), "shape": list(batch.shape), **description}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
    digest.update(batch.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

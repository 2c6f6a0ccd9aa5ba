"""Results of batches that come again: computed once, kept by what they depend on, forgotten when there are too many."""

import time

import torch

from diffad_utils.io import store
from diffad_utils.models.recent import Recent

BATCH = torch.arange(6.0).reshape(2, 3)


class Doubled:
    calls = 0

    def __call__(self, batch):
        self.calls += 1
        return [2 * batch]


def test_a_batch_is_computed_once():
    recent, double = Recent(), Doubled()
    first = recent(double, BATCH, {"what": "double"})
    assert torch.equal(first[0], 2 * BATCH)
    before = store.clock() - time.perf_counter()
    assert recent(double, BATCH.clone(), {"what": "double"})[0] is first[0]
    assert double.calls == 1
    assert store.clock() - time.perf_counter() > before, "the time counts as if it were computed again"


def test_another_batch_part_or_description_is_another_result():
    recent, double = Recent(), Doubled()
    for batch in (BATCH, BATCH[:1], BATCH.flip(0), BATCH.reshape(3, 2), BATCH.double()):
        assert torch.equal(recent(double, batch, {"what": "double"})[0], 2 * batch)
    recent(double, BATCH, {"what": "other"})
    assert double.calls == 6


def test_the_results_used_last_stay():
    recent, double = Recent(limit=2 * BATCH.nbytes), Doubled()
    batches = [BATCH, BATCH + 1, BATCH + 2]
    for i in (0, 1, 0, 2):  # the second is the one that goes
        recent(double, batches[i], {})
    assert double.calls == 3
    recent(double, batches[0], {})
    assert double.calls == 3
    recent(double, batches[1], {})
    assert double.calls == 4


def test_off_computes_anew_and_is_left_as_it_was_after_an_error():
    recent, double = Recent(), Doubled()
    recent(double, BATCH, {})
    try:
        with recent.off():
            recent(double, BATCH, {})
            raise KeyError
    except KeyError:
        assert double.calls == 2
    recent(double, BATCH, {})
    assert double.calls == 2

"""C98's comparison: the same settings, seed and steps, with a reconstruction term and without."""

import dataclasses

import pytest
import torch

from diffad_utils import data
from diffad_utils.analyses import findings, pixel_objectives
from diffad_utils.analyses.summaries import measure
from diffad_utils.analyses.task import Task
from diffad_utils.analyses.wording import signed
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.study import claims, verdicts


@pytest.fixture(scope="module")
def task():
    index = data.load_index("textures", category="carpet", train=12, test_good=3, test_anomalous=3)
    train, test = (data.ImageDataset(index[index["split"] == split], size=32) for split in ("train", "test"))
    return Task("textures/carpet", train, test, torch.arange(6), data.load_batch(test), bootstrap_samples=20)


def test_only_the_objective_differs_and_the_effect_is_the_claims(task):
    plain = measure(PixelDDPM(**PixelDDPM.contract_settings, device="cpu").fit(task.train), task)
    changed = pixel_objectives.with_term(plain, task)
    before, after = (dataclasses.asdict(found.detector) for found in (plain, changed))
    assert {name for name in before if before[name] != after[name]} == {"reconstruction_weight"}
    both = {pixel_objectives.PLAIN: plain, pixel_objectives.CHANGED: changed}
    gap = pixel_objectives.effect(task, both)
    assert gap == (*task.difference(changed.score, plain.score), 6)
    assert pixel_objectives.row(task, both)["difference"] == gap[0]
    (row,) = findings.judge({("C98", pixel_objectives.VARIANT): gap}, {"here": ["C98"]})
    assert verdicts.variant_of(claims.published_claims().loc["C98"], row["measure"]) == pixel_objectives.VARIANT
    assert signed(gap) in pixel_objectives.in_words(task, both)
    assert len(pixel_objectives.chart(task, both).axes) == 1

"""The arithmetic of the rule on arrays is what `verdicts` decides study by study."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from benchmarks import simulated_studies as studies
from benchmarks import verdicts as simulation
from diffad_utils.metrics import pooling
from diffad_utils.study import outcomes, verdicts

CLAIM = {
    "claim_id": "C44",
    "datasets": "any",
    "scope": "two methods",
    "kind": "between trainings",
    "family": "accuracy",
    "margin": "0",
    "min_n": "30",
    "own_tables": "no numbers",
    "own_tables_note": "",
}


def as_findings(parts, study, images, unified=False):
    """One simulated study as the findings of its runs, an interval each."""
    rows = []
    for number, (effects, variances) in enumerate(parts):
        for category, seed in np.ndindex(effects.shape[1:]):
            effect, error = effects[study, category, seed], np.sqrt(variances[study, category, seed])
            half = stats.norm.ppf(0.975) * error
            name = f"textures/{category}"
            rows.append(
                {
                    "dataset": "textures",
                    "dataset_category": name,
                    "training": "textures, unified" if unified else name,
                    "seed": seed,
                    "effect": effect,
                    "low": effect - half,
                    "high": effect + half,
                    "standard_error": verdicts.standard_error(effect - half, effect + half),
                    "n": images,
                    "measure": f"part {number}",
                }
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize("combine", ["all", "any", "bounds"])
@pytest.mark.parametrize("effect, scatter", [(0.0, 0.0), (0.1, 0.3), (0.3, 0.1), (-0.3, 0.1)])
def test_simulated_studies_are_judged_as_findings_are(effect, scatter, combine, unified):
    rng, images, count = np.random.default_rng(3), 40, 12
    parts = [
        studies.in_blocks(
            studies.MEASURES["mean over images"].simulate, rng, (count, 5, 3), images, scatter, 0.1, effect=effect
        )
        for _ in range(2)
    ]
    ours = simulation.verdict([simulation.compared(part, 0.0, images, unified) for part in parts], combine)
    claim = CLAIM | {"variants": "part 0; part 1", "combine": combine}
    for study in range(count):
        found = verdicts.judge(claim, as_findings(parts, study, images, unified), {"textures"})
        verdicts.decide([found])
        assert found.verdict == ours[study]


def test_outcomes_of_arrays_follow_the_order_of_the_rule():
    evidence = outcomes.Evidence(
        np.array([0.001, 0.5, 0.001, 0.5, 0.5, 0.5]),
        np.array([0.5, 0.001, 0.5, 0.5, 0.5, 0.001]),
        np.array([1.0, 1.0, 0.001, 0.001, 0.01, 1.0]),
        np.array([False, False, True, False, False, True]),
    )
    assert outcomes.outcome(outcomes.smaller(evidence), evidence).tolist() == [
        "supported",
        "not supported",
        "varies",
        "varies",
        "inconclusive",
        "not supported",
    ]


def test_bounds_vary_only_where_both_do():
    """A bound by chosen settings scatters by the choice too, which its interval does not hold."""
    alike, scattered = [0.05, 0.06, 0.05, 0.06], [-0.1, 0.3, -0.1, 0.3]
    lower, upper = (
        pooling.compare(effects, np.full(4, 1e-3), np.full(4, 1e-3), margin=0.05) for effects in (alike, scattered)
    )
    assert upper.p_heterogeneity < 0.001 < 0.5 < lower.p_heterogeneity
    assert outcomes.combine([lower, upper], "bounds").p_heterogeneity == lower.p_heterogeneity
    assert outcomes.combine([lower, upper]).p_heterogeneity < 0.001

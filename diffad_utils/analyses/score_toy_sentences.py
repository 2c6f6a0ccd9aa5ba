"""The sentences of notebook 05 under the figures that need no images: toys, objectives and schedules.

Every function takes what was measured and returns Markdown; the rest is in `score_sentences`. Used by notebook 05.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from diffad_utils.analyses.score_matching import Fields
from diffad_utils.analyses.wording import enumerated


def one_number(tables: Mapping[str, pd.DataFrame]) -> str:
    """``tables`` of `score_toys.posterior_tables`: the upper row of the figure and the lower."""
    upper, table = tables.values()
    peak, above = table.loc[table["variance"].idxmax()], upper["variance"].max() > upper["noise"].iloc[0]
    return (
        f"In the lower row the variance $\\sigma_t^2$ is largest between the two values, at $X_t$ = {peak['x']:.2f}. "
        f"There it is {peak['variance']:.2f}; its smallest value is {table['variance'].min():.2f}, and the noise has "
        f"{table['noise'].iloc[0]:.2f}. Where $X_t$ points to one of the two values, the variance is small. So it says "
        "what cannot be known from $X_t$. It does not say how unusual $X_t$ is: far outside, where there are no data, "
        f"it is small. In the upper row its peak is {upper['variance'].max():.2f}, the noise's variance "
        f"{upper['noise'].iloc[0]:.2f}. "
        + ("So the variance can be larger than the noise's at some $X_t$, though not on average." if above else "")
    ).rstrip()


def _times(error: float) -> str:
    """An error relative to the truth, to be followed by it: "7.0% of" if it is small, "295 times" if it is not."""
    return f"{error:.1%} of" if error < 1 else f"{error:.0f} times"


def toy_errors(errors: Mapping[str, pd.DataFrame], level: float = 0.05) -> str:
    """``errors`` of `score_matching.errors_of_toys`; up to ``level`` a score counts as learnt."""
    parts = []
    for name, table in errors.items():
        worst, where = table.drop(columns="t").max(), table.set_index("t").idxmax()
        parts.append(
            f"**{name}**: the error of the learnt score of eq. 4 is at most {_times(worst['SGM (eq. 4)'])} the true "
            f"score (at t = {where['SGM (eq. 4)']}), that of the learnt variance {_times(worst['sigma^2'])} the true "
            f"variance. The error of eq. 3 is up to {_times(worst['ESM (eq. 3)'])} the true score (at t = "
            f"{where['ESM (eq. 3)']}). With the exact optimum of eq. 10, where training plays no part, it is up to "
            f"{_times(worst['ESM, theory'])} the true score. (As a "
            f"check, simulated data agree with (a) to {worst['closed form, drawn']:.1%}.) "
            f"**{_got_there(table, level)}**"
        )
    return "\n\n".join(parts)


def _got_there(table: pd.DataFrame, level: float) -> str:
    """Whether the score of eq. 4 is learnt to within ``level`` at every t, and if not, at which t it is not."""
    off = table["SGM (eq. 4)"] > level
    if not off.any():
        return f"The learnt score of eq. 4 is within {level:.0%} at every t. {_of_eq_3(table, level)}"
    at = enumerated([str(t) for t in table.loc[off, "t"]])
    learnt = table.loc[~off, "t"]
    where = " at small t," if len(learnt) and table.loc[off, "t"].max() < learnt.min() else ""
    rest = f" Within {level:.0%} it is at t = {enumerated([str(t) for t in learnt])}." if len(learnt) else ""
    return (
        f"So training does not get there{where} at t = {at}: the score of eq. 4 is off by more than {level:.0%}.{rest}"
    )


def _of_eq_3(table: pd.DataFrame, level: float) -> str:
    """Whose error is left in eq. 3 where that of eq. 4 is small: its own, as with the exact optimum, or training's."""
    if (table["ESM (eq. 3)"] <= level).all():
        return "So is that of eq. 3."
    apart = table["ESM against theory"].max()
    if apart <= level:
        return (
            f"The rest of eq. 3's error is in the formula: the learnt one is within {level:.0%} of the exact optimum."
        )
    return (
        f"The learnt eq. 3 differs from its exact optimum by up to {_times(apart)} the latter, so its error is not all "
        "in the formula."
    )


def where_learnt(errors: Mapping[str, Sequence[Mapping[str, float]]], level: float = 0.05) -> str:
    """In short, for the answer: on which toys, and at which t, theory was compared with a score that was learnt.

    ``errors`` : as in `toy_errors`, but the rows of each table.
    """
    parts = []
    for name, table in errors.items():
        off = [f"{row['t']:.0f}" for row in table if row["SGM (eq. 4)"] > level]
        parts.append(f"{name}: learnt at every t" if not off else f"{name}: not learnt at t = {enumerated(off)}")
    return (
        f"**Where was the theory compared with a learnt score?** {'; '.join(parts)} (of {len(table)} t each; learnt: "
        f"the score of eq. 4 is within {level:.0%}). Where a score is not learnt, the exact optimum alone stands for "
        "the theory."
    )


def toy_fields(fields: Fields, errors: pd.DataFrame) -> str:
    """``errors`` of the same toy, with a row for t = 300."""
    off = float(errors.set_index("t").loc[300, "sigma^2"])
    return (
        "The true variance is largest in the band between the two components, as for one number. The learnt one is "
        f"off by {off:.0%}. The score of eq. 3 is {float(fields.longer.median()):.1f} "
        f"times as long as that of eq. 4 in the median, and longer at {float((fields.longer > 1).double().mean()):.0%} "
        "of the points. In each coordinate both have the same sign: the variance makes a step longer or shorter, but "
        "does not reverse it. The figure cannot show this length, as each panel scales its arrows by its own longest."
    )


def toy_ends(table: pd.DataFrame) -> str:
    last, first = table.iloc[-1], table.iloc[0]
    return (
        f"From $T_d$ = {last['T_d']:.0f} SGM keeps {last['SGM']:.0%} of the variance and ESM "
        f"{last['ESM']:.0%} (theory: {last['SGM, theory']:.0%} and {last['ESM, theory']:.0%}). SGM ends at an "
        f"average of the possible clean signals, which is smoother than any of them. From $T_d$ = {first['T_d']:.0f} "
        f"they keep {first['SGM']:.0%} and {first['ESM']:.0%}. From $T_d$ = {last['T_d']:.0f} the probability flow "
        f"keeps {last['probability flow']:.0%}, and ESM with its mean tied to the input "
        f"{last['ESM, input']:.0%}."
    )


def printed_objectives(table: pd.DataFrame) -> str:
    gap = (table["DSM"] - table["ESM"]).groupby(table["l"])
    changes = gap.max() - gap.min()
    odd = table[table["l"] % 2 == 1].groupby("l")["DSM"].apply(lambda values: values.is_monotonic_increasing)
    return (
        f"For l = 1 the two printed quantities are the same (largest distance {gap.max()[1]:.0e}). "
        f"For l = 2 they differ by {gap.max()[2]:.2f} at every b, so the best network is the same. For l = 3 and 4 "
        f"the distance changes with b, by {changes[3]:.1f} and {changes[4]:.1f}. So the paper's statement about l > 2 "
        "holds, and l = 1 agrees as well as l = 2.\n\nFor odd l the printed quantity "
        f"{'rises with b everywhere' if odd.all() else 'does not rise everywhere'}. Such an odd power falls without "
        "bound to the left, so it has no lowest point. The minimum of its norm is where the curve crosses zero, "
        "which need not be at the true score. Only even powers could be trained. Eq. 10, which is trained, has l = 2."
    )


def distance_of_powers(table: pd.DataFrame) -> str:
    distance = table.set_index("l")["distance"]
    return (
        f"Only l = 2 leads to the true score (distance {distance[2]:.0e}). With l = 3 denoising score matching ends "
        f"{distance[3]:.0%} off, and with l = 1 {distance[1]:.0%}. This is one skewed mixture. For Gaussian data all "
        "powers lead to the same score."
    )


def schedule_of_the_paper(table: pd.DataFrame, printed: Mapping[int, float]) -> str:
    """``table`` : `score_toys.schedule_candidates`; ``printed`` {t: value}."""
    ours = {t: float(table.iloc[t - 1, 1]) for t in printed}
    agree = all(abs(ours[t] / value - 1) < 2e-3 for t, value in printed.items())
    values = ", ".join(f"{ours[t]:.4g} at t = {t} (printed: {value:g})" for t, value in printed.items())
    roots = " and ".join(f"{value**0.5:.3g}" for value in ours.values())
    end = (
        "the printed numbers fit this schedule without the root. If the authors used it, the printed formula is a "
        "misprint; no other schedule was tried"
        if agree
        else "the printed numbers do not fit this schedule without the root"
    )
    return (
        f"With DDPM's linear schedule $1-\\bar\\alpha_t$ is {values}; the root, which is the printed formula, would be "
        f"{roots}. So {end}. The figure does not show which schedule the authors' code uses."
    )

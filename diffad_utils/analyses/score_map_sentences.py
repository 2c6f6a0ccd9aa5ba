"""What the maps of the predicted variance and their place in the image show, in the words of the run.

Used by `score_sentences`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from torch import Tensor

from diffad_utils.analyses.wording import enumerated


def cells(n: int) -> str:
    """A frame of ``n`` cells, after "the outer".

    Examples
    --------
    >>> cells(1), cells(3)
    ('cell', '3 cells')
    """
    return "cell" if n == 1 else f"{n} cells"


def place(ratios: Mapping[int, Tensor], marks: pd.DataFrame) -> str:
    """At which t the border is the wrong control, because the variance is larger in the middle.

    Parameters
    ----------
    ratios : of `score_matching.variance_over_time`, {t: [B, C, h, w]}.
    marks : of `score_matching.what_variance_marks` of data with masks.
    """
    border = float(marks.loc[marks["measure"] == "border alone", "mean"].iloc[0])
    frame = max(1, next(iter(ratios.values())).shape[-1] // 5)
    inside = {t: float(ratio[..., frame:-frame, frame:-frame].mean()) for t, ratio in ratios.items()}
    bright = [str(t) for t, ratio in ratios.items() if inside[t] > float(ratio.mean())]
    if not bright:
        return f"At every t the maps are brighter in the outer {cells(frame)} than inside, as that of the border is."
    return (
        f"At t = {enumerated(bright)} the maps are brighter inside than in the outer {cells(frame)}. There the border "
        f"has the wrong sign: a map of the place that is bright in the middle would have {1 - border:.2f}."
    )


def darkest(maps: Mapping[str, Tensor], kinds: Sequence[str]) -> str:
    """Which of the images shown has the smallest variance as a whole.

    Parameters
    ----------
    maps : {"t = 1": [B, h, w], ...} of the images shown.
    kinds : what stands above each image [B].
    """
    by_image: dict[int, list[str]] = {}
    for name, values in maps.items():
        by_image.setdefault(int(values.mean(dim=(1, 2)).argmin()), []).append(name.removeprefix("t = "))
    parts = [f"column {i + 1} ({kinds[i]}) at t = {enumerated(times)}" for i, times in by_image.items()]
    return f"Of the images shown, the darkest map as a whole is {enumerated(parts)}. One image is no evidence."

"""Kaggle: bundles for it (`build`), pushing them (`client`), and what a kernel does in its session (`session`).

`wheels` knows what Kaggle's image lacks. Nothing here computes results; `execution` and the notebooks do.
"""

from diffad_utils.kaggle.build import (
    DATASET,
    KAGGLE_DATASETS,
    MACHINE,
    build,
    build_wheel,
    check_metadata,
    data_to_attach,
    weights_needed,
)
from diffad_utils.kaggle.client import KaggleError, push
from diffad_utils.kaggle.session import SESSION_HOURS, begin, finish, take_over

__all__ = [
    "DATASET",
    "KAGGLE_DATASETS",
    "MACHINE",
    "SESSION_HOURS",
    "KaggleError",
    "begin",
    "build",
    "build_wheel",
    "check_metadata",
    "data_to_attach",
    "finish",
    "push",
    "take_over",
    "weights_needed",
]

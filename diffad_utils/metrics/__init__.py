"""Scores, maps and masks to numbers with intervals: exact detection, localisation and reconstruction metrics.

What may be touched: speed and memory. Definitions are held by `tests/golden`; a change of one needs new reference
numbers.
"""

from diffad_utils.kernels.threshold_counts import EIGHT_NEIGHBOURS
from diffad_utils.metrics.bootstrap import BOOTSTRAP_BLOCK, bootstrap_draws, percentile_interval
from diffad_utils.metrics.evaluation import IMAGE_METRICS, PIXEL_METRICS, Evaluation, evaluate, with_masks
from diffad_utils.metrics.image import image_ap, image_auroc, image_f1max
from diffad_utils.metrics.image_quality import reconstruction
from diffad_utils.metrics.intervals import (
    bootstrap_interval,
    paired_aupro_difference,
    paired_bootstrap,
    paired_bootstrap_difference,
    resampled,
)
from diffad_utils.metrics.pixel import (
    PixelMetrics,
    aupro,
    aupro_curve,
    pixel_ap,
    pixel_auroc,
    pixel_f1max,
    pixel_metrics,
)
from diffad_utils.metrics.pixel_counts import PixelCounts, metrics_from_counts, pixel_counts

__all__ = [
    "BOOTSTRAP_BLOCK",
    "EIGHT_NEIGHBOURS",
    "IMAGE_METRICS",
    "PIXEL_METRICS",
    "Evaluation",
    "PixelCounts",
    "PixelMetrics",
    "aupro",
    "aupro_curve",
    "bootstrap_draws",
    "bootstrap_interval",
    "evaluate",
    "image_ap",
    "image_auroc",
    "image_f1max",
    "metrics_from_counts",
    "paired_aupro_difference",
    "paired_bootstrap",
    "paired_bootstrap_difference",
    "percentile_interval",
    "pixel_ap",
    "pixel_auroc",
    "pixel_counts",
    "pixel_f1max",
    "pixel_metrics",
    "reconstruction",
    "resampled",
    "with_masks",
]

"""Every figure of the notebooks and the report.

What may be touched: how it looks. No function here computes a number that a text states.
"""

from diffad_utils.plots.answer import (
    answer_chart,
    case_strip,
    claims_chart,
    control_chart,
    difference_matrices,
    task_rows,
)
from diffad_utils.plots.comparison import (
    MARKERS,
    claim_forest,
    convention_effects,
    cost_growth,
    critical_differences,
    method_scatter,
    method_styles,
    recall_chart,
)
from diffad_utils.plots.controls import against_control
from diffad_utils.plots.images import border_maps, captioned_strips, image_grid, labelled_rows, strength_strips
from diffad_utils.plots.lines import (
    band_gains,
    bin_shares,
    curves,
    defect_sizes,
    defect_survival,
    fields,
    frequency_curves,
    intervals_chart,
    lines_with_intervals,
    means_chart,
    panels_with_intervals,
    points_by_size,
    range_chart,
    roc_curves,
    score_histograms,
    stage_times,
    training_curve,
)
from diffad_utils.plots.scores import objectives, posterior_variance, schedule_match, seed_differences
from diffad_utils.plots.style import WIDTH, larger, set_style
from diffad_utils.plots.sweeps import alpha_curves, compromise, heat_maps, pareto

__all__ = [
    "MARKERS",
    "WIDTH",
    "against_control",
    "alpha_curves",
    "answer_chart",
    "band_gains",
    "bin_shares",
    "border_maps",
    "captioned_strips",
    "case_strip",
    "claim_forest",
    "claims_chart",
    "compromise",
    "control_chart",
    "convention_effects",
    "cost_growth",
    "critical_differences",
    "curves",
    "defect_sizes",
    "defect_survival",
    "difference_matrices",
    "fields",
    "frequency_curves",
    "heat_maps",
    "image_grid",
    "intervals_chart",
    "labelled_rows",
    "larger",
    "lines_with_intervals",
    "means_chart",
    "method_scatter",
    "method_styles",
    "objectives",
    "panels_with_intervals",
    "pareto",
    "points_by_size",
    "posterior_variance",
    "range_chart",
    "recall_chart",
    "roc_curves",
    "schedule_match",
    "score_histograms",
    "seed_differences",
    "set_style",
    "stage_times",
    "strength_strips",
    "task_rows",
    "training_curve",
]

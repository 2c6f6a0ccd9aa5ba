"""Building blocks of a critical study of diffusion models for industrial anomaly detection."""

__version__ = "0.1.0"

EARLIER_MODULES = {
    "ablation": "analyses.paired_comparison",
    "adaptation": "methods.d3ad.adaptation",
    "bench_report": "report.benchmarks",
    "bottleneck": "models.autoencoders",
    "captions": "data.captions",
    "checkpoints": "io.checkpoints",
    "claims": "study.claims",
    "comparison": "analyses.comparison",
    "conditioning": "methods.d3ad.conditioning",
    "conventions": "analyses.conventions",
    "diagnostics": "metrics.counterfactual",
    "drift": "analyses.adapter_drift",
    "known_weights": "weights.known",
    "places": "io.paths",
    "profiles": "execution.profiles",
    "resampling": "metrics.bootstrap",
    "score_matching": "methods.esm.equations",
    "score_study": "analyses.score_matching",
    "score_toys": "analyses.score_toys",
    "sweep": "methods.img2img.sweep",
}
"""Modules of 0.1.0 that lay at the top, and where most of each is now."""


def __getattr__(name: str) -> object:
    if name in EARLIER_MODULES:
        raise ImportError(
            f"diffad_utils.{name} is now diffad_utils.{EARLIER_MODULES[name]}: a notebook or Kaggle kernel of 0.1.0 "
            "needs that package: build the kernel again (diffad kaggle build) or attach the data set built with it"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

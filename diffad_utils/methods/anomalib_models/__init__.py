"""Established detectors, through anomalib's own networks, on the same ground as every other method here.

    anomalib:patchcore  Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022
    anomalib:padim      Defard et al., "PaDiM", ICPR 2020 workshops
    anomalib:fastflow   Yu et al., "FastFlow: ... via 2D Normalizing Flows", arXiv 2111.07677
    anomalib:stfpm      Wang et al., "Student-Teacher Feature Pyramid Matching", BMVC 2021
    anomalib:reverse_distillation  Deng and Li, "Anomaly Detection via Reverse Distillation ...", CVPR 2022 (RD4AD)
    anomalib:cfa        Lee et al., "CFA: Coupled-Hypersphere-Based Feature Adaptation ...", IEEE Access 2022
    anomalib:winclip    Jeong et al., "WinCLIP", CVPR 2023
    anomalib:ganomaly   Akcay et al., "GANomaly", ACCV 2018
    anomalib:draem      Zavrtanik et al., "DRAEM", ICCV 2021

Only the networks, losses and scores are anomalib's (`anomalib.models.image.<name>.torch_model`). Its data modules, its
post-processing with thresholds and minimum and maximum of a validation set (which is the test set by default), and its
downloads are not used: images, splits, backbones and metrics are those of this study.

anomalib is an extra (``pip install diffad_utils[baselines]``) and slow to import, so it is imported on first use.
"""

from diffad_utils.methods.anomalib_models.base import AnomalibDetector, BackboneDetector
from diffad_utils.methods.anomalib_models.cfa import CFA
from diffad_utils.methods.anomalib_models.from_scratch import DRAEM, FromScratch, GANomaly
from diffad_utils.methods.anomalib_models.padim import PaDiM
from diffad_utils.methods.anomalib_models.patchcore import PatchCore
from diffad_utils.methods.anomalib_models.reverse_distillation import ReverseDistillation
from diffad_utils.methods.anomalib_models.trained import STFPM, FastFlow, TrainedDetector
from diffad_utils.methods.anomalib_models.winclip import WinCLIP

BY_NAME = {
    cls.name: cls for cls in (PatchCore, PaDiM, FastFlow, STFPM, ReverseDistillation, CFA, WinCLIP, GANomaly, DRAEM)
}
"""These detectors by their names in `METHODS`."""

__all__ = [
    "BY_NAME",
    "CFA",
    "DRAEM",
    "STFPM",
    "AnomalibDetector",
    "BackboneDetector",
    "FastFlow",
    "FromScratch",
    "GANomaly",
    "PaDiM",
    "PatchCore",
    "ReverseDistillation",
    "TrainedDetector",
    "WinCLIP",
]

"""Every method behind one interface; `METHODS` maps the names used in parameters and run folders to classes."""

from diffad_utils.methods.anomalib_models import STFPM, FastFlow, PaDiM, PatchCore, WinCLIP
from diffad_utils.methods.autoencoder import Autoencoder
from diffad_utils.methods.base import Detector, Prediction
from diffad_utils.methods.clip_detectors import ClipKNN, ClipProbe, ClipZeroShot
from diffad_utils.methods.d3ad import D3AD
from diffad_utils.methods.ddad import DDAD
from diffad_utils.methods.esm import ESM, SGM, ESMSigma
from diffad_utils.methods.img2img import Img2Img
from diffad_utils.methods.invad import InvAD
from diffad_utils.methods.latent_unet import LatentUNet
from diffad_utils.methods.lora import LoRA
from diffad_utils.methods.pixel_ddpm import PixelDDPM
from diffad_utils.methods.trivial import Trivial

METHODS: dict[str, type[Detector]] = {
    cls.name: cls
    for cls in (
        Trivial,
        InvAD,
        ClipKNN,
        ClipZeroShot,
        ClipProbe,
        Img2Img,
        LoRA,
        LatentUNet,
        Autoencoder,
        PixelDDPM,
        DDAD,
        D3AD,
        SGM,
        ESM,
        ESMSigma,
        PatchCore,
        PaDiM,
        FastFlow,
        STFPM,
        WinCLIP,
    )
}

__all__ = [
    "D3AD",
    "DDAD",
    "ESM",
    "METHODS",
    "SGM",
    "STFPM",
    "Autoencoder",
    "ClipKNN",
    "ClipProbe",
    "ClipZeroShot",
    "Detector",
    "ESMSigma",
    "FastFlow",
    "Img2Img",
    "InvAD",
    "LatentUNet",
    "LoRA",
    "PaDiM",
    "PatchCore",
    "PixelDDPM",
    "Prediction",
    "Trivial",
    "WinCLIP",
]

"""Stable Diffusion img2img as an anomaly detector (the slides' pipelines 2 and 3).

`engine.py` runs images through the pipeline, `detector.py` scores them, `masked.py`
redraws only where a first pass found something, `sweep.py` and `search.py` try settings,
`lora.py` fine-tunes on what `adapter_training.py` prepares, `adapters.py` reads and writes what it learned.
"""

from diffad_utils.methods.img2img.detector import Img2Img
from diffad_utils.methods.img2img.engine import Img2ImgEngine, Setting
from diffad_utils.methods.img2img.masked import Img2ImgMasked

__all__ = ["Img2Img", "Img2ImgEngine", "Img2ImgMasked", "Setting"]

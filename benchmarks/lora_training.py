"""How much memory and time a step of LoRA training takes for Stable Diffusion v1.5 at 512 pixels.

    python -m benchmarks.lora_training --device cuda                          # the kaggle profile's setting
    python -m benchmarks.lora_training --device cuda --no-checkpointing       # without gradient checkpointing
    python -m benchmarks.lora_training --device cuda --optimizer adamw8bit

Stable Diffusion v1.5's architecture with random weights, which cost the same as trained ones, in the half precision
that the profile has; batch 1 with 4 accumulated passes a step, rank 8. Latents and text features are random, as they
are computed once beforehand in a training. Printed: the adapter's share, seconds a step (median and range), peak memory
of the training and of the whole process on the device, base weights before and after.

Not a test: nothing is asserted. tests/unit/methods/img2img/test_lora.py holds the peak to 16 GB where there is a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks.img2img_sweep import random_sd15
from diffad_utils.diffusion import PRECISIONS
from diffad_utils.methods.img2img import Img2ImgEngine
from diffad_utils.methods.img2img.engine import Posterior
from diffad_utils.methods.img2img.lora import Examples, LoRA, base_checksum
from diffad_utils.training import pick_device


def prepared(detector: LoRA, images: int = 16) -> Examples:
    """Give the detector a random Stable Diffusion v1.5 in its precision, and random examples of its size."""
    device = pick_device(detector.device)
    dtype = (
        PRECISIONS["fp32" if detector.mixed_precision == "no" else detector.mixed_precision]
        if device.type == "cuda"
        else torch.float32
    )
    detector.engine_ = Img2ImgEngine(random_sd15(device, dtype))
    detector.engine_.pipeline.resolved = argparse.Namespace(sha256="random")
    detector.clip_ = None
    detector._set_prompts(["carpet"])
    side, generator = detector.image_size // 8, torch.Generator().manual_seed(0)
    mean = torch.randn(images, 4, side, side, generator=generator)
    text = torch.randn(1, 77, 768, generator=generator)
    return Examples(Posterior(mean, torch.full_like(mean, 0.1)), text, torch.zeros(images, dtype=torch.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-checkpointing", action="store_true")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--precision", default="fp16", help="no, fp16 or bf16")
    arguments = parser.parse_args()
    settings = dict(
        image_size=arguments.size,
        rank=arguments.rank,
        train_steps=arguments.steps,
        train_batch_size=1,
        gradient_accumulation_steps=4,
        mixed_precision=arguments.precision,
        optimizer=arguments.optimizer,
        gradient_checkpointing=not arguments.no_checkpointing,
        device=arguments.device,
    )
    seconds, cuda = [], torch.cuda.is_available()
    for _ in range(arguments.repeats):
        detector = LoRA(**settings)
        examples = prepared(detector)
        before = base_checksum(detector.engine_.unet)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        log = detector._train_adapter(examples, None, ())
        if cuda:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - start) / arguments.steps)
        same = base_checksum(detector.engine_.unet) == before
        print(
            f"{seconds[-1]:.3f} s a step, last loss {log.losses[-1]:.3f}, base weights "
            f"{'unchanged' if same else 'CHANGED'}",
            flush=True,
        )
    counts = detector.adapter_counts_
    print(f"adapter {counts.lora:,} of {counts.base:,} parameters ({100 * counts.share:.2f} %)")
    print(
        f"seconds a step: {statistics.median(seconds):.3f} [{min(seconds):.3f}, {max(seconds):.3f}] over "
        f"{len(seconds)} trainings"
    )
    if cuda:
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB on {torch.cuda.get_device_name()}")


if __name__ == "__main__":
    main()

"""What a profile costs in hours on one GPU, by counting: network evaluations of its main parts times their operations.

    python workflow/budget.py [kaggle-quick] [--half 13] [--single 3.2]

Operations of one evaluation are counted by torch on device `meta` with the profile's sizes; a training step is three of
them (forward, and twice that backward), or two where the weights are frozen on the way. They are divided by what the
GPU keeps up: for a T4 a fifth of its peak in half precision (65 TFLOPS) and two fifths of that in single (8.1 TFLOPS).
These two shares are assumptions, not measurements. What is not counted (reading images, metrics, figures, small
networks) is allowed for by `OVERHEAD`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import memory

from diffad_utils import study
from diffad_utils.execution import profiles

TEST_IMAGES, TRAIN_IMAGES = 117, 280  # MVTec AD's carpet
OVERHEAD = 900.0  # seconds a notebook: start, loading, images, metrics, intervals, figures


@dataclass
class Part:
    """Something that is done `count` times, with `operations` each, in half precision or not."""

    name: str
    count: float
    operations: float
    half: bool


def operations(forward: Callable) -> float:
    """Floating-point operations of a call on device ``meta``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return float(counter.get_total_flops())


def _training(training: memory.Training, steps: float, name: str) -> Part:
    share = 3.0 if all(p.requires_grad for p in training.trained.parameters()) and not training.frozen else 2.0
    return Part(name, steps, share * operations(training.forward), training.half)


def _unet(p: dict) -> float:
    side = p["image_size"] // 8
    unet = memory._meta(lambda: UNet2DConditionModel(cross_attention_dim=768, sample_size=64))
    x, text = memory._zeros(1, 4, side, side), memory._zeros(1, 77, 768)
    return operations(lambda: unet(x, memory._steps(1), text).sample)


def _autoencoder(p: dict) -> float:
    vae, side = memory._meta(lambda: AutoencoderKL(**memory.KL_LEVELS)), p["image_size"]
    encode = operations(lambda: vae.encode(memory._zeros(1, 3, side, side)).latent_dist.mean)
    return encode + operations(lambda: vae.decode(memory._zeros(1, 4, side // 8, side // 8)).sample)


def baselines(p: dict) -> list[Part]:
    """PatchCore, PaDiM and WinCLIP, as in profile `kaggle`: EfficientNet-B4 and ViT-B/32 look, nothing is trained."""
    side, images = p["image_size"], TEST_IMAGES + TRAIN_IMAGES
    net = memory._meta(lambda: timm.create_model("tf_efficientnet_b4", features_only=True))
    clip = memory._meta(lambda: timm.create_model("vit_base_patch32_224"))
    patches, channels = (side // 8) ** 2, 56 + 160  # strides 8 and 16
    nearest = 2.0 * channels * patches * p["coreset_ratio"] * TRAIN_IMAGES * patches
    windows = 1 + 6 * 6 + 5 * 5  # of 2 x 2 and 3 x 3 of the 7 x 7 patches, counted as whole images
    return [
        Part("features", 2 * images, operations(lambda: net(memory._zeros(1, 3, side, side))), False),
        Part("PatchCore, nearest patches", TEST_IMAGES, nearest, False),
        Part("WinCLIP, windows", TEST_IMAGES * windows, operations(lambda: clip(memory._zeros(1, 3, 224, 224))), False),
    ]


def bottleneck(p: dict) -> list[Part]:
    per_step = memory.latent_unet(p)
    passes = TEST_IMAGES * 6 + TRAIN_IMAGES + 2 * p["survey_images"] * (len(p["categories"]) or 15)
    ddpm = memory.pixel_ddpm(p)
    steps = (TEST_IMAGES + p["sweep_images"] * len(p["noise_timesteps"])) * p["denoising_steps"]
    return [
        _training(per_step, p["latent_unet_steps"], "latent UNet through the decoder"),
        Part("autoencoder, images in and out", passes, _autoencoder(p), False),
        _training(ddpm, p["pixel_ddpm_steps"] * (1 + p["pixel_ddpm_variants"]), "pixel DDPM"),
        Part("pixel DDPM, denoising", steps, operations(ddpm.forward) / 8, False),
        _training(memory.plain_autoencoder(p), p["autoencoder_steps"], "plain autoencoder"),
        Part("img2img", p["sweep_images"] * p["strength"] * p["num_inference_steps"] * 2, _unet(p), True),
    ]


def img2img(p: dict) -> list[Part]:
    first, *others = p["step_counts"]  # the grid runs the first; the others are varied at one setting
    executed = 2 * (sum(p["strengths"]) * first * len(p["guidance_scales"]) + p["strength"] * sum(others))
    images = p["sweep_images"] + p["calibration_images"]
    detector = p["strength"] * p["num_inference_steps"] * 2
    second = p["second_strength"] * p["num_inference_steps"] * 2
    pairs = p["pair_images"] * (len(p["sweep_seeds"]) + len(p["guidance_scales"]) + 1) * detector
    round_trip = p["pair_images"] * sum(p["round_trip_steps"]) * 4
    search = p["search_trials"] * p["calibration_images"] * 2 * detector
    decoded = images * (len(p["strengths"]) * len(p["guidance_scales"]) + len(others)) * 2
    return [
        Part("sweep", images * executed, _unet(p), True),
        Part("detector", (TEST_IMAGES + p["calibration_images"]) * detector, _unet(p), True),
        Part("second pass", TEST_IMAGES * second + p["calibration_images"] * (2 * detector + second), _unet(p), True),
        Part("seeds, round trips, search", pairs + round_trip + search, _unet(p), True),
        Part("autoencoder", decoded, _autoencoder(p), True),
    ]


def lora(p: dict) -> list[Part]:
    steps = p["train_steps"] * p["gradient_accumulation_steps"] * (1 + len(p["ranks"]))
    recompute = 3.0 if p["gradient_checkpointing"] else 2.0  # the weights are frozen: one pass backward
    one = p["strength"] * p["num_inference_steps"] * 2
    images = 2 * TEST_IMAGES + 2 * p["study_images"] * (1 + len(p["snapshot_steps"]))
    images += 2 * p["sweep_images"] * (len(p["strengths"]) + len(p["ranks"]) + 2)
    losses = 2 * p["study_images"] * len(p["loss_timesteps"])
    return [
        Part("training", steps * p["train_batch_size"], recompute * _unet(p), True),
        Part("image-to-image", images * one, _unet(p), True),
        Part("denoising loss", losses, _unet(p), True),
        Part("autoencoder", images + TRAIN_IMAGES, _autoencoder(p), True),
    ]


def esm(p: dict) -> list[Part]:
    training = memory.esm(p)
    streams = operations(training.forward) / p["train_batch_size"]
    steps = (p["T_d"] or 100) / p["stride"]
    images = (TEST_IMAGES + p["calibration_images"]) * 3 * p["training_seeds"]
    images += p["sweep_images"] * (2 + len(p["noise_timesteps"]))
    trainings = p["dsm_steps"] / 2 + 1.5 * p["train_steps"]  # the warm-up has one stream; ESM two, SGM one
    trainings *= p["training_seeds"]
    if p["two_heads"]:  # two heads in one stream, and all steps with two streams
        trainings += 0.5 * p["train_steps"] + p["dsm_steps"] + p["train_steps"]
    return [
        Part("training", trainings, 3 * operations(training.forward), training.half),
        Part("reverse process", images * steps, streams, False),
    ]


def d3ad(p: dict) -> list[Part]:
    training, pixels = memory.d3ad(p), memory.ddad(p)
    # steps, omegas, the modifications and removal on all images; guidance and the options of the code on fewer
    images = TEST_IMAGES * (1 + 4 + len(p["noise_fractions"]) + 4 + 2) + 60 * len(p["high_steps"])
    images += p["sweep_images"] * (len(p["guidance_weights"]) + 6)
    adaptations = [4 * max(p["adaptation_epochs"], 1), *p["adaptation_study"]]
    adapted = TRAIN_IMAGES / p["train_batch_size"] * sum(adaptations)
    each = operations(training.forward) / p["train_batch_size"]
    of_pixels = operations(pixels.forward) / p["train_batch_size"]
    return [
        _training(training, p["train_steps"], "training on latents"),
        _training(pixels, p["ddad_steps"], "training of DDAD"),
        Part("denoising", images * p["num_steps"], each, False),
        Part("denoising by DDAD", TEST_IMAGES * (1 + 2 * len(p["ddad_weights"])) * p["num_steps"], of_pixels, False),
        Part("autoencoder", images + TRAIN_IMAGES, _autoencoder(p), False),
        Part("adaptation", adapted, 3 * operations(memory.adaptation(p).forward), False),
    ]


def invad(p: dict) -> list[Part]:
    training = memory.invad(p)
    each = operations(training.forward) / p["train_batch_size"]
    rivals = p["sweep_images"] * (sum(p["denoising_step_counts"]) + len(p["noise_timesteps"]) * p["denoising_steps"])
    images = TEST_IMAGES * p["num_steps"] + p["sweep_images"] * 2 * sum(p["step_counts"]) + rivals
    return [
        _training(training, (2 + p["training_seeds"]) * p["train_steps"], "training: unified, no skip, one category"),
        Part("inversion and denoising", images, each, False),
    ]


PARTS = {
    "01_data": baselines,
    "02_vae_bottleneck": bottleneck,
    "03_img2img_sweep": img2img,
    "04_lora": lora,
    "05_esm": esm,
    "06_d3ad": d3ad,
    "07_invad": invad,
}


def table(profile: str, half: float, single: float) -> list[tuple[str, str, float, float, float]]:
    """(notebook, part, count, evaluations or steps a second, minutes) for the first run of each notebook."""
    rows, seen = [], set()
    for run in profiles.load_plan(profile).runs:
        if run.notebook.stem in seen or run.notebook.stem not in PARTS:
            continue
        seen.add(run.notebook.stem)
        for part in PARTS[run.notebook.stem](study.notebook_parameters(run.notebook) | run.parameters):
            rate = (half if part.half else single) * 1e12 / part.operations
            rows.append((run.notebook.stem, part.name, part.count, rate, part.count / rate / 60))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", nargs="?", default="kaggle-quick")
    parser.add_argument(
        "--half", type=float, default=13.0, help="TFLOPS kept up in half precision (default %(default)g)"
    )
    parser.add_argument("--single", type=float, default=3.2, help="TFLOPS kept up in single (default %(default)g)")
    options = parser.parse_args(arguments)
    rows = table(options.profile, options.half, options.single)
    print("| notebook | part | steps or images x steps | a second | minutes |\n| --- | --- | --- | --- | --- |")
    hours = 0.0
    for notebook in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == notebook]
        for _, name, count, rate, minutes in own:
            print(f"| {notebook} | {name} | {count:,.0f} | {rate:,.1f} | {minutes:.1f} |")
        total = sum(row[4] for row in own) + OVERHEAD / 60
        hours += total / 60
        print(f"| **{notebook}** | with {OVERHEAD / 60:.0f} minutes for all else | | | **{total:.0f}** |")
    print(f"\n{hours:.1f} hours of GPU for the first run of each notebook.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How much faster is the sweep engine than calling diffusers' img2img pipeline image by image and setting by setting?

    python -m benchmarks.img2img_sweep                                       # the shipped small model, on the CPU
    python -m benchmarks.img2img_sweep --random-sd15 --device cuda --size 512 --repeats 3

Peer: the seed project's way (codes/img2img.ipynb), one call of ``StableDiffusionImg2ImgPipeline`` for each image and
setting, Pillow images in and out, in fp32 on a CPU and fp16 on a GPU, on its own copy of the networks; and the same
with attention slicing, which the slides ("Implementation Details") switch on. The engine once in each of
``--precisions``. All run the same images and settings in alternation, so what else the machine does meets all. Columns:

- times as fast: the peer's wall time over the engine's, median and range over the repeats, without and with slicing;
- on a CPU the ratio of processor times as well (without slicing): it says how much work is saved, where the wall time
  also says how well the cores are kept busy. (Threads that wait for one another may spin, which counts as processor
  time.)
- wall time / bound: the bound is evaluations x (time of one batched UNet evaluation / its rows) + the autoencoder's
  share. The evaluation is timed before and after each sweep, with the engine's workers, and the mean taken.

Not a test: nothing is asserted. ``--random-sd15`` builds Stable Diffusion v1.5's architecture with random weights,
which cost the same time as trained ones.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks import harness
from diffad_utils.diffusion import PRECISIONS
from diffad_utils.methods.img2img import Img2ImgEngine, Setting, sweep
from diffad_utils.models.stable_diffusion import SCHEDULE, clip_tokenizer, load_pipeline
from diffad_utils.training import pick_device

PROMPT = "a flawless woven carpet"


def random_sd15(device: torch.device, dtype: torch.dtype) -> StableDiffusionImg2ImgPipeline:
    """Stable Diffusion v1.5's architecture (860 M parameters in the UNet) with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=512,
            scaling_factor=0.18215,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                hidden_act="quick_gelu",
                projection_dim=768,
            )
        )
    parts = [network.to(dtype).eval().requires_grad_(False) for network in (vae, text, unet)]
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=parts[0],
        text_encoder=parts[1],
        unet=parts[2],
        tokenizer=clip_tokenizer(),
        scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seconds(function) -> tuple[float, float]:
    """Wall and processor time of one call, with the device idle before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start, processor = time.perf_counter(), time.process_time()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, time.process_time() - processor


def one_by_one(pipeline: StableDiffusionImg2ImgPipeline, pictures: list[Image.Image], settings: list[Setting]) -> None:
    generator = torch.Generator().manual_seed(42)  # one for all images, as in their code
    for setting in settings:
        for picture in pictures:
            pipeline(
                prompt=PROMPT,
                image=picture,
                strength=setting.strength,
                guidance_scale=setting.guidance_scale,
                num_inference_steps=setting.num_inference_steps,
                generator=generator,
            )


def at_once(engine: Img2ImgEngine, images: torch.Tensor, settings: list[Setting]) -> sweep.Sweep:
    keys, prompts = [f"image-{i}" for i in range(len(images))], [PROMPT] * len(images)
    with tempfile.TemporaryDirectory() as folder:  # images are decoded and files written, as in use
        return sweep.run(engine, images, keys, prompts, settings, folder, measure=lambda indices, x_hat: {})


def seconds_per_row(engine: Img2ImgEngine, size: int, repeats: int) -> float:
    """Time of one batched UNet evaluation over its rows; guided, so the UNet sees twice the engine's batch size."""
    rows, side = engine.batch_size, size // engine.size_factor
    x = torch.randn(rows, engine.unet.config.in_channels, side, side, device=engine.device)

    def piece(part: slice) -> torch.Tensor:
        chosen = x[part]
        eps_fn = engine.eps_fn([engine.embed(PROMPT)] * len(chosen), [5.0] * len(chosen))
        return eps_fn(chosen, torch.full((len(chosen),), 500, device=engine.device))

    with torch.inference_mode():
        engine._in_pieces(piece, rows, "batch_size")
        return statistics.median(
            seconds(lambda: engine._in_pieces(piece, rows, "batch_size"))[0] for _ in range(repeats)
        ) / (2 * rows)


def timed_sweep(
    engine: Img2ImgEngine, images: torch.Tensor, settings: list[Setting]
) -> tuple[float, float, float, int]:
    """Wall and processor time of a sweep, its bound, all in seconds, and the number of evaluations."""
    size, done = images.shape[-1], []
    before = seconds_per_row(engine, size, 5)
    wall, processor = seconds(lambda: done.append(at_once(engine, images, settings)))
    per_row = (before + seconds_per_row(engine, size, 5)) / 2
    (swept,) = done
    if swept.evaluations != swept.expected_evaluations:
        raise RuntimeError(f"{swept.evaluations} evaluations of the UNet, {swept.expected_evaluations} were expected")
    return (
        wall,
        processor,
        swept.evaluations * per_row + swept.seconds["encode"] + swept.seconds["decode"],
        swept.evaluations,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.img2img_sweep", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="sd-mini")
    parser.add_argument("--random-sd15", action="store_true", help="Stable Diffusion v1.5 with random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[3.5, 9.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="cores for either side, on a CPU")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        help=(
            "of the engine's networks; default: fp16 on a GPU, else fp32, and bf16 where the processor has "
            "instructions for it"
        ),
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile for the engine's UNet")
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN time its algorithms, for both sides")
    parser.add_argument(
        "--quick", action="store_true", help="one image and setting, to see that it runs; nothing is written"
    )
    options = parser.parse_args()
    if options.quick:
        options.images, options.strengths, options.guidance_scales, options.steps, options.repeats = (
            1,
            [0.1],
            [3.5],
            [20],
            1,
        )
    device = pick_device(options.device)
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = options.cudnn_benchmark
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # as in the other topics
    on_gpu = device.type == "cuda"
    usual = "fp16" if on_gpu else "fp32"
    native = [usual] if on_gpu or not torch.cpu.get_capabilities().get("avx512_bf16") else [usual, "bf16"]

    def load(precision: str) -> StableDiffusionImg2ImgPipeline:
        if options.random_sd15:
            return random_sd15(device, PRECISIONS[precision])
        return load_pipeline(options.weights, device=str(device), dtype=PRECISIONS[precision])

    peers = {"plain": load(usual), "sliced": load(usual)}
    peers["sliced"].enable_attention_slicing()
    engines = {name: Img2ImgEngine(load(name), options.batch_size) for name in options.precisions or native}
    settings = sweep.grid(options.strengths, options.guidance_scales, options.steps)
    images = torch.rand(options.images, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    pictures = [to_pil_image(image) for image in images]

    for peer in peers.values():
        one_by_one(peer, pictures[:1], settings[:1])
    for engine in engines.values():
        if options.compile:
            engine.unet.compile()
        at_once(engine, images, settings if options.compile else settings[-1:])
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    theirs, ours = {name: [] for name in peers}, {name: [] for name in engines}
    for _ in range(options.repeats):
        for name, engine in engines.items():
            ours[name].append(timed_sweep(engine, images, settings))
        for name, peer in peers.items():
            theirs[name].append(seconds(lambda peer=peer: one_by_one(peer, pictures, settings)))
    rows = [
        {
            "name": f"diffusers' pipeline, image by image, {usual}" + ", attention slicing" * (name == "sliced"),
            "wall_s": harness.median_and_range([wall for wall, _ in times]),
            "rounds": len(times),
        }
        for name, times in theirs.items()
    ]

    def ratio(peer: str, runs: list[tuple[float, ...]], column: int) -> list[float]:
        return harness.median_and_range(
            [before[column] / run[column] for before, run in zip(theirs[peer], runs, strict=True)]
        )

    for name, runs in ours.items():
        rows.append(
            {
                "name": f"sweep engine, {name}" + ", compiled" * options.compile,
                "wall_s": harness.median_and_range([run[0] for run in runs]),
                "rounds": len(runs),
                "times as fast": ratio("plain", runs, 0),
                **({} if on_gpu else {"times as fast, processor time": ratio("plain", runs, 1)}),
                "times as fast as with slicing": ratio("sliced", runs, 0),
                "wall time / bound": harness.median_and_range([run[0] / run[2] for run in runs]),
                "evaluations": runs[0][3],
            }
        )
    weights = "Stable Diffusion v1.5's size" if options.random_sd15 else options.weights
    title = (
        f"img2img: {len(images)} images of {options.size} px x {len(settings)} settings, {weights}, batches of "
        f"{options.batch_size}"
    )
    note = (
        f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        if on_gpu
        else "evaluations: of the UNet, one a row"
    )
    harness.write("img2img_sweep", options, [{"title": title, "rows": rows, "note": note}])


if __name__ == "__main__":
    main()

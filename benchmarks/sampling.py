"""What sampling costs beside the network, and images a second against the straightforward way.

    python -m benchmarks.sampling [--device cuda] [--quick] [--compile]

1. Overhead: the time of a whole sampling loop over that of the same number of calls of the bare network at the same
batch.
   1 would be a loop that costs nothing. On a GPU also an UNet of Stable Diffusion v1.5's size with random weights.
2. InvAD in its three-step setting, and the same network in a plain loop that looks up and broadcasts every coefficient
a
   step, with the state recomputed by way of x_0 as public code does it.
3. D3AD, and the same networks image by image (Algorithm 1), with scikit-learn's neighbours and the training images'
   features extracted for the run.

Networks have random weights where only time counts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from benchmarks import harness
from diffad_utils import data, diffusion
from diffad_utils.methods import METHODS
from diffad_utils.methods.d3ad.conditioning import denoising_timesteps, pooled_features
from diffad_utils.methods.img2img import Img2ImgEngine, Setting
from diffad_utils.methods.invad import InvAD
from diffad_utils.models.stable_diffusion import load_pipeline, load_vae

CHANNELS = 272


def compilable(device: str) -> bool:
    """Whether torch.compile has what it needs: on a CPU a C++ compiler."""
    return device != "cpu" or shutil.which("g++") is not None


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter from N(0, 0.02^2): a network that is 0 at the start would skip nothing, but test nothing
    either."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def invad(device: str, batch_size: int, **settings) -> InvAD:
    detector = InvAD(device=device, batch_size=batch_size, **settings)
    detector.categories_ = []
    detector._build_denoiser(CHANNELS)
    randomised(detector.denoiser_)
    return detector


# --- 1. Overhead ------------------------------------------------------------------------------------------------------


def invad_loop(device: str, batch_size: int) -> tuple[Callable, Callable, int]:
    detector = invad(device, batch_size)
    features = torch.randn(batch_size, CHANNELS, detector.grid, detector.grid)
    x, t = features.to(device), torch.full((batch_size,), 333, device=device)
    return lambda: detector.invert(features), lambda: detector.denoiser_(x, t), detector.num_steps


def img2img_loop(
    device: str, batch_size: int, pipeline=None, size: int = 128, guidance: float = 7.5
) -> tuple[Callable, Callable, int]:
    """Guided: the network sees each image twice at once."""
    engine = Img2ImgEngine(pipeline or load_pipeline("sd-mini", device=device), batch_size)
    setting = Setting(strength=0.5, guidance_scale=guidance, num_inference_steps=20)
    posterior = engine.encode(torch.rand(batch_size, 3, size, size))
    texts, keys = [engine.embed("a flawless carpet")] * batch_size, [str(i) for i in range(batch_size)]
    rows = 2 * batch_size
    x = posterior.mean.repeat(2, 1, 1, 1).to(device, engine.unet.dtype)
    t, hidden = torch.full((rows,), 500, device=device), torch.stack([texts[0].prompt] * rows).to(engine.unet.dtype)

    def bare():
        return engine.unet(x, t, encoder_hidden_states=hidden, return_dict=False)[0]

    return lambda: engine.denoise(posterior, keys, texts, [setting] * batch_size), bare, setting.executed_steps


def conditioned_loop(name: str, device: str, batch_size: int) -> tuple[Callable, Callable, int]:
    """DDAD or D3AD, all images from one step, so that all are in every call."""
    detector = METHODS[name](device=device, batch_size=batch_size)
    detector._load_networks()
    detector._build_unet()
    randomised(detector.unet_)
    state = torch.randn(batch_size, *detector._space.shape(detector.image_size)).to(device)
    steps, t = torch.full((batch_size,), detector.deepest_step), torch.full((batch_size,), 50, device=device)
    calls = len(denoising_timesteps(steps, detector.num_steps, detector.deepest_step, detector.plan))
    noise = torch.randn(1 + calls, *state.shape)
    return lambda: detector._denoise(state, steps, state, 3.0, noise), lambda: detector.predict_noise(state, t), calls


def score_matching_loop(name: str, device: str, batch_size: int) -> tuple[Callable, Callable, int]:
    """Reverse process of ESM; for ESM-sigma the forward process too, which evaluates one of the two streams a step."""
    from diffad_utils.methods.esm import equations

    detector = METHODS[name](device=device, batch_size=batch_size, image_size=64)
    shape = (3, 64, 64)
    detector._build(shape)
    for parameter in detector.network_.parameters():
        parameter.data.mul_(0.1)
    x0, steps = torch.rand(batch_size, *shape).to(device), 10
    edges = equations.step_edges(steps, 1)
    network, t, least = detector.network_, torch.full((batch_size,), 5, device=device), detector.variance_min

    def loop():
        return equations.esm_reverse(network, x0, detector.schedule_, edges, variance_min=least)

    def guided():
        x = equations.guided_forward(
            network.variance, x0, edges, 0.01, 0, [str(i) for i in range(batch_size)], variance_min=least
        )
        return equations.guided_reverse(network, x, detector.schedule_, edges, 0.01, variance_min=least)

    def both_ways():
        network.variance(x0, t)
        return network(x0, t)

    return (loop, lambda: network(x0, t), steps) if name == "esm" else (guided, both_ways, steps)


def overheads(options) -> dict:
    device, batch = options.device, 2 if options.quick else 8
    cases = {
        f"invad, batch {batch}": lambda: invad_loop(device, batch),
        f"img2img, sd-mini, batch {batch}": lambda: img2img_loop(device, batch),
    }
    for name in ("d3ad", "ddad"):
        cases[f"{name}, batch {batch}"] = lambda name=name: conditioned_loop(name, device, batch)
    for name in ("esm", "esm_sigma"):
        if name in METHODS:
            cases[f"{name}, batch {batch}"] = lambda name=name: score_matching_loop(name, device, batch)
    if device.startswith("cuda"):
        from benchmarks.img2img_sweep import random_sd15

        pipeline = random_sd15(torch.device(device), torch.float16)
        cases["img2img, SD v1.5 size, fp16, batch 8"] = lambda: img2img_loop(device, 8, pipeline, 512)
    rows = []
    for name, build in cases.items():
        loop, bare, calls = build()
        with torch.inference_mode():
            bound = {"network alone": lambda b=bare, n=calls: [b() for _ in range(n)], "loop": loop}
            measured = harness.interleave(bound, options.repeats or (3 if options.quick else 5), device=device)[0]
        _alone, whole = measured
        rows.append(
            {
                "loop": name,
                "calls": calls,
                "loop_s": whole["wall_s"],
                "cpu_s": whole["cpu_s"],
                "loop / (calls x network)": whole["ratio"],
            }
        )
    return {
        "title": "Overhead of sampling loops",
        "rows": rows,
        "note": "ratio of processor times on a CPU, of wall times on a GPU",
    }


# --- 2. InvAD ---------------------------------------------------------------------------------------------------------


def plain_inversion(
    network, schedule: diffusion.NoiseSchedule, features: torch.Tensor, num_steps: int, batch_size: int, device: str
) -> torch.Tensor:
    """Batch by batch, the reverse of DDIM by way of x_0, with coefficients looked up and broadcast at every step."""
    visits = diffusion.inversion_timesteps(schedule, num_steps)
    sqrt_recip = (1 / torch.tensor(visits.alpha_from)).sqrt().numpy()
    sqrt_recip_minus_one = (1 / torch.tensor(visits.alpha_from) - 1).sqrt().numpy()
    alpha_next = np.array(visits.alpha_to)

    def extract(values: np.ndarray, i: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        found = torch.from_numpy(values).to(device)[i].float()
        while found.ndim < len(shape):
            found = found[..., None]
        return found.expand(shape)

    outputs = []
    with torch.no_grad():
        for start in range(0, len(features), batch_size):
            x = features[start : start + batch_size].to(device)
            for i in range(num_steps):
                step = torch.tensor([i] * len(x), device=device)
                eps = network(x, torch.tensor(visits.timesteps, device=device)[step])
                x_start = extract(sqrt_recip, step, x.shape) * x - extract(sqrt_recip_minus_one, step, x.shape) * eps
                eps = (extract(sqrt_recip, step, x.shape) * x - x_start) / extract(sqrt_recip_minus_one, step, x.shape)
                level = extract(alpha_next, step, x.shape)
                x = x_start * level.sqrt() + (1 - level).sqrt() * eps
            outputs.append(x.cpu())
    return torch.cat(outputs)


def invad_throughput(options) -> dict:
    count, batch = (4, 2) if options.quick else (32, 8)
    features = torch.randn(count, CHANNELS, 16, 16)
    ours, short = invad(options.device, batch), invad(options.device, batch, inference_precision="bf16")
    bound = {
        "plain loop, fp32": lambda: plain_inversion(ours.denoiser_, ours.schedule, features, 3, batch, options.device),
        "ours, fp32": lambda: ours.invert(features),
        "ours, bf16": lambda: short.invert(features),
    }
    for precision in ("fp32", "bf16") if options.compile and compilable(options.device) else ():
        compiled = invad(options.device, batch, inference_precision=precision).compile()
        compiled.invert(features)  # compiling is not what is measured
        bound[f"ours, {precision}, compiled"] = lambda detector=compiled: detector.invert(features)
    if options.device.startswith("cuda"):
        x = features[:batch].cuda()
        eps_fn = diffusion.in_precision(lambda x, t: ours.denoiser_(x, t), "bf16")
        graph = diffusion.cuda_graph(eps_fn, x, torch.zeros(batch, dtype=torch.int64, device="cuda"))

        def graphed():
            with torch.inference_mode():
                parts = features.split(batch)
                return torch.cat([diffusion.ddim_invert(graph, part.cuda(), ours.schedule, 3).cpu() for part in parts])

        bound["ours, bf16, CUDA graph"] = graphed
    rows, values = harness.interleave(bound, options.repeats or 5, device=options.device)
    exact, which = values["plain loop, fp32"].double(), "wall_s" if options.device != "cpu" else "cpu_s"
    for row in rows:
        off = (values[row["name"]].double() - exact).norm() / exact.norm()
        row |= {
            "images/s": round(count / row[which][0], 2),
            "times the plain loop": round(1 / row["ratio"][0], 2),
            "relative difference": float(f"{off:.1e}"),
        }
    return {
        "title": f"InvAD, 3 steps, batch {batch}",
        "rows": rows,
        "note": "relative difference: of the latents, Euclidean norm",
    }


# --- 3. D3AD ----------------------------------------------------------------------------------------------------------


def fitted_d3ad(device: str, quick: bool):
    """A detector fitted on a whole category of the textures, and at most 64 of its test images."""
    index = data.load_index("textures", category="leather")
    train, test = (
        data.ImageDataset(index[index["split"] == split].iloc[: 12 if quick else None], size=128)
        for split in ("train", "test")
    )
    detector = METHODS["d3ad"](device=device, train_steps=2, warmup_steps=1, adaptation_epochs=0, k=5)
    return detector.fit(train), data.load_batch(test)["image"][:64]


def image_by_image(detector, vae, images: torch.Tensor) -> torch.Tensor:
    """Algorithm 1 for one image after the other, with the autoencoder as diffusers opens it; scores [B]."""
    train = torch.cat([detector._input(sample["image"][None]) for sample in detector._fitted_images])
    bank = np.stack([pooled_features(detector.features(image[None])[0].cpu()).flatten().numpy() for image in train])
    neighbours = NearestNeighbors(n_neighbors=detector.k, algorithm="brute", metric="manhattan").fit(bank)
    scores, alphas = [], detector.schedule.alphas_cumprod
    with torch.no_grad():
        for image in images:
            x = detector._input(image[None])
            query = pooled_features(detector.features(x)[0].cpu()).flatten(1).numpy()
            distance = torch.from_numpy(neighbours.kneighbors(query)[0]).double().mean(dim=1)
            step = detector.dynamic_step_.step_of(detector.dynamic_step_.bin_of(distance))
            target = vae.encode(2 * x.to(vae.device) - 1).latent_dist.mean * vae.config.scaling_factor
            z = alphas[step].sqrt().float().to(target.device) * target
            visited = denoising_timesteps(step, detector.num_steps, detector.deepest_step, detector.plan)[:, 0].tolist()
            for t, after in zip(visited, [*visited[1:], None], strict=True):
                level, following = alphas[t].to(z), torch.tensor(1.0) if after is None else alphas[after].to(z)
                eps = detector.predict_noise(z, torch.tensor([t], device=z.device))
                eps = eps - detector.guidance_weight * (1 - level).sqrt() * (
                    level.sqrt() * target + (1 - level).sqrt() * eps - z
                )
                z = following.sqrt() * (z - (1 - level).sqrt() * eps) / level.sqrt() + (1 - following).sqrt() * eps
            x_hat = (vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).cpu()
            residual = detector.residual_map(x, x_hat, target.cpu(), z.cpu())
            feature = detector.feature_map(detector.features(x), x_hat)
            scores.append(detector.anomaly_map(residual, feature).max())
    return torch.stack(scores)


def d3ad_throughput(options) -> dict:
    detector, images = fitted_d3ad(options.device, options.quick)
    vae = load_vae("sd-mini", device=options.device, allow_mini=True).to(memory_format=torch.contiguous_format)

    def scores(detector) -> torch.Tensor:
        return torch.cat([detector.predict(part).score for part in images.split(detector.batch_size)])

    detectors = {"ours, fp32": detector}
    if options.device != "cpu" or torch.cpu.get_capabilities().get("avx512_bf16"):
        detectors["ours, bf16"] = detector.with_settings(inference_precision="bf16")
    else:
        print("this processor has no instructions for bf16, which takes many times as long: left out")
    if options.compile and compilable(options.device):
        for name, fitted in list(detectors.items()):
            with tempfile.TemporaryDirectory() as folder:  # another copy: compiling happens in place
                fitted.save(folder)
                detectors[f"{name}, compiled"] = type(fitted).load(folder, options.device).compile()
            scores(detectors[f"{name}, compiled"])  # compiling is not what is measured
    bound = {"image by image": lambda: image_by_image(detector, vae, images)}
    bound |= {name: lambda fitted=fitted: scores(fitted) for name, fitted in detectors.items()}
    rows, values = harness.interleave(bound, options.repeats or 3, device=options.device)
    which = "wall_s" if options.device != "cpu" else "cpu_s"
    for row in rows:
        off = float((values[row["name"]] / values["image by image"] - 1).abs().max())
        row |= {
            "images/s": round(len(images) / row[which][0], 2),
            "times as fast": round(1 / row["ratio"][0], 2),
            "largest relative difference of a score": float(f"{off:.1e}"),
        }
    return {
        "title": (
            f"D3AD, {len(images)} images of 128 px, {len(detector._fitted_images)} training images, sd-mini's "
            f"autoencoder"
        ),
        "rows": rows,
    }


def growing(options) -> dict:
    detector, rows = invad(options.device, 8), []
    features, counts = torch.randn(8, CHANNELS, 16, 16), [2, 3] if options.quick else [2, 3, 5, 10]
    which = "wall_s" if options.device != "cpu" else "cpu_s"
    seconds = []
    for steps in counts:
        detector.num_steps = steps
        seconds.append(
            harness.interleave({"ours": lambda: detector.invert(features)}, 3, device=options.device)[0][0][which][0]
        )
    rows.append(
        {
            "what": "invad, DDIM steps",
            "sizes": str(counts),
            "seconds": str(seconds),
            "time exponent": harness.growth(counts, seconds),
        }
    )
    detector.num_steps, sizes, seconds = 3, [1, 2] if options.quick else [2, 4, 8, 16], []
    for size in sizes:
        detector.batch_size = size
        features = torch.randn(size, CHANNELS, 16, 16)
        seconds.append(
            harness.interleave({"ours": lambda f=features: detector.invert(f)}, 3, device=options.device)[0][0][which][
                0
            ]
        )
    rows.append(
        {
            "what": "invad, images in a batch",
            "sizes": str(sizes),
            "seconds": str(seconds),
            "time exponent": harness.growth(sizes, seconds),
        }
    )
    return {"title": "How cost grows", "rows": rows}


def main() -> None:
    options = harness.arguments(
        "sampling", __doc__, compile="InvAD and D3AD through torch.compile too (minutes of compiling on a CPU)"
    )
    torch.manual_seed(0)
    harness.write(
        "sampling", options, [overheads(options), invad_throughput(options), d3ad_throughput(options), growing(options)]
    )


if __name__ == "__main__":
    main()

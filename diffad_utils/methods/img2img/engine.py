"""Stable Diffusion image-to-image with a prompt, scored by the distance between an image and its "flawless" version.

Source: Madan, Srivastava, Raghuvanshi, "A Critical Evaluation of Diffusion Models" (slides, IIT (BHU) Varanasi, 2025),
"Three Reconstruction Pipelines" (2) and "Hybrid Anomaly Scoring"; the settings of their code (codes/img2img.ipynb) are
in data/published/hyperparameters.csv. The image is encoded, noised to a level that `strength` sets (SDEdit: Meng et
al., ICLR 2022, section 3.2), denoised by DDIM with classifier-free guidance (Ho and Salimans, 2022, eq. 6), and
decoded.

Where ours differs from their code:

- *Sampler*: their code keeps the pipeline's default scheduler (PNDM), the slides say DDIM. Ours is DDIM.
- *Noise*: their code draws from one generator for all images, so an image's noise depends on those before it. Ours is
  seeded by (seed, image key).
- *Prompt*: "a defect-free {category}" in their code, "a flawless carpet" in the slides. Ours is the slides', with the
  category's noun; both are templates.
- *Score*: the raw sum of a squared error and a cosine distance, which are not on one scale (``calibrated=False``). Ours
  scales both by held-out normal training images first.

The engine below does for many images and many settings what diffusers' ``StableDiffusionImg2ImgPipeline`` does for one:
an image is encoded once, a prompt is embedded once, and one batch may hold any settings with the same number of
executed steps. For one image and one setting its latents are the pipeline's.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor

from diffad_utils.diffusion import EpsFn, ddim_moves, ddim_step, image_noise
from diffad_utils.io import store
from diffad_utils.methods.kept import kept
from diffad_utils.models import autoencoders
from diffad_utils.models.device import in_pieces


@dataclass(frozen=True, order=True)
class Setting:
    """One configuration of image-to-image. The defaults are those of the seed project's code.

    strength : share of the schedule that is run, in (0, 1]; higher noises the image more.
    guidance_scale : classifier-free guidance; up to 1 means none, as in diffusers.
    num_inference_steps : DDIM steps of the whole schedule; ``int(num_inference_steps * strength)`` are executed.
    seed : of the noise, together with the image key.

    Raises ``ValueError`` for a strength outside (0, 1], a negative guidance, or less than one executed step.
    """

    strength: float = 0.35
    guidance_scale: float = 7.5
    num_inference_steps: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength must be in (0, 1], got {self.strength}")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale must be finite and 0 or more (to 1: none), got {self.guidance_scale}")
        if self.num_inference_steps < 1 or int(self.num_inference_steps) != self.num_inference_steps:
            raise ValueError(f"num_inference_steps must be a whole number, 1 or more, got {self.num_inference_steps}")
        if self.executed_steps < 1:
            raise ValueError(
                f"strength {self.strength} of {self.num_inference_steps} steps is less than one step; use a strength "
                f"of at least {1 / self.num_inference_steps:.3g} or more steps"
            )

    @property
    def executed_steps(self) -> int:
        """Denoising steps that are run; rounded down, as in diffusers."""
        return min(int(self.num_inference_steps * self.strength), self.num_inference_steps)

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1

    @property
    def evaluations(self) -> int:
        """UNet evaluations an image: two a step with guidance, one without."""
        return self.executed_steps * (2 if self.guided else 1)

    @property
    def computation(self) -> tuple[int, int, float | None, int]:
        """What is computed: executed and whole steps, guidance scale (None without), seed. Strengths 0.30 and 0.34 of
        10 steps both run 3 steps, and scales of 0 to 1 none of them guides: equal computations, equal results."""
        guidance = self.guidance_scale if self.guided else None
        return self.executed_steps, self.num_inference_steps, guidance, self.seed

    def __str__(self) -> str:
        what = f"strength-{self.strength:g}_guidance-{self.guidance_scale:g}"
        return f"{what}_steps-{self.num_inference_steps}_seed-{self.seed}"


class Schedule(NamedTuple):
    """The steps of a setting: timesteps int64 [n], and alpha_bar before and after each step, float64 [n]."""

    timesteps: Tensor
    alpha_from: Tensor
    alpha_to: Tensor


@dataclass(frozen=True)
class Posterior:
    """What an autoencoder says of images: mean and std of their scaled latents, float32 [N, C, h, w] on the CPU."""

    mean: Tensor
    std: Tensor

    def __getitem__(self, rows: slice | Sequence[int]) -> Posterior:
        return Posterior(self.mean[rows], self.std[rows])


class TextPair(NamedTuple):
    """Features of a prompt and of its negative prompt, [L, D] each, on the device."""

    prompt: Tensor
    negative: Tensor


def ddim_schedule(scheduler: DDIMScheduler, num_inference_steps: int, executed_steps: int) -> Schedule:
    """The last ``executed_steps`` of diffusers' DDIM schedule of ``num_inference_steps``, as its pipeline runs them.

    Raises ``ValueError`` if the scheduler cannot make that many steps.
    """
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps[num_inference_steps - executed_steps :].cpu()
    alphas = scheduler.alphas_cumprod.double()
    if int(timesteps.max()) >= len(alphas):
        raise ValueError(f"{num_inference_steps} steps do not fit the model's {len(alphas)} timesteps; use fewer")
    before = timesteps - len(alphas) // num_inference_steps
    final = scheduler.final_alpha_cumprod.double()
    return Schedule(timesteps, alphas[timesteps], torch.where(before >= 0, alphas[before.clamp_min(0)], final))


class Img2ImgEngine:
    """Image-to-image for many images and settings at once, on the networks of a diffusers pipeline.

    Parameters
    ----------
    pipeline : its autoencoder, UNet, tokenizer and text encoder are used, its scheduler's schedule with DDIM.
    batch_size : rows (one image with one setting) that the UNet sees at once; with guidance it sees twice as many.
        Halved whenever memory runs out, and kept at what fitted.

    Attributes
    ----------
    workers : threads that share a batch, each with rows of its own and one core; 1 on a GPU, on a CPU as many as torch
        had threads. Cores that share every operation instead wait for one another at each of hundreds of small ones.
    evaluations : UNet evaluations so far, one for each row of each call.
    seconds : wall time so far by stage: "encode", "unet", "decode".

    Raises ``ValueError`` for a model that does not predict the noise (epsilon).
    """

    def __init__(self, pipeline: StableDiffusionImg2ImgPipeline, batch_size: int = 32):
        # Without these two a configuration written for PNDM, which has neither, would get DDIM's defaults, which clip.
        self.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
        if self.scheduler.config.prediction_type != "epsilon":
            raise ValueError(
                f"expected a model that predicts the noise (epsilon), got prediction_type="
                f"{self.scheduler.config.prediction_type!r}; Stable Diffusion 1.x does, some 2.x models do not"
            )
        self.pipeline, self.unet, self.vae = pipeline, pipeline.unet, pipeline.vae
        self.batch_size, self.decode_size = batch_size, min(batch_size, autoencoders.AT_ONCE)
        self.workers = torch.get_num_threads() if pipeline.unet.device.type == "cpu" else 1
        self.evaluations, self.seconds, self._counting = 0, Counter(), threading.Lock()
        self._texts: dict[tuple[str, str], TextPair] = {}
        self._schedules: dict[tuple[int, int], Schedule] = {}
        for network in (self.unet, self.vae):
            network.to(memory_format=torch.channels_last)  # convolutions are faster on it, on CPUs and on GPUs

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def size_factor(self) -> int:
        """Sides of images must be multiples of this."""
        return self.pipeline.vae_scale_factor

    def depends_on(self) -> Any:
        """What its results depend on, for the store."""
        sizes = self.batch_size, self.decode_size, self.workers
        networks = self.unet, self.vae, self.pipeline.text_encoder
        return [*sizes, *networks, str(self.unet.dtype), str(self.device), str(sorted(self.scheduler.config.items()))]

    def check_size(self, height: int, width: int) -> None:
        """Raise ``ValueError`` for images whose sides the autoencoder cannot divide."""
        if height % self.size_factor or width % self.size_factor:
            raise ValueError(f"images must have sides that are multiples of {self.size_factor}, got {height} x {width}")

    def schedule(self, setting: Setting) -> Schedule:
        """The steps of a setting; settings with equal numbers of steps share one."""
        key = setting.num_inference_steps, setting.executed_steps
        if key not in self._schedules:
            self._schedules[key] = ddim_schedule(self.scheduler, *key)
        return self._schedules[key]

    def encode(self, images: Tensor) -> Posterior:
        """images float [N, 3, H, W] in [0, 1] -> posterior of latents [N, C, h, w]; std 0 for an AutoencoderTiny."""
        self.check_size(*images.shape[-2:])
        with self.timed("encode"):
            return self._encoded(images)

    @kept(state=None)
    @torch.inference_mode()
    def _encoded(self, images: Tensor) -> Posterior:
        def piece(rows: slice) -> Tensor:
            x = images[rows].to(memory_format=torch.channels_last)
            return torch.stack(autoencoders.moments(self.vae, x), dim=1).float().cpu()

        moments = self.vae.config.scaling_factor * self._in_pieces(piece, len(images), "decode_size")
        return Posterior(moments[:, 0].contiguous(), moments[:, 1].contiguous())

    @torch.inference_mode()
    def embed(self, prompt: str, negative_prompt: str = "") -> TextPair:
        """Features of a prompt and a negative prompt; computed once."""
        key = prompt, negative_prompt
        if key not in self._texts:
            prompts = self.pipeline.encode_prompt(prompt, self.device, 1, True, negative_prompt)
            self._texts[key] = TextPair(prompts[0][0], prompts[1][0])
        return self._texts[key]

    def eps_fn(self, texts: Sequence[TextPair], guidance_scales: Sequence[float]) -> EpsFn:
        """The guided noise prediction for a batch with these texts [B] and scales [B], all above 1 or none.

        ``eps_fn(x [B, C, h, w], t int64 [B]) -> float32 [B, C, h, w]`` on the device.
        """
        guided = [scale > 1 for scale in guidance_scales]
        if any(guided) != all(guided):
            raise ValueError("a batch is either guided or not; got guidance scales on both sides of 1")
        hidden = torch.stack([text.prompt for text in texts])
        if all(guided):
            hidden = torch.cat([torch.stack([text.negative for text in texts]), hidden])
        hidden = hidden.to(self.unet.dtype)
        scale = torch.tensor(guidance_scales, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            x, t = x.to(self.device, self.unet.dtype), t.to(self.device)
            if all(guided):
                x, t = torch.cat([x, x]), torch.cat([t, t])
            eps = self.unet(x, t, encoder_hidden_states=hidden, return_dict=False)[0].float()
            with self._counting:
                self.evaluations += len(x)
            if not all(guided):
                return eps
            negative, positive = eps.chunk(2)
            return negative + scale * (positive - negative)

        return predict

    def denoise(
        self,
        posterior: Posterior,
        keys: Sequence[str],
        texts: Sequence[TextPair],
        settings: Sequence[Setting],
        masks: Tensor | None = None,
    ) -> Tensor:
        """Noise and denoise a batch, one setting a row: [B] of each argument -> latents float32 [B, C, h, w], CPU.

        As diffusers does, an image's generator draws a latent from the posterior and then the noise. The settings must
        agree in the number of executed steps and in whether they are guided; ``ValueError`` if not.

        With ``masks`` bool [B, h, w] only the latents inside are redrawn. After each step those outside are put back
        to the image's own, noised to that step's level (RePaint: Lugmayr et al., CVPR 2022, eq. 8, and Algorithm 1
        with one pass a step; Blended Latent Diffusion: Avrahami et al., ACM TOG 2023, Algorithm 1), and at the end to
        the image's own without noise. diffusers' inpainting pipeline does so for a UNet without channels for a mask.
        """
        if len({(s.executed_steps, s.guided) for s in settings}) > 1:
            raise ValueError("settings of one batch must agree in executed steps and in whether they are guided")
        latent = [len(settings), *posterior.mean.shape[-2:]]
        if masks is not None and (masks.dtype != torch.bool or list(masks.shape) != latent):
            raise ValueError(
                f"masks must be bool {latent}, on the latents' grid, got {masks.dtype} {list(masks.shape)}"
            )
        with self.timed("unet"):
            latents, evaluations = self._denoised(posterior, keys, texts, settings, masks)
        self.evaluations += evaluations
        return latents

    @kept(state=None)
    @torch.inference_mode()
    def _denoised(
        self,
        posterior: Posterior,
        keys: Sequence[str],
        texts: Sequence[TextPair],
        settings: Sequence[Setting],
        masks: Tensor | None,
    ) -> tuple[Tensor, int]:
        """`denoise`, and the evaluations of the UNet that it took, which are not counted yet."""
        schedules, before = [self.schedule(setting) for setting in settings], self.evaluations

        def piece(rows: slice) -> Tensor:
            chosen, part = settings[rows], posterior[rows]
            shape = (2, *part.mean.shape[1:])
            draws = [image_noise(shape, s.seed, [key])[0] for s, key in zip(chosen, keys[rows], strict=True)]
            sample, noise = torch.stack(draws).to(self.device).unbind(dim=1)
            eps_fn = self.eps_fn(texts[rows], [s.guidance_scale for s in chosen])
            timesteps, alpha_from, alpha_to = (
                torch.stack(column, dim=1) for column in zip(*schedules[rows], strict=True)
            )
            clean = part.mean.to(self.device) + part.std.to(self.device) * sample
            x = ddim_step(clean, noise, 1.0, alpha_from[0])  # from alpha_bar = 1: the forward process
            kept = None if masks is None else ~masks[rows, None].to(self.device)
            for step, x in enumerate(ddim_moves(eps_fn, x, timesteps, alpha_from, alpha_to), start=1):  # noqa: B020
                if kept is not None:  # in place: the next move starts from this tensor
                    known = clean if step == len(timesteps) else ddim_step(clean, noise, 1.0, alpha_to[step - 1])
                    x.copy_(torch.where(kept, known, x))
            return x.cpu()

        latents = self._in_pieces(piece, len(settings), "batch_size")
        spent, self.evaluations = self.evaluations - before, before
        return latents, spent

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [N, C, h, w] -> images float32 [N, 3, H, W] in [0, 1], CPU."""
        with self.timed("decode"):
            return self._decoded(latents)

    @kept(state=None)
    @torch.inference_mode()
    def _decoded(self, latents: Tensor) -> Tensor:
        def piece(rows: slice) -> Tensor:
            z = latents[rows].to(self.device).contiguous(memory_format=torch.channels_last)
            return autoencoders.decode(self.vae, z).clamp(0, 1).cpu().contiguous()

        return self._in_pieces(piece, len(latents), "decode_size")

    def reconstruct(
        self, images: Tensor, keys: Sequence[str], prompts: Sequence[str], setting: Setting, negative_prompt: str = ""
    ) -> Tensor:
        """img2img of images [N, 3, H, W] in [0, 1], prompts [N] and one setting: the same shape and range, CPU."""
        texts = [self.embed(prompt, negative_prompt) for prompt in prompts]
        return self.decode(self.denoise(self.encode(images), keys, texts, [setting] * len(images)))

    def _in_pieces(self, function: Callable[[slice], Tensor], count: int, size_name: str) -> Tensor:
        """``function`` over slices of ``range(count)``, joined; their size is halved where memory runs out, and stays
        so."""
        outputs, size = in_pieces(
            lambda rows: self._shared(function, rows.start, rows.stop), count, getattr(self, size_name)
        )
        setattr(self, size_name, size)
        return torch.cat(outputs)

    def _shared(self, function: Callable[[slice], Tensor], start: int, stop: int) -> Tensor:
        """``function`` of ``slice(start, stop)``, in as many parts as there are workers."""
        workers = min(self.workers, stop - start)
        if workers == 1:
            return function(slice(start, stop))
        bounds, threads = [start + (stop - start) * i // workers for i in range(workers + 1)], torch.get_num_threads()

        def part(rows: tuple[int, int]) -> Tensor:
            torch.set_num_threads(1)
            with torch.inference_mode():  # holds for a thread, not for those that it starts
                return function(slice(*rows))

        try:
            with ThreadPoolExecutor(workers) as pool:
                return torch.cat(list(pool.map(part, itertools.pairwise(bounds))))
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = store.clock()
        yield  # results are on the CPU, so the device is done
        self.seconds[stage] += store.clock() - start


def check_prompts(prompts: Sequence[str], settings: Sequence[Setting]) -> None:
    """Raise ``ValueError`` if a prompt is empty and a setting is guided: there is nothing to guide to."""
    guided = [setting for setting in settings if setting.guided]
    if guided and not all(prompt.strip() for prompt in prompts):
        raise ValueError(
            f"the prompt is empty, but guidance_scale is {guided[0].guidance_scale}: give a prompt or guidance_scale=1"
        )

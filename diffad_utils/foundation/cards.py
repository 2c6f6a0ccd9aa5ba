"""Model cards of the small Stable Diffusion and CLIP, filled in from training records and measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from .captioned import FAMILIES

DATA = """- Data: {num_pairs} pairs of procedural pictures of 128 pixels (seed {pairs_seed}): the drawing functions of the `textures`
  families with colours, sizes and counts drawn anew for each picture, a defect-free twin and the same scene with a
  defect (`diffad_utils/foundation/captioned.py`). Brick and gravel are crops of the training columns of two CC0
  photographs. No image of the `textures` data set is among them.
"""

SD = """# sd-mini

A small latent diffusion model in the classes of Stable Diffusion v1.5: `AutoencoderKL` (8x, 4 channels), `UNet2DConditionModel`
with cross-attention, `CLIPTextModel`, `CLIPTokenizer`, `DDIMScheduler` with its betas. 128 pixels, {size_mb:.1f} MB in float16:
{vae_parameters:,} parameters in the VAE, {unet_parameters:,} in the UNet, {text_parameters:,} in the text encoder. It stands in for
Stable Diffusion where that is not at hand, so that everything runs anywhere. Its results are not those of Stable Diffusion.

    from diffusers import StableDiffusionImg2ImgPipeline
    pipeline = StableDiffusionImg2ImgPipeline.from_pretrained("data/mini/sd")

Captions: "a flawless <noun>", "a <noun>", "a damaged <noun>", "a <noun> with a <defect>", with the nouns and defects
of `diffad_utils/data/captions.py`. Families: {families}.

## Training

{data}- VAE: {vae_steps} steps of {vae_batch} crops of {vae_crop} pixels, AdamW, peak rate {vae_lr}, squared error plus
  {kl_weight} times the divergence from N(0, 1); {vae_minutes:.0f} minutes on {vae_device}; seed {vae_seed}. Last loss {vae_loss:.4f}.
- Then its decoder alone, at the sizes of use; encoder and latents stay as they are: {decoder_steps} steps, each of one size
  drawn from {decoder_crops} pixels, {decoder_batch} crops of {decoder_largest} pixels or as many pixels in smaller ones; AdamW, peak rate
  {decoder_lr}, squared error plus {decoder_colour_weight} times that of the crops' mean colours; {decoder_minutes:.0f} minutes on
  {decoder_device}; seed {decoder_seed}. Last loss {decoder_loss:.4f}.
- UNet and text encoder, together: {steps} steps of {batch} latents, AdamW, peak rate {lr}, weights averaged; error of
  the predicted noise; captions left out in {dropout:.0%}; {minutes:.0f} minutes on {device}; seed {seed}. Last loss {loss:.4f}.
- torch {torch}. Minutes are of a machine that had other work, too. Nothing was selected by the numbers below.

## Measured, in the precision it is shipped in

VAE, on normal test images of `textures` ({vae_images} a category): PSNR of Dec(Enc(x)) in dB, mean over images with 95 % bootstrap
interval. Over categories: {psnr:.1f} dB. Standard deviations of the four channels of the scaled latents over all these images:
{latent_std}. tiles: mean PSNR of the same images as tiles of 64 pixels; gap: psnr minus tiles. red, green, blue: the colour
cast, the mean of Dec(Enc(x)) - x in grey levels of 255 (largest: {cast:.1f}). colour: the error of an image's mean colour, root mean
square over channels, mean over images, in grey levels.

{psnr_table}

The same with the decoder of the first stage, trained on crops of {vae_crop} pixels alone. Over categories: {psnr_crops:.1f} dB; largest
cast: {cast_crops:.1f} grey levels.

{crops_table}

By size in pixels, the same scene drawn at each, {size_images} images a category, both decoders; psnr and cast are means over
categories, largest is the largest cast of a category in a channel:

{sizes_table}

Why the size matters: group normalisation takes mean and variance over the whole picture. With the decoder of the first
stage, {statistics_images} images a category, mean over categories: {whole:.2f} dB on whole images, {tiles:.2f} dB on the same as four tiles, and
{borrowed:.2f} dB on whole images when every normalisation of encoder and decoder takes its mean and variance from the tiles.

Text to image, {samples} samples a family, DDIM with 30 steps: clip-mini names the right family of {accuracy_5:.0%} at
guidance 5 ({accuracy_1:.0%} at guidance 1). Cosine between the samples and their prompt: {similarity_1:.3f} at guidance 1, {similarity_5:.3f} at
guidance 5.

img2img of {strength_images} normal test images, 30 steps, guidance 1, "a flawless <noun>":

{strength_table}

## Known limits

{limits}- It knows the families above in procedural pictures, and nothing else: no photographs of objects, no other words.
- The VAE was trained on the squared error alone: what it cannot keep it blurs. (That is what notebook 02 looks at.)
- clip-mini, which judges the samples here, was trained on the same pictures: it is no independent judge.
- Training on another processor or with another number of threads gives slightly different weights.

Licence: MIT, as the rest of the repository.
"""

CLIP = """# clip-mini

A small CLIP in open_clip's classes (image tower: CLIP's ResNet, for 128 pixels; text tower: transformer; CLIP's byte-pair
tokenizer): {parameters:,} parameters, {size_mb:.1f} MB in float16. It stands in for CLIP ViT-B/32 where that is not at hand, so that
everything runs anywhere. Results obtained with it are not those of CLIP.

    import open_clip
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:data/mini/clip")
    tokenizer = open_clip.get_tokenizer("local-dir:data/mini/clip")

## Training

{data}- {steps} steps of {pairs} pairs (both pictures), a caption each, mirrored at random; contrastive loss with several right
  answers (UniCL), plus {marks_weight} times the loss of linear layers that mark the defects on the feature maps and are not
  shipped; AdamW, peak rate {lr}. Then {blurred_steps} steps more (peak rate {blurred_lr}) with half of the pairs blurred. {minutes:.0f} minutes
  on {device}; seed {seed}; torch {torch}. Last loss {loss:.3f}.
- The blurring was added when the model of the first stage had called sampled gravel a carpet; blurred pictures of it
  did the same. Otherwise: the last step's weights, not selected by any score. Minutes are of a machine that had other work, too.

## Measured, in the precision it is shipped in

Zero-shot, on test images of `textures` ({normal} normal and {anomalous} with a defect a category): share of normal images whose family is
named rightly, and I-AUROC of "with a <defect>" (all defects of `diffad_utils/data/captions.py`) against "flawless", with a 95 %
bootstrap interval over images. Over categories: {family_accuracy:.1%} and {auroc:.3f}.

{table}

## Known limits

{limits}- It was shown these families and these defects in training, in other materials. On a real data set it knows neither the
  words nor the pictures; what it says there is worth what notebook 03 measures.
- Training on another processor or with another number of threads gives slightly different weights.

Licence: MIT, as the rest of the repository.
"""


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, floats with three significant digits."""
    return table.to_markdown(index=False, floatfmt=".3g")


def data_line(num_pairs: int, seed: int) -> str:
    """What both models were trained on."""
    return DATA.format(num_pairs=num_pairs, pairs_seed=seed)


def _write(folder: str | Path, template: str, limits: list[str], **facts: Any) -> Path:
    """Fill a template and write README.md beside the model. limits: bars that are missed, as sentences."""
    file = Path(folder) / "README.md"
    missed = "".join(f"- {line}\n" for line in limits)
    file.write_text(template.format(limits=missed, families=", ".join(FAMILIES), **facts), encoding="utf-8")
    return file


def _size_mb(folder: str | Path) -> float:
    return sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors")) / 1e6


def _cast(table: pd.DataFrame) -> float:
    """The largest absolute colour cast of a category in a channel, grey levels."""
    return table[["red", "green", "blue"]].abs().to_numpy().max()


def _training(record: dict, prefix: str = "") -> dict:
    """The fields of a training record, for a template."""
    names = {"num_steps": "steps", "batch_size": "batch", "num_pairs": "pairs"}
    settings = {names.get(name, name): value for name, value in record["settings"].items()}
    facts = settings | {"minutes": record["minutes"], "device": record["device"], "loss": record["losses"][-1]}
    return {prefix + name: value for name, value in facts.items()}


def write_clip_card(
    folder: str | Path, model: Any, record: dict, table: pd.DataFrame, data: str, counts: tuple[int, int] = (40, 60)
) -> Path:
    """The card of clip-mini. record: of its training; table: `quality.clip_quality` on `counts` images; data:
    `data_line`."""
    auroc, accuracy = table["I-AUROC"].mean(), table.family_accuracy.mean()
    limits = []
    if auroc < 0.75:
        limits.append(
            f"The zero-shot I-AUROC over categories, {auroc:.3f}, is below the 0.75 that was asked for: the training "
            "was too short."
        )
    weakest = table.sort_values("I-AUROC").iloc[0]
    limits.append(f"Weakest at telling defects: {weakest.category}, I-AUROC {weakest['I-AUROC']:.2f}.")
    return _write(
        folder,
        CLIP,
        limits,
        table=markdown(table),
        data=data,
        auroc=auroc,
        family_accuracy=accuracy,
        parameters=sum(p.numel() for p in model.parameters()),
        size_mb=_size_mb(folder),
        torch=record["torch"],
        normal=counts[0],
        anomalous=counts[1],
        **_training(record),
    )


def write_sd_card(
    folder: str | Path,
    pipeline: Any,
    record: dict,
    vae_record: dict,
    decoder_record: dict,
    vae_tables: dict[str, pd.DataFrame],
    latent_std: list[float],
    named: pd.DataFrame,
    guidance: pd.DataFrame,
    sweep: pd.DataFrame,
    data: str,
    samples: int = 10,
    vae_images: int = 40,
    size_images: int = 10,
    statistics_images: int = 8,
) -> Path:
    """The card of sd-mini, from its training records and the tables of `quality`.

    vae_record, decoder_record: of the two stages of the VAE. vae_tables: "quality" and "sizes" of `autoencoder_quality`
    and `autoencoder_by_size`; "quality_crops" and "sizes_crops", the same after the first stage; "statistics" of
    `statistics_of_tiles` after the first stage; "photographs" of `autoencoder_on_photographs`, a row after both stages and
    one after the first.
    guidance: accuracy and similarity by guidance scale (index), with 1.0 and 5.0 in it.
    """
    poor = named[named.accuracy < 0.8]
    limits = [f"Samples of {row.family} are named rightly in {row.accuracy:.0%} only." for row in poor.itertuples()]
    after, crops = vae_tables["quality"], vae_tables["quality_crops"]
    if after.psnr.mean() < 22:
        limits.append("The PSNR of the VAE is below the 22 dB that was asked for.")
    if _cast(after) > 1.5:
        limits.append(
            f"The VAE shifts the mean colour of a family by up to {_cast(after):.1f} grey levels; 1.5 were asked for."
        )
    if after.gap.abs().max() >= 0.3:
        limits.append(
            f"Of a whole image the VAE keeps between {after.gap.min():.1f} and {after.gap.max():.1f} dB more than of its tiles, by "
            "family;\n  at most 0.3 dB either way was asked for. Below 0 it would lose by the size."
        )
    now, first = vae_tables["photographs"].to_dict("records")
    limits.append(
        f"On grey photographs, which it never saw (normal images of ELPV mono), the VAE keeps {now['psnr']:.1f} dB and "
        f"shifts the mean\n  colour by {now['red']:+.1f}, {now['green']:+.1f}, {now['blue']:+.1f} grey levels; the first "
        f"stage alone {first['psnr']:.1f} dB and {first['red']:+.1f}, {first['green']:+.1f}, {first['blue']:+.1f}."
    )
    sizes = vae_tables["sizes"].merge(vae_tables["sizes_crops"], on="size", suffixes=("", " (first stage)"))
    counts = {
        f"{name}_parameters": sum(p.numel() for p in part.parameters())
        for name, part in [("vae", pipeline.vae), ("unet", pipeline.unet), ("text", pipeline.text_encoder)]
    }
    vae, decoder = _training(vae_record, "vae_"), _training(decoder_record, "decoder_")
    columns = ["category", "psnr", "low", "high", "lowest", "tiles", "gap", "red", "green", "blue", "colour"]
    return _write(
        folder,
        SD,
        limits,
        data=data,
        size_mb=_size_mb(folder),
        psnr=after.psnr.mean(),
        cast=_cast(after),
        psnr_crops=crops.psnr.mean(),
        cast_crops=_cast(crops),
        torch=record["torch"],
        latent_std=", ".join(f"{value:.2f}" for value in latent_std),
        samples=samples,
        vae_images=vae_images,
        psnr_table=markdown(after[columns]),
        crops_table=markdown(crops[columns]),
        sizes_table=markdown(sizes),
        size_images=size_images,
        statistics_images=statistics_images,
        **vae_tables["statistics"][["whole", "tiles", "borrowed"]].mean(),
        accuracy_5=guidance.accuracy[5.0],
        accuracy_1=guidance.accuracy[1.0],
        similarity_1=guidance.similarity[1.0],
        similarity_5=guidance.similarity[5.0],
        strength_images=sweep.n.iloc[0],
        strength_table=markdown(sweep),
        kl_weight=vae.pop("vae_kl_weight"),
        dropout=record["settings"]["caption_dropout"],
        **counts,
        **vae,
        decoder_largest=max(decoder["decoder_crops"]),
        **decoder | {"decoder_crops": ", ".join(map(str, decoder["decoder_crops"]))},
        **_training(record),
    )

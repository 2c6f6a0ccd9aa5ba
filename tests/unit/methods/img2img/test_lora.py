"""LoRA: what is trained and what is not, diffusers' format both ways, resuming, memory of text and latents."""

import copy
import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import write_clip, write_stable_diffusion

from diffad_utils import data
from diffad_utils.methods import METHODS
from diffad_utils.methods.img2img import Img2Img, Img2ImgEngine, Setting, lora
from diffad_utils.methods.img2img.adapters import FILE
from diffad_utils.methods.img2img.lora import (
    SD15_UNET,
    LoRA,
    base_checksum,
    load_adapter,
    parameter_counts,
    planned_counts,
    sample_latents,
    save_adapter,
)
from diffad_utils.models.stable_diffusion import load_pipeline

PROMPT = "a sks woven carpet"


@pytest.fixture(autouse=True)
def short_prior(monkeypatch):
    monkeypatch.setattr(lora, "PRIOR_SAMPLING", Setting(1.0, 2.0, 3))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    return {"weights": str(write_stable_diffusion(root / "sd")), "clip": str(write_clip(root / "clip"))}


@pytest.fixture(scope="module")
def train_set():
    index = data.load_index("textures", category="carpet", seed=0)
    return data.ImageDataset(index[index["split"] == "train"].head(12), size=64)


@pytest.fixture(scope="module")
def images(train_set):
    return torch.stack([train_set[i]["image"] for i in range(4)])


KEYS = [f"textures/carpet/test/good/{i}" for i in range(4)]


def small(folders, **more):
    settings = dict(
        image_size=64,
        device="cpu",
        num_inference_steps=4,
        strength=0.5,
        guidance_scale=2.0,
        train_steps=8,
        train_batch_size=4,
        gradient_accumulation_steps=1,
        learning_rate=1e-2,
        holdout_fraction=0.3,
        rank=4,
    )
    return LoRA(**{**settings, **folders, **more})


@pytest.fixture(scope="module")
def fitted(folders, train_set):
    return small(folders).fit(train_set)


def adapter(detector):
    """The adapter's tensors, by name."""
    return {n: p.detach().clone() for n, p in detector.engine_.unet.named_parameters() if ".lora_" in n}


def same(a, b, tolerance=0.0):
    return a.keys() == b.keys() and all((a[name] - b[name]).abs().max() <= tolerance for name in a)


def test_it_is_registered():
    assert METHODS["lora"] is LoRA


# -- what is trained ---------------------------------------------------------------------------------------------------


def test_base_weights_are_byte_identical_after_training(fitted, folders):
    untouched = load_pipeline(folders["weights"], device="cpu")
    for name in ("unet", "vae", "text_encoder"):
        trained, base = (getattr(p, name) for p in (fitted.engine_.pipeline, untouched))
        assert base_checksum(trained) == base_checksum(base)
        state = {n.replace(".base_layer", ""): v for n, v in trained.state_dict().items() if ".lora_" not in n}
        assert state.keys() == base.state_dict().keys()
        assert all(torch.equal(state[n], v) for n, v in base.state_dict().items())
    with torch.no_grad():
        untouched.unet.conv_in.bias[0] += 1e-3
    assert base_checksum(untouched.unet) != base_checksum(fitted.engine_.unet)


def test_every_attention_projection_is_adapted_and_moves(fitted):
    tensors = adapter(fitted)
    blocks = [n for n, m in fitted.engine_.unet.named_modules() if type(m).__name__ == "Attention"]
    assert len(tensors) == 2 * 4 * len(blocks) and blocks
    assert all(value.abs().max() > 0 for value in tensors.values())  # B starts at zero
    assert parameter_counts(fitted.engine_.unet).lora == sum(value.numel() for value in tensors.values())
    assert fitted.adapter_counts_ == parameter_counts(fitted.engine_.unet)
    assert not any(p.requires_grad for p in fitted.engine_.unet.parameters())


def test_at_the_start_it_is_the_base_model(folders, images):
    detector = small(folders, train_steps=1)
    detector._set_prompts(["carpet"])
    detector._load_networks()
    args = images, KEYS, [PROMPT] * 4, Setting(0.5, 2.0, 8)
    before = detector.engine_.reconstruct(*args)
    detector._add_adapter()
    assert torch.equal(detector.engine_.reconstruct(*args), before)


@pytest.mark.slow
def test_target_modules_are_a_parameter(folders, train_set):
    detector = small(folders, train_steps=1, target_modules=["to_v"]).fit(train_set)
    assert all(".to_v." in name for name in adapter(detector))
    with pytest.raises(ValueError, match="nowhere"):
        small(folders, target_modules=["nowhere"]).fit(train_set)


@pytest.mark.slow
def test_share_of_stable_diffusion_v15():
    counts = planned_counts(SD15_UNET, rank=8)
    assert counts.base == 859_520_964  # the published UNet
    # by hand: 16 blocks of self- and cross-attention; rank x (inputs + outputs) of each projection
    widths, context = [320] * 5 + [640] * 5 + [1280] * 6, 768
    per_block = [8 * (8 * 2 * w - 2 * w + 2 * context) for w in widths]
    assert counts.lora == sum(per_block) == planned_counts(SD15_UNET, rank=4).lora * 2
    assert counts.share < 0.02


@pytest.mark.slow
def test_it_learns(folders, train_set):
    log = small(folders, train_steps=60).fit(train_set).training_log_
    assert sum(log.losses[-20:]) < sum(log.losses[:20])


# -- diffusers' format -------------------------------------------------------------------------------------------------


def reconstruct(pipeline, images):
    return Img2ImgEngine(pipeline).reconstruct(
        images, KEYS[: len(images)], [PROMPT] * len(images), Setting(0.5, 2.0, 8)
    )


@pytest.mark.slow
def test_plain_diffusers_opens_what_save_writes(fitted, folders, images, tmp_path):
    fitted.save(tmp_path)
    assert (tmp_path / FILE).is_file()
    plain = StableDiffusionImg2ImgPipeline.from_pretrained(
        folders["weights"], safety_checker=None, requires_safety_checker=False
    )
    plain.set_progress_bar_config(disable=True)
    before = reconstruct(plain, images)
    plain.load_lora_weights(str(tmp_path))
    ours = fitted.engine_.reconstruct(images, KEYS, [PROMPT] * 4, Setting(0.5, 2.0, 8))
    assert (reconstruct(plain, images) - ours).abs().max() < 1e-5
    assert (before - ours).abs().max() > 1e-3


@pytest.mark.slow
def test_a_lora_of_diffusers_and_peft_opens_here(folders, train_set, images, tmp_path):
    plain = StableDiffusionImg2ImgPipeline.from_pretrained(
        folders["weights"], safety_checker=None, requires_safety_checker=False
    )
    torch.manual_seed(3)
    plain.unet.add_adapter(LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(plain.unet))
    metadata = plain.unet.peft_config["default"].to_dict()
    plain.save_lora_weights(tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata)
    theirs = reconstruct(plain, images)
    for path in (tmp_path, tmp_path / FILE):
        detector = small(folders, adapter=str(path)).fit(train_set)
        ours = detector.engine_.reconstruct(images, KEYS, [PROMPT] * 4, Setting(0.5, 2.0, 8))
        assert (ours - theirs).abs().max() < 1e-5
        assert not hasattr(detector, "training_log_")
    pipeline = load_pipeline(folders["weights"], device="cpu")
    load_adapter(pipeline, tmp_path)
    assert pipeline.unet.peft_config["lora"].lora_alpha == 6


def test_a_lora_in_kohyas_names_opens_here(folders, images, tmp_path):
    pipeline = load_pipeline(folders["weights"], device="cpu")
    torch.manual_seed(4)
    pipeline.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q"]), adapter_name="lora"
    )
    state, kohya = get_peft_model_state_dict(pipeline.unet, adapter_name="lora"), {}
    for name, value in state.items():
        module, _, side = name.rpartition(".lora_")
        part = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[side]
        kohya[f"lora_unet_{module.replace('.', '_')}.{part}"] = value.contiguous()
        kohya[f"lora_unet_{module.replace('.', '_')}.alpha"] = torch.tensor(2.0)
    save_file(kohya, tmp_path / "kohya.safetensors")
    other = load_pipeline(folders["weights"], device="cpu")
    load_adapter(other, tmp_path / "kohya.safetensors")
    assert (reconstruct(other, images) - reconstruct(pipeline, images)).abs().max() < 1e-5


@pytest.mark.slow
def test_alpha_other_than_rank_survives_the_file(folders, train_set, images, tmp_path):
    detector = small(folders, rank=2, lora_alpha=8, train_steps=3).fit(train_set)
    detector.save(tmp_path)
    with safe_open(tmp_path / FILE, "pt") as file:
        assert json.loads(file.metadata()["lora_adapter_metadata"])["unet.lora_alpha"] == 8
    pipeline = load_pipeline(folders["weights"], device="cpu")
    load_adapter(pipeline, tmp_path)
    assert (reconstruct(pipeline, images) - reconstruct(detector.engine_.pipeline, images)).abs().max() < 1e-5


def test_fused_and_unfused_are_the_same(folders, fitted, images, tmp_path):
    file = save_adapter(fitted.engine_.pipeline, tmp_path)
    pipeline = load_pipeline(folders["weights"], device="cpu")
    before = base_checksum(pipeline.unet)
    load_adapter(pipeline, file)
    unfused = reconstruct(pipeline, images)
    pipeline.fuse_lora()
    assert base_checksum(pipeline.unet) != before
    pipeline.unload_lora_weights()  # what is left is the fused weights alone
    assert (reconstruct(pipeline, images) - unfused).abs().max() < 1e-4


@pytest.mark.slow
def test_files_that_do_not_fit_are_refused(folders, train_set, fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="not found"):
        small(folders, adapter=str(tmp_path / "nothing")).fit(train_set)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no LoRA"):
        small(folders, adapter=str(tmp_path / "empty")).fit(train_set)
    shutil.copy(next((Path(folders["weights"]) / "unet").glob("*.safetensors")), tmp_path / "unet.safetensors")
    with pytest.raises(ValueError, match="LoRA"):  # a UNet's own weights are none
        small(folders, adapter=str(tmp_path / "unet.safetensors")).fit(train_set)


# -- resuming ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"lora_dropout": 0.3, "ema_decay": 0.9, "prior_weight": 1.0, "class_images": 4}])
@pytest.mark.slow
def test_an_interrupted_training_goes_on_exactly(folders, train_set, tmp_path, monkeypatch, more):
    settings = more | {"train_steps": 9}
    whole = small(folders, **settings).fit(train_set)

    class Interrupted(Exception):
        pass

    original, seen = lora.train, []

    def interrupted(model, loss_fn, **options):
        def counting(current, generator):
            seen.append(1)
            if len(seen) > 7:
                raise Interrupted
            return loss_fn(current, generator)

        return original(model, counting, **options | {"checkpoint_every": 3})

    monkeypatch.setattr(lora, "train", interrupted)
    with pytest.raises(Interrupted):
        small(folders, **settings).fit(train_set, tmp_path)
    monkeypatch.setattr(lora, "train", lambda *a, **o: original(*a, **o | {"checkpoint_every": 3}))
    with pytest.raises(ValueError, match="was written with"):
        small(folders, **settings | {"rank": 1}).fit(train_set, tmp_path)
    torch.manual_seed(77)  # what other code did to the global generator does not matter
    resumed = small(folders, **settings).fit(train_set, tmp_path)
    assert resumed.training_log_.resumed_from == 6
    assert same(adapter(whole), adapter(resumed), 1e-6)
    assert whole.training_log_.losses == pytest.approx(resumed.training_log_.losses, abs=1e-6)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.slow
def test_a_snapshot_is_what_a_shorter_run_ends_with(folders, train_set, tmp_path, ema_decay):
    small(folders, train_steps=6, ema_decay=ema_decay).fit(train_set, tmp_path, snapshot_steps=[2, 4])
    shorter = small(folders, train_steps=4, ema_decay=ema_decay).fit(train_set)
    loaded = small(folders, adapter=str(tmp_path / "step-4")).fit(train_set)
    assert same(adapter(shorter), adapter(loaded), 1e-6)
    with pytest.raises(ValueError, match="checkpoint_folder"):
        small(folders).fit(train_set, snapshot_steps=[2])


# -- options -----------------------------------------------------------------------------------------------------------


def test_latents_and_texts_are_computed_once(folders, train_set, monkeypatch):
    detector, counts = small(folders, train_steps=5), {"vae": 0, "text": 0}
    detector._set_prompts(["carpet"])
    detector._load_networks()
    pipeline = detector.engine_.pipeline
    pipeline.vae.encoder.register_forward_hook(lambda *a: counts.update(vae=counts["vae"] + len(a[1][0])))
    pipeline.text_encoder.register_forward_hook(lambda *a: counts.update(text=counts["text"] + 1))
    rows = detector._rows(train_set)[0]
    detector._train_adapter(detector._examples(train_set, rows), None, ())
    assert counts["vae"] == len(rows) and counts["text"] == 2  # the prompt and the empty one


@pytest.mark.slow
def test_the_text_encoder_can_be_trained_too(folders, train_set, images, tmp_path):
    detector = small(folders, train_text_encoder=True, train_steps=4).fit(train_set)
    text_encoder = detector.engine_.pipeline.text_encoder
    assert parameter_counts(text_encoder).lora > 0
    assert (
        detector.adapter_counts_.lora
        == parameter_counts(text_encoder).lora + parameter_counts(detector.engine_.unet).lora
    )
    detector.save(tmp_path)
    assert {name.split(".")[0] for name in load_file(tmp_path / FILE)} == {"unet", "text_encoder"}
    plain = StableDiffusionImg2ImgPipeline.from_pretrained(
        folders["weights"], safety_checker=None, requires_safety_checker=False
    )
    base = Img2ImgEngine(plain).embed(PROMPT).prompt
    plain.load_lora_weights(str(tmp_path))
    theirs = Img2ImgEngine(plain).embed(PROMPT).prompt
    assert (theirs - detector.engine_.embed(PROMPT).prompt).abs().max() < 1e-5
    assert (theirs - base).abs().max() > 1e-4
    again = LoRA.load(tmp_path, device="cpu").predict(images, KEYS)
    assert (again.score - detector.predict(images, KEYS).score).abs().max() < 1e-4


@pytest.mark.slow
def test_prior_preservation_changes_the_loss_by_what_the_base_model_draws(folders, train_set):
    detector = small(folders, prior_weight=2.0, class_images=5)
    detector._set_prompts(["carpet"])
    detector._load_networks()
    prior = detector._prior()
    assert prior.posterior.mean.shape == (5, 4, 8, 8) and prior.posterior.std.max() == 0
    expected = sample_latents(detector.engine_, "a woven carpet", ["a woven carpet/3"], Setting(1.0, 2.0, 3), 64)
    assert torch.allclose(prior.posterior.mean[3:4], expected, atol=1e-4)
    with_prior, without = (
        small(folders, prior_weight=w, class_images=5, train_steps=3).fit(train_set) for w in (2.0, 0.0)
    )
    assert not same(adapter(with_prior), adapter(without), 1e-6)
    assert with_prior.training_log_.losses[0] > without.training_log_.losses[0]  # the sum of two losses


@pytest.mark.slow
def test_gradient_checkpointing_trains_the_same(folders, train_set):
    plain, saved = (small(folders, train_steps=3, gradient_checkpointing=g).fit(train_set) for g in (False, True))
    assert saved.engine_.unet.is_gradient_checkpointing
    assert same(adapter(plain), adapter(saved), 1e-5)


@pytest.mark.slow
def test_bfloat16_trains_and_leaves_no_wrapper(folders, train_set, images):
    detector = small(folders, train_steps=3, mixed_precision="bf16").fit(train_set)
    assert all(value.dtype == torch.float32 for value in adapter(detector).values())
    assert torch.isfinite(detector.predict(images, KEYS).score).all()


@pytest.mark.slow
def test_eight_bit_adam_is_asked_of_bitsandbytes(folders, train_set, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match="bitsandbytes"):
        small(folders, optimizer="adamw8bit").fit(train_set)
    made = []

    def fake(parameters, **options):
        made.append(options)
        return torch.optim.AdamW(parameters, **options)

    stand_in = types.SimpleNamespace(optim=types.SimpleNamespace(AdamW8bit=fake))
    monkeypatch.setitem(sys.modules, "bitsandbytes", stand_in)
    small(folders, optimizer="adamw8bit", train_steps=1).fit(train_set)
    assert made == [{"lr": 1e-2, "weight_decay": 0.01}]


def test_the_held_out_images_are_not_trained_on(folders, train_set, fitted):
    fit_rows, held_out = fitted._rows(train_set)
    assert not set(fit_rows) & set(held_out) and len(fit_rows) + len(held_out) == len(train_set)
    base = Img2Img(**folders, image_size=64, device="cpu", num_inference_steps=8, strength=0.5, guidance_scale=2.0)
    base.fit(fitted.held_out(train_set))
    assert base.calibration_ != fitted.calibration_  # of the same images, with other networks
    keys = [data.sample_key(row) for _, row in fitted.held_out(train_set).index.iterrows()]
    assert len(keys) == len(held_out)


def test_prompts_and_bad_settings(folders):
    detector = small(folders)
    detector._set_prompts(["carpet"])
    assert detector.prompts_ == {"carpet": (PROMPT, "")}
    other = small(folders, prompt="a flawless {noun}", negative_prompt="a damaged {noun}")
    other._set_prompts(["carpet"])
    assert other.prompts_["carpet"] == ("a flawless woven carpet", "a damaged woven carpet")
    assert other.instance_prompts_["carpet"] == PROMPT
    for bad in (
        {"rank": 0},
        {"lora_alpha": -1},
        {"lora_dropout": 1.0},
        {"mixed_precision": "fp8"},
        {"optimizer": "sgd"},
        {"target_modules": "to_q"},
        {"target_modules": []},
        {"prior_weight": -1.0},
        {"inference_precision": "half"},
    ):
        with pytest.raises(ValueError, match=next(iter(bad)).partition("_")[0]):
            small(folders, **bad)
    with pytest.raises(ValueError, match="instance prompt"):
        small(folders, instance_prompt=" ")._set_prompts(["carpet"])


def test_samples_start_from_noise_alone(fitted):
    first = sample_latents(fitted.engine_, PROMPT, KEYS[:2], Setting(1.0, 2.0, 4), 64)
    alone = sample_latents(fitted.engine_, PROMPT, KEYS[1:2], Setting(1.0, 2.0, 4), 64)
    assert first.shape == (2, 4, 8, 8) and torch.allclose(first[1:], alone, atol=1e-5)
    with pytest.raises(ValueError, match="strength=1"):
        sample_latents(fitted.engine_, PROMPT, KEYS, Setting(0.5, 2.0, 4), 64)


@pytest.mark.slow
def test_a_second_fit_starts_from_the_base_model(folders, train_set):
    detector = small(folders, train_steps=2).fit(train_set)
    first = copy.deepcopy(adapter(detector))
    assert same(first, adapter(detector.fit(train_set)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu(folders, train_set, images):
    detector = small(folders, device="cuda", mixed_precision="fp16", train_steps=20, gradient_checkpointing=True).fit(
        train_set
    )
    assert {p.dtype for p in detector.engine_.unet.parameters()} == {torch.float16}
    assert torch.isfinite(detector.predict(images, KEYS).score).all()
    reference = load_pipeline(folders["weights"], device="cuda")
    assert base_checksum(detector.engine_.unet) == base_checksum(reference.unet)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_stable_diffusion_v15_trains_within_16_gigabytes():
    """The kaggle profile: 512 pixels, batch 1, 4 passes a step, fp16, gradient checkpointing."""
    from benchmarks.lora_training import prepared

    torch.cuda.reset_peak_memory_stats()
    detector = LoRA(
        image_size=512,
        device="cuda",
        mixed_precision="fp16",
        gradient_checkpointing=True,
        train_steps=3,
        train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    log = detector._train_adapter(prepared(detector), None, ())
    assert len(log.losses) == 3 and detector.adapter_counts_.share < 0.02
    assert torch.cuda.max_memory_allocated() < 16e9


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_images_are_made_in_another_precision_than_that_of_the_training(
    folders, train_set, images, tmp_path, precision, dtype
):
    """The training does not see it: the same losses, and base weights in float32 until it is over."""
    plain = small(folders, train_steps=3).fit(train_set)
    detector = small(folders, train_steps=3, inference_precision=precision).fit(train_set)
    assert detector.training_log_.losses == plain.training_log_.losses
    assert detector.base_untouched_ == {"unet": True, "vae": True, "text_encoder": True}
    assert detector.engine_.unet.dtype == detector.engine_.vae.dtype == dtype == detector.running_dtype()
    assert detector.sampling_precision == precision
    found = detector.predict(images, KEYS)
    assert (found.score - plain.predict(images, KEYS).score).abs().max() > 0
    detector.check_batch_independence({"image": images, "key": KEYS}, found)
    detector.save(tmp_path)
    again = LoRA.load(tmp_path, "cpu")
    assert again.engine_.unet.dtype == dtype and torch.equal(again.predict(images, KEYS).score, found.score)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "dtype"), [("no", torch.float32), ("bf16", torch.float32), ("fp16", torch.float16)]
)
def test_the_base_is_compared_with_itself_in_every_precision(folders, train_set, images, precision, dtype):
    detector = small(folders, train_steps=2, mixed_precision=precision)
    if precision == "fp16":
        with pytest.warns(UserWarning, match="fp16 on a CPU: the adapter is trained in float32"):
            detector.fit(train_set)
    else:
        detector.fit(train_set)
    assert detector.base_untouched_ == {"unet": True, "vae": True, "text_encoder": True}
    assert detector.engine_.unet.dtype == detector.engine_.vae.dtype == dtype == detector.running_dtype()
    batch = {"image": images, "key": KEYS}
    detector.check_batch_independence(batch, detector.predict(images, KEYS))


@pytest.mark.slow
def test_weights_that_moved_are_found(folders, train_set, monkeypatch):
    train = lora.train

    def clumsy(model, *arguments, **settings):
        log = train(model, *arguments, **settings)
        with torch.no_grad():
            model.unet.conv_in.bias[0] += 1e-3
        return log

    monkeypatch.setattr(lora, "train", clumsy)
    assert small(folders, train_steps=1).fit(train_set).base_untouched_ == {
        "unet": False,
        "vae": True,
        "text_encoder": True,
    }


@pytest.mark.slow
def test_lora_halves_a_batch_that_does_not_fit(folders, train_set, monkeypatch):
    whole = small(folders, train_steps=3, prior_weight=1.0, class_images=2).fit(train_set)
    forward = lora.PromptedUNet.forward

    def forward_of_few(self, noisy, timesteps, text):
        if len(noisy) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, noisy, timesteps, text)

    monkeypatch.setattr(lora.PromptedUNet, "forward", forward_of_few)
    with pytest.warns(UserWarning, match="out of memory with 8 images at once"):
        halved = small(folders, train_steps=3, prior_weight=1.0, class_images=2).fit(train_set)
    assert halved.training_log_.rows_at_once == 2
    # Adam makes a step of the sign of a gradient that is rounding alone, so losses are compared and not weights
    assert halved.training_log_.losses == pytest.approx(whole.training_log_.losses, rel=1e-4)

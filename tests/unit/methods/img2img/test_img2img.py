"""The img2img engine against diffusers' own pipeline, and the detector on top of it."""

import hashlib

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, PNDMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import count_rows, write_clip, write_stable_diffusion

from diffad_utils import data, scoring
from diffad_utils.diffusion import image_noise
from diffad_utils.methods import METHODS
from diffad_utils.methods.clip_detectors import fill_prompt
from diffad_utils.methods.img2img import Img2Img, Img2ImgEngine, Setting
from diffad_utils.methods.img2img.engine import check_prompts, ddim_schedule
from diffad_utils.models.stable_diffusion import load_pipeline
from diffad_utils.scoring import residual_parts

PROMPT, NEGATIVE = "a flawless woven carpet", "a damaged woven carpet"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    return {"weights": str(write_stable_diffusion(root / "sd")), "clip": str(write_clip(root / "clip"))}


@pytest.fixture
def pipeline(folders):
    return load_pipeline(folders["weights"], device="cpu")


@pytest.fixture
def engine(pipeline):
    engine = Img2ImgEngine(pipeline, batch_size=8)
    engine.workers = 1  # whatever machine the tests run on
    return engine


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


KEYS = [f"textures/carpet/test/good/{i}" for i in range(6)]


def generator(seed, key):
    """The generator that `image_noise` draws from, for diffusers to draw from."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


# -- against diffusers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strength", "guidance_scale", "steps"),
    [(0.35, 7.5, 20), (0.1, 1.0, 10), (0.7, 3.5, 7), (1.0, 9.0, 5), (0.5, 0.0, 4)],
)
def test_one_image_and_one_setting_equal_diffusers_pipeline(pipeline, images, strength, guidance_scale, steps):
    setting = Setting(strength, guidance_scale, steps, seed=3)
    theirs = pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        image=images[:1],
        strength=strength,
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        generator=generator(3, KEYS[0]),
        output_type="latent",
    ).images
    engine = Img2ImgEngine(pipeline)
    ours = engine.denoise(engine.encode(images[:1]), KEYS[:1], [engine.embed(PROMPT, NEGATIVE)], [setting])
    assert (ours - theirs).abs().max() < 1e-4
    decoded = pipeline.image_processor.postprocess(pipeline.vae.decode(theirs / 0.18215).sample, output_type="pt")
    assert (engine.reconstruct(images[:1], KEYS[:1], [PROMPT], setting, NEGATIVE) - decoded).abs().max() < 1e-4


def test_a_batch_of_images_equals_diffusers_pipeline(pipeline, images):
    generators = [generator(0, key) for key in KEYS]
    theirs = pipeline(
        prompt=[PROMPT] * 6,
        image=images,
        strength=0.5,
        guidance_scale=5.0,
        num_inference_steps=8,
        generator=generators,
        output_type="pt",
    ).images
    ours = Img2ImgEngine(pipeline).reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 8))
    assert (ours - theirs).abs().max() < 1e-4


@settings(deadline=None, max_examples=40)
@given(strength=st.floats(0.01, 1.0), steps=st.integers(1, 500))
def test_schedule_is_diffusers(strength, steps):
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False, clip_sample=False)
    if int(steps * strength) < 1:
        with pytest.raises(ValueError, match="less than one step"):
            Setting(strength, 1.0, steps)
        return
    setting = Setting(strength, 1.0, steps)
    ours = ddim_schedule(scheduler, steps, setting.executed_steps)
    t_start = max(steps - min(int(steps * strength), steps), 0)  # get_timesteps of diffusers' pipeline
    assert torch.equal(ours.timesteps, scheduler.timesteps[t_start:])
    x, eps = torch.ones(1), torch.full((1,), 0.3)
    for i, t in enumerate(ours.timesteps[:5]):
        signal, level = ours.alpha_from[i].sqrt(), (1 - ours.alpha_from[i]).sqrt()
        moved = ours.alpha_to[i].sqrt() * (x - level * eps) / signal + (1 - ours.alpha_to[i]).sqrt() * eps
        assert torch.allclose(moved.float(), scheduler.step(eps, t, x).prev_sample, atol=1e-5)


def test_a_tiny_autoencoder_and_a_pndm_schedule(pipeline, images):
    pipeline.vae = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
        scaling_factor=1.0,
    ).eval()
    pipeline.scheduler = PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True)
    engine = Img2ImgEngine(pipeline)
    assert isinstance(engine.scheduler, DDIMScheduler) and not engine.scheduler.config.clip_sample
    assert engine.encode(images).std.abs().max() == 0
    pipeline.scheduler = engine.scheduler
    after_one = generator(0, KEYS[0])  # ours draws a latent first; without a posterior diffusers does not
    torch.randn(1, 4, 8, 8, generator=after_one)
    theirs = pipeline(
        prompt=PROMPT,
        image=images[:1],
        strength=0.5,
        guidance_scale=3.0,
        num_inference_steps=6,
        output_type="latent",
        generator=after_one,
    ).images
    ours = engine.denoise(engine.encode(images[:1]), KEYS[:1], [engine.embed(PROMPT)], [Setting(0.5, 3.0, 6)])
    assert (ours - theirs).abs().max() < 1e-4


# -- batches, counts, memory -------------------------------------------------------------------------------------------

MIXED = [
    Setting(0.5, 7.5, 8),
    Setting(0.2, 3.5, 20),
    Setting(0.5, 7.5, 8, seed=1),
    Setting(1.0, 2.0, 4),
    Setting(0.4, 9.0, 10),
]


def test_settings_of_equal_length_mix_in_a_batch(engine, images):
    posterior, text = engine.encode(images), engine.embed(PROMPT)
    rows = [0, 1, 2, 2, 0]
    together = engine.denoise(posterior[rows], [KEYS[i] for i in rows], [text] * 5, MIXED)
    for row, (image, setting) in enumerate(zip(rows, MIXED)):
        alone = engine.denoise(posterior[[image]], [KEYS[image]], [text], [setting])
        assert (together[row] - alone[0]).abs().max() < 1e-5
    order = [3, 0, 4, 2, 1]
    other = [rows[i] for i in order]
    shuffled = engine.denoise(posterior[other], [KEYS[i] for i in other], [text] * 5, [MIXED[i] for i in order])
    assert (shuffled - together[order]).abs().max() < 1e-5
    other_seed = engine.denoise(posterior[[0]], KEYS[:1], [text], [MIXED[2]])
    assert (other_seed[0] - together[0]).abs().max() > 1e-2
    with pytest.raises(ValueError, match="agree in executed steps"):
        engine.denoise(posterior[[0, 1]], KEYS[:2], [text] * 2, [Setting(0.5, 7.5, 8), Setting(0.75, 7.5, 8)])
    with pytest.raises(ValueError, match="guided"):
        engine.denoise(posterior[[0, 1]], KEYS[:2], [text] * 2, [Setting(0.5, 7.5, 8), Setting(0.5, 1.0, 8)])


def test_noise_is_the_image_key_s(engine, images):
    posterior = engine.encode(images[:1])
    sample, noise = image_noise((2, *posterior.mean.shape[1:]), 0, KEYS[:1]).unbind(1)
    engine.unet.forward = lambda x, *_, **__: (torch.zeros_like(x),)  # no prediction: the state is only rescaled
    out = engine.denoise(posterior, KEYS[:1], [engine.embed(PROMPT)], [Setting(1.0, 1.0, 1)])
    first, last = engine.schedule(Setting(1.0, 1.0, 1)).alpha_from[0], engine.schedule(Setting(1.0, 1.0, 1)).alpha_to[0]
    noised = first.sqrt() * (posterior.mean + posterior.std * sample) + (1 - first).sqrt() * noise
    assert torch.allclose(out, (noised / first.sqrt() * last.sqrt()).float(), atol=1e-4)


@pytest.mark.parametrize("setting", [Setting(0.5, 7.5, 9), Setting(0.3, 1.0, 10), Setting(1.0, 1.01, 3)], ids=str)
def test_evaluations_are_counted(engine, images, setting):
    sizes = count_rows(engine.unet)
    engine.reconstruct(images, KEYS, [PROMPT] * 6, setting)
    by_hand = int(setting.num_inference_steps * setting.strength) * (2 if setting.guidance_scale > 1 else 1)
    assert sum(sizes) == engine.evaluations == 6 * by_hand == 6 * setting.evaluations


def test_a_prompt_is_embedded_once(engine, images):
    calls = count_rows(engine.pipeline.text_encoder)
    for _ in range(3):
        engine.reconstruct(images[:1], KEYS[:1], [PROMPT], Setting(0.5, 5.0, 2))
    assert len(calls) == 2  # the prompt and the negative one


def test_workers_change_nothing_but_who_computes(engine, images):
    sizes, threads = count_rows(engine.unet), torch.get_num_threads()
    alone = engine.reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 6))
    counted, engine.workers = engine.evaluations, 4
    shared = engine.reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 6))
    assert (shared - alone).abs().max() < 1e-5
    assert engine.evaluations == 2 * counted == sum(sizes) and torch.get_num_threads() == threads
    assert sorted(sizes[3:]) == sorted([2, 4, 2, 4] * 3)  # 6 images over 4 workers, with guidance, 3 steps


@pytest.mark.slow
def test_batches_are_halved_where_memory_runs_out(engine, images, monkeypatch):
    expected = engine.reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 4))
    counted, forward = engine.evaluations, engine.unet.forward

    def small_memory(x, *args, **kwargs):
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(engine.unet, "forward", small_memory)
    limit = 5
    assert (engine.reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 4)) - expected).abs().max() < 1e-5
    assert engine.batch_size == 2 and engine.evaluations == 2 * counted
    limit = 1
    with pytest.raises(RuntimeError, match="out of memory with a single image"):
        engine.reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 4))
    monkeypatch.setattr(engine.unet, "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.reconstruct(images, KEYS, [PROMPT] * 6, Setting(0.5, 5.0, 4))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strength": 0.0}, r"\(0, 1\]"),
        ({"strength": 1.2}, r"\(0, 1\]"),
        ({"strength": float("nan")}, r"\(0, 1\]"),
        ({"strength": 0.04, "num_inference_steps": 20}, "less than one step"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
    ],
)
def test_bad_settings_are_refused_by_setting_and_detector(values, message):
    with pytest.raises(ValueError, match=message):
        Setting(**values)
    with pytest.raises(ValueError, match=message):
        Img2Img(**values)


def test_prompts():
    assert fill_prompt("a flawless {noun}", "carpet") == "a flawless woven carpet"
    assert fill_prompt("a defect-free {category}", "metal_nut") == "a defect-free metal nut"
    assert fill_prompt({"mono": "a flawless solar cell"}, "mono") == "a flawless solar cell"
    with pytest.raises(ValueError, match="no prompt for category 'poly'.*mono"):
        fill_prompt({"mono": "a flawless solar cell"}, "poly")
    with pytest.raises(ValueError, match="kategory"):
        fill_prompt("a flawless {kategory}", "carpet")
    check_prompts([""], [Setting(guidance_scale=1.0)])
    with pytest.raises(ValueError, match="prompt is empty.*7.5"):
        check_prompts([PROMPT, " "], [Setting(guidance_scale=1.0), Setting()])


def test_the_engine_refuses_what_it_cannot_run(pipeline):
    engine = Img2ImgEngine(pipeline)
    with pytest.raises(ValueError, match="multiples of 8.*60 x 64"):
        engine.encode(torch.rand(1, 3, 60, 64))
    with pytest.raises(ValueError, match="1000"):
        engine.schedule(Setting(1.0, 1.0, 2000))
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="v_prediction"):
        Img2ImgEngine(pipeline)


# -- the detector ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def splits():
    index = data.load_index("textures", category="carpet")
    test = index[index["split"] == "test"].groupby("label", group_keys=False).head(2)
    train = index[index["split"] == "train"].head(8)
    return data.ImageDataset(train, size=64), data.load_batch(data.ImageDataset(test, size=64))


def detector(folders, **changes):
    options = dict(image_size=64, num_inference_steps=4, strength=0.5, guidance_scale=3.0, calibration_images=5)
    return Img2Img(**{**options, "device": "cpu", **folders, **changes})


@pytest.fixture(scope="module")
def fitted(folders, splits):
    return detector(folders).fit(splits[0])


def test_prediction(fitted, splits):
    batch = splits[1]
    prediction = fitted.predict(batch["image"], batch["key"])
    assert METHODS["img2img"] is Img2Img and prediction.nfe == 2 * 2
    assert prediction.score.shape == (4,) and prediction.anomaly_map.shape == (4, 64, 64)
    assert prediction.reconstruction.shape == (4, 3, 64, 64)
    assert prediction.reconstruction.min() >= 0 and prediction.reconstruction.max() <= 1
    mse = (batch["image"] - prediction.reconstruction).square().mean(dim=(1, 2, 3))
    assert torch.allclose(prediction.parts["mse"], mse, atol=1e-6)
    cosine = (fitted.clip_.encode_images(batch["image"]) * fitted.clip_.encode_images(prediction.reconstruction)).sum(1)
    assert torch.allclose(prediction.parts["clip"], 1 - cosine.detach(), atol=1e-5)
    z = fitted.calibration_.calibrate(prediction.parts)
    assert torch.allclose(prediction.score.double(), 0.5 * z["mse"] + 0.5 * z["clip"], atol=1e-5)
    assert fitted.predict(torch.rand(2, 3, 50, 90)).anomaly_map.shape == (2, 50, 90)
    assert fitted.predict(torch.rand(2, 3, 50, 90)).reconstruction.shape == (2, 3, 50, 90)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 3e-2), ("fp16", 3e-3)])
def test_networks_in_short_precision(fitted, folders, splits, precision, tolerance):
    images, keys = splits[1]["image"], splits[1]["key"]
    short = detector(folders, inference_precision=precision).fit(splits[0])
    assert (
        short.engine_.unet.dtype
        == short.engine_.vae.dtype
        == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    )
    assert short.engine_.encode(images).mean.dtype == torch.float32
    exact, q = fitted.predict(images, keys), short.predict(images, keys)
    assert q.score.dtype == q.reconstruction.dtype == torch.float32
    assert 0 < (q.reconstruction - exact.reconstruction).norm() <= tolerance * exact.reconstruction.norm()
    with pytest.raises(ValueError, match="inference_precision must be one of"):
        Img2Img(inference_precision="half")


def test_an_image_alone_equals_the_image_in_a_batch(fitted, splits):
    batch = splits[1]
    together = fitted.predict(batch["image"], batch["key"])
    for i in range(4):
        alone = fitted.predict(batch["image"][i : i + 1], batch["key"][i : i + 1])
        assert torch.allclose(alone.score, together.score[i : i + 1], atol=1e-4, rtol=1e-4)  # units of small deviations
        assert torch.allclose(alone.parts["mse"], together.parts["mse"][i : i + 1], atol=1e-6)
        assert torch.allclose(alone.reconstruction, together.reconstruction[i : i + 1], atol=1e-5)
    other = fitted.predict(batch["image"][:1], ["textures/carpet/test/good/another"])
    assert (other.reconstruction - together.reconstruction[:1]).abs().max() > 1e-3


@pytest.mark.slow
def test_save_and_load(fitted, splits, folders, tmp_path):
    batch = splits[1]
    fitted.save(tmp_path)
    loaded = Img2Img.load(tmp_path, device="cpu")
    before, after = fitted.predict(batch["image"], batch["key"]), loaded.predict(batch["image"], batch["key"])
    assert torch.equal(before.score, after.score) and torch.equal(before.anomaly_map, after.anomaly_map)
    write_stable_diffusion(folders["weights"] + "-other", seed=1)
    text = (tmp_path / "detector.json").read_text().replace(folders["weights"], folders["weights"] + "-other")
    (tmp_path / "detector.json").write_text(text)
    with pytest.raises(ValueError, match="fitted with weights"):
        Img2Img.load(tmp_path, device="cpu")


def test_alpha_1_needs_no_clip(folders, splits):
    plain = detector({"weights": folders["weights"], "clip": "nowhere"}, alpha=1.0, calibrated=False).fit(splits[0])
    prediction = plain.predict(splits[1]["image"], splits[1]["key"])
    assert set(prediction.parts) == {"mse"} and torch.allclose(prediction.score, prediction.parts["mse"])
    assert torch.allclose(prediction.anomaly_map.mean(dim=(1, 2)), prediction.score, atol=1e-6)


def test_calibration_uses_the_training_images_only(fitted, splits, folders):
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))[:5].sort().values
    batch = data.load_batch(splits[0])
    chosen = fitted.predict(batch["image"][order], [batch["key"][i] for i in order])
    assert fitted.calibration_.location["mse"] == pytest.approx(chosen.parts["mse"].double().mean().item(), rel=1e-4)
    assert abs(chosen.score.mean().item()) < 1e-2


def test_categories_take_their_prompts(folders):
    index = data.load_index("textures")
    train = index[(index["split"] == "train") & index["category"].isin(["carpet", "wood"])].groupby("category").head(2)
    prompts = {"carpet": "a flawless {noun}", "wood": "flawless wood"}
    both = detector(folders, prompt=prompts, alpha=1.0, calibration_images=4)
    both.fit(data.ImageDataset(train, size=64))
    keys = ["textures/wood/test/good/0", "textures/carpet/test/good/0"]
    assert both.prompts(keys, 2)[0] == ["flawless wood", "a flawless woven carpet"]
    with pytest.raises(ValueError, match="keys"):
        both.predict(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match="leather"):
        both.predict(torch.rand(1, 3, 64, 64), ["textures/leather/test/good/0"])


@pytest.mark.slow
def test_the_detector_refuses_before_it_computes(folders, splits):
    for changes, message in (
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": {"wood": "wood"}}, "no prompt for category 'carpet'"),
        ({"image_size": 60}, "takes images of 64 x 64"),
        ({"image_size": 68}, "multiples of 8"),
        ({"num_inference_steps": 1500}, "1000"),
    ):
        with pytest.raises(ValueError, match=message):
            detector(folders, **changes).fit(splits[0])
    for changes, message in (({"alpha": 1.5}, "alpha"), ({"calibration_images": 1}, "calibration")):
        with pytest.raises(ValueError, match=message):
            detector(folders, **changes)
    with pytest.raises(RuntimeError, match="not fitted"):
        detector(folders).predict(torch.rand(1, 3, 64, 64))
    index = data.load_index("textures", category="carpet")
    with pytest.raises(ValueError, match="anomalous"):
        detector(folders).fit(data.ImageDataset(index[index["split"] == "test"], size=64))


# -- the score ---------------------------------------------------------------------------------------------------------


def test_hybrid_score():
    parts = {"mse": torch.tensor([0.01, 0.03]), "clip": torch.tensor([0.2, 0.1])}
    assert torch.allclose(scoring.hybrid_score(parts, 0.75), torch.tensor([0.0575, 0.0475]))
    calibration = scoring.Calibration({"mse": 0.02, "clip": 0.1}, {"mse": 0.01, "clip": 0.1})
    assert torch.allclose(scoring.hybrid_score(parts, 0.75, calibration), torch.tensor([-0.5, 0.75]))
    assert torch.allclose(scoring.hybrid_score({"mse": parts["mse"]}, 1.0), parts["mse"])
    with pytest.raises(ValueError, match="alpha"):
        scoring.hybrid_score(parts, -0.1)


def test_residual_parts():
    x = torch.full((2, 3, 8, 8), 0.5)
    x_hat = x.clone()
    x_hat[1, :, :4] += 0.2
    parts, maps = residual_parts(x, x_hat)
    assert set(parts) == {"mse"} and torch.allclose(parts["mse"], torch.tensor([0.0, 0.02]))
    assert torch.allclose(maps["mse"][1, :4], torch.tensor(0.04))
    with pytest.raises(ValueError, match="differ in shape"):
        residual_parts(x, x_hat[:, :, :4])


def test_networks_are_those_that_a_prediction_runs_through(folders):
    detector = Img2Img(**folders, image_size=64, device="cpu", alpha=1.0)
    assert detector.networks() == []
    detector._load_networks()
    pipeline = detector.engine_.pipeline
    assert detector.networks() == [pipeline.unet, pipeline.vae, pipeline.text_encoder]

"""The sweep: what it costs, that it can be killed, and what it writes."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_models import count_rows, write_clip, write_stable_diffusion

from diffad_utils import data
from diffad_utils.methods.img2img import Img2ImgEngine, Setting, search, sweep
from diffad_utils.models.clip import load_clip
from diffad_utils.models.stable_diffusion import load_pipeline

GRID = sweep.grid([0.25, 0.5], [1.0, 5.0], [4, 8])
KEYS = [f"textures/carpet/test/good/{i}" for i in range(5)]
PROMPTS = ["a flawless woven carpet"] * 4 + ["a flawless wooden board"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    return write_stable_diffusion(root / "sd"), write_clip(root / "clip")


@pytest.fixture
def engine(folders):
    engine = Img2ImgEngine(load_pipeline(str(folders[0]), device="cpu"), batch_size=3)
    engine.workers = 1
    return engine


@pytest.fixture(scope="module")
def clip(folders):
    return load_clip(str(folders[1]), device="cpu")


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_grid():
    assert len(GRID) == 8 and GRID[0] == Setting(0.25, 1.0, 4, 0) and len(set(GRID)) == 8
    with pytest.raises(ValueError, match="1 x 0 x 1 x 1 settings"):
        sweep.grid([0.5], [], [10])
    with pytest.raises(ValueError, match="less than one step"):
        sweep.grid([0.01], [5.0], [10])


@given(
    strengths=st.lists(st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.7, 1.0]), min_size=1, max_size=4, unique=True),
    scales=st.lists(st.sampled_from([0.0, 1.0, 3.5, 9.0]), min_size=1, max_size=3, unique=True),
    steps=st.lists(st.sampled_from([10, 20, 30, 50]), min_size=1, max_size=3, unique=True),
    num_images=st.integers(1, 7),
    batch_size=st.integers(1, 16),
)
def test_plan_has_every_row_once_in_batches_of_one_length(strengths, scales, steps, num_images, batch_size):
    settings = sweep.grid(strengths, scales, steps)
    batches = sweep.row_batches(settings, num_images, batch_size)
    rows = [row for batch in batches for row in batch]
    computed = [first for first, *_ in sweep.equal_settings(settings)]
    assert len({settings[s].computation for s in computed}) == len(computed)
    assert sorted(rows) == [(s, i) for s in computed for i in range(num_images)]
    lengths = [{(settings[s].executed_steps, settings[s].guided) for s, _ in batch} for batch in batches]
    assert all(len(kinds) == 1 for kinds in lengths) and all(len(batch) <= batch_size for batch in batches)
    groups = {(s.executed_steps, s.guided) for s in settings}
    assert sum(len(batch) < batch_size for batch in batches) <= len(groups)  # only a group's last batch is not full
    assert sum(settings[s].evaluations for s, _ in rows) == sweep.expected_evaluations(settings, num_images)


def test_strengths_that_run_the_same_steps_are_computed_once(engine, images, tmp_path):
    with pytest.warns(UserWarning, match="strength-0.3_.* runs the same 3 steps as strength-0.32_.*strength-0.34_"):
        settings = sweep.grid([0.3, 0.32, 0.34, 0.4], [5.0], [10])
    assert sweep.equal_settings(settings) == [[0, 1, 2], [3]]
    assert sweep.equal_settings([Setting(0.5, 0.0, 10), Setting(0.5, 1.0, 10), Setting(0.5, 1.5, 10)]) == [[0, 1], [2]]
    done = sweep.run(engine, images, KEYS, PROMPTS, settings, tmp_path)
    assert done.evaluations == done.expected_evaluations == len(images) * 2 * (3 + 4)
    first, second, third, other = (done.load(setting)["latents"] for setting in settings)
    assert torch.equal(first, second) and torch.equal(first, third) and not torch.equal(first, other)
    (tmp_path / f"{settings[1]}.safetensors").unlink()  # killed between files of equal content
    again = sweep.run(engine, images, KEYS, PROMPTS, settings, tmp_path)
    assert again.evaluations == 0 and torch.equal(again.load(settings[1])["latents"], first)


# -- cost --------------------------------------------------------------------------------------------------------------


def test_cost_is_what_the_formula_says(engine, images, tmp_path):
    unet, encoder, texts = (count_rows(m) for m in (engine.unet, engine.vae.encoder, engine.pipeline.text_encoder))
    done = sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path)
    by_hand = 5 * sum(int(n * s) * (2 if g > 1 else 1) for s in (0.25, 0.5) for g in (1.0, 5.0) for n in (4, 8))
    assert sum(unet) == done.evaluations == done.expected_evaluations == by_hand == 5 * 27
    assert sum(encoder) == 5  # each image once
    assert len(texts) == 2 * 2  # each prompt once, with its negative one
    assert done.seconds["unet"] > 0
    again = sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path)
    assert again.evaluations == 0 and again.expected_evaluations == by_hand


def test_results_equal_one_image_and_one_setting_at_a_time(engine, images, tmp_path):
    done = sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path, negative_prompt="a damaged woven carpet")
    for setting in (GRID[1], GRID[6], GRID[7]):
        x_hat = engine.decode(done.load(setting)["latents"])
        for i in (0, 3, 4):
            alone = engine.reconstruct(images[[i]], [KEYS[i]], [PROMPTS[i]], setting, "a damaged woven carpet")
            assert (x_hat[i] - alone[0]).abs().max() < 1e-5
    with pytest.raises(ValueError, match="not among the 8 settings"):
        done.load(Setting())


# -- killed and resumed ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def uninterrupted(folders, clip, images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    engine = Img2ImgEngine(load_pipeline(str(folders[0]), device="cpu"), batch_size=3)
    engine.workers = 1
    sweep.run(engine, images, KEYS, PROMPTS, GRID, folder, measure=sweep.ResidualMeasure(images, clip))
    return files(folder)


def test_equal_sweeps_give_equal_bytes(uninterrupted):
    assert len(uninterrupted) == 1 + len(GRID)


@pytest.mark.parametrize("kills", [[0], [1, 5], [11, 15], [3, 3, 9, 20], [35]])
@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(engine, clip, images, tmp_path, monkeypatch, uninterrupted, kills):
    measure, forward, left = sweep.ResidualMeasure(images, clip), engine.unet.forward, []

    def until_killed(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.unet, "forward", until_killed)
    for calls in kills:
        left[:] = [calls]
        with pytest.raises(Killed):
            sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path, measure=measure)
    left[:] = [10**6]
    engine.batch_size, engine.workers = 7, 2  # a resumed sweep keeps the batches that it began with
    sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path, measure=measure)
    assert files(tmp_path) == uninterrupted


def test_killed_while_writing_gives_the_same_bytes(engine, clip, images, tmp_path, monkeypatch, uninterrupted):
    measure, write = sweep.ResidualMeasure(images, clip), sweep.write_atomically
    written = []

    def killed_at_the_fourth(path, content):
        written.append(path)
        if len(written) == 4:
            (path.parent / f".{path.name}.half").write_bytes(content[:100])  # what a kill leaves of a file
            raise Killed
        write(path, content)

    monkeypatch.setattr(sweep, "write_atomically", killed_at_the_fourth)
    with pytest.raises(Killed):
        sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path, measure=measure)
    sweep.run(engine, images, KEYS, PROMPTS, GRID, tmp_path, measure=measure)
    assert {name: content for name, content in files(tmp_path).items() if not name.startswith(".")} == uninterrupted


def test_a_folder_holds_one_sweep(engine, images, tmp_path):
    sweep.run(engine, images, KEYS, PROMPTS, GRID[:1], tmp_path, record={"clip": "abc"})
    before = engine.evaluations
    for changes, name in (
        ({"settings": GRID[:2]}, "settings"),
        ({"prompts": PROMPTS[::-1]}, "prompts"),
        ({"record": {"clip": "b"}}, "record"),
        ({"images": images.flip(3)}, "images"),
        ({"negative_prompt": "a stain"}, "negative_prompt"),
    ):
        arguments = dict(images=images, keys=KEYS, prompts=PROMPTS, settings=GRID[:1], record={"clip": "abc"})
        with pytest.raises(ValueError, match=f"another sweep.*{name}"):
            sweep.run(engine, folder=tmp_path, **(arguments | changes))
    with torch.no_grad():
        engine.unet.conv_out.bias += 0.1  # as an adapter would
    with pytest.raises(ValueError, match="another sweep.*weights"):
        sweep.run(engine, images, KEYS, PROMPTS, GRID[:1], tmp_path, record={"clip": "abc"})
    assert engine.evaluations == before


def test_smaller_batches_are_noted_where_memory_runs_out(engine, images, tmp_path, monkeypatch):
    forward = engine.unet.forward

    def small_memory(x, *args, **kwargs):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(engine.unet, "forward", small_memory)
    done = sweep.run(engine, images, KEYS, PROMPTS, GRID[:3], tmp_path)
    assert done.evaluations == done.expected_evaluations
    sizes = json.loads((tmp_path / "sweep.json").read_text())["sizes"]
    assert sizes == {"batch_size": 3, "rows_at_once": 1, "decode_size": 3, "workers": 1}


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_before_anything_is_computed(engine, images, tmp_path):
    good = {"images": images, "keys": KEYS, "prompts": PROMPTS, "settings": GRID}
    for changes, message in (
        ({"keys": KEYS[:4]}, "5 images, 4 keys"),
        ({"keys": [KEYS[0]] * 5}, "keys must be different"),
        ({"settings": GRID + GRID[:1]}, "settings must be different"),
        ({"settings": []}, "0 settings"),
        ({"prompts": [""] * 5}, "prompt is empty"),
        ({"images": torch.rand(5, 3, 60, 64)}, "multiples of 8"),
        ({"images": images * 255}, r"\[0, 1\]"),
        ({"settings": [Setting(1.0, 1.0, 1200)]}, "1000"),
    ):
        with pytest.raises(ValueError, match=message):
            sweep.run(engine, folder=tmp_path / "new", **(good | changes))
    assert engine.evaluations == 0 and not (tmp_path / "new").exists()


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_residual_measure(clip, images):
    measure = sweep.ResidualMeasure(images, clip, map_size=16)
    same = measure(torch.tensor([3, 0]), images[[3, 0]])
    assert same["mse"].abs().max() == 0 and same["clip"].abs().max() < 1e-6
    assert torch.allclose(same["ssim"], torch.ones(2))
    moved = measure(torch.tensor([3, 0]), torch.stack([images[3], 1 - images[0]]))
    assert moved["mse"][0] == 0
    assert moved["mse"][1] == pytest.approx((1 - 2 * images[0]).square().mean().item(), rel=1e-5)
    assert moved["clip"][1] > moved["clip"][0] and moved["mse_map"].shape == (2, 16, 16)
    assert moved["mse_map"][1].mean() == pytest.approx(moved["mse"][1].item(), rel=1e-5)
    assert moved["clip_map"].shape == (2, 4, 4) and moved["clip_map"][1].min() > 0
    assert set(sweep.ResidualMeasure(images)(torch.tensor([0]), images[:1])) == {"mse", "ssim", "mse_map"}


def planted(folder, settings):
    """A sweep of 4 calibration, 4 normal and 4 anomalous images whose first setting sees the defects and second does
    not.
    """
    rng = np.random.default_rng(0)
    masks = torch.zeros(12, 32, 32, dtype=torch.bool)
    masks[8:, 4:12, 4:12] = True
    for setting, contrast in zip(settings, (1.0, 0.0)):
        maps = torch.from_numpy(rng.uniform(0.1, 0.2, (12, 32, 32))).float() + contrast * masks
        clip_map = torch.full((12, 4, 4), 0.3) + torch.from_numpy(rng.uniform(0, 0.01, (12, 4, 4))).float()
        numbers = {"mse": maps.mean(dim=(1, 2)), "clip": clip_map.mean(dim=(1, 2)), "ssim": torch.full((12,), 0.9)}
        tensors = numbers | {"mse_map": maps, "clip_map": clip_map, "latents": torch.zeros(12, 4, 4, 4)}
        save_file(tensors, folder / f"{setting}.safetensors")
    keys = [f"textures/carpet/test/good/{i}" for i in range(12)]
    return sweep.Sweep(folder, list(settings), keys, 0, 0, {}), [0] * 8 + [1] * 4, masks, [True] * 4 + [False] * 8


def test_evaluate_and_scores(tmp_path):
    done, labels, masks, held_out = planted(tmp_path, GRID[:2])
    table = sweep.evaluate(done, labels, masks, held_out, alpha=0.9)
    sees, blind = table.iloc[0], table.iloc[1]
    assert sees["I-AUROC"] == sees["I-AUROC raw"] == sees["I-AUROC mse"] == 1.0 and sees["AUPRO"] > 0.95
    assert blind["I-AUROC mse"] < 1.0 and 0.3 < blind["P-AUROC"] < 0.7
    assert sees["ssim"] == pytest.approx(0.9) and sees["clip similarity"] == pytest.approx(0.695, abs=0.01)
    assert list(table["evaluations"]) == [s.evaluations for s in GRID[:2]]
    assert "AUPRO" not in sweep.evaluate(done, labels, None, held_out)
    bare = masks.clone()
    bare[11] = False  # an anomalous image without a mask: not one of false alarms
    assert sweep.evaluate(done, labels, bare, held_out, alpha=0.9).iloc[0]["AUPRO"] > 0.95
    scores = done.scores()
    columns = {"strength", "guidance_scale", "num_inference_steps", "seed", "key", "mse", "clip", "ssim"}
    assert len(scores) == 24 and set(scores) == columns
    with pytest.raises(ValueError, match="must be normal"):
        sweep.evaluate(done, labels, masks, [False] * 4 + [True] * 8)
    with pytest.raises(ValueError, match="12 labels"):
        sweep.evaluate(done, labels[:5], masks, held_out)


# -- search ------------------------------------------------------------------------------------------------------------


def random_optuna():
    """The few parts of Optuna that the search uses, with a sampler that draws at random."""

    class Trial:
        def __init__(self, rng):
            self.rng, self.params, self.value = rng, {}, None

        def suggest_float(self, name, low, high):
            self.params[name] = float(self.rng.uniform(low, high))
            return self.params[name]

    class Study:
        def __init__(self, sampler):
            self.rng, self.trials = np.random.default_rng(sampler), []

        def optimize(self, objective, n_trials):
            for _ in range(n_trials):
                trial = Trial(self.rng)
                trial.value = objective(trial)
                self.trials.append(trial)

        best_trial = property(lambda self: max(self.trials, key=lambda trial: trial.value))
        best_params = property(lambda self: self.best_trial.params)
        best_value = property(lambda self: self.best_trial.value)

    module = types.ModuleType("optuna")
    module.create_study = lambda direction, sampler: Study(sampler)
    module.logging = types.SimpleNamespace(WARNING=30, get_verbosity=lambda: 20, set_verbosity=lambda level: None)
    module.samplers = types.SimpleNamespace(TPESampler=lambda seed: seed)
    return module


def test_search_records_what_it_did(engine, clip, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", random_optuna())
    labels = [0, 0, 1, 1, 1]
    options = dict(test_keys=["other"], trials=3, num_inference_steps=10, seed=5)
    record = search.search(engine, images, KEYS, labels, PROMPTS, clip, **options)
    assert record["trials"] == 3 == len(record["history"])
    assert record["space"] == {name: list(bounds) for name, bounds in search.SEARCH_SPACE.items()}
    assert record["best_value"] == max(trial["I-AUROC"] for trial in record["history"])
    assert record["evaluations"] == 5 * 2 * sum(int(10 * trial["strength"]) for trial in record["history"])
    assert record["validation_images"] == 5 and json.dumps(record)
    best = max(record["history"], key=lambda trial: trial["I-AUROC"])
    assert record["best"] == {name: best[name] for name in search.SEARCH_SPACE}


def test_search_never_sees_test_images(engine, clip, images, monkeypatch):
    arguments = dict(images=images, keys=KEYS, labels=[0, 0, 1, 1, 1], prompts=PROMPTS, clip=clip, test_keys=["other"])
    for changes, message in (
        ({"test_keys": [KEYS[2]]}, "are test images, such as"),
        ({"labels": [0] * 5}, "anomalous"),
        ({"space": {"strength": (0.1, 0.7)}}, "space must give"),
        ({"num_inference_steps": 5}, "less than one step"),
    ):
        with pytest.raises(ValueError, match=message):
            search.search(engine, **(arguments | changes))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match="pip install optuna"):
        search.search(engine, **arguments)
    assert engine.evaluations == 0


def test_search_with_optuna_itself(engine, clip, images):
    pytest.importorskip("optuna")
    options = dict(test_keys=[], trials=3, num_inference_steps=10)
    record = search.search(engine, images, KEYS, [0, 0, 1, 1, 1], PROMPTS, clip, **options)
    assert len(record["history"]) == 3 and set(record["best"]) == set(search.SEARCH_SPACE)


def test_validation_images_need_no_test_image():
    train = data.load_index("textures", category="carpet")
    train = data.ImageDataset(train[train["split"] == "train"].head(6), size=64)
    images, keys, labels = search.validation_images(train, 4, seed=1)
    assert images.shape == (8, 3, 64, 64) and labels == [0] * 4 + [1] * 4 and len(set(keys)) == 8
    assert all("/train/" in key for key in keys) and keys[4] == f"{keys[0]}+pasted"
    differing = (images[4:] != images[:4]).any(dim=1).float().mean(dim=(1, 2))
    assert (differing > 0).all() and (differing < 0.12).all()
    assert torch.equal(search.validation_images(train, 4, seed=1)[0], images)
    with pytest.raises(ValueError, match="6 training images, got 7"):
        search.validation_images(train, 7)

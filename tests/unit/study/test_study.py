"""Parameters, run folders and result files."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from runs import OWN, make_batch, make_prediction, session

from diffad_utils import execution, metrics, study, weights
from diffad_utils.study import claims
from diffad_utils.study import manifest as manifests


class TestParameters:
    def test_reads_what_papermill_misses(self):
        assert study.default_parameters("a, b = 1, 2\ng = 3; h = 4\nk: float = -1.5\nx = y = 'z'") == {
            "a": 1,
            "b": 2,
            "g": 3,
            "h": 4,
            "k": -1.5,
            "x": "z",
            "y": "z",
        }

    def test_injected_values_win(self, tmp_path):
        run = study.start("07_invad", session(tmp_path, 'category = "grid"\nlearning_rate = 1'))
        assert run.parameters.category == "grid"
        assert run.parameters["learning_rate"] == 1  # an int is welcome for a float
        assert run.parameters.step_counts == [1, 2, 3]
        assert run.folder == tmp_path / "smoke/textures/grid/invad/seed-0"
        with pytest.raises(AttributeError, match="no parameter `lerning_rate`"):
            _ = run.parameters.lerning_rate

    @pytest.mark.parametrize(
        ("injected", "message"),
        [
            ("learning_rat = 1.0", r"unknown parameter `learning_rat` \(did you mean `learning_rate`\?\)"),
            ("a = b = 2", "unknown parameter `a`"),
            ('seed = "0"', "`seed` is '0' .str., expected int"),
            ("seed = True", "expected int"),
            ("seed = 1.0", "expected int"),
            ("class_conditional = 1", "expected bool"),
            ("step_counts = 3", "expected list of int"),
            ('step_counts = ["3"]', "expected list of int"),
            ("step_counts = [0]", "allowed: at least 1 and at most 1000"),
            ("seed = -1", "allowed: at least 0 and at most 2147483647"),
            ("learning_rate = 0.0", "allowed: above 0"),
            ("learning_rate = float('nan')", "allowed: above 0"),
            ('dataset = "texture"', "did you mean 'textures'"),
            ('spacing = "papr"', 'allowed: "reference", "paper"'),
            ('category = "../x"', "allowed: a name"),
            ('category = ""', "allowed: a name"),
            ('device = "gpu"', "allowed"),
        ],
    )
    def test_what_is_wrong_is_named(self, tmp_path, injected, message):
        with pytest.raises(study.ParameterError, match=message):
            study.start("07_invad", session(tmp_path, injected))

    @pytest.mark.parametrize(("name", "value"), [("guidance_scales", 7.5), ("sweep_seeds", 0)])
    def test_a_spread_needs_two_values(self, name, value):
        """Notebook 03 measures it half-way through; too few are named at its start."""
        study.check_parameters("03_img2img_sweep", {name: [value, value + 1]}, {name: [value]})
        for few in ([], [value], [value, value]):
            with pytest.raises(study.ParameterError, match=f"`{name}` is .* expected at least 2 different values"):
                study.check_parameters("03_img2img_sweep", {name: few}, {name: [value]})

    def test_values_edited_in_the_notebook_are_checked_too(self, tmp_path):
        with pytest.raises(study.ParameterError, match="spacing"):
            study.start("07_invad", session(tmp_path, own=OWN.replace('"reference"', '"papr"')))

    def test_without_a_parameters_cell(self):
        with pytest.raises(study.ParameterError, match="run the parameters cell first"):
            study.start("07_invad", {"In": ["", "import torch"]})

    def test_only_literals(self):
        with pytest.raises(study.ParameterError, match="literal"):
            study.default_parameters("a = max(1, 2)")

    def test_missing_common_parameter(self, tmp_path):
        with pytest.raises(study.ParameterError, match="lacks category"):
            study.start(
                "07_invad",
                session(tmp_path, own=OWN.replace('dataset, category = "textures", "carpet"', 'dataset = "elpv"')),
            )

    def test_dataset_rule_is_the_data_layers_list(self):
        from diffad_utils import data

        assert set(study.RULES["dataset"].choices) == set(data.DATASETS)


def test_without_a_history_of_cells_the_names_come_from_the_file(tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell("# Parameters: x\nseed = 0\ncategory = 'a'", metadata={"tags": ["parameters"]})
        ]
    )
    nbformat.write(notebook, tmp_path / "09_own.ipynb")
    monkeypatch.chdir(tmp_path)
    assert study.parameters_of_session("09_own", {"In": [""], "seed": 3, "category": "b", "other": 1}) == {
        "seed": 3,
        "category": "b",
    }
    with pytest.raises(study.ParameterError, match="run the parameters cell first"):
        study.parameters_of_session("09_own", {"In": [""], "seed": 3})
    with pytest.raises(study.ParameterError, match="seed"):
        study.parameters_of_session("09_own", {"In": [""], "seed": -3, "category": "b"})


class TestRecord:
    def record(self, root, injected: str = "", **more):
        run = study.start("07_invad", session(root, injected))
        run.record(make_prediction(), make_batch(), {"I-AUROC": 1.0, "I-AP": 1.0}, **more)
        return run

    def test_files(self, tmp_path):
        run = study.start("07_invad", session(tmp_path))
        fig, axis = plt.subplots()
        axis.plot([1, 2])
        run.figure(fig, "curve", "A rising line.")
        assert not run.folder.exists()  # nothing where a reader looks, until it is complete
        np.save(run.path("own/file.npy"), np.zeros(3))
        log = types.SimpleNamespace(ema_decay=0.75)
        detector = types.SimpleNamespace(net=torch.nn.Linear(3, 2), training_log_=log)
        timing = {"ms_per_image": 2.5}
        run.record(
            make_prediction(),
            make_batch(),
            {"I-AUROC": 1.0},
            detector=detector,
            timing=timing,
            maps=True,
            experiments={"steps": {"3": torch.tensor(0.5)}, "grid": np.arange(2)},
            trivial_baseline={"I-AUROC": np.float64(0.6)},
        )
        names = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
        assert names == {
            "figures/curve.png",
            "figures.json",
            "own/file.npy",
            "scores.parquet",
            "maps.npz",
            "manifest.json",
            "metrics.json",
        }
        assert [path.name for path in run.folder.parent.iterdir()] == ["seed-0"]  # no temporary folder left

        (record,) = study.load_runs(tmp_path / "smoke")
        assert (record.dataset, record.category, record.method, record.seed) == ("textures", "carpet", "invad", 0)
        assert record.metrics == {"I-AUROC": 1.0} and record.trivial_baseline == {"I-AUROC": 0.6}
        assert record.experiments == {"steps": {"3": 0.5}, "grid": [0, 1]}
        assert record.intervals["I-AUROC"] == [1.0, 1.0]  # perfectly separated scores
        assert record.ms_per_image == 2.5
        expected = {"class": "SimpleNamespace", "family": "unknown", "weights": 8, "ema_decay": 0.75}
        assert record.manifest["detector"] == expected
        assert record.manifest["nfe"] == 3 and record.manifest["images"] == 8
        assert (
            record.manifest["versions"]["torch"] == torch.__version__.split("+")[0]
            or "torch" in record.manifest["versions"]
        )
        assert record.manifest["peak_memory_bytes"]["process"] > 10**7
        assert record.figures[0]["caption"] == "A rising line."
        assert record.figures[0]["provenance"] == "profile smoke · data textures/carpet · no pretrained weights"
        scores = record.scores()
        assert list(scores.columns) == ["key", "label", "defect", "score", "nll"]
        assert scores["defect"].tolist() == ["good"] * 4 + ["hole"] * 4
        assert scores["nll"].tolist() == [2.0 * i for i in range(8)]
        keys, maps = record.maps()
        assert maps.shape == (8, 16, 16) and maps.dtype == np.float16 and keys[0] == "textures/carpet/test/good/0000"
        assert metrics.image_auroc(scores["score"].to_numpy(), scores["label"].to_numpy()) == 1.0

    def test_metrics_file_is_the_same_bytes_again(self, tmp_path):
        first = self.record(tmp_path / "a", experiments={"b": 0.1 + 0.2, "a": 1}).folder / "metrics.json"
        second = self.record(tmp_path / "b", experiments={"a": 1, "b": 0.3}).folder / "metrics.json"
        assert first.read_bytes() == second.read_bytes()
        assert "wall" not in first.read_text() and "_s" not in first.read_text()

    def test_an_earlier_run_stays_until_the_new_one_is_complete(self, tmp_path):
        old = self.record(tmp_path, experiments={"round": 1})
        (old.folder / "left.txt").write_text("from the first run")
        new = study.start("07_invad", session(tmp_path))
        fig, _ = plt.subplots()
        new.figure(fig, "half", "Half a run.")
        with pytest.raises(ValueError, match="metrics.json.metrics.I-AUROC is nan"):
            new.record(make_prediction(), make_batch(), {"I-AUROC": float("nan")}, intervals={})
        (kept,) = study.load_runs(tmp_path / "smoke")
        assert kept.experiments == {"round": 1}
        new.record(make_prediction(), make_batch(), {"I-AUROC": 1.0}, experiments={"round": 2})
        (replaced,) = study.load_runs(tmp_path / "smoke")
        assert replaced.experiments == {"round": 2}
        assert not (new.folder / "left.txt").exists() and (new.folder / "figures/half.png").exists()

    def test_another_method_gets_its_own_run_folder(self, tmp_path):
        run = study.start("05_esm", session(tmp_path))
        run.record_method("anomalib:patchcore", make_prediction(), make_batch(), {"I-AUROC": 1.0, "I-AP": 1.0})
        with pytest.raises(ValueError, match="other methods"):
            run.record_method("esm", make_prediction(), make_batch(), {"I-AUROC": 1.0})
        finding = claims.finding("C44", 0.1, 0.05, 0.2, 8, measure="I-AUROC of ESM minus SGM", section="Accuracy")
        run.record(make_prediction(), make_batch(), {"I-AUROC": 1.0, "I-AP": 1.0}, claims=[finding])
        records = study.load_runs(tmp_path / "smoke")
        assert [record.method for record in records] == ["anomalib:patchcore", "esm"]
        assert records[0].folder.parent.name == "anomalib_patchcore"
        assert records[1].manifest["other_methods"] == ["anomalib:patchcore"]
        assert records[0].claims == [] and records[1].claims == [finding]
        assert len(records[0].scores()) == 8

    def test_masks_and_reconstructions_are_kept_image_by_image(self, tmp_path):
        run = study.start("07_invad", session(tmp_path))
        batch = make_batch() | {"image": torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
        batch["mask"] = torch.zeros(8, 16, 16, dtype=torch.bool)
        batch["mask"][4:, 2:5, 2:5] = True
        batch["twin"] = torch.where(batch["mask"][:, None], 0.5, batch["image"])
        prediction = make_prediction()
        prediction.reconstruction = batch["twin"]
        run.record(prediction, batch, {"I-AUROC": 1.0}, maps=True)
        (record,) = study.load_runs(tmp_path / "smoke")
        assert np.array_equal(record.masks(), batch["mask"].numpy())
        table = record.reconstructions()
        assert table["key"].tolist() == record.scores()["key"].tolist()
        assert table["SSIM"][:4].tolist() == [1.0] * 4 and table["SSIM"][4:].isna().all()
        assert table["removal"][4:].tolist() == pytest.approx([1.0] * 4) and table["drift"][4:].tolist() == [0.0] * 4

    def test_data_without_masks_leave_none(self, tmp_path):
        run = study.start("07_invad", session(tmp_path))
        run.record(
            make_prediction(),
            make_batch() | {"mask": torch.zeros(8, 16, 16, dtype=torch.bool)},
            {"I-AUROC": 1.0},
            maps=True,
        )
        (record,) = study.load_runs(tmp_path / "smoke")
        assert record.maps() is not None and record.masks() is None and record.reconstructions() is None

    def test_interrupted_runs_are_listed(self, tmp_path):
        run = self.record(tmp_path)
        assert study.unfinished_runs(tmp_path / "smoke") == []
        (run.folder.parent.parent / "esm/.seed-0.partial-abc").mkdir(parents=True)
        (run.folder.parent / "seed-1").mkdir()
        assert study.unfinished_runs(tmp_path / "smoke") == [
            "textures/carpet/esm/seed-0",
            "textures/carpet/invad/seed-1",
        ]
        assert len(study.load_runs(tmp_path / "smoke")) == 1

    def test_what_a_killed_attempt_left_is_not_listed_once_the_run_is_finished(self, tmp_path):
        left = tmp_path / "smoke/textures/carpet/invad/.seed-0.partial-abc"
        left.mkdir(parents=True)
        assert study.unfinished_runs(tmp_path / "smoke") == ["textures/carpet/invad/seed-0"]
        run = self.record(tmp_path)
        assert study.unfinished_runs(tmp_path / "smoke") == []
        later = run.folder.stat().st_mtime + 60
        os.utime(left, (later, later))  # a rerun that is not done
        assert study.unfinished_runs(tmp_path / "smoke") == ["textures/carpet/invad/seed-0"]

    @pytest.mark.slow
    @pytest.mark.parametrize("keeps", [True, False])
    def test_what_was_measured_before_a_failure_stays(self, tmp_path, keeps):
        """The process ends with an error after `keep`: its scores are there, and nobody takes the run for complete."""
        script = tmp_path / "failing.py"
        script.write_text(
            "import sys\n"
            f"sys.path.insert(0, {str(Path(__file__).parents[2] / 'helpers')!r})\n"
            "from pathlib import Path\n"
            "from diffad_utils import study\n"
            "from runs import make_batch, make_prediction, session\n"
            f"run = study.start('07_invad', session(Path({str(tmp_path)!r})))\n"
            "run.path('table.csv').write_text('a')\n"
            + ("run.keep(make_prediction(), make_batch(), {'I-AUROC': 0.75})\n" if keeps else "")
            + "raise RuntimeError('later')\n"
        )
        failed = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert "later" in failed.stderr
        left = tmp_path / "smoke/textures/carpet/invad/seed-0.incomplete"
        assert left.is_dir() == keeps
        assert study.load_runs(tmp_path / "smoke") == []
        if keeps:
            assert json.loads((left / "incomplete.json").read_text())["metrics"] == {"I-AUROC": 0.75}
            assert len(pd.read_parquet(left / "scores.parquet")) == 8 and (left / "table.csv").is_file()
            assert study.unfinished_runs(tmp_path / "smoke") == ["textures/carpet/invad/seed-0"]
        run = self.record(tmp_path)
        assert not left.exists() and not (run.folder / "incomplete.json").exists()
        assert study.unfinished_runs(tmp_path / "smoke") == []

    def test_record_once(self, tmp_path):
        run = self.record(tmp_path)
        with pytest.raises(ValueError, match="once"):
            run.record()

    def test_a_summary_names_the_weights_and_data_of_its_runs(self, tmp_path):
        run = study.start("07_invad", session(tmp_path))
        run.note_weights(
            types.SimpleNamespace(name="net", source="path", sha256="0" * 64, is_mini=False, message="taken")
        )
        run.record(make_prediction(), make_batch(), {"I-AUROC": 1.0})
        summary = study.start("07_invad", session(tmp_path))
        summary.note_runs([study.load_run(run.folder)] * 2)
        assert summary.provenance.count("net (path)") == 1

    def test_figures_after_the_record_still_count(self, tmp_path):
        run = self.record(tmp_path)
        fig, _ = plt.subplots()
        run.figure(fig, "late", "A late figure.")
        assert [figure["name"] for figure in study.load_run(run.folder).figures] == ["late"]

    def test_figures_are_checked(self, tmp_path):
        run = study.start("07_invad", session(tmp_path))
        fig, _ = plt.subplots()
        with pytest.raises(ValueError, match="letters"):
            run.figure(fig, "a/b", "x")
        with pytest.raises(ValueError, match="caption"):
            run.figure(fig, "ab", " ")

    def test_captions_of_figures_and_tables_name_what_they_are_made_of(self, tmp_path, monkeypatch):
        run, shown = study.start("07_invad", session(tmp_path)), []
        monkeypatch.setattr("diffad_utils.study.run.display", lambda *contents: shown.extend(contents))
        net, vae, other = (
            types.SimpleNamespace(name=name, source="path", sha256="", is_mini=False, message="")
            for name in ("net", "vae", "other")
        )
        run.note_weights(net), run.note_weights(vae)
        run.table(pd.Series({"a": 1}, name="row"), "All of it.")
        run.table(pd.DataFrame({"a": [1]}), "One network.", data="a grey image", weights=[vae])
        fig, _ = plt.subplots()
        run.figure(fig, "toy", "A toy.", data="a Gaussian in closed form, no images", weights=())
        every, one, toy = shown[1::2]
        assert shown[0].shape == (1, 1) and shown[0].index[0] == "row"
        assert every == "All of it. *(profile smoke · data textures/carpet · weights net (path), vae (path))*"
        assert one == "One network. *(profile smoke · data a grey image · weights vae (path))*"
        source = "profile smoke · data a Gaussian in closed form, no images · no pretrained weights"
        assert toy == f"A toy. *({source})*" and run._figures[0]["provenance"] == source
        with pytest.raises(ValueError, match="other.*expected some of.*net"):
            run.table(pd.DataFrame(), "x", weights=[other])
        with pytest.raises(ValueError, match="needs a caption"):
            run.table(pd.DataFrame(), " ")

    def test_wrong_lengths_and_keys(self):
        with pytest.raises(ValueError, match=r"nll has shape \(3,\), expected \(8,\)"):
            study.score_table(make_prediction(nll=torch.zeros(3)), make_batch())
        with pytest.raises(ValueError, match="may not be named label"):
            study.score_table(make_prediction(label=torch.zeros(8)), make_batch())
        with pytest.raises(ValueError, match="dataset/category/split/defect/name"):
            study.defect_of("a/b/c")

    def test_maps_are_averaged_down_to_the_limit(self):
        maps = torch.arange(4 * 8 * 8, dtype=torch.float32).reshape(4, 8, 8)
        small = study.small_maps(maps, limit=4 * 4 * 4 * 2)
        assert small.shape == (4, 4, 4)
        assert small[0, 0, 0] == maps[0, :2, :2].mean()

    @pytest.mark.parametrize(
        ("offset", "scale", "kind"),
        [(0.0, 1.0, np.float16), (1.0, 0.0, np.float16), (0.0, 1e6, np.float32), (1000.0, 0.1, np.float32)],
    )
    def test_maps_keep_their_order(self, offset, scale, kind):
        maps = offset + scale * torch.linspace(0, 1, 256).reshape(1, 16, 16)
        small = study.small_maps(maps)
        assert small.dtype == kind and np.isfinite(small).all()
        assert len(np.unique(small)) >= 200 or scale == 0

    def test_maps_that_are_not_finite_are_refused(self):
        with pytest.raises(ValueError, match="anomaly_map has NaN"):
            study.small_maps(torch.tensor([[[1.0, float("nan")]]]))

    def test_the_summary_notebook_has_one_folder(self, tmp_path):
        self.record(tmp_path)
        run = study.start("08_comparison", session(tmp_path))
        run.record(experiments={"runs": 1})
        assert run.folder == tmp_path / "smoke/comparison"
        assert len(study.load_runs(tmp_path / "smoke")) == 1
        assert study.load_run(run.folder).method == "comparison"
        with pytest.raises(FileNotFoundError, match="no finished run"):
            study.load_run(tmp_path / "smoke/none")

    def test_table(self, tmp_path):
        self.record(tmp_path, timing={"ms_per_image": 4.0})
        self.record(tmp_path, "seed = 1")
        table = study.table(study.load_runs(tmp_path / "smoke"))
        assert table["seed"].tolist() == [0, 1]
        assert {"I-AUROC", "I-AUROC low", "I-AUROC high", "nfe"} <= set(table.columns)
        assert table["ms_per_image"].isna().tolist() == [False, True]


class TestManifest:
    def test_weights_and_data(self, tmp_path):
        (tmp_path / "a b.png").write_bytes(b"1")
        index = pd.DataFrame(
            {
                "dataset": "folder",
                "category": "c",
                "split": ["train", "test"],
                "label": [0, 1],
                "defect": ["good", "ö"],
                "image": [str(tmp_path / "a b.png"), "folder:c/x"],
            }
        )
        run = study.start("07_invad", session(tmp_path))
        run.note_data(index)
        run.note_data(index)
        path = study.repository() / "data/mini/resnet"
        message = f"resnet-mini: shipped model in {path}"
        resolved = types.SimpleNamespace(
            name="resnet-mini", path=path, source="mini", sha256="ab", is_mini=True, message=message
        )
        run.note_weights(resolved)
        assert run.provenance == "profile smoke · data folder/c · weights resnet-mini (shipped mini)"
        run.record(make_prediction(), make_batch(), {})
        manifest = study.load_run(run.folder).manifest
        (data,) = manifest["data"]
        assert (data["train"], data["test"], data["test_anomalous"], data["bytes"]) == (1, 1, 1, 1)
        assert len(data["sha256"]) == len(data["content_sha256"]) == 64
        assert manifest["weights"][0]["message"] == "resnet-mini: shipped model in ./data/mini/resnet"
        (tmp_path / "a b.png").write_bytes(b"2")
        changed = study.describe_index(index)
        assert changed["sha256"] == data["sha256"] and changed["content_sha256"] != data["content_sha256"]
        moved = tmp_path / "moved"
        moved.mkdir()
        (moved / "a b.png").write_bytes(b"1")
        index["image"] = [str(moved / "a b.png"), "folder:c/x"]
        assert study.describe_index(index) == data  # the same wherever it lies

    def test_git_absent_or_empty(self, tmp_path, monkeypatch):
        assert study.git_state(tmp_path) == {"revision": None, "dirty": None}
        monkeypatch.setenv("PATH", "")
        assert study.git_state() == {"revision": None, "dirty": None}

    def test_a_gpu_that_is_not_there(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(study.ParameterError, match="no CUDA device"):
            study.resolve_device("cuda:0")
        assert study.resolve_device("cpu") == "cpu"


class TestPlan:
    def test_exponents_are_numbers(self):
        assert execution.read_yaml("a: 1e-4\nb: 5.0e-5\nc: 1e\nd: 12\ne: '1e-4'") == {
            "a": 1e-4,
            "b": 5e-5,
            "c": "1e",
            "d": 12,
            "e": "1e-4",
        }
        parameters = {"rate": 1e-5, "text": "a: 'b' \"c\" {d}", "list": [1, None], "none": None, "name": "ö #1"}
        assert execution.read_yaml(execution.yaml_text(parameters)) == parameters

    def test_modules_are_found_through_imports(self, tmp_path):
        package = tmp_path / "diffad_utils"
        files = {
            "__init__.py": "",
            "study.py": "def f():\n    from diffad_utils import metrics",
            "metrics.py": "from . import kernels",
            "kernels/__init__.py": "from .knn import knn",
            "kernels/knn.py": "import torch",
            "report.py": "from . import study",
        }
        for name, text in files.items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        cells = [
            {"cell_type": "code", "source": ["%matplotlib inline\n", "from diffad_utils import study"]},
            {"cell_type": "markdown", "source": "import diffad_utils.report"},
        ]
        notebook = tmp_path / "01_x.ipynb"
        notebook.write_text(json.dumps({"cells": cells}))
        found = {path.relative_to(package).as_posix() for path in execution.modules_of(notebook, package)}
        assert found == {"__init__.py", "study.py", "metrics.py", "kernels/__init__.py", "kernels/knn.py"}
        before = execution.code_digest(notebook, package)
        (package / "report.py").write_text("changed = 1")
        assert execution.code_digest(notebook, package) == before
        (package / "kernels/knn.py").write_text("changed = 1")
        assert execution.code_digest(notebook, package) != before

    def test_outputs_do_not_count(self, tmp_path):
        cell = {"cell_type": "code", "source": "1 + 1", "outputs": [], "execution_count": None}
        (tmp_path / "a.ipynb").write_text(json.dumps({"cells": [cell]}))
        (tmp_path / "b.ipynb").write_text(json.dumps({"cells": [cell | {"outputs": ["2"], "execution_count": 1}]}))
        (tmp_path / "c.ipynb").write_text(json.dumps({"cells": [cell | {"source": "1 + 2"}]}))
        a, b, c = (execution.notebook_digest(tmp_path / f"{name}.ipynb") for name in "abc")
        assert a == b != c


def test_masks_are_kept_where_some_anomalous_images_have_none():
    masks = torch.zeros(3, 4, 4, dtype=torch.bool)
    masks[1, 0, 0] = True
    assert np.array_equal(study.usable_masks({"label": [0, 1, 1], "mask": masks})["mask"], masks.numpy())
    assert study.usable_masks({"label": [0, 1, 1], "mask": torch.zeros_like(masks)}) == {}


def test_tf32_is_off_and_noted(tmp_path):
    torch.backends.cudnn.allow_tf32 = True
    study.seed_everything(0)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    run = study.start("07_invad", session(tmp_path))
    run.record(make_prediction(), make_batch(), {"I-AUROC": 1.0})
    (record,) = study.load_runs(tmp_path / "smoke")
    assert record.manifest["tf32"] is False


def test_captions_count_many_categories():
    data = [{"dataset": "textures", "categories": ["a"]}, {"dataset": "textures", "categories": list("bcde")}]
    text = manifests.provenance({"profile": "smoke"}, data, [])
    assert text == "profile smoke · data textures/a, 4 other categories of textures · no pretrained weights"
    data[0]["categories"] = ["b"]  # one of the four
    assert "data textures/b, 4 categories of textures" in manifests.provenance({"profile": "smoke"}, data, [])


@pytest.mark.parametrize(("dataset", "said"), [("elpv", True), ("textures", False)])
def test_captions_say_that_elpv_shaped_the_small_backbone(dataset, said):
    resolved = weights.resolve("resnet-mini")
    entry = {"name": "resnet-mini", "source": "mini", "is_mini": True, "message": resolved.message}
    text = manifests.provenance({"profile": "smoke"}, [{"dataset": dataset, "categories": ["mono"]}], [entry])
    assert "resnet-mini (shipped mini" in text and ("elpv shaped its training task" in text) == said

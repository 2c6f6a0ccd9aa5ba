"""Bundles for Kaggle: what is in them, the push with the real client to a stand-in, a session in a copy of Kaggle's
file tree."""

import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import yaml
from fake_server import KEY, USER, FakeKaggle
from packaging.requirements import Requirement

from diffad_utils import cli, kaggle, study, weights
from diffad_utils.execution import profiles
from diffad_utils.kaggle import client, session, wheels
from diffad_utils.weights import needs

REPOSITORY = Path(__file__).resolve().parents[2]
GRID = [{"dataset": "elpv", "category": "mono"}, {"dataset": "textures", "category": "leather"}]
SMALL = {
    "image_size": 64,
    "grid": 4,
    "width": 32,
    "depth": 1,
    "num_heads": 2,
    "train_steps": 8,
    "train_batch_size": 4,
    "sweep_images": 10,
    "train_images": 500,
    "test_images": 10,
}
"""What makes a notebook quick, as far as it has such parameters."""


def write_profile(folder: Path) -> Path:
    """A profile `tiny` with two runs of 07 and the comparison."""
    own = study.notebook_parameters(REPOSITORY / "notebooks" / "07_invad.ipynb")
    parameters = {name: value for name, value in SMALL.items() if name in own}
    content = {
        "defaults": {"gpus": 0, "minutes": 10},
        "07_invad": {"grid": GRID, "parameters": parameters},
        "08_comparison": None,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return folder / "tiny.yaml"


def write_wheels(folder: Path, profile: str) -> Path:
    """Files with the names of the wheels that the image lacks: fetching them needs the network."""
    folder.mkdir(exist_ok=True)
    for name in wheels.lacking(profiles.load_plan(profile)):
        (folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl").write_bytes(b"wheel")
    return folder


def build(**options) -> Path:
    """A build whose wheels are those of `write_wheels`."""
    options["output"].parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        own = write_wheels(Path(folder), options.get("profile", "kaggle"))
        return kaggle.build(options.pop("owner", USER), wheels=own, **options)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    return build(profile=str(write_profile(folder)), output=folder / "kaggle")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_two_builds_have_the_same_bytes(bundle, tmp_path):
    before = os.umask(0o077)
    try:
        again = build(profile=str(bundle.parent / "tiny.yaml"), output=tmp_path / "kaggle")
    finally:
        os.umask(before)
    assert contents(again) == contents(bundle)
    assert contents(build(profile=str(bundle.parent / "tiny.yaml"), output=again)) == contents(bundle)


def test_the_data_set_has_what_the_installed_package_needs(bundle):
    names = set(contents(bundle / "dataset"))
    assert {"data/published/claims.csv", "data/mini/sd/model_index.json", "notebooks/07_invad.ipynb"} <= names
    assert "workflow/profiles/tiny.yaml" in names
    (wheel,) = (bundle / "dataset").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        inside = file.namelist()
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert {"diffad_utils/report/templates/report.html", "diffad_utils/kaggle/session.py"} <= set(inside)
    packaged = {name for name in inside if name.startswith("diffad_utils/") and name.endswith(".py")}
    assert packaged == {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "diffad_utils").rglob("*.py")}


def test_kernels_are_chained_and_have_their_parameters(bundle):
    invad = json.loads((bundle / "07_invad/kernel-metadata.json").read_text())
    joined = json.loads((bundle / "08_comparison/kernel-metadata.json").read_text())
    assert invad["id"] == f"{USER}/diffad-07-invad-tiny" and joined["kernel_sources"] == [invad["id"]]
    assert not invad["enable_internet"] and invad["dataset_sources"] == [f"{USER}/diffad-utils"]
    notebook = json.loads((bundle / "07_invad/07_invad.ipynb").read_text())
    (injected,) = [cell for cell in notebook["cells"] if "injected-parameters" in cell["metadata"].get("tags", [])]
    assert study.default_parameters("".join(injected["source"]))["train_steps"] == 8
    assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_the_kaggle_profile_asks_for_a_gpu_mvtec_and_its_weights(tmp_path):
    folder = build(notebooks=["07", "08"], output=tmp_path / "kaggle", resume=True, model_sources=["a/b/c/d/1"])
    metadata = json.loads((folder / "07_invad/kernel-metadata.json").read_text())
    assert metadata["enable_gpu"] and metadata["machine_shape"] == kaggle.MACHINE
    assert metadata["dataset_sources"] == [f"{USER}/diffad-utils", "ipythonx/mvtec-ad"]
    assert metadata["model_sources"] == ["a/b/c/d/1"] and metadata["kernel_sources"] == [metadata["id"]]
    assert kaggle.weights_needed(folder) == {"efficientnet-b4": ["07_invad"]}
    assert not (folder / "01_data").exists()


def test_what_to_attach_has_clip_the_ddpm_and_every_autoencoder(tmp_path):
    needed = kaggle.weights_needed(build(output=tmp_path / "kaggle"))
    assert {"sd15", "ViT-B-32/openai", "google/ddpm-celebahq-256", "vae:sd-vae-ft-mse", "vae:taesd"} <= set(needed)
    assert "03_img2img_sweep" in needed["ViT-B-32/openai"] and not any(
        "08_comparison" in names for names in needed.values()
    )
    assert not set(needed) & {*weights.MINI_NAMES, *weights.PACKAGED}


def test_wheels_are_those_of_the_lock_and_a_network_takes_their_place(tmp_path):
    own = write_wheels(tmp_path / "wheels", "kaggle")
    folder = kaggle.build(USER, notebooks=["07"], output=tmp_path / "a", wheels=own)
    assert contents(folder / "dataset/wheels") == contents(own)
    text = (folder / "07_invad/07_invad.ipynb").read_text()
    assert "diffad_utils.doctor" in text and "--no-index" in text and "--internet" not in text
    folder = kaggle.build(USER, notebooks=["07"], output=tmp_path / "b", internet=True)
    listed = (folder / "dataset/requirements.txt").read_text()
    assert not (folder / "dataset/wheels").exists() and "ftfy==" in listed and "--hash=sha256:" in listed
    text = (folder / "07_invad/07_invad.ipynb").read_text()
    assert "--internet" in text and "--requirements" in text and "--require-hashes" in text


def test_a_folder_without_the_wheels_that_kernels_need_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no folder of wheels"):
        kaggle.build(USER, output=tmp_path / "kaggle", wheels=tmp_path / "nowhere")
    next(write_wheels(tmp_path / "wheels", "kaggle").glob("ftfy-*")).unlink()
    with pytest.raises(ValueError, match="wheels has no wheel of ftfy, which Kaggle's image lacks; add"):
        kaggle.build(USER, output=tmp_path / "kaggle", wheels=tmp_path / "wheels")
    assert not (tmp_path / "kaggle").exists()


def test_data_sets_that_nothing_attached_is_known_to_have_are_named(tmp_path, capsys):
    own = write_wheels(tmp_path / "wheels", "kaggle-others")
    command = ["kaggle", "build", "--owner", USER, "--profile", "kaggle-others", "--notebooks", "07", "--wheels"]
    sources = ["--dataset-source", "a/VisA-anomaly"]
    assert cli.main([*command, str(own), "--output", str(tmp_path / "kaggle"), *sources]) == 0
    said = capsys.readouterr().out
    assert "  bmad: 07_invad\n  mpdd: 07_invad\n" in said and "  visa" not in said
    assert "--dataset-source OWNER/SLUG" in said


def test_wheels_that_cannot_be_fetched_are_explained(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFAD_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(RuntimeError, match=r"cannot be fetched(.|\n)*--wheels FOLDER.*--internet"):
        wheels.fetch(["ftfy"])
    assert not list((tmp_path / "wheels").iterdir())
    with pytest.raises(ValueError, match=r"requirements.kaggle.lock lacks no-such-package"):
        wheels.locked(["no-such-package"])


def test_the_second_lock_is_the_images_and_within_the_packages_ranges():
    """What the image has is pinned at its versions; what it lacks is pure Python, and in the lock with hashes."""
    text = (REPOSITORY / wheels.LOCK).read_text()
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ]+) ", text, flags=re.MULTILINE))
    image = (REPOSITORY / "workflow/kaggle/image.txt").read_text()
    assert dict(re.findall(r"^([a-z0-9-]+)==(.+)$", image, flags=re.MULTILINE)).items() <= pins.items()
    for requirement in map(Requirement, wheels.requirements()):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert requirement.specifier.contains(pins[name]), requirement
    assert "://" not in text and "--index" not in text and {*wheels.LACKING, *wheels.OF_ANOMALIB} <= set(pins)


def test_anomalib_is_in_the_bundle_where_a_profile_has_its_detectors(tmp_path):
    assert set(wheels.OF_ANOMALIB) <= set(wheels.lacking(profiles.load_plan("kaggle-quick")))
    assert wheels.lacking(profiles.load_plan(str(write_profile(tmp_path)))) == [*wheels.LACKING, "elpv-dataset"]
    for profile in ("kaggle", "kaggle-quick"):
        run = profiles.load_plan(profile).runs[0]
        parameters = study.notebook_parameters(run.notebook) | run.parameters
        assert {"patchcore", "winclip"} <= set(parameters["baselines"])
        assert needs.weights_of(parameters)["ViT-B-32/openai"]  # the CLIP that 03 has attached


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": "some one"}, "not a Kaggle user name"),
        ({"notebooks": ["99"]}, "no notebook of the profile matches '99'"),
        ({"dataset_sources": ["mvtec"]}, "dataset source 'mvtec' is not of the form owner/slug"),
        ({"model_sources": ["a/b"]}, "owner/model/framework/variation/version"),
    ],
)
def test_a_wrong_build_stops_with_one_sentence(tmp_path, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(output=tmp_path / "kaggle", **change)
    assert not (tmp_path / "kaggle").exists()


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="has other files in it"):
        build(output=tmp_path)
    assert (tmp_path / "thesis.tex").exists()


# --- push ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def to_push(bundle, tmp_path):
    """A copy of the bundle: a push notes in it what was pushed."""
    return shutil.copytree(bundle, tmp_path / "kaggle")


def push(server: FakeKaggle, bundle: Path, home: Path, **more) -> subprocess.CompletedProcess:
    pytest.importorskip("slugify", reason="Kaggle's client is not installed")
    command = [sys.executable, "-m", "diffad_utils.cli", "kaggle", "push", str(bundle), "--poll", "0.05"]
    environment = os.environ | server.environment(home) | {"PYTHONPATH": str(REPOSITORY)} | more
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def versions(server: FakeKaggle) -> set[int]:
    """How often the data set and each kernel were pushed."""
    return {len(pushed) for pushed in (*server.datasets.values(), *server.kernels.values())}


def test_push_uploads_the_data_set_then_the_kernels_in_order_and_waits(to_push, tmp_path):
    server = FakeKaggle()
    done = push(server, to_push, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    first, joined = f"{USER}/diffad-07-invad-tiny", f"{USER}/diffad-08-comparison-tiny"
    assert list(server.kernels) == [first, joined]
    assert server.calls.index("CreateDataset") < server.calls.index("SaveKernel")
    # 08 only after 07 had finished
    order = [call for call in server.calls if call in ("SaveKernel", "GetKernelSessionStatus")]
    assert order == ["SaveKernel", "GetKernelSessionStatus", "GetKernelSessionStatus"] * 2
    assert "does not resolve" not in done.stdout  # the client's check of title against slug
    assert KEY not in done.stdout + done.stderr
    (files,) = server.datasets[f"{USER}/diffad-utils"]
    (wheel,) = (to_push / "dataset").glob("*.whl")
    assert set(files) == {"data.zip", "notebooks.zip", "wheels.zip", "workflow.zip", wheel.name}
    with zipfile.ZipFile(io.BytesIO(server.blobs["data.zip"])) as file:
        assert "mini/sd/model_index.json" in file.namelist()
    assert "# Parameters" in server.kernels[first][0]["text"]
    assert server.kernels[joined][0]["kernelDataSources"] == [first]

    again = push(server, to_push, tmp_path)
    assert again.returncode == 0 and "diffad-07-invad-tiny: complete, as built; not run again" in again.stdout
    assert versions(server) == {1}

    (to_push / "dataset/data/published/claims.csv").write_text("another build")
    again = push(server, to_push, tmp_path)
    assert again.returncode == 0 and "new version" in again.stdout
    assert versions(server) == {2}


def test_push_reports_a_failed_kernel_and_goes_on(to_push, tmp_path):
    server = FakeKaggle(failing=(f"{USER}/diffad-07-invad-tiny",))
    done = push(server, to_push, tmp_path)
    assert done.returncode == 1
    assert "diffad-07-invad-tiny: out of memory" in done.stdout and len(server.kernels) == 2


def test_push_without_credentials_says_so(to_push, tmp_path):
    done = push(FakeKaggle(), to_push, tmp_path, KAGGLE_USERNAME="", KAGGLE_KEY="")
    assert done.returncode in (1, 2) and not re.search("Traceback", done.stderr)
    assert "signed in" in done.stderr or "Unauthenticated" in done.stderr


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by sleeping alone, in no time: [seconds]."""
    now = [0.0]
    passing = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(client, "time", passing)
    return now


def failing_until(clock, end: float, error: Exception):
    def call(name):
        if clock[0] < end:
            raise error
        return name

    return call


def test_a_gap_of_the_network_is_waited_for_and_a_refusal_is_not(clock):
    gap = requests.exceptions.ConnectionError()
    assert client._retried(failing_until(clock, 3000, gap), "a") == "a"
    with pytest.raises(kaggle.KaggleError, match="does not answer: ConnectionError.*push` again goes on from here"):
        client._retried(failing_until(clock, 1e9, gap), "a")
    assert 6600 < clock[0] < 6800
    refusal = requests.exceptions.HTTPError(response=SimpleNamespace(status_code=404))
    with pytest.raises(kaggle.KaggleError, match="refuses: HTTPError"):
        client._retried(failing_until(clock, 1e9, refusal), "a")
    assert clock[0] < 6900


class FakeApi:
    """Kaggle's client: each kernel takes ten minutes; the network is gone for good after `gone` seconds."""

    def __init__(self, clock):
        self.clock, self.gone, self.began, self.pushed, self.uploads = clock, 1e9, {}, [], 0

    def dataset_status(self, name):
        if not self.uploads:
            raise requests.exceptions.HTTPError(response=SimpleNamespace(status_code=404))
        return "ready"

    def dataset_create_new(self, *_, **__):
        self.uploads += 1
        return SimpleNamespace(error="")

    dataset_create_version = dataset_create_new

    def kernels_push(self, folder):
        name = Path(folder).name
        self.pushed.append(name)
        self.began[f"me/{name}"] = self.clock[0]
        sources = dict.fromkeys(("invalid_dataset_sources", "invalid_kernel_sources", "invalid_model_sources"))
        return SimpleNamespace(error="", version_number=1, **sources)

    def kernels_status(self, name):
        if self.clock[0] > self.gone:
            raise requests.exceptions.ConnectionError
        state = "RUNNING" if self.clock[0] < self.began[name] + 600 else "COMPLETE"
        return SimpleNamespace(failure_message="", status=SimpleNamespace(name=state))


def test_a_push_after_a_gap_joins_what_runs_and_runs_nothing_twice(clock, monkeypatch, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/dataset-metadata.json").write_text('{"id": "me/data"}')
    for name, sources in {"a": [], "b": [], "c": [], "joins": ["me/a", "me/b", "me/c"]}.items():
        (tmp_path / name).mkdir()
        content = {"id": f"me/{name}", "kernel_sources": sources}
        (tmp_path / name / "kernel-metadata.json").write_text(json.dumps(content))
    api = FakeApi(clock)
    monkeypatch.setattr(client, "_client", lambda: api)
    api.gone = 700  # c began after a and b, at 600 s
    with pytest.raises(kaggle.KaggleError, match="does not answer"):
        kaggle.push(tmp_path)
    assert api.pushed == ["a", "b", "c"]
    api.gone, api.began["me/c"] = 1e9, clock[0]
    assert kaggle.push(tmp_path) == {f"me/{name}": "complete" for name in ("a", "b", "c", "joins")}
    assert api.pushed == ["a", "b", "c", "joins"] and api.uploads == 1
    (tmp_path / "b/b.ipynb").write_text("{}")  # built anew: b runs again, and what reads it
    kaggle.push(tmp_path)
    assert api.pushed[4:] == ["b", "joins"]
    api.began["me/c"] = 1e9
    kaggle.push(tmp_path, wait=False)
    assert api.pushed[6:] == []


def test_a_build_keeps_what_was_pushed_and_going_on_runs_it_again(bundle, tmp_path):
    folder = shutil.copytree(bundle, tmp_path / "kaggle")
    first, joined = f"{USER}/diffad-07-invad-tiny", f"{USER}/diffad-08-comparison-tiny"
    (folder / client.PUSHED).write_text(json.dumps({first: "1", joined: "2"}))
    options = {"profile": str(bundle.parent / "tiny.yaml"), "output": folder}
    build(**options)
    assert client.pushed_before(folder) == {first: "1", joined: "2"}
    build(**options, notebooks=["07"], resume=True)
    assert client.pushed_before(folder) == {joined: "2"}


def test_the_absent_client_is_installed_from_the_checkout(monkeypatch):
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", None)
    with pytest.raises(kaggle.KaggleError, match=re.escape(".venv/bin/pip install -e '.[kaggle]'")):
        client._client()


# --- a session -------------------------------------------------------------------------------------------------------


def closure(names: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that the named ones need, without extras."""
    from packaging.requirements import Requirement

    found, todo = {}, list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for text in found[name].requires or []:
            requirement = Requirement(text)
            extras = ["", *sorted(requirement.extras)]
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(requirement.name)
                todo += [  # what the extras that were asked for need
                    Requirement(line).name
                    for line in (importlib.metadata.requires(requirement.name) if requirement.extras else None) or []
                    if Requirement(line).marker
                    and any(Requirement(line).marker.evaluate({"extra": extra}) for extra in requirement.extras)
                ]
    return found


def make_environment(folder: Path) -> Path:
    """A fresh virtual environment with links to the package's dependencies and nothing else; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    needed = closure(["diffad-utils"])
    del needed["diffad-utils"]
    for distribution in needed.values():
        for file in distribution.files or []:
            top = file.parts[0]
            source, target = Path(distribution.locate_file(top)), site / top
            if top not in ("..", "__pycache__") and not target.exists() and not target.is_symlink():
                target.symlink_to(source)
    (folder / "share").mkdir(exist_ok=True)
    (folder / "share" / "jupyter").symlink_to(Path(sys.prefix) / "share" / "jupyter")  # kernels and page templates
    return folder / "bin" / "python"


class Session:
    """Runs built kernels one at a time in a copy of Kaggle's file tree: read-only inputs, no network."""

    def __init__(self, root: Path, bundle: Path):
        self.root, self.bundle = root, bundle
        (root / "input").mkdir(parents=True)
        self.python = make_environment(root / "venv")
        slug = json.loads((bundle / "dataset/dataset-metadata.json").read_text())["id"].split("/")[1]
        left_out = shutil.ignore_patterns("dataset-metadata.json", "wheels")  # of these only the names are real
        shutil.copytree(bundle / "dataset", root / "input" / slug, ignore=left_out)

    def run(self, name: str, attach: tuple[Path, ...] = (), change=lambda text: text) -> Path:
        """Execute a kernel like Kaggle's own papermill does; returns the folder of its output."""
        metadata = json.loads((self.bundle / name / "kernel-metadata.json").read_text())
        working = self.root / "working"
        working.mkdir()
        (self.root / "kernel.ipynb").write_text(change((self.bundle / name / metadata["code_file"]).read_text()))
        for output in attach:
            shutil.copytree(output, self.root / "input" / output.name)
        script = (
            f'mount --bind "{self.root}/input" "{self.root}/input" && mount -o remount,ro,bind "{self.root}/input" && '
            f'if touch "{self.root}/input/x" 2>/dev/null; then exit 9; fi; '
            f'exec "{self.python}" -m papermill "{self.root}/kernel.ipynb" "{working}/__notebook__.ipynb" -k python3 --log-output'  # noqa: E501
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "DIFFAD_KAGGLE": str(self.root),
            "OMP_NUM_THREADS": "1",
        }
        environment |= {
            "JUPYTER_PLATFORM_DIRS": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
        }
        done = subprocess.run(
            ["unshare", "-n", "-m", "bash", "-c", f"ip link set lo up 2>/dev/null; {script}"],
            cwd=working,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        for output in attach:
            shutil.rmtree(self.root / "input" / output.name)
        result = self.root / "outputs" / f"{metadata['id'].split('/')[1]}"
        shutil.rmtree(result, ignore_errors=True)
        result.parent.mkdir(exist_ok=True)
        working.rename(result)
        return result


def without_network() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not without_network(), reason="needs the right to take the network away (unshare)")
def test_kernels_run_in_a_copy_of_kaggles_file_tree_and_go_on_from_an_earlier_session(bundle, tmp_path):
    tree = Session(tmp_path / "k", bundle)
    # a session that is over at once: the training stops after a step, without an error, and the rest of the grid is
    # left
    first = tree.run("07_invad", change=lambda text: text.replace(', \\"tiny\\")', ', \\"tiny\\", hours=0.0)', 1))
    text = (first / "__notebook__.ipynb").read_text()
    assert "PAUSED: InvAD denoiser: step 1 of 8" in text
    assert list(first.glob("reports/tiny/.checkpoints/elpv/mono/invad/seed-0/*/unified/checkpoint.pt"))
    assert not list(first.glob("reports/tiny/*/*/*/*/metrics.json"))
    # the next version has that output attached: the training goes on, then the other run of the grid
    earlier = first.rename(first.with_name("earlier"))
    second = tree.run("07_invad", attach=(earlier,))
    text = (second / "__notebook__.ipynb").read_text()
    assert "2 of 2 runs are there." in text
    records = study.load_runs(second / "reports/tiny")
    assert [(record.dataset, record.category) for record in records] == [("elpv", "mono"), ("textures", "leather")]
    assert all(record.manifest["versions"]["diffad_utils"] for record in records)
    # a third version has nothing to do but its own cells, and an undisturbed one has the same numbers
    third = tree.run("07_invad")
    for record in records:
        name = record.folder.relative_to(second)
        assert (third / name / "metrics.json").read_bytes() == (record.folder / "metrics.json").read_bytes()
    joined = tree.run("08_comparison", attach=(second,))
    comparison = study.load_run(joined / "reports/tiny/comparison")
    assert comparison.manifest["notebook"] == "08_comparison"
    assert len(study.load_runs(joined / "reports/tiny")) == 2
    assert "textures/leather/invad" in (joined / "reports/tiny/index.html").read_text()


@pytest.mark.parametrize(("gpus", "at_once"), [([], 1), (["0", "1"], 2)])
def test_a_run_a_gpu_computes_the_rest_of_the_grid(monkeypatch, tmp_path, gpus, at_once, capsys):
    """Both of Kaggle's T4s work; what failed, or came too late, is named as still to do."""
    content = {"07_invad": {"grid": GRID, "seed": [0, 1, 2], "gpus": 1}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    plan = profiles.load_plan(str(tmp_path / "tiny.yaml"), output_root=tmp_path / "out")
    running, most, computed = [], [0], []

    def compute(plan, run, deadline):
        running.append(run.name)
        time.sleep(0.05)
        most[0] = max(most[0], len(running))
        running.remove(run.name)
        computed.append(run.name)
        return not run.name.endswith("mono/seed-2")

    monkeypatch.setattr(session.profiles, "load_plan", lambda name: plan)
    monkeypatch.setattr(session.execution, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(session, "_compute", compute)
    left = session.finish("07_invad", "tiny", {"model": object()})
    assert sorted(computed) == sorted(run.name for run in plan.runs[1:]) and most[0] == at_once
    assert left == ["07_invad/elpv/mono/seed-2"]
    assert "5 of 6 runs are there. Still to do: 07_invad/elpv/mono/seed-2." in capsys.readouterr().out
    assert session._compute is compute and not (tmp_path / "out").exists()


def test_nothing_is_started_after_the_deadline(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"07_invad": {"grid": GRID}}))
    plan = profiles.load_plan(str(tmp_path / "tiny.yaml"), output_root=tmp_path / "out")
    assert session._compute(plan, plan.runs[1], deadline=time.time() - 1) is False
    assert not (tmp_path / "out").exists()

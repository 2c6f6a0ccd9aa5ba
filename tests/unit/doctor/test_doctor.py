"""`diffad doctor`: what a machine has, what a profile would lack, and the limits of containers."""

import sys
import zipfile

import psutil
import pytest
import yaml
from data_trees import mvtec_tree

from diffad_utils import cli, study, weights
from diffad_utils.doctor import page as doctor
from diffad_utils.execution import profiles
from diffad_utils.io import machine
from diffad_utils.scoring import holdout_split
from diffad_utils.study import rules
from diffad_utils.weights import needs

# --- the machine


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """A tree of control groups; returns a function that puts this process into one."""

    def enter(text):
        (tmp_path / "cgroup").write_text(text)

    monkeypatch.setattr(machine, "CGROUP", tmp_path / "fs")
    monkeypatch.setattr(machine, "GROUPS_OF_PROCESS", tmp_path / "cgroup")
    return enter


def test_memory_is_the_containers(groups, tmp_path):
    """Version 2: the limit of a group above counts as well, and "max" is none."""
    own = tmp_path / "fs" / "job" / "step"
    own.mkdir(parents=True)
    groups("0::/job/step\n")
    assert machine.memory_limit() == psutil.virtual_memory().total
    (own / "memory.max").write_text("max\n")
    (own.parent / "memory.max").write_text(f"{2**30}\n")
    assert machine.memory_limit() == 2**30
    (own.parent / "memory.current").write_text(f"{2**29}\n")
    (own.parent / "memory.stat").write_text(f"anon 1\ninactive_file {2**28}\n")
    assert machine.memory_free() == min(2**29 + 2**28, psutil.virtual_memory().available)


def test_memory_is_that_of_version_1(groups, tmp_path):
    own = tmp_path / "fs" / "memory" / "docker" / "abc"
    own.mkdir(parents=True)
    (own / "memory.limit_in_bytes").write_text(f"{2**31}\n")
    groups("12:cpuset:/docker/abc\n7:memory:/docker/abc\n")
    assert machine.memory_limit() == 2**31


def test_memory_of_a_container_that_sees_only_its_own_group(groups, tmp_path):
    """The path in /proc is the host's; the container's own group is the root of what it sees."""
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "memory.max").write_text(f"{2**30}\n")
    groups("0::/kubepods/pod1/abc\n")
    assert machine.memory_limit() == 2**30


def test_memory_without_control_groups(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "GROUPS_OF_PROCESS", tmp_path / "nothing")
    assert machine.memory_limit() == psutil.virtual_memory().total
    assert 0 < machine.memory_free() <= machine.memory_limit()


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_70", "sm_75", "sm_80"], (7, 5), True),  # a T4
        (["sm_75", "sm_80", "sm_90"], (6, 0), False),  # a P100 with a build of 2026
        (["sm_80", "sm_90"], (8, 6), True),  # the same generation
        (["sm_86"], (8, 0), False),  # not an older member of it
        (["sm_80", "compute_80"], (12, 0), True),  # compiled by the driver
        (["sm_80", "compute_90"], (8, 9), True),
        (["sm_90a"], (9, 0), True),
        ([], (7, 5), False),
    ],
)
def test_kernels_for_a_gpu(architectures, capability, runs):
    assert machine.has_kernels(architectures, capability) is runs


# --- what runs need


def test_every_parameter_that_names_weights_is_known():
    named = {name for name, rule in study.RULES.items() if rule is rules._WEIGHTS}
    assert named | {"backbone"} == set(needs.WEIGHTS)


def test_weights_of_a_run():
    parameters = {
        "weights": "sd-mini",
        "clip": "ViT-B-32/openai",
        "vae": "sd15",
        "vaes": ["vae:taesd", "sd15"],
        "backbone": "resnet-mini",
        "pixel_ddpm_weights": None,
        "winclip_weights": "ViT-B-16-plus-240/laion400m_e31",
        "baselines": ["padim"],
    }
    assert needs.weights_of(parameters) == {"ViT-B-32/openai": True, "vae:sd15": True, "vae:taesd": False}
    assert "ViT-B-16-plus-240/laion400m_e31" in needs.weights_of(parameters | {"baselines": ["winclip"]})
    assert needs.packages_of({"baselines": ["padim"], "search_trials": 3}) == ["anomalib", "optuna"]
    assert needs.packages_of({"baselines": [], "search_trials": 0}) == []
    assert needs.least_train_images({"k": 20}) == 23 and needs.least_train_images({}) == 1


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_images_that_are_held_out_are_counted(fraction):
    """Against the split of the methods, and the rule of `D3AD.fit`: k others are left for each image."""
    for images in range(4, 120):
        fitted, held_out = holdout_split(images, fraction, seed=0)
        assert needs.held_out(images, fraction) == len(held_out)
        most = len(fitted) - 1
        assert needs.too_few_train_images({"k": most, "holdout_fraction": fraction}, images) == ""
        text = needs.too_few_train_images({"k": most + 1, "holdout_fraction": fraction}, images)
        assert f"it has {images};" in text and f"(-p k={most})" in text
    assert "-p k" not in needs.too_few_train_images({"k": 20}, 3)


def test_packages_are_followed_to_the_requirements_of_requirements(monkeypatch):
    """open_clip needs ftfy, which an installation without dependencies leaves out: that is said, and by whom."""
    needed = {"diffad-utils": ["open_clip_torch>=3", "elpv-dataset"], "open-clip-torch": ["ftfy", "torch>=99"]}
    versions = {"open-clip-torch": "3.1", "torch": "2.10"}

    def version(name):
        if name not in versions:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: needed.get(name))
    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    assert doctor.missing_packages() == [
        "elpv-dataset (not installed; needed by diffad-utils)",
        "ftfy (not installed; needed by open-clip-torch)",
        "torch>=99 (is 2.10; needed by open-clip-torch)",
    ]
    assert doctor.missing_packages({"ftfy": doctor.Wheel("6.3", ("wcwidth[art]",))}, {"mvtec_ad"}) == [
        "torch>=99 (is 2.10; needed by open-clip-torch)",
        "wcwidth (not installed; needed by ftfy)",
    ]
    wheels = {"ftfy": doctor.Wheel("6.3", ("wcwidth[art]",)), "wcwidth": doctor.Wheel("1", ("paint; extra == 'art'",))}
    assert doctor.missing_packages(wheels, {"mvtec_ad"})[1:] == ["paint (not installed; needed by wcwidth)"]


def test_wheels_say_what_they_need(tmp_path):
    """Their requirements are not installed with them, so doctor has to look; a broken file counts as absent."""
    with zipfile.ZipFile(tmp_path / "Some_thing-2.0-py3-none-any.whl", "w") as file:
        text = "Metadata-Version: 2.1\nName: Some_thing\nVersion: 2.0\nRequires-Dist: other>=1\n"
        file.writestr("Some_thing-2.0.dist-info/METADATA", text)
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"no wheel")
    assert doctor.wheels_in(tmp_path) == {"some-thing": doctor.Wheel("2.0", ("other>=1",))}
    assert doctor.wheels_in(None) == {}


def test_packages_from_an_index_count_as_here(tmp_path):
    """Kernels with a network install the lock that `build` writes; the first cell must not ask for its packages."""
    (tmp_path / "requirements.txt").write_text("scikit-posthocs==0.17.1 \\\n    --hash=sha256:ab\nftfy==6.3.1 \\\n")
    found = doctor.locked_in(tmp_path / "requirements.txt")
    assert found == {"scikit-posthocs": doctor.Wheel("0.17.1", ()), "ftfy": doctor.Wheel("6.3.1", ())}
    assert doctor.locked_in(None) == {}


# --- the page


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without weights, hub and data sets of its own."""
    monkeypatch.delenv("DIFFAD_WEIGHTS", raising=False)
    monkeypatch.delenv("DIFFAD_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(weights.search.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def profile(folder, **sections):
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(sections))
    return str(file)


TEXTURES = [{"dataset": "textures", "category": "leather"}]


@pytest.mark.slow
def test_a_machine_alone(bare, capsys):
    assert cli.main(["doctor"]) == 0
    page = capsys.readouterr().out
    for part in ("Python", "torch", "GPU", "memory", "disk", "resnet-mini", "textures", "All right."):
        assert part in page
    assert len(page.splitlines()) < 60


@pytest.mark.slow
def test_a_profile_that_has_everything(bare, capsys):
    file = profile(bare, **{"07_invad": {"grid": TEXTURES}, "08_comparison": None})
    assert cli.main(["doctor", "--profile", file]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "07_invad has all it needs" in page and "All right." in page


@pytest.mark.slow
def test_what_a_profile_lacks_is_named(bare, capsys):
    file = profile(
        bare,
        **{
            "02_vae_bottleneck": {"grid": TEXTURES, "parameters": {"vaes": ["vae:taesd"]}},
            "04_lora": {"grid": TEXTURES, "parameters": {"weights": "sd15", "mixed_precision": "fp16"}},
            "07_invad": {"grid": [{"dataset": "mvtec_ad", "category": "carpet"}]},
        },
    )
    assert cli.main(["doctor", "--profile", file]) == 1
    page = " ".join(capsys.readouterr().out.split())
    for part in (
        "02_vae_bottleneck has all it needs goes without weights vae:taesd",
        "04_lora <-- lacks weights sd15",
        "data mvtec_ad/carpet: not found",
        "2 problem(s)",
    ):
        assert part in page, page
    torch = sys.modules["torch"]
    assert ("a GPU, which mixed_precision = 'fp16' needs" in page) is not torch.cuda.is_available()


@pytest.mark.slow
def test_too_few_training_images_are_said_before_training(bare, capsys, monkeypatch):
    root = mvtec_tree(bare / "set", "part")
    grid = [{"dataset": "folder", "category": "part"}]
    file = profile(bare, **{"06_d3ad": {"grid": grid, "parameters": {"data_root": str(root)}}})
    assert cli.main(["doctor", "--profile", file]) == 1
    assert "data folder/part: 23 training images (k = 20 nearest neighbours" in capsys.readouterr().out


def test_an_unknown_profile_is_a_sentence(capsys):
    assert cli.main(["doctor", "--profile", "nobody"]) == 2
    assert "no profile 'nobody'" in capsys.readouterr().err


@pytest.mark.slow
def test_one_notebook_of_a_kernel(bare, capsys, monkeypatch):
    file = profile(
        bare, **{"07_invad": {"grid": TEXTURES}, "04_lora": {"grid": TEXTURES, "parameters": {"weights": "sd15"}}}
    )
    assert doctor.main(["--profile", file, "--notebook", "07_invad"]) == 0
    assert "04_lora" not in capsys.readouterr().out
    assert doctor.main(["--profile", file, "--notebook", "04_lora"]) == 1
    assert doctor.main(["--profile", file, "--notebook", "04_lora", "--internet"]) == 1  # the hub does not answer
    monkeypatch.setattr(weights.search, "hub_answers", lambda: True)
    monkeypatch.setattr(sys.modules["diffad_utils.weights.resolve"], "hub_answers", lambda: True)
    assert doctor.main(["--profile", file, "--notebook", "04_lora", "--internet"]) == 0
    (run,) = [run for run in profiles.load_plan(file).runs if run.notebook.stem == "04_lora"]
    assert doctor.lacking(run, gpu=True)[0] == ["weights sd15"]

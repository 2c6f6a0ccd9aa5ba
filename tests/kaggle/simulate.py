"""Run every built kernel to its end in a copy of Kaggle's file tree, with the packages of Kaggle's image.

    python tests/kaggle/simulate.py --python python3.12 [--folder dist/kaggle-test] [--only 04 08]

The environment is that of requirements.kaggle.lock without what the image lacks; it is kept in the folder for the next
time. The kernels are those of the profile `kaggle` with counts cut down (`CUTS`). Inputs are read-only, and there is
no network. Weights have the real names and layouts, in every form that people attach, random numbers and, for Stable
Diffusion and CLIP, fewer layers. workflow/README.md lists what this shows and what it does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

import yaml

from diffad_utils import kaggle, study
from diffad_utils.data import textures
from diffad_utils.kaggle import wheels

OWNER, PROFILE = "somebody", "kaggle-test"
CATEGORY, OTHER = "carpet", "leather"  # the runs' category, and the one that 04 looks at beside it
COUNTS = dict(train=26, test_good=8, test_anomalous=10)  # images; D3AD asks for 21 and its holdout

CUTS = dict(
    image_size=64,
    survey=False,
    bootstrap_samples=50,
    batch_size=4,
    grid=4,
    width=32,
    depth=1,
    num_heads=2,
    train_steps=4,
    train_batch_size=2,
    train_images=500,
    dsm_steps=4,
    toy_steps=20,
    latent_unet_steps=4,
    autoencoder_steps=4,
    pixel_ddpm_steps=4,
    pixel_ddpm_size=32,
    denoising_steps=3,
    denoising_step_counts=[1, 3],
    survey_images=2,
    planted_images=2,
    planted_areas=[0.004, 0.064],
    planted_contrasts=[0.05, 0.2],
    latent_channels=[4, 8],
    downsamplings=[8],
    categories=[CATEGORY],
    sweep_images=8,
    study_images=8,
    pair_images=2,
    masked_images=4,
    masked_strengths=[0.5],
    removal_images=4,
    strip_images=4,
    calibration_images=4,
    strengths=[0.2, 0.5],
    strip_strengths=[0.2, 0.5],
    guidance_scales=[3.5, 7.5],
    sweep_seeds=[0, 1],
    alphas=[0.0, 0.5, 1.0],
    round_trip_steps=[4],
    search_trials=2,
    num_inference_steps=10,
    ranks=[1],
    rank=2,
    snapshot_steps=[2],
    gradient_accumulation_steps=2,
    mixed_precision="no",  # fp16 needs a GPU
    loss_timesteps=[250, 750],
    block_out_channels=[16, 32],
    attention_levels=[],
    attention_resolutions=[4],
    layers_per_block=1,
    T_d=50,
    stride=5,
    strip_timestep=100,
    noise_timesteps=[50, 100],
    high_steps=[80, 240],
    noise_fractions=[0.0, 1.0],
    guidance_weights=[0.0, 4.0],
    map_weights=[0.5, 0.85],
    adaptation_study=[0, 1],
    ddad_size=32,
    ddad_channels=[16, 32],
    ddad_steps=4,
    ddad_weights=[0.0, 4.0],
    wall_images=2,
    batch_sizes=[4],
    other_category=OTHER,
)
"""What makes a notebook quick, as far as it has such a parameter."""

LARGER = dict(image_size=128, test_images=12)  # what the CLIP in the simulation takes
OWN_CUTS = {
    "03_img2img_sweep": LARGER | dict(step_counts=[5, 10]),
    "04_lora": LARGER,
    "07_invad": dict(step_counts=[1, 3, 5]),
}

FORMS = {
    "02_vae_bottleneck": "folder",
    "03_img2img_sweep": "fp16 names",
    "04_lora": "single file",
    "06_d3ad": "sub-folder of a version",
}
"""How Stable Diffusion is attached to each kernel that uses it."""


# --- the environment -------------------------------------------------------------------------------------------------


def environment(folder: Path, python: str) -> Path:
    """Kaggle's image as far as the lock has it: a virtual environment without what the image lacks; its Python."""
    text = (REPOSITORY / wheels.LOCK).read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    left_out = {*wheels.LACKING, *wheels.OF_ANOMALIB, "elpv-dataset"}
    image = "\n".join(entry for entry in entries if entry.partition("==")[0] not in left_out) + "\n"
    stamp, mark = hashlib.sha256(image.encode()).hexdigest(), folder / "ready"
    if not mark.is_file() or mark.read_text() != stamp:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        (folder / "image.txt").write_text(image, encoding="utf-8")
        command = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-r", str(folder / "image.txt")], check=True)
        mark.write_text(stamp)
    return folder / "bin" / "python"


def session_environment(folder: Path, python: Path) -> Path:
    """A fresh environment on top of the image's, into which a kernel may install; its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([str(python), "-m", "venv", "--without-pip", str(folder)], check=True)  # pip is the image's
    (site,) = folder.glob("lib/python*/site-packages")
    (below,) = python.parents[1].glob("lib/python*/site-packages")
    (site / "image.pth").write_text(f"{below}\n")
    return folder / "bin" / "python"


# --- what is attached ------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """MVTec AD's layout with two small categories."""
    if not folder.is_dir():
        textures.export(folder, [CATEGORY, OTHER], size=96, **COUNTS)
        for category in (CATEGORY, OTHER):
            shutil.rmtree(folder / category / "twin")  # MVTec AD has none


def write_weights(folder: Path, python: Path) -> None:
    """Random weights in the released layouts, written by the image's own libraries (`random_weights.py`)."""
    if not (folder / "ready").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        script = Path(__file__).with_name("random_weights.py")
        lacking = sorted(wheels.fetch(wheels.LACKING).glob("*.whl"))
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*install, *map(str, lacking)], check=True)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        subprocess.run([str(python), str(script), str(folder)], check=True, env=environment)
        (folder / "ready").write_text("")


def attach(source: Path, target: Path) -> None:
    """Copy by hard links: the inputs are read-only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


def attach_inputs(root: Path, name: str, shop: Path, bundle: Path, new_mounts: bool) -> None:
    """The inputs of a session: the study's data set, MVTec AD and weights, as Kaggle mounts them now or did before."""
    datasets = root / "datasets" / OWNER if new_mounts else root
    models = root / "models" / OWNER
    attach(bundle / "dataset", datasets / kaggle.DATASET)
    (datasets / kaggle.DATASET / "dataset-metadata.json").unlink()  # Kaggle keeps it to itself
    attach(shop / "mvtec_ad", root / ("datasets/ipythonx/mvtec-ad" if new_mounts else "mvtec-ad"))
    attach(shop / "weights/a-resnet50", datasets / "a-resnet50")  # sorts first and has a ResNet-34's telling shapes
    attach(shop / "weights/clip-laion2b", datasets / "clip-laion2b")
    for part in ("clip-vit-b32", "efficientnet-b4", "resnet34", "dino-vits8", "autoencoders", "ddpm-celebahq-256"):
        attach(shop / "weights" / part, datasets / "my-weights" / part)
    form = FORMS.get(name)
    version = models / "stable-diffusion-v1-5/pytorch/default/1"
    if form == "folder":
        attach(shop / "weights/sd", datasets / "stable-diffusion-v1-5")
    elif form == "fp16 names":
        attach(shop / "weights/sd-fp16", version)
    elif form == "single file":
        attach(shop / "weights/sd-file", version)
    elif form == "sub-folder of a version":
        attach(shop / "weights/sd", version / "stable-diffusion-v1-5")


# --- the kernels -----------------------------------------------------------------------------------------------------


def write_profile(folder: Path) -> Path:
    """The profile `kaggle` with one category and few counts."""
    sections: dict = {"extends": "kaggle", "defaults": {"gpus": 0, "memory_mb": 8000}}
    for notebook in sorted((REPOSITORY / "notebooks").glob("0[1-8]*.ipynb")):
        own = study.notebook_parameters(notebook)
        parameters = {key: value for key, value in (CUTS | OWN_CUTS.get(notebook.stem, {})).items() if key in own}
        sections[notebook.stem] = {"parameters": parameters, "gpus": 0}
        if study.method_of(notebook.stem) is not None:
            sections[notebook.stem]["grid"] = [{"dataset": "mvtec_ad", "category": CATEGORY}]
    file = folder / f"{PROFILE}.yaml"
    file.write_text(yaml.safe_dump(sections))
    return file


def run_kernel(root: Path, bundle: Path, name: str, python: Path, image: Path) -> tuple[bool, float, str]:
    """Execute a kernel as Kaggle's papermill does; whether it ended well, seconds, and the end of its output."""
    kernel = json.loads((bundle / name / "kernel-metadata.json").read_text())["code_file"]
    shutil.copyfile(bundle / name / kernel, root / "kernel.ipynb")
    (root / "working").mkdir()
    script = (
        f'mount --bind "{root}/input" "{root}/input" && mount -o remount,ro,bind "{root}/input" && '
        "ip link set lo up 2>/dev/null; "
        f'exec "{python}" -m papermill "{root}/kernel.ipynb" "{root}/working/__notebook__.ipynb" -k python3 '
        "--log-output --no-progress-bar"
    )
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(root),
        "DIFFAD_KAGGLE": str(root),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_PATH": str(image.parents[1] / "share" / "jupyter"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    started = time.monotonic()
    with open(root / "log.txt", "w") as log:
        command = ["unshare", "-n", "-m", "bash", "-c", script]
        done = subprocess.run(command, cwd=root / "working", env=environment, stdout=log, stderr=subprocess.STDOUT)
    text = (root / "log.txt").read_text(errors="replace")
    return done.returncode == 0, time.monotonic() - started, text[-4000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python3.12", help="Python of Kaggle's version (default %(default)s)")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "dist" / "kaggle-test")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of notebooks' names")
    parser.add_argument("--environment", type=Path, help="a finished environment of the image (default: made)")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    image = environment(options.environment or folder / "image", options.python)
    write_data(folder / "mvtec_ad")
    write_weights(folder / "weights", session_environment(folder / "venv", image))
    bundle = kaggle.build(OWNER, profile=str(write_profile(folder)), output=folder / "bundle")
    names = sorted(path.parent.name for path in bundle.glob("*/kernel-metadata.json"))
    chosen = [name for name in names if not options.only or name.startswith(tuple(options.only))]
    failed = []
    for i, name in enumerate(chosen):
        root = folder / "sessions" / name
        shutil.rmtree(root, ignore_errors=True)
        (root / "input").mkdir(parents=True)
        attach_inputs(root / "input", name, folder, bundle, new_mounts=bool(i % 2))
        if study.method_of(name) is None:  # the outputs of the other kernels
            for other in (folder / "sessions").glob("*/working"):
                if other.parent.name != name:
                    slug = json.loads((bundle / other.parent.name / "kernel-metadata.json").read_text())["id"]
                    attach(other, root / "input" / ("notebooks" if i % 2 else "") / slug.split("/", 1 - i % 2)[-1])
        python = session_environment(folder / "venv", image)
        good, seconds, end = run_kernel(root, bundle, name, python, image)
        recorded = sorted(root.glob("working/reports/*/*/*/*/*/metrics.json"))
        recorded += sorted(root.glob("working/reports/*/comparison/metrics.json"))
        good = good and bool(recorded)
        form = f", Stable Diffusion as {FORMS[name]}" if name in FORMS else ""
        mounts = "new" if i % 2 else "old"
        print(f"{'ok    ' if good else 'FAILED'} {name:<20} {seconds:5.0f} s, {mounts} mounts{form}", flush=True)
        if not good:
            failed.append(name)
            print(end, flush=True)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} kernels ran to their ends; logs in {folder / 'sessions'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

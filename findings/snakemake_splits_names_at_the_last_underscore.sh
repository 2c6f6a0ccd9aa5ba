#!/usr/bin/env bash
# Snakemake 9.27.1: "{category}_{method}" splits bottle_patch_core into bottle_patch and core, without an error.
#
# Behaviour: a wildcard takes as much as it can, so the split is at the LAST underscore. MVTec's metal_nut works by luck;
# a method with an underscore in its name is cut in two, and the job runs with a category that does not exist.
# Two ways to split are not reported as ambiguous (only two RULES are). Results land under wrong names.
# What to do: wildcard_constraints with the real names, or a slash between the two.
# Output seen:
#   metal_nut_ddad: category metal_nut, method ddad
#   bottle_patch_core: category bottle_patch, method core

set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check snakemake==9.27.1
venv/bin/python - <<'PY'
import subprocess
import sys
from pathlib import Path

Path("Snakefile").write_text("""
rule all:
    input: "metal_nut_ddad.txt", "bottle_patch_core.txt"
rule one:
    output: "{category}_{method}.txt"
    shell: "echo category {wildcards.category}, method {wildcards.method} > {output}"
""")
subprocess.run([Path(sys.executable).with_name("snakemake"), "-c1"], check=True, capture_output=True)
seen = {name: Path(f"{name}.txt").read_text().strip() for name in ("metal_nut_ddad", "bottle_patch_core")}
for name, split in seen.items():
    print(f"{name}: {split}")
assert seen["metal_nut_ddad"] == "category metal_nut, method ddad"
assert seen["bottle_patch_core"] == "category bottle_patch, method core"
PY

#!/usr/bin/env bash
# Snakemake 9.27.1: a changed seed in config.yaml does not run a script again that reads it from snakemake.config.
#
# Behaviour: Snakemake compares the rule's params, inputs and code with the last run. What a script or notebook takes from
# snakemake.config is none of these. The old result stays and
# Snakemake says that there is nothing to do. The same holds for --config seed=2. The value
# handed through params is seen.
# What to do: name each value in params.
# Output seen:
#   first run: read from config 1, through params 1
#   after seed: 2 in config.yaml: read from config 1, through params 2
#   after --config seed=3: read from config 1, through params 3

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

Path("config.yaml").write_text("seed: 1\n")
Path("Snakefile").write_text("""
configfile: "config.yaml"
rule all:
    input: "config.txt", "params.txt"
rule from_config:
    output: "config.txt"
    script: "config.py"
rule from_params:
    output: "params.txt"
    params: seed=config["seed"]
    script: "params.py"
""")
for name, value in (("config", 'snakemake.config["seed"]'), ("params", "snakemake.params.seed")):
    Path(f"{name}.py").write_text(f"open(snakemake.output[0], 'w').write(str({value}))\n")


def run(what, *options):
    subprocess.run([Path(sys.executable).with_name("snakemake"), "-c1", *options], check=True, capture_output=True)
    seen = Path("config.txt").read_text(), Path("params.txt").read_text()
    print("{}: read from config {}, through params {}".format(what, *seen))
    return seen


assert run("first run") == ("1", "1")
Path("config.yaml").write_text("seed: 2\n")
assert run("after seed: 2 in config.yaml") == ("1", "2")
assert run("after --config seed=3", "--config", "seed=3") == ("1", "3")
PY

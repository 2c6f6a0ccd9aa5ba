# The study's commands; `make help` lists them. Nothing but Python 3.11+ and make has to be there first.
PYTHON ?= python3
PROFILE ?= smoke
JOBS ?= 2
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# 00_foundation trains the shipped models and is not part of the default run
NOTEBOOKS := $(sort $(wildcard notebooks/0[1-9]_*.ipynb))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup report lint test test-fast test-kaggle docs test-faults test-slurm lab notebooks reference site foundation lock clean bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Settings: PROFILE=smoke|standard|mtd|kaggle|kaggle-quick|kaggle-others|paper|<file.yaml> JOBS=<cores> ONLY=<runs> CLUSTER=<folder> PYTHON=<python 3.11 or newer>"
	@echo "Without a GPU, for a small download: make setup TORCH_INDEX=<address of PyTorch's CPU wheel index>"

report: $(READY) ## run the study (PROFILE) and write reports/<profile>/index.html
	@$(PY) -m diffad_utils.cli study "$(PROFILE)" --jobs $(JOBS) $(if $(ONLY),--only $(ONLY)) $(if $(CLUSTER),--cluster "$(CLUSTER)")

# One process at a time for the tests, JOBS of them for the notebooks; 08 comes last, on the runs of the others (profile smoke;
# its committed outputs are of the standard study). All go to a scratch folder, so that testing leaves reports/ alone. One
# thread each, as in the smoke profile: the same numbers, and no slowdown where cores are shared.
NBVAL := env OMP_NUM_THREADS=1 $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=1200 --override-ini=addopts= -q
DOCTESTED := $(shell grep -rl --include=*.py '>>> ' diffad_utils)
LAST := notebooks/08_comparison.ipynb
test: lint ## run lint and all tests, then the notebooks through nbval
	$(PY) -m pytest tests
	$(PY) -m pytest --doctest-modules $(DOCTESTED)
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && export DIFFAD_REPORTS="$$scratch" && \
	  printf '%s\n' $(filter-out $(LAST),$(NOTEBOOKS)) | xargs -n 1 -P $(JOBS) $(NBVAL) && \
	  sed 's/profile = \\"standard\\"/profile = \\"smoke\\"/' $(LAST) > "$$scratch/$(notdir $(LAST))" && \
	  grep -q 'profile = \\"smoke\\"' "$$scratch/$(notdir $(LAST))" && $(NBVAL) "$$scratch/$(notdir $(LAST))"

# Under a minute; .pre-commit-config.yaml calls the same tools.
lint: $(READY) ## style, formatting, layers of imports, types, and rules for notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	PYTHONPATH=. $(VENV)/bin/lint-imports
	$(PY) -m mypy
	$(PY) workflow/check_notebooks.py notebooks/*.ipynb

test-fast: $(READY) ## the unit tests that are not slow, and the docstrings' examples: two minutes
	$(PY) -m pytest -m "not slow" tests/unit
	$(PY) -m pytest --doctest-modules $(DOCTESTED)

docs: $(READY) ## the API pages, from the docstrings, into build/docs
	$(PY) -m pdoc --docformat numpy --math --output-directory build/docs diffad_utils

KAGGLE_PYTHON ?= python3.12
test-kaggle: $(READY) ## run every Kaggle kernel in a copy of its file tree with its image's packages (Linux, root; half an hour)
	$(PY) tests/kaggle/simulate.py --python $(KAGGLE_PYTHON)

test-faults: $(READY) ## kill -9 trainings, sweeps and studies at random moments, and start many kernels at once (about half an hour)
	$(PY) tests/faults/kills.py
	$(PY) tests/faults/workflow.py

test-slurm: $(READY) ## run a grid on a one-machine SLURM cluster (Debian, root: installs slurm-wlm and munge)
	DIFFAD_SLURM=1 $(PY) -m pytest tests/slurm

lab: $(READY) ## open JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

notebooks: $(READY) ## re-execute the committed notebooks (not 00) in place, with outputs
	$(PY) -m diffad_utils.cli notebooks $(notdir $(basename $(NOTEBOOKS))) --threads 1

# Of these files .gitignore lets in what can be read or compared.
reference: report ## make this checkout's runs of PROFILE the committed reference (for maintainers)
	$(PY) -m diffad_utils.cli site "$(PROFILE)" --to reports/reference $(if $(PAGES),--pages $(PAGES))

site: $(READY) ## the report of PROFILE as one file to pass on, build/site/<profile>.zip (PAGES=<executed notebooks in it>)
	$(PY) -m diffad_utils.cli site "$(PROFILE)" --zip $(if $(PAGES),--pages $(PAGES))

# What is finished in reports/foundation/models is kept, what was interrupted goes on from its checkpoint.
foundation: $(READY) ## train the models of data/mini anew: hours on a CPU
	$(PY) -m diffad_utils.cli run 00_foundation --minutes 1440
	for model in clip sd; do rm -rf data/mini/$$model && cp -R reports/foundation/models/$$model data/mini/$$model; done
	cp reports/foundation/models/resnet/* data/mini/resnet/

bench: $(READY) ## measure speed and memory side by side with peers (CPU), into benchmarks/results
	for topic in metrics knn sampling features; do $(PY) -m benchmarks.$$topic || exit 1; done

setup: $(READY) ## only make .venv with the locked packages

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
ifdef TORCH_INDEX
	$(PY) -m pip install --no-deps --index-url "$(TORCH_INDEX)" $$(awk -F '[ ;\\\\]' '/^torch(vision)?==/ {print $$1}' requirements.lock)
	awk '/^[a-z]/ {keep = !/^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==/} /^#/ || keep' requirements.lock > $(VENV)/cpu.lock
	$(PY) -m pip install --no-deps --require-hashes -r $(VENV)/cpu.lock
else
	$(PY) -m pip install --require-hashes -r requirements.lock
endif
	$(PY) -m pip install --no-deps --no-build-isolation -e .
	touch $@

lock: ## resolve pyproject.toml's ranges anew into requirements.lock and requirements.kaggle.lock (needs uv)
	PATH="$(VENV)/bin:$$PATH" uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" -o requirements.lock
	$(PY) -c 'from diffad_utils.kaggle import wheels; print("\n".join(wheels.requirements()))' | PATH="$(VENV)/bin:$$PATH" uv pip compile - -c workflow/kaggle/image.txt \
	  --python-version 3.12 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-annotate --custom-compile-command "make lock" -o requirements.kaggle.lock

clean: ## remove caches and what runs made (not .venv, data, nor the reference report's files)
	rm -rf .snakemake .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache build *.egg-info reports/*/.workflow
	find reports -mindepth 1 -maxdepth 1 -type d ! -name reference -exec rm -rf {} +
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +

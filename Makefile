# make run: a first result from a fresh clone.  make test: everything that is quick to check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test bench study runs-test browser-test latex-test notebooks notebooks-test check setup slurm-test chaos-test chaos wheel-test clean

run: setup
	$(BIN)/python -m ablate

setup: $(STAMP)

# torch first and alone: whatever build of the pinned version the machine offers (CPU or CUDA)
# is taken, and nothing that follows can replace it
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --ignore=tests/stages --ignore=tests/processes --ignore=tests/chaos --ignore=tests/browser --ignore=tests/latex

# whole runs of every factor, and sweeps whose processes die: ten minutes more
runs-test: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile tests/stages tests/processes

# the report in a real browser, which is installed where it is missing (root, Debian's chromium)
browser-test: setup
	command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium fonts-dejavu-core; }
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser

# tables as LaTeX, compiled (Debian's texlive-latex-recommended, 150 MB, installed where it is missing)
latex-test: setup
	command -v pdflatex >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends texlive-latex-recommended; }
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/latex

# training's speed: a quarter of an hour on two idle cores, results in benchmarks/results
BENCHMARKS := pairs responses limit cost overhead gpu
bench: setup
	for name in $(BENCHMARKS); do \
		HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/training_$$name.py || exit 1; \
	done
	$(BIN)/python benchmarks/summary.py --write

# every notebook from its parameters, on the shipped study, into a folder that is thrown away
notebooks-test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/notebooks.sh

# the same, in place: what is committed, with its outputs
notebooks: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/notebooks.sh notebooks

# the example study from nothing: an hour and a half on two idle cores, into results/reference
study: setup
	HF_HUB_OFFLINE=1 PATH="$(CURDIR)/$(BIN):$$PATH" bash sweeps/study.sh

# sweeps on a real SLURM of one node, which is started here (root; Debian's slurm-wlm and munge)
slurm-test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/slurm/run.sh

# sweeps whose processes are killed at every named point and at random (about six minutes)
chaos-test: setup
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/chaos

# the same with 200 random kills; writes benchmarks/results/chaos.json
chaos: setup
	PYTHONPATH=tests HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/storm.py --kills 200

# builds a wheel, installs it into an empty environment and uses it in an empty directory
wheel-test: setup
	PYTHON=$(BIN)/python bash tests/wheel.sh

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

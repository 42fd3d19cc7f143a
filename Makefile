# Needs Python 3.11.4 or newer with venv, and make. `make PYTHON=python3.12 ...` picks a Python.
PYTHON ?= python3
RUN := .venv/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check

ifneq ($(wildcard /dev/nvidiactl /dev/dxg),)
  FOUND := an NVIDIA GPU
  REQUIREMENTS := requirements.txt
else ifneq ($(wildcard /dev/accel* /dev/vfio/[0-9]*),)
  FOUND := a TPU
  REQUIREMENTS := requirements-tpu.txt
else
  FOUND := no GPU or TPU
  REQUIREMENTS := requirements-cpu.txt
endif
# Stamps: installed once, and again when the requirements or the machine's device change.
INSTALLED := .venv/.installed-$(REQUIREMENTS)
INSTALLED_DEV := .venv/.installed-requirements-dev.txt
INCLUDED := requirements/common.txt requirements/cuda.txt requirements/tpu.txt
INSTALLED_RECIPES := .venv/.installed-requirements-recipes.txt
INSTALLED_DOCS := .venv/.installed-requirements-docs.txt
INSTALLED_PEERS := .venv/.installed-benchmarks-requirements.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long benchmark docs format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## make .venv with what this machine needs

demo: setup ## train on handwritten digits without and with division, and compare in a report
	@rm -rf runs/demo
	$(RUN) launch.py --config=configs/digits.py --config.division.max_clusters=1 \
	  --workdir=runs/demo/baseline
	$(RUN) launch.py --config=configs/digits.py --workdir=runs/demo/division
	$(RUN) launch.py --mode=evaluate --workdir=runs/demo/baseline,runs/demo/division
	$(RUN) launch.py --mode=report --workdir=runs/demo/baseline,runs/demo/division
	@echo "Raw pixels score highest: five classes of digits teach little that transfers. See docs/results.md."
	@echo "To look at both runs, open runs/demo/baseline/report/comparison.html in a browser."

test: setup $(INSTALLED_DEV) ## check format, lint and types, and run the tests
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	.venv/bin/lint-imports --no-logo
	$(RUN) -m pytest --numprocesses=2 --dist=worksteal

test-long: setup $(INSTALLED_DEV) $(INSTALLED_RECIPES) ## run the tests that take too long for every change
	$(RUN) -m pytest -m long

benchmark: setup $(INSTALLED_PEERS) ## time what users wait for beside peers, in half an hour, and print it as one table
	PYTHONPATH=. $(RUN) benchmarks/start.py
	PYTHONPATH=. $(RUN) benchmarks/training.py
	PYTHONPATH=. $(RUN) benchmarks/training.py --backbone vit_small --size 224 --batch_size 8 --jobs train
	PYTHONPATH=. $(RUN) benchmarks/features.py
	PYTHONPATH=. $(RUN) benchmarks/losses.py
	PYTHONPATH=. $(RUN) benchmarks/retrieval.py
	PYTHONPATH=. $(RUN) benchmarks/search.py
	PYTHONPATH=. $(RUN) benchmarks/report.py
	PYTHONPATH=. $(RUN) benchmarks/clustering.py
	PYTHONPATH=. $(RUN) benchmarks/proxies.py
	PYTHONPATH=. $(RUN) benchmarks/input.py
	$(RUN) benchmarks/tables.py --write

docs: setup $(INSTALLED_DOCS) ## build docs/ as a site, site/index.html; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet --strict
	@echo "wrote     site/index.html"

format: setup $(INSTALLED_DEV) ## format the code, and mend what lint can mend
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean: ## remove the demo's runs, the site, builds and the tools' caches; .venv and other runs stay
	rm -rf runs/demo site build dist dcjax.egg-info .mypy_cache .pytest_cache .ruff_cache
	find benchmarks configs dcjax docs tests -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): $(REQUIREMENTS) $(INCLUDED)
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Found no $(PYTHON); install Python 3.11.4 or newer, or name one: make PYTHON=python3.12"; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 4) and \
	  "dcjax needs Python 3.11.4 or newer, found %d.%d.%d; name one: make PYTHON=python3.12" \
	  % sys.version_info[:3])'
	@echo "Found $(FOUND): installing $(REQUIREMENTS) into .venv; this takes a few minutes."
	@$(PYTHON) -m venv .venv
	@$(PIP) -r $(REQUIREMENTS)
	@touch $@

$(INSTALLED_DEV): requirements/dev.txt requirements/search.txt $(INSTALLED)
	@$(PIP) -r requirements/dev.txt -r requirements/search.txt
	@touch $@

$(INSTALLED_RECIPES): requirements/recipes.txt $(INSTALLED)
	@$(PIP) -r requirements/recipes.txt
	@touch $@

$(INSTALLED_DOCS): requirements/docs.txt $(INSTALLED)
	@$(PIP) -r requirements/docs.txt
	@touch $@

$(INSTALLED_PEERS): benchmarks/requirements.txt $(INSTALLED)
	@$(PIP) -r benchmarks/requirements.txt
	@touch $@

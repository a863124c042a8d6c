# demo: train, decode and score on synthesised speech    test: all tests, environment included
# lint: style                                            bench: tables and pictures into benchmarks/out (an hour)
#
# The environment is .venv, made from constraints.txt once and reused. PYTHON= names the
# interpreter it is made with (3.10 to 3.12; the pins were resolved for 3.11).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench env clean

demo: $(READY)
	@egs/mini_espeak/run.sh

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -rs

lint: $(READY)
	$(BIN)/black --check --quiet . || { echo "black: run '$(BIN)/black .'"; exit 1; }
	$(BIN)/isort --check-only --quiet . || { echo "isort: run '$(BIN)/isort .'"; exit 1; }
	$(BIN)/flake8 .

bench: $(READY)
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/downsampling.py
	$(BIN)/python benchmarks/input_layer.py
	$(BIN)/python benchmarks/long_input.py
	$(BIN)/python benchmarks/scaling.py

env: $(READY)

# Written last, so that an interrupted installation is taken up again.
$(READY): constraints.txt setup.py
	@echo "Making the environment in $(VENV) (5 GB with PyTorch's CUDA libraries; minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info[:2] <= (3, 12) else \
	  "error: Python 3.10 to 3.12 is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv pip install --quiet --constraint constraints.txt \
	  --editable '.[espnet,demo,vqvae,test]'
	@touch $@

clean:
	rm -rf egs/*/data egs/*/dump egs/*/exp egs/*/corpus benchmarks/out

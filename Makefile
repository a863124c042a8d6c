# make demo         train, decode and score on synthesised speech
# make test         all tests
# make test-fast    what to run while you work, under 2 minutes
# make test-other   the tests that touch ESPnet, on the other release (Python 3.11 or 3.10)
# make lint         style, and the type hints of the library (mypy)
# make wheel        build the wheel, and use it without this clone
# make results      tables and pictures of the experiments, from results/records
# make bench        tables and pictures into benchmarks/out (an hour)
# make constraints  resolve the pinned versions again
#
# Each makes the environment that it needs (.venv) first: the newest Python that runs here,
# with the ESPnet for it. Another one: make demo PYTHON=python3.11
PYTHON ?=
VENV := .venv
OTHER := .venv-other
BIN := $(VENV)/bin
# long files begin first (tests/conftest.py); xdist would reorder them
PYTEST := -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -rs

.PHONY: demo test test-fast test-other lint wheel bench results env clean constraints

# a PYTHON= given to make reaches the recipe, too: it made .venv, which is to be used
demo: env
	@PYTHON="$(CURDIR)/$(BIN)/python" egs/mini_espeak/run.sh

test: env
	$(BIN)/python $(PYTEST)

test-fast: env
	$(BIN)/python $(PYTEST) -m "not slow" tests/downsampling tests/networks tests/evaluation \
	  tests/experiments/classification/test_training.py tests/test_cli.py tests/test_layers.py \
	  tests/test_packaging.py

# says so and passes where no such Python is
test-other:
	@python=$$(constraints/make_env.sh --find 3.11 3.10) || \
	  { echo "no Python 3.11 or 3.10 runs here: ESPnet 202511 is not tested"; exit 0; }; \
	constraints/make_env.sh $(OTHER) "$$python" && \
	$(OTHER)/bin/python $(PYTEST) -m espnet

lint: env
	$(BIN)/black --check --quiet . || { echo "black: run '$(BIN)/black .'"; exit 1; }
	$(BIN)/isort --check-only --quiet . || { echo "isort: run '$(BIN)/isort .'"; exit 1; }
	$(BIN)/flake8 .
	$(BIN)/mypy

wheel: env
	.ci/wheel $(BIN)/python

results: env
	$(BIN)/python -m espnet_adastride.bin.results

bench: env
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/downsampling.py
	$(BIN)/python benchmarks/input_layer.py
	$(BIN)/python benchmarks/long_input.py
	$(BIN)/python benchmarks/scaling.py

env:
	@constraints/make_env.sh $(VENV) $(PYTHON)

constraints: env
	for version in 3.10 3.11 3.12 3.13; do \
	  $(BIN)/uv pip compile --quiet --no-annotate --no-header --python-version $$version \
	    --no-emit-package setuptools --no-emit-package pip pyproject.toml --extra espnet --extra audio --extra demo \
	    --extra vqvae --extra pretrained --extra export --extra test -o constraints/python$$version.txt || exit 1; \
	done

clean:
	rm -rf egs/*/data egs/*/dump egs/*/exp egs/*/corpus benchmarks/out

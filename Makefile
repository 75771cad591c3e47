# Two commands are all a new machine needs: `make demo` and `make test`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RUNS ?= runs

.PHONY: help install demo test thorough check format bench clean

help:
	@echo "make demo    set up, run a small real campaign on CPU with the embedded model, say where to look"
	@echo "make test    set up and run the tests"
	@echo "make thorough  the slow tests: every hostile program in every sandbox, every crash point; needs docker and bubblewrap"
	@echo "make check   lint, format, import contracts, types, tests: what CI runs"
	@echo "make bench   print the benchmark tables (hours)"

$(BIN)/.installed: pyproject.toml hatch_build.py memory/text_scan.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "no venv module: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	@touch $@

install: $(BIN)/.installed

demo: install
	@$(BIN)/move37 run demo.toml --model move37-grammar --name demo-$$(date +%m%d-%H%M%S) --runs-dir $(RUNS)

test: install
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

thorough: install
	$(BIN)/pytest -m thorough --numprocesses 2 --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(MAKE) test

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install
	$(BIN)/python -m benchmarks.generators
	$(BIN)/python -m benchmarks.gates
	$(BIN)/python -m benchmarks.torch_share
	$(BIN)/python -m benchmarks.successive_halving
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.sandbox
	$(BIN)/python -m benchmarks.identity_text
	$(BIN)/python -m benchmarks.identity_executed
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.lineage
	$(BIN)/python -m benchmarks.asi_arch_import
	$(BIN)/python -m benchmarks.memory_scale
	$(BIN)/python -m benchmarks.memory_writers
	$(BIN)/python -m benchmarks.prompt_assembly
	$(BIN)/python -m benchmarks.novelty
	$(BIN)/python -m benchmarks.gateway_faults
	$(BIN)/python -m benchmarks.embedded_validity
	$(BIN)/python -m benchmarks.embedded_against_random
	$(BIN)/python -m benchmarks.reference_mixers
	$(BIN)/python -m benchmarks.reference_mixers --tier standard --seeds 0 1 --output benchmarks/reference_mixers_standard.md \
	  --only attention_with_convolution softmax_attention delta_net gated_delta_net gated_linear_attention

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

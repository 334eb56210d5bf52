# make demo, make test: everything in .venv, made on first use. An existing environment: make test VENV=
VENV   ?= .venv
PYTHON ?= python3
TORCH  ?= torch==2.13.0
TRITON ?= triton==3.7.1
VIDEO  ?=
JOBS   ?= 2
NET    ?=
OUT    ?= demo

ifeq ($(strip $(VENV)),)
BIN   :=
READY :=
else
BIN   := $(VENV)/bin/
READY := $(VENV)/.ready
endif
# What reads the sources alone needs no kernels: an environment that is there will do.
TOOLS := $(if $(wildcard $(BIN)ruff),,$(READY))
PY := $(BIN)$(if $(strip $(VENV)),python,$(PYTHON))

SOURCES := pyproject.toml setup.py _build_backend.py CMakeLists.txt $(wildcard csrc/*.cpp csrc/*/*)
CPP     := $(wildcard csrc/*.cpp csrc/*/*.h csrc/*/*.cuh csrc/*/*.cpp csrc/*/*.cu tests/*/*.h tests/*/*.cu)

.PHONY: help setup demo test test-slow learn check format resources bench clean
.DEFAULT_GOAL := help

help: ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make the environment

# Not compiling 12,000 files of Python saves some 20 s; what is imported is compiled then, once.
$(VENV)/.ready: $(SOURCES)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile --upgrade "setuptools>=77" wheel ninja "cmake>=3.22" "pybind11>=2.13"
	$(VENV)/bin/python -m pip install --quiet --no-compile $(TORCH) $(TRITON)
	@echo "building the kernels: some minutes, without a word"
	$(VENV)/bin/python -m pip install --quiet --no-compile --no-build-isolation --editable ".[all,dev]"
	touch $@

demo: $(READY) ## train fused networks on real video files and leave a report; VIDEO=file predicts it too
	$(PY) -m vidops demo $(OUT) $(if $(VIDEO),--video "$(VIDEO)")

test: $(READY) ## the quick tests, some minutes in all
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -q -n $(JOBS) --dist worksteal

test-slow: $(READY) ## the tests that take minutes: installs, sanitizers, nvcc
	OMP_NUM_THREADS=1 $(PY) -m pytest tests -m slow --timeout=1800 -q -n $(JOBS) --dist load --maxschedchunk 1

learn: $(READY) ## train every tiny network on the synthetic datasets and check what it reaches; NET="tiny_tsn ..."
	$(PY) -m vidops.training.learn $(NET)

resources: $(READY) ## tables of what the GPU kernels need, made anew where kernels have changed; nvcc and Triton, no GPU
	$(PY) benchmarks/cuda_resources.py --write
	$(PY) benchmarks/triton_resources.py --write
	$(PY) benchmarks/performance_page.py

bench: $(READY) ## measure the kernels against eager PyTorch
	$(PY) -m vidops bench

check: $(TOOLS) ## lint, formats, types
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)mypy
	$(BIN)clang-format --dry-run --Werror $(CPP)

format: $(TOOLS) ## put everything into its format
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
	$(BIN)clang-format -i $(CPP)

clean: ## remove what was built and the demo; the environment stays, and is built into anew at the next use
	rm -rf build dist *.egg-info vidops/*.so vidops/_build_record.json $(VENV)/.ready $(OUT)

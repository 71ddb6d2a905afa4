# make train | test are the two commands of the README. Each makes .venv when it is not there.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := $(shell find csrc -type f) setup.py pyproject.toml constraints.txt
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: train study figures test test-all test-processors test-minihack test-oldest lint
.PHONY: format clean sanitize sanitize-address,undefined sanitize-thread sanitize-fuzz

train: .venv/installed
	$(BIN)/python -m train.dqn $(ARGS)

# Reset, Carry and full Carry at the size of `quick`, five seeds each: about an hour on two cores
study: .venv/installed
	$(BIN)/python -m profiling.study --out runs/study --seeds 0 1 2 3 4 --updates 2500 \
	--at 1000 1500 2000 2500 --changes "hrm.carry carry" "hrm.carry full" $(ARGS)

# every figure of README and docs/, from committed results; the viewer's wants Chromium
figures: .venv/installed
	$(BIN)/python -m profiling.figures $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

test-all: lint sanitize test-processors
	$(BIN)/python -m pytest -m '' $(ARGS)

# what measures rounding, with every instruction set that the CPU has, on one thread and on two
test-processors: .venv/installed-dev
	$(BIN)/python tests/processors.py $(ARGS)

# nle asks for gymnasium 1.2.0 exactly, but runs with ours: so it is installed apart. Linux only
test-minihack: .venv/installed-dev
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --upgrade \
	--target build/minihack minihack==1.0.2 nle==1.3.0 'setuptools<81'
	PYTHONPATH=build/minihack $(BIN)/python -m pytest tests/test_gym_*.py $(ARGS)

# the oldest versions that pyproject.toml allows, in an environment and a copy of their own; needs a
# Python that these have wheels for, 3.10 to 3.12
test-oldest:
	$(PYTHON) -m venv --clear build/oldest
	build/oldest/bin/python tests/oldest.py > build/oldest/constraints.txt
	mkdir build/oldest/tree
	tar -c --exclude=./build --exclude=./.venv --exclude=./runs --exclude='*.so' . | tar -x -C build/oldest/tree
	cd build/oldest/tree && PIP_CONSTRAINT=../constraints.txt \
	../bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	cd build/oldest/tree && ../bin/python -m pytest $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# the tests of simulator and engine once more, on builds with AddressSanitizer and UBSan, and with
# ThreadSanitizer, which knows neither OpenMP (torch's threads) nor the CUDA shim's fibers
sanitize: sanitize-address,undefined sanitize-thread sanitize-fuzz

sanitize-address,undefined: LIBRARIES := libasan.so libubsan.so
sanitize-address,undefined: TESTS := tests/test_maze*.py tests/test_cpu_engine.py
sanitize-thread: LIBRARIES := libtsan.so
sanitize-thread: TESTS := tests/test_maze.py tests/test_cpu_engine.py
sanitize-address,undefined sanitize-thread: sanitize-%: .venv/installed-dev
	mkdir -p build/$*
	HRM_FAST_SANITIZE=$* $(BIN)/python setup.py -q build_ext --build-lib build/$*
	cp envs/*.py build/$*/envs/
	cp kernels/*.py build/$*/kernels/
	LD_PRELOAD="$(foreach l,$(LIBRARIES),$$(gcc -print-file-name=$l))" ASAN_OPTIONS=detect_leaks=0 \
	TSAN_OPTIONS=ignore_noninstrumented_modules=1 OMP_NUM_THREADS=1 PYTHONPATH=build/$* \
	$(BIN)/pytest -p no:cacheprovider --capture=sys $(TESTS) -k 'not loses_at_most' $(ARGS)

# the simulator's fuzzer under ThreadSanitizer; the other sanitizers are in tests/test_fuzz.py
sanitize-fuzz:
	mkdir -p build/fuzz
	$(CXX) -std=c++17 -O1 -g -pthread -fsanitize=thread -Icsrc -o build/fuzz/maze \
	$(wildcard tests/fuzz/*.cpp) $(filter-out %/bind.cpp,$(wildcard csrc/maze/*.cpp))
	build/fuzz/maze tests/fuzz/corpus 20

clean:
	rm -rf .venv build *.egg-info envs/*.so kernels/*.so

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python $(NATIVE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: .venv/bin/python $(NATIVE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/installed $@

# `make` prints the menu. The work is in scripts/ci_jobs.py.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python scripts/ci_jobs.py
SOURCES := setup.py pyproject.toml scripts/ci_jobs.py $(wildcard \
	fastcomm/_core/*.pyx fastcomm/_core/*.pxd fastcomm/_core/include/*.h)

.PHONY: menu setup demo test lint model model-full asan tsan fuzz chaos flags bench promises perf-check wheel ci-extra clean

menu:
	@echo 'make setup      a virtual environment in .venv with fastcomm compiled in place (PYTHON=python3.12 to choose)'
	@echo 'make demo       set up, and show what fastcomm does'
	@echo 'make test       set up, run the tests on the release build, and the crash tests on the debug build'
	@echo 'make lint       ruff, cython-lint, mypy, stubtest, sync points of memory orders, a build with warnings as errors'
	@echo 'make model      the models of the protocol, all interleavings of them, with spin (docs/models.md)'
	@echo 'make model-full their larger bounds, exhaustively: about 20 minutes, 5 GB'
	@echo 'make asan       the tests under AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tsan       threads that share a mapping under ThreadSanitizer, and without each memory order (docs/verification.md)'
	@echo 'make fuzz       bytes chosen by what they cover of the decoders, with libFuzzer and ASan, 2 minutes (FUZZ_SECONDS=3600 for more)'
	@echo 'make chaos      thousands of processes killed, stopped and replaced, and an oracle, 3 minutes (docs/chaos.md)'
	@echo 'make flags      the tests of the bus with all optimisations off, and with each off alone (docs/bus.md)'
	@echo 'make bench      measure, several minutes (BENCH="--quick" or "--only ring" for less; docs/benchmarks.md)'
	@echo 'make promises   measure what is promised; fails if a promise is not kept (PROMISES="--only agents" for some)'
	@echo 'make perf-check count the instructions of hot operations (valgrind) and compare with asv_bench/instructions.json'
	@echo 'make wheel      sdist and wheel in dist/, and the tests on the wheel in a clean environment without a compiler'
	@echo 'make ci-extra   all that CI runs after `make test`: lint, model, asan, tsan, fuzz, chaos, flags, wheel, the other Pythons, bench briefly, perf-check'
	@echo 'make clean      remove all that was built, but not .venv'

setup: $(STAMP)

$(STAMP): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "fastcomm needs Python 3.11 or later, and %s is %d.%d; choose one: make PYTHON=python3.12 ..." \
	  % ((sys.executable,) + sys.version_info[:2]))'
	@$(PYTHON) scripts/ci_jobs.py setup
	@touch $@

demo: $(STAMP)
	@$(VENV)/bin/fastcomm demo

test lint model model-full asan tsan fuzz perf-check chaos flags wheel ci-extra: $(STAMP)
	@$(RUN) $@

bench: $(STAMP)
	@$(VENV)/bin/python scripts/bench.py $(BENCH)

promises: $(STAMP)
	@$(VENV)/bin/python scripts/promises.py $(PROMISES)

clean:
	rm -rf build dist *.egg-info fastcomm/_core/*.so fastcomm/_core/*.c fastcomm/_core/*.html $(STAMP)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fastcomm tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

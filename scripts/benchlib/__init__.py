"""The parts of scripts/bench.py; docs/benchmarks.md has the method and its reasons."""

"""CPython's own tests of multiprocessing's queues and of queue.SimpleQueue pass with fastcomm's in their
place.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = Path(__file__).with_name("cpython_suite.py")
EXPECTED = {
    "WithProcesses": {
        "test_closed_queue_put_get_exceptions",
        "test_fork",
        "test_get",
        "test_no_import_lock_contention",
        "test_put",
        "test_qsize",
        "test_task_done",
        "test_timeout",
    },
    "Simple": {"test_close", "test_closed", "test_empty"},
    "WithThreads": {
        "test_basic",
        "test_many_threads",
        "test_many_threads_nonblock",
        "test_many_threads_timeout",
        "test_negative_timeout_raises_exception",
        "test_order",
    },
}


def suite_is_there() -> bool:
    try:
        return importlib.util.find_spec("test._test_multiprocessing") is not None
    except ModuleNotFoundError:  # there is no package `test` at all
        return False


def test_the_suite_of_this_interpreter_is_there() -> None:
    """Some distributions leave Lib/test out. CI must not: there the next test would be skipped unnoticed."""
    if os.environ.get("CI") == "true":
        assert suite_is_there()


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_cpythons_tests_pass(start_method: str) -> None:
    if not suite_is_there():
        pytest.skip(f"{sys.executable} comes without CPython's test suite (Lib/test)")
    done = subprocess.run(
        [sys.executable, str(SUITE), start_method], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["failed"] == []
    passed = {tuple(name.split(".")[-2:]) for name in outcome["passed"]}
    assert passed >= {(case, test) for case, tests in EXPECTED.items() for test in tests}

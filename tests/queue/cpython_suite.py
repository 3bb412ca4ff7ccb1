"""Run CPython's own tests of queues on fastcomm's: ``python cpython_suite.py fork|spawn|forkserver``.

Prints, as JSON, which tests passed, and for the others their traceback or the reason why they were skipped. A
script, because it replaces names in multiprocessing and sets the start method, and because children of spawn
run its file again.
"""

import json
import multiprocessing
import multiprocessing.queues
import queue
import sys
import unittest
from typing import Any

import fastcomm


class SimpleQueue(fastcomm.SimpleQueue):
    """With the two private attributes that CPython looks at: whatever stands for the ends of its pipe."""

    _reader = property(lambda self: self._ring)
    _writer = property(lambda self: self._ring)


for module in (multiprocessing, multiprocessing.queues):
    module.Queue = fastcomm.Queue  # type: ignore[attr-defined]
    module.JoinableQueue = fastcomm.JoinableQueue  # type: ignore[attr-defined]
    module.SimpleQueue = SimpleQueue  # type: ignore[attr-defined]

from test import _test_multiprocessing as cpython  # noqa: E402
from test import test_queue  # noqa: E402

# What these check can't be the same: a feeder thread that meets an object which can't be pickled, and objects
# that stay the same ones when they pass.
NOT_OURS = {
    "test_queue_feeder_donot_stop_onexc",
    "test_queue_feeder_on_queue_feeder_error",
    "test_references",
}


class WithProcesses(cpython._TestQueue, cpython.ProcessesMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
    pass


class Simple(cpython.TestSimpleQueue):  # type: ignore[misc, name-defined]
    pass


class WithThreads(test_queue.BaseSimpleQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
    queue = queue
    type2test = fastcomm.Queue

    def tearDown(self) -> None:
        self.q.close()


class Result(unittest.TestResult):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.passed: list[str] = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed.append(test.id())


def main(start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)
    cases = [
        case(name)
        for case in (WithProcesses, Simple, WithThreads)
        for name in unittest.defaultTestLoader.getTestCaseNames(case)
        if name not in NOT_OURS
    ]
    result = unittest.TestSuite(cases).run(Result())
    failed = [(test.id(), text) for test, text in result.failures + result.errors + result.skipped]
    print(json.dumps({"passed": result.passed, "failed": failed}))


if __name__ == "__main__":
    main(*sys.argv[1:])

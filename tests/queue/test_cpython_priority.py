"""CPython's own tests of queue.Queue and queue.PriorityQueue pass with PriorityQueue in their place.

The tests look at the name of the class to know the order that they expect. In `Queue` all items have one
priority, so it is first in, first out; in `PriorityQueue` an item is its own priority.
"""

import os
import queue
import sys
import unittest
from typing import Any

import pytest

import fastcomm

try:
    from test import test_queue as cpython
except ImportError:  # some distributions leave Lib/test out
    cpython = None  # type: ignore[assignment]


class Queue(fastcomm.PriorityQueue[Any]):
    pass


class PriorityQueue(fastcomm.PriorityQueue[Any]):
    def put(self, item: Any, *block_and_timeout: Any, **options: Any) -> None:
        rank = item[0] if isinstance(item, tuple) else item
        super().put(item, *block_and_timeout, priority=rank if isinstance(rank, int) else 0, **options)


class Module:
    """What stands for the module `queue`."""

    Queue = Queue
    PriorityQueue = PriorityQueue
    Empty = queue.Empty
    Full = queue.Full
    ShutDown = getattr(queue, "ShutDown", None)


def test_the_suite_of_this_interpreter_is_there() -> None:
    if cpython is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{sys.executable} comes without Lib/test/test_queue.py; CI needs it")
        pytest.skip(f"{sys.executable} comes without CPython's test suite (Lib/test)")


if cpython is not None:

    class TestAsQueue(cpython.QueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
        queue = Module

    class TestAsPriorityQueue(cpython.PriorityQueueTest, unittest.TestCase):  # type: ignore[misc, name-defined]
        queue = Module


def test_the_tests_that_were_taken_over_are_these() -> None:
    if cpython is None:
        pytest.skip("there is no suite")
    expected = {
        "test_basic",
        "test_negative_timeout_raises_exception",
        "test_nowait",
        "test_queue_join",
        "test_queue_task_done",
        "test_shrinking_queue",
    }
    for case in (TestAsQueue, TestAsPriorityQueue):
        assert {name for name in dir(case) if name.startswith("test_")} >= expected

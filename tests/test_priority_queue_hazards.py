"""PriorityQueue with code of the user that misbehaves, with threads, and with the garbage collector."""

import gc
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from fastcomm import NotRegisteredError, PriorityQueue, PriorityQueueStats, ShutDown


class Oops(Exception):
    pass


class Key:
    """Equal to those with its name; its hash and its comparison do what they are told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_hash: Callable[[], object] = lambda: None
        self.on_compare: Callable[[], object] = lambda: None

    def __hash__(self) -> int:
        self.on_hash()
        return 1

    def __eq__(self, other: object) -> bool:
        self.on_compare()
        return isinstance(other, Key) and self.name == other.name


def fail() -> None:
    raise Oops


@contextmanager
def still_sound(queue: PriorityQueue[Any]) -> Iterator[None]:
    """Afterwards the queue behaves as if nothing had happened to it: it takes, orders and forgets."""
    yield
    queue.clear()
    assert len(queue) == 0
    for round_ in range(3):
        queue.put_many(range(50), priority=lambda item: item * 7 % 50, key=str)
        queue.put_many(range(50), priority=lambda item: item * 7 % 50, key=str)
        assert len(queue) == 50, round_
        taken = queue.get_many(100)
        assert [item * 7 % 50 for item in taken] == list(range(50))
    stats = queue.stats()
    assert stats.put == stats.got + stats.coalesced + stats.dropped + stats.removed


class TestCodeOfTheUser:
    @pytest.mark.parametrize("which", ["on_hash", "on_compare"])
    @pytest.mark.parametrize("call", ["put", "remove", "update"])
    def test_what_a_key_raises_changes_nothing(self, which: str, call: str) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        with still_sound(queue):
            stored, key = Key("k"), Key("k")
            queue.put(1, key=stored)
            if which == "on_hash":
                key.on_hash = fail
            else:
                stored.on_compare = fail
            calls: dict[str, Callable[[], object]] = {
                "put": lambda: queue.put(2, key=key),
                "remove": lambda: queue.remove(key),
                "update": lambda: queue.update(key, 3),
            }
            with pytest.raises(Oops):
                calls[call]()
            assert (len(queue), queue.peek()) == (1, 1)

    def test_a_queued_key_that_has_come_to_raise_can_still_leave(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        with still_sound(queue):
            keys = [Key(str(number)) for number in range(10)]
            for number, key in enumerate(keys):
                queue.put(number, key=key)
            for key in keys:
                key.on_hash = key.on_compare = fail
            assert queue.get_many(9) == list(range(9))
            with pytest.raises(Oops):
                queue.put(1, key=keys[9])

    @pytest.mark.parametrize("doing", ["get", "clear", "put", "grow", "remove"])
    def test_a_comparison_may_change_the_queue(self, doing: str) -> None:
        queue: PriorityQueue[Any] = PriorityQueue()
        with still_sound(queue):
            stored = [Key(name) for name in "abc"]
            for key in stored:
                queue.put(key.name, key=key)
            times = iter(range(3))
            changes: dict[str, Callable[[], object]] = {
                "get": queue.get_nowait,
                "clear": queue.clear,
                "put": lambda: queue.put("x", key="x"),
                "grow": lambda: queue.put_many(range(100), key=str),
                "remove": lambda: queue.remove(stored[1]),
            }

            def change() -> None:
                if next(times, None) == 0:
                    changes[doing]()

            stored[0].on_compare = change
            queue.put("new", key=Key("b"))
            left = queue.get_many()
            assert left.count("new") == 1
            assert "b" not in left

    def test_a_merge_function_that_raises_changes_nothing(self) -> None:
        def merge(queued: int, newer: int) -> int:
            raise Oops

        queue: PriorityQueue[int] = PriorityQueue(merge=merge)
        queue.put(1, priority=5, key="k")
        queue.put(2, priority=3)
        with pytest.raises(Oops):
            queue.put(3, priority=1, key="k")
        with pytest.raises(Oops):
            queue.put_many([4, 5], key=lambda item: "k" if item == 5 else None)
        assert queue.get_many() == [4, 2, 1]
        assert queue.stats().coalesced == 0

    @pytest.mark.parametrize("doing", ["get", "clear", "put", "remove", "replace"])
    def test_a_merge_function_may_change_the_queue(self, doing: str) -> None:
        calls: list[tuple[str, str]] = []
        changes: dict[str, Callable[[], object]] = {
            "get": lambda: queue.get_nowait(),
            "clear": lambda: queue.clear(),
            "put": lambda: queue.put_many(map(str, range(100)), priority=8, key=str),
            "remove": lambda: queue.remove("k"),
            "replace": lambda: (queue.remove("k"), queue.put("other", key="k")),
        }

        def merge(queued: str, newer: str) -> str:
            calls.append((queued, newer))
            if len(calls) == 1:
                changes[doing]()
            return f"{queued}+{newer}"

        queue: PriorityQueue[str] = PriorityQueue(merge=merge)
        with still_sound_strings(queue):
            queue.put("old", key="k")
            queue.put("new", key="k")
            expected = {"put": "old+new", "replace": "other+new"}.get(doing, "new")
            assert queue.remove("k") == expected
            assert len(calls) == (2 if doing == "replace" else 1)

    def test_a_merge_function_may_shut_the_queue_down(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(merge=lambda queued, newer: (queue.shutdown(), newer)[1])
        queue.put(1, key="k")
        with pytest.raises(ShutDown):
            queue.put(2, key="k")
        assert queue.get() == 1

    @pytest.mark.parametrize("overflow", ["block", "drop_lowest"])
    def test_destructors_may_use_the_queue(self, overflow: Any) -> None:
        class Item:
            def __del__(self) -> None:
                seen.append(len(queue))
                queue.put("from a destructor", priority=9)

        seen: list[int] = []
        queue: PriorityQueue[Any] = PriorityQueue(4, overflow=overflow)
        queue.put(Item(), priority=5, key="k")
        queue.put("replacement", priority=5, key="k")
        assert seen == [1]
        queue.put(Item(), priority=1)
        queue.get()
        assert seen == [1, 2]
        queue.put(Item(), priority=1)
        queue.clear()
        assert seen == [1, 2, 0]
        assert queue.get_many() == ["from a destructor"]


@contextmanager
def still_sound_strings(queue: PriorityQueue[str]) -> Iterator[None]:
    yield
    queue.clear()
    queue.put_many("abc", priority=ord, key=str)
    assert queue.get_many() == ["a", "b", "c"]


class TestThreads:
    def test_get_waits_for_put_and_put_for_get(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1)
        taken: list[int] = []
        consumer = threading.Thread(target=lambda: taken.extend(queue.get() for _ in range(1000)))
        consumer.start()
        for number in range(1000):
            queue.put(number)
        consumer.join()
        assert taken == list(range(1000))

    @pytest.mark.parametrize("maxsize", [0, 3])
    def test_many_producers_and_consumers_lose_and_double_nothing(self, maxsize: int) -> None:
        queue: PriorityQueue[tuple[int, int]] = PriorityQueue(maxsize)
        taken: list[list[tuple[int, int]]] = [[] for _ in range(4)]

        def produce(me: int) -> None:
            for number in range(1500):
                queue.put((me, number), priority=number % 3, key=(me, number))

        def consume(mine: list[tuple[int, int]]) -> None:
            while True:
                try:
                    batch = queue.get_many(3) if len(mine) % 2 else [queue.get()]
                except ShutDown:
                    return
                mine.extend(batch)
                for _ in batch:
                    queue.task_done()

        producers = [threading.Thread(target=produce, args=(me,)) for me in range(4)]
        consumers = [threading.Thread(target=consume, args=(mine,)) for mine in taken]
        with switching_often():
            for thread in producers + consumers:
                thread.start()
            for thread in producers:
                thread.join()
            queue.join()
            queue.shutdown()
            for thread in consumers:
                thread.join()
        everything = [entry for mine in taken for entry in mine]
        assert sorted(everything) == [(me, number) for me in range(4) for number in range(1500)]

    def test_coalescing_threads_lose_no_count(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(merge=lambda queued, newer: queued + newer)
        threads = [
            threading.Thread(target=lambda: [queue.put(1, key=n % 7) for n in range(3000)]) for _ in range(4)
        ]
        with switching_often():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sum(queue.get_many()) == 12_000
        assert queue.stats().coalesced == 12_000 - 7

    def test_a_larger_maxsize_lets_all_waiting_puts_go(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1)
        queue.put(0)
        threads = [threading.Thread(target=queue.put, args=(1,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        queue.maxsize = 4
        for thread in threads:
            thread.join()
        assert len(queue) == 4

    @pytest.mark.parametrize("way", ["remove", "clear", "drop"])
    def test_join_does_not_wait_for_what_was_thrown_away(self, way: str) -> None:
        queue: PriorityQueue[int] = PriorityQueue(2, overflow="drop_lowest")
        queue.put(1, key="k", priority=1)
        joiner = threading.Thread(target=queue.join)
        joiner.start()
        if way == "remove":
            queue.remove("k")
        elif way == "clear":
            queue.clear()
        else:
            queue.put_many([1, 2, 3])
            assert queue.get_many() == [1, 2]
            queue.task_done()
            queue.task_done()
        joiner.join()
        assert queue.unfinished_tasks == 0

    def test_task_done_more_often_than_got_is_an_error(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1)
        with pytest.raises(ValueError, match="more often than items were got"):
            queue.task_done()

    def test_shutdown_ends_waits_and_lets_the_rest_be_taken(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1)
        ended: list[str] = []

        def wait(call: Callable[[], object]) -> None:
            try:
                call()
            except ShutDown as error:
                ended.append(str(error))

        empty: PriorityQueue[int] = PriorityQueue()
        queue.put(1)
        threads = [
            threading.Thread(target=wait, args=(call,))
            for call in (lambda: queue.put(2), empty.get, empty.get)
        ]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        queue.shutdown()
        empty.shutdown(immediate=True)
        for thread in threads:
            thread.join()
        assert len(ended) == 3
        assert queue.get() == 1
        with pytest.raises(ShutDown, match="nothing is left"):
            queue.get()
        with pytest.raises(ShutDown, match="takes no more"):
            queue.put(1)

    def test_a_signal_handler_runs_while_get_waits_and_may_end_it(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue()
        before = signal.signal(signal.SIGUSR1, lambda *_: queue.put("from the handler"))
        try:
            threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
            assert queue.get(timeout=60) == "from the handler"
        finally:
            signal.signal(signal.SIGUSR1, before)

    @pytest.mark.parametrize("full", [False, True])
    def test_control_c_ends_a_wait(self, full: bool) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1)
        if full:
            queue.put(1)
        timer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            queue.put(2) if full else queue.get()
        timer.join()
        assert len(queue) == full


@contextmanager
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Node:
    """What can be part of a cycle, and be seen to die."""

    def __init__(self, *referred: object) -> None:
        self.referred = referred


class TestMemory:
    @pytest.mark.parametrize("through", ["item", "key", "merge"])
    def test_cycles_through_the_queue_are_collected(self, through: str) -> None:
        def make() -> weakref.ref[Any]:
            if through == "merge":

                class Merging(PriorityQueue[int]):
                    __slots__ = ()

                    def __init__(self) -> None:
                        super().__init__(merge=self.merge)

                    def merge(self, queued: int, newer: int) -> int:
                        return newer

                return weakref.ref(Merging())
            queue: PriorityQueue[Any] = PriorityQueue()
            node = Node(queue)
            queue.put(node if through == "item" else 1, key=node if through == "key" else None)
            return weakref.ref(node)

        dead = make()
        gc.collect()
        assert dead() is None

    def test_finalizers_that_the_collector_runs_may_use_a_queue_that_goes_with_them(self) -> None:
        class Last(Node):
            def __del__(self) -> None:
                (queue,) = self.referred
                assert isinstance(queue, PriorityQueue)
                queue.put(self.referred, key="k")
                seen.append(len(queue))

        seen: list[int] = []
        queue: PriorityQueue[Any] = PriorityQueue()
        queue.put_many([Last(queue), Last(queue)])
        del queue
        gc.collect()
        assert seen == [3, 3]

    def test_no_reference_is_lost_or_kept(self) -> None:
        item, key = Node(), Node()
        counts = sys.getrefcount(item), sys.getrefcount(key)
        queue: PriorityQueue[Any] = PriorityQueue(5, overflow="drop_lowest")
        for number in range(50):
            queue.put(item, priority=number % 7, key=key)
            queue.put(item, priority=-number)
            queue.put(item, priority=number)
            queue.peek()
            if number % 3 == 0:
                with suppress(NotRegisteredError):
                    queue.remove(key)
            if number % 5 == 0:
                queue.get_many(4)
        queue.clear()
        assert (sys.getrefcount(item), sys.getrefcount(key)) == counts

    def test_memory_is_used_again_and_given_back(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put_many(range(10_000), priority=lambda item: item % 100, key=int)
        reserved = queue.stats().nbytes
        assert reserved / 10_000 < 1.6 * (44 + 25)
        for _ in range(3):
            queue.get_many(10_000)
            queue.put_many(range(10_000), key=int)
        assert queue.stats().nbytes == reserved
        queue.clear()
        assert queue.stats().nbytes == 0

    def test_stats_have_names(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1)
        assert isinstance(queue.stats(), PriorityQueueStats)
        assert queue.stats()[:3] == (1, 1, 1)

"""PriorityQueue beside other priority queues of one process, each holding 10,000 items.

The peers are heapq and queue.PriorityQueue; and heapdict, pqdict, iheap and rheaps if they are installed.
Each holds an item beside the priority, in a dict where it has no place for one. heapq gets tuples with a
count, so that equal priorities are first in, first out, as they are with us; the mappings and rheaps don't do
that. Coalescing: messages with random keys of the queued ones and random priorities replace their items, and
move up if they are more urgent, as half of them are. heapq does it by the recipe in its documentation: the
old entry stays behind and is marked.
"""

import contextlib
import functools
import heapq
import itertools
import queue
import random
import time
from collections.abc import Callable, Iterable
from typing import Any

import fastcomm
from benchlib import weigh
from benchlib.contest import Contender, Contenders, Contest, Role, Setting, Skipped
from benchlib.method import Figures, without_collector

QUEUED = 10_000
TIMED = 1_000
MANY = 1_000_000
PRIORITIES = 1 << 20

Message = tuple[str, int]  # key and priority; the item is the key as well


def messages() -> tuple[list[Message], list[Message], list[Message]]:
    """Those queued, those pushed in addition, those that coalesce with queued ones."""
    rng = random.Random(1)
    queued = [(f"task-{number}", rng.randrange(PRIORITIES)) for number in range(QUEUED)]
    more = [(f"more-{number}", rng.randrange(PRIORITIES)) for number in range(TIMED)]
    again = [(key, rng.randrange(PRIORITIES)) for key, _ in rng.sample(queued, TIMED)]
    rng.shuffle(queued)
    return queued, more, again


class Fastcomm:
    """A peer: three loops, so that no call of ours stands between the loop and what is measured."""

    def __init__(self) -> None:
        self.queue: fastcomm.PriorityQueue[str] = fastcomm.PriorityQueue()

    def push(self, new: Iterable[Message]) -> None:
        put = self.queue.put
        for key, priority in new:
            put(key, priority=priority)

    def pop(self, times: int) -> None:
        get = self.queue.get
        for _ in range(times):
            get()


class FastcommKeyed(Fastcomm):
    def push(self, new: Iterable[Message]) -> None:
        put = self.queue.put
        for key, priority in new:
            put(key, priority=priority, key=key)

    coalesce = push


class Heapq:
    def __init__(self) -> None:
        self.heap: list[tuple[int, int, str]] = []
        self.count = itertools.count()

    def push(self, new: Iterable[Message]) -> None:
        heap, count, heappush = self.heap, self.count, heapq.heappush
        for key, priority in new:
            heappush(heap, (priority, next(count), key))

    def pop(self, times: int) -> None:
        heap, heappop = self.heap, heapq.heappop
        for _ in range(times):
            heappop(heap)


class HeapqRecipe:
    def __init__(self) -> None:
        self.heap: list[list[Any]] = []
        self.entries: dict[str, list[Any]] = {}
        self.count = itertools.count()

    def push(self, new: Iterable[Message]) -> None:
        heap, entries, count, heappush = self.heap, self.entries, self.count, heapq.heappush
        for key, priority in new:
            entry = [priority, next(count), key]
            entries[key] = entry
            heappush(heap, entry)

    def coalesce(self, new: Iterable[Message]) -> None:
        heap, entries, count, heappush = self.heap, self.entries, self.count, heapq.heappush
        for key, priority in new:
            entry = entries[key]
            if priority < entry[0]:
                entry[2] = None
                entry = [priority, next(count), key]
                entries[key] = entry
                heappush(heap, entry)
            else:
                entry[2] = key


class StandardQueue:
    def __init__(self) -> None:
        self.queue: queue.PriorityQueue[tuple[int, int, str]] = queue.PriorityQueue()
        self.count = itertools.count()

    def push(self, new: Iterable[Message]) -> None:
        put, count = self.queue.put, self.count
        for key, priority in new:
            put((priority, next(count), key))

    def pop(self, times: int) -> None:
        get = self.queue.get
        for _ in range(times):
            get()


class Mapping:
    """heapdict, pqdict, iheap: mappings of keys to priorities; items in a dict beside."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.priorities = make()
        self.items: dict[str, str] = {}

    def push(self, new: Iterable[Message]) -> None:
        priorities, items = self.priorities, self.items
        for key, priority in new:
            items[key] = key
            priorities[key] = priority

    def pop(self, times: int) -> None:
        pop, items = self.priorities.popitem, self.items
        for _ in range(times):
            key, _priority = pop()
            del items[key]

    def coalesce(self, new: Iterable[Message]) -> None:
        priorities, items = self.priorities, self.items
        for key, priority in new:
            items[key] = key
            if priority < priorities[key]:
                priorities[key] = priority


class Rheaps:
    """Its d-ary heap, which holds an item and gives a handle; handles in a dict."""

    def __init__(self) -> None:
        import rheaps

        self.heap = rheaps.DaryArrayAddressableHeap(4, key_type=int)
        self.handles: dict[str, Any] = {}

    def push(self, new: Iterable[Message]) -> None:
        insert, handles = self.heap.insert, self.handles
        for key, priority in new:
            handles[key] = insert(priority, key)

    def pop(self, times: int) -> None:
        pop, handles = self.heap.pop, self.handles
        for _ in range(times):
            _priority, key = pop()
            del handles[key]

    def coalesce(self, new: Iterable[Message]) -> None:
        heap, handles = self.heap, self.handles
        for key, priority in new:
            handle = handles[key]
            heap.set_value(handle, key)
            if priority < heap.key(handle):
                heap.decrease_key(handle, priority)


def mapping(module: str, name: str) -> Callable[[], Mapping]:
    def make() -> Mapping:
        return Mapping(getattr(__import__(module), name))

    return make


OURS: dict[str, Callable[[], Any]] = {"fastcomm": Fastcomm, "fastcomm, with keys": FastcommKeyed}
PEERS: dict[str, Callable[[], Any]] = {
    "heapq": Heapq,
    "heapq, recipe with keys": HeapqRecipe,
    "queue.PriorityQueue": StandardQueue,
    "heapdict": mapping("heapdict", "heapdict"),
    "pqdict": mapping("pqdict", "pqdict"),
    "iheap": mapping("iheap", "PQDict"),
    "rheaps": Rheaps,
}


def block(
    make: Callable[[], Any], what: str, queued: list[Message], more: list[Message], again: list[Message]
) -> Figures:
    """Nanoseconds of one `what` of TIMED, on QUEUED items; these are put in anew, which is not timed."""
    peer = make()
    peer.push(queued)
    timed: Callable[[], None] = {
        "push": lambda: peer.push(more),
        "pop": lambda: peer.pop(TIMED),
        "coalesce": lambda: peer.coalesce(again),
    }[what]
    with without_collector():
        started = time.perf_counter_ns()
        timed()
        return {"": (time.perf_counter_ns() - started) / TIMED}


def contenders(what: str, setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    found: list[Contender | Skipped] = []
    given = messages()
    for name, make in {**OURS, **PEERS}.items():
        try:
            able = hasattr(make(), what)
        except ImportError as error:
            found.append(Skipped(name, f"{error}: pip install 'fastcomm[peers]'"))
            continue
        if able:
            role: Role = "ours" if name in OURS else "peer"
            found.append(Contender(name, "", functools.partial(block, make, what, *given), role))
    return found


def contests() -> list[Contest]:
    return [
        *(
            Contest(
                f"heap {what}",
                f"{measured} at {QUEUED:,} queued items",
                "ns",
                None,
                functools.partial(contenders, what),
                rounds=(3, 15),
            )
            for what, measured in (
                ("push", "an item with a random priority"),
                ("pop", "the first item"),
                ("coalesce", "a newer item for a queued key, with a random priority"),
            )
        ),
        weigh.contest("memory of a queued item", MANY, [*OURS, *PEERS], "peers_heap"),
    ]


# ---- memory, in a process of its own: see weigh.py


def fill(name: str, count: int) -> Callable[[], Any]:
    rng = random.Random(1)
    entries = [(f"task-{number}", rng.randrange(PRIORITIES)) for number in range(count)]
    peer = {**OURS, **PEERS}[name]()

    def filled() -> Any:
        peer.push(entries)
        return peer

    return filled

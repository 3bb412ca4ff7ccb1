"""The operations whose instructions are counted: ``hot_operations.py NAME`` is what valgrind runs, see
scripts/count_instructions.py.

An operation is prepared once and then repeated `n` times by a function that nothing else happens in. All of
them run in one thread and never wait, so that two runs execute the same instructions.
"""

import gc
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

FEW, MANY = 128, 640  # repetitions; the difference of their costs is that of MANY - FEW operations
WARM_UP = 512  # specialises bytecode, fills caches and free lists
BATCH = 128
SMALL = {"id": 12345, "ok": True, "name": "sensor"}

Repeat = Callable[[int], object]


# ---- rings


def in_turn(put: Callable[[bytes], object], get: Callable[[], object], payload: bytes) -> Repeat:
    def repeat(n: int) -> None:
        for _ in range(n):
            put(payload)
            get()

    return repeat


def in_batches(put_many: Callable[..., int], get_many: Callable[[], list[object]], payload: bytes) -> Repeat:
    """`n` messages, a multiple of BATCH."""
    items = [payload] * BATCH

    def repeat(n: int) -> None:
        for _ in range(n // BATCH):
            put_many(items)
            get_many()

    return repeat


def ring_put_get(nbytes: int) -> Repeat:
    ring = new_ring()
    return in_turn(ring.put, ring.get, bytes(nbytes))


def ring_try_put_try_get() -> Repeat:
    ring = new_ring()
    return in_turn(ring.try_put, ring.try_get, bytes(64))


def ring_try_get_of_nothing() -> Repeat:
    try_get = new_ring().try_get

    def repeat(n: int) -> None:
        for _ in range(n):
            try_get()

    return repeat


def ring_put_many_get_many() -> Repeat:
    ring = new_ring()
    return in_batches(ring.put_many, ring.get_many, bytes(256))


def ring_claim_get() -> Repeat:
    ring = new_ring()
    claim, get = ring.claim, ring.get

    def repeat(n: int) -> None:
        for _ in range(n):
            with claim(256):
                pass
            get()

    return repeat


def ring_put_peek() -> Repeat:
    ring, payload = new_ring(), bytes(256)
    put, peek = ring.put, ring.peek

    def repeat(n: int) -> None:
        for _ in range(n):
            put(payload)
            with peek():
                pass

    return repeat


def ring_async() -> Repeat:
    """What asyncio's calls add when nothing has to be waited for; without an event loop."""
    ring, payload = new_ring(), bytes(64)

    async def exchange(n: int) -> None:
        for _ in range(n):
            await ring.put_async(payload)
            await ring.get_async()

    def repeat(n: int) -> None:
        try:
            exchange(n).send(None)
        except StopIteration:
            return
        raise RuntimeError("a call waited")

    return repeat


def new_ring():  # type: ignore[no-untyped-def]
    from fastcomm import RingBuffer

    return RingBuffer.create()


# ---- queues


def queue_put_get() -> Repeat:
    from fastcomm import Queue

    queue = Queue()
    return in_turn(queue.put, queue.get, bytes(64))


def queue_put_many_get_many() -> Repeat:
    from fastcomm import Queue

    queue = Queue()
    return in_batches(queue.put_many, queue.get_many, bytes(256))


def queue_with_tasks() -> Repeat:
    from fastcomm import JoinableQueue

    queue, payload = JoinableQueue(), bytes(64)
    put, get, task_done = queue.put, queue.get, queue.task_done

    def repeat(n: int) -> None:
        for _ in range(n):
            put(payload)
            get()
            task_done()

    return repeat


# ---- the bus


def bus_publish_receive(data: object, subscribers: int = 1) -> Repeat:
    """One message to each subscriber."""
    from fastcomm import Bus

    bus = Bus.open("instructions")
    publish = bus.join("publisher").publish
    agents = [bus.join(f"agent-{number}") for number in range(subscribers)]
    for agent in agents:
        agent.subscribe("orders.*")
    receives = [agent.receive for agent in agents]

    def repeat(n: int) -> None:
        for _ in range(n):
            publish("orders.new", data)
            for receive in receives:
                receive()

    return repeat


def publish_beside(subscriptions: int, subjects: Callable[[int], str]) -> Repeat:
    """One message to the one that matches, beside `subscriptions` that don't; `subjects` of 0, 1, 2 ..."""
    from fastcomm import Bus

    bus = Bus.open("instructions", max_subscriptions=subscriptions + 2)
    receiver, publisher, other = (bus.join(name) for name in ("receiver", "publisher", "other"))
    receiver.subscribe("orders.>")
    write_subscriptions(bus, [other], subscriptions)
    publish, receive, names = publisher.publish, receiver.receive, map(subjects, itertools.count())

    def repeat(n: int) -> None:
        for subject in itertools.islice(names, n):
            publish(subject, b"")
            receive()
        if other.closed:  # collected, had nothing referred to it
            raise RuntimeError("the subscriptions are gone")

    return repeat


def write_subscriptions(bus: Any, holders: Sequence[Any], count: int) -> None:
    """Patterns that no ``orders.N`` matches, written as subscribe() does: it looks for a free entry from the
    first one on, and a hundred thousand would take minutes.
    """
    patterns = itertools.cycle(("other.{}.>", "other.{}.*.end", "orders.{}.*.end", "*.{}.end"))
    entries = zip(range(1, count + 1), itertools.cycle(holders), patterns, strict=False)
    with bus._changing_tables():
        for number, holder, pattern in entries:
            encoded = pattern.format(number).encode()
            bus._subscriptions.write_entry(number, holder._slot + 1, holder._epoch, encoded)


# ---- one argument, one result


def calls(function: Callable[..., object], *arguments: object) -> Repeat:
    def repeat(n: int) -> None:
        for _ in range(n):
            function(*arguments)

    return repeat


def encode_small() -> Repeat:
    from fastcomm import encode

    return calls(encode, SMALL)


def encode_into_small() -> Repeat:
    from fastcomm import encode_into

    return calls(encode_into, SMALL, bytearray(256))


def decode_small() -> Repeat:
    from fastcomm import decode, encode

    return calls(decode, encode(SMALL))


def match_hot() -> Repeat:
    from fastcomm.subjects import SubjectRegistry

    registry = SubjectRegistry()
    for number in range(1000):
        registry.insert(f"site.{number}.*", number)
    return calls(registry.match, "site.7.temp")


OPERATIONS: dict[str, Callable[[], Repeat]] = {
    "ring put + get, 64 B": lambda: ring_put_get(64),
    "ring put + get, 256 B": lambda: ring_put_get(256),
    "ring try_put + try_get, 64 B": ring_try_put_try_get,
    "ring try_get of nothing": ring_try_get_of_nothing,
    "ring put_many + get_many, 256 B, a record": ring_put_many_get_many,
    "ring claim + get, 256 B": ring_claim_get,
    "ring put + peek, 256 B": ring_put_peek,
    "ring put_async + get_async, 64 B": ring_async,
    "queue put + get, 64 B": queue_put_get,
    "queue put_many + get_many, 256 B, an item": queue_put_many_get_many,
    "queue put + get + task_done, 64 B": queue_with_tasks,
    "bus publish + receive, 256 B": lambda: bus_publish_receive(bytes(256)),
    "bus publish + 8 receive, 256 B": lambda: bus_publish_receive(bytes(256), 8),
    "bus publish + receive, a small dict": lambda: bus_publish_receive(SMALL),
    "bus publish + receive, 10 others": lambda: publish_beside(10, lambda _: "orders.new"),
    "bus publish + receive, 100,000 others": lambda: publish_beside(100_000, lambda _: "orders.new"),
    "bus publish + receive, a new subject, 10 others": lambda: publish_beside(10, "orders.{}".format),
    "bus publish + receive, a new subject, 100,000 others": lambda: publish_beside(
        100_000, "orders.{}".format
    ),
    "encode a small dict": encode_small,
    "encode_into a small dict": encode_into_small,
    "decode a small dict": decode_small,
    "match a subject met before": match_hot,
}


def mark() -> None:
    """valgrind writes what was executed since the last mark, see --dump-before."""
    os.getppid()


def main(name: str) -> None:
    repeat = OPERATIONS[name]()
    gc.collect()
    gc.disable()
    for _ in range(2):
        repeat(WARM_UP)
    mark()
    repeat(FEW)
    mark()
    repeat(MANY)
    mark()


if __name__ == "__main__":
    main(sys.argv[1])

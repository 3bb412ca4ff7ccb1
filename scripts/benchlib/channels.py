"""Ways to send bytes from one process to another: ours and the standard library's, behind the same two calls.

A channel is made in the measuring process and passed to a worker. `sender()` and `receiver()` are called in
the process that will use what they return.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from benchlib.processes import context
from fastcomm import Bus, Queue, RingBuffer
from fastcomm.testing import isolated_name

CAPACITY = 1 << 20  # bytes of a ring or an inbox where throughput is measured
JOIN_SECONDS = 30.0

Send = Callable[[bytes], object]
Receive = Callable[[], bytes]


class Channel(Protocol):
    def sender(self) -> Send: ...

    def receiver(self) -> Receive: ...


class RingChannel:
    """RingBuffer: put and get. Its handle is pickled by name."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.ring = RingBuffer.create(isolated_name(), capacity=CAPACITY)
        stack.callback(self.ring.close)
        stack.callback(self.ring.unlink)

    def sender(self) -> Send:
        return self.ring.put

    def receiver(self) -> Receive:
        return self.ring.get


class OurQueueChannel:
    """fastcomm.Queue: put and get of pickled objects. Its handle is pickled by name."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.queue = Queue(capacity=CAPACITY)
        stack.callback(self.queue.close)
        stack.callback(self.queue.unlink)

    def sender(self) -> Send:
        return self.queue.put

    def receiver(self) -> Receive:
        return self.queue.get


class BusChannel:
    """Agents of a bus: publish and receive. The receiver must be there before the sender."""

    def __init__(self, stack: contextlib.ExitStack, inbox_bytes: int = CAPACITY) -> None:
        self.bus = Bus.open(isolated_name(), inbox_bytes=inbox_bytes)
        stack.callback(self.bus.close)

    def sender(self) -> Send:
        agent = self.bus.join()
        agent.wait_for_subscribers("bench.data", 1, timeout=JOIN_SECONDS)
        return partial(agent.publish, "bench.data")

    def receiver(self) -> Receive:
        agent = self.bus.join()
        agent.subscribe("bench.data")
        receive = agent.receive
        return lambda: receive().data


class PipeChannel:
    """multiprocessing.Pipe: send_bytes and recv_bytes."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.reader, self.writer = context.Pipe(duplex=False)
        stack.callback(self.reader.close)
        stack.callback(self.writer.close)

    def sender(self) -> Send:
        return self.writer.send_bytes

    def receiver(self) -> Receive:
        return self.reader.recv_bytes


class QueueChannel:
    """multiprocessing.Queue: put, through its feeder thread, and get."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.queue: Any = context.Queue()
        stack.callback(self.queue.join_thread)
        stack.callback(self.queue.close)

    def sender(self) -> Send:
        return self.queue.put

    def receiver(self) -> Receive:
        return self.queue.get


CHANNELS: dict[str, Callable[[contextlib.ExitStack], Channel]] = {
    "fastcomm ring": RingChannel,
    "fastcomm Queue": OurQueueChannel,
    "fastcomm bus": BusChannel,
    "mp.Pipe": PipeChannel,
    "mp.Queue": QueueChannel,
}


def is_ours(name: str) -> bool:
    return name.startswith("fastcomm")


# ---- what workers do with them; each returns the function that the worker calls for a block


def echo(there: Channel, back: Channel) -> Callable[[int], None]:
    receive, send = there.receiver(), back.sender()

    def block(count: int) -> None:
        for _ in range(count):
            send(receive())

    return block


def produce(channel: Channel, payload: bytes) -> Callable[[int], None]:
    send = channel.sender()

    def block(count: int) -> None:
        for _ in range(count):
            send(payload)

    return block


def produce_batches(both: RingBuffer | Queue, payload: bytes, batch: int) -> Callable[[int], None]:
    items = [payload] * batch

    def block(count: int) -> None:
        for _ in range(count // batch):
            both.put_many(items)

    return block


def consume(channel: Channel) -> Callable[[int], int]:
    """The block returns when its last message came: CLOCK_MONOTONIC ns, which all processes share."""
    receive = channel.receiver()

    def block(count: int) -> int:
        for _ in range(count):
            receive()
        return time.monotonic_ns()

    return block


def consume_many(channel: BusChannel) -> Callable[[int], int]:
    """consume() by receive_many()."""
    agent = channel.bus.join()
    agent.subscribe("bench.data")

    def block(count: int) -> int:
        while count > 0:
            count -= len(agent.receive_many())
        return time.monotonic_ns()

    return block


def consume_stamped(channel: Channel) -> Callable[[int], list[int]]:
    """The block returns how old the stamp in each message was when it was there."""
    receive, clock = channel.receiver(), time.monotonic_ns

    def block(count: int) -> list[int]:
        ages = []
        for _ in range(count):
            message = receive()
            ages.append(clock() - stamp_of(message))
        return ages

    return block


def stamped(payload: int) -> bytes:
    """The time now, and zeros up to `payload` bytes."""
    return time.monotonic_ns().to_bytes(8, "little").ljust(payload, b"\0")


def stamp_of(message: bytes) -> int:
    return int.from_bytes(message[:8], "little")

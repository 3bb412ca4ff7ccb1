"""How much goes through rings and the bus: one call a message, batches, four to one, one to eight."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchlib import limits
from benchlib.channels import (
    CAPACITY,
    CHANNELS,
    JOIN_SECONDS,
    BusChannel,
    Channel,
    OurQueueChannel,
    PipeChannel,
    RingChannel,
    Send,
    consume,
    consume_many,
    is_ours,
    produce,
    produce_batches,
)
from benchlib.contest import Contender, Contenders, Contest, Setting, Skipped
from benchlib.method import Figures, calibrate
from benchlib.processes import Worker, context
from fastcomm import Queue, RingBuffer
from fastcomm.testing import isolated_name

ONE_THREAD_PAYLOAD = 512
PAYLOAD = 256
BATCH = 128
FAN_OUT = 8
PRODUCERS = 4


# ---- one thread: what a put and a get cost


def put_and_get(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    ring = RingBuffer.create(isolated_name(), capacity=CAPACITY)
    stack.callback(ring.close)
    pipe = PipeChannel(stack)
    return [
        one_thread("fastcomm ring", ring.put, ring.get, setting),
        one_thread("mp.Pipe", pipe.sender(), pipe.receiver(), setting),
        copy_limit(setting),
    ]


def one_thread(
    name: str, put: Callable[[bytes], object], get: Callable[[], bytes], setting: Setting
) -> Contender:
    payload = bytes(ONE_THREAD_PAYLOAD)

    def block(count: int) -> Figures:
        started = time.perf_counter_ns()
        for _ in range(count):
            put(payload)
            get()
        return {"": (time.perf_counter_ns() - started) / count * 1e-3}

    count = calibrate(block, 1000, setting.block_seconds)
    return Contender(name, "", lambda: block(count), "ours" if is_ours(name) else "peer")


def queue_put_and_get(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    ours = OurQueueChannel(stack)
    theirs = context.SimpleQueue()  # put of mp.Queue only hands over to a thread
    stack.callback(theirs.close)
    return [
        one_thread("fastcomm Queue", ours.sender(), ours.receiver(), setting),
        one_thread("mp.SimpleQueue", theirs.put, theirs.get, setting),
        copy_limit(setting),
    ]


def copy_limit(setting: Setting) -> Contender | Skipped:
    count = 100_000 if setting.quick else 1_000_000
    return limits.limit("C twin", "", setting.placement, "copy", count, ONE_THREAD_PAYLOAD, scale=1e-3)


# ---- the measuring process consumes: messages a second from the first to the last


def receive_one_by_one(receive: Callable[[], bytes], workers: Sequence[Worker], count: int) -> Figures:
    start(workers, count)
    receive()
    started = time.perf_counter_ns()
    for _ in range(count - 1):
        receive()
    elapsed = time.perf_counter_ns() - started
    return finish(workers, (count - 1) / elapsed * 1e9)


def receive_batches(both: RingBuffer | Queue, workers: Sequence[Worker], count: int) -> Figures:
    start(workers, count)
    first = received = len(both.get_many())
    started = time.perf_counter_ns()
    while received < count:
        received += len(both.get_many())
    elapsed = time.perf_counter_ns() - started
    return finish(workers, (count - first) / elapsed * 1e9)


def start(workers: Sequence[Worker], count: int) -> None:
    for worker in workers:
        worker.start(count // len(workers))


def finish(workers: Sequence[Worker], rate: float) -> Figures:
    for worker in workers:
        worker.result()
    return {"": rate}


def by_call(
    name: str, channel: Channel, producers: int, setting: Setting, stack: contextlib.ExitStack
) -> Contender:
    receive = channel.receiver()
    workers = [
        stack.enter_context(Worker(setting.placement.cpu_of(i), produce, channel, bytes(PAYLOAD)))
        for i in range(producers)
    ]
    return paced(name, lambda count: receive_one_by_one(receive, workers, count), setting)


def by_batch(
    name: str, both: RingBuffer | Queue, producers: int, setting: Setting, stack: contextlib.ExitStack
) -> Contender:
    workers = [
        stack.enter_context(Worker(setting.placement.cpu_of(i), produce_batches, both, bytes(PAYLOAD), BATCH))
        for i in range(producers)
    ]
    return paced(name, lambda count: receive_batches(both, workers, count), setting)


def paced(
    name: str, block: Callable[[int], Figures], setting: Setting, unit: int = BATCH * PRODUCERS
) -> Contender:
    """A contender whose blocks last as long as they should, in whole batches of each producer."""
    count = calibrate(block, unit, setting.block_seconds) // unit * unit
    ours = is_ours(name)
    return Contender(name, "spins" if ours else "sleeps", lambda: block(count), "ours" if ours else "peer")


def ring_limit(setting: Setting, batch: int, producers: int = 1) -> Contender | Skipped:
    count = 100_000 if setting.quick else 1_000_000
    return limits.limit("C twin", "spins", setting.placement, "ring", count, PAYLOAD, batch, producers)


def one_to_one(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        *channels(("fastcomm ring", "mp.Pipe", "mp.Queue"), 1, setting, stack),
        ring_limit(setting, 1),
    ]


def one_to_one_batches(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        by_batch("fastcomm ring", RingChannel(stack).ring, 1, setting, stack),
        ring_limit(setting, BATCH),
    ]


def four_to_one(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        *channels(("fastcomm ring", "mp.Queue"), PRODUCERS, setting, stack),
        ring_limit(setting, 1, PRODUCERS),
    ]


def four_to_one_batches(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        by_batch("fastcomm ring", RingChannel(stack).ring, PRODUCERS, setting, stack),
        ring_limit(setting, BATCH, PRODUCERS),
    ]


def queue_one_to_one(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [*channels(("fastcomm Queue", "mp.Queue"), 1, setting, stack), ring_limit(setting, 1)]


def queue_four_to_one(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        *channels(("fastcomm Queue", "mp.Queue"), PRODUCERS, setting, stack),
        ring_limit(setting, 1, PRODUCERS),
    ]


def queue_one_to_one_batches(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        by_batch("fastcomm Queue", OurQueueChannel(stack).queue, 1, setting, stack),
        ring_limit(setting, BATCH),
    ]


def bus_one_to_one(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        *channels(("fastcomm bus", "fastcomm ring", "mp.Pipe", "mp.Queue"), 1, setting, stack),
        ring_limit(setting, 1),
    ]


def channels(
    names: Sequence[str], producers: int, setting: Setting, stack: contextlib.ExitStack
) -> Contenders:
    return [by_call(name, CHANNELS[name](stack), producers, setting, stack) for name in names]


# ---- the measuring process publishes to many: deliveries a second until the last has its last


def fan_out(subscribers: int) -> Contest:
    return Contest(
        f"bus 1:{subscribers}",
        "deliveries, one call a message",
        "msg/s",
        PAYLOAD,
        partial(fan_out_contenders, subscribers),
        rounds=(1, 4) if subscribers > FAN_OUT else None,  # a hundred processes take a while to be told
    )


def fan_out_contenders(subscribers: int, setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        bus_fan_out("fastcomm bus", consume, subscribers, setting, stack),
        bus_fan_out("fastcomm bus, receive_many", consume_many, subscribers, setting, stack),
        channels_fan_out("mp.Pipe", PipeChannel, subscribers, setting, stack),
        fan_out_limit(subscribers, setting),
    ]


def bus_fan_out(
    name: str,
    consumer: Callable[..., Any],
    subscribers: int,
    setting: Setting,
    stack: contextlib.ExitStack,
) -> Contender:
    channel = BusChannel(stack)
    workers = consumers(consumer, [channel] * subscribers, setting, stack)
    agent = channel.bus.join()
    agent.wait_for_subscribers("bench.data", subscribers, timeout=JOIN_SECONDS)
    return sent_to_all(name, partial(agent.publish, "bench.data"), workers, setting)


def channels_fan_out(
    name: str,
    make: Callable[[contextlib.ExitStack], Channel],
    subscribers: int,
    setting: Setting,
    stack: contextlib.ExitStack,
) -> Contender:
    """By a channel to each subscriber."""
    channels = [make(stack) for _ in range(subscribers)]
    workers = consumers(consume, channels, setting, stack)
    sends = [channel.sender() for channel in channels]

    def send_to_each(payload: bytes) -> None:
        for send in sends:
            send(payload)

    return sent_to_all(f"{name} x {subscribers}", send_to_each, workers, setting)


def sent_to_all(name: str, send: Send, workers: Sequence[Worker], setting: Setting) -> Contender:
    payload = bytes(PAYLOAD)

    def send_all(count: int) -> None:
        for _ in range(count):
            send(payload)

    unit = max(1, BATCH * PRODUCERS // len(workers))
    return paced(name, lambda count: deliver(send_all, workers, count), setting, unit)


def fan_out_limit(subscribers: int, setting: Setting) -> Contender | Skipped:
    count = (80_000 if setting.quick else 400_000) // subscribers
    return limits.limit(
        f"C twin x {subscribers}", "spins", setting.placement, "fan", count, PAYLOAD, subscribers
    )


def consumers(
    consumer: Callable[..., Any],
    channels: Sequence[Channel],
    setting: Setting,
    stack: contextlib.ExitStack,
) -> list[Worker]:
    return [
        stack.enter_context(Worker(setting.placement.cpu_of(i), consumer, channel))
        for i, channel in enumerate(channels)
    ]


def deliver(send_all: Callable[[int], None], workers: Sequence[Worker], count: int) -> Figures:
    for worker in workers:
        worker.start(count)
    started = time.monotonic_ns()
    send_all(count)
    ended = max(worker.result() for worker in workers)
    return {"": len(workers) * count / (ended - started) * 1e9}


CONTESTS = [
    Contest("ring put+get", "put and get in one thread", "us", ONE_THREAD_PAYLOAD, put_and_get),
    Contest("queue put+get", "put and get in one thread", "us", ONE_THREAD_PAYLOAD, queue_put_and_get),
    Contest("ring 1:1", "one call a message", "msg/s", PAYLOAD, one_to_one, needs_two_cpus=True),
    Contest(
        "ring 1:1 batches",
        f"put_many of {BATCH}, get_many",
        "msg/s",
        PAYLOAD,
        one_to_one_batches,
        needs_two_cpus=True,
    ),
    Contest("ring 4:1", "one call a message", "msg/s", PAYLOAD, four_to_one),
    Contest(
        "ring 4:1 batches",
        f"put_many of {BATCH}, get_many",
        "msg/s",
        PAYLOAD,
        four_to_one_batches,
        needs_two_cpus=True,
    ),
    Contest(
        "queue 1:1", "put and get, one call an item", "msg/s", PAYLOAD, queue_one_to_one, needs_two_cpus=True
    ),
    Contest(
        "queue 1:1 batches",
        f"put_many of {BATCH}, get_many",
        "msg/s",
        PAYLOAD,
        queue_one_to_one_batches,
        needs_two_cpus=True,
    ),
    Contest("queue 4:1", "put and get, one call an item", "msg/s", PAYLOAD, queue_four_to_one),
    Contest("bus 1:1", "publish to receive, one call a message", "msg/s", PAYLOAD, bus_one_to_one),
    fan_out(FAN_OUT),
]

"""How long 64 bytes take one way: between spinning processes, to a sleeping one, to a coroutine."""

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from benchlib import limits
from benchlib.channels import (
    CHANNELS,
    BusChannel,
    Channel,
    PipeChannel,
    RingChannel,
    Send,
    consume_stamped,
    echo,
    is_ours,
    stamp_of,
    stamped,
)
from benchlib.contest import Contender, Contenders, Contest, Setting
from benchlib.method import Figures, calibrate, percentiles
from benchlib.processes import Worker

PAYLOAD = 64
GAP_SECONDS = 0.001  # twenty times what a receiver spins at most
PERCENTS_SPINNING = (50, 95, 99)
PERCENTS_SLEEPING = (50, 95)  # a block has too few messages for a p99
NS_TO_US = 1e-3


# ---- both sides wait all the time: there and back, halved


def spinning(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    contenders = [ping_pong(name, make, setting, stack) for name, make in CHANNELS.items()]
    return [*contenders, *spinning_limits(setting)]


def ping_pong(
    name: str,
    make: Callable[[contextlib.ExitStack], Channel],
    setting: Setting,
    stack: contextlib.ExitStack,
) -> Contender:
    there, back = make(stack), make(stack)
    receive = back.receiver()
    worker = stack.enter_context(Worker(setting.placement.cpu_of(0), echo, there, back))
    send = there.sender()

    def exchange(count: int) -> Figures:
        worker.start(count)
        figures = time_round_trips(send, receive, count)
        worker.result()
        return figures

    count = calibrate(exchange, 100, setting.block_seconds)
    waiting = "spins" if is_ours(name) else "sleeps"
    return Contender(name, waiting, lambda: exchange(count), "ours" if is_ours(name) else "peer")


def time_round_trips(send: Send, receive: Callable[[], bytes], count: int) -> Figures:
    """One clock read a round trip, which is in the figure."""
    payload, clock = bytes(PAYLOAD), time.perf_counter_ns
    stamps = [clock()]
    for _ in range(count):
        send(payload)
        receive()
        stamps.append(clock())
    trips = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    return percentiles(trips, PERCENTS_SPINNING, NS_TO_US / 2)


def spinning_limits(setting: Setting) -> Contenders:
    rounds = 20_000 if setting.quick else 200_000
    statistics = tuple(f"p{percent}" for percent in PERCENTS_SPINNING)
    commands: dict[str, tuple[object, ...]] = {
        "C cell": ("cell", rounds),
        "C twin": ("ping", rounds, PAYLOAD),
    }
    return [
        limits.limit(name, "spins", setting.placement, *command, statistics=statistics, scale=NS_TO_US)
        for name, command in commands.items()
    ]


# ---- the receiver sleeps: from just before the send to just after the receipt


def sleeping(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    contenders = [
        stamped_sends(name, CHANNELS[name](stack), consume_stamped, setting, stack) for name in CHANNELS
    ]
    return [*contenders, *sleeping_limits(setting)]


def stamped_sends(
    name: str, channel: Channel, consumer: Callable[..., Any], setting: Setting, stack: contextlib.ExitStack
) -> Contender:
    worker = stack.enter_context(Worker(setting.placement.cpu_of(0), consumer, channel))
    send = channel.sender()
    count = setting.messages(GAP_SECONDS)

    def measure() -> Figures:
        worker.start(count)
        for _ in range(count):
            time.sleep(GAP_SECONDS)
            send(stamped(PAYLOAD))
        return percentiles(worker.result(), PERCENTS_SLEEPING, NS_TO_US)

    measure()
    return Contender(name, "sleeps", measure, "ours" if is_ours(name) else "peer")


def sleeping_limits(setting: Setting) -> Contenders:
    messages, gap_us = setting.messages(GAP_SECONDS), round(GAP_SECONDS * 1e6)
    statistics = tuple(f"p{percent}" for percent in PERCENTS_SLEEPING)
    commands: dict[str, tuple[object, ...]] = {
        "C futex": ("futex", messages, gap_us),
        "C twin": ("knock", messages, gap_us, PAYLOAD),
    }
    return [
        limits.limit(name, "sleeps", setting.placement, *command, statistics=statistics, scale=NS_TO_US)
        for name, command in commands.items()
    ]


# ---- the receiver is a coroutine in an idle event loop


def in_asyncio(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        stamped_sends("fastcomm ring", RingChannel(stack), consume_ring_async, setting, stack),
        stamped_sends("fastcomm bus", BusChannel(stack), consume_bus_async, setting, stack),
        replace(
            stamped_sends("asyncio reader", RawPipeChannel(stack), consume_pipe_async, setting, stack),
            role="limit",
        ),
    ]


class RawPipeChannel(PipeChannel):
    """A pipe without framing."""

    def sender(self) -> Send:
        descriptor = self.writer.fileno()
        return lambda data: os.write(descriptor, data)


def in_a_loop(receive: Callable[[], Awaitable[bytes]]) -> Callable[[int], list[int]]:
    """consume_stamped() for a coroutine function, in an event loop that stays."""
    runner, clock = asyncio.Runner(), time.monotonic_ns

    async def take(count: int) -> list[int]:
        ages = []
        for _ in range(count):
            message = await receive()
            ages.append(clock() - stamp_of(message))
        return ages

    return lambda count: runner.run(take(count))


def consume_ring_async(channel: RingChannel) -> Callable[[int], list[int]]:
    return in_a_loop(channel.ring.get_async)


def consume_bus_async(channel: BusChannel) -> Callable[[int], list[int]]:
    agent = channel.bus.join()
    agent.subscribe("bench.data")

    async def receive() -> bytes:
        data: bytes = (await agent.receive_async()).data
        return data

    return in_a_loop(receive)


def consume_pipe_async(channel: PipeChannel) -> Callable[[int], list[int]]:
    """The least that a coroutine can wait for a pipe with: the loop's reader callback completes a future."""
    descriptor = channel.reader.fileno()

    def on_readable(future: asyncio.Future[bytes]) -> None:
        if not future.done():
            future.set_result(os.read(descriptor, PAYLOAD))

    async def receive() -> bytes:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(descriptor, on_readable, future)
        return await future

    return in_a_loop(receive)


CONTESTS = [
    Contest(
        "ring and bus one way, spinning", "half a round trip", "us", PAYLOAD, spinning, needs_two_cpus=True
    ),
    Contest("ring and bus one way, sleeping", "from send to receipt", "us", PAYLOAD, sleeping),
    Contest("ring and bus one way, asyncio", "from send to receipt", "us", PAYLOAD, in_asyncio),
]

"""What passes from one process to another: one way latency and throughput of ring, queue and bus.

The measuring process is on the first CPU it may use, the others on the last. These are short;
scripts/bench.py measures the same beside limits in C in the same run, and is what to quote.

By hand: ``b = OneWay(); b.setup("spinning", "ring")`` in IPython, then ``b.track_p50("spinning", "ring")``.
"""

import asyncio
import contextlib
import multiprocessing
import os
import statistics
import time

from fastcomm import Bus, Queue, RingBuffer
from fastcomm.testing import isolated_name

context = multiprocessing.get_context("fork")  # asv's own main module can't be imported anew
CPUS = sorted(os.sched_getaffinity(0))
SUBJECT = "bench.data"
CAPACITY = 1 << 20

PAYLOAD = 64
ROUNDS = 2000
KNOCKS = 100
GAP_SECONDS = 0.001

RECORD = 256
RECORDS = 20_000
BATCH = 128
CONSUMERS = 8


# ---- ends: each is made where it is used; a bus's receiver before its sender


class RingEnds:
    def __init__(self, stack):
        self.ring = stack.enter_context(RingBuffer.create(isolated_name(), capacity=CAPACITY))

    def sender(self):
        return self.ring.put, self.ring.put_many

    def receiver(self):
        return self.ring.get, self.ring.get_many

    def receiver_async(self):
        return self.ring.get_async


class QueueEnds:
    def __init__(self, stack):
        self.queue = stack.enter_context(Queue(capacity=CAPACITY))

    def sender(self):
        return self.queue.put, self.queue.put_many

    def receiver(self):
        return self.queue.get, self.queue.get_many


class BusEnds:
    def __init__(self, stack):
        self.bus = Bus.open(isolated_name(), inbox_bytes=CAPACITY)
        stack.callback(self.bus.close)

    def sender(self):
        agent = self.bus.join()
        agent.wait_for_subscribers(SUBJECT, 1, timeout=30)
        return lambda data: agent.publish(SUBJECT, data), None

    def receiver(self):
        agent = self.bus.join()
        agent.subscribe(SUBJECT)
        return lambda: agent.receive().data, agent.receive_many

    def receiver_async(self):
        agent = self.bus.join()
        agent.subscribe(SUBJECT)

        async def receive():
            return (await agent.receive_async()).data

        return receive


ENDS = {"ring": RingEnds, "queue": QueueEnds, "bus": BusEnds}


# ---- in the other process


def echo(there, back):
    receive, _ = there.receiver()
    send, _ = back.sender()
    while message := receive():
        send(message)


def note_ages(ends, answers):
    receive, _ = ends.receiver()
    ages = []
    while message := receive():
        ages.append(time.monotonic_ns() - stamp_of(message))
    answers.send(ages)


def note_ages_in_asyncio(ends, answers):
    async def note():
        receive = ends.receiver_async()
        ages = []
        while message := await receive():
            ages.append(time.monotonic_ns() - stamp_of(message))
        return ages

    answers.send(asyncio.run(note()))


def produce(ends, count, start):
    send, _ = ends.sender()
    message = bytes(RECORD)
    start.wait()
    for _ in range(count):
        send(message)


def produce_batches(ends, count, start):
    _, send_many = ends.sender()
    batch = [bytes(RECORD)] * BATCH
    start.wait()
    for _ in range(count // BATCH):
        send_many(batch)


def consume(ends, count, ready):
    receive, _ = ends.receiver()
    ready.release()
    for _ in range(count):
        receive()


def stamped():
    return time.monotonic_ns().to_bytes(8, "little").ljust(PAYLOAD, b"\0")


def stamp_of(message):
    return int.from_bytes(message[:8], "little")


class BetweenProcesses:
    def setup(self, *_):
        self.stack = contextlib.ExitStack()
        os.sched_setaffinity(0, CPUS[:1])
        self.stack.callback(os.sched_setaffinity, 0, CPUS)

    def teardown(self, *_):
        self.stack.close()

    def start(self, function, *arguments):
        process = context.Process(target=run_there, args=(function, *arguments), daemon=True)
        process.start()
        return process


def run_there(function, *arguments):
    os.sched_setaffinity(0, CPUS[-1:])
    function(*arguments)


# ---- what is measured


class OneWay(BetweenProcesses):
    """Median of 64 bytes one way: half a round trip of spinning processes, or from the send to the receipt by
    one that sleeps, or that is an idle event loop.
    """

    params = (("spinning", "sleeping", "asyncio"), tuple(ENDS))
    param_names = ("receiver", "through")

    def setup(self, receiver, through):
        super().setup()
        if receiver == "asyncio" and not hasattr(ENDS[through], "receiver_async"):
            raise NotImplementedError("a queue has no calls for asyncio")
        self.there = ENDS[through](self.stack)
        self.back = ENDS[through](self.stack)

    def track_p50(self, receiver, through):
        return self.spinning() if receiver == "spinning" else self.knocking(receiver == "asyncio")

    track_p50.unit = "us"

    def spinning(self):
        receive, _ = self.back.receiver()
        process = self.start(echo, self.there, self.back)
        send, _ = self.there.sender()
        message, trips = bytes(PAYLOAD), []
        for _ in range(ROUNDS):
            started = time.perf_counter_ns()
            send(message)
            receive()
            trips.append(time.perf_counter_ns() - started)
        send(b"")
        process.join()
        return statistics.median(trips) / 2e3

    def knocking(self, in_asyncio):
        answer, answers = context.Pipe(duplex=False)
        process = self.start(note_ages_in_asyncio if in_asyncio else note_ages, self.there, answers)
        send, _ = self.there.sender()
        for _ in range(KNOCKS):
            time.sleep(GAP_SECONDS)
            send(stamped())
        send(b"")
        ages = answer.recv()
        process.join()
        return statistics.median(ages) / 1e3


class Throughput(BetweenProcesses):
    """Messages of 256 bytes a second, from the first to the last received."""

    params = (tuple(ENDS), (1, 4), ("one call", "batches"))
    param_names = ("through", "producers", "calls")

    def setup(self, through, producers, calls):
        super().setup()
        if through == "bus" and calls == "batches":
            raise NotImplementedError("an agent publishes one message a call")
        self.ends = ENDS[through](self.stack)

    def track_rate(self, through, producers, calls):
        receive, receive_many = self.ends.receiver()
        each = RECORDS // producers // BATCH * BATCH
        start = context.Event()
        function = produce if calls == "one call" else produce_batches
        processes = [self.start(function, self.ends, each, start) for _ in range(producers)]
        take = (lambda: len(receive_many())) if calls == "batches" else (lambda: receive() is not None)
        left = each * producers
        start.set()
        left -= take()
        first, started = left, time.perf_counter()
        while left > 0:
            left -= take()
        rate = first / (time.perf_counter() - started)
        for process in processes:
            process.join()
        return rate

    track_rate.unit = "messages/s"


class FanOut(BetweenProcesses):
    """Messages of 256 bytes a second delivered to CONSUMERS agents, until the last has its last."""

    def track_rate(self):
        ends, ready = BusEnds(self.stack), context.Semaphore(0)
        count = RECORDS // CONSUMERS
        processes = [self.start(consume, ends, count, ready) for _ in range(CONSUMERS)]
        for _ in processes:
            ready.acquire()
        agent = ends.bus.join()
        agent.wait_for_subscribers(SUBJECT, CONSUMERS, timeout=30)
        message = bytes(RECORD)
        started = time.perf_counter()
        for _ in range(count):
            agent.publish(SUBJECT, message)
        for process in processes:
            process.join()
        return CONSUMERS * count / (time.perf_counter() - started)

    track_rate.unit = "messages/s"

"""What waiting costs: CPU time and wake-ups of a receiver that has nothing, or little, to do.

Measured as CPU time (of /proc, in ns), not as duration: a busy machine makes it hardly larger.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from procs import python

from fastcomm.rings import RingBuffer

pytestmark = pytest.mark.no_sanitizer("measures")

BLOCKING = """if True:
    import sys
    from fastcomm.rings import RingBuffer
    ring = RingBuffer.attach(sys.argv[1])
    assert ring.get() == b"start"
    print("ready", flush=True)
    while ring.get() != b"end":
        pass
"""
ASYNCIO = """if True:
    import asyncio, sys
    from fastcomm.rings import RingBuffer
    async def main():
        ring = RingBuffer.attach(sys.argv[1])
        assert await ring.get_async() == b"start"
        print("ready", flush=True)
        while await ring.get_async() != b"end":
            pass
    asyncio.run(main())
"""
FULL = """if True:
    import sys
    from fastcomm.rings import RingBuffer
    ring = RingBuffer.attach(sys.argv[1])
    print("ready", flush=True)
    ring.put(b"waited for room")
"""


class Receiver:
    def __init__(self, pid: int) -> None:
        self.folder = Path(f"/proc/{pid}")

    def cpu_seconds(self) -> float:
        return int((self.folder / "schedstat").read_text().split()[0]) / 1e9

    def voluntary_switches(self) -> int:
        lines = (self.folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.fixture(params=["blocking", "asyncio"])
def receiver(request: pytest.FixtureRequest, name: str) -> Iterator[tuple[RingBuffer, Receiver]]:
    """A process that has received one record and waits for the next, and a handle to send to it."""
    with RingBuffer.create(name) as ring:
        child = python({"blocking": BLOCKING, "asyncio": ASYNCIO}[request.param], name)
        ring.put(b"start")
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.1)
        yield ring, Receiver(child.pid)
        ring.put(b"end")
        assert child.communicate(timeout=60) == ("", "")


def test_an_idle_receiver_uses_less_than_0_2_percent_of_a_core_and_wakes_about_ten_times_a_second(
    receiver: tuple[RingBuffer, Receiver],
) -> None:
    _, process = receiver
    seconds = 3.0
    cpu, switches, begun = process.cpu_seconds(), process.voluntary_switches(), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begun
    assert process.cpu_seconds() - cpu < 0.002 * elapsed
    assert process.voluntary_switches() - switches <= 15 * elapsed


def send_at_1_khz(send: Callable[[], object], count: int) -> None:
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number * 0.001 - time.monotonic()))
        send()


@pytest.mark.parametrize("receiver", ["blocking"], indirect=True)
def test_the_receiver_of_a_stream_of_1_khz_uses_less_than_5_percent_of_a_core(
    receiver: tuple[RingBuffer, Receiver],
) -> None:
    ring, process = receiver
    cpu, begun = process.cpu_seconds(), time.monotonic()
    send_at_1_khz(lambda: ring.put(b"x" * 100), 2000)
    assert process.cpu_seconds() - cpu < 0.05 * (time.monotonic() - begun)


COMPARED = """if True:
    import asyncio, os, sys
    from fastcomm.rings import RingBuffer

    def cpu_seconds():
        with open("/proc/self/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    async def from_pipe(count):
        loop = asyncio.get_running_loop()
        while count:
            future = loop.create_future()
            loop.add_reader(0, lambda: future.done() or future.set_result(os.read(0, 4096)))
            count -= len(await future)

    async def from_ring(ring, count):
        for _ in range(count):
            await ring.get_async()

    async def main():
        ring = RingBuffer.attach(sys.argv[1])
        used = [0.0, 0.0]
        for block in range(int(sys.argv[2])):
            for which, receive in enumerate((from_pipe(100), from_ring(ring, 100))):
                print("next", flush=True)
                begun = cpu_seconds()
                await receive
                used[which] += cpu_seconds() - begun
        print(*used, flush=True)

    asyncio.run(main())
"""


def test_a_coroutine_that_receives_1_khz_costs_at_most_three_times_a_bare_reader_of_a_pipe(name: str) -> None:
    """In one process, by turns, a hundred messages each."""
    with RingBuffer.create(name) as ring:
        blocks = 8
        child = python(COMPARED, name, str(blocks))
        assert child.stdin is not None
        assert child.stdout is not None
        pipe = child.stdin.fileno()
        for _ in range(blocks):
            for send in (lambda: os.write(pipe, b"x"), lambda: ring.put(b"x")):
                assert child.stdout.readline() == "next\n"
                send_at_1_khz(send, 100)
        bare, ours = map(float, child.stdout.readline().split())
        assert child.communicate(timeout=60) == ("", "")
        print(f"bare {bare / blocks * 1e4:.1f} us, ring {ours / blocks * 1e4:.1f} us a message")
        assert ours < 3 * bare


def test_a_producer_that_waits_for_room_sleeps_too(name: str) -> None:
    with RingBuffer.create(name, capacity=1024) as ring:
        while ring.try_put(b"full"):
            pass
        child = python(FULL, name)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process = Receiver(child.pid)
        cpu, switches, begun = process.cpu_seconds(), process.voluntary_switches(), time.monotonic()
        time.sleep(2)
        elapsed = time.monotonic() - begun
        assert process.cpu_seconds() - cpu < 0.002 * elapsed
        assert process.voluntary_switches() - switches <= 15 * elapsed
        assert ring.get_many()[0] == b"full"
        assert child.communicate(timeout=60) == ("", "")
        assert ring.get() == b"waited for room"

"""RingBuffer in event loops: waiting without a thread, cancelling, and the descriptor for other loops."""

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from procs import fork, join, run_python

from fastcomm.errors import ClosedError, Empty, Full, PeerDiedError
from fastcomm.rings import RingBuffer

# The first loop of libuv opens a pipe for signals that stays: not to be counted as a leak of the first test.
uvloop.new_event_loop().close()

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "asyncio debug", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a coroutine in a new event loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory, debug="debug" in request.param) as runner:
            return runner.run(asyncio.wait_for(coroutine, 60))

    return run


@pytest.fixture
def ring(name: str) -> Iterator[RingBuffer]:
    with RingBuffer.create(name, capacity=1024) as ring:
        yield ring
        if not ring.closed:
            ring.unlink()


@pytest.fixture
def other(ring: RingBuffer) -> Iterator[RingBuffer]:
    with RingBuffer.attach(ring.name) as other:
        yield other


async def rested(*tasks: asyncio.Task[Any]) -> None:
    """Let the tasks run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0.002)
    assert not any(task.done() for task in tasks)


def test_get_async_waits_for_a_record_of_another_handle(
    ring: RingBuffer, other: RingBuffer, run: Run
) -> None:
    async def main() -> None:
        task = asyncio.create_task(ring.get_async())
        await rested(task)
        other.put(b"x")
        assert await task == b"x"

    run(main())


def test_a_stream_from_another_process_arrives_in_order_without_a_thread(ring: RingBuffer, run: Run) -> None:
    def produce() -> None:
        for number in range(2000):
            ring.put(b"%d" % number)
        ring.close()

    async def main() -> None:
        for number in range(2000):
            assert await ring.get_async(timeout=60) == b"%d" % number
        assert threading.active_count() == 1

    pid = fork(produce)
    run(main())
    assert join(pid) == 0


def test_a_stream_to_another_process_waits_for_room_without_a_thread(ring: RingBuffer, run: Run) -> None:
    def consume() -> None:
        got = 0
        while got < 2000:
            for record in ring.get_many(limit=3):
                assert record == b"%d" % got
                got += 1
        ring.close()

    async def main() -> None:
        for number in range(1000):
            await ring.put_async(b"%d" % number, timeout=60)
        assert await ring.put_many_async([b"%d" % n for n in range(1000, 2000)], timeout=60) == 1000
        assert threading.active_count() == 1

    pid = fork(consume)
    run(main())
    assert join(pid) == 0


def test_get_many_async_takes_what_is_there(ring: RingBuffer, other: RingBuffer, run: Run) -> None:
    async def main() -> None:
        task = asyncio.create_task(ring.get_many_async(limit=3))
        await rested(task)
        other.put_many([b"1", b"2", b"3", b"4"])
        assert await task == [b"1", b"2", b"3"]
        assert await ring.get_many_async() == [b"4"]

    run(main())


def test_peek_async_waits_for_a_record_and_lends_it(ring: RingBuffer, other: RingBuffer, run: Run) -> None:
    async def main() -> None:
        task = asyncio.create_task(ring.peek_async())
        await rested(task)
        other.put(b"x")
        with await task as view:
            assert bytes(view) == b"x"
        assert ring.try_get() is None
        with pytest.raises(Empty):
            await ring.peek_async(timeout=0.01)

    run(main())


def test_claim_async_waits_for_room_and_sends_what_was_filled_in(
    ring: RingBuffer, other: RingBuffer, run: Run
) -> None:
    async def main() -> None:
        while ring.try_put(b""):
            pass
        with pytest.raises(Full):
            await ring.claim_async(1, timeout=0.01)
        task = asyncio.create_task(ring.claim_async(1))
        await rested(task)
        assert len(other.try_get_many()) == 16
        with await task as view:
            view[:] = b"x"
        assert other.try_get() == b"x"

    run(main())


def test_waits_end_with_a_time_out(ring: RingBuffer, run: Run) -> None:
    async def main() -> None:
        for timeout in (0, 0.05):
            begun = time.monotonic()
            with pytest.raises(Empty, match="nothing arrived in"):
                await ring.get_async(timeout=timeout)
            with pytest.raises(Empty):
                await ring.get_many_async(timeout=timeout)
            assert time.monotonic() - begun >= 2 * timeout * 0.99
        while ring.try_put(b""):
            pass
        begun = time.monotonic()
        for timeout in (0, 0.05):
            with pytest.raises(Full, match="no room for a record of 1 bytes") as full:
                await ring.put_async(b"x", timeout=timeout)
            still = float(str(full.value).split("has taken nothing for ")[1].split(" s")[0])
            assert timeout * 0.9 <= still <= (time.monotonic() - begun) * 1.01  # rounded to three digits
        ring.get_many(limit=2)
        with pytest.raises(Full, match="2 of 5 records were sent") as e:
            await ring.put_many_async([b"x"] * 5, timeout=0.01)
        assert (e.value.delivered, e.value.missing) == (2, 3)
        with pytest.raises(ValueError, match="timeout is -1"):
            await ring.get_async(timeout=-1)

    run(main())


def test_a_cancelled_get_has_taken_nothing(ring: RingBuffer, other: RingBuffer, run: Run) -> None:
    async def main() -> None:
        for number in range(50):
            task = asyncio.create_task(ring.get_async())
            await asyncio.sleep(0)
            if number % 2:
                await asyncio.sleep(0)
            other.put(b"%d" % number)
            if number % 3:
                await asyncio.sleep(0)
            task.cancel()
            try:
                got = await task
            except asyncio.CancelledError:
                got = ring.try_get()
            assert got == b"%d" % number
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ring.get_async(), 0.02)
        other.put(b"after")
        assert await ring.get_async() == b"after"

    run(main())


def test_a_cancelled_put_has_sent_nothing(ring: RingBuffer, other: RingBuffer, run: Run) -> None:
    async def main() -> None:
        while ring.try_put(b"full"):
            pass
        task = asyncio.create_task(ring.put_async(b"cancelled"))
        await rested(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(other.get_many()) == {b"full"}
        assert other.try_get() is None

    run(main())


def test_several_coroutines_wait_in_one_handle_and_each_record_goes_to_one(
    ring: RingBuffer, other: RingBuffer, run: Run
) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(ring.get_async()) for _ in range(5)]
        await rested(*tasks)
        other.put_many([b"%d" % n for n in range(5)])
        assert sorted(await asyncio.gather(*tasks)) == [b"%d" % n for n in range(5)]

    run(main())


def test_the_two_sides_of_one_handle_wait_at_the_same_time(name: str, run: Run) -> None:
    async def main() -> None:
        with (
            RingBuffer.create(capacity=1024) as there,
            RingBuffer.create(capacity=1024) as back,
            RingBuffer.attach(there.name) as there2,
            RingBuffer.attach(back.name) as back2,
        ):

            async def echo() -> None:
                for _ in range(300):
                    await back2.put_async((await there2.get_async())[::-1])

            async def send() -> None:
                for n in range(300):
                    await there.put_async(b"%05d" % n)

            tasks = [asyncio.create_task(echo()), asyncio.create_task(send())]
            for n in range(300):
                assert await back.get_async() == (b"%05d" % n)[::-1]
            await asyncio.gather(*tasks)

    run(main())


def test_the_loop_serves_other_descriptors_and_timers_meanwhile(
    ring: RingBuffer, other: RingBuffer, run: Run
) -> None:
    async def main() -> None:
        task = asyncio.create_task(ring.get_async())
        mine, theirs = socket.socketpair()
        with mine, theirs:
            mine.setblocking(False)
            theirs.setblocking(False)
            loop = asyncio.get_running_loop()
            for n in range(100):
                theirs.send(b"%d" % n)
                assert await loop.sock_recv(mine, 100) == b"%d" % n
                await asyncio.sleep(0.0005)
        assert not task.done()
        other.put(b"x")
        assert await task == b"x"

    run(main())


def test_one_handle_serves_one_loop_after_the_other(ring: RingBuffer, other: RingBuffer, run: Run) -> None:
    async def main(number: int) -> None:
        task = asyncio.create_task(ring.get_async())
        await rested(task)
        other.put(b"%d" % number)
        assert await task == b"%d" % number

    for number in range(3):
        run(main(number))


def test_close_ends_the_waits_of_coroutines(ring: RingBuffer, other: RingBuffer, run: Run) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(ring.get_async()) for _ in range(3)]
        await rested(*tasks)
        ring.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [ClosedError] * 3

    run(main())


def test_close_by_another_thread_ends_the_waits_of_coroutines(
    ring: RingBuffer, other: RingBuffer, run: Run
) -> None:
    async def main() -> None:
        task = asyncio.create_task(ring.get_async())
        await rested(task)
        await asyncio.to_thread(ring.close)
        with pytest.raises(ClosedError):
            await task

    run(main())
    assert not [fd for fd in os.listdir("/proc/self/fd") if is_fifo_of(fd, ring.path)]


def is_fifo_of(fd: str, path: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(f"{path}.")
    except FileNotFoundError:
        return False


def test_a_closed_handle_refuses_the_waiting_calls(ring: RingBuffer, run: Run) -> None:
    ring.close()
    calls: list[Callable[[], Awaitable[object]]] = [
        ring.get_async, ring.get_many_async, lambda: ring.put_async(b""), lambda: ring.put_many_async([b""]),
    ]  # fmt: skip

    async def main() -> None:
        for call in calls:
            with pytest.raises(ClosedError):
                await call()

    run(main())


def test_the_fifo_goes_with_its_handle(ring: RingBuffer, run: Run) -> None:
    async def main() -> None:
        with RingBuffer.attach(ring.name) as mine:
            with pytest.raises(Empty):
                await mine.get_async(timeout=0.01)
            assert len(mine._segment.armed_fifos()) == 1
            assert all(map(os.path.exists, mine._segment.armed_fifos()))
        assert ring._segment.armed_fifos() == []

    run(main())
    assert [f for f in os.listdir("/dev/shm") if f.startswith(os.path.basename(ring.path) + ".")] == []


def test_the_death_of_the_last_other_handle_ends_a_wait(ring: RingBuffer, run: Run) -> None:
    hear, tell = os.pipe()

    def attach() -> None:
        other = RingBuffer.attach(ring.name)
        os.write(tell, b"1")
        os.read(end, 1)
        os._exit(len(other.name) * 0)

    end, die = os.pipe()
    pid = fork(attach)
    os.read(hear, 1)

    async def main() -> None:
        task = asyncio.create_task(ring.get_async())
        await rested(task)
        os.write(die, b"1")
        with pytest.raises(PeerDiedError) as e:
            await task
        assert e.value.pid == pid

    run(main())
    assert join(pid) == 0
    for fd in (hear, tell, end, die):
        os.close(fd)


# ---------------------------------------------------------------------------------------------------- fileno


def readable(fd: int, milliseconds: int = 0) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(milliseconds))


def drain(ring: RingBuffer) -> list[bytes]:
    return list(iter(ring.try_get, None))


def test_the_descriptor_is_readable_until_a_get_has_found_nothing(
    ring: RingBuffer, other: RingBuffer
) -> None:
    fd = ring.fileno()
    assert ring.fileno() == fd
    assert readable(fd)  # there may be records from before
    assert drain(ring) == []
    assert not readable(fd, 20)
    for round_ in range(3):
        other.put_many([b"1", b"2"])
        for _ in range(3):
            assert readable(fd, 60_000)  # level-triggered: it stays so
        assert ring.get() == b"1"
        assert readable(fd)
        assert drain(ring) == [b"2"]
        assert not readable(fd), round_


def test_records_that_were_there_before_make_the_descriptor_readable(
    ring: RingBuffer, other: RingBuffer
) -> None:
    other.put(b"early")
    assert readable(ring.fileno())
    assert drain(ring) == [b"early"]


def test_a_loop_around_poll_misses_no_record_of_another_process(ring: RingBuffer) -> None:
    count = 3000

    def produce() -> None:
        for number in range(count):
            ring.put(b"%d" % number)
        ring.close()

    fd = ring.fileno()
    pid = fork(produce)
    got: list[bytes] = []
    while len(got) < count:
        assert readable(fd, 60_000)
        got += drain(ring)
    assert got == [b"%d" % number for number in range(count)]
    assert join(pid) == 0


def test_importing_rings_does_not_import_asyncio() -> None:
    assert run_python("import sys, fastcomm.rings; print('asyncio' in sys.modules)") == "False\n"

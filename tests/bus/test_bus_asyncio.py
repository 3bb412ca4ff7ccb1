"""Agents in event loops: they wait without threads, freeze no loop, lose nothing when a call is cancelled."""

import asyncio
import contextlib
import select
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from peers import Peer, joined

import fastcomm
from fastcomm import Agent, Bus
from fastcomm.errors import ClosedError, Full, PeerDiedError, RequestTimeoutError

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module", autouse=True)
def first_loop() -> None:
    """uvloop keeps two descriptors that it opens with its first loop."""
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine to its end; with debug mode on, in which asyncio checks what it can."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        yield runner.run


def fill(sender: Agent, subject: str) -> int:
    count = 0
    while True:
        try:
            sender.publish(subject, count, timeout=0)
        except Full:
            return count
        count += 1


async def turns(count: int = 5) -> None:
    """Let other coroutines run until they wait."""
    for _ in range(count):
        await asyncio.sleep(0)


async def ticks_during(awaitable: Awaitable[Any], least: int) -> Any:
    """Its result; it must take at least so many turns of the loop, which must not be frozen meanwhile."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(least):
        await asyncio.sleep(0.001)
        assert not task.done()
    return task


class TestReceiving:
    def test_waits_and_gets_what_is_published_then(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent, bus.join("b") as other:
                agent.subscribe("x")
                task = await ticks_during(agent.receive_async(), 5)
                other.publish("x", b"1")
                assert (await task).data == b"1"

        run(main())

    def test_from_another_process_starts_no_thread(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent:
                agent.subscribe("x")
                for i in range(10):
                    task = asyncio.ensure_future(agent.receive_async(60))
                    await turns()
                    peer.do(f"agent.publish('x', {i})")
                    assert (await task).data == i
                assert threading.active_count() == before

        before = threading.active_count()
        with Peer(joined(bus.name, "b")) as peer:
            run(main())
            peer.end()

    def test_times_out(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent:
                started = time.monotonic()
                with pytest.raises(fastcomm.Empty, match="no message came within"):
                    await agent.receive_async(0.1)
                assert time.monotonic() - started >= 0.1
                with pytest.raises(fastcomm.Empty):
                    await agent.receive_async(0)

        run(main())

    def test_cancelled_loses_nothing(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent, bus.join("b") as other:
                agent.subscribe("x")
                got = []
                for i in range(50):
                    task = asyncio.ensure_future(agent.receive_async())
                    await turns(i % 4)
                    other.publish("x", i)
                    await turns(i % 3)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        got.append((await task).data)
                while (message := agent.try_receive()) is not None:
                    got.append(message.data)
                assert got == list(range(50))

        run(main())

    def test_by_several_coroutines_gives_each_message_to_one(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent, bus.join("b") as other:
                agent.subscribe("x")
                tasks = [asyncio.ensure_future(agent.receive_async(60)) for _ in range(5)]
                await turns()
                for i in range(5):
                    other.publish("x", i)
                assert sorted([(await task).data for task in tasks]) == list(range(5))

        run(main())

    def test_many_takes_what_is_there(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent:
                agent.subscribe("x")
                for i in range(5):
                    agent.publish("x", i)
                assert [m.data for m in await agent.receive_many_async(3)] == [0, 1, 2]
                assert [m.data for m in await agent.receive_many_async()] == [3, 4]
                with pytest.raises(ValueError, match="limit is 0"):
                    await agent.receive_many_async(0)

        run(main())

    def test_by_iteration_ends_when_the_agent_closes(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            agent = bus.join("a")
            agent.subscribe("x")

            async def iterate() -> list[Any]:
                return [message.data async for message in agent]

            task = asyncio.ensure_future(iterate())
            await turns()
            for i in range(3):
                agent.publish("x", i)
                await asyncio.sleep(0.001)
            agent.close()
            assert await task == [0, 1, 2]

        run(main())

    def test_is_ended_by_close(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            agent = bus.join("a")
            task = await ticks_during(agent.receive_async(), 3)
            agent.close()
            with pytest.raises(ClosedError):
                await task

        run(main())

    def test_tells_of_the_death_of_the_last_peer(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent:
                with Peer(joined(bus.name, "b")) as peer:
                    peer.kill()
                with pytest.raises(PeerDiedError, match=str(peer.pid)):
                    await agent.receive_async(60)

        run(main())

    def test_in_one_loop_after_another(self, bus: Bus) -> None:
        async def main(i: int) -> None:
            task = asyncio.ensure_future(agent.receive_async(60))
            await turns()
            agent.publish("x", i)
            assert (await task).data == i

        with bus.join("a") as agent:
            agent.subscribe("x")
            for i in range(3):
                asyncio.run(main(i))


class TestPublishing:
    def test_into_a_full_inbox_waits_without_freezing_the_loop(self, run: Run, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as agent, small_bus.join("slow") as slow:
                slow.subscribe("x")
                count = fill(agent, "x")
                task = await ticks_during(agent.publish_async("x", b"waited"), 5)
                got = [slow.receive(0).data for _ in range(count)]
                assert await task == 1
                assert [*got, slow.receive(0).data] == [*range(count), b"waited"]

        run(main())

    def test_with_room_does_not_wait(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent, bus.join("b") as other:
                assert await agent.publish_async("x", b"") == 0
                other.subscribe("x")
                assert await agent.publish_async("x", b"1") == 1
                assert other.receive(0).data == b"1"

        run(main())

    def test_times_out_and_says_for_whom(self, run: Run, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as agent, small_bus.join("slow") as slow, small_bus.join("free") as free:
                slow.subscribe("x")
                fill(agent, "x")
                free.subscribe("x")
                started = time.monotonic()
                with pytest.raises(Full, match=r"within 0.1 s in the inbox of agent 'slow'") as caught:
                    await agent.publish_async("x", b"", timeout=0.1)
                assert time.monotonic() - started >= 0.1
                assert (caught.value.delivered, caught.value.missing) == (1, 1)

        run(main())

    def test_to_several_full_inboxes_goes_on_as_each_has_room(self, run: Run, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as agent:
                slow = [small_bus.join(str(i)) for i in range(3)]
                for other in slow:
                    other.subscribe("x")
                count = fill(agent, "x")
                task = await ticks_during(agent.publish_async("x", b"all"), 3)
                for other in reversed(slow):
                    other.receive_many()
                    while not other.depth:  # it comes though the others are still full
                        await asyncio.sleep(0.001)
                    assert other.receive(0).data == b"all"
                assert await task == 3
                assert count == 28

        run(main())

    def test_cancelled_sends_nothing_more(self, run: Run, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as agent, small_bus.join("slow") as slow:
                slow.subscribe("x")
                count = fill(agent, "x")
                task = await ticks_during(agent.publish_async("x", b"never"), 3)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert [message.data for message in slow.receive_many()] == list(range(count))
                assert agent.publish("x", b"next") == 1
                assert slow.receive(0).data == b"next"

        run(main())

    def test_is_ended_by_close_and_sends_nothing_more(self, run: Run, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("slow") as slow:
                agent = small_bus.join("a")
                slow.subscribe("x")
                count = fill(agent, "x")
                task = await ticks_during(agent.publish_async("x", b"never"), 3)
                agent.close()
                slow.receive_many(1)
                with pytest.raises(ClosedError):
                    await task
                assert [message.data for message in slow.receive_many()] == list(range(1, count))

        run(main())

    def test_of_two_agents_into_each_others_full_inboxes_does_not_deadlock(
        self, run: Run, small_bus: Bus
    ) -> None:
        async def flood(agent: Agent, to: str) -> list[Any]:
            for i in range(300):
                await agent.publish_async(to, i, timeout=60)
            return [(await agent.receive_async(60)).data for _ in range(300)]

        async def main() -> None:
            with small_bus.join("a") as first, small_bus.join("b") as second:
                first.subscribe("to.a")
                second.subscribe("to.b")
                got = await asyncio.gather(flood(first, "to.b"), flood(second, "to.a"))
                assert got == [list(range(300))] * 2

        run(main())

    def test_waiting_for_one_who_is_killed_goes_on(self, run: Run, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as agent, Peer(joined(small_bus.name, "b", "x")) as peer:
                fill(agent, "x")
                task = await ticks_during(agent.publish_async("x", b""), 3)
                peer.kill()
                assert await task == 0

        run(main())


class TestWaitingForSubscribers:
    def test_returns_how_many_there_are(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            with bus.join("a") as agent, bus.join("b") as other:
                task = await ticks_during(agent.wait_for_subscribers_async("x.y", 2), 3)
                other.subscribe("x.*")
                await turns()
                assert not task.done()
                agent.subscribe("x.y")
                assert await task == 2

        run(main())

    def test_times_out(self, run: Run, bus: Bus) -> None:
        async def main() -> None:
            said = "0 of 1 agents subscribed to 'x' on"
            with bus.join("a") as agent, pytest.raises(RequestTimeoutError, match=said):
                await agent.wait_for_subscribers_async("x", timeout=0.05)

        run(main())

    def test_in_a_thread_returns_how_many_there_are(self, bus: Bus) -> None:
        with bus.join("a") as agent, Peer(joined(bus.name, "b")) as peer:
            peer.send("time.sleep(0.1), agent.subscribe('x') and None")
            assert agent.wait_for_subscribers("x", timeout=60) == 1
            peer.result()
            with pytest.raises(TimeoutError, match="1 of 2 agents subscribed to 'x' on"):
                agent.wait_for_subscribers("x", 2, timeout=0.05)
            assert agent.wait_for_subscribers("x", 0) == 1
            peer.end()

    def test_waits_for_ever_with_an_infinite_timeout(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            timer = threading.Timer(0.1, agent.subscribe, ["x"])
            timer.start()
            assert agent.wait_for_subscribers("x", timeout=float("inf")) == 1
            timer.join()


class TestFileno:
    def test_is_readable_while_there_may_be_messages(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("b") as other:
            agent.subscribe("x")
            poll = select.poll()
            poll.register(agent.fileno(), select.POLLIN)
            assert agent.try_receive() is None
            assert poll.poll(0) == []
            for i in range(3):
                other.publish("x", i)
                other.publish("x", -i)
                assert poll.poll(60_000)
                assert [agent.receive(0).data, agent.receive(0).data] == [i, -i]
                assert agent.try_receive() is None
                assert poll.poll(0) == []

    def test_is_readable_at_once_for_what_came_before(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", b"")
            assert select.select([agent], [], [], 60)[0] == [agent]
            assert agent.try_receive() is not None

    def test_wakes_for_messages_of_other_processes(self, bus: Bus) -> None:
        with bus.join("a") as agent, Peer(joined(bus.name, "b")) as peer:
            agent.subscribe("x")
            poll = select.poll()
            poll.register(agent.fileno(), select.POLLIN)
            while agent.try_receive() is not None:
                pass
            peer.send("time.sleep(0.1), agent.publish('x', b'1')")
            assert poll.poll(60_000)
            assert agent.try_receive() is not None
            peer.result()
            peer.end()

"""Requests in event loops: many at a time, no threads; a cancelled one costs the others nothing."""

import asyncio
import gc
import random
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import Peer, joined
from procs import wait_until

from fastcomm import Agent, Bus, Message
from fastcomm.errors import ClosedError, NoRespondersError, PeerDiedError, RequestTimeoutError, ResponderError
from fastcomm.testing import isolated_name

LONG = 60.0
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module", autouse=True)
def first_loop() -> None:
    """uvloop keeps two descriptors that it opens with its first loop."""
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.sleep(0))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        yield runner.run


async def answer(message: Message) -> None:
    await message.respond_async(message.data)


async def end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_many_at_a_time_each_get_their_answer(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            answerer.subscribe("x", answer)
            serving = asyncio.ensure_future(answerer.run_async())
            replies = await asyncio.gather(*(asker.request_async("x", i, LONG) for i in range(300)))
            assert [reply.data for reply in replies] == list(range(300))
            assert asker.stats().late_responses == 0
            await end(serving)

    run(main())


def test_of_another_process_start_no_thread(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as agent:
            for i in range(20):
                assert (await agent.request_async("x", i, LONG)).data == i
            assert threading.active_count() == before

    before = threading.active_count()
    with Peer(joined(bus.name, "b")) as peer:
        peer.do("agent.subscribe('x', lambda m: m.respond(m.data)) and None")
        peer.send("agent.run()")
        run(main())


def test_loop_runs_on_while_one_waits_and_its_errors_are_those_of_request(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            with pytest.raises(NoRespondersError):
                await asker.request_async("x", 1, None)
            answerer.subscribe("x")
            with pytest.raises(RequestTimeoutError, match="1 of them are alive: agent 'b'"):
                await asker.request_async("x", 1, 0.05)
            task = asyncio.ensure_future(asker.request_async("x", 1, LONG))
            for _ in range(10):
                await asyncio.sleep(0.001)
                assert not task.done()
            assert await (await answerer.receive_async(LONG)).respond_error_async("no") is True
            with pytest.raises(ResponderError, match="no"):
                await task

    run(main())


def test_failing_coroutine_handlers_are_answers(run: Run, bus: Bus) -> None:
    async def fail(message: Message) -> None:
        await asyncio.sleep(0)
        raise KeyError(message.data)

    async def main() -> None:
        with bus.join("a") as asker, bus.join("b", on_error=lambda *args: None) as answerer:
            answerer.subscribe("x", fail)
            serving = asyncio.ensure_future(answerer.run_async())
            with pytest.raises(ResponderError) as raised:
                await asker.request_async("x", "k", LONG)
            assert (raised.value.kind, raised.value.text) == ("KeyError", "'k'")
            await end(serving)

    run(main())


def test_coroutine_handlers_may_ask(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("m") as middle, bus.join("l") as last:

            async def double(message: Message) -> None:
                await message.respond_async(
                    (await middle.request_async("add", [message.data] * 2, LONG)).data
                )

            middle.subscribe("double", double)
            last.subscribe("add", lambda message: message.respond(sum(message.data)))
            serving = [asyncio.ensure_future(one.run_async()) for one in (middle, last)]
            replies = await asyncio.gather(*(asker.request_async("double", i, LONG) for i in range(30)))
            assert [reply.data for reply in replies] == [2 * i for i in range(30)]
            await end(*serving)

    run(main())


def test_agent_may_ask_itself(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as agent:
            agent.subscribe("x", answer)
            serving = asyncio.ensure_future(agent.run_async())
            assert [(await agent.request_async("x", i, LONG)).data for i in range(20)] == list(range(20))
            await end(serving)

    run(main())


def test_answers_that_a_thread_takes_out_reach_their_coroutines(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            asker.subscribe("news")
            answerer.subscribe("x", answer)
            received: list[Any] = []

            def receive() -> None:
                while len(received) < 100:
                    received.append(asker.receive(LONG).data)

            thread = threading.Thread(target=receive)
            thread.start()
            serving = asyncio.ensure_future(answerer.run_async())
            for i in range(100):
                await answerer.publish_async("news", i)
                assert (await asker.request_async("x", i, LONG)).data == i
            await asyncio.to_thread(thread.join)
            assert received == list(range(100))
            await end(serving)

    run(main())


def test_death_of_the_answerer_ends_it(run: Run, bus: Bus) -> None:
    async def main(peer: Peer) -> None:
        with bus.join("a") as agent:
            tasks = [asyncio.ensure_future(agent.request_async("x", i, None)) for i in range(5)]
            await asyncio.sleep(0)
            await asyncio.to_thread(peer.do, "[agent.receive(60) for _ in range(3)] and None")
            await asyncio.to_thread(peer.kill)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [PeerDiedError] * 5

    with bus.join("other"), Peer(joined(bus.name, "b", "x")) as peer:
        run(main(peer))


@pytest.mark.parametrize("by_thread", [False, True])
def test_ends_with_the_agent(run: Run, bus: Bus, by_thread: bool) -> None:
    async def main() -> None:
        with bus.join("b") as answerer:
            asker = bus.join("a")
            answerer.subscribe("x")
            task = asyncio.ensure_future(asker.request_async("x", 1, None))
            await answerer.receive_async(LONG)
            if by_thread:
                await asyncio.to_thread(asker.close)
            else:
                asker.close()
            with pytest.raises(ClosedError):
                await task

    run(main())


def test_cancelled_one_leaves_nothing_and_its_answer_is_counted(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            asker.subscribe("news")
            answerer.subscribe("x")
            task = asyncio.ensure_future(asker.request_async("x", 1, None))
            request = await answerer.receive_async(LONG)
            answerer.publish("news", "kept")
            await end(task)
            assert task.cancelled()
            assert request.respond(1) is True
            assert (await asker.receive_async(LONG)).data == "kept"
            assert asker.try_receive() is None
            assert asker.stats().late_responses == 1
            assert asker._open_calls() == []

    run(main())


def test_agent_that_is_dropped_after_requests_is_closed(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("b") as answerer:
            answerer.subscribe("x", answer)
            serving = asyncio.ensure_future(answerer.run_async())
            asker = bus.join("a")
            assert (await asker.request_async("x", 1, LONG)).data == 1
            del asker
            gc.collect()
            assert [one.name for one in bus.agents()] == ["b"]
            await end(serving)

    run(main())


class TestRandomCancels:
    """What is not cancelled gets its own answer, and no published message is lost or doubled."""

    @pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
    @settings(max_examples=15)
    @given(seed=st.integers(0, 2**32))
    def test_lose_and_double_nothing(self, loop: str, seed: int) -> None:
        factory = uvloop.new_event_loop if loop == "uvloop" else None
        with (
            Bus.open(isolated_name(), inbox_bytes=4096, max_agents=4) as bus,
            asyncio.Runner(loop_factory=factory) as runner,
        ):
            runner.run(self.play(bus, random.Random(seed)))

    async def play(self, bus: Bus, chance: random.Random) -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            asker.subscribe("news")
            answerer.subscribe("x", answer)
            serving = asyncio.ensure_future(answerer.run_async())
            received: list[int] = []
            asks = [asyncio.ensure_future(self.ask(asker, i, chance.choice([0, 0, 1, 3]))) for i in range(60)]
            receivers = [asyncio.ensure_future(self.receive(asker, received)) for _ in range(3)]
            news = asyncio.ensure_future(self.publish_all(answerer, 60))
            for _ in range(40):
                await asyncio.sleep(0)
                chance.choice(asks).cancel()
                victim = chance.randrange(3)
                receivers[victim].cancel()
                receivers.append(receivers[victim])
                receivers[victim] = asyncio.ensure_future(self.receive(asker, received))
            outcomes = await asyncio.gather(*asks, return_exceptions=True)
            await news
            while len(received) < 60:
                await asyncio.sleep(0.001)
            await end(serving, *receivers)
            assert sorted(received) == list(range(60))
            for number, outcome in enumerate(outcomes):
                assert outcome == number or isinstance(outcome, asyncio.CancelledError)
            assert asker._open_calls() == []
            assert asker.try_receive() is None
            assert asker.stats().lost == answerer.stats().lost == 0

    async def ask(self, asker: Agent, number: int, turns: int) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        return (await asker.request_async("x", number, LONG)).data

    async def receive(self, asker: Agent, received: list[int]) -> None:
        while True:
            received.append((await asker.receive_async()).data)

    async def publish_all(self, publisher: Agent, count: int) -> None:
        for i in range(count):
            await publisher.publish_async("news", i, timeout=LONG)


def test_waits_for_room_without_freezing_the_loop(run: Run, small_bus: Bus) -> None:
    async def main() -> None:
        with small_bus.join("a") as asker, small_bus.join("b") as answerer:
            answerer.subscribe("x")
            filled = 0
            while asker._begin("x", filled, 2, None)[1] is None:
                filled += 1
            task = asyncio.ensure_future(asker.request_async("x", "ask", LONG))
            for _ in range(5):
                await asyncio.sleep(0.001)
                assert not task.done()
            for i in range(filled):
                assert (await answerer.receive_async(LONG)).data == i
            while not (message := await answerer.receive_async(LONG)).is_request:
                pass
            assert await message.respond_async("answer") is True
            assert (await task).data == "answer"

    run(main())


def test_threads_and_coroutines_ask_at_the_same_time(run: Run, bus: Bus) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            answerer.subscribe("x", answer)
            serving = asyncio.ensure_future(answerer.run_async())
            in_thread = asyncio.ensure_future(
                asyncio.to_thread(lambda: [asker.request("x", i, LONG).data for i in range(100)])
            )
            for i in range(100, 200):
                assert (await asker.request_async("x", i, LONG)).data == i
            assert await in_thread == list(range(100))
            await end(serving)

    run(main())


def test_slices_find_an_answer_whose_wake_up_was_lost(
    run: Run, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with bus.join("a") as asker, bus.join("b") as answerer:
            answerer.subscribe("x")
            monkeypatch.setattr(answerer, "_ring_consumers", lambda owners: None)
            task = asyncio.ensure_future(asker.request_async("x", 1, LONG))
            (await answerer.receive_async(LONG)).respond("unheard")
            assert (await task).data == "unheard"

    run(main())
    wait_until(lambda: not bus.agents())

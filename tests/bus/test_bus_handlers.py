"""Handlers, filters, coalescing, queues of subscriptions, run() and drain()."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from peers import Peer, joined

import fastcomm.agent
from fastcomm import Bus, Message, Priority, Subscription
from fastcomm.errors import ClosedError, Empty, Full


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)


def datas(take: Callable[[], Message | None]) -> list[Any]:
    found = []
    while (message := take()) is not None:
        found.append(message.data)
    return found


def note(got: list[Any], mark: str = "") -> Callable[[Message], None]:
    return lambda message: got.append(f"{mark}{message.data}" if mark else message.data)


def fail(message: Message) -> None:
    raise ZeroDivisionError(f"as it was to, {message.data}")


class TestHandlers:
    def test_get_each_message_of_each_pattern_in_their_order(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("x.>", note(got, "all "))
            agent.subscribe("x.1", note(got, "one "))
            agent.publish("x.1", 1)
            agent.publish("x.2", 2)
            agent.publish("y", 3)
            agent.dispatch()
            assert got == ["all 1", "one 1", "all 2"]

    def test_are_called_by_priority(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("x", note(got))
            for i in range(20):
                agent.publish("x", i, priority=i % 4)
            agent.dispatch()
            assert got == sorted(range(20), key=lambda i: i % 4)

    def test_an_urgent_message_comes_before_what_waits_when_a_handler_ends(self, bus: Bus) -> None:
        got: list[Any] = []

        def handler(message: Message) -> None:
            got.append(message.data)
            if message.data == 1:
                agent.publish("x", "urgent", priority=Priority.CRITICAL)

        with bus.join("a") as agent:
            agent.subscribe("x", handler)
            agent.publish_many("x", range(4))
            agent.dispatch()
            assert got == [0, 1, "urgent", 2, 3]

    def test_are_called_by_receive_which_returns_what_has_none(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("handled", note(got))
            agent.subscribe("*")
            agent.publish("handled", 1)
            agent.publish("plain", 2)
            assert [agent.receive(0).data, got] == [1, [1]]  # it matches the one without a handler, too
            assert agent.receive_many(timeout=0)[0].data == 2
            with pytest.raises(Empty):
                agent.receive(0)

    def test_that_came_after_messages_did_get_what_is_in_the_inbox(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish_many("x", range(3))
            agent.subscribe("x", note(got))
            assert datas(agent.try_receive) == got == [0, 1, 2]

    def test_are_functions(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            for option in ("handler", "where", "transform", "coalesce"):
                with pytest.raises(TypeError, match="are functions, not 'no function'"):
                    agent.subscribe("x", **{option: "no function"})  # type: ignore[arg-type]
            assert agent.subscriptions == ()
            assert agent.publish("x", b"") == 0

    def test_may_publish_subscribe_and_unsubscribe(self, bus: Bus) -> None:
        got: list[Any] = []

        def handler(message: Message) -> None:
            subscription.unsubscribe()
            agent.subscribe("y", note(got))
            agent.publish("y", "from the handler")

        with bus.join("a") as agent:
            subscription = agent.subscribe("x", handler)
            agent.publish_many("x", range(3))
            agent.dispatch()
            assert got == ["from the handler"]
            assert agent.stats().unwanted == 2


class TestErrorsOfHandlers:
    def test_are_counted_and_told_and_harm_nobody_else(self, bus: Bus) -> None:
        got: list[Any] = []
        told: list[Any] = []

        def on_error(error: Exception, subscription: Subscription, message: Message) -> None:
            told.append((str(error), subscription.pattern, message.data))

        with bus.join("a", on_error=on_error) as agent:
            failing = agent.subscribe("x", fail)
            agent.subscribe("x", note(got))
            agent.publish_many("x", range(2))
            agent.dispatch()
            assert got == [0, 1]
            assert told == [("as it was to, 0", "x", 0), ("as it was to, 1", "x", 1)]
            assert (failing.errors, failing.received) == (2, 2)

    def test_are_logged_without_on_error(self, bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
        with bus.join("a") as agent, caplog.at_level(logging.ERROR):
            agent.subscribe("x", fail)
            agent.publish("x", 1)
            agent.dispatch()
            messages = caplog.messages  # formatted while the subscription is there
        assert [record.name for record in caplog.records] == ["fastcomm.agent"]
        assert messages == ["<Subscription of 'a' to 'x'> failed for <Message 'x' from 'a' #1: 1>"]
        caplog.clear()  # the traceback keeps the agent

    def test_of_on_error_are_logged(self, bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
        def on_error(*_: object) -> None:
            raise KeyError("worse")

        with bus.join("a", on_error=on_error) as agent:
            agent.subscribe("x", fail)
            agent.publish("x", 1)
            agent.dispatch()
        assert "KeyError: 'worse'" in caplog.text
        caplog.clear()  # the traceback keeps the agent

    def test_that_are_no_exceptions_of_a_program_go_through(self, bus: Bus) -> None:
        def handler(_: Message) -> None:
            raise KeyboardInterrupt

        with bus.join("a") as agent:
            agent.subscribe("x", handler)
            agent.publish("x", 1)
            with pytest.raises(KeyboardInterrupt):
                agent.dispatch()

    @pytest.mark.parametrize("option", ["where", "transform"])
    def test_of_the_other_functions_are_those_of_the_handler(self, bus: Bus, option: str) -> None:
        told: list[str] = []
        with bus.join("a", on_error=lambda error, *_: told.append(str(error))) as agent:
            subscription = agent.subscribe("x", **{option: fail})  # type: ignore[arg-type]
            agent.publish("x", 1)
            assert agent.try_receive() is None
            assert (subscription.errors, subscription.received, told) == (1, 0, ["as it was to, 1"])

    @pytest.mark.parametrize("key", [fail, lambda message: [message]], ids=["raises", "unhashable"])
    def test_of_coalesce_leave_the_message_as_it_is(self, bus: Bus, key: Any) -> None:
        told: list[Exception] = []
        with bus.join("a", on_error=lambda error, *_: told.append(error)) as agent:
            subscription = agent.subscribe("x", coalesce=key)
            agent.publish_many("x", range(3))
            assert datas(agent.try_receive) == [0, 1, 2]
            assert (subscription.errors, subscription.coalesced, len(told)) == (3, 0, 3)

    def test_an_async_handler_outside_of_asyncio_is_one(self, bus: Bus) -> None:
        async def handler(_: Message) -> None:
            raise AssertionError

        told: list[str] = []
        with bus.join("a", on_error=lambda error, *_: told.append(str(error))) as agent:
            agent.subscribe("x", handler)
            agent.publish("x", 1)
            agent.dispatch()
            assert "which only run_async()" in told[0]


class TestOptions:
    def test_where_keeps_out_and_counts(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            subscription = agent.subscribe("x", where=lambda message: message.data % 2)
            agent.publish_many("x", range(6))
            assert datas(agent.try_receive) == [1, 3, 5]
            assert (subscription.received, subscription.filtered) == (3, 3)

    def test_transform_gives_other_data_and_leaves_the_rest(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x", transform=lambda message: message.data * 2)
            agent.publish("x", 21, headers={"a": 1}, priority=Priority.LOW)
            got = agent.receive(0)
            assert (got.data, got.subject, got.sender, got.sequence) == (42, "x", "a", 1)
            assert (got.headers, got.priority, got.sent_ns > 0) == ({"a": 1}, Priority.LOW, True)
            assert fastcomm.Codec(strings=bus.strings).decode(got.payload) == 21  # what travelled

    def test_each_handler_gets_its_own_transformation(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("x", note(got), transform=lambda message: message.data + 1)
            agent.subscribe("x", note(got))
            agent.subscribe("x")
            agent.publish("x", 1)
            assert (agent.receive(0).data, got) == (1, [2, 1])

    def test_of_several_without_a_handler_the_first_that_wants_it_decides(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x", where=lambda message: message.data > 1, transform=lambda message: "large")
            agent.subscribe("*", where=lambda message: message.data > 0, transform=lambda message: "small")
            agent.publish_many("x", range(4))
            assert datas(agent.try_receive) == ["small", "large", "large"]


class TestCoalescing:
    def test_a_newer_message_takes_the_place_of_the_one_with_its_key(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            subscription = agent.subscribe("p.*", note(got), coalesce=lambda message: message.subject)
            for i in range(6):
                agent.publish(f"p.{i % 2}", i)
            agent.publish("p.2", "other")
            agent.dispatch()
            assert got == [4, 5, "other"]
            assert (subscription.coalesced, subscription.received) == (4, 3)

    def test_none_is_no_key(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x", coalesce=lambda message: message.data or None)
            for data in (0, 1, 0, 1):
                agent.publish("x", data)
            assert datas(agent.try_receive) == [0, 1, 0]

    def test_goes_on_while_a_handler_runs(self, bus: Bus) -> None:
        got: list[Any] = []

        def handler(message: Message) -> None:
            got.append(message.data)
            if message.data == 0:
                agent.publish_many("x", [10, 11, 12])

        with bus.join("a") as agent:
            agent.subscribe("x", handler, coalesce=lambda message: message.data > 0 or None)
            agent.publish_many("x", [0, 1, 2])
            agent.dispatch()
            assert got == [0, 12]

    def test_concerns_no_other_subscription(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("x", note(got, "latest "), coalesce=lambda message: 1)
            agent.subscribe("x", note(got))
            agent.publish_many("x", range(3))
            agent.dispatch()
            assert sorted(map(str, got)) == ["0", "1", "2", "latest 2"]


class TestQueues:
    def test_of_subscriptions_get_what_comes_by_them(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            x, y = agent.subscribe("x"), agent.subscribe("*")
            agent.subscribe("z")
            for subject in "xyz":
                agent.publish(subject, subject)
            assert x.receive(0).data == "x"
            assert datas(y.try_receive) == ["x", "y", "z"]
            assert datas(agent.try_receive) == ["z"]

    def test_messages_taken_for_others_wait_for_them(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            x, y = agent.subscribe("x"), agent.subscribe("y")
            assert (x.try_receive(), y.try_receive()) == (None, None)
            for i in range(4):
                agent.publish("x", i)
            agent.publish("y", "y")
            assert y.receive(0).data == "y"
            assert (x.pending, y.pending, agent.stats().pending) == (4, 0, 4)
            agent.publish("x", "urgent", priority=Priority.CRITICAL)
            assert datas(x.try_receive) == ["urgent", 0, 1, 2, 3]

    def test_what_was_sorted_before_moves_to_the_new_queue(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            x, y, z = (agent.subscribe(pattern) for pattern in ("x", "y", "x"))
            for subject in "xyxy":
                agent.publish(subject, subject)
            agent.dispatch()
            assert y.try_receive() is not None
            assert agent.stats().pending == 3
            assert datas(x.try_receive) == ["x", "x"]
            assert datas(z.try_receive) == ["x", "x"]
            assert datas(y.try_receive) == ["y"]

    def test_receive_waits_in_a_thread_for_what_another_takes(
        self, bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        with bus.join("a") as agent, bus.join("b") as sender:
            subscriptions = [agent.subscribe(f"x.{i}") for i in range(3)]

            def receive(subscription: Subscription) -> list[Any]:
                return [subscription.receive(60).data for _ in range(200)]

            running = [thread.submit(receive, one) for one in subscriptions]
            for i in range(600):
                sender.publish(f"x.{i % 3}", i, timeout=60)
            assert [future.result() for future in running] == [list(range(i, 600, 3)) for i in range(3)]

    def test_iteration_ends_with_the_subscription(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        with bus.join("a") as agent:
            subscription = agent.subscribe("x")
            got: list[Any] = []

            def iterate() -> None:
                got.extend(message.data for message in subscription)

            running = thread.submit(iterate)
            agent.publish_many("x", range(3))
            wait_until(lambda: subscription.received == 3)
            subscription.unsubscribe()
            running.result()
            assert got == [0, 1, 2]
            with pytest.raises(ClosedError, match="'a' has unsubscribed from 'x'"):
                subscription.receive(0)

    def test_of_a_cancelled_one_are_dropped_and_counted(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            x, y = agent.subscribe("x"), agent.subscribe("y")
            assert x.try_receive() is None
            agent.publish_many("x", range(3))
            agent.publish("y", "y")
            assert y.receive(0).data == "y"
            x.unsubscribe()
            assert (x.pending, agent.stats().unwanted, agent.stats().pending) == (0, 3, 0)

    def test_one_with_a_handler_has_none(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            subscription = agent.subscribe("x", print)
            with pytest.raises(ValueError, match="has a handler, which gets its messages"):
                subscription.receive(0)

    def test_that_nobody_receives_from_stop_the_others_with_an_error(
        self, bus: Bus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fastcomm.agent, "MAX_PENDING", 5)
        with bus.join("a") as agent:
            x, y = agent.subscribe("x"), agent.subscribe("y")
            assert x.try_receive() is None
            agent.publish_many("x", range(10))
            agent.publish("y", "y")
            for _ in range(2):
                with pytest.raises(
                    Full, match=r"5 messages wait in the agent 'a' for receive\(\) of its subscription to 'x'"
                ):
                    y.receive(0)
            assert datas(x.try_receive) == list(range(10))
            assert y.receive(0).data == "y"

    def test_end_with_the_agent(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        agent = bus.join("a")
        subscription = agent.subscribe("x")
        receiving = thread.submit(subscription.receive, 60)
        wait_until(lambda: receiving.running() and subscription.queue is not None)
        agent.close()
        with pytest.raises(ClosedError):
            receiving.result()


class TestRun:
    def test_calls_handlers_until_one_closes_the_agent(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        got: list[Any] = []

        def handler(message: Message) -> None:
            got.append(message.data)
            if message.data == "end":
                agent.close()

        agent = bus.join("a")
        agent.subscribe("x", handler)
        running = thread.submit(agent.run)
        with bus.join("b") as sender:
            sender.publish_many("x", [*range(100), "end"], timeout=60)
        running.result()
        assert got == [*range(100), "end"]

    def test_ends_when_another_thread_closes_the_agent(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        agent = bus.join("a")
        agent.subscribe("x", print)
        running = thread.submit(agent.run)
        wait_until(running.running)
        time.sleep(0.05)
        agent.close()
        running.result()

    def test_goes_on_when_the_last_peer_was_killed(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        got: list[Any] = []
        with bus.join("a") as agent:
            agent.subscribe("x", note(got))
            running = thread.submit(agent.run)
            with Peer(joined(bus.name, "b")) as peer:
                peer.do("agent.publish('x', 1)")
                peer.kill()
            wait_until(lambda: len(bus.agents()) == 1)
            with Peer(joined(bus.name, "b")) as peer:
                peer.do("agent.publish('x', 2)")
                peer.end()
            wait_until(lambda: got == [1, 2])
            agent.close()
            running.result()

    def test_leaves_other_messages_to_other_threads(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        handled: list[Any] = []
        with bus.join("a") as agent, bus.join("b") as sender:
            agent.subscribe("handled", note(handled))
            agent.subscribe("plain")
            running = thread.submit(agent.run)
            receiving = thread.submit(lambda: [agent.receive(60).data for _ in range(100)])
            for i in range(100):
                sender.publish("handled", i)
                sender.publish("plain", i)
            assert receiving.result() == list(range(100))
            wait_until(lambda: len(handled) == 100)
            agent.close()
            running.result()
            assert sorted(handled) == list(range(100))

    def test_in_asyncio_awaits_handlers_one_after_the_other(self, bus: Bus) -> None:
        got: list[Any] = []

        async def handler(message: Message) -> None:
            got.append(message.data)
            await asyncio.sleep(0)
            got.append(message.data)
            if message.data == 9:
                agent.close()

        agent = bus.join("a")

        async def main() -> None:
            agent.subscribe("x", handler)
            agent.subscribe("x", note(got, "plain "))
            running = asyncio.ensure_future(agent.run_async())
            with bus.join("b") as sender:
                await sender.publish_many_async("x", range(10), timeout=60)
            await running

        asyncio.run(main())
        assert [data for data in got if isinstance(data, int)] == [i // 2 for i in range(20)]

    def test_two_coroutines_receive_from_two_subscriptions(self, bus: Bus) -> None:
        async def take(subscription: Subscription) -> list[Any]:
            got: list[Any] = []
            async for message in subscription:
                got.append(message.data)
                if len(got) == 50:
                    return got
            raise AssertionError

        async def main() -> list[list[Any]]:
            with bus.join("a") as agent, bus.join("b") as sender:
                takers = [asyncio.ensure_future(take(agent.subscribe(f"x.{i}"))) for i in range(2)]
                for i in range(100):
                    await sender.publish_async(f"x.{i % 2}", i)
                    if i % 10 == 0:
                        await asyncio.sleep(0)
                return [await taker for taker in takers]

        assert asyncio.run(main()) == [list(range(0, 100, 2)), list(range(1, 100, 2))]

    def test_receive_async_awaits_handlers_on_the_way(self, bus: Bus) -> None:
        got: list[Any] = []

        async def handler(message: Message) -> None:
            await asyncio.sleep(0)
            got.append(message.data)

        async def main() -> None:
            with bus.join("a") as agent:
                agent.subscribe("x", handler)
                agent.subscribe("y")
                agent.publish("x", 1)
                agent.publish("y", 2)
                assert (await agent.receive_async(60)).data == 2
                assert got == [1]
                for subject in "yxyx":
                    agent.publish(subject, subject)
                assert [message.data for message in await agent.receive_many_async()] == ["y", "y"]
                assert got == [1, "x", "x"]
                with pytest.raises(Empty):
                    await agent.receive_async(0)

        asyncio.run(main())


class TestDrain:
    def test_handles_what_is_there_and_leaves(self, bus: Bus) -> None:
        got: list[Any] = []
        agent = bus.join("a")
        agent.subscribe("x", note(got))
        agent.subscribe("y")
        own = agent.subscribe("z")
        assert own.try_receive() is None
        with bus.join("b") as sender:
            for subject in "xyzxyz":
                sender.publish(subject, subject)
            assert [message.data for message in agent.drain()] == ["y", "y", "z", "z"]
            assert got == ["x", "x"]
            assert agent.closed
            assert sender.publish("x", b"") == 0

    def test_takes_nothing_that_its_own_handlers_publish_to_it(self, bus: Bus) -> None:
        got: list[Any] = []

        def handler(message: Message) -> None:
            got.append((message.data, agent.publish("x", "again")))

        agent = bus.join("a")
        agent.subscribe("x", handler)
        agent.publish("x", 1)
        assert agent.drain() == []
        assert got == [(1, 0)]

    def test_of_a_plain_agent_returns_its_messages(self, bus: Bus) -> None:
        agent = bus.join("a")
        agent.subscribe("x")
        agent.publish_many("x", range(3))
        assert [message.data for message in agent.drain()] == [0, 1, 2]

    def test_in_asyncio_awaits_the_handlers(self, bus: Bus) -> None:
        got: list[Any] = []

        async def handler(message: Message) -> None:
            await asyncio.sleep(0)
            got.append(message.data)

        async def main() -> list[Message]:
            agent = bus.join("a")
            agent.subscribe("x", handler)
            agent.subscribe("y")
            agent.publish_many("x", range(3))
            agent.publish("y", "y")
            return await agent.drain_async()

        assert [message.data for message in asyncio.run(main())] == ["y"]
        assert got == [0, 1, 2]


def test_a_forked_child_has_no_handlers_of_its_parents(bus: Bus) -> None:
    got: list[Any] = []
    with bus.join("a") as agent:
        agent.subscribe("x", note(got))
        agent.publish("x", "the parent's")
        if (child := os.fork()) == 0:
            try:
                assert agent.try_receive() is None
                agent.subscribe("y", note(got))
                agent.publish("y", "the child's")
                agent.dispatch()
                os._exit(got != ["the child's"])
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        agent.dispatch()
        assert got == ["the parent's"]


def test_a_waiting_publish_calls_no_handler(small_bus: Bus, thread: ThreadPoolExecutor) -> None:
    """It takes messages out of its own inbox, and leaves it to receivers to sort them."""
    handlers: list[int] = []
    with small_bus.join("a") as agent, small_bus.join("slow") as slow:
        agent.subscribe("own", lambda message: handlers.append(threading.get_ident()))
        slow.subscribe("x")
        agent.publish_many("x", range(28))
        agent.publish_many("own", range(10))
        with pytest.raises(Full):
            agent.publish("x", b"", timeout=0.05)
        assert (handlers, agent.stats().pending) == ([], 10)
        agent.dispatch()
        assert handlers == [threading.get_ident()] * 10


def test_agents_without_handlers_load_no_sorter(bus: Bus) -> None:
    with Peer(joined(bus.name, "b", "x")) as peer:
        peer.do("agent.publish('x', 1)")
        peer.do("agent.receive(0).data")
        assert peer.do("'fastcomm._sorter' in __import__('sys').modules") is False

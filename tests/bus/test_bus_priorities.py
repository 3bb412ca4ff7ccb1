"""Priorities, headers, many messages at once."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from peers import Peer, joined

import fastcomm.agent
from fastcomm import Agent, Bus, Priority
from fastcomm._core.ring import Ring
from fastcomm.errors import (
    ClosedError,
    DecodeError,
    EncodeError,
    Full,
    InvalidSubjectError,
    MessageTooLargeError,
)

CRITICAL, HIGH, NORMAL, LOW = Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW
PLAIN = 28  # small messages that an inbox of 32 cells takes before its last eighth


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def datas(agent: Agent) -> list[Any]:
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


def full(agent: Agent, priority: int) -> None:
    with pytest.raises(Full):
        agent.publish("x", b"", priority=priority, timeout=0)


class TestPriority:
    def test_lower_number_comes_first_and_equal_ones_in_their_order(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for i in range(100):
                agent.publish("x", i, priority=i * 7 % 4)
            assert datas(agent) == sorted(range(100), key=lambda i: i * 7 % 4)

    def test_critical_one_behind_a_thousand_comes_first(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=1 << 18) as bus, bus.join("a") as agent, bus.join("b") as sender:
            agent.subscribe("x")
            sender.publish_many("x", range(1000))
            sender.publish("x", "now", priority=CRITICAL)
            got = agent.receive(0)
            assert (got.data, got.priority) == ("now", CRITICAL)
            assert agent.stats().pending == 1000
            sender.publish("x", 1000)
            assert datas(agent) == list(range(1001))

    def test_urgent_one_overtakes_what_was_taken_before(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for priority in (LOW, LOW, NORMAL, HIGH):
                agent.publish("x", priority, priority=priority)
            assert agent.receive(0).data == HIGH
            agent.publish("x", "late", priority=HIGH)
            agent.publish("x", "later", priority=CRITICAL)
            assert datas(agent) == ["later", "late", NORMAL, LOW, LOW]

    def test_low_ones_wait_for_what_came_after_them(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", "low", priority=LOW)
            agent.publish("x", "normal")
            assert agent.receive(0).data == "normal"
            agent.publish("x", "normal again")
            assert [message.data for message in agent.receive_many(timeout=0)] == ["normal again", "low"]

    def test_normal_ones_alone_stay_in_the_inbox_until_they_are_received(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", "urgent", priority=HIGH)
            agent.publish_many("x", range(10))
            assert agent.receive(0).data == "urgent"
            assert [agent.receive(0).data for _ in range(10)] == list(range(10))
            agent.publish_many("x", range(10))
            assert agent.receive(0).data == 0
            assert (agent.stats().pending, agent.depth) == (0, 9 * 64)

    def test_inbox_keeps_what_is_beyond_the_bound(self, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fastcomm.agent, "MAX_PENDING", 5)
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish_many("x", range(10))
            agent.publish("x", "urgent", priority=CRITICAL)
            assert agent.receive(0).data == 0
            assert (agent.stats().pending, agent.depth) == (4, 6 * 64)
            # It is seen as soon as it is among the five that are taken at most.
            assert datas(agent) == [*range(1, 6), "urgent", *range(6, 10)]

    def test_messages_are_received_once_whoever_waits_for_them(
        self, bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        def receive() -> list[Any]:
            got = []
            while (message := agent.receive(60)).data is not None:
                got.append(message.data)
            return got

        with bus.join("a") as agent, bus.join("b") as sender:
            agent.subscribe("x")
            waiting = [thread.submit(receive) for _ in range(3)]
            for i in range(600):
                sender.publish("x", i, priority=i % 4, timeout=60)
            for _ in waiting:
                sender.publish("x", None, priority=LOW, timeout=60)
            got = [data for future in waiting for data in future.result()]
            assert sorted(got) == list(range(600))

    @pytest.mark.parametrize("priority", [-1, 4, 1 << 20])
    def test_that_is_none_is_an_error_and_nothing_is_sent(self, bus: Bus, priority: int) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for publish in (agent.publish, agent.publish_many):
                with pytest.raises(ValueError, match=rf"priority is {priority}; it must be one of Priority"):
                    publish("x", [b""], priority=priority)
            assert agent.try_receive() is None

    def test_in_asyncio(self, bus: Bus) -> None:
        async def main() -> list[Any]:
            with bus.join("a") as agent:
                agent.subscribe("x")
                await agent.publish_async("x", "second")
                await agent.publish_async("x", "first", priority=CRITICAL, headers={"n": 1})
                message = await agent.receive_async()
                return [message.headers, message.data, (await agent.receive_async()).data]

        assert asyncio.run(main()) == [{"n": 1}, "first", "second"]


class TestLastEighth:
    def test_of_an_inbox_takes_critical_messages_only(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            for i in range(PLAIN):
                assert sender.publish("x", i, priority=i % 3 + 1, timeout=0) == 1
            for priority in (HIGH, NORMAL, LOW):
                full(sender, priority)
            for i in range(4):
                assert sender.publish("x", f"critical {i}", priority=CRITICAL, timeout=0) == 1
            full(sender, CRITICAL)
            assert agent.depth == 32 * 64
            assert datas(agent) == [f"critical {i}" for i in range(4)] + sorted(
                range(PLAIN), key=lambda i: i % 3
            )

    def test_keeps_out_no_message_that_needs_more_than_the_rest(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent:
            agent.subscribe("x")
            for size in (13, 14, 15, 16):  # cells, of 32
                data = bytes(size * 64 - 8 - 34)
                for _ in range(32):  # with any padding before it
                    agent.publish("x", b"")
                    agent.receive(0)
                    assert agent.publish("x", data, timeout=0) == 1
                    assert agent.receive(0).data == data

    def test_holds_for_many_at_once(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            with pytest.raises(Full) as caught:
                sender.publish_many("x", range(40), timeout=0)
            assert (caught.value.delivered, caught.value.missing) == (PLAIN, 40 - PLAIN)
            assert sender.publish_many("x", "abcd", priority=CRITICAL, timeout=0) == 4
            assert datas(agent) == [*"abcd", *range(PLAIN)]


FLOOD = """
def flood(count):
    got = []
    for i in range(count):
        agent.publish("to.%s", i, priority=i %% 4, timeout=60)
    while len(got) < count:
        got += [message.data for message in agent.receive_many(timeout=60)]
    return got
"""


def test_two_agents_that_fill_each_other_with_all_priorities_do_not_deadlock(small_bus: Bus) -> None:
    with (
        Peer(joined(small_bus.name, "a", "to.a")) as first,
        Peer(joined(small_bus.name, "b", "to.b")) as second,
    ):
        for peer, to in ((first, "b"), (second, "a")):
            peer.do(FLOOD % to)
            peer.send("flood(3000)")
        for got in (first.result(), second.result()):
            for priority in range(4):
                assert [i for i in got if i % 4 == priority] == list(range(priority, 3000, 4))


class TestHeaders:
    def test_arrive_equal(self, bus: Bus) -> None:
        headers = {"trace": "4bf92f", "raw": b"\0\xff", "attempt": 3, "tags": ["a", "b"], "": None}
        with bus.join("a") as agent, bus.join("b") as sender:
            agent.subscribe("x")
            sender.publish("x", b"data", headers=headers)
            message = agent.receive(0)
            assert (message.headers, message.data) == (headers, b"data")
            assert message.headers is message.headers

    def test_are_an_empty_dict_when_there_are_none_and_cost_nothing_then(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for headers in (None, {}):
                agent.publish("x", b"", headers=headers)
            assert agent.stats().bytes_out == 2 * (32 + 2)
            assert [agent.receive(0).headers for _ in range(2)] == [{}, {}]

    @pytest.mark.parametrize("headers", [[("a", 1)], "a", {1: 2}, {b"a": 1}], ids=repr)
    def test_that_are_none_are_an_error(self, bus: Bus, headers: Any) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            with pytest.raises(TypeError, match="headers are a dict with keys of type str, not"):
                agent.publish("x", b"", headers=headers)
            assert agent.try_receive() is None

    def test_with_a_value_that_can_not_be_encoded_are_an_error(self, bus: Bus) -> None:
        with bus.join("a") as agent, pytest.raises(EncodeError):
            agent.publish("x", b"", headers={"a": object()})

    def test_are_bounded(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=1 << 20) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            assert agent.publish("x", b"end", headers={"a": bytes(65_500)}) == 1
            message = agent.receive(0)
            assert (len(message.headers["a"]), message.data) == (65_500, b"end")
            with pytest.raises(MessageTooLargeError, match="their limit is 65535") as caught:
                agent.publish("x", b"", headers={"a": bytes(65_536)})
            assert caught.value.limit == 65_535

    def test_count_as_part_of_the_message(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent, pytest.raises(MessageTooLargeError):
            agent.publish("x", b"", headers={"a": bytes(1000)})

    @pytest.mark.parametrize("encoded", [fastcomm.encode([1]), b"junk"])
    def test_of_a_peer_that_are_none_are_an_error_of_who_asks_for_them(
        self, bus: Bus, encoded: bytes
    ) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            with Ring(bus._inbox_memory(0), owner=1) as raw:
                raw.put(
                    bytes(22) + bytes([1, 1, len(encoded), 0, 0, 2, 0, 0, 0, 0]) + b"ax" + encoded + b"data"
                )
            message = agent.receive(0)
            assert message.data == b"data"
            with pytest.raises(DecodeError):
                _ = message.headers


class TestMany:
    def test_arrive_in_their_order_and_are_counted_for_each_subscriber(self, bus: Bus) -> None:
        items = [b"bytes", "text", {"a": 1}, None, bytes(500)] * 10
        with bus.join("a") as sender, bus.join("b") as first, bus.join("c") as second:
            assert sender.publish_many("x", items) == 0
            first.subscribe("x")
            second.subscribe("*")
            assert sender.publish_many("x", iter(items), headers={"a": 1}, priority=LOW) == 100
            for agent in (first, second):
                got = agent.receive_many(timeout=0)
                assert [message.data for message in got] == items
                assert [message.sequence for message in got] == list(range(51, 101))
                assert {message.priority for message in got} == {LOW}
                assert all(message.headers == {"a": 1} for message in got)
            assert (sender.stats().published, sender.stats().delivered) == (100, 100)

    def test_more_than_an_inbox_holds_wait_for_room(self, small_bus: Bus, thread: ThreadPoolExecutor) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            sending = thread.submit(sender.publish_many, "x", range(2000), timeout=60)
            assert [agent.receive(60).data for _ in range(2000)] == list(range(2000))
            assert sending.result() == 2000

    def test_none_are_sent_if_one_can_not_be(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for items, error in (
                ([b"", bytes(1 << 20)], MessageTooLargeError),
                ([b"", object()], EncodeError),
            ):
                with pytest.raises(error):
                    agent.publish_many("x", items)
            with pytest.raises(InvalidSubjectError):
                agent.publish_many("x.*", [b""])
            assert agent.try_receive() is None
            assert agent.stats().published == 0

    def test_of_nothing_reach_nobody(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            assert agent.publish_many("x", []) == 0

    def test_go_to_those_with_room_before_they_wait(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("full") as slow, small_bus.join("free") as free:
            slow.subscribe("x")
            sender.publish_many("x", range(PLAIN - 2))
            free.subscribe("x")
            with pytest.raises(Full, match=r"agent 'full'.*; reached 12, missing 8") as caught:
                sender.publish_many("x", range(10), timeout=0)
            assert (caught.value.delivered, caught.value.missing) == (12, 8)
            assert datas(free) == list(range(10))
            assert datas(slow)[-2:] == [0, 1]

    def test_to_an_agent_that_leaves_meanwhile_end(self, small_bus: Bus, thread: ThreadPoolExecutor) -> None:
        with small_bus.join("a") as sender:
            agent = small_bus.join("b")
            agent.subscribe("x")
            sending = thread.submit(sender.publish_many, "x", range(100), timeout=60)
            while agent.depth < PLAIN * 64:
                pass
            agent.close()
            assert sending.result() == PLAIN

    def test_in_asyncio_wait_for_room_without_holding_up_the_loop(self, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as sender, small_bus.join("b") as agent:
                agent.subscribe("x")
                task = asyncio.ensure_future(sender.publish_many_async("x", range(300), timeout=60))
                got = [(await agent.receive_async(60)).data for _ in range(300)]
                assert (await task, got) == (300, list(range(300)))
                with pytest.raises(Full, match="reached 28, missing 12"):
                    await sender.publish_many_async("x", range(40), timeout=0)

        asyncio.run(main())

    def test_of_a_closed_agent_raise(self, bus: Bus) -> None:
        agent = bus.join("a")
        agent.close()
        with pytest.raises(ClosedError):
            agent.publish_many("x", [b""])

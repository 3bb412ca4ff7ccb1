"""An inbox that has what is newest: overflow="drop_oldest"."""

import asyncio
import time
from collections import deque
from contextlib import ExitStack, suppress
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import Peer, joined

from fastcomm import Agent, Bus, Priority
from fastcomm._core.ring import Ring
from fastcomm.errors import Empty
from fastcomm.testing import isolated_name

PLAIN = 28  # small messages that an inbox of 32 cells takes before its last eighth
CELLS = 32


def datas(agent: Agent) -> list[Any]:
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


def test_keeps_what_is_newest_and_counts_at_both_ends(small_bus: Bus) -> None:
    with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_oldest") as agent:
        subscription = agent.subscribe("x")
        assert [sender.publish("x", i) for i in range(PLAIN + 10)] == [1] * (PLAIN + 10)
        assert (sender.stats().dropped, agent.stats().refused, subscription.lost) == (10, 10, 0)
        assert datas(agent) == list(range(10, PLAIN + 10))
        assert (subscription.lost, agent.stats().lost, agent.stats().received) == (10, 10, PLAIN)


def test_drops_nothing_while_there_is_room(small_bus: Bus) -> None:
    with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_oldest") as agent:
        agent.subscribe("x")
        for i in range(200):
            sender.publish("x", i)
            assert datas(agent) == [i]
        assert (sender.stats().dropped, agent.stats().lost) == (0, 0)


def test_of_many_at_once_has_the_last(small_bus: Bus) -> None:
    with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_oldest") as agent:
        agent.subscribe("x")
        assert sender.publish_many("x", range(100)) == 100
        assert datas(agent) == list(range(100 - PLAIN, 100))
        assert sender.stats().dropped == agent.stats().lost == 100 - PLAIN


def test_drops_as_many_as_a_large_one_needs(small_bus: Bus) -> None:
    with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_oldest") as agent:
        agent.subscribe("x")
        sender.publish_many("x", range(PLAIN))
        large = bytes(15 * 64 - 50)  # 15 cells
        for _ in range(3):
            sender.publish("x", large)
        got = datas(agent)
        assert got[-1] == large
        assert len(got) + agent.stats().lost == PLAIN + 3


def test_drops_whatever_is_oldest_critical_or_not(small_bus: Bus) -> None:
    with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_oldest") as agent:
        agent.subscribe("x")
        sender.publish("x", "critical", priority=Priority.CRITICAL)
        sender.publish_many("x", range(PLAIN - 1))
        for i in range(4):  # these have the last eighth for themselves
            assert sender.publish("x", f"urgent {i}", priority=Priority.CRITICAL) == 1
        assert sender.stats().dropped == 0
        assert sender.publish("x", "newest") == 1
        assert sender.stats().dropped == 5  # until the eighth is free again
        got = datas(agent)
        assert got[:4] == [f"urgent {i}" for i in range(4)]
        assert got[4:] == [*range(4, PLAIN - 1), "newest"]


def test_concerns_no_other_inbox(small_bus: Bus) -> None:
    with (
        small_bus.join("a") as sender,
        small_bus.join("slow", overflow="drop_oldest") as slow,
        small_bus.join("fast") as fast,
    ):
        slow.subscribe("x")
        fast.subscribe("x")
        got = []
        for i in range(200):
            assert sender.publish("x", i) == 2
            got += datas(fast)
        assert got == list(range(200))
        assert datas(slow) == list(range(200 - PLAIN, 200))


def test_in_a_group_drops_only_when_all_are_full(small_bus: Bus) -> None:
    with small_bus.join("a") as sender:
        agents = [small_bus.join(f"w{i}", overflow="drop_oldest") for i in range(2)]
        for agent in agents:
            agent.subscribe("x", group="g")
        assert sender.publish_many("x", range(2 * PLAIN)) == 2 * PLAIN
        assert sender.stats().dropped == 0
        assert sender.publish_many("x", ["newer", "newest"]) == 2
        assert sender.stats().dropped == sum(agent.stats().refused for agent in agents) == 2
        got = [datas(agent) for agent in agents]
        assert [len(one) for one in got] == [PLAIN, PLAIN]
        assert {"newer", "newest"} < {*got[0], *got[1]}


def test_is_that_of_the_inbox_s_present_agent(small_bus: Bus) -> None:
    with small_bus.join("a") as sender:
        for overflow in ("drop_oldest", "drop_newest", "drop_oldest"):
            with small_bus.join("b", overflow=overflow) as agent:  # type: ignore[arg-type]
                agent.subscribe("x")
                sender.publish_many("x", range(PLAIN + 3))
                assert datas(agent) == [i + 3 * (overflow == "drop_oldest") for i in range(PLAIN)]
                sender.publish_many("x", range(10))  # left behind


def test_in_asyncio(small_bus: Bus) -> None:
    async def main() -> None:
        with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_oldest") as agent:
            agent.subscribe("x")
            for i in range(40):
                assert await sender.publish_async("x", i) == 1
            assert await sender.publish_many_async("x", range(5)) == 5
            got = [message.data for message in await agent.receive_many_async()]
            assert got == [*range(40 - PLAIN + 5, 40), *range(5)]

    asyncio.run(main())


def test_wakes_a_receiver_that_sleeps(small_bus: Bus) -> None:
    with Peer(joined(small_bus.name, "b").replace("'b')", "'b', overflow='drop_oldest')")) as receiver:
        receiver.do("agent.subscribe('x') and None")
        with small_bus.join("a") as sender:
            for i in range(20):
                receiver.send("agent.receive(60).data")
                sender.publish("x", i)
                assert receiver.result() == i


class Inbox:
    """A ring that drops what is oldest, in plain Python: places count cells, records don't cross the end."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, Any]] = deque()  # place behind it, data or None for padding
        self.head = self.tail = self.dropped = 0

    def put(self, cells: int, data: Any) -> None:
        reserve = CELLS // 8 if 2 * cells + CELLS // 8 <= CELLS else 0
        to_end = CELLS - self.tail % CELLS
        padding = to_end if cells > to_end else 0
        while self.tail + padding + cells - self.head > CELLS - reserve:
            self.head, oldest = self.waiting.popleft()
            self.dropped += oldest is not None
        if padding:
            self.waiting.append((self.tail + padding, None))
        self.tail += padding + cells
        self.waiting.append((self.tail, data))

    def take(self) -> Any:
        while self.waiting:
            self.head, data = self.waiting.popleft()
            if data is not None:
                return data
        return None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 900), st.none()), max_size=120), st.booleans())
def test_has_what_a_simple_ring_has(steps: list[int | None], wraps: bool) -> None:
    """Numbers publish so many bytes, None receives; some rings begin just below the end of the positions."""
    start = (1 << 36) - 2 * CELLS if wraps else 0
    laid_out = SimpleNamespace(
        bytes_needed=Ring.bytes_needed,
        format=lambda memory, cells: Ring.format(memory, cells=cells, start=start),
    )
    model = Inbox()
    with (
        mock.patch("fastcomm.bus.Ring", laid_out),
        Bus.open(isolated_name("oldest"), inbox_bytes=4096, max_agents=2) as bus,
        bus.join("a") as sender,
        bus.join("b", overflow="drop_oldest") as agent,
    ):
        agent.subscribe("x")
        for number, nbytes in enumerate(steps):
            if nbytes is None:
                message = agent.try_receive()
                assert (None if message is None else message.data) == model.take()
                continue
            data = number.to_bytes(2, "little") + bytes(nbytes)
            assert sender.publish("x", data) == 1
            model.put((8 + 32 + 1 + 1 + len(data) + 63) // 64, data)
            assert sender.stats().dropped == model.dropped
        assert datas(agent) == [data for _, data in model.waiting if data is not None]


SENDERS, SENT = 3, 4000


class SlowReceiver(Thread):
    """Takes messages until stop(), with a rest now and then, so that its inbox is full and is empty."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self._agent = agent
        self._stopping = False
        self.got: list[list[int]] = [[] for _ in range(SENDERS)]

    def run(self) -> None:
        while not self._stopping:
            with suppress(Empty):
                for message in self._agent.receive_many(50, 0.05):
                    number, rest = message.data
                    assert rest == bytes(number * 7 % 200)
                    self.got[int(message.sender)].append(number)
            time.sleep(0.002)

    def stop(self) -> None:
        self._stopping = True
        self.join()


@pytest.mark.parametrize("priority", [Priority.NORMAL, Priority.CRITICAL])
def test_what_was_received_and_what_was_lost_is_what_each_has_sent(
    small_bus: Bus, priority: Priority
) -> None:
    """Of several processes, in order of each."""
    publish = f"agent.publish('x', (n, bytes(n * 7 % 200)), priority={int(priority)})"
    with small_bus.join("receiver", overflow="drop_oldest") as agent, ExitStack() as stack:
        subscription = agent.subscribe("x")
        peers = [stack.enter_context(Peer(joined(small_bus.name, str(i)))) for i in range(SENDERS)]
        receiver = SlowReceiver(agent)
        receiver.start()
        try:
            for peer in peers:
                peer.send(f"for n in range({SENT}): {publish}")
            for peer in peers:
                peer.result()
            for peer in peers:  # the last of each shows what was lost before it
                peer.do(f"n = {SENT}\n{publish}")
            while any(numbers[-1:] != [SENT] for numbers in receiver.got):
                time.sleep(0.01)
        finally:
            receiver.stop()
        for numbers in receiver.got:
            assert numbers == sorted(set(numbers))
        received = sum(map(len, receiver.got))
        assert received + subscription.lost == SENDERS * (SENT + 1)
        assert sum(peer.do("agent.stats().dropped") for peer in peers) == subscription.lost
        assert agent.stats().refused == subscription.lost > 0

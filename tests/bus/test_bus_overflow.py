"""What becomes of a message that an inbox has no room for: overflow="block", "error", "drop_newest"."""

import asyncio
from typing import Any

import pytest
from peers import Peer, joined

from fastcomm import Agent, Bus, Priority
from fastcomm.errors import Full

PLAIN = 28  # small messages that an inbox of 32 cells takes before its last eighth


def datas(agent: Agent) -> list[Any]:
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


class TestDropNewest:
    def test_keeps_what_is_there_and_counts_at_both_ends(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_newest") as agent:
            subscription = agent.subscribe("x")
            assert [sender.publish("x", i) for i in range(PLAIN + 10)] == [1] * PLAIN + [0] * 10
            assert datas(agent) == list(range(PLAIN))
            assert (sender.stats().dropped, agent.stats().refused) == (10, 10)
            assert subscription.lost == 0  # nothing came after them yet
            assert sender.publish("x", "after") == 1
            assert datas(agent) == ["after"]
            assert (subscription.lost, agent.stats().lost, agent.stats().received) == (10, 10, PLAIN + 1)

    def test_counts_of_each_publisher_add_up(self, small_bus: Bus) -> None:
        with small_bus.join("agent", overflow="drop_newest") as agent:
            agent.subscribe("x.*")
            senders = [small_bus.join(str(i)) for i in range(3)]
            for round_ in range(5):
                for sender in senders:
                    sender.publish_many(f"x.{sender.name}", range(15 + round_))
                datas(agent)
            for sender in senders:
                assert sender.publish(f"x.{sender.name}", "last") == 1
            datas(agent)
            dropped = sum(sender.stats().dropped for sender in senders)
            assert dropped == agent.stats().refused == agent.stats().lost > 0
            assert agent.stats().received + dropped == sum(sender.stats().published for sender in senders)

    def test_delays_nobody_and_concerns_no_other_inbox(self, small_bus: Bus) -> None:
        with (
            small_bus.join("a") as sender,
            small_bus.join("slow", overflow="drop_newest") as slow,
            small_bus.join("fast") as fast,
        ):
            slow.subscribe("x")
            fast.subscribe("x")
            got = []
            for i in range(200):
                assert sender.publish("x", i) == (2 if i < PLAIN else 1)
                got += datas(fast)
            assert got == list(range(200))
            assert datas(slow) == list(range(PLAIN))

    def test_of_many_at_once_takes_what_fits(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_newest") as agent:
            agent.subscribe("x")
            assert sender.publish_many("x", range(100)) == PLAIN
            assert sender.stats().delivered == PLAIN
            assert datas(agent) == list(range(PLAIN))

    def test_of_a_small_message_after_a_large_one_takes_the_small_one(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_newest") as agent:
            agent.subscribe("x")
            sender.publish_many("x", range(PLAIN - 2))
            assert sender.publish_many("x", [bytes(500), b"small", bytes(500), b"too"]) == 2
            assert datas(agent)[-2:] == [b"small", b"too"]

    def test_leaves_the_last_eighth_to_critical_ones(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_newest") as agent:
            agent.subscribe("x")
            sender.publish_many("x", range(100))
            assert [sender.publish("x", i, priority=Priority.CRITICAL) for i in range(5)] == [1] * 4 + [0]

    def test_in_a_group_is_asked_when_all_are_full(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender:
            agents = [small_bus.join(f"w{i}", overflow="drop_newest") for i in range(2)]
            for agent in agents:
                agent.subscribe("x", group="g")
            assert sender.publish_many("x", range(2 * PLAIN + 5)) == 2 * PLAIN
            assert sum(agent.stats().refused for agent in agents) == sender.stats().dropped == 5
            assert sum(len(datas(agent)) for agent in agents) == 2 * PLAIN

    def test_in_asyncio(self, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as sender, small_bus.join("b", overflow="drop_newest") as agent:
                agent.subscribe("x")
                got = [await sender.publish_async("x", i) for i in range(40)]
                assert sum(got) == PLAIN
                assert await sender.publish_many_async("x", range(5)) == 0

        asyncio.run(main())

    def test_two_agents_that_flood_each_other_end(self, small_bus: Bus) -> None:
        flood = "[agent.publish('%s', i) for i in range(5000)] and None"
        setup = [
            joined(small_bus.name, name).replace(f"join({name!r})", f"join({name!r}, overflow='drop_newest')")
            for name in "ab"
        ]
        with Peer(setup[0]) as first, Peer(setup[1]) as second:
            for peer, name in ((first, "a"), (second, "b")):
                peer.do(f"agent.subscribe('to.{name}') and None")
            first.send(flood % "to.b")
            second.send(flood % "to.a")
            assert first.result() is second.result() is None
            for peer in (first, second):
                took = peer.do("len(agent.receive_many(10000))")
                assert took + peer.do("agent.stats().refused") == 5000


class TestError:
    def test_is_raised_at_once_after_the_others_were_reached(self, small_bus: Bus) -> None:
        with (
            small_bus.join("a") as sender,
            small_bus.join("strict", overflow="error") as strict,
            small_bus.join("other") as other,
        ):
            strict.subscribe("x")
            assert sender.publish_many("x", range(PLAIN)) == PLAIN
            other.subscribe("x")
            with pytest.raises(
                Full,
                match=r"no room .* at once, as its agent has asked for, in the inbox of agent 'strict'",
            ) as caught:
                sender.publish("x", "more")
            assert (caught.value.delivered, caught.value.missing) == (1, 1)
            assert datas(other) == ["more"]
            assert datas(strict) == list(range(PLAIN))
            assert sender.publish("x", b"") == 2
            assert (strict.stats().refused, strict.stats().lost) == (0, 0)

    def test_comes_before_one_that_blocks_is_waited_for(self, small_bus: Bus) -> None:
        with (
            small_bus.join("a") as sender,
            small_bus.join("blocking") as blocking,
            small_bus.join("strict", overflow="error") as strict,
        ):
            blocking.subscribe("x")
            strict.subscribe("x")
            sender.publish_many("x", range(PLAIN))
            with pytest.raises(Full, match=r"agent 'strict'.*; reached 0, missing 2"):
                sender.publish("x", b"")

    def test_in_asyncio(self, small_bus: Bus) -> None:
        async def main() -> None:
            with small_bus.join("a") as sender, small_bus.join("b", overflow="error") as agent:
                agent.subscribe("x")
                with pytest.raises(Full, match=r"at once.*reached 28, missing 12"):
                    await sender.publish_many_async("x", range(40))

        asyncio.run(main())


class TestPolicy:
    def test_is_that_of_the_inbox_s_present_agent(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender:
            for overflow, count in (("drop_newest", 0), ("block", None), ("drop_newest", 0)):
                with small_bus.join("b", overflow=overflow) as agent:  # type: ignore[arg-type]
                    agent.subscribe("x")
                    sender.publish_many("x", range(PLAIN))
                    if count is None:
                        with pytest.raises(Full, match=r"within 0\.01 s"):
                            sender.publish("x", b"", timeout=0.01)
                    else:
                        assert sender.publish("x", b"", timeout=0.01) == count
                    assert agent.stats().refused == (count is not None)

    def test_that_is_none_is_an_error(self, bus: Bus) -> None:
        with pytest.raises(ValueError, match="overflow is 'drop'; it must be one of block, error"):
            bus.join("a", overflow="drop")  # type: ignore[arg-type]
        assert bus.agents() == []

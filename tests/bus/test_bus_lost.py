"""Messages are numbered by publisher and inbox, and what is missing is counted."""

import struct

import pytest
from peers import Peer, joined

from fastcomm import Agent, Bus, Priority
from fastcomm._core.ring import Ring
from fastcomm.errors import Full


def record(number: int, generation: int) -> bytes:
    """A message to x, of an agent "a", that is the `number`-th of it in this inbox."""
    return struct.pack("<qqIHBBHBBI", 1, 0, number, generation, 1, 1, 0, 0, 2, 0) + b"ax"


def send(agent: Agent, owner: int, *numbers: int, generation: int = 1) -> None:
    """As if the agent of that owner number had lost what is left out."""
    with Ring(agent.bus._inbox_memory(agent._slot), owner=owner) as raw:
        for number in numbers:
            raw.put(record(number, generation))


def lost(agent: Agent) -> int:
    while agent.try_receive() is not None:
        pass
    return agent.stats().lost


class TestLost:
    def test_is_nothing_whatever_is_sent_by_whom(self, bus: Bus) -> None:
        with bus.join("a") as first, bus.join("b") as second, bus.join("c") as agent:
            subscription = agent.subscribe("x.>")
            for i in range(50):
                first.publish("x.1", i, priority=i % 4)
                second.publish_many("x.2", range(3), priority=Priority.HIGH)
                first.publish("elsewhere", i)
            assert (lost(agent), subscription.lost) == (0, 0)

    def test_counts_what_is_left_out_of_each_publisher(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            send(agent, 2, 1, 2, 5)
            send(agent, 3, 1, 2)
            send(agent, 2, 6, 10)
            assert lost(agent) == 2 + 3

    def test_counts_what_came_before_the_first(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            send(agent, 2, 4)
            assert lost(agent) == 3

    def test_starts_anew_with_another_publisher_in_the_slot(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            send(agent, 2, 1, 2, 3, generation=1)
            send(agent, 2, 1, 2, generation=2)
            send(agent, 2, 2, generation=3)
            assert lost(agent) == 1

    def test_goes_on_where_the_number_wraps(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            last = 0xFFFFFFFF
            send(agent, 2, 1, 0x7FFFFFFF, last - 1)
            before = lost(agent)
            send(agent, 2, last, 1)  # 0 is no number
            assert lost(agent) - before == 1
            send(agent, 2, 2, 3)
            assert lost(agent) - before == 1

    def test_does_not_count_backwards_nor_what_has_no_number_or_no_slot(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            send(agent, 2, 5)
            send(agent, 2, 3, 5, 0, 6)
            send(agent, 4094, 7)
            assert lost(agent) == 4

    def test_of_a_subscription_is_what_the_inbox_lost_since_it_began(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            first = agent.subscribe("x")
            send(agent, 2, 3)
            assert lost(agent) == 2
            second = agent.subscribe("y")
            send(agent, 2, 7)
            assert lost(agent) == 5
            assert (first.lost, second.lost) == (5, 3)


class TestNumbers:
    def test_start_anew_for_the_next_agent_of_a_slot(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            for _ in range(3):
                with bus.join("b") as agent:
                    agent.subscribe("x")
                    sender.publish_many("x", range(5))
                    assert (lost(agent), agent.stats().received) == (0, 5)

    def test_start_anew_for_the_next_publisher_in_a_slot(self, bus: Bus) -> None:
        with bus.join("b") as agent:
            agent.subscribe("x")
            for end in ("kill", "end"):
                with Peer(joined(bus.name, "a")) as peer:
                    peer.do("agent.publish_many('x', range(5))")
                    getattr(peer, end)()
                with bus.join("c") as other:  # in the slot of the one that went
                    other.publish("x", b"")
            assert (lost(agent), agent.stats().received) == (0, 12)

    def test_are_kept_by_a_publish_that_did_not_reach_the_inbox(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            for _ in range(3):
                with pytest.raises(Full, match="missing 22"):
                    sender.publish_many("x", range(50), timeout=0)
                assert lost(agent) == 0

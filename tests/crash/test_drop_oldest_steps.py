"""An inbox that drops what is oldest, and who is stopped or killed at each step of taking and dropping."""

from collections.abc import Iterator
from typing import Any

import pytest
from peers import Peer, joined

from fastcomm import Agent, Bus
from fastcomm.testing.chaos.hooks import HOOKS

pytestmark = pytest.mark.debug_build

PLAIN = 28  # small messages that an inbox of 32 cells takes before its last eighth
CLAIMED = ("CLAIM_AFTER_CAS", "WRITE_HALF", "COMMIT_BEFORE_HEADER")


@pytest.fixture
def bus(request: pytest.FixtureRequest, name: str) -> Iterator[Bus]:
    with Bus.open(name, inbox_bytes=4096, max_agents=8) as opened:
        yield opened
    del request.node.funcargs["bus"]


def lossy(bus: Bus) -> str:
    """Setup of a peer that receives."""
    setup = joined(bus.name, "victim").replace("'victim')", "'victim', overflow='drop_oldest')")
    return f"{setup}\nagent.subscribe('x')"


def start(victim: Peer, module: str, hook: str, work: str) -> None:
    victim.send(f"fastcomm._core.{module}._arm_hook({HOOKS[hook]}); value = {work}")
    victim.await_stop()


def datas(agent: Agent) -> list[Any]:
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


THERE = "[message.data for message in agent.receive_many(100)]"


@pytest.mark.parametrize("sent", [1, PLAIN, 200])
@pytest.mark.parametrize("hook", ["CONSUME_BEFORE_HEAD", "CONSUME_AFTER_HEAD"])
def test_a_receiver_that_is_stopped_holds_up_nobody_and_takes_no_other_message_for_its_own(
    bus: Bus, hook: str, sent: int
) -> None:
    """Its copy is as old as the inbox is large, seven times over, and the CAS after it fails."""
    with Peer(lossy(bus)) as victim, bus.join("sender") as sender:
        for i in range(5):
            sender.publish("x", ("old", i))
        start(victim, "contested", hook, "agent.receive().data")
        assert sender.publish_many("x", range(sent)) == sent
        victim.go_on()
        victim.result()
        first, rest = victim.do("value"), victim.do(THERE)
        dropped = max(0, sent + 5 - (hook == "CONSUME_AFTER_HEAD") - PLAIN)
        everything = [("old", i) for i in range(5)] + list(range(sent))
        if hook == "CONSUME_AFTER_HEAD":
            assert [first, *rest] == [everything[0], *everything[1 + dropped :]]
        else:
            assert [first, *rest] == everything[dropped:]
        assert sender.stats().dropped == victim.do("agent.stats().lost") == dropped
        assert victim.end() == 0


@pytest.mark.parametrize("hook", ["CONSUME_BEFORE_HEAD", "CONSUME_AFTER_HEAD"])
def test_a_publisher_killed_as_it_drops_loses_one_record_at_most(bus: Bus, hook: str) -> None:
    with bus.join("receiver", overflow="drop_oldest") as agent, bus.join("sender") as sender:
        agent.subscribe("x")
        sender.publish_many("x", range(PLAIN))
        with Peer(joined(bus.name, "victim")) as victim:
            start(victim, "contested", hook, "agent.publish('x', 'new')")
            assert sender.publish_many("x", range(PLAIN, PLAIN + 5)) == 5
            victim.kill()
        gone = 5 - (hook == "CONSUME_AFTER_HEAD")
        assert (sender.stats().dropped, agent.stats().refused) == (gone, gone)
        assert datas(agent) == list(range(5, PLAIN + 5))
        assert agent.stats().lost == 5  # the numbers show what no counter has


@pytest.mark.parametrize("hook", ["CONSUME_BEFORE_HEAD", "CONSUME_AFTER_HEAD"])
def test_a_publisher_stopped_as_it_drops_goes_on_with_what_is_oldest_then(bus: Bus, hook: str) -> None:
    with bus.join("receiver", overflow="drop_oldest") as agent, bus.join("sender") as sender:
        agent.subscribe("x")
        sender.publish_many("x", range(PLAIN))
        with Peer(joined(bus.name, "victim")) as victim:
            start(victim, "contested", hook, "agent.publish('x', 'late')")
            assert sender.publish_many("x", range(PLAIN, 100)) == 100 - PLAIN
            victim.go_on()
            victim.result()
            dropped = victim.do("agent.stats().dropped") + sender.stats().dropped
            assert datas(agent) == [*range(101 - PLAIN, 100), "late"]
            assert dropped == agent.stats().lost == 101 - PLAIN
            assert victim.end() == 0


class TestWhoIsInTheMiddleOfARecord:
    @pytest.mark.parametrize("hook", CLAIMED)
    def test_is_stopped_and_others_drop_what_they_bring_and_never_wait(self, bus: Bus, hook: str) -> None:
        with bus.join("receiver", overflow="drop_oldest") as agent, bus.join("sender") as sender:
            agent.subscribe("x")
            with Peer(joined(bus.name, "victim")) as victim:
                start(victim, "protocol", hook, "agent.publish('x', 'first')")
                assert sender.publish_many("x", range(40)) == PLAIN - 1
                assert sender.stats().dropped == 40 - (PLAIN - 1)
                victim.go_on()
                victim.result()
                assert victim.do("value") == 1
                assert sender.publish("x", "last") == 1
                assert datas(agent) == [*range(PLAIN - 1), "last"]
                assert agent.stats().lost == 40 - (PLAIN - 1)  # and 'first', which made room for 'last'
                assert victim.end() == 0

    @pytest.mark.parametrize("hook", CLAIMED)
    def test_is_killed_and_the_next_publisher_sees_to_it(self, bus: Bus, hook: str) -> None:
        with bus.join("receiver", overflow="drop_oldest") as agent, bus.join("sender") as sender:
            agent.subscribe("x")
            with Peer(joined(bus.name, "victim")) as victim:
                start(victim, "protocol", hook, "agent.publish('x', 'first')")
                assert sender.publish_many("x", range(PLAIN)) == PLAIN - 1
                victim.kill()
            assert sender.publish("x", "finds it") == 0
            assert sender.publish("x", "newest") == 1
            assert datas(agent) == [*range(PLAIN - 1), "newest"]
            assert agent.stats().aborted == 1
            assert agent.stats().lost == 2


@pytest.mark.parametrize("hook", ["CONSUME_BEFORE_HEAD", "CONSUME_AFTER_HEAD"])
def test_a_receiver_that_leaves_and_publishers_that_drop_count_each_message_once(bus: Bus, hook: str) -> None:
    """It is stopped in the middle of its drain; the publisher that was about to drop then goes on."""
    with bus.join("sender") as sender, Peer(lossy(bus)) as leaver, Peer(joined(bus.name, "late")) as late:
        sender.publish_many("x", range(PLAIN))
        start(late, "contested", "CONSUME_BEFORE_HEAD", "agent.publish('x', 'late')")
        start(leaver, "contested", hook, "agent.close()")
        late.go_on()
        late.result()
        assert late.do("value") == 0  # the inbox is closed
        leaver.go_on()
        leaver.result()
        with bus.join("next") as successor:
            stats = successor.stats()
            assert stats.discarded + stats.stale + late.do("agent.stats().dropped") == PLAIN
            successor.subscribe("x")
            assert sender.publish_many("x", range(3)) == 3
            assert datas(successor) == [0, 1, 2]
        assert late.end() == 0

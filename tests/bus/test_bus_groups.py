"""Groups: one member gets each message, by backlog; what a member leaves behind goes to the others."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from peers import Peer, joined

from fastcomm import Agent, Bus, Message, Priority
from fastcomm._core.ring import Ring
from fastcomm.errors import Full, InvalidNameError

PLAIN = 28  # small messages that an inbox of 32 cells takes before its last eighth


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)


def datas(agent: Agent) -> list[Any]:
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


def workers(bus: Bus, count: int, pattern: str = "jobs.*", group: str = "workers") -> list[Agent]:
    agents = [bus.join(f"worker {i}") for i in range(count)]
    for agent in agents:
        agent.subscribe(pattern, group=group)
    return agents


class TestOneMember:
    def test_gets_each_message_and_ties_rotate(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            agents = workers(bus, 3)
            assert all(sender.publish("jobs.x", i) == 1 for i in range(30))
            got = [datas(agent) for agent in agents]
            assert [len(one) for one in got] == [10, 10, 10]
            assert sorted(data for one in got for data in one) == list(range(30))

    def test_of_each_group_and_every_other_subscriber_gets_it(self, bus: Bus) -> None:
        with bus.join("sender") as sender, bus.join("log") as log:
            first, second = workers(bus, 2, group="first"), [bus.join("s")]
            second[0].subscribe("jobs.>", group="second")
            log.subscribe(">")
            assert sender.publish("jobs.x", b"") == 3
            assert sum(len(datas(agent)) for agent in first) == 1
            assert [len(datas(agent)) for agent in (second[0], log)] == [1, 1]
            assert sender.wait_for_subscribers("jobs.x", 3, timeout=0) == 3

    def test_is_that_with_the_least_backlog(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            idle, busy = workers(bus, 2)
            busy.subscribe("busy")
            for _ in range(10):
                sender.publish("busy", b"")
            for i in range(10):
                sender.publish("jobs.x", i)
            assert len(datas(idle)) == 10
            assert len(datas(busy)) == 10

    def test_backlog_counts_what_was_taken_out_of_the_inbox(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            idle, busy = workers(bus, 2)
            busy.subscribe("busy")
            for i in range(11):
                sender.publish("busy", i, priority=Priority.LOW)
            assert busy.receive(0).data == 0
            assert (busy.depth, busy.stats().pending) == (0, 10)
            for i in range(10):
                sender.publish("jobs.x", i)
            assert (len(datas(idle)), len(datas(busy))) == (10, 10)

    def test_one_that_is_busy_in_a_handler_is_passed_over(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        started, end = threading.Event(), threading.Event()

        def handler(_: Message) -> None:
            started.set()
            end.wait(60)

        with bus.join("sender") as sender, bus.join("busy") as busy, bus.join("idle") as idle:
            busy.subscribe("jobs", handler, group="workers")
            sender.publish("jobs", b"")
            running = thread.submit(busy.dispatch)
            assert started.wait(60)
            idle.subscribe("jobs", group="workers")
            for i in range(5):
                sender.publish("jobs", i)
                assert idle.receive(0).data == i
            end.set()
            running.result()

    def test_that_is_full_is_passed_over(self, small_bus: Bus) -> None:
        with small_bus.join("sender") as sender:
            agents = workers(small_bus, 2)
            agents[0].subscribe("other")
            for i in range(PLAIN):
                sender.publish("other", i)
            for i in range(PLAIN):
                assert sender.publish("jobs.x", i, timeout=0) == 1
            assert datas(agents[1]) == list(range(PLAIN))

    def test_is_waited_for_when_all_are_full(self, small_bus: Bus, thread: ThreadPoolExecutor) -> None:
        with small_bus.join("sender") as sender:
            agents = workers(small_bus, 2)
            assert sender.publish_many("jobs.x", range(2 * PLAIN), timeout=0) == 2 * PLAIN
            with pytest.raises(Full, match=r"agent 'worker \d'.*; reached 0, missing 1"):
                sender.publish("jobs.x", b"", timeout=0.01)
            sending = thread.submit(sender.publish, "jobs.x", b"waited", timeout=60)
            time.sleep(0.02)
            assert len(datas(agents[0])) + len(datas(agents[1])) >= 2 * PLAIN
            assert sending.result() == 1

    def test_gets_many_at_once_in_turn(self, bus: Bus) -> None:
        with bus.join("sender") as sender, bus.join("log") as log:
            agents = workers(bus, 2)
            log.subscribe(">")
            assert sender.publish_many("jobs.x", range(20)) == 40
            assert [len(datas(agent)) for agent in (*agents, log)] == [10, 10, 20]

    def test_in_asyncio(self, small_bus: Bus) -> None:
        async def main() -> Counter[str]:
            got: Counter[str] = Counter()
            with small_bus.join("sender") as sender:
                agents = workers(small_bus, 3)

                async def work(agent: Agent) -> None:
                    async for message in agent:
                        if message.data is None:
                            return
                        got[message.data] += 1

                working = [asyncio.ensure_future(work(agent)) for agent in agents]
                for i in range(300):
                    assert await sender.publish_async("jobs.x", i, timeout=60) == 1
                while any(agent.depth for agent in agents):
                    await asyncio.sleep(0.001)
                for agent in agents:
                    agent.close()
                await asyncio.gather(*working)
            return got

        assert asyncio.run(main()) == Counter(range(300))

    def test_that_leaves_or_unsubscribes_gets_no_more(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            first, second = workers(bus, 2)
            second.subscriptions[0].unsubscribe()
            assert [sender.publish("jobs.x", i) for i in range(3)] == [1, 1, 1]
            assert datas(first) == [0, 1, 2]
            first.close()
            assert sender.publish("jobs.x", b"") == 0


class TestSubscriptionsOfAnAgent:
    def test_in_a_group_and_besides_get_it_each(self, bus: Bus) -> None:
        got: list[Any] = []
        with bus.join("a") as agent, bus.join("sender") as sender:
            agent.subscribe("x", lambda message: got.append(("group", message.data)), group="g")
            agent.subscribe("x", lambda message: got.append(("plain", message.data)))
            assert sender.publish("x", 1) == 2
            agent.dispatch()
            assert sorted(got) == [("group", 1), ("plain", 1)]

    def test_of_one_group_that_match_both_get_it_once(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("sender") as sender:
            agent.subscribe("x", group="g")
            agent.subscribe("*", group="g")
            assert sender.publish("x", 1) == 1
            assert datas(agent) == [1]

    def test_that_were_cancelled_get_nothing_and_it_is_counted(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("sender") as sender:
            cancelled = agent.subscribe("x", group="g")
            agent.subscribe("x")
            sender.publish("x", 1)
            cancelled.unsubscribe()
            agent.subscribe("x", group="g")
            assert datas(agent) == [1]
            assert agent.stats().unwanted == 1

    def test_receive_from_a_queue_of_their_own(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("sender") as sender:
            plain, group = agent.subscribe("x"), agent.subscribe("x", group="g")
            assert group.try_receive() is None
            sender.publish("x", 1)
            assert (group.receive(0).data, plain.receive(0).data) == (1, 1)
            assert (group.try_receive(), plain.try_receive()) == (None, None)

    def test_say_their_group(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            subscription = agent.subscribe("x", group="g")
            assert subscription.group == "g"
            assert repr(subscription) == "<Subscription of 'a' to 'x', group 'g'>"

    @pytest.mark.parametrize("group", ["", "x" * 41, "\n", "\udc80", "\u00e9" * 21])
    def test_with_a_name_that_is_none_are_an_error(self, bus: Bus, group: str) -> None:
        with bus.join("a") as agent:
            with pytest.raises(InvalidNameError, match="it has 1 to 40 bytes of printable"):
                agent.subscribe("x", group=group)
            assert agent.subscribe("x", group="\u00e9" * 20).group == "\u00e9" * 20


class TestHeirs:
    def test_get_what_a_member_that_leaves_has_not_received(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            first, second, third = workers(bus, 3)
            first.subscribe("own")
            sender.publish("own", "its own")
            for i in range(30):
                sender.publish("jobs.x", i, headers={"n": i})
            received = first.receive(0).data
            first.close()
            got = [message.headers["n"] for agent in (second, third) for message in agent.receive_many()]
            assert sorted([*got, *([received] if received != "its own" else [])]) == list(range(30))
            assert len(got) >= 29
            assert (second.stats().lost, third.stats().lost) == (0, 0)

    def test_get_what_a_member_that_was_killed_has_not_received(self, bus: Bus) -> None:
        with bus.join("sender") as sender, bus.join("b") as agent:
            agent.subscribe("jobs", group="workers")
            with Peer(joined(bus.name, "victim")) as victim:
                victim.do("agent.subscribe('jobs', group='workers') and None")
                for i in range(20):
                    assert sender.publish("jobs", i) == 1
                mine = datas(agent)
                taken = victim.do("agent.receive(0).data")
                victim.kill()
            with Bus.open(bus.name):  # reaps
                pass
            theirs = [agent.receive(60).data for _ in range(9)]
            assert agent.try_receive() is None
            assert sorted([*mine, *theirs, taken]) == list(range(20))

    def test_get_what_lies_behind_an_unfinished_message(self, bus: Bus) -> None:
        """A publisher that is stopped between claim and commit holds up the inbox, not who retires it."""
        with bus.join("sender") as sender, bus.join("stopped") as stopped:
            (first,) = workers(bus, 1)
            slot = first._slot
            sender.publish("jobs.x", 0)
            with Ring(bus._inbox_memory(slot), owner=stopped._slot + 1).claim(100):
                for i in range(1, 4):
                    assert sender.publish("jobs.x", i) == 1
                with bus.join("second") as second:
                    second.subscribe("jobs.x", group="workers")
                    first.close()
                    assert datas(second) == [0, 1, 2, 3]
            with bus.join("next in that slot") as following:
                assert following._slot == slot
                following.subscribe("jobs.x", group="workers")
                assert sender.publish("jobs.x", 4) == 1
                assert following.receive(60).data == 4
                stats = following.stats()
                assert (stats.aborted, stats.discarded, stats.stale) == (0, 0, 1)  # the unfinished one

    def test_sleep_until_it_comes(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        with bus.join("sender") as sender, bus.join("b") as agent:
            with Peer(joined(bus.name, "victim")) as victim:
                victim.do("agent.subscribe('jobs', group='workers') and None")
                sender.publish("jobs", "left behind")
                agent.subscribe("jobs", group="workers")
                receiving = thread.submit(agent.receive, 60)
                victim.kill()
            assert receiving.result().data == "left behind"

    def test_match_the_subject_and_are_of_the_group(self, bus: Bus) -> None:
        with bus.join("sender") as sender, bus.join("a") as first:
            first.subscribe("x.*", group="g")
            sender.publish("x.1", 1)
            sender.publish("x.2", 2)
            others = [bus.join(name) for name in "bcd"]
            others[0].subscribe("x.2", group="g")
            others[1].subscribe("x.*", group="other")
            others[2].subscribe("x.*")
            first.close()
            assert [datas(agent) for agent in others] == [[2], [], []]

    def test_with_no_room_leave_it_discarded_and_counted(self, small_bus: Bus) -> None:
        with small_bus.join("sender") as sender:
            first, second = workers(small_bus, 2)
            sender.publish_many("jobs.x", range(2 * PLAIN), timeout=0)
            slot = first._slot
            first.close()
            assert len(datas(second)) == 32  # the last eighth too
            assert small_bus._inbox(slot).stats().discarded == PLAIN - 4

    def test_take_nothing_over_from_an_agent_that_had_the_inbox_before(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            alone = bus.join("alone")
            alone.subscribe("jobs", group="workers")
            sender.publish("jobs", "nobody's")
            alone.close()
            with bus.join("next") as following:
                following.subscribe("jobs", group="workers")
                other = bus.join("other")
                other.subscribe("jobs", group="workers")
                following.close()
                assert other.try_receive() is None

    def test_after_drain_get_nothing(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            first, second = workers(bus, 2)
            for i in range(10):
                sender.publish("jobs.x", i)
            left = [message.data for message in first.drain()]
            assert sorted(left + datas(second)) == list(range(10))


def test_workers_that_are_killed_and_replaced_lose_only_what_they_took(bus: Bus) -> None:
    """Each says what it has received before it takes the next."""
    setup = """
agent.subscribe("jobs", group="workers")
def work(count):
    got = []
    for _ in range(count):
        got.append(agent.receive(60).data)
    return got
"""
    with bus.join("sender") as sender, bus.join("keeper") as keeper:
        keeper.subscribe("jobs", group="workers")
        got: list[int] = []
        number = 0
        for _ in range(5):
            with Peer(joined(bus.name, "victim") + setup) as victim:
                for _ in range(20):
                    sender.publish("jobs", number, timeout=60)
                    number += 1
                got += victim.do("work(3)")
                victim.kill()
            with Bus.open(bus.name):  # reaps
                pass
        while (message := keeper.try_receive()) is not None:
            got.append(message.data)
        assert sorted(got) == list(range(number))

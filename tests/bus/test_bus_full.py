"""Full inboxes: who waits, who gets it first, what the error says, and that nobody waits for ever."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from peers import Peer, joined

import fastcomm.agent
from fastcomm import Agent, Bus
from fastcomm._core.ring import Ring
from fastcomm.errors import ClosedError, CorruptSegmentError, Full, PeerDiedError


@pytest.fixture
def few_pending(monkeypatch: pytest.MonkeyPatch) -> int:
    """Agents that join take this many messages out of their own inbox while they wait for room elsewhere."""
    monkeypatch.setattr(fastcomm.agent, "MAX_PENDING", 5)
    return 5


def fill(sender: Agent, subject: str) -> int:
    """Publish until an inbox is full; how many messages fitted."""
    for count in itertools.count():
        try:
            sender.publish(subject, count, timeout=0)
        except Full:
            return count
    raise AssertionError


def datas(agent: Agent) -> list[object]:
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


class TestTheError:
    def test_names_the_agent_and_what_waits_there(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("slow") as slow:
            slow.subscribe("x")
            assert fill(sender, "x") == 28  # and room for CRITICAL ones
            with pytest.raises(Full) as caught:
                sender.publish("x", b"more", timeout=0.05)
            text = str(caught.value)
            assert f"within 0.05 s in the inbox of agent 'slow', pid {os.getpid()}" in text
            assert "1792 of 2048 bytes wait there, none was taken for" in text
            assert "; reached 0, missing 1. Its agent has to receive, or" in text
            assert (caught.value.delivered, caught.value.missing) == (0, 1)

    def test_waits_at_least_the_timeout(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            fill(sender, "x")
            started = time.monotonic()
            with pytest.raises(Full):
                sender.publish("x", b"", timeout=0.15)
            assert time.monotonic() - started >= 0.15

    def test_counts_those_that_were_reached_and_those_not(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender:
            full = [small_bus.join(f"full {i}") for i in range(2)]
            free = [small_bus.join(f"free {i}") for i in range(3)]
            for agent in full:
                agent.subscribe("x")
            fill(sender, "x")
            for agent in free:
                agent.subscribe("x")
            with pytest.raises(Full) as caught:
                sender.publish("x", b"to some", timeout=0)
            assert (caught.value.delivered, caught.value.missing) == (3, 2)
            assert [datas(agent) for agent in free] == [[b"to some"]] * 3
            assert b"to some" not in datas(full[0]) + datas(full[1])

    def test_leaves_the_sequence_to_the_next(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            count = fill(sender, "x")
            got = [message.sequence for message in agent.receive_many()]
            sender.publish("x", b"")
            # What did not fit had a number of its own.
            assert got == list(range(1, count + 1))
            assert agent.receive(0).sequence == count + 2


class TestRoom:
    def test_waiting_publish_goes_on_when_the_receiver_takes_something(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")
            count = fill(sender, "x")
            publishing = thread.submit(sender.publish, "x", b"waited", timeout=60)
            got = [agent.receive(60).data for _ in range(count + 1)]
            assert publishing.result() == 1
            assert got == [*range(count), b"waited"]

    def test_goes_to_the_others_before_it_waits(self, small_bus: Bus, thread: ThreadPoolExecutor) -> None:
        with small_bus.join("a") as sender, small_bus.join("full") as full, small_bus.join("free") as free:
            full.subscribe("x")
            fill(sender, "x")
            free.subscribe("x")
            publishing = thread.submit(sender.publish, "x", b"both", timeout=60)
            assert free.receive(60).data == b"both"
            assert not publishing.done()
            assert datas(full)[0] == 0
            assert publishing.result() == 2
            assert datas(full) == [b"both"]

    def test_of_an_agent_that_leaves_is_no_longer_waited_for(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        with small_bus.join("a") as sender:
            agent = small_bus.join("b")
            agent.subscribe("x")
            fill(sender, "x")
            publishing = thread.submit(sender.publish, "x", b"", timeout=60)
            wait_until(publishing.running)
            agent.close()
            assert publishing.result() == 0

    def test_of_an_agent_that_is_killed_is_no_longer_waited_for(self, small_bus: Bus) -> None:
        with small_bus.join("a") as sender, Peer(joined(small_bus.name, "b", "x")) as peer:
            fill(sender, "x")
            peer.stop()
            with pytest.raises(Full, match=r"agent 'b', pid \d+ \(python.*\), alive"):
                sender.publish("x", b"", timeout=0.05)
            peer.kill()
            assert sender.publish("x", b"", timeout=60) == 0
            assert [info.name for info in small_bus.agents()] == ["a"]

    def test_of_ones_own_inbox_is_made_by_waiting(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent:
            agent.subscribe("x")
            for i in range(1000):
                assert agent.publish("x", i) == 1
            assert agent.stats().pending > 900
            assert datas(agent) == list(range(1000))
            assert agent.stats().pending == 0


class TestPending:
    def test_messages_come_first_and_in_order(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent, small_bus.join("b") as other:
            agent.subscribe("x")
            agent.subscribe("own")
            sent = []
            for i in range(300):
                agent.publish("own", i)
                other.publish("x", -i)
                sent += [i, -i]
                if i % 50 == 49:
                    got = datas(agent)
                    assert got == sent
                    sent.clear()

    def test_messages_are_bounded_and_the_error_says_so(self, small_bus: Bus, few_pending: int) -> None:
        with small_bus.join("a") as agent, small_bus.join("slow") as slow:
            agent.subscribe("own")
            slow.subscribe("x")
            fill(agent, "x")
            for i in range(28 + few_pending):
                agent.publish("own", i)
            with pytest.raises(
                Full, match="while this agent's own inbox is full and 5 messages wait for receive"
            ):
                agent.publish("own", b"")
            with pytest.raises(Full, match=r"in the inbox of agent 'slow'.*; reached 0, missing 1"):
                agent.publish("x", b"")
            assert agent.stats().pending == few_pending
            assert datas(agent) == list(range(28 + few_pending))

    def test_messages_of_a_cancelled_subscription_are_dropped_and_counted(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent:
            agent.subscribe("kept")
            cancelled = agent.subscribe("cancelled")
            for i in range(100):
                agent.publish("kept" if i % 2 else "cancelled", i)
            assert agent.stats().pending > 50
            cancelled.unsubscribe()
            assert datas(agent) == list(range(1, 100, 2))
            assert agent.stats().unwanted == 50

    def test_a_broken_record_found_by_a_waiting_publish_is_raised_by_receive(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent, small_bus.join("slow") as slow:
            agent.subscribe("own")
            slow.subscribe("x")
            fill(agent, "x")
            with Ring(small_bus._inbox_memory(0), owner=2) as raw:
                raw.put(b"no message")
            agent.publish("own", b"after")
            with pytest.raises(Full):
                agent.publish("x", b"", timeout=0.01)
            assert agent.stats().pending == 2
            with pytest.raises(CorruptSegmentError, match="that is no message; it was dropped"):
                agent.receive(0)
            assert agent.receive(0).data == b"after"


FLOOD = """
def flood(count):
    got = []
    for i in range(count):
        agent.publish("to.%s", i, timeout=60)
        while (message := agent.try_receive()) is not None:
            got.append(message.data)
    while len(got) < count:
        got.append(agent.receive(60).data)
    return got
"""


class TestNoDeadlock:
    def test_of_two_agents_in_threads_that_fill_each_other(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        def flood(agent: Agent, to: str) -> list[object]:
            for i in range(2000):
                assert agent.publish(to, i, timeout=60) == 1
            return [agent.receive(60).data for _ in range(2000)]

        with small_bus.join("a") as first, small_bus.join("b") as second:
            first.subscribe("to.a")
            second.subscribe("to.b")
            running = thread.submit(flood, first, "to.b"), thread.submit(flood, second, "to.a")
            assert [future.result() for future in running] == [list(range(2000))] * 2

    def test_of_two_processes_that_fill_each_other(self, small_bus: Bus) -> None:
        with (
            Peer(joined(small_bus.name, "a", "to.a")) as first,
            Peer(joined(small_bus.name, "b", "to.b")) as second,
        ):
            for peer, to in ((first, "b"), (second, "a")):
                peer.do(FLOOD % to)
                peer.send("flood(3000)")
            assert first.result() == second.result() == list(range(3000))

    def test_of_three_in_a_circle_who_receive_only_at_the_end(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        agents = [small_bus.join(str(i)) for i in range(3)]
        for i, agent in enumerate(agents):
            agent.subscribe(f"to.{i}")

        def run(i: int) -> list[object]:
            for number in range(500):
                agents[i].publish(f"to.{(i + 1) % 3}", number, timeout=60)
            return [agents[i].receive(60).data for _ in range(500)]

        assert list(thread.map(run, range(3))) == [list(range(500))] * 3


class TestThreads:
    def test_share_an_agent_and_lose_and_double_nothing(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        count, senders, receivers = 500, 3, 3
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x.>")

            def send(who: int) -> None:
                for i in range(count):
                    assert sender.publish(f"x.{who}", i, timeout=60) == 1

            def receive() -> list[tuple[str, int]]:
                got = []
                while (message := agent.receive(60)).data is not None:
                    got.append((message.subject, message.data))
                return got

            receiving = [thread.submit(receive) for _ in range(receivers)]
            for _ in thread.map(send, range(senders)):
                pass
            for _ in range(receivers):
                sender.publish("x.end", None, timeout=60)
            got = [item for future in receiving for item in future.result()]
            assert sorted(got) == sorted((f"x.{who}", i) for who in range(senders) for i in range(count))

    def test_share_an_agent_whose_messages_keep_the_order_of_their_numbers(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        with small_bus.join("a") as sender, small_bus.join("b") as agent:
            agent.subscribe("x")

            def send(who: int) -> None:
                for i in range(300):
                    sender.publish("x", (who, i), timeout=60)

            sending = [thread.submit(send, who) for who in range(4)]
            messages = [agent.receive(60) for _ in range(1200)]
            for future in sending:
                future.result()
            assert [message.sequence for message in messages] == list(range(1, 1201))
            for who in range(4):
                assert [i for sender_, i in (m.data for m in messages) if sender_ == who] == list(range(300))

    def test_that_receive_get_what_a_waiting_publish_of_another_drained(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        with small_bus.join("a") as agent, small_bus.join("slow") as slow, small_bus.join("c") as third:
            agent.subscribe("own")
            slow.subscribe("x")
            fill(agent, "x")
            publishing = thread.submit(agent.publish, "x", b"", timeout=60)
            wait_until(publishing.running)
            receiving = thread.submit(lambda: [agent.receive(60).data for _ in range(500)])
            for i in range(500):
                third.publish("own", i, timeout=60)
            assert receiving.result() == list(range(500))
            assert not publishing.done()
            slow.receive_many()
            assert publishing.result() == 1
            with pytest.raises(fastcomm.Empty):
                agent.receive(0.01)

    def test_that_receive_are_woken_by_close(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        agent = bus.join("a")
        receiving = [thread.submit(agent.receive) for _ in range(3)]
        iterating = thread.submit(lambda: list(agent))
        for future in [*receiving, iterating]:
            wait_until(future.running)
        time.sleep(0.02)
        agent.close()
        for future in receiving:
            with pytest.raises(ClosedError, match="is closed"):
                future.result()
        assert iterating.result() == []

    def test_that_publish_are_woken_by_close_and_send_nothing_more(
        self, small_bus: Bus, thread: ThreadPoolExecutor
    ) -> None:
        with small_bus.join("b") as slow:
            agent = small_bus.join("a")
            slow.subscribe("x")
            count = fill(agent, "x")
            publishing = [thread.submit(agent.publish, "x", b"late", timeout=60) for _ in range(3)]
            for future in publishing:
                wait_until(future.running)
            time.sleep(0.02)
            agent.close()
            for future in publishing:
                with pytest.raises(ClosedError, match="the agent 'a' is closed"):
                    future.result()
            assert datas(slow) == list(range(count))

    def test_iterate_until_close(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        agent = bus.join("a")
        agent.subscribe("x")
        iterating = thread.submit(lambda: [message.data for message in agent])
        for i in range(10):
            agent.publish("x", i)
        wait_until(lambda: agent.stats().received == 10)
        agent.close()
        assert iterating.result() == list(range(10))

    def test_subscribe_and_unsubscribe_at_once(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        with bus.join("a") as agent, bus.join("b") as other:

            def churn(who: int) -> None:
                for i in range(50):
                    with agent.subscribe(f"{who}.{i}"):
                        assert other.publish(f"{who}.{i}", b"") == 1

            shared = agent.subscribe("shared")
            for _ in thread.map(churn, range(4)):
                pass
            for _ in thread.map(lambda _: shared.unsubscribe(), range(8)):
                pass
            assert agent.subscriptions == ()
            assert bus._subscriptions.entries_in_use() == []

    def test_lose_nothing_that_comes_as_they_subscribe(self, bus: Bus, thread: ThreadPoolExecutor) -> None:
        """A receiver that filters (it unsubscribed before) knows a new pattern as soon as publishers do."""
        with bus.join("a") as agent, bus.join("b") as other:
            agent.subscribe("before").unsubscribe()
            stop = threading.Event()
            got: list[object] = []

            def receive() -> None:
                while not stop.is_set():
                    got.extend(datas(agent))

            def publish() -> int:
                return sum(other.publish("x", b"") for _ in iter(stop.is_set, True))

            receiving, publishing = thread.submit(receive), thread.submit(publish)
            subscription = agent.subscribe("x")
            wait_until(lambda: got)
            stop.set()
            receiving.result()
            while not publishing.done():
                got += datas(agent)
            assert len(got) + len(datas(agent)) == publishing.result()
            assert agent.stats().unwanted == 0
            subscription.unsubscribe()


class TestDeathOfPeers:
    def test_the_last_one_is_an_error_once_and_then_new_ones_are_waited_for(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            with Peer(joined(bus.name, "b")) as peer:
                peer.kill()
            with pytest.raises(PeerDiedError, match=f"pid {peer.pid}") as caught:
                agent.receive(60)
            assert caught.value.pid == peer.pid
            with pytest.raises(fastcomm.Empty):
                agent.receive(0.25)
            with Peer(joined(bus.name, "b")) as peer:
                peer.do("agent.publish('x', b'hello')")
                assert agent.receive(60).data == b"hello"

    def test_is_told_after_its_messages(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            with Peer(joined(bus.name, "b")) as peer:
                peer.do("for i in range(10): agent.publish('x', i)")
                peer.kill()
            assert [agent.receive(60).data for _ in range(10)] == list(range(10))
            with pytest.raises(PeerDiedError):
                agent.receive(60)

    def test_is_no_error_while_others_live(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("c") as other:
            agent.subscribe("x")
            with Peer(joined(bus.name, "b", "x")) as peer:
                peer.kill()
            with pytest.raises(fastcomm.Empty):
                agent.receive(1.2)  # long enough for a scan
            assert [info.name for info in bus.agents()] == ["a", "c"]
            assert other.publish("x", b"") == 1

    def test_of_those_who_leave_is_no_error(self, bus: Bus) -> None:
        with bus.join("a") as agent, Peer(joined(bus.name, "b")) as peer:
            peer.end()
            with pytest.raises(fastcomm.Empty):
                agent.receive(0.3)

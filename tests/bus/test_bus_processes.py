"""Agents across fork, spawn, forkserver and unrelated processes; signals."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from typing import Any

import pytest
from peers import Peer, PeerError, joined

import fastcomm
from fastcomm import Agent, Bus
from fastcomm.errors import ClosedError, PeerDiedError


def in_child(work: Any) -> Any:
    """What `work()` returns or raises in a forked child, which then ends like one of multiprocessing."""
    parent, child = multiprocessing.get_context("fork").Pipe(duplex=False)

    def run() -> None:
        try:
            child.send(work())
        except BaseException as error:
            child.send(error)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    child.close()
    try:
        result = parent.recv()
    except EOFError:
        result = None
    process.join()
    parent.close()
    assert process.exitcode == 0
    process.close()
    if isinstance(result, BaseException):
        raise result
    return result


class TestFork:
    def test_child_joins_anew_under_its_own_name_without_subscriptions(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            subscription = agent.subscribe("x")

            def child() -> Any:
                reached = agent.publish("x", os.getpid())
                subscription.unsubscribe()
                return agent.name, reached, agent.subscriptions, [info.name for info in bus.agents()]

            name, reached, subscriptions, names = in_child(child)
            message = agent.receive(60)
            assert name == message.sender == f"a.{message.data}"
            assert (reached, subscriptions, names) == (1, (), ["a", name])
            assert [info.name for info in bus.agents()] == ["a"]
            assert agent.publish("x", b"still") == 1
            assert agent.receive(0).data == b"still"

    def test_child_receives_what_it_subscribes_to(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", b"the parent's")

            def child() -> Any:
                agent.subscribe("x")
                reached = agent.publish("x", b"both")
                return reached, [message.data for message in agent.receive_many()]

            assert in_child(child) == (2, [b"both"])
            assert [message.data for message in agent.receive_many()] == [b"the parent's", b"both"]

    @pytest.mark.parametrize("long", ["n" * 80, "é" * 40, "\U0001f600" * 20])
    def test_child_of_an_agent_with_the_longest_name_shortens_it(self, bus: Bus, long: str) -> None:
        with bus.join(long) as agent:

            def child() -> str:
                agent.publish("x", b"")
                return agent.name

            name = in_child(child)
            assert name.startswith(long[:15])
            assert len(name.encode()) <= 80
            assert name.rpartition(".")[2].isdigit()

    def test_child_whose_threads_use_the_agent_at_once_joins_once(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")

            def child() -> list[str]:
                threads = [threading.Thread(target=agent.publish, args=("x", i)) for i in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                return [info.name for info in bus.agents()]

            names = in_child(child)
            assert len(names) == 2
            assert sorted(message.data for message in agent.receive_many()) == list(range(8))

    def test_child_that_uses_nothing_disturbs_nobody(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            assert in_child(lambda: None) is None
            assert agent.publish("x", b"1") == 1
            assert agent.receive(0).data == b"1"
            assert bus._segment.deaths == (0, 0)

    def test_child_that_closes_the_agent_leaves_the_parents_alone(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")

            def child() -> list[str]:
                agent.close()
                bus.close()
                return []

            in_child(child)
            assert agent.publish("x", b"1") == 1
            assert [info.name for info in bus.agents()] == ["a"]

    def test_child_does_not_keep_its_parent_alive(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            with Peer(joined(bus.name, "parent", "x")) as parent:
                parent.do("pid = os.fork() or (time.sleep(60), os._exit(0))")
                pid = parent.do("pid")
                parent.kill()
            try:
                assert agent.publish("x", b"") in (0, 1)
                with pytest.raises(PeerDiedError):
                    agent.receive(60)
                assert [info.name for info in bus.agents()] == ["a"]
                with bus.join("parent"):
                    pass
            finally:
                os.kill(pid, signal.SIGKILL)

    def test_grandchild_joins_under_a_name_of_its_own(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")

            def child() -> None:
                agent.publish("x", 1)
                in_child(lambda: agent.publish("x", 2))

            in_child(child)
            first, second = agent.receive_many()
            assert second.sender.startswith(first.sender + ".")

    def test_while_another_thread_receives_gives_the_child_a_working_agent(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            got: list[Any] = []
            thread = threading.Thread(target=lambda: got.append(agent.receive(60).data))
            thread.start()
            assert in_child(lambda: agent.publish("x", b"from the child")) == 1
            thread.join()
            assert got == [b"from the child"]


def publish_from_child(bus: Bus, subject: str) -> None:
    with bus.join("child") as agent:
        agent.publish(subject, bus.name)
    bus.close()


class TestPickling:
    @pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
    def test_a_bus_gives_the_child_the_same_bus(self, bus: Bus, method: Any) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            process = multiprocessing.get_context(method).Process(target=publish_from_child, args=(bus, "x"))
            process.start()
            message = agent.receive(60)
            process.join()
            assert (message.sender, message.data, process.exitcode) == ("child", bus.name, 0)
            process.close()

    def test_a_bus_opens_the_same_file_wherever_it_lies(
        self, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (
            Bus.open(name, directory=tmp_path, max_agents=3) as bus,
            bus.join("a"),
            pickle.loads(pickle.dumps(bus)) as again,
        ):
            assert again.path == bus.path
            assert [info.name for info in again.agents()] == ["a"]

    def test_a_bus_that_has_gone_is_not_found(self, name: str) -> None:
        with Bus.open(name) as bus:
            pickled = pickle.dumps(bus)
        with pytest.raises(fastcomm.SegmentNotFoundError):
            pickle.loads(pickled)

    def test_an_agent_is_refused_and_told_what_to_do(self, bus: Bus) -> None:
        with bus.join("a") as agent, pytest.raises(TypeError, match="pickle its bus, and join there"):
            pickle.dumps(agent)


class TestUnrelatedProcesses:
    def test_publish_and_receive_as_agents_of_one_process_do(self, bus: Bus) -> None:
        def conversation(first: Any, second: Any) -> list[Any]:
            said = [second("agent.subscribe('x.*') and None")]
            said += [first(f"agent.publish('x.{i}', [{i}, 'text'])") for i in range(3)]
            said += [second("[(m.subject, m.sender, m.sequence, m.data) for m in agent.receive_many()]")]
            said += [second("agent.stats()[:5]"), first("agent.stats()[:5]")]
            return said

        with Peer(joined(bus.name, "a")) as first, Peer(joined(bus.name, "b")) as second:
            apart = conversation(first.do, second.do)
            assert (first.end(), second.end()) == (0, 0)
        with bus.join("a") as one, bus.join("b") as two:
            together = conversation(
                lambda source: eval(source, {"agent": one}), lambda source: eval(source, {"agent": two})
            )
        assert apart == together


class TestSignals:
    @pytest.mark.parametrize(
        "call", ["agent.receive()", "agent.publish('x', b'')", "agent.wait_for_subscribers('y')"]
    )
    def test_ctrl_c_ends_a_call_that_waits(self, small_bus: Bus, call: str) -> None:
        with small_bus.join("slow") as slow, Peer(joined(small_bus.name, "a")) as peer:
            slow.subscribe("x")
            peer.do("[agent.publish('x', i) for i in range(28)] and None")
            peer.send(call)
            time.sleep(0.2)
            peer.interrupt()
            with pytest.raises(PeerError, match="KeyboardInterrupt"):
                peer.result()
            slow.receive_many()
            assert peer.do("agent.publish('x', b'goes on')") == 1
            assert slow.receive(0).data == b"goes on"
            assert peer.end() == 0

    def test_a_handler_may_publish_while_the_publish_it_interrupted_waits(self, small_bus: Bus) -> None:
        with small_bus.join("slow") as slow, small_bus.join("free") as free, small_bus.join("a") as agent:
            slow.subscribe("x")
            free.subscribe("y")
            for i in range(28):
                agent.publish("x", i)

            def handler(*_: object) -> None:
                agent.publish("y", b"from the handler", timeout=60)
                slow.receive_many()

            before = signal.signal(signal.SIGALRM, handler)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                assert agent.publish("x", b"waited", timeout=60) == 1
            finally:
                signal.signal(signal.SIGALRM, before)
            assert free.receive(0).data == b"from the handler"
            assert slow.receive(0).data == b"waited"


def test_an_agent_whose_bus_was_closed_in_a_thread_says_so(bus: Bus) -> None:
    agent: Agent = bus.join("a")
    thread = threading.Timer(0.05, bus.close)
    thread.start()
    with pytest.raises(ClosedError):
        agent.receive(60)
    thread.join()

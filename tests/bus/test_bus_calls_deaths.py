"""Requests whose answerers, or askers, are killed: nobody waits in vain, no other member does them again."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from peers import Peer, joined
from procs import wait_until

from fastcomm import Agent, Bus
from fastcomm.errors import NoRespondersError, PeerDiedError, RequestTimeoutError

LONG = 60.0


@contextmanager
def asking(agent: Agent, subject: str, data: Any, timeout: float | None = None) -> Iterator[list[Any]]:
    outcome: list[Any] = []

    def ask() -> None:
        try:
            outcome.append(agent.request(subject, data, timeout))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join()


def member(bus: Bus, name: str) -> Peer:
    return Peer(joined(bus.name, name) + "\nagent.subscribe('x', group='g')")


@pytest.mark.parametrize("taken", [False, True], ids=["unread", "taken"])
def test_answerer_that_is_killed_ends_the_request(bus: Bus, taken: bool) -> None:
    with bus.join("asker") as asker, bus.join("other"), Peer(joined(bus.name, "b", "x")) as peer:
        with asking(asker, "x", 1) as outcome:
            wait_until(lambda: asker.stats().delivered)
            if taken:
                assert peer.do("agent.receive(60).data") == 1
            peer.kill()
        error = outcome[0]
        assert isinstance(error, PeerDiedError)
        assert "'b' had the request 'x' and was killed or has left without an answer" in str(error)
        assert error.pid == peer.pid
        with pytest.raises(NoRespondersError):
            asker.request("x", 2)


def test_answerer_that_is_killed_while_nobody_else_is_left_ends_the_request(bus: Bus) -> None:
    with bus.join("asker") as asker, Peer(joined(bus.name, "b", "x")) as peer:
        with asking(asker, "x", 1) as outcome:
            peer.do("agent.receive(60).data")
            peer.kill()
        assert isinstance(outcome[0], PeerDiedError)


def test_one_that_was_dead_before_it_was_asked_ends_the_request(bus: Bus) -> None:
    with bus.join("asker") as asker, bus.join("other"), Peer(joined(bus.name, "b", "x")) as peer:
        peer.kill()
        with pytest.raises((PeerDiedError, NoRespondersError)):
            asker.request("x", 1, None)


def test_answer_of_one_that_was_killed_after_it_answered_arrives(bus: Bus) -> None:
    with bus.join("asker") as asker, bus.join("other"):
        for i in range(5):
            with Peer(joined(bus.name, "b", "x")) as peer:
                peer.send("agent.receive(60).respond('last words'); os.kill(os.getpid(), signal.SIGKILL)")
                assert asker.request("x", i, None).data == "last words"
                peer.kill()
            wait_until(lambda: asker._routes_to("x")[0] == 0 or bus._housekeep())


def test_death_of_one_of_several_ends_nothing(bus: Bus) -> None:
    with bus.join("asker") as asker, bus.join("other") as other, Peer(joined(bus.name, "b", "x")) as peer:
        other.subscribe("x")
        with asking(asker, "x", 1) as outcome:
            request = other.receive(LONG)
            peer.do("agent.receive(60).data")
            peer.kill()
            wait_until(lambda: len(bus.agents()) == 2 or bus._housekeep())
            assert not outcome
            request.respond("alive")
        assert outcome[0].data == "alive"


def test_member_that_dies_before_it_took_the_request_leaves_it_to_another(bus: Bus) -> None:
    with bus.join("asker") as asker, member(bus, "m1") as first:
        with asking(asker, "x", "job") as outcome:
            wait_until(lambda: asker.stats().delivered)
            with member(bus, "m2") as second:
                first.kill()
                second.do("message = agent.receive(60)")
                assert second.do("(message.data, message.sender)") == ("job", "asker")
                assert second.do("message.respond('heir')") is True
                wait_until(lambda: outcome)
                second.end()
        assert (outcome[0].data, outcome[0].sender) == ("heir", "m2")
        assert asker.stats().late_responses == 0


def test_heir_that_dies_with_the_request_ends_it(bus: Bus) -> None:
    with bus.join("asker") as asker, member(bus, "m1") as first, bus.join("other"):
        with asking(asker, "x", "job") as outcome:
            wait_until(lambda: asker.stats().delivered)
            with member(bus, "m2") as second:
                first.kill()
                second.do("message = agent.receive(60)")
                assert not outcome
                second.kill()
        assert isinstance(outcome[0], PeerDiedError)
        assert outcome[0].pid == second.pid


def test_member_that_dies_after_it_took_the_request_ends_it_and_nobody_gets_it_again(bus: Bus) -> None:
    with bus.join("asker") as asker, member(bus, "m1") as first:
        with asking(asker, "x", "job") as outcome:
            first.do("message = agent.receive(60)")
            with member(bus, "m2") as second:
                first.kill()
                wait_until(lambda: outcome)
                assert second.do("agent.try_receive()") is None
                second.end()
        assert isinstance(outcome[0], PeerDiedError)


def test_member_that_leaves_with_the_request_unread_leaves_it_to_another(bus: Bus) -> None:
    with bus.join("asker") as asker, bus.join("m2") as second:
        first = bus.join("m1")
        first.subscribe("x", group="g")
        with asking(asker, "x", "job") as outcome:
            wait_until(lambda: asker.stats().delivered)
            second.subscribe("x", group="g")
            first.close()
            assert second.receive(LONG).respond("heir") is True
        assert outcome[0].data == "heir"


def test_asker_that_was_killed_costs_its_answerer_nothing(bus: Bus) -> None:
    with bus.join("b") as answerer:
        answerer.subscribe("x")
        with Peer(joined(bus.name, "asker")) as peer:
            peer.send("agent.request('x', 1, None)")
            request = answerer.receive(LONG)
            peer.kill()
        wait_until(lambda: len(bus.agents()) == 1 or bus._housekeep())
        with bus.join("asker") as successor:
            assert request.respond("nobody") is False
            assert successor.depth == 0
        assert answerer.stats().unsent_responses == 1


def test_answerer_that_is_stopped_is_alive_and_named_in_the_end(bus: Bus) -> None:
    with bus.join("asker") as asker, Peer(joined(bus.name, "b", "x")) as peer:
        peer.stop()
        with pytest.raises(RequestTimeoutError, match="1 of them are alive: agent 'b'") as raised:
            asker.request("x", 1, 0.3)
        peer.go_on()
        assert (raised.value.reached, raised.value.alive) == (1, 1)
        assert peer.do("agent.try_receive()") is None  # its time is over
        assert peer.do("agent.stats().expired_requests") == 1
        peer.end()


def test_members_killed_at_random_moments_lose_and_double_no_request(bus: Bus) -> None:
    """Each request ends with its answer or with PeerDiedError, and the answer is its own."""
    serve = """
agent.subscribe('x', lambda m: m.respond(m.data), group='g')
threading.Thread(target=agent.run).start()
"""
    with bus.join("asker") as asker, bus.join("other") as other:
        other.subscribe("x", lambda message: message.respond(message.data), group="g")
        running = threading.Thread(target=other.run)
        running.start()
        outcomes: list[Any] = []

        def ask(first: int) -> None:
            for i in range(first, first + 300):
                try:
                    outcomes.append((i, asker.request("x", i, LONG).data))
                except PeerDiedError:
                    outcomes.append((i, None))

        threads = [threading.Thread(target=ask, args=(1000 * i,)) for i in range(3)]
        peers = [Peer(joined(bus.name, f"m{i}")) for i in range(3)]
        try:
            for peer in peers:
                peer.do(serve)
            for thread in threads:
                thread.start()
            for peer in peers:
                before = len(outcomes)
                wait_until(lambda before=before: len(outcomes) > before + 100)
                peer.kill()
        finally:
            for peer in peers:
                peer.kill()
            for thread in threads:
                thread.join()
            other.close()
            running.join()
    assert len(outcomes) == 900
    assert all(answer in (i, None) for i, answer in outcomes)
    assert sum(answer is None for _, answer in outcomes) <= 9  # what three askers had with three members

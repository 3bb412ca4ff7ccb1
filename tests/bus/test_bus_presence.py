"""Presence: what `$bus.agent.joined`, `.left` and `.died` tell, to whom, and when it can't be told."""

import asyncio
import os
import time

import pytest
from peers import Peer, joined
from procs import LONG

from fastcomm import Agent, Bus, Message
from fastcomm.errors import InvalidSubjectError, PeerDiedError

ALL = "$bus.agent.*"


def told(agent: Agent) -> list[tuple[str, str]]:
    """What has come, as (what, name)."""
    found = []
    while (message := agent.try_receive()) is not None:
        found.append((message.subject.removeprefix("$bus.agent."), message.data["name"]))
    return found


class TestJoiningAndLeaving:
    def test_are_told_to_who_watches(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe(ALL)
            with bus.join("a b.c"), bus.join("d"):
                pass
            assert told(watcher) == [("joined", "a b.c"), ("joined", "d"), ("left", "d"), ("left", "a b.c")]

    def test_say_who_it_is_and_when(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe("$bus.>")
            before = time.time()
            with bus.join("a"):
                info = bus.agents()[1]
            came, went = watcher.receive_many()
            assert (came.subject, went.subject) == ("$bus.agent.joined", "$bus.agent.left")
            assert (came.sender, came.sequence, came.headers) == ("a", 0, {})
            for message in (came, went):
                assert before <= message.data.pop("when") <= time.time()
            assert came.data == {
                "name": "a",
                "pid": os.getpid(),
                "slot": info.slot,
                "generation": info.generation,
            }
            assert went.data == came.data

    def test_are_not_told_to_themselves(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe(ALL)
            with bus.join("other") as other:
                other.subscribe(ALL)
                assert told(watcher) == [("joined", "other")]
                assert told(other) == []

    def test_come_once_by_two_patterns_and_to_one_member_of_a_group(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher, bus.join("one") as one, bus.join("two") as two:
            watcher.subscribe(ALL)
            watcher.subscribe("$bus.agent.joined")
            for member in (one, two):
                member.subscribe(ALL, group="watchers")
            for i in range(4):
                bus.join(str(i)).close()
            everything = [(what, str(i)) for i in range(4) for what in ("joined", "left")]
            assert told(watcher) == everything
            first, second = told(one), told(two)
            assert sorted(first + second) == sorted(everything)
            assert len(first) == len(second) == 4

    def test_go_to_handlers_of_their_patterns_alone(self, bus: Bus) -> None:
        got: list[str] = []
        with bus.join("watcher") as watcher:
            watcher.subscribe(ALL, lambda message: got.append(message.subject))
            watcher.subscribe(">", lambda message: got.append("by >"))
            bus.join("a").close()
            watcher.dispatch()
        assert got == ["$bus.agent.joined", "$bus.agent.left"]

    @pytest.mark.parametrize("pattern", [">", "*.>", "*.agent.*", "*.*.joined"])
    def test_are_not_matched_by_wildcards_in_the_place_of_bus(self, bus: Bus, pattern: str) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe(pattern)
            bus.join("a").close()
            assert told(watcher) == []

    def test_after_an_unsubscribe_are_wanted_by_no_wildcard(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe(">")
            subscription = watcher.subscribe(ALL)
            bus.join("a").close()
            subscription.unsubscribe()
            assert told(watcher) == []
            assert watcher.stats().unwanted == 2

    def test_leaving_is_told_after_what_was_sent_before(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe("x")
            watcher.subscribe(ALL)
            with bus.join("a") as agent:
                agent.publish("x", b"last")
            assert [message.subject for message in watcher.receive_many()] == [
                "$bus.agent.joined",
                "x",
                "$bus.agent.left",
            ]

    def test_wake_who_waits_in_asyncio(self, bus: Bus) -> None:
        async def wait(watcher: Agent) -> Message:
            waiting = asyncio.create_task(watcher.receive_async(LONG))
            await asyncio.sleep(0.05)
            bus.join("a").close()
            return await waiting

        with bus.join("watcher") as watcher:
            watcher.subscribe(ALL)
            assert asyncio.run(wait(watcher)).subject == "$bus.agent.joined"

    def test_do_not_wait_for_a_full_inbox_and_are_counted_there(self, small_bus: Bus) -> None:
        with small_bus.join("watcher") as watcher, small_bus.join("sender") as sender:
            watcher.subscribe("x")
            watcher.subscribe(ALL)
            for i in range(28):
                sender.publish("x", i)
            for _ in range(4):  # into the last eighth, then nowhere
                small_bus.join("a").close()
            came = watcher.receive_many()
            refused = watcher.stats().refused
            assert refused > 0
            assert len(came) + refused == 28 + 8
            assert watcher.stats().lost == 0  # they have no numbers
            assert sender.publish("x", b"goes on") == 1


class TestDeath:
    def test_is_told_without_traffic_to_who_waits(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe("$bus.agent.died")
            with Peer(joined(bus.name, "doomed", "x")) as peer:
                (generation,) = (info.generation for info in bus.agents() if info.name == "doomed")
                peer.kill()
            message = watcher.receive(LONG)
            assert message.subject == "$bus.agent.died"
            assert message.data["name"] == message.sender == "doomed"
            assert message.data["pid"] == peer.pid
            assert message.data["generation"] == generation
            assert message.data["noticed"] == "scan"
            assert message.data["noticed_by"] == os.getpid()
            assert [info.name for info in bus.agents()] == ["watcher"]
            with pytest.raises(PeerDiedError):  # nobody else is left: said after the message
                watcher.receive(LONG)

    def test_is_told_without_traffic_to_a_coroutine_that_waits(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe("$bus.agent.died")
            with Peer(joined(bus.name, "doomed")) as peer:
                peer.kill()
            assert asyncio.run(watcher.receive_async(LONG)).data["name"] == "doomed"

    def test_is_noticed_by_who_waits_for_room_in_its_inbox(self, small_bus: Bus) -> None:
        with small_bus.join("watcher") as watcher, Peer(joined(small_bus.name, "doomed", "x")) as peer:
            watcher.subscribe("$bus.agent.died")
            for i in range(28):
                watcher.publish("x", i)
            peer.kill()
            assert watcher.publish("x", b"", timeout=LONG) == 0
            assert watcher.receive(LONG).data["noticed"] in ("wait", "scan")

    def test_is_noticed_by_who_joins(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe("$bus.agent.died")
            with Peer(joined(bus.name, "doomed")) as peer:
                peer.kill()
            with bus.join("a"):
                assert watcher.receive(0).data["noticed"] == "gate"

    def test_of_several_is_told_once_each(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher, bus.join("other"):
            watcher.subscribe("$bus.agent.died")
            peers = [Peer(joined(bus.name, f"doomed {i}", ALL)) for i in range(3)]
            for peer in peers:
                peer.kill()
            names = [watcher.receive(LONG).data["name"] for _ in range(3)]
            assert sorted(names) == [f"doomed {i}" for i in range(3)]
            with bus.join("a"):
                assert told(watcher) == []

    def test_is_told_after_what_the_dead_had_sent(self, bus: Bus) -> None:
        with bus.join("watcher") as watcher:
            watcher.subscribe("x")
            watcher.subscribe("$bus.agent.died")
            with Peer(joined(bus.name, "doomed")) as peer:
                assert peer.do("[agent.publish('x', i) for i in range(10)]") == [1] * 10
                peer.kill()
            with bus.join("a"):
                pass
            assert [message.data for message in watcher.receive_many(11)][:10] == list(range(10))


class TestReserved:
    def test_subjects_are_not_for_agents_to_publish_to(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            for publish in (agent.publish, agent.publish_many):
                with pytest.raises(InvalidSubjectError, match=r"begin with '\$bus\.' are the bus's own"):
                    publish("$bus.agent.died", [{}])

    def test_subjects_are_only_those(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe(">")
            for subject in ("$bus", "$busy.x", "x.$bus.y", "$SYS.x"):
                assert agent.publish(subject, b"") == 1


class TestAgents:
    def test_tell_what_they_subscribed_to_and_since_when_they_are_there(self, bus: Bus) -> None:
        before = time.time()
        with bus.join("a") as agent, bus.join("b"):
            after = time.time()
            agent.subscribe("x.*")
            agent.subscribe("jobs", group="g")
            first, second = bus.agents()
            assert (first.subscriptions, second.subscriptions) == (("x.*", "jobs"), ())
            assert before - 1 < first.since <= second.since < after + 1  # two clocks
            assert (first.slot, first.generation) != (second.slot, second.generation)

    def test_of_one_slot_have_different_generations(self, bus: Bus) -> None:
        with bus.join("stays"):
            seen = set()
            for _ in range(3):
                with bus.join("a"):
                    seen.add((bus.agents()[1].slot, bus.agents()[1].generation))
            assert len({slot for slot, _ in seen}) == 1
            assert len(seen) == 3

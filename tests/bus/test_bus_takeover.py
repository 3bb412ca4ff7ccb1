"""A bus all of whose agents were killed, at any moment: the next to open it takes it over, whole."""

import os
import random
import signal
import time
from contextlib import suppress

import pytest
from peers import Peer, joined
from procs import fork, join

from fastcomm import Bus
from fastcomm.errors import FastCommError
from fastcomm.segments import clean_segments, list_segments

LIMITS = {"max_agents": 8, "inbox_bytes": 4096}
PROCESSES = 4
ROUNDS = 12


def live(name: str, seed: int) -> None:
    """Open or make the bus, join, subscribe, publish, leave, for ever."""
    rng = random.Random(seed)
    while True:
        with suppress(FastCommError), Bus.open(name, **LIMITS) as bus:  # type: ignore[arg-type]
            agent = bus.join(rng.choice(["", "a", "b", "c"]) or None)
            agent.subscribe("$bus.agent.*")
            for _ in range(rng.randrange(10)):
                subscription = agent.subscribe(rng.choice(["x", "y.*", ">"]))
                agent.publish(rng.choice(["x", "y.z"]), {"a key": rng.random()}, timeout=0)
                agent.try_receive()
                if rng.random() < 0.5:
                    subscription.unsubscribe()
            if rng.random() < 0.2:
                bus.unlink()


def check(bus: Bus) -> None:
    """It is as good as new."""
    assert bus.agents() == []
    assert bus._subscriptions.entries_in_use() == []
    assert not bus._segment.mutating
    names = [str(i) for i in range(LIMITS["max_agents"])]
    agents = [bus.join(one) for one in names]
    assert [info.name for info in bus.agents()] == names
    for agent in agents:
        agent.subscribe("x")
        assert agent.try_receive() is None
    for agent in agents:
        assert agent.publish("x", {"from": agent.name}) == len(agents)
    for agent in agents:
        assert [message.data["from"] for message in agent.receive_many()] == names
    for agent in agents:
        agent.close()


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_all_at_once_at_a_random_moment(name: str, seed: int) -> None:
    """Some may be in the gate, some in the middle of making the file, a table's entry, or a record."""
    rng = random.Random(seed)
    pids = [fork(lambda i=i: live(name, seed * PROCESSES + i)) for i in range(PROCESSES)]  # type: ignore[misc]
    time.sleep(rng.uniform(0.02, 0.5))
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        join(pid)
    with Bus.open(name, **LIMITS) as bus:  # type: ignore[arg-type]
        folder = os.path.dirname(bus.path)
        check(bus)
    clean_segments()  # what was unlinked by its agents and left half-made
    assert [info.path for info in list_segments() if info.name == name] == []
    assert [entry for entry in os.listdir(folder) if entry.startswith(os.path.basename(bus.path))] == []


def test_taken_over_by_several_at_once(name: str) -> None:
    for i in range(3):
        with Peer(joined(name, f"dead {i}", "x", **LIMITS)) as peer:
            peer.kill()
    peers = [Peer("import fastcomm") for _ in range(3)]
    for i, peer in enumerate(peers):
        peer.send(f"bus = fastcomm.Bus.open({name!r}); agent = bus.join('{i}'); agent.subscribe('x')")
    for peer in peers:
        peer.result()
    assert peers[0].do("sorted(info.name for info in bus.agents())") == ["0", "1", "2"]
    assert peers[0].do("agent.publish('x', 1)") == 3
    for peer in peers:
        assert peer.do("agent.receive(60).data") == 1
        assert peer.end() == 0

"""Random messages among 100 agents, and 1,000: each is delivered once, in the order of its publisher."""

import random
import struct
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from procs import LONG, forked

from fastcomm import Agent, Bus

PAYLOAD = 256
STAMP = struct.Struct("<II")  # publisher and sequence number; zeros follow
EVERYBODY = "everybody"
SEED = 1

Plan = list[list[int]]  # by publisher: the agents that its messages go to, in order


def random_plan(agents: int, messages: int) -> Plan:
    """Each agent publishes as many as the others, each to another agent than itself."""
    rng = random.Random(SEED)
    return [
        [(publisher + rng.randrange(1, agents)) % agents for _ in range(messages // agents)]
        for publisher in range(agents)
    ]


def expected_by(plan: Plan) -> list[dict[int, list[int]]]:
    """By receiver: what comes from each publisher, in order."""
    expected: list[dict[int, list[int]]] = [defaultdict(list) for _ in plan]
    for publisher, targets in enumerate(plan):
        for sequence, target in enumerate(targets):
            expected[target][publisher].append(sequence)
    return expected


def act(bus: Bus, index: int, targets: list[int], expected: dict[int, list[int]]) -> None:
    """An agent's life: join, publish when told that all are there, and check what came when told the end.

    All was committed before the end was announced, so what an inbox is given twice lies before that in it.
    """
    with bus.join(f"agent-{index}") as agent:
        agent.subscribe(f"to.{index}")
        agent.subscribe(EVERYBODY)
        received: dict[int, list[int]] = defaultdict(list)
        receive_until_told(agent, received)
        for sequence, target in enumerate(targets):
            data = STAMP.pack(index, sequence).ljust(PAYLOAD, b"\0")
            assert agent.publish(f"to.{target}", data, timeout=LONG) == 1
        agent.publish("done", index, timeout=LONG)
        receive_until_told(agent, received)
        assert received == expected
        assert agent.try_receive() is None


def receive_until_told(agent: Agent, received: dict[int, list[int]]) -> None:
    while (message := agent.receive(LONG)).subject != EVERYBODY:
        publisher, sequence = STAMP.unpack_from(message.data)
        assert (len(message.data), message.sender) == (PAYLOAD, f"agent-{publisher}")
        received[publisher].append(sequence)


def act_all(name: str, indices: range, plan: Plan, expected: list[dict[int, list[int]]]) -> None:
    """In a process: its agents, each in a thread of its own."""
    with Bus.open(name, create=False) as bus, ThreadPoolExecutor(len(indices)) as threads:
        lives = [threads.submit(act, bus, index, plan[index], expected[index]) for index in indices]
        for life in lives:
            life.result()


def exchange(bus: Bus, agents: int, processes: int, messages: int) -> None:
    """Every agent checks what it was sent; a process one of whose agents is not content ends badly."""
    plan = random_plan(agents, messages)
    expected = expected_by(plan)
    with ExitStack() as stack, bus.join("starter") as starter:
        starter.subscribe("done")
        for number in range(processes):
            indices = range(number, agents, processes)
            stack.enter_context(
                forked(lambda indices=indices: act_all(bus.name, indices, plan, expected))  # type: ignore[misc]
            )
        starter.wait_for_subscribers(EVERYBODY, agents, timeout=LONG)
        assert starter.publish(EVERYBODY, None, timeout=LONG) == agents
        assert sorted(starter.receive(LONG).data for _ in range(agents)) == list(range(agents))
        assert starter.publish(EVERYBODY, None, timeout=LONG) == agents
        stack.close()  # all ended well
    assert bus.agents() == []
    assert bus._segment.deaths == (0, 0)


@pytest.mark.parametrize("processes", [10, 100])
def test_10_000_messages_among_100_agents_arrive_once_and_in_order(name: str, processes: int) -> None:
    with Bus.open(name) as bus:
        exchange(bus, agents=100, processes=processes, messages=10_000)


@pytest.mark.large
def test_1_000_agents_of_50_processes_share_one_bus(name: str) -> None:
    with Bus.open(name, max_agents=4094) as bus:
        exchange(bus, agents=1000, processes=50, messages=10_000)

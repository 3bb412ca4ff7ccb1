"""Whatever is scribbled over the shared memory, calls end: with a specific error or as if it had not been."""

import contextlib
import random
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from fastcomm import Agent, Bus
from fastcomm._core.ring import Ring
from fastcomm.errors import CorruptSegmentError, FastCommError
from fastcomm.segments import clean_segments

RING = {
    "cells": 0,
    "tail": 128,
    "head": 256,
    "not_empty": 384,
    "not_full": 512,
    "consumer": 640,
    "epoch": 648,
}
AGENTS, SUBSCRIPTIONS = 1, 2  # numbers of sections
ENTRIES = 256 + 8 * 256  # where the entries of the subscription table begin
ENTRY = 256


def section(bus: Bus, number: int) -> memoryview:
    return bus._segment.memory(*bus._segment.section(number))


def write(memory: memoryview, at: int, value: int, size: int = 8) -> None:
    memory[at : at + size] = value.to_bytes(size, "little")


def fill(sender: Agent) -> None:
    for _ in range(40):
        sender.publish("x", b"", timeout=0)


@pytest.fixture
def pair(request: pytest.FixtureRequest, small_bus: Bus) -> Iterator[tuple[Agent, Agent]]:
    """A sender that has not looked at anybody's inbox yet, and a receiver with a subscription to `x`."""
    sender, receiver = small_bus.join("sender"), small_bus.join("receiver")
    receiver.subscribe("x")
    yield sender, receiver
    for word, value in (("cells", 32), ("consumer", 2)):
        write(small_bus._inbox_memory(1), RING[word], value, 4)
    del request.node.funcargs["pair"]


class TestInboxWords:
    @pytest.mark.parametrize("cells", [0, 1, 15, 48, 1 << 20, 0xFFFFFFFF])
    def test_cells_that_do_not_fit_are_refused_when_first_looked_at(
        self, small_bus: Bus, pair: tuple[Agent, Agent], cells: int
    ) -> None:
        write(small_bus._inbox_memory(1), RING["cells"], cells, 4)
        with pytest.raises(
            CorruptSegmentError, match="inbox 1 of the bus does not begin with the control words of a ring"
        ):
            pair[0].publish("x", b"")
        with pytest.raises(CorruptSegmentError):
            small_bus.agents()

    @pytest.mark.parametrize("head", [0, 10, 53, 1 << 35, (1 << 36) - 1])
    def test_a_head_that_contradicts_the_tail_names_the_inbox(
        self, small_bus: Bus, pair: tuple[Agent, Agent], head: int
    ) -> None:
        sender, _ = pair
        for _ in range(20):
            sender.publish("x", b"")
        write(small_bus._inbox_memory(1), RING["head"], head)
        with pytest.raises(CorruptSegmentError, match=r"of agent 'receiver', pid .* contradict each other"):
            fill(sender)

    @pytest.mark.parametrize("tail", [0, 1 << 63, (1 << 64) - 1, 0xFFF << 16, 5 << 28 | 7 << 16 | 9])
    def test_any_tail_makes_calls_end(self, small_bus: Bus, pair: tuple[Agent, Agent], tail: int) -> None:
        sender, receiver = pair
        write(small_bus._inbox_memory(1), RING["tail"], tail)
        for call in (lambda: sender.publish("x", b"", timeout=0.01), lambda: receiver.receive(0.01)):
            for _ in range(100):
                with contextlib.suppress(FastCommError):
                    call()
        assert sender.stats().published == 100  # each call came to its end

    def test_another_epoch_makes_messages_go_astray_and_be_counted(
        self, small_bus: Bus, pair: tuple[Agent, Agent]
    ) -> None:
        sender, receiver = pair
        sender.publish("x", b"before")
        write(small_bus._inbox_memory(1), RING["epoch"], 77, 4)
        assert sender.publish("x", b"") == 0
        assert receiver.receive(0).data == b"before"
        assert receiver.try_receive() is None

    def test_a_flag_of_sleepers_that_are_not_there_harms_nobody(
        self, small_bus: Bus, pair: tuple[Agent, Agent]
    ) -> None:
        sender, receiver = pair
        for where in ("not_empty", "not_full"):
            write(small_bus._inbox_memory(1), RING[where], 0xFFFFFFFF_FFFFFFFF)
        for i in range(100):
            assert sender.publish("x", i) == 1
            assert receiver.receive(0).data == i

    @pytest.mark.parametrize("state", [0, 5, 6, 15])
    def test_a_header_that_no_producer_writes_is_an_error_of_the_receiver(
        self, small_bus: Bus, pair: tuple[Agent, Agent], state: int
    ) -> None:
        sender, receiver = pair
        sender.publish("x", b"")
        header = 768  # of cell 0
        memory = small_bus._inbox_memory(1)
        memory[header] = (memory[header] & 0xF0) | state
        with pytest.raises(
            CorruptSegmentError, match=r"'inbox 1 of .*' has at cell 0 a header that no producer writes"
        ):
            receiver.receive(0.1)

    @pytest.mark.parametrize("owner", [0, 4094])
    def test_a_message_of_no_slot_is_received_and_not_numbered(
        self, small_bus: Bus, pair: tuple[Agent, Agent], owner: int
    ) -> None:
        sender, receiver = pair
        sender.publish("x", b"data")
        memory = small_bus._inbox_memory(1)
        header = int.from_bytes(memory[768:776], "little")
        write(memory, 768, header & ~(0xFFF << 20) | owner << 20)
        assert receiver.receive(0.1).data == b"data"
        assert receiver.stats().lost == 0


class TestTables:
    @pytest.mark.parametrize(
        ("offset", "value", "said"),
        [
            (12, 193, "subscription 0 of the bus has 193 bytes"),
            (12, 0, "has the pattern b''"),
            (16, 0x2E2E, "has the pattern"),
        ],
    )
    def test_a_subscription_that_is_none_is_an_error_of_who_reads_it(
        self, small_bus: Bus, pair: tuple[Agent, Agent], offset: int, value: int, said: str
    ) -> None:
        write(section(small_bus, SUBSCRIPTIONS), ENTRIES + offset, value, 2 if offset == 16 else 4)
        for _ in range(2):
            with pytest.raises(CorruptSegmentError, match=said):
                pair[0].publish("x", b"")

    @pytest.mark.parametrize("owner", [17, 4095, 0xFFFFFFFF])
    def test_a_subscription_of_nobody_leads_nowhere(
        self, small_bus: Bus, pair: tuple[Agent, Agent], owner: int
    ) -> None:
        write(section(small_bus, SUBSCRIPTIONS), ENTRIES + 4, owner, 4)
        assert pair[0].publish("x", b"") == 0

    def test_a_change_log_that_names_entries_beyond_the_table_is_an_error(
        self, small_bus: Bus, pair: tuple[Agent, Agent]
    ) -> None:
        memory = section(small_bus, SUBSCRIPTIONS)
        write(memory, 256 + 8 * 1, 1 << 32 | 9999)
        with pytest.raises(CorruptSegmentError, match="change log names subscription 9999 of 256"):
            pair[0].publish("x", b"")

    @pytest.mark.parametrize("generation", [0, 1 << 40, (1 << 64) - 1])
    def test_any_generation_makes_publishers_read_the_table(
        self, small_bus: Bus, pair: tuple[Agent, Agent], generation: int
    ) -> None:
        sender, receiver = pair
        assert sender.publish("x", b"1") == 1
        write(section(small_bus, SUBSCRIPTIONS), 128, generation)
        assert sender.publish("x", b"2") == 1
        assert [message.data for message in receiver.receive_many()] == [b"1", b"2"]

    def test_a_name_that_is_too_long_is_shown_as_unknown(
        self, small_bus: Bus, pair: tuple[Agent, Agent]
    ) -> None:
        write(section(small_bus, AGENTS), 8, 81, 4)
        assert [info.name for info in small_bus.agents()] == ["?", "receiver"]

    @pytest.mark.parametrize("parameter", range(5))
    def test_parameters_that_contradict_the_sections_are_refused_at_opening(
        self, name: str, parameter: int
    ) -> None:
        with Bus.open(name, max_agents=2) as bus, bus.join("a"):
            memory = bus._segment.memory(0, 4096)
            at = 192 + 8 * parameter
            before = bytes(memory[at : at + 8])
            write(memory, at, 1 << 40)
            with pytest.raises(CorruptSegmentError, match="contradict its sections"):
                Bus.open(name)
            memory[at : at + 8] = before


RANDOM_DAMAGE = textwrap.dedent(
    """
    import os, random, sys
    from fastcomm import Bus
    from fastcomm.errors import FastCommError

    name, seed = sys.argv[1], int(sys.argv[2])
    chance = random.Random(seed)
    bus = Bus.open(name, inbox_bytes=4096, max_agents=4, max_subscriptions=8)
    agents = [bus.join(str(i)) for i in range(3)]
    for agent in agents:
        agent.subscribe("x.*")
    places = [(bus._inboxes_at + i * bus._limits.stride, bus._limits.stride) for i in range(3)]
    places += [bus._segment.section(number) for number in (1, 2, 3)]
    calls = [
        lambda agent: agent.publish("x.y", b"data" * chance.randrange(50), timeout=0.01),
        lambda agent: agent.publish("x.z", [1, "two"], timeout=0.01),
        lambda agent: agent.publish("x.z", {f"key {chance.randrange(30)}": 1}, timeout=0.01),
        lambda agent: agent.try_receive() and agent.try_receive(),
        lambda agent: repr(agent.receive(0.001)),
        lambda agent: agent.subscribe("x.z").unsubscribe(),
        lambda agent: bus.agents(),
        lambda agent: agent.stats(),
        lambda agent: bus.strings.learn(f"text {chance.randrange(30)}"),
    ]
    for _ in range(300):
        offset, size = chance.choice(places)
        memory = bus._segment.memory(offset, size)
        at = chance.choice([chance.randrange(size), chance.randrange(min(size, 800)) & ~3])
        for i in range(chance.choice([1, 4, 8])):
            if at + i < size:
                memory[at + i] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        try:
            chance.choice(calls)(chance.choice(agents))
        except FastCommError:
            pass
    os.unlink(bus.path)
    print("done", flush=True)
    os._exit(0)
    """
)


def test_random_damage_makes_no_call_crash_or_hang(name: str) -> None:
    for seed in [random.randrange(1 << 30) for _ in range(12)]:
        command = [sys.executable, "-c", RANDOM_DAMAGE, f"{name}-{seed}", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "done\n"), f"seed {seed}: {done.stderr}"
    clean_segments()  # doorbells of slots that were scribbled over, of agents that sleep on them


def test_a_view_of_an_inbox_is_refused_when_its_words_are_no_ring(small_bus: Bus) -> None:
    with small_bus.join("a"):
        memory = bytearray(small_bus._inbox_memory(0))
        memory[0:4] = (3).to_bytes(4, "little")
        with pytest.raises((CorruptSegmentError, ValueError)):
            Ring(memory, owner=1)

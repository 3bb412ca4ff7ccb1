"""The limits of a bus: what they cost, and what each exhausted one says."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastcomm import Bus
from fastcomm.errors import (
    Full,
    InvalidNameError,
    InvalidSubjectError,
    MessageTooLargeError,
    ShmFullError,
    TableFullError,
)


def reserved(bus: Bus) -> int:
    return os.stat(bus.path).st_blocks * 512


class TestBytesNeeded:
    @pytest.mark.parametrize(
        "limits",
        [
            {},
            {"max_agents": 1, "inbox_bytes": 4096, "max_subscriptions": 1, "max_strings": 1},
            {"max_agents": 20, "inbox_bytes": 100_000},
            {"max_agents": 3, "max_subscriptions": 10_000, "max_strings": 50_000},
        ],
    )
    def test_is_what_is_reserved_at_creation_and_with_all_agents(
        self, name: str, limits: dict[str, int]
    ) -> None:
        needed = Bus.bytes_needed(**limits)
        with Bus.open(name, **limits) as bus, ExitStack() as agents:  # type: ignore[arg-type]
            assert reserved(bus) == needed.created
            for _ in range(limits.get("max_agents", 128)):
                agents.enter_context(bus.join())
            assert reserved(bus) == needed.joined

    def test_grows_by_the_same_for_each_agent(self, name: str) -> None:
        needed = Bus.bytes_needed(max_agents=5)
        with Bus.open(name, max_agents=5) as bus, bus.join("a"), bus.join("b"):
            assert reserved(bus) == needed.created + 2 * (needed.joined - needed.created) // 5

    def test_of_the_largest_bus_needs_no_memory_to_tell(self) -> None:
        needed = Bus.bytes_needed(max_agents=4094, inbox_bytes=1 << 30)
        assert needed.joined > 4094 << 29

    def test_refuses_what_open_refuses(self) -> None:
        with pytest.raises(ValueError, match="max_agents is 0"):
            Bus.bytes_needed(max_agents=0)


class TestWhatIsExhausted:
    """Each says which argument to raise."""

    def test_agents(self, name: str) -> None:
        with Bus.open(name, max_agents=1) as bus, bus.join("a"):
            with pytest.raises(TableFullError, match="larger max_agents") as caught:
                bus.join("b")
            assert caught.value.capacity == 1

    def test_subscriptions(self, name: str) -> None:
        with Bus.open(name, max_subscriptions=2) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            agent.subscribe("y")
            with pytest.raises(TableFullError, match="larger max_subscriptions") as caught:
                agent.subscribe("z")
            assert caught.value.capacity == 2
            assert agent.publish("z", b"") == 0
            assert len(agent.subscriptions) == 2

    @pytest.mark.needs("interning")
    def test_strings_are_no_error(self, name: str) -> None:
        with Bus.open(name, max_strings=1) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            values = [{f"key {i}": i} for i in range(5)] * 3
            for value in values:
                agent.publish("x", value)
            assert [message.data for message in agent.receive_many()] == values
            assert len(bus.strings) == 1

    def test_a_message(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent:
            agent.subscribe("x")
            with pytest.raises(MessageTooLargeError, match="larger inbox_bytes") as caught:
                agent.publish("x", bytes(small_bus.max_message))
            assert caught.value.limit == small_bus.max_message < caught.value.size

    def test_an_inbox(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent, small_bus.join("slow") as slow:
            slow.subscribe("x")
            while small_bus.agents()[1].depth < slow.stats().capacity * 7 // 8:
                agent.publish("x", b"")
            with pytest.raises(Full, match=r"agent 'slow', pid .* larger inbox_bytes") as caught:
                agent.publish("x", b"", timeout=0)
            assert (caught.value.delivered, caught.value.missing) == (0, 1)

    def test_an_agents_name(self, bus: Bus) -> None:
        with pytest.raises(InvalidNameError, match="1 to 80 bytes"):
            bus.join("n" * 81)

    def test_a_groups_name(self, bus: Bus) -> None:
        with bus.join("a") as agent, pytest.raises(InvalidNameError, match="1 to 40 bytes"):
            agent.subscribe("x", group="g" * 41)

    def test_a_bus_name(self) -> None:
        with pytest.raises(InvalidNameError, match="1 to 192 bytes"):
            Bus.open("n" * 193)

    def test_a_subject(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            for call in (lambda: agent.subscribe("s" * 193), lambda: agent.publish("s" * 193, b"")):
                with pytest.raises(InvalidSubjectError, match="193 bytes of UTF-8, 192 are allowed"):
                    call()

    def test_headers(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=1 << 20) as bus, bus.join("a") as agent:
            with pytest.raises(MessageTooLargeError, match="limit is 65535, send more in the data") as caught:
                agent.publish("x", b"", headers={"h": "v" * 65536})
            assert caught.value.limit == 65535

    def test_messages_that_wait_for_a_subscription(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=1 << 20) as bus, bus.join("a") as agent:
            subscription = agent.subscribe("x")
            subscription.try_receive()  # it has a queue of its own now
            agent.publish_many("x", [None] * 4097)
            with pytest.raises(Full, match=r"4096 messages wait in the agent 'a' for receive\(\) of its sub"):
                agent.try_receive()
            assert subscription.receive(0).data is None


@pytest.fixture
def tiny_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 1 MiB, if this user may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if os.geteuid() or os.system(f"mount -t tmpfs -o size=1m tmpfs {folder} 2> /dev/null"):
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    os.system(f"umount {folder}")
    shutil.rmtree(folder, ignore_errors=True)


class TestSharedMemory:
    def test_for_the_tables_is_missing_when_the_bus_is_opened(self, name: str, tiny_tmpfs: Path) -> None:
        needed = Bus.bytes_needed(max_subscriptions=100_000)
        with pytest.raises(ShmFullError, match="bytes of shared memory are needed") as caught:
            Bus.open(name, max_subscriptions=100_000, directory=tiny_tmpfs)
        assert caught.value.needed == needed.created
        assert caught.value.free <= 1 << 20
        assert list(tiny_tmpfs.iterdir()) == []

    def test_for_an_inbox_is_missing_when_its_agent_joins(self, name: str, tiny_tmpfs: Path) -> None:
        with Bus.open(name, max_agents=4, inbox_bytes=1 << 20, directory=tiny_tmpfs) as bus, bus.join("a"):
            with pytest.raises(ShmFullError, match="fewer or smaller inboxes"):
                bus.join("b")
            assert [info.name for info in bus.agents()] == ["a"]

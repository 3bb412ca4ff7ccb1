"""Feature flags: what each turns off, that messages are the same without, and what replaces it."""

import asyncio
import itertools
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from peers import Peer, joined
from procs import LONG, run_python

from fastcomm import Agent, Bus, Codec, config
from fastcomm.config import FLAGS, settings
from fastcomm.errors import UnknownFlagError

EACH = [*([flag] for flag in FLAGS), list(FLAGS), []]


def ids(disable: object) -> str:
    return ",".join(disable) or "none" if isinstance(disable, list) else str(disable)


class TestSettings:
    @pytest.fixture(autouse=True)
    def no_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FASTCOMM_DISABLE", raising=False)

    def test_are_all_on_unless_said_otherwise(self) -> None:
        assert all(settings())

    def test_add_up_from_the_variable_and_the_argument(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FASTCOMM_DISABLE", "spin, cache,")
        found = settings(["futex"])
        assert {flag for flag in FLAGS if not getattr(found, flag)} == {"spin", "cache", "futex"}

    def test_are_taken_from_one_text_too(self) -> None:
        assert settings("spin,cache") == settings(["spin", "cache"])

    def test_of_an_unknown_name_are_refused_with_the_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UnknownFlagError, match="disable names 'futx'; the flags are futex, spin, inter"):
            settings(["futx", "spin"])
        monkeypatch.setenv("FASTCOMM_DISABLE", "spin,Cache")
        with pytest.raises(UnknownFlagError, match="FASTCOMM_DISABLE names 'Cache'"):
            settings()

    def test_of_an_unknown_name_keep_an_agent_from_joining(self, bus: Bus) -> None:
        with pytest.raises(UnknownFlagError):
            bus.join("a", disable=["everything"])
        assert bus.agents() == []

    def test_are_frozen(self) -> None:
        with pytest.raises(AttributeError):
            settings().spin = False  # type: ignore[misc]


def conversation(bus: Bus, disable: list[str]) -> list[Any]:
    """What agents get, by everything that has a flag."""
    got: list[Any] = []
    codec = Codec(strings=bus.strings, compression="lz4", threshold=100)
    with (
        bus.join("one", disable=disable, codec=codec) as one,
        bus.join("two", disable=disable) as two,
        bus.join("three", disable=disable, overflow="drop_newest") as three,
    ):
        two.subscribe("a.*")
        two.subscribe("jobs", group="g")
        two.subscribe("c", lambda message: got.append(("c", message.data)), coalesce=lambda _: 1)
        three.subscribe(">")
        for i in range(10):
            one.publish(f"a.{i % 2}", {"a long key": i, "text": "x" * 20 * i}, headers={"n": i})
        one.publish_many("a.many", range(30))
        one.publish("a.now", "!", priority=0)
        one.publish_many("jobs", ["job"] * 3)
        one.publish_many("c", range(5))
        for agent in (two, three):
            while (message := agent.try_receive()) is not None:
                got.append((message.subject, message.data, message.headers, message.sender))
        got.append([agent.stats()[:3] for agent in (one, two, three)])
    return got


@pytest.mark.parametrize("disable", EACH, ids=ids)
def test_messages_are_the_same(name: str, disable: list[str]) -> None:
    with Bus.open(name) as bus:
        with_all = conversation(bus, [])
    with Bus.open(name) as bus:
        assert conversation(bus, disable) == with_all


@pytest.mark.parametrize("disable", [["futex"], list(FLAGS)], ids=ids)
class TestWithoutFutex:
    """Threads sleep on the doorbell's FIFO; nothing polls."""

    def meanwhile(self, work: Callable[[], object]) -> threading.Timer:
        timer = threading.Timer(0.1, work)
        timer.start()
        return timer

    def test_a_receiver_is_woken(self, bus: Bus, disable: list[str]) -> None:
        with bus.join("a", disable=disable) as agent, bus.join("b") as sender:
            agent.subscribe("x")
            for i in range(3):
                timer = self.meanwhile(lambda i=i: sender.publish("x", i))  # type: ignore[misc]
                assert agent.receive(LONG).data == i
                timer.join()
            assert agent._inbox.stats().sleeps <= 3 * 4  # slices of 100 ms, not a poll

    def test_a_receiver_in_another_process_is_woken(self, bus: Bus, disable: list[str]) -> None:
        setup = joined(bus.name, "first") + f"\nagent.close(); agent = bus.join('peer', disable={disable!r})"
        with bus.join("a") as agent, Peer(setup) as peer:
            peer.do("agent.subscribe('x')  and None")
            peer.send("agent.receive(60).data")
            time.sleep(0.1)
            assert agent.publish("x", b"come") == 1
            assert peer.result() == b"come"

    def test_a_publisher_that_waits_for_room_is_woken(self, small_bus: Bus, disable: list[str]) -> None:
        with small_bus.join("slow") as slow, small_bus.join("a", disable=disable) as agent:
            slow.subscribe("x")
            for i in range(28):
                agent.publish("x", i)
            timer = self.meanwhile(lambda: slow.receive_many(20))
            assert agent.publish("x", b"", timeout=LONG) == 1
            timer.join()

    def test_who_waits_for_subscribers_is_woken(self, bus: Bus, disable: list[str]) -> None:
        with bus.join("a", disable=disable) as agent, bus.join("b") as other:
            timer = self.meanwhile(lambda: other.subscribe("x"))
            assert agent.wait_for_subscribers("x", timeout=LONG) == 1
            timer.join()

    def test_a_time_out_ends_the_wait(self, bus: Bus, disable: list[str]) -> None:
        from fastcomm.errors import Empty

        with bus.join("a", disable=disable) as agent, pytest.raises(Empty):
            agent.receive(0.15)

    def test_closing_ends_the_wait(self, bus: Bus, disable: list[str]) -> None:
        from fastcomm.errors import ClosedError

        agent = bus.join("a", disable=disable)
        timer = self.meanwhile(agent.close)
        with pytest.raises(ClosedError):
            agent.receive(LONG)
        timer.join()

    def test_asyncio_and_a_thread_share_an_agent(self, bus: Bus, disable: list[str]) -> None:
        with bus.join("a", disable=disable) as agent, bus.join("b") as sender:
            agent.subscribe("x")
            got: list[object] = []
            thread = threading.Thread(target=lambda: got.append(agent.receive(LONG).data))
            thread.start()

            async def receive() -> None:
                waiting = asyncio.create_task(agent.receive_async(LONG))
                await asyncio.sleep(0.05)
                sender.publish_many("x", range(2))
                got.append((await waiting).data)

            asyncio.run(receive())
            thread.join()
            assert sorted(got) == [0, 1]  # type: ignore[type-var]

    def test_deaths_are_noticed(self, bus: Bus, disable: list[str]) -> None:
        with bus.join("a", disable=disable) as agent:
            agent.subscribe("$bus.agent.died")
            with Peer(joined(bus.name, "doomed")) as peer:
                peer.kill()
            assert agent.receive(LONG).data["name"] == "doomed"

    def test_the_fifo_goes_with_the_agent(self, bus: Bus, disable: list[str]) -> None:
        from pathlib import Path

        folder = Path(bus.path).parent
        with bus.join("stays"):
            others = set(folder.glob(f"{Path(bus.path).name}.*"))
            with bus.join("a", disable=disable):
                assert len(set(folder.glob(f"{Path(bus.path).name}.*")) - others) == 1
            assert set(folder.glob(f"{Path(bus.path).name}.*")) == others


# The filter answers futex with ENOSYS but for calls of the interpreter itself, which asks for private ones.
UNDER_SECCOMP = """
import ctypes, os, platform, struct, threading, warnings
import fastcomm
bus = fastcomm.Bus.open({name!r})
number = {{"x86_64": 202, "aarch64": 98}}[platform.machine()]
program = b"".join(struct.pack("HBBI", *step) for step in (
    (0x20, 0, 0, 0), (0x15, 0, 3, number),  # load the number of the call; not it: allow
    (0x20, 0, 0, 24), (0x45, 1, 0, 128),  # the second argument: with FUTEX_PRIVATE_FLAG: allow
    (0x06, 0, 0, 0x00050026), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
steps = Filter(6, ctypes.addressof(buffer))
assert libc.prctl(22, 2, ctypes.byref(steps), 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP
from fastcomm._core.wait import futex_works
assert not futex_works()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    one, two = bus.join("one"), bus.join("two")
one.subscribe("x")
threading.Timer(0.1, lambda: two.publish("x", b"woken")).start()
print(len(caught), one.receive(60).data, one._inbox.stats().sleeps < 5)
bus.close()
"""


class TestWhatIsMissing:
    @pytest.mark.needs("futex")
    @pytest.mark.no_sanitizer("a filter of system calls")
    def test_futexes_are_replaced_by_the_fifo_with_one_warning(self, name: str) -> None:
        assert run_python(UNDER_SECCOMP.format(name=name)).split() == ["1", "b'woken'", "True"]

    def test_futexes_that_are_turned_off_are_not_missed(
        self, bus: Bus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("fastcomm._core.wait.futex_works", lambda: False)
        monkeypatch.setattr(config, "_warned", False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bus.join("a", disable=["futex"]).close()
        if settings().futex:
            with pytest.warns(RuntimeWarning, match="no futexes here"):
                bus.join("a").close()
            bus.join("b").close()  # without another


class TestEach:
    def test_spin_off_sleeps_at_once(self, bus: Bus) -> None:
        with bus.join("a", disable=["spin"], spin_us=1000) as agent, bus.join("b") as sender:
            agent.subscribe("x")
            for i in range(3):
                timer = threading.Timer(0.02, lambda i=i: sender.publish("x", i))  # type: ignore[misc]
                timer.start()
                agent.receive(LONG)
                timer.join()
            assert agent._inbox.stats().spins == 0

    def test_interning_off_learns_no_keys(self, bus: Bus) -> None:
        with bus.join("a", disable=["interning"]) as agent:
            agent.subscribe("x")
            for _ in range(5):
                agent.publish("x", {"a key": 1})
            assert len(bus.strings) == 0
            assert [message.data for message in agent.receive_many()] == [{"a key": 1}] * 5

    def test_compression_off_sends_what_the_codec_would_compress(self, bus: Bus) -> None:
        codec = Codec(compression="lz4", threshold=10)
        text = "x" * 1000
        with (
            bus.join("a", codec=codec, disable=["compression"]) as agent,
            bus.join("b", codec=codec) as other,
        ):
            agent.subscribe("x")
            agent.publish("x", text)
            other.publish("x", text)
            plain, compressed = agent.receive_many()
            assert plain.data == compressed.data == text
            if settings().compression:
                assert len(compressed.payload) < 100 < 1000 < len(plain.payload)

    def test_compression_keeps_the_registered_types_of_the_codec(self, bus: Bus) -> None:
        from dataclasses import make_dataclass

        point = make_dataclass("point", ["x"])
        codec = Codec(compression="lz4")
        with bus.join("a", codec=codec, disable=["compression", "interning"]) as agent:
            codec.register(point)
            agent.subscribe("x")
            agent.publish("x", point(1))
            assert agent.receive(0).data == point(1)

    def test_cache_off_follows_every_change(self, bus: Bus) -> None:
        with bus.join("a", disable=["cache"]) as agent:
            for count in range(3):
                assert agent.publish("x", b"") == min(count, 1)
                agent.subscribe("x")

    def test_affinity_off_pins_nothing(self, bus: Bus) -> None:
        import os

        before = os.sched_getaffinity(0)
        with bus.join("a", cpus=[min(before)], disable=["affinity"]) as agent:
            assert os.sched_getaffinity(0) == before
            assert agent.cpus is None

    def test_coalescing_off_wakes_who_waits_for_room_at_each_release(self, small_bus: Bus) -> None:
        with small_bus.join("slow", disable=["coalescing"]) as slow, small_bus.join("a") as agent:
            slow.subscribe("x")
            for i in range(28):
                agent.publish("x", i)
            published = threading.Thread(target=lambda: agent.publish("x", b"", timeout=LONG))
            published.start()
            while published.is_alive():
                slow.receive(0)
                time.sleep(0.01)
            assert slow.stats().received <= 28

    def test_a_fork_keeps_the_flags(self, bus: Bus) -> None:
        from procs import forked

        with bus.join("a", disable=list(FLAGS)) as agent:
            agent.subscribe("x")

            def child() -> None:
                agent.subscribe("y")
                assert agent.publish("x", 1) == 1
                assert agent.publish("y", 2) == 1
                assert agent.receive(LONG).data == 2

            with forked(child):
                assert agent.receive(LONG).data == 1


class TestFailures:
    def test_of_a_compressor_leave_the_message_as_it_is_and_are_counted(
        self, bus: Bus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import lz4.block

        calls = itertools.count()

        def sometimes(data: bytes, **options: object) -> bytes:
            if next(calls) % 2:
                raise MemoryError
            return compress(data, **options)

        compress = lz4.block.compress
        monkeypatch.setattr(lz4.block, "compress", sometimes)
        texts = [str(i) * 1000 for i in range(10)]
        with bus.join("a", codec=Codec(compression="lz4", threshold=10)) as agent:
            agent.subscribe("x")
            for text in texts:
                agent.publish("x", text)
            assert [message.data for message in agent.receive_many()] == texts
            assert agent.stats().fallbacks == (5 if settings().compression else 0)

    def test_of_the_string_table_write_the_keys_out_and_are_counted(self, name: str) -> None:
        with Bus.open(name, max_strings=1) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            for value in [{f"key {i % 3}": i} for i in range(30)]:
                agent.publish("x", value)
                assert agent.receive(0).data == value
            if settings().interning:
                assert bus.strings.refused > 0


def test_agents_with_other_flags_understand_each_other(bus: Bus) -> None:
    agents: list[Agent] = [bus.join(f"{i}", disable=disable) for i, disable in enumerate(EACH)]
    for agent in agents:
        agent.subscribe("x")
    for i, agent in enumerate(agents):
        assert agent.publish("x", {"key": i}) == len(agents)
    for agent in agents:
        assert [message.data["key"] for message in agent.receive_many()] == list(range(len(agents)))
        agent.close()

"""``fastcomm doctor`` names what is stuck and who holds it; it waits for nobody and changes nothing."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from peers import Peer, joined

from fastcomm import Agent, Bus, Queue, RingBuffer
from fastcomm.cli.group import group
from fastcomm.doctor import Checkup, check_up
from fastcomm.errors import Full
from fastcomm.segments import segment_path
from fastcomm.testing.chaos.hooks import HOOKS

SECONDS = 0.05  # between the looks


def checked(name: str) -> Checkup:
    (checkup,) = check_up(name, seconds=SECONDS)
    return checkup


def found(name: str) -> str:
    """All that is wrong, as one text."""
    return "\n".join(finding.what for finding in checked(name).findings)


def seconds_in(before: str, text: str) -> float:
    return float(text.partition(before)[2].split(" s")[0])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["doctor", "--seconds", str(SECONDS), *arguments])


def fill(sender: Agent, subject: str) -> None:
    with suppress(Full):
        while True:
            sender.publish(subject, b"x" * 100, timeout=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the segments of this test alone."""
    monkeypatch.setenv("FASTCOMM_DIR", str(tmp_path))
    return tmp_path


class TestTheCommand:
    def test_healthy_bus_ring_and_queue_exit_with_0(self, folder: Path, name: str) -> None:
        with (
            Bus.open(name) as bus,
            bus.join("a") as agent,
            RingBuffer.create(f"{name}-ring"),
            Queue(name=f"{name}-queue"),
        ):
            agent.subscribe("x")
            agent.publish("x", b"waits")
            result = run()
        assert result.exit_code == 0, result.output
        assert len(result.output.splitlines()) == result.output.count("; healthy") == 3
        assert f"bus {name} ({bus.path}): 1 of at most 128 agents, 1 of 2048 subscriptions" in result.output

    def test_what_is_wrong_exits_with_1_and_is_followed_by_what_to_do(self, folder: Path, name: str) -> None:
        with Bus.open(name, max_agents=1) as bus, bus.join("a"):
            result = run(name)
        assert result.exit_code == 1
        assert result.output.splitlines()[1:] == [
            "  1 of its 1 places for agents are taken",
            "    -> end some, or create it with room for more",
        ]

    def test_no_segments_are_healthy(self, folder: Path) -> None:
        result = run()
        assert (result.exit_code, result.output) == (0, "no segments\n")

    def test_unknown_name_exits_with_2(self, folder: Path, name: str) -> None:
        result = run(name)
        assert result.exit_code == 2
        assert repr(name) in result.output

    def test_only_the_named_segment_is_looked_at(self, folder: Path, name: str) -> None:
        with RingBuffer.create(name), RingBuffer.create(f"{name}-other"):
            assert run(name).output.count("healthy") == 1
            assert run().output.count("healthy") == 2

    def test_json_has_segments_and_their_findings(self, folder: Path, name: str) -> None:
        with Bus.open(name, max_agents=1) as bus, bus.join("a"):
            result = run("--json")
            (checkup,) = json.loads(result.output)
        assert result.exit_code == 1
        assert (checkup["name"], checkup["kind"], checkup["path"]) == (name, "bus", bus.path)
        assert [set(finding) for finding in checkup["findings"]] == [{"what", "advice"}]


class TestProcesses:
    def test_dead_agent_is_named_and_not_reaped(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a"), Peer(joined(name, "victim")) as victim:
            victim.kill()
            assert found(name) == f"agent 'victim', pid {victim.pid} (?), dead and not reaped yet"
            assert bus._segment.dead_slots() == [1]
            with bus.join("reaper"):
                assert found(name) == ""

    def test_stopped_agent_is_named_until_it_goes_on(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a"), Peer(joined(name, "victim")) as victim:
            victim.stop()
            (finding,) = checked(name).findings
            assert finding.what.startswith(f"agent 'victim', pid {victim.pid} (")
            assert finding.what.endswith("), alive but stopped")
            assert f"kill -CONT {victim.pid}" in finding.advice
            victim.go_on()
            victim.do("0")
            assert found(name) == ""
            victim.end()

    def test_bus_whose_agents_were_all_killed_is_unowned(self, name: str) -> None:
        with Peer(joined(name, "victim")) as victim:
            victim.kill()
        (finding,) = checked(name).findings
        assert finding.what == "nobody uses it; 1 that did were killed"
        assert "`fastcomm clean` removes it" in finding.advice
        Bus.open(name).close()

    def test_unowned_ring_tells_its_unread_records(self, name: str) -> None:
        with RingBuffer.create(name) as ring:
            ring.put_many([b"1", b"2"])
        assert found(name) == "nobody uses it; 2 records were not read"
        with RingBuffer.attach(name) as ring:
            ring.get_many()

    def test_bus_that_somebody_has_open_is_not_unowned(self, name: str) -> None:
        with Peer(f"import fastcomm; bus = fastcomm.Bus.open({name!r})") as owner:
            assert found(name) == ""
            assert owner.end() == 0


class TestTheGate:
    def test_stopped_holder_is_named_and_nobody_waits_for_it(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a"), Peer(joined(name, "victim")) as victim:
            victim.do("bus._segment.enter_gate()")
            victim.stop()
            texts = found(name).splitlines()
            assert [text for text in texts if text.startswith("agent 'victim', ")]
            (gate,) = [text for text in texts if text.startswith("its gate is held by ")]
            assert f" pid {victim.pid} (" in gate
            assert "), alive but stopped: nobody can join" in gate
            victim.go_on()
            victim.do("bus._segment.leave_gate()")
            assert found(name) == ""
            victim.end()

    def test_interrupted_change_of_the_tables_is_told(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a"), Peer(joined(name, "victim")) as victim:
            victim.do("bus._segment.enter_gate()")
            victim.do("bus._segment.mutating = True")
            victim.kill()
            assert "somebody was killed while changing its tables" in found(name)
            bus.join("b").close()
            assert found(name) == ""


class TestRings:
    def test_full_inbox_is_told_with_whom_it_belongs_to(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=4096) as bus, bus.join("slow") as slow, bus.join("sender") as sender:
            slow.subscribe("x")
            fill(sender, "x")
            depth, capacity = bus.agents()[0].depth, bus.agents()[0].capacity
            text = found(name)
            assert text.startswith(
                f"inbox of 'slow': {depth} of {capacity} bytes wait for its consumer, agent 'slow', "
                f"pid {os.getpid()} ("
            )
            assert seconds_in("which has taken nothing for ", text) >= SECONDS
            slow.receive_many()
            assert found(name) == ""

    def test_full_inbox_that_moves_is_not_stuck(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with Bus.open(name, inbox_bytes=4096) as bus, bus.join("busy") as busy, bus.join("sender") as sender:
            busy.subscribe("x")
            fill(sender, "x")

            def meanwhile(seconds: float) -> None:
                busy.receive(0)
                fill(sender, "x")

            monkeypatch.setattr("fastcomm.doctor.time.sleep", meanwhile)
            assert bus.agents()[0].depth >= bus.agents()[0].capacity * 3 / 4
            assert found(name) == ""

    def test_record_that_is_claimed_and_not_sent_is_told_with_its_owner(self, name: str) -> None:
        with RingBuffer.create(name) as ring:
            with ring.claim(4):
                text = found(name)
            assert "the next record is claimed and not sent by pid" in text
            assert found(name) == ""
            ring.unlink()

    def test_claim_that_is_sent_meanwhile_is_not_stuck(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with RingBuffer.create(name) as ring:
            claim = ring.claim(4)
            claim.__enter__()[:] = b"1234"
            monkeypatch.setattr("fastcomm.doctor.time.sleep", lambda _: claim.__exit__(None, None, None))
            assert found(name) == ""
            assert ring.get(0) == b"1234"

    def test_full_queue_is_told(self, name: str) -> None:
        with Queue(name=name, capacity=1024) as queue:
            with suppress(Full):
                while True:
                    queue.put(b"x" * 100, block=False)
            assert seconds_in("bytes are taken; none was taken out for ", found(name)) >= SECONDS
            while not queue.empty():
                queue.get()


class TestLimits:
    def test_subscriptions_near_their_limit_are_told(self, name: str) -> None:
        with Bus.open(name, max_subscriptions=10) as bus, bus.join("a") as agent:
            for number in range(8):
                agent.subscribe(f"x.{number}")
            assert found(name) == ""
            agent.subscribe("y")
            assert found(name) == "9 of its 10 entries for subscriptions are taken"


class TestNobodyIsDisturbed:
    def test_file_and_its_pages_stay_as_they_are(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=4096) as bus, bus.join("a") as agent, bus.join("sender") as sender:
            agent.subscribe("x")
            fill(sender, "x")
            before = Path(bus.path).read_bytes(), os.stat(bus.path).st_blocks
            assert "inbox of 'a'" in found(name)
            assert (Path(bus.path).read_bytes(), os.stat(bus.path).st_blocks) == before

    def test_segment_that_is_removed_between_the_looks_is_not_reported(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ring = RingBuffer.create(name)
        monkeypatch.setattr("fastcomm.doctor.time.sleep", lambda seconds: ring.close())
        assert check_up(name) == []

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"", "was never completed by its creator"),
            (b"\0" * 8192, "was never completed by its creator"),
            (b"garbage!" * 1024, "is not a fastcomm segment"),
        ],
    )
    def test_file_that_is_no_complete_segment_is_told(self, name: str, content: bytes, what: str) -> None:
        path = Path(segment_path(name))
        path.write_bytes(content)
        try:
            assert f"{path} {what}" in found(name)
        finally:
            path.unlink()

    def test_segment_that_is_completed_between_the_looks_is_healthy(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path(segment_path(name)).write_bytes(b"")
        rings: list[RingBuffer] = []
        monkeypatch.setattr("fastcomm.doctor.time.sleep", lambda _: rings.append(RingBuffer.create(name)))
        assert found(name) == ""
        rings.pop().close()

    def test_segment_much_larger_than_memory_is_looked_at(self, name: str) -> None:
        with Bus.open(name, inbox_bytes=1 << 30, max_agents=256):
            assert checked(name).summary.startswith("0 of at most 256 agents")

    @pytest.mark.parametrize("offset", [16, 64, 192, 200, 216])
    def test_damaged_header_is_told_and_harms_nobody(self, name: str, offset: int) -> None:
        """Of the total size, the place of a section, and the parameters of the bus."""
        with Bus.open(name) as bus, bus.join("a"):
            with open(bus.path, "r+b", buffering=0) as file:
                file.seek(offset)
                kept = file.read(8)
                file.seek(offset)
                file.write(b"\xff" * 8)
                assert checked(name).findings
                file.seek(offset)
                file.write(kept)
            assert found(name) == ""


@pytest.mark.debug_build
class TestStoppedAtAStep:
    def test_publisher_between_claim_and_commit_holds_up_one_inbox(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a") as agent, Peer(joined(name, "victim")) as victim:
            agent.subscribe("x")
            hook = HOOKS["COMMIT_BEFORE_HEADER"]
            victim.send(f"fastcomm._core.protocol._arm_hook({hook}); agent.publish('x', b'late')")
            victim.await_stop()
            (inbox,) = [text for text in found(name).splitlines() if text.startswith("inbox of 'a': ")]
            owner = f"the next record is claimed and not sent by agent 'victim', pid {victim.pid} ("
            assert owner in inbox
            assert inbox.endswith("), alive but stopped")
            victim.go_on()
            victim.result()
            assert agent.receive(60).data == b"late"
            assert found(name) == ""
            victim.end()

    def test_subscriber_within_the_gate_is_named(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a"), Peer(joined(name, "victim")) as victim:
            hook = HOOKS["TABLE_MID_WRITE"]
            victim.send(f"fastcomm._core.tables._arm_hook({hook}); agent.subscribe('x')")
            victim.await_stop()
            assert f"its gate is held by pid {victim.pid} (" in found(name)
            victim.go_on()
            victim.result()
            assert found(name) == ""
            victim.end()

    def test_consumer_with_the_lock_of_a_queue_is_named(self, name: str) -> None:
        with Queue(name=name) as queue, Peer(f"import fastcomm; q = fastcomm.Queue(name={name!r})") as victim:
            queue.put("there")
            hook = HOOKS["QUEUE_LOCKED"]
            victim.send(f"fastcomm._core.shared_queue._arm_hook({hook}); q.get()")
            victim.await_stop()
            text = found(name)
            assert f"pid {victim.pid} (" in text
            assert "alive but stopped, is taking an item, and keeps others from it" in text
            victim.go_on()
            victim.result()
            assert found(name) == ""
            victim.end()


def test_a_bus_of_another_user_is_found_by_its_name(name: str) -> None:
    with Bus.open(name) as bus, bus.join("a"):
        theirs = Path(bus.path.replace(f".{os.getuid()}.", ".12345."))
        theirs.write_bytes(Path(bus.path).read_bytes())  # without the locks of who lives
        try:
            mine, other = sorted(
                check_up(name, seconds=0.01), key=lambda checkup: checkup.path == str(theirs)
            )
        finally:
            theirs.unlink()
        assert (mine.path, mine.findings) == (bus.path, ())
        assert "nobody uses it" in other.findings[0].what

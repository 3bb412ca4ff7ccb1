"""Opening a bus: limits, taking over, vanishing; and joining and leaving it."""

import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from peers import Peer, joined

from fastcomm import Bus, connect
from fastcomm.errors import (
    BusMismatchError,
    ClosedError,
    InvalidNameError,
    NameTakenError,
    SegmentError,
    SegmentNotFoundError,
    SegmentVanishedError,
    TableFullError,
)


def names_on(bus: Bus) -> list[str]:
    return [info.name for info in bus.agents()]


class TestOpening:
    def test_makes_the_segment_with_its_limits(self, name: str) -> None:
        with Bus.open(name, max_agents=3, inbox_bytes=5000, max_subscriptions=7) as bus:
            assert Path(bus.path).exists()
            with bus.join("a") as agent:
                assert (
                    agent.stats().capacity == 64 * 64
                )  # 5,000 rounded up to 8,192: 64 cells with control words

    def test_without_create_says_that_there_is_none(self, name: str) -> None:
        with pytest.raises(SegmentNotFoundError, match=f"there is no segment named '{name}'"):
            Bus.open(name, create=False)

    def test_without_create_finds_one_that_exists(self, bus: Bus) -> None:
        with bus.join("a"), Bus.open(bus.name, create=False) as second:
            assert names_on(second) == ["a"]

    @pytest.mark.parametrize(
        ("limits", "said"),
        [
            ({"max_agents": 4}, "max_agents is 3, not 4"),
            ({"inbox_bytes": 65536}, "inbox_bytes is"),
            ({"max_subscriptions": 9}, "max_subscriptions is 48, not 9"),
        ],
    )
    def test_with_other_limits_than_a_bus_in_use_is_refused(
        self, name: str, limits: dict[str, int], said: str
    ) -> None:
        with Bus.open(name, max_agents=3) as bus, bus.join("a"):
            with pytest.raises(BusMismatchError, match=said) as caught:
                Bus.open(name, **limits)  # type: ignore[arg-type]
            assert f"the bus {name!r} exists with other limits" in str(caught.value)
            assert names_on(bus) == ["a"]

    def test_names_every_limit_that_differs(self, name: str) -> None:
        with (
            Bus.open(name, max_agents=3) as bus,
            bus.join("a"),
            pytest.raises(BusMismatchError, match="max_agents is 3, not 5; max_subscriptions is 48, not 5"),
        ):
            Bus.open(name, max_agents=5, max_subscriptions=5)

    def test_with_the_same_limits_or_none_is_the_same_bus(self, name: str) -> None:
        limits = {"max_agents": 3, "inbox_bytes": 5000, "max_subscriptions": 7}
        with (
            Bus.open(name, **limits) as bus,  # type: ignore[arg-type]
            bus.join("a"),
            Bus.open(name, **limits) as same,  # type: ignore[arg-type]
            Bus.open(name) as unsaid,
        ):
            assert names_on(same) == names_on(unsaid) == ["a"]

    @pytest.mark.parametrize(
        ("limits", "said"),
        [
            ({"max_agents": 0}, "max_agents is 0; it must be 1 to 4094"),
            ({"max_agents": 4095}, "max_agents is 4095; it must be 1 to 4094"),
            ({"inbox_bytes": 4095}, "inbox_bytes is 4095; it must be 4096 to"),
            ({"inbox_bytes": (1 << 30) + 1}, "it must be 4096 to 1073741824"),
            ({"max_subscriptions": 0}, "max_subscriptions is 0; it must be 1 to"),
            ({"max_strings": 0}, "max_strings is 0; it must be 1 to"),
        ],
    )
    def test_with_limits_out_of_range_is_refused(self, name: str, limits: dict[str, int], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Bus.open(name, **limits)  # type: ignore[arg-type]

    def test_with_the_most_agents_has_room_for_the_last(self, name: str) -> None:
        with (
            Bus.open(name, max_agents=4094, inbox_bytes=4096, max_subscriptions=1) as bus,
            bus.join("a") as agent,
        ):
            assert agent.publish("x", b"") == 0

    @pytest.mark.parametrize("wrong", ["", "a/b", "a\0b", "n" * 193, "\ud800"])
    def test_with_a_wrong_name_is_refused(self, wrong: str) -> None:
        with pytest.raises(InvalidNameError):
            Bus.open(wrong)

    def test_of_a_ring_says_what_it_is(self, name: str) -> None:
        from fastcomm import RingBuffer

        with RingBuffer.create(name), pytest.raises(SegmentError, match="is a ring, not a bus"):
            Bus.open(name)

    def test_in_a_directory_keeps_buses_of_one_name_apart(self, name: str, tmp_path: Path) -> None:
        with Bus.open(name) as bus, bus.join("a"), Bus.open(name, directory=tmp_path) as other:
            assert names_on(other) == []
            assert Path(other.path).parent == tmp_path

    def test_sets_the_mode_of_the_file(self, name: str) -> None:
        with Bus.open(name, mode=0o660) as bus:
            assert os.stat(bus.path).st_mode & 0o777 == 0o660

    def test_after_the_file_was_never_completed_makes_it_anew(
        self, bus: Bus, name: str, tmp_path: Path
    ) -> None:
        half = tmp_path / Path(bus.path).name
        half.write_bytes(b"\0" * 100)
        with Bus.open(name, directory=tmp_path) as made, made.join("a"):
            assert names_on(made) == ["a"]

    def test_is_the_largest_message_it_says(self, name: str) -> None:
        with Bus.open(name, max_agents=1, inbox_bytes=1 << 24) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            room = bus.max_message - 34  # the envelope, the sender's name, the subject
            assert agent.publish("x", bytes(room)) == 1
            assert len(agent.receive(0).data) == room


class TestTakingOver:
    def kill_agent(self, name: str, **options: int) -> None:
        with Peer(joined(name, "doomed", "x.*", **options)) as peer:
            peer.kill()

    def test_a_bus_of_the_dead_with_the_same_limits_keeps_the_segment(self, name: str) -> None:
        with Bus.open(name, max_agents=2) as held:
            inode = os.stat(held.path).st_ino
            self.kill_agent(name)
            with Bus.open(name, max_agents=2) as bus, bus.join("doomed") as agent:
                assert os.stat(bus.path).st_ino == inode
                assert names_on(bus) == ["doomed"]
                assert agent.publish("x.y", b"") == 0  # the dead one's subscription has gone

    def test_a_bus_of_the_dead_with_other_limits_makes_it_anew(self, name: str) -> None:
        self.kill_agent(name, max_agents=2)
        with Bus.open(name, max_agents=3, inbox_bytes=4096) as bus:
            agents = [bus.join(str(i)) for i in range(3)]
            assert len(bus.agents()) == 3
            assert agents[0].publish("x.y", b"") == 0

    def test_a_handle_of_the_old_segment_joins_the_new_one(self, name: str) -> None:
        with Bus.open(name) as old:
            self.kill_agent(name)
            with Bus.open(name, max_agents=3) as new, new.join("a"), old.join("b"):
                assert names_on(old) == names_on(new) == ["a", "b"]

    def test_is_not_done_while_one_lives(self, name: str) -> None:
        with Bus.open(name, max_agents=2) as bus, bus.join("a"):
            self.kill_agent(name)
            with pytest.raises(BusMismatchError):
                Bus.open(name, max_agents=3)


class TestNames:
    @pytest.mark.parametrize("good", ["a", "a b", "Zürich", "x" * 80, "\U0001f600" * 20, "a.b*>"])
    def test_that_are_printable_are_taken(self, bus: Bus, good: str) -> None:
        with bus.join(good) as agent:
            assert agent.name == good
            assert names_on(bus) == [good]

    @pytest.mark.parametrize("bad", ["", "x" * 81, "é" * 41, "a\0", "a\nb", "\x7f", "\ud800"])
    def test_of_other_kinds_are_refused(self, bus: Bus, bad: str) -> None:
        with pytest.raises(InvalidNameError, match="a name has 1 to 80 bytes of printable UTF-8"):
            bus.join(bad)
        assert bus.agents() == []

    def test_without_one_is_pid_and_number(self, bus: Bus) -> None:
        with bus.join() as first, bus.join() as second, bus.join() as third:
            pid = os.getpid()
            assert [first.name, second.name, third.name] == [f"pid-{pid}", f"pid-{pid}-2", f"pid-{pid}-3"]

    def test_of_a_live_agent_is_taken_and_the_error_has_its_pid(self, bus: Bus) -> None:
        with Peer(joined(bus.name, "a")) as peer:
            with pytest.raises(
                NameTakenError, match=f"has an agent 'a' already, in process {peer.pid}"
            ) as caught:
                bus.join("a")
            assert caught.value.pid == peer.pid
            assert peer.end() == 0

    def test_of_an_agent_of_this_process_is_taken(self, bus: Bus) -> None:
        with bus.join("a"), pytest.raises(NameTakenError) as caught:
            bus.join("a")
        assert caught.value.pid == os.getpid()

    def test_of_a_dead_agent_is_free_at_once(self, bus: Bus) -> None:
        with Peer(joined(bus.name, "a")) as peer:
            peer.kill()
        with bus.join("a"):
            (info,) = bus.agents()
            assert (info.name, info.pid, info.alive) == ("a", os.getpid(), True)

    def test_of_an_agent_that_left_is_free(self, bus: Bus) -> None:
        bus.join("a").close()
        with bus.join("a"):
            assert names_on(bus) == ["a"]


class TestJoiningAndLeaving:
    def test_the_last_one_out_removes_the_segment(self, name: str) -> None:
        bus = Bus.open(name)
        first, second = bus.join("a"), bus.join("b")
        first.close()
        assert Path(bus.path).exists()
        second.close()
        assert not Path(bus.path).exists()
        bus.close()

    def test_a_handle_without_agents_removes_it_when_it_closes(self, name: str) -> None:
        bus = Bus.open(name)
        bus.close()
        assert not Path(bus.path).exists()

    def test_a_handle_without_agents_leaves_it_to_those_who_have_joined(self, bus: Bus) -> None:
        with bus.join("a"):
            Bus.open(bus.name).close()
            assert names_on(bus) == ["a"]
            assert Path(bus.path).exists()

    def test_joining_again_after_the_last_left_makes_it_anew(self, bus: Bus) -> None:
        for _ in range(3):
            with bus.join("a") as agent:
                agent.subscribe("x")
                assert agent.publish("x", b"") == 1
            assert not Path(bus.path).exists()

    def test_a_new_agent_in_an_old_slot_gets_nothing_of_the_former(self, bus: Bus) -> None:
        with bus.join("sender") as sender:
            former = bus.join("former")
            former.subscribe("x")
            assert sender.publish("x", b"old") == 1
            slot = bus.agents()[1].slot
            former.close()
            assert sender.publish("x", b"lost") == 0
            with bus.join("next") as agent:
                assert bus.agents()[1].slot == slot
                assert agent.try_receive() is None
                agent.subscribe("x")
                sender.publish("x", b"new")
                assert agent.receive(0).data == b"new"
                assert agent.stats().discarded == 1

    def test_more_than_max_agents_are_refused_until_one_leaves(self, name: str) -> None:
        with Bus.open(name, max_agents=2) as bus, bus.join("a"), bus.join("b") as second:
            with pytest.raises(TableFullError, match="all 2 places of") as caught:
                bus.join("c")
            assert caught.value.capacity == 2
            second.close()
            bus.join("c").close()

    def test_a_killed_agents_place_is_free_again(self, name: str) -> None:
        with Bus.open(name, max_agents=2) as bus, bus.join("a"):
            for _ in range(2):
                with Peer(joined(name, "b", "x")) as peer:
                    peer.kill()
            with bus.join("c"):
                assert names_on(bus) == ["a", "c"]

    def test_closing_the_bus_closes_its_agents(self, name: str) -> None:
        bus = Bus.open(name)
        agent = bus.join("a")
        bus.close()
        assert agent.closed
        with pytest.raises(ClosedError, match=r"this handle of the bus .* is closed"):
            bus.join("b")
        with pytest.raises(ClosedError, match=r"this handle of the bus .* is closed"):
            bus.agents()
        bus.close()

    def test_an_agent_that_nobody_holds_leaves(self, bus: Bus) -> None:
        with bus.join("a"):
            bus.join("b")
            gc.collect()
            assert names_on(bus) == ["a"]

    def test_connect_closes_the_bus_with_the_agent(self, name: str) -> None:
        with connect(name, "a") as agent:
            path = Path(agent.bus.path)
            assert path.exists()
        assert not path.exists()
        with pytest.raises(ClosedError):
            agent.bus.join("b")

    def test_connect_that_fails_leaves_nothing_open(self, name: str) -> None:
        with pytest.raises(InvalidNameError):
            connect(name, "")

    def test_a_process_that_ends_without_closing_has_left_and_not_died(self, bus: Bus) -> None:
        script = f"import fastcomm; agent = fastcomm.connect({bus.name!r}, 'b'); agent.subscribe('x')"
        with bus.join("a") as agent:
            subprocess.run([sys.executable, "-c", script], check=True)
            assert names_on(bus) == ["a"]
            assert agent.publish("x", b"") == 0
            assert bus._segment.deaths == (0, 0)

    def test_agents_tells_who_is_there(self, small_bus: Bus) -> None:
        with small_bus.join("a") as first, small_bus.join("b") as second:
            second.subscribe("x")
            first.publish("x", bytes(100))
            infos = {info.name: info for info in small_bus.agents()}
            assert infos["a"].pid == infos["b"].pid == os.getpid()
            assert [infos["a"].slot, infos["b"].slot] == [0, 1]
            assert infos["a"].alive
            assert infos["a"].depth == 0
            assert infos["b"].depth == 192  # 32 + 1 + 1 + 100 bytes and 8 before them: 3 cells
            assert infos["b"].capacity == 32 * 64

    def test_repr_says_what_it_is(self, name: str) -> None:
        bus = Bus.open(name, max_agents=3)
        agent = bus.join("a")
        assert repr(bus) == f"<Bus {name!r}, 1 of 3 agents>"
        assert repr(agent) == f"<Agent 'a' of {name!r}>"
        bus.close()
        assert repr(bus) == f"<Bus {name!r}, closed>"
        assert repr(agent) == f"<Agent 'a' of {name!r}, closed>"


class TestUnlinkedAndVanished:
    def test_agents_of_an_unlinked_bus_go_on_with_each_other(self, bus: Bus) -> None:
        with bus.join("a") as agent, agent.subscribe("x"):
            bus.unlink()
            assert not Path(bus.path).exists()
            assert agent.publish("x", b"1") == 1
            with agent.subscribe("y"):
                assert agent.publish("y", b"2") == 1
            assert [agent.receive(0).data, agent.try_receive()] == [b"1", None]

    def test_nobody_joins_an_unlinked_bus_that_has_agents(self, bus: Bus) -> None:
        with bus.join("a"):
            bus.unlink()
            with pytest.raises(SegmentError, match="was unlinked; close its agents, then join again"):
                bus.join("b")
        with bus.join("b"):
            assert names_on(bus) == ["b"]

    def test_opening_an_unlinked_bus_makes_another(self, bus: Bus) -> None:
        with bus.join("a"):
            bus.unlink()
            with Bus.open(bus.name) as other, other.join("a"):
                assert other.agents()[0].pid == os.getpid()

    def test_a_deleted_file_is_an_error_in_calls_that_wait_and_join(self, bus: Bus) -> None:
        agent = bus.join("a")
        os.unlink(bus.path)
        with pytest.raises(SegmentVanishedError, match="was deleted while in use"):
            agent.receive(timeout=30)
        with pytest.raises(SegmentVanishedError, match="was deleted while in use"):
            bus.join("b")
        agent.close()


def run_on_a_small_tmpfs(script: str, kib: int) -> subprocess.CompletedProcess[str]:
    """Run the script with a tmpfs of that size at sys.argv[1], which nobody else sees."""
    command = f'mount -t tmpfs -o size={kib}k none "$1" && exec "$2" -c "$3" "$1"'
    namespace = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
    folder = Path("/mnt")
    if subprocess.run(
        [*namespace, "mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False
    ).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    arguments = [*namespace, "sh", "-c", command, "sh", folder, sys.executable, textwrap.dedent(script)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False)


class TestFullFileSystem:
    def test_opening_and_joining_say_what_is_free_and_needed(self) -> None:
        done = run_on_a_small_tmpfs(
            """
            import os, sys
            from fastcomm import Bus
            from fastcomm.errors import ShmFullError
            where = sys.argv[1]
            try:
                Bus.open("b", max_agents=64, max_subscriptions=8192, directory=where)
                raise SystemExit("opened")
            except ShmFullError as error:
                assert error.needed > error.free >= 0, error
                assert "directory=" in str(error), error
            assert os.listdir(where) == [], os.listdir(where)
            bus = Bus.open("b", max_agents=64, inbox_bytes=65536, max_subscriptions=1, directory=where)
            agents = []
            try:
                while True:
                    agents.append(bus.join())
                    agents[-1].subscribe("x") if len(agents) == 1 else None
            except ShmFullError as error:
                assert error.needed == bus._limits.stride, error
            assert 2 <= len(agents) < 40, agents
            assert agents[1].publish("x", b"still works") == 1
            assert agents[0].receive(0).data == b"still works"
            agents.pop().close()    # its pages are given back
            with bus.join("again") as agent:
                assert agent.publish("x", b"y") == 1
            bus.close()
            assert os.listdir(where) == [], os.listdir(where)
            """,
            kib=1024,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_reaping_touches_no_page_that_was_given_back(self) -> None:
        """Control words of large inboxes are more than a page: on a full file system that would be SIGBUS."""
        done = run_on_a_small_tmpfs(
            """
            import os, sys
            from fastcomm import Bus
            where = sys.argv[1]
            bus = Bus.open("b", max_agents=8, inbox_bytes=1 << 20, max_subscriptions=8, directory=where)
            first = bus.join("first")
            for agent in [bus.join() for _ in range(3)]:
                agent.close()
            if os.fork() == 0:
                doomed = bus.join("doomed")
                os.kill(os.getpid(), 9)
            os.wait()
            file = os.open(where + "/filler", os.O_CREAT | os.O_WRONLY)
            try:
                while os.write(file, bytes(4096)):
                    pass
            except OSError:
                pass
            bus.open("b", directory=where).close()
            assert [info.name for info in bus.agents()] == ["first"]
            bus.close()
            """,
            kib=8192,
        )
        assert done.returncode == 0, f"{done.returncode} {done.stdout} {done.stderr}"

"""An agent stopped or killed at each step of what it does to a bus, while others go on."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from peers import Peer, joined

from fastcomm import Agent, Bus
from fastcomm.testing.chaos.hooks import HOOKS

pytestmark = pytest.mark.debug_build

NOT_EMPTY = 384  # offset of the place where a receiver sleeps, in its inbox
COMMITTED = ("COMMIT_AFTER_HEADER", "WAKE_BEFORE_CLEAR", "WAKE_BEFORE_BUMP", "WAKE_BEFORE_FUTEX")


class Step(NamedTuple):
    """Where a victim stops: as it does `work`, at a fault hook of a module."""

    what: str
    module: str
    hook: str
    work: str
    countdown: int = 1


STEPS = [
    Step("join", "segment", "JOIN_BEFORE_STATE", "bus.join('second')"),
    Step("join", "segment", "JOIN_AFTER_STATE", "bus.join('second')"),
    Step("subscribe", "tables", "TABLE_MID_WRITE", "agent.subscribe('x')"),
    Step("subscribe", "tables", "TABLE_BEFORE_GENERATION", "agent.subscribe('x')"),
    Step("unsubscribe", "tables", "TABLE_MID_WRITE", "agent.subscriptions[0].unsubscribe()"),
    Step("unsubscribe", "tables", "TABLE_BEFORE_GENERATION", "agent.subscriptions[0].unsubscribe()"),
    Step("leave", "tables", "TABLE_MID_WRITE", "agent.close()"),
    Step("leave", "tables", "TABLE_BEFORE_GENERATION", "agent.close()"),
    Step("leave", "tables", "TABLE_MID_WRITE", "agent.close()", 2),
    Step("leave", "contested", "CONSUME_BEFORE_HEAD", "agent.close()"),
    Step("leave", "contested", "CONSUME_AFTER_HEAD", "agent.close()"),
    Step("leave", "segment", "LEAVE_BEFORE_FREE", "agent.close()"),
    Step("publish", "protocol", "CLAIM_BEFORE_CAS", "agent.publish('y', data)"),
    Step("publish", "protocol", "CLAIM_AFTER_CAS", "agent.publish('y', data)"),
    Step("publish", "protocol", "WRITE_HALF", "agent.publish('y', data)"),
    Step("publish", "protocol", "COMMIT_BEFORE_HEADER", "agent.publish('y', data)"),
    Step("publish", "protocol", "COMMIT_AFTER_HEADER", "agent.publish('y', data)"),
    Step("publish urgent", "protocol", "COMMIT_AFTER_HEADER", "agent.publish('y', data, priority=0)"),
    Step("publish many", "outboxes", "BATCH_BETWEEN_HEADERS", "agent.publish_many('y', [data] * 5)"),
    Step("publish many", "protocol", "COMMIT_BEFORE_HEADER", "agent.publish_many('y', [data] * 5)"),
    Step(
        "publish after padding",
        "protocol",
        "PAD_BEFORE_HEADER",
        "[agent.publish('y', data) for _ in range(9)]",
    ),
    Step("learn", "strings", "STRING_BEFORE_END", "bus.strings.learn('a text')"),
    Step("learn", "strings", "STRING_BEFORE_COUNT", "bus.strings.learn('a text')"),
    Step("receive", "protocol", "CONSUME_BEFORE_HEAD", "agent.receive()"),
    Step("receive", "protocol", "CONSUME_AFTER_HEAD", "agent.receive()"),
    Step("wait", "ring", "SLEEP_BEFORE_FLAG", "[agent.receive() for _ in range(3)]"),
    Step("wait", "ring", "SLEEP_BEFORE_WAIT", "[agent.receive() for _ in range(3)]"),
]
REAPING = [
    Step("reap", "tables", "TABLE_MID_WRITE", "bus.join('second')"),
    Step("reap", "tables", "TABLE_BEFORE_GENERATION", "bus.join('second')"),
    Step("reap", "contested", "CONSUME_BEFORE_HEAD", "bus.join('second')"),
    Step("reap", "segment", "REAP_BEFORE_FREE", "bus.join('second')"),
    Step("reap", "segment", "LEAVE_BEFORE_FREE", "bus.join('second')"),
]
DATA = b"whole " * 40


def label(step: object) -> str | None:
    return f"{step.what}-{step.hook}-{step.countdown}" if isinstance(step, Step) else None


@pytest.fixture
def bus(request: pytest.FixtureRequest, name: str) -> Iterator[Bus]:
    with Bus.open(name, inbox_bytes=8192, max_agents=8) as opened:  # 64 cells
        yield opened
    del request.node.funcargs["bus"]


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def start(step: Step, victim: Peer) -> None:
    """The value of the work is lost, but for the peer's `value`."""
    arm = f"fastcomm._core.{step.module}._arm_hook({HOOKS[step.hook]}, {step.countdown})"
    victim.send(f"{arm}; value = {step.work}")
    victim.await_stop()


def fill(bus: Bus, agent: Agent) -> None:
    """Publish until the first agent's inbox has room for CRITICAL messages only."""
    while bus.agents()[0].depth < bus.agents()[0].capacity * 7 // 8:
        agent.publish("x", b"")


def take_there(receiver: Agent, got: list[object]) -> None:
    while (message := receiver.try_receive()) is not None:
        got.append(message.data)


def check_successor(bus: Bus, sender: Agent) -> None:
    """The dead one's name, slot and inbox serve a next agent, who gets nothing that was meant for it."""
    with bus.join("victim") as successor:
        assert sender.publish("victim.only", b"") == 0
        successor.subscribe("victim.only")
        assert sender.publish("victim.only", b"new") == 1
        assert successor.receive(60).data == b"new"
        assert successor.try_receive() is None
        with bus.join("second") as second:
            second.subscribe("second")
            assert sender.publish("second", b"") == 1


@pytest.mark.parametrize("step", [*STEPS, *REAPING], ids=label)
def test_who_is_killed_there_costs_nobody_else_anything(bus: Bus, step: Step) -> None:
    with bus.join("sender") as sender, bus.join("receiver") as receiver:
        for pattern in ("x", "y"):
            receiver.subscribe(pattern)
        with Peer(joined(bus.name, "victim", "x", "victim.>") + f"\ndata = {DATA!r}") as victim:
            if step in REAPING:
                with Peer(joined(bus.name, "doomed", "x")) as doomed:
                    doomed.kill()
            for _ in range(50 if "padding" in step.what else 0):  # of 64 cells
                sender.publish("y", None)
                receiver.receive(0)
            sender.publish("x", 0)
            start(step, victim)
            got: list[object] = []
            for i in range(1, 10):  # nobody who is at work on the tables or elsewhere holds up a publish
                assert sender.publish("x", i) >= 1
                take_there(receiver, got)
            victim.kill()
            for i in range(10, 20):
                assert sender.publish("x", i, timeout=60) >= 1
            while got.count(19) == 0:
                got.append(receiver.receive(60).data)
        assert [data for data in got if data != DATA] == list(range(20))
        if step.what.startswith("publish"):
            assert got.count(DATA) == (2 if "padding" in step.what else step.hook in COMMITTED)
        with Bus.open(bus.name):
            pass
        assert [info.name for info in bus.agents()] == ["sender", "receiver"]
        assert len(bus._subscriptions.entries_in_use()) == 2
        assert sender.publish("x", b"") == 1
        assert receiver.receive(60).data == b""
        check_successor(bus, sender)


@pytest.mark.parametrize(
    "step", [step for step in STEPS if step.what in ("subscribe", "unsubscribe", "leave")], ids=label
)
def test_who_is_stopped_there_and_goes_on_has_done_what_it_was_to(bus: Bus, step: Step) -> None:
    with bus.join("sender") as sender, bus.join("receiver") as receiver:
        receiver.subscribe("x")
        with Peer(joined(bus.name, "victim", "x", "victim.>")) as victim:
            sender.publish("victim.unread", b"")  # for leaving to pass over
            start(step, victim)
            for i in range(10):
                sender.publish("x", i)
            victim.go_on()
            victim.result()
            assert [receiver.receive(60).data for _ in range(10)] == list(range(10))
            reached = {"subscribe": 2, "unsubscribe": 1, "leave": 1}[step.what]
            assert sender.publish("x", b"") == reached
            assert sender.publish("victim.only", b"") == (step.what != "leave")
            victim.end()


@pytest.mark.parametrize("hook", ["STRING_BEFORE_END", "STRING_BEFORE_COUNT"])
def test_who_is_killed_as_it_learns_leaves_the_table_as_it_was(bus: Bus, hook: str) -> None:
    with bus.join("sender") as sender, Peer(joined(bus.name, "victim")) as victim:
        sender.subscribe("x")
        bus.strings.learn("known")
        start(Step("learn", "strings", hook, "bus.strings.learn('longer than what comes next')"), victim)
        for _ in range(4):  # it has the gate: the key is written out, and nobody waits
            sender.publish("x", {"known": 1, "next key": 2})
        assert len(bus.strings) == 1
        victim.kill()
        for _ in range(4):
            sender.publish("x", {"known": 1, "next key": 2})
        assert [message.data for message in sender.receive_many()] == [{"known": 1, "next key": 2}] * 8
        assert bus.strings.texts == ["known", "next key"]
        with Peer(joined(bus.name, "other")) as other:
            assert other.do("len(bus.strings), bus.strings.texts") == (2, ["known", "next key"])


class TestAPublisherIsLate:
    """It was stopped with an inbox in mind that has another owner when it goes on."""

    @pytest.mark.parametrize(
        "hook", ["CLAIM_BEFORE_CAS", "CLAIM_AFTER_CAS", "WRITE_HALF", "COMMIT_BEFORE_HEADER"]
    )
    def test_and_what_it_sends_is_dropped_and_counted_on_both_sides(self, bus: Bus, hook: str) -> None:
        with bus.join("sender") as sender, Peer(joined(bus.name, "victim")) as victim:
            former = bus.join("former")
            former.subscribe("x")
            slot = former._slot
            start(Step("publish", "protocol", hook, "agent.publish('x', b'old')"), victim)
            former.close()
            with bus.join("successor") as successor:
                assert successor._slot == slot
                successor.subscribe("x")
                assert sender.publish("x", b"1") == 1
                victim.go_on()
                victim.result()
                assert victim.do("value") == 0
                assert victim.do("agent.stats().misdirected") == 1
                assert victim.do("agent.publish('x', b'2')") == 1
                assert [successor.receive(60).data for _ in range(2)] == [b"1", b"2"]
                assert successor.try_receive() is None
                assert successor.stats().stale == 1
                assert victim.end() == 0

    @pytest.mark.parametrize("hook", ["CLAIM_AFTER_CAS", "WRITE_HALF", "COMMIT_BEFORE_HEADER"])
    def test_and_dies_and_its_claim_is_given_up(self, bus: Bus, hook: str) -> None:
        with bus.join("sender") as sender, Peer(joined(bus.name, "victim")) as victim:
            former = bus.join("former")
            former.subscribe("x")
            start(Step("publish", "protocol", hook, "agent.publish('x', b'old')"), victim)
            former.close()
            with bus.join("successor") as successor:
                successor.subscribe("x")
                assert sender.publish("x", b"new") == 1
                assert successor.try_receive() is None  # held up by the claim of one who lives
                victim.kill()
                assert successor.receive(60).data == b"new"
                assert successor.stats().aborted == 1

    @pytest.mark.parametrize("hook", ["CLAIM_BEFORE_CAS", "CLAIM_AFTER_CAS"])
    def test_and_the_former_owner_was_killed(self, bus: Bus, hook: str) -> None:
        with bus.join("sender") as sender, Peer(joined(bus.name, "victim")) as victim:
            with Peer(joined(bus.name, "former", "x")) as former:
                start(Step("publish", "protocol", hook, "agent.publish('x', b'old')"), victim)
                former.kill()
            with bus.join("successor") as successor:
                successor.subscribe("x")
                sender.publish("x", b"new")
                victim.go_on()
                victim.result()
                assert victim.do("value") == 0
                assert successor.receive(60).data == b"new"
                assert successor.try_receive() is None
                assert successor.stats().stale == 1


class TestHeirs:
    """A member of a group is killed, and then who passes on what it left unread."""

    @pytest.mark.parametrize("countdown", [1, 4])
    @pytest.mark.parametrize(
        ("module", "hook"),
        [
            ("protocol", "CLAIM_AFTER_CAS"),
            ("protocol", "WRITE_HALF"),
            ("protocol", "COMMIT_BEFORE_HEADER"),
            ("protocol", "COMMIT_AFTER_HEADER"),
            ("contested", "CONSUME_BEFORE_HEAD"),
            ("contested", "CONSUME_AFTER_HEAD"),
        ],
    )
    def test_get_all_of_it_and_at_most_one_message_twice(
        self, bus: Bus, module: str, hook: str, countdown: int
    ) -> None:
        with bus.join("sender") as sender, bus.join("heir") as heir, Peer(joined(bus.name, "r")) as reaper:
            with Peer(joined(bus.name, "member")) as member:
                member.do("agent.subscribe('jobs', group='g') and None")
                for i in range(10):
                    assert sender.publish("jobs", i) == 1
                heir.subscribe("jobs", group="g")
                member.kill()
            start(Step("reap", module, hook, "bus.join('second')", countdown), reaper)
            reaper.kill()
            with Bus.open(bus.name):  # goes on
                pass
            got = [message.data for message in heir.receive_many(timeout=60)]
            assert set(got) == set(range(10))
            assert len(got) <= 11
            assert [info.name for info in bus.agents()] == ["sender", "heir"]
            assert sender.publish("jobs", b"") == 1

    def test_get_it_though_one_of_them_dies_in_the_same_moment(self, bus: Bus) -> None:
        with bus.join("sender") as sender, bus.join("heir") as heir:
            members = [Peer(joined(bus.name, f"member {i}")) for i in range(3)]
            for member in members:
                member.do("agent.subscribe('jobs', group='g') and None")
            for i in range(12):
                sender.publish("jobs", i)
            heir.subscribe("jobs", group="g")
            for member in members:
                member.kill()
            with Bus.open(bus.name):  # reaps all of them
                pass
            assert sorted(message.data for message in heir.receive_many(timeout=60)) == list(range(12))


def told(watcher: Agent) -> list[tuple[str, str, int, int]]:
    """What has come of presence: what, name, slot, generation."""
    found = []
    while (message := watcher.try_receive()) is not None:
        what, data = message.subject.removeprefix("$bus.agent."), message.data
        found.append((what, data["name"], data["slot"], data["generation"]))
    return found


class TestPresence:
    """Who tells it is killed before, in the middle of, or after telling."""

    @pytest.mark.parametrize(
        ("module", "hook"),
        [
            ("segment", "REAP_BEFORE_FREE"),
            ("protocol", "CLAIM_AFTER_CAS"),
            ("protocol", "WRITE_HALF"),
            ("protocol", "COMMIT_BEFORE_HEADER"),
            ("protocol", "COMMIT_AFTER_HEADER"),
            ("segment", "LEAVE_BEFORE_FREE"),
        ],
    )
    def test_a_death_is_told_once_or_twice_of_the_same_agent(self, bus: Bus, module: str, hook: str) -> None:
        with bus.join("watcher") as watcher, Peer(joined(bus.name, "reaper")) as reaper:
            watcher.subscribe("$bus.agent.died")
            with Peer(joined(bus.name, "doomed")) as doomed:
                doomed.kill()
            start(Step("reap", module, hook, "bus.join('second')"), reaper)
            reaper.kill()
            with Bus.open(bus.name):
                pass
            deaths = told(watcher)
            assert len(set(deaths)) == 2
            assert [death[1] for death in deaths].count("doomed") in (1, 2)
            assert [death[1] for death in deaths].count("reaper") == 1

    @pytest.mark.parametrize(
        ("module", "hook"),
        [
            ("protocol", "CLAIM_AFTER_CAS"),
            ("protocol", "COMMIT_AFTER_HEADER"),
            ("segment", "LEAVE_BEFORE_FREE"),
        ],
    )
    def test_who_is_killed_as_it_leaves_has_left_and_not_died(self, bus: Bus, module: str, hook: str) -> None:
        with bus.join("watcher") as watcher, Peer(joined(bus.name, "leaver")) as leaver:
            watcher.subscribe("$bus.agent.*")
            start(Step("leave", module, hook, "agent.close()"), leaver)
            leaver.kill()
            with Bus.open(bus.name):
                pass
            ends = told(watcher)
            assert len(set(ends)) == 1
            assert ends[0][:2] == ("left", "leaver")

    @pytest.mark.parametrize("hook", ["CLAIM_AFTER_CAS", "COMMIT_AFTER_HEADER"])
    def test_who_is_killed_as_it_tells_that_it_joined_has_died(self, bus: Bus, hook: str) -> None:
        with bus.join("watcher") as watcher, Peer(joined(bus.name, "first")) as peer:
            watcher.subscribe("$bus.agent.*")
            start(Step("join", "protocol", hook, "bus.join('second')"), peer)
            peer.kill()
            with Bus.open(bus.name):
                pass
            told_of = [what for what, name, *_ in told(watcher) if name == "second"]
            assert told_of == (["joined", "died"] if hook in COMMITTED else ["died"])


@pytest.mark.parametrize(
    "hook", ["CREATE_BEFORE_RESERVE", "CREATE_BEFORE_MAGIC", "CREATE_AFTER_MAGIC", "UNLINK_BEFORE_REMOVE"]
)
def test_who_is_killed_as_it_makes_or_removes_a_bus_is_followed_by_one_that_makes_it(
    name: str, hook: str
) -> None:
    with Peer("import fastcomm.bus") as victim:
        start(Step("make", "segment_file", hook, f"fastcomm.Bus.open({name!r}).close()"), victim)
        victim.kill()
    with Bus.open(name) as bus, bus.join("a") as agent:
        agent.subscribe("x")
        assert agent.publish("x", b"") == 1


def sleeps(agent: Agent) -> bool:
    memory = agent.bus._inbox_memory(agent._slot)
    return bool(memory[NOT_EMPTY + 4])


class TestWakeUps:
    @pytest.mark.parametrize("hook", COMMITTED)
    def test_a_publisher_killed_before_it_wakes_the_receiver_costs_a_slice(
        self, bus: Bus, thread: ThreadPoolExecutor, hook: str
    ) -> None:
        with bus.join("a") as agent, bus.join("c"), Peer(joined(bus.name, "victim")) as victim:
            agent.subscribe("x")
            receiving = thread.submit(agent.receive, 60)
            while not sleeps(agent):
                time.sleep(0.001)
            start(Step("publish", "protocol", hook, "agent.publish('x', b'committed')"), victim)
            victim.kill()
            assert receiving.result().data == b"committed"

    def test_publishers_that_wait_for_a_receiver_go_on_when_it_is_killed(self, bus: Bus) -> None:
        with Peer(joined(bus.name, "victim", "x")) as victim, bus.join("a") as agent:
            fill(bus, agent)
            with Peer(joined(bus.name, "b")) as second, Peer(joined(bus.name, "c")) as third:
                for peer in (second, third):
                    peer.send("agent.publish('x', b'', timeout=60)")
                time.sleep(0.1)
                victim.kill()
                assert (agent.publish("x", b"", timeout=60), second.result(), third.result()) == (0, 0, 0)

    @pytest.mark.parametrize("hook", ["CONSUME_BEFORE_HEAD", "CONSUME_AFTER_HEAD"])
    def test_publishers_that_wait_go_on_when_the_receiver_dies_as_it_makes_room(
        self, bus: Bus, hook: str
    ) -> None:
        with (
            Peer(joined(bus.name, "victim", "x")) as victim,
            bus.join("a") as agent,
            Peer(joined(bus.name, "b")) as other,
        ):
            fill(bus, agent)
            other.send("agent.publish('x', b'', timeout=60)")
            time.sleep(0.05)
            start(Step("receive", "protocol", hook, "agent.receive()"), victim)
            victim.kill()
            assert other.result() in (0, 1)
            assert agent.publish("x", b"", timeout=60) == 0


class TestCreation:
    @pytest.mark.parametrize("hook", ["CREATE_BEFORE_RESERVE", "CREATE_BEFORE_MAGIC", "CREATE_AFTER_MAGIC"])
    def test_of_a_bus_that_was_killed_there_is_done_anew(self, name: str, hook: str) -> None:
        with Peer("import fastcomm") as victim:
            victim.do("fastcomm.Bus")  # loads it
            start(Step("create", "segment_file", hook, f"fastcomm.Bus.open({name!r})"), victim)
            victim.kill()
        with Bus.open(name) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            assert agent.publish("x", b"") == 1

    def test_removal_that_was_killed_halfway_makes_room_for_another_bus(self, name: str) -> None:
        with Peer(joined(name, "victim")) as victim:
            start(Step("leave", "segment_file", "UNLINK_BEFORE_REMOVE", "agent.close()"), victim)
            victim.kill()
        with Bus.open(name) as bus, bus.join("a"):
            assert [info.name for info in bus.agents()] == ["a"]

"""Requests and their answers: who gets which, what errors say, what is counted."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from peers import Peer, joined
from procs import wait_until

import fastcomm
from fastcomm import Agent, Bus, Message, Priority, Struct
from fastcomm.errors import (
    ClosedError,
    CorruptSegmentError,
    Empty,
    EncodeError,
    Full,
    MessageTooLargeError,
    NoRespondersError,
    RequestTimeoutError,
    ResponderError,
    RespondError,
)

LONG = 60.0


class Quote(Struct, type_id=7901):
    price: float
    volume: int


@contextmanager
def serving(*agents: Agent) -> Iterator[None]:
    """They run() in threads; closed at the end."""
    threads = [threading.Thread(target=agent.run) for agent in agents]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for agent in agents:
            agent.close()
        for thread in threads:
            thread.join()


def fill(sender: Agent, subject: str, timeout: float = 0) -> int:
    """How many messages, numbered from 0, it took until there was no room."""
    count = 0
    with suppress(Full):
        while True:
            sender.publish(subject, count, timeout=timeout)
            count += 1
    return count


@contextmanager
def asking(
    agent: Agent, subject: str, data: Any, timeout: float | None = LONG, **options: Any
) -> Iterator[list[Any]]:
    """A request from a thread; at the end of the block it must be over. The list gets its outcome."""
    outcome: list[Any] = []

    def ask() -> None:
        try:
            outcome.append(agent.request(subject, data, timeout, **options))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join()


@pytest.fixture
def pair(request: pytest.FixtureRequest, bus: Bus) -> Iterator[tuple[Agent, Agent]]:
    """Who asks, and who answers."""
    with bus.join("asker") as asker, bus.join("answerer") as answerer:
        yield asker, answerer
    del request.node.funcargs["pair"]


class TestAnswers:
    def test_handler_answers(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("square.*", lambda message: message.respond(message.data**2))
        with serving(answerer):
            reply = asker.request("square.x", 7)
            assert (reply.data, reply.sender, reply.subject) == (49, "answerer", "square.x")
            assert not reply.is_request
            with pytest.raises(RespondError, match="was published, not requested"):
                reply.respond(1)

    def test_of_another_process_while_nobody_else_is_on_the_bus(self, bus: Bus) -> None:
        with bus.join("a") as agent, Peer(joined(bus.name, "b", "x")) as peer:
            peer.send("[agent.receive(60).respond(i) for i in range(100)] and None")
            assert [agent.request("x", None, LONG).data for _ in range(100)] == list(range(100))
            peer.result()
            peer.end()

    @pytest.mark.parametrize(
        "data",
        [b"", b"bytes", None, {"a": [1, "text"]}, "x" * 3000],
        ids=["empty", "bytes", "none", "dict", "3 KB"],
    )
    def test_carry_what_a_message_carries(self, pair: tuple[Agent, Agent], data: Any) -> None:
        asker, answerer = pair
        answerer.subscribe("echo", lambda one: one.respond(one.data, headers={"was": one.headers}))
        with serving(answerer):
            reply = asker.request("echo", data, headers={"trace": "4bf9"})
            assert (reply.data, reply.headers) == (data, {"was": {"trace": "4bf9"}})

    def test_may_be_structs_read_in_place(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("quote", lambda message: message.respond(message.data))
        with serving(answerer):
            reply = asker.request("quote", Quote(price=1.5, volume=7))
            assert reply.data == Quote(price=1.5, volume=7)
            assert Quote.view(reply.payload).volume == 7

    def test_have_the_priority_of_their_request_unless_said(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("same", lambda message: message.respond(message.priority))
        answerer.subscribe("low", lambda message: message.respond(1, priority=Priority.LOW))
        with serving(answerer):
            for priority in range(4):
                reply = asker.request("same", None, priority=priority)
                assert (reply.data, reply.priority) == (priority, priority)
            assert asker.request("low", None).priority == Priority.LOW

    def test_are_never_received_and_what_else_comes_meanwhile_is_kept_in_order(
        self, pair: tuple[Agent, Agent]
    ) -> None:
        asker, answerer = pair
        asker.subscribe("news")
        answerer.subscribe("x")
        with asking(asker, "x", None) as outcome:
            request = answerer.receive(LONG)
            answerer.publish_many("news", range(50))
            assert request.respond("answer") is True
        assert outcome[0].data == "answer"
        assert [one.data for one in asker.receive_many(timeout=0)] == list(range(50))
        assert asker.stats().lost == 0

    def test_first_of_several_wins_and_later_ones_are_counted(self, bus: Bus) -> None:
        with bus.join("asker") as asker, bus.join("b") as b, bus.join("c") as c:
            b.subscribe("x")
            c.subscribe("x")
            with asking(asker, "x", None) as outcome:
                first, second = b.receive(LONG), c.receive(LONG)
                assert second.respond("c") is True
                wait_until(lambda: outcome)
                assert first.respond("b") is True
            assert outcome[0].data == "c"
            assert asker.try_receive() is None
            assert asker.stats().late_responses == 1

    def test_group_gets_a_request_once(self, bus: Bus) -> None:
        with bus.join("asker") as asker:
            members = [bus.join(f"m{i}") for i in range(3)]
            for one in members:
                one.subscribe("x", lambda message: message.respond(message.data), group="g")
            with serving(*members):
                assert [asker.request("x", i, LONG).data for i in range(60)] == list(range(60))
                while sum(one.stats().responses for one in members) < 60:  # counted after the asker has it
                    time.sleep(0.001)
            assert asker.stats().late_responses == 0

    def test_transformed_copy_answers_the_same_request(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x", lambda one: one.respond(one.data), transform=lambda one: one.data + 1)
        with serving(answerer):
            assert asker.request("x", 1).data == 2

    def test_come_from_any_thread(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with asking(asker, "x", None) as outcome:
            request = answerer.receive(LONG)
            thread = threading.Thread(target=lambda: request.respond(17))
            thread.start()
            thread.join()
        assert outcome[0].data == 17

    def test_of_many_threads_of_one_agent_find_their_way(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x", lambda message: message.respond(message.data))
        wrong: list[Any] = []

        def ask(thread: int) -> None:
            wrong.extend(
                (thread, i) for i in range(50) if asker.request("x", [thread, i], LONG).data != [thread, i]
            )

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
        with serving(answerer):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert asker.stats().late_responses == 0

    def test_reach_a_request_beside_threads_that_receive(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        asker.subscribe("news", lambda message: None)
        answerer.subscribe("x", lambda one: (answerer.publish("news", 1), one.respond(one.data)))
        with serving(answerer, asker):
            assert [asker.request("x", i, LONG).data for i in range(200)] == list(range(200))

    def test_handler_may_ask_another_agent(self, bus: Bus) -> None:
        with bus.join("asker") as asker, bus.join("middle") as middle, bus.join("last") as last:
            middle.subscribe(
                "double", lambda one: one.respond(middle.request("add", [one.data, one.data]).data)
            )
            last.subscribe("add", lambda one: one.respond(sum(one.data)))
            with serving(middle, last):
                assert [asker.request("double", i, LONG).data for i in range(20)] == [
                    2 * i for i in range(20)
                ]

    def test_agent_asks_itself_with_another_thread(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x", lambda message: message.respond("self"))
            with serving(agent):
                assert agent.request("x", None, LONG).data == "self"


class TestNoAnswer:
    def test_without_subscribers_is_said_at_once(self, pair: tuple[Agent, Agent]) -> None:
        asker, _ = pair
        with pytest.raises(
            NoRespondersError, match=r"nobody on .* got the request 'x': nobody has subscribed"
        ):
            asker.request("x", 1, None)

    def test_in_time_names_who_has_the_request(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with pytest.raises(
            RequestTimeoutError,
            match=r"no answer to 'x' within 0.05 s; 1 agents have the request, 1 of them are alive: agent "
            "'answerer', pid .* with 128 bytes in its inbox",
        ) as raised:
            asker.request("x", 1, 0.05)
        assert (raised.value.reached, raised.value.alive, raised.value.seconds) == (1, 1, 0.05)
        assert isinstance(raised.value, TimeoutError)

    def test_from_the_thread_that_asks_its_own_agent_is_explained(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x", print)
            with pytest.raises(RequestTimeoutError, match="this agent itself, whose handlers request"):
                agent.request("x", 1, 0.05)

    def test_timeouts_must_be_sound(self, pair: tuple[Agent, Agent]) -> None:
        asker, _ = pair
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout is"):
                asker.request("x", 1, wrong)
        assert asker.stats().requests == 0

    def test_nothing_is_sent_of_what_cannot_be_encoded(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with pytest.raises(EncodeError):
            asker.request("x", object())
        assert answerer.try_receive() is None

    def test_ends_with_the_agent(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with asking(asker, "x", None, None) as outcome:
            answerer.receive(LONG)
            asker.close()
        assert isinstance(outcome[0], ClosedError)

    def test_of_one_that_leaves_is_said(self, bus: Bus) -> None:
        with bus.join("asker") as asker, bus.join("other"):
            leaver = bus.join("leaver")
            leaver.subscribe("x")
            with asking(asker, "x", None, None) as outcome:
                leaver.receive(LONG)
                leaver.close()
        assert isinstance(outcome[0], fastcomm.PeerDiedError)
        assert "'leaver' had the request 'x' and was killed or has left" in str(outcome[0])

    def test_as_all_inboxes_are_full_is_full(self, small_bus: Bus) -> None:
        with small_bus.join("a") as asker, small_bus.join("b") as answerer:
            answerer.subscribe("x")
            fill(asker, "x")
            with pytest.raises(Full, match=r"within 0.05 s in the inbox of agent 'b'"):
                asker.request("x", 1, 0.05)

    def test_is_waited_for_in_one_inbox_only_as_long_as_no_other_has_the_request(
        self, small_bus: Bus
    ) -> None:
        with small_bus.join("a") as asker, small_bus.join("b") as full, small_bus.join("c") as idle:
            full.subscribe("x")
            fill(asker, "x")
            idle.subscribe("x", lambda message: message.respond("c") if message.is_request else None)
            with serving(idle):
                assert asker.request("x", 1, None).data == "c"


class TestErrors:
    def test_of_a_handler_come_with_kind_text_and_traceback(
        self, bus: Bus, caplog: pytest.LogCaptureFixture
    ) -> None:
        def divide(message: Message) -> None:
            message.respond(1 / message.data)

        seen: list[Any] = []
        with bus.join("a") as asker, bus.join("b", on_error=lambda *args: seen.append(args)) as answerer:
            subscription = answerer.subscribe("inverse", divide)
            with serving(answerer):
                with pytest.raises(
                    ResponderError, match="'b' answered with an error: ZeroDivisionError: div"
                ) as raised:
                    asker.request("inverse", 0)
                assert asker.request("inverse", 2).data == 0.5
        error = raised.value
        assert (error.sender, error.kind) == ("b", "ZeroDivisionError")
        assert error.text == "division by zero"
        assert "in divide" in error.traceback
        assert subscription.errors == len(seen) == 1

    def test_that_are_no_builtins_are_named_with_their_module(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.on_error = lambda *args: None
        answerer.subscribe("x", lambda message: answerer.request("nobody", 1))
        with serving(answerer), pytest.raises(ResponderError) as raised:
            asker.request("x", 1)
        assert raised.value.kind == "fastcomm.errors.NoRespondersError"

    def test_of_where_and_transform_are_answers_too(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.on_error = lambda *args: None
        answerer.subscribe("where", print, where=lambda message: message.data["missing"])
        answerer.subscribe("transform", print, transform=lambda message: message.data["missing"])
        with serving(answerer):
            for subject in ("where", "transform"):
                with pytest.raises(ResponderError, match="KeyError"):
                    asker.request(subject, {})

    def test_after_the_answer_are_no_second_one(self, pair: tuple[Agent, Agent]) -> None:
        def answer_and_fail(message: Message) -> None:
            message.respond(1)
            raise ValueError("after that")

        asker, answerer = pair
        answerer.on_error = lambda *args: None
        answerer.subscribe("x", answer_and_fail)
        with serving(answerer):
            assert [asker.request("x", None).data for _ in range(5)] == [1] * 5
            assert asker.stats().late_responses == 0

    def test_can_be_said(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("text", lambda message: message.respond_error("out of paper"))
        answerer.subscribe("error", lambda message: message.respond_error(KeyError("k")))
        with serving(answerer):
            with pytest.raises(
                ResponderError, match="'answerer' answered with an error: out of paper"
            ) as raised:
                asker.request("text", None)
            assert (raised.value.kind, raised.value.text, raised.value.traceback) == ("", "out of paper", "")
            with pytest.raises(ResponderError) as raised:
                asker.request("error", None)
            assert (raised.value.kind, raised.value.text) == ("KeyError", "'k'")

    @pytest.mark.parametrize("length", [10, 100_000])
    def test_pass_the_smallest_inboxes(self, small_bus: Bus, length: int) -> None:
        def fail(message: Message) -> None:
            raise ValueError("é" * length)

        with small_bus.join("a") as asker, small_bus.join("b", on_error=lambda *args: None) as answerer:
            answerer.subscribe("x", fail)
            with serving(answerer), pytest.raises(ResponderError, match="ValueError: é"):
                asker.request("x", None)


class TestResponding:
    def test_to_a_published_message_is_an_error(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        asker.publish("x", 1)
        message = answerer.receive(LONG)
        assert not message.is_request
        assert message.time_left is None
        for respond in (message.respond, message.respond_error):
            with pytest.raises(RespondError, match="was published, not requested"):
                respond("1")

    def test_twice_is_an_error(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with asking(asker, "x", None):
            message = answerer.receive(LONG)
            message.respond(1)
            for respond in (message.respond, message.respond_error):
                with pytest.raises(RespondError, match="has been answered"):
                    respond("2")
        assert answerer.stats().responses == 1

    def test_can_be_tried_again_after_what_cannot_be_sent(self, bus: Bus, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with asking(asker, "x", None) as outcome:
            message = answerer.receive(LONG)
            with pytest.raises(EncodeError):
                message.respond(object())
            with pytest.raises(MessageTooLargeError):
                message.respond(bytes(bus.max_message))
            with pytest.raises(TypeError):
                message.respond(1, headers={1: 2})
            assert message.respond(2)
        assert outcome[0].data == 2

    def test_after_the_time_is_over_sends_nothing(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with asking(asker, "x", None, 0.1) as outcome:
            message = answerer.receive(LONG)
            assert 0 < message.time_left <= 0.1
        assert isinstance(outcome[0], RequestTimeoutError)
        assert message.time_left == 0
        assert message.respond(1) is False
        assert answerer.stats().unsent_responses == 1
        assert asker.depth == 0

    def test_after_the_asker_left_sends_nothing_not_even_to_its_successor(self, bus: Bus) -> None:
        with bus.join("answerer") as answerer:
            answerer.subscribe("x")
            asker = bus.join("asker")
            with asking(asker, "x", None, None):
                message = answerer.receive(LONG)
                assert message.time_left is None
                asker.close()
            with bus.join("asker") as successor:
                assert successor._slot == asker._slot
                assert message.respond(1) is False
                assert successor.depth == 0
            assert answerer.stats().unsent_responses == 1

    def test_after_the_close_is_a_closed_error(self, bus: Bus) -> None:
        with bus.join("asker") as asker, bus.join("other"):
            answerer = bus.join("answerer")
            answerer.subscribe("x")
            with asking(asker, "x", None):
                message = answerer.receive(LONG)
                answerer.close()
                with pytest.raises(ClosedError):
                    message.respond(1)

    def test_in_the_child_of_a_fork_is_an_error(self, bus: Bus) -> None:
        with bus.join("asker") as asker, Peer(joined(bus.name, "b", "x")) as peer:
            with asking(asker, "x", None) as outcome:
                peer.do("message = agent.receive(60)")
                peer.do(
                    "def child():\n"
                    "    try:\n"
                    "        message.respond('child')\n"
                    "    except ForkedError:\n"
                    "        os._exit(7)\n"
                    "    os._exit(0)\n"
                    "pid = os.fork()\n"
                    "if not pid: child()"
                )
                assert peer.do("os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])") == 7
                assert peer.do("message.respond('parent')") is True
            assert outcome[0].data == "parent"
            peer.end()

    def test_waits_for_room_in_the_inbox_of_who_asked(
        self, small_bus: Bus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fastcomm.agent, "MAX_PENDING", 5)
        with small_bus.join("a") as asker, small_bus.join("b") as answerer:
            asker.subscribe("news")
            answerer.subscribe("x")
            with asking(asker, "x", None) as outcome:
                message = answerer.receive(LONG)
                count = fill(answerer, "news", 0.2)
                with pytest.raises(Full, match=r"within 0.1 s in the inbox of agent 'a'"):
                    message.respond(1, timeout=0.1)
                assert not outcome
                received = [asker.receive(LONG).data for _ in range(count)]
                assert message.respond(2) is True
            assert outcome[0].data == 2
            assert received == list(range(count))


class TestDeadlines:
    def test_requests_whose_time_is_over_are_not_handed_out(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with pytest.raises(RequestTimeoutError):
            asker.request("x", "old", 0.01)
        asker.publish("x", "new")
        assert answerer.receive(LONG).data == "new"
        assert answerer.stats().expired_requests == 1

    def test_nor_given_to_handlers_when_it_ended_in_their_queue(self, pair: tuple[Agent, Agent]) -> None:
        asker, answerer = pair
        seen: list[Any] = []
        first = threading.Event()

        def slow(message: Message) -> None:
            seen.append(message.data)
            if message.data == "first":
                first.wait(LONG)
            message.respond(None)

        answerer.subscribe("x", slow, coalesce=lambda message: None)  # which takes all that is there
        with asking(asker, "x", "first"), asking(asker, "x", "second", 0.1) as second:
            wait_until(lambda: asker.stats().delivered == 2)
            thread = threading.Thread(target=answerer.dispatch)
            thread.start()
            wait_until(lambda: second)
            first.set()
            thread.join()
        assert seen == ["first"]
        assert answerer.stats().expired_requests == 1


class TestDamage:
    def poke(self, bus: Bus, at: int, value: int, size: int) -> None:
        """Scribble over the first record in the inbox of slot 1."""
        memory = bus._inbox_memory(1)
        sent = bytes(memory).find(b"asker", 768) - 24 - 32
        assert sent > 0
        memory[sent + at : sent + at + size] = value.to_bytes(size, "little")

    @pytest.mark.parametrize(
        ("at", "value", "size"), [(40, 0, 4), (40, 9999, 4), (26, 0x50, 1), (26, 0xF0, 1)]
    )
    def test_requests_that_no_agent_sends_are_dropped_with_an_error(
        self, bus: Bus, pair: tuple[Agent, Agent], at: int, value: int, size: int
    ) -> None:
        asker, answerer = pair
        answerer.subscribe("x")
        with asking(asker, "x", None, 0.5) as outcome:
            wait_until(lambda: answerer.depth)
            self.poke(bus, at, value, size)
            with pytest.raises(CorruptSegmentError, match="dropped"):
                answerer.receive(LONG)
            with pytest.raises(Empty):
                answerer.receive(0)
        assert isinstance(outcome[0], RequestTimeoutError)


def test_idle_wait_for_an_answer_uses_no_cpu(pair: tuple[Agent, Agent]) -> None:
    asker, answerer = pair
    answerer.subscribe("x")
    before, started = time.process_time(), time.monotonic()
    with pytest.raises(RequestTimeoutError):
        asker.request("x", None, 0.5)
    assert time.monotonic() - started >= 0.5
    assert time.process_time() - before < 0.2

"""What is published arrives: data, patterns, subscriptions, errors."""

import struct
import time
from typing import Any

import pytest
from peers import Peer, joined

from fastcomm import Agent, Bus, Message
from fastcomm._core.ring import Ring
from fastcomm.errors import (
    ClosedError,
    CorruptSegmentError,
    DecodeError,
    Empty,
    EncodeError,
    InvalidSubjectError,
    MessageTooLargeError,
    TableFullError,
)


def datas(agent: Agent) -> list[Any]:
    """The data of all messages that are there."""
    found = []
    while (message := agent.try_receive()) is not None:
        found.append(message.data)
    return found


class TestData:
    @pytest.mark.parametrize(
        "data",
        [
            None,
            True,
            0,
            -1,
            1 << 200,
            1.5,
            "",
            "text",
            "Zürich \U0001f600",
            b"",
            b"\0\xc1\xff",
            [1, [2]],
            (),
            {"a": {1: None}},
        ],
        ids=repr,
    )
    def test_arrives_equal_and_of_the_same_type(self, bus: Bus, data: object) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            assert agent.publish("x", data) == 1
            received = agent.receive(0).data
            assert received == data
            assert type(received) is type(data)

    @pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")], ids=["bytearray", "memoryview"])
    def test_of_a_buffer_arrives_as_its_bytes(self, bus: Bus, data: object) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", data)
            assert bytes(agent.receive(0).data) == b"abc"

    def test_of_an_unsupported_type_is_refused_and_nothing_sent(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            with pytest.raises(EncodeError, match=r"\$\[1\]"):
                agent.publish("x", [1, object()])
            assert agent.publish("x", b"next") == 1
            assert agent.receive(0).sequence == 1
            assert agent.try_receive() is None

    def test_that_a_peer_encoded_wrongly_is_a_decode_error_of_that_message(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", ["text"])
            memory = bus._inbox_memory(0)
            at = bytes(memory).index(b"text")
            memory[at - 1] = 0xFF
            agent.publish("x", "good")
            message = agent.receive(0)
            for _ in range(2):
                with pytest.raises(DecodeError):
                    message.data  # noqa: B018
            assert agent.receive(0).data == "good"

    def test_is_decoded_once(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", [1])
            message = agent.receive(0)
            assert message.data is message.data

    def test_outlives_the_bus(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", {"k": "v"})
            message = agent.receive(0)
        bus.close()
        assert message.data == {"k": "v"}
        assert (message.subject, message.sender) == ("x", "a")

    def test_larger_than_the_limit_is_refused_at_once(self, small_bus: Bus) -> None:
        with small_bus.join("a") as agent:
            agent.subscribe("x")
            limit = small_bus.max_message
            assert limit == 16 * 64 - 8
            for size in (limit + 1, limit - 33):
                with pytest.raises(MessageTooLargeError, match=f"the bus's limit is {limit}") as caught:
                    agent.publish("x", bytes(size))
                assert (caught.value.limit, caught.value.size) == (limit, size + 34)
            assert agent.publish("x", bytes(limit - 34)) == 1
            assert len(agent.receive(0).data) == limit - 34
            assert agent.publish("nobody", b"") == 0

    def test_has_a_limit_that_max_message_tells_however_large_the_inbox(self, name: str) -> None:
        with Bus.open(name, max_agents=1, inbox_bytes=1 << 26) as bus, bus.join("a") as agent:
            agent.subscribe("x")
            with pytest.raises(MessageTooLargeError) as caught:
                agent.publish("x", bytes(bus.max_message))
            assert caught.value.limit == bus.max_message


class TestMessage:
    def test_says_where_it_came_from(self, bus: Bus) -> None:
        with bus.join("Zoë") as sender, bus.join("b") as agent:
            agent.subscribe("orders.*.new")
            before = time.monotonic_ns()
            sender.publish("nobody.listens", b"")
            sender.publish("orders.4.new", b"data")
            message = agent.receive(0)
            assert (message.subject, message.sender, message.sequence) == ("orders.4.new", "Zoë", 2)
            assert before <= message.sent_ns <= time.monotonic_ns()
            assert repr(message) == "<Message 'orders.4.new' from 'Zoë' #2: b'data'>"

    def test_repr_is_short(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", bytes(1000))
            assert len(repr(agent.receive(0))) < 120

    def test_can_not_be_changed_or_made(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", b"")
            message = agent.receive(0)
            for attribute in ("subject", "sender", "sequence", "sent_ns", "data"):
                with pytest.raises(AttributeError):
                    setattr(message, attribute, 1)
        with pytest.raises(TypeError):
            Message()


class TestSubjects:
    @pytest.mark.parametrize(
        ("pattern", "subject", "reached"),
        [
            ("a.b", "a.b", 1),
            ("a.b", "a.c", 0),
            ("a.*", "a.b", 1),
            ("a.*", "a.b.c", 0),
            ("*.b", "a.b", 1),
            ("a.>", "a.b.c", 1),
            ("a.>", "a", 0),
            (">", "a", 1),
            ("*", "ü", 1),
        ],
    )
    def test_lead_to_patterns_that_match(self, bus: Bus, pattern: str, subject: str, reached: int) -> None:
        with bus.join("a") as agent:
            agent.subscribe(pattern)
            assert agent.publish(subject, b"") == reached
            assert len(datas(agent)) == reached

    @pytest.mark.parametrize("wrong", ["", ".", "a..b", "a.", "a b", "a.*", ">", "x" * 193])
    def test_that_are_none_are_refused_by_publish(self, bus: Bus, wrong: str) -> None:
        with bus.join("a") as agent:
            agent.subscribe(">")
            with pytest.raises(InvalidSubjectError):
                agent.publish(wrong, b"")
            assert agent.try_receive() is None
            assert agent.stats().published == 0

    @pytest.mark.parametrize("wrong", ["", "a..b", ">.a", "a b", "x" * 193])
    def test_that_are_no_pattern_are_refused_by_subscribe(self, bus: Bus, wrong: str) -> None:
        with bus.join("a") as agent:
            with pytest.raises(InvalidSubjectError):
                agent.subscribe(wrong)
            assert agent.subscriptions == ()

    def test_of_the_greatest_length_arrive(self, bus: Bus) -> None:
        with bus.join("n" * 80) as agent:
            subject = "s" * 192
            agent.subscribe(subject)
            assert agent.publish(subject, b"d") == 1
            message = agent.receive(0)
            assert (message.subject, message.sender, message.data) == (subject, "n" * 80, b"d")

    def test_more_than_are_cached_lead_where_they_should(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("even.>")
            for i in range(5000):
                assert agent.publish(f"{'odd' if i % 2 else 'even'}.{i}", b"") == 1 - i % 2
                agent.try_receive()


class TestSubscriptions:
    def test_several_that_match_give_one_message(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            for pattern in ("x.y", "x.*", ">", "x.y"):
                agent.subscribe(pattern)
            assert agent.publish("x.y", b"once") == 1
            assert datas(agent) == [b"once"]

    def test_of_the_same_pattern_twice_end_one_by_one(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            first, second = agent.subscribe("x"), agent.subscribe("x")
            assert agent.publish("x", b"1") == 1
            first.unsubscribe()
            assert agent.publish("x", b"2") == 1
            second.unsubscribe()
            assert agent.publish("x", b"3") == 0

    def test_of_several_agents_each_get_it(self, bus: Bus) -> None:
        agents = [bus.join(str(i)) for i in range(10)]
        for agent in agents[1:]:
            agent.subscribe("x")
        assert agents[0].publish("x", b"all") == 9
        assert [datas(agent) for agent in agents] == [[]] + [[b"all"]] * 9

    def test_are_listed_in_their_order(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            first, second = agent.subscribe("x"), agent.subscribe("y.>")
            assert agent.subscriptions == (first, second)
            assert repr(second) == "<Subscription of 'a' to 'y.>'>"
            first.unsubscribe()
            assert agent.subscriptions == (second,)
            assert repr(first) == "<Subscription of 'a' to 'x', cancelled>"

    def test_end_with_their_block(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            with agent.subscribe("x") as subscription:
                assert agent.publish("x", b"") == 1
            assert agent.publish("x", b"") == 0
            subscription.unsubscribe()
            assert agent.subscriptions == ()

    def test_cancelled_drop_what_is_in_the_inbox_for_them_alone(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            wide, narrow = agent.subscribe("x.*"), agent.subscribe("x.1")
            for i in range(3):
                agent.publish(f"x.{i}", i)
            wide.unsubscribe()
            assert datas(agent) == [1]
            assert agent.stats().unwanted == 2
            narrow.unsubscribe()
            assert agent.stats().unwanted == 2

    def test_made_again_get_what_comes_then(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            for i in range(3):
                with agent.subscribe("x"):
                    agent.publish("x", i)
                    assert datas(agent) == [i]
            assert agent.stats().unwanted == 0

    def test_more_than_fit_are_refused_until_one_ends(self, name: str) -> None:
        with Bus.open(name, max_subscriptions=3) as bus, bus.join("a") as agent:
            held = [agent.subscribe(f"x.{i}") for i in range(3)]
            with pytest.raises(
                TableFullError, match="all 3 entries of the bus's subscription table"
            ) as caught:
                agent.subscribe("x.3")
            assert caught.value.capacity == 3
            assert agent.subscriptions == tuple(held)
            assert agent.publish("x.3", b"") == 0
            held[1].unsubscribe()
            agent.subscribe("x.3")
            assert [agent.publish(f"x.{i}", b"") for i in range(4)] == [1, 0, 1, 1]

    def test_leave_their_places_when_the_agent_leaves(self, name: str) -> None:
        with Bus.open(name, max_subscriptions=3) as bus, bus.join("a") as agent:
            for _ in range(5):
                with bus.join("b") as other:
                    for i in range(3):
                        other.subscribe(f"x.{i}")
                    assert agent.publish("x.1", b"") == 1
                assert agent.publish("x.1", b"") == 0

    def test_that_are_cancelled_after_their_agent_left_touch_nobody_elses(self, bus: Bus) -> None:
        former = bus.join("former")
        subscription = former.subscribe("old")
        with bus.join("a") as agent:
            former.close()
            assert former.subscriptions == ()
            agent.subscribe("x")  # takes the entry that has come free
            subscription.unsubscribe()
            assert agent.publish("x", b"") == 1

    def test_change_more_often_between_two_publishes_than_the_log_is_long(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("b") as other:
            kept = agent.subscribe("kept")
            assert other.publish("kept", b"") == 1
            for i in range(200):
                agent.subscribe(f"x.{i}").unsubscribe()
            agent.subscribe("late")
            kept.unsubscribe()
            assert [other.publish(subject, b"") for subject in ("kept", "late", "x.1")] == [0, 1, 0]

    @pytest.mark.parametrize("changes", [254, 255, 256, 257])
    def test_change_as_often_as_the_log_is_long(self, bus: Bus, changes: int) -> None:
        with bus.join("a") as agent, bus.join("b") as other:
            other.publish("x", b"")
            held = [agent.subscribe(f"x.{i}") for i in range(changes)]
            assert [other.publish(f"x.{i}", b"") for i in (0, changes - 1, changes)] == [1, 1, 0]
            held[0].unsubscribe()
            assert other.publish("x.0", b"") == 0

    def test_are_seen_by_publishers_in_other_processes_when_subscribe_returns(self, bus: Bus) -> None:
        with bus.join("a") as agent, Peer(joined(bus.name, "b")) as peer:
            for i in range(20):
                with agent.subscribe(f"x.{i}"):
                    assert peer.do(f"agent.publish('x.{i}', {i})") == 1
                    assert datas(agent) == [i]
                assert peer.do(f"agent.publish('x.{i}', {i})") == 0
            assert peer.end() == 0


class TestReceiving:
    def test_without_a_message_gives_none_or_waits(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("b"):
            assert agent.try_receive() is None
            started = time.monotonic()
            with pytest.raises(Empty, match=r"no message came within .* s; 1 other agents are on the bus"):
                agent.receive(timeout=0.05)
            assert time.monotonic() - started >= 0.05
            with pytest.raises(Empty):
                agent.receive(timeout=0)

    def test_many_takes_up_to_the_limit(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for i in range(5):
                agent.publish("x", i)
            assert [message.data for message in agent.receive_many(3)] == [0, 1, 2]
            assert [message.data for message in agent.receive_many()] == [3, 4]
            with pytest.raises(Empty):
                agent.receive_many(timeout=0)
            with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
                agent.receive_many(0)

    @pytest.mark.parametrize("timeout", [-1, float("nan")])
    def test_with_a_wrong_timeout_is_refused(self, bus: Bus, timeout: float) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for call in (
                lambda: agent.receive(timeout),
                lambda: agent.publish("x", b"", timeout=timeout),
                lambda: agent.wait_for_subscribers("x", timeout=timeout),
            ):
                with pytest.raises(ValueError, match="timeout is"):
                    call()
            assert agent.try_receive() is None

    def test_keeps_the_order_of_each_publisher(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("b") as first, bus.join("c") as second:
            agent.subscribe(">")
            for i in range(100):
                (first if i % 3 else second).publish("x", i)
            got = [(message.sender, message.sequence) for message in agent.receive_many()]
            assert len(got) == 100
            for sender in "bc":
                numbers = [sequence for name, sequence in got if name == sender]
                assert numbers == list(range(1, len(numbers) + 1))

    def test_after_close_is_an_error(self, bus: Bus) -> None:
        agent = bus.join("a")
        subscription = agent.subscribe("x")
        agent.close()
        agent.close()
        for call in (
            agent.try_receive,
            agent.receive,
            agent.receive_many,
            agent.fileno,
            lambda: agent.publish("x", b""),
            lambda: agent.subscribe("y"),
            lambda: agent.wait_for_subscribers("x"),
        ):
            with pytest.raises(ClosedError, match="the agent 'a' is closed"):
                call()
        assert list(agent) == []
        subscription.unsubscribe()

    def test_stats_count_what_happened(self, bus: Bus) -> None:
        with bus.join("a") as agent, bus.join("b") as other:
            agent.subscribe("x")
            other.subscribe("x")
            agent.publish("x", b"1234")
            agent.publish("y", b"1234")
            agent.receive(0)
            stats = agent.stats()
            assert (stats.published, stats.delivered, stats.received) == (2, 2, 1)
            assert (stats.bytes_in, stats.bytes_out) == (38, 76)
            assert (stats.depth, stats.pending, stats.misdirected, stats.unwanted, stats.aborted) == (
                0,
                0,
                0,
                0,
                0,
            )
            assert other.stats().depth == 64


def envelope(*, sender: int = 0, subject: int = 0, headers: int = 0, priority: int = 2) -> bytes:
    """fc_envelope_t of a message of bytes, with these lengths."""
    return struct.pack("<qqIHBBHBBI", 0, 0, 0, 0, sender, subject, headers, 0, priority, 0)


class TestCorruptRecords:
    @pytest.mark.parametrize(
        "record",
        [
            b"",
            b"short",
            bytes(31),
            envelope(sender=1, subject=1),  # lengths that reach beyond the record
            envelope(sender=1, subject=1, headers=500) + bytes(500),
            envelope(sender=81) + bytes(500),
            envelope(subject=193) + bytes(500),
            envelope(priority=4) + bytes(500),
        ],
        ids=[
            "empty",
            "short",
            "almost an envelope",
            "lengths beyond",
            "headers beyond",
            "long name",
            "long subject",
            "no priority",
        ],
    )
    def test_that_are_no_message_are_an_error_and_the_next_arrives(self, bus: Bus, record: bytes) -> None:
        with bus.join("a") as agent, bus.join("b") as other:
            agent.subscribe("x")
            other.publish("x", b"before")
            with Ring(bus._inbox_memory(0), owner=2) as raw:
                raw.put(record)
            other.publish("x", b"after")
            assert agent.receive(0).data == b"before"
            with pytest.raises(
                CorruptSegmentError, match=r"agent 'b'.* sent a record of \d+ bytes that is no message"
            ):
                agent.receive(0)
            assert agent.receive(0).data == b"after"
            assert agent.stats().depth == 0

    def test_with_text_that_is_no_utf8_arrive_with_replacements(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe(">")
            with Ring(bus._inbox_memory(0), owner=1) as raw:
                raw.put(envelope(sender=1, subject=1) + b"\xff\xfe" + b"data")
            message = agent.receive(0)
            assert (message.sender, message.subject, message.data) == ("\ufffd", "\ufffd", b"data")

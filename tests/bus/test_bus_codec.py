"""Agents with a codec of their own."""

import dataclasses
import datetime
import enum
import threading

import numpy as np
import pytest

from fastcomm import Bus, Codec, DecodeError, EncodeError, StringTable, connect


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Task:
    owner: str
    due: datetime.datetime


TASK = Task("me", datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC))


@pytest.fixture
def bus(name):
    with Bus.open(name, inbox_bytes=1 << 20) as bus:
        yield bus


def exchange(bus, data, **codecs):
    with (
        bus.join("a", codec=codecs.get("sender")) as sender,
        bus.join("b", codec=codecs.get("receiver")) as receiver,
    ):
        receiver.subscribe("data")
        assert sender.publish("data", data) == 1
        return receiver.receive(timeout=10)


def test_standard_types_need_no_codec(bus):
    data = {"at": TASK.due, "ids": {1, 2}, "row": np.arange(3)}
    found = exchange(bus, data).data
    assert found["at"] == TASK.due
    assert found["ids"] == {1, 2}
    assert found["row"].tolist() == [0, 1, 2]


def test_registered_types_arrive_where_they_are_registered(bus):
    codec = Codec(types=[Colour, Task])
    data = [TASK, Colour.RED]
    assert exchange(bus, data, sender=codec, receiver=Codec(types=[Task, Colour])).data == data
    with pytest.raises(DecodeError, match="'Task' is not registered"):
        exchange(bus, data, sender=codec).data  # noqa: B018
    with pytest.raises(EncodeError, match="register its class") as caught:
        exchange(bus, {"tasks": data}, receiver=codec)
    assert caught.value.path == "$.tasks[0]"


@pytest.mark.needs("compression")
@pytest.mark.needs("interning")  # an agent that does without either has a codec made after this one
def test_a_compressed_message_is_read_by_an_agent_without_the_option(bus):
    pytest.importorskip("lz4")
    codec = Codec(compression="lz4", threshold=100)
    text = "the same words again and again " * 1000
    assert exchange(bus, [text], sender=codec).data == [text]
    assert codec.compressed == 1


@pytest.mark.needs("compression")
@pytest.mark.needs("interning")
def test_a_shared_string_table_shortens_messages(bus):
    table = StringTable()
    codecs = {"sender": Codec(strings=table), "receiver": Codec(strings=table)}
    for _ in range(3):
        assert exchange(bus, {"a rare key": 1}, **codecs).data == {"a rare key": 1}
    assert table.texts == ["a rare key"]


def test_connect_passes_the_codec_on(name):
    codec = Codec(types=[Colour])
    with connect(name, "a", codec=codec) as one:
        one.subscribe("x")
        one.publish("x", Colour.RED)
        assert one.receive(timeout=10).data is Colour.RED


def test_threads_that_publish_what_runs_python_code_do_not_meet_in_the_codec(bus):
    zone = datetime.timezone(datetime.timedelta(hours=1), "x")
    with bus.join("a", codec=Codec(types=[Task], fallback="pickle")) as agent:
        agent.subscribe("data")
        wrong = []

        def work(number):
            due = datetime.datetime(2024, 1, 1, number, tzinfo=zone)
            for turn in range(200):
                agent.publish("data", [Task(str(number), due), number, 1j * turn])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(800):
            task, number, _turn = agent.receive(timeout=30).data
            wrong.extend([task] * (task.owner != str(number) or task.due.hour != number))
        for thread in threads:
            thread.join()
    assert wrong == []


class CloseWhileEncoding:
    def __init__(self, agent):
        self.agent = agent

    def __reduce__(self):
        self.agent.close()
        return int, ()


def test_an_agent_that_is_closed_while_it_encodes_says_so(bus):
    agent = bus.join("a", codec=Codec(fallback="pickle"))
    agent.subscribe("data")
    with pytest.raises(ValueError, match="closed"):
        agent.publish("data", CloseWhileEncoding(agent))


class PublishWhileEncoding:
    def __init__(self, agent):
        self.agent = agent

    def __reduce__(self):
        self.agent.publish("data", {"inner": [1]})
        return int, ()


def test_what_publishes_while_it_is_encoded_comes_first(bus):
    with bus.join("a", codec=Codec(fallback="pickle")) as agent:
        agent.subscribe("data")
        agent.publish("data", ["outer", PublishWhileEncoding(agent)])
        first, second = agent.receive(timeout=10), agent.receive(timeout=10)
    assert (first.data, second.data) == ({"inner": [1]}, ["outer", 0])
    assert (first.sequence, second.sequence) == (1, 2)

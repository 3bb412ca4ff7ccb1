"""The table of strings that the agents of a bus share."""

import threading
from collections.abc import Iterator

import pytest
from peers import Peer, joined
from procs import forked

from fastcomm import Agent, Bus, Codec, DecodeError
from fastcomm._core.segment import SECTION_STRINGS
from fastcomm.errors import BusMismatchError, CorruptSegmentError

pytestmark = pytest.mark.needs("interning")

RECORD = {"a key of ours": 1, "rows of it": [{"inner key": 1}]}
COUNT, ENDS = 64, 128


def table_memory(bus: Bus) -> memoryview:
    return bus._segment.memory(*bus._segment.section(SECTION_STRINGS))


@pytest.fixture
def pair(bus: Bus) -> Iterator[tuple[Agent, Agent]]:
    """A sender that shares its keys, and a receiver that has a codec of its own."""
    with (
        bus.join("a", codec=Codec(strings=bus.strings)) as sender,
        bus.join("b", codec=Codec()) as receiver,
    ):
        receiver.subscribe("x")
        yield sender, receiver


class TestSharing:
    def test_keys_are_learned_once_and_read_by_every_agent(self, bus: Bus, pair: tuple[Agent, Agent]) -> None:
        sender, receiver = pair
        sizes = []
        for _ in range(3):
            sender.publish("x", RECORD)
            message = receiver.receive(60)
            assert message.data == RECORD
            sizes.append(len(message.payload))
        assert sizes[0] > sizes[1] == sizes[2]
        assert bus.strings.texts == ["a key of ours", "rows of it", "inner key"]

    def test_processes_learn_from_each_other(self, bus: Bus, pair: tuple[Agent, Agent]) -> None:
        sender, receiver = pair
        with Peer(joined(bus.name, "peer", "to.peer")) as peer:
            for _ in range(3):
                sender.publish("to.peer", RECORD)
                assert peer.do("agent.receive(60).data") == RECORD
            assert peer.do("bus.strings.texts") == bus.strings.texts
            peer.do("agent.close(); agent = bus.join('p', codec=fastcomm.Codec(strings=bus.strings))")
            for _ in range(3):
                peer.do("agent.publish('x', {'a key of ours': 1, 'a key of theirs': 2})")
                assert receiver.receive(60).data == {"a key of ours": 1, "a key of theirs": 2}
            assert bus.strings.find("a key of theirs") == 3

    def test_processes_that_learn_at_once_agree(self, bus: Bus) -> None:
        with bus.join("a"), Peer(joined(bus.name, "b")) as one, Peer(joined(bus.name, "c")) as other:
            for peer, first in ((one, 0), (other, 1)):
                peer.send(
                    f"for i in range({first}, 400):\n    while bus.strings.learn(f'text {{i}}') == -2: pass"
                )
            one.result()
            other.result()
            bus.strings.refresh()
            assert sorted(bus.strings.texts) == sorted(f"text {i}" for i in range(400))
            assert one.do("len(bus.strings), bus.strings.texts") == (400, bus.strings.texts)

    def test_threads_that_publish_share_it(self, bus: Bus, pair: tuple[Agent, Agent]) -> None:
        sender, receiver = pair
        values = [{f"key {i}": {f"key {i + 1}": i}} for i in range(50)]

        def work() -> None:
            for value in values:
                sender.publish("x", value)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        found = [receiver.receive(60).data for _ in range(150)]
        for thread in threads:
            thread.join()
        assert sorted(found, key=str) == sorted(values * 3, key=str)

    def test_a_message_is_read_when_its_bus_is_closed(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a", codec=Codec(strings=bus.strings)) as agent:
            agent.subscribe("x")
            for _ in range(3):
                agent.publish("x", RECORD)
            messages = agent.receive_many()
        assert [message.data for message in messages] == [RECORD] * 3

    def test_agents_share_keys_unless_they_have_a_codec_of_their_own(self, bus: Bus) -> None:
        with bus.join("a") as sharing, bus.join("b", codec=Codec()) as alone:
            alone.subscribe("x")
            for _ in range(3):
                alone.publish("x", RECORD)
            assert len(bus.strings) == 0
            for _ in range(3):
                sharing.publish("x", RECORD)
            assert len(bus.strings) == 3
            assert [message.data for message in alone.receive_many()] == [RECORD] * 6

    def test_a_bus_that_is_made_anew_has_another_table(self, name: str) -> None:
        with Bus.open(name) as bus:
            ids = set()
            for _ in range(2):
                with bus.join("a") as agent:
                    agent.subscribe("x")
                    for _ in range(3):
                        agent.publish("x", RECORD)
                    assert [message.data for message in agent.receive_many()] == [RECORD] * 3
                    ids.add(bus.strings.id)
            assert len(ids) == 2

    def test_the_child_of_a_fork_learns_and_reads(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")

            def child() -> None:
                for _ in range(3):
                    agent.publish("x", RECORD)

            with forked(child):
                found = [agent.receive(60).data for _ in range(3)]
            assert found == [RECORD] * 3
            assert len(bus.strings) == 3

    def test_a_codec_that_outlives_the_bus_writes_keys_out(self, name: str) -> None:
        with Bus.open(name) as bus, bus.join("a"):
            codec = Codec(strings=bus.strings)
        for _ in range(3):
            assert codec.decode(codec.encode(RECORD)) == RECORD
        assert codec.strings.refused > 0


class TestBounds:
    def test_when_it_is_full_keys_are_written_out_and_that_is_counted(self, name: str) -> None:
        with Bus.open(name, max_strings=2) as bus, bus.join("a", codec=Codec(strings=bus.strings)) as agent:
            agent.subscribe("x")
            for _ in range(3):
                agent.publish("x", RECORD)
                assert agent.receive(60).data == RECORD
            assert (len(bus.strings), bus.strings.is_full, bus.strings.refused) == (2, True, 1)

    def test_other_bounds_than_those_of_a_bus_in_use_are_refused(self, bus: Bus) -> None:
        with bus.join("a"), pytest.raises(BusMismatchError, match="max_strings is 1000, not 7"):
            Bus.open(bus.name, max_strings=7)

    def test_who_finds_another_at_it_writes_the_key_out_once_more(
        self, bus: Bus, pair: tuple[Agent, Agent]
    ) -> None:
        sender, receiver = pair
        bus._segment.enter_gate()
        for _ in range(4):
            sender.publish("x", {"a key of ours": 1})
        assert len(bus.strings) == 0
        assert bus.strings.learn("text") == -2
        bus._segment.leave_gate()
        for _ in range(4):
            sender.publish("x", {"a key of ours": 1})
        assert [message.data for message in receiver.receive_many()] == [{"a key of ours": 1}] * 8
        assert bus.strings.texts == ["a key of ours"]
        assert bus.strings.refused == 0


class TestDamage:
    """What another process has scribbled over; a table that this one has not read yet."""

    @pytest.fixture
    def received(self, bus: Bus, pair: tuple[Agent, Agent]) -> list:
        """Messages that name entries, in a process that has not read the table."""
        _, receiver = pair
        with Peer(joined(bus.name, "peer")) as peer:
            peer.do("agent.close(); agent = bus.join('p', codec=fastcomm.Codec(strings=bus.strings))")
            for _ in range(3):
                peer.do(f"agent.publish('x', {RECORD!r})")
        assert bus.strings.texts == []
        return receiver.receive_many()

    @pytest.mark.parametrize(
        ("at", "value", "said"),
        [
            (COUNT, 0, "has no such entry"),
            (COUNT, 1001, "of 1000 strings, of which 0 were read, says it has 1001"),
            (COUNT, 0xFFFFFFFF, "says it has 4294967295"),
            (ENDS, 0xFFFFFFFF, "string 0 of a table is at 0 to 4294967295 of 28000"),
            (ENDS, 256, "string 0 of a table is at 0 to 256"),
            (ENDS + 4, 0, "string 1 of a table is at 13 to 0"),
        ],
    )
    def test_is_a_decode_error_of_the_messages_that_need_it(
        self, bus: Bus, received: list, at: int, value: int, said: str
    ) -> None:
        memory = table_memory(bus)
        memory[at : at + 4] = value.to_bytes(4, "little")
        assert received[0].data == RECORD
        with pytest.raises(DecodeError, match=said):
            _ = received[2].data

    def test_text_that_is_not_utf8_is_a_decode_error(self, bus: Bus, received: list) -> None:
        text = ENDS + 4 * 1000
        table_memory(bus)[text : text + 2] = b"\xff\xfe"
        with pytest.raises(DecodeError, match="string 0 of a table is not UTF-8"):
            _ = received[2].data

    def test_a_publisher_writes_keys_out_and_counts(self, bus: Bus, pair: tuple[Agent, Agent]) -> None:
        sender, receiver = pair
        memory = table_memory(bus)
        memory[COUNT : COUNT + 4] = (5).to_bytes(4, "little")
        memory[ENDS : ENDS + 4] = (0xFFFFFF00).to_bytes(4, "little")
        for _ in range(3):
            sender.publish("x", RECORD)
        assert [message.data for message in receiver.receive_many()] == [RECORD] * 3
        assert bus.strings.refused == 3

    def test_of_what_was_read_before_harms_nobody(self, bus: Bus, pair: tuple[Agent, Agent]) -> None:
        sender, receiver = pair
        for _ in range(3):
            sender.publish("x", RECORD)
        memory = table_memory(bus)
        memory[ENDS:] = bytes(len(memory) - ENDS)
        assert [message.data for message in receiver.receive_many()] == [RECORD] * 3

    def test_a_table_that_is_none_is_refused_at_opening(self, bus: Bus) -> None:
        with bus.join("a"):
            memory = table_memory(bus)
            memory[0:4] = b"none"
            with pytest.raises(CorruptSegmentError, match="no string table of 1000 strings"):
                Bus.open(bus.name)

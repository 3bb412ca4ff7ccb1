"""Structs as messages of a bus, between processes whose versions of a class differ."""

from collections.abc import Iterator

import numpy as np
import pytest
from peers import Peer, PeerError, joined

from fastcomm import Bus, Codec, DecodeError, EncodeError, Struct
from fastcomm.structs import f8, u4

CLASSES = """
from typing import Annotated
from fastcomm import Struct
from fastcomm.structs import Char, f8, u4
"""
OLD = CLASSES + "class Quote(Struct, type_id=7001):\n    symbol: str\n    bid: f8\n"
NEW = OLD + "    size: u4 = 9\n    note: str | None = None\n"
OTHER = CLASSES + "class Quote(Struct, type_id=7001):\n    symbol: str\n    size: u4\n"


class Quote(Struct, type_id=7001):
    symbol: str
    bid: f8
    size: u4 = 9
    note: str | None = None


class Order(Struct, type_id=7002):
    quote: Quote
    owner: str


class Nameless(Struct):
    bid: f8


QUOTE = Quote("ACME", 1.5, 100)


@pytest.fixture
def peer(bus: Bus) -> Iterator[Peer]:
    """Joined as "peer", subscribed to "to.peer"; it has `Quote` as a test says."""
    with Peer(joined(bus.name, "peer", "to.peer")) as peer:
        yield peer


class TestBetweenProcesses:
    @pytest.mark.parametrize("source", [NEW, OLD], ids=["the same class", "an older one"])
    def test_a_struct_arrives_as_the_class_of_the_receiving_process(
        self, bus: Bus, peer: Peer, source: str
    ) -> None:
        peer.do(source)
        with bus.join("here") as here:
            assert here.publish("to.peer", QUOTE) == 1
        assert peer.do("found = agent.receive(60).data") is None
        assert peer.do("type(found) is Quote and (found.symbol, found.bid)") == ("ACME", 1.5)
        assert peer.do("getattr(found, 'size', None)") == (100 if source is NEW else None)

    def test_a_newer_class_has_the_defaults_of_what_an_older_one_lacks(self, bus: Bus, peer: Peer) -> None:
        peer.do(OLD)
        with bus.join("here") as here:
            here.subscribe("to.here")
            peer.do("agent.publish('to.here', Quote('ACME', 1.5))")
            message = here.receive(60)
            assert message.data == Quote("ACME", 1.5, size=9, note=None)
            assert Quote.view(message.payload).size == 9

    def test_an_optional_field_arrives_with_and_without_a_value(self, bus: Bus, peer: Peer) -> None:
        peer.do(NEW)
        with bus.join("here") as here:
            here.subscribe("to.here")
            peer.do("agent.publish('to.here', Quote('A', 0.0, note='n'))")
            peer.do("agent.publish('to.here', [Quote('A', 0.0)])")
            assert [here.receive(60).data for _ in range(2)] == [Quote("A", 0.0, note="n"), [Quote("A", 0.0)]]

    def test_an_unknown_type_id_is_an_error_at_data_and_the_message_is_there(
        self, bus: Bus, peer: Peer
    ) -> None:
        with bus.join("here") as here:
            here.publish("to.peer", QUOTE)
        peer.do("message = agent.receive(60)")
        assert peer.do("message.subject, message.sender") == ("to.peer", "here")
        for _ in range(2):
            with pytest.raises(
                PeerError, match="DecodeError: a Struct with type id 7001, for which no class"
            ):
                peer.do("message.data")
        assert peer.do("message.payload") == QUOTE.pack()
        peer.do(NEW)
        assert peer.do("message.data == Quote('ACME', 1.5, 100)")

    def test_another_layout_under_the_type_id_is_an_error_with_both(self, bus: Bus, peer: Peer) -> None:
        peer.do(OTHER)
        with bus.join("here") as here:
            here.publish("to.peer", QUOTE)
        with pytest.raises(PeerError, match=r"layout under type id 7001.*f8.*Quote here has 2.*size: u4"):
            peer.do("agent.receive(60).data")


class TestInOneProcess:
    def test_structs_within_other_values_and_each_other_come_back(self, bus: Bus) -> None:
        data = {"orders": [Order(QUOTE, "me")], "best": QUOTE, "rows": np.arange(3)}
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", data)
            found = agent.receive(60).data
        assert (found["orders"], found["best"]) == (data["orders"], QUOTE)

    @pytest.mark.needs("compression")
    def test_a_codec_with_options_carries_them_too(self, bus: Bus) -> None:
        pytest.importorskip("lz4")
        codec = Codec(compression="lz4", threshold=100)
        with bus.join("a", codec=codec) as sender, bus.join("b") as receiver:
            receiver.subscribe("x")
            sender.publish("x", Quote("A" * 5000, 1.5))
            message = receiver.receive(60)
        assert codec.compressed == 1
        assert len(message.payload) < 500
        assert message.data.symbol == "A" * 5000

    def test_one_field_is_read_in_place_whether_or_not_the_rest_was_decoded(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", QUOTE)
            agent.publish("x", QUOTE.pack())
            sent, packed = agent.receive(60), agent.receive(60)
        assert sent.payload == packed.payload == packed.data == QUOTE.pack()
        assert Quote.view(sent.payload).bid == 1.5
        assert sent.data == QUOTE
        assert Quote.view(sent.payload).symbol == "ACME"

    def test_what_can_not_be_sent_is_refused_and_nothing_is_sent(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            for bad, said in ((Nameless(1.0), "no type_id"), (Quote("A", 1.0, -1), "size")):
                with pytest.raises(EncodeError, match=said):
                    agent.publish("x", bad)
            assert agent.try_receive() is None

    def test_a_damaged_message_is_a_decode_error(self, bus: Bus) -> None:
        with bus.join("a") as agent:
            agent.subscribe("x")
            agent.publish("x", QUOTE)
            inbox = bus._inbox_memory(0)
            at = bytes(inbox).index(QUOTE.pack())
            inbox[at + 16] = 0xFF  # where the symbol begins
            with pytest.raises(DecodeError, match="field 'symbol' begins at"):
                _ = agent.receive(60).data

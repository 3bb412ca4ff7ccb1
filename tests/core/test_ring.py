"""Ring over plain memory: order, sizes, batches, views, roles, each from several places below the wraps."""

import gc
import mmap
import os
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from fastcomm._core.ring import Ring
from fastcomm.errors import (
    ClosedError,
    CorruptSegmentError,
    Empty,
    Full,
    MessageTooLargeError,
    RecordPinnedError,
    RoleTakenError,
)

CELLS = 16  # at this size the tag of a header wraps in the same step as the position
PERIOD = 1 << 36
STARTS = {
    "first lap": CELLS,
    "tag's sign bit": (1 << 35) - CELLS,
    "a lap before the wrap": PERIOD - 2 * CELLS,
    "last lap before the wrap": PERIOD - CELLS,
}
CELL = 64
LARGEST = CELLS // 2 * CELL - 8

Open = Callable[..., Ring]


@pytest.fixture(params=STARTS.values(), ids=STARTS.keys())
def start(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def new_memory(cells: int = CELLS, *, start: int = 0, one_producer: bool = False) -> mmap.mmap:
    memory = mmap.mmap(-1, Ring.bytes_needed(cells))
    Ring.format(memory, cells=cells, start=start, one_producer=one_producer)
    return memory


@pytest.fixture
def ring(start: int) -> Ring:
    return Ring(new_memory(start=start), owner=1)


@pytest.fixture
def two(start: int) -> tuple[Ring, Ring]:
    """Two handles of one ring."""
    memory = new_memory(start=start)
    return Ring(memory, owner=1), Ring(memory, owner=2)


def cells_of(nbytes: int) -> int:
    return (nbytes + 8 + CELL - 1) // CELL


def payload(number: int, nbytes: int) -> bytes:
    return random.Random(number).randbytes(nbytes)


# ----------------------------------------------------------------------------------------- format and attach


@pytest.mark.parametrize("cells", [0, -16, 8, 15, 17, 24, 1 << 27])
def test_format_refuses_what_is_no_power_of_two_in_range(cells: int) -> None:
    with pytest.raises(ValueError, match=f"cells is {cells}; it must be a power of two from 16 to 67108864"):
        Ring.format(bytearray(1 << 16), cells=cells)


def test_format_refuses_memory_that_is_too_small() -> None:
    need = Ring.bytes_needed(CELLS)
    with pytest.raises(ValueError, match=f"needs {need} bytes, the memory has {need - 1}"):
        Ring.format(bytearray(need - 1), cells=CELLS)


def test_format_refuses_a_start_that_is_not_at_cell_zero() -> None:
    with pytest.raises(ValueError, match="start is 17; it must be a multiple of the 16 cells"):
        Ring.format(bytearray(Ring.bytes_needed(CELLS)), cells=CELLS, start=17)


def test_format_refuses_memory_that_is_read_only() -> None:
    with pytest.raises(BufferError):
        Ring.format(bytes(Ring.bytes_needed(CELLS)), cells=CELLS)


def test_bytes_needed_is_control_words_and_72_bytes_for_each_cell() -> None:
    assert Ring.bytes_needed(CELLS) == 768 + CELLS * (8 + CELL)


@pytest.mark.parametrize("size", [0, 1, 767, Ring.bytes_needed(CELLS) - 1])
def test_attach_refuses_memory_that_no_ring_fits_in(size: int) -> None:
    memory = memoryview(new_memory())[:size]
    with pytest.raises(CorruptSegmentError, match=f"{size} bytes do not begin with the control words"):
        Ring(memory, owner=1)


@pytest.mark.parametrize("cells", [0, 1, 8, 15, 17, 32, 1 << 27, 0xFFFFFFFF])
def test_attach_refuses_a_number_of_cells_that_is_wrong_or_does_not_fit(cells: int) -> None:
    memory = new_memory()
    memory[0:4] = cells.to_bytes(4, "little")
    with pytest.raises(CorruptSegmentError):
        Ring(memory, owner=1)


def test_attach_refuses_memory_that_is_not_aligned() -> None:
    memory = mmap.mmap(-1, Ring.bytes_needed(CELLS) + 64)
    with pytest.raises(ValueError, match="64-byte aligned"):
        Ring(memoryview(memory)[8:], owner=1)


@pytest.mark.parametrize("owner", [0, -1, 4095, 1 << 20])
def test_attach_refuses_an_owner_number_out_of_range(owner: int) -> None:
    with pytest.raises(ValueError, match=f"owner is {owner}; it must be 1 to 4094"):
        Ring(new_memory(), owner=owner)


def test_capacity_depth_and_largest_record_are_given_in_bytes(ring: Ring) -> None:
    assert (ring.capacity, ring.depth, ring.max_record) == (CELLS * CELL, 0, LARGEST)
    ring.put(b"x" * 57)
    assert ring.depth == 2 * CELL


def test_a_record_has_at_most_65535_cells_however_large_the_ring() -> None:
    ring = Ring(new_memory(1 << 18), owner=1)
    assert ring.max_record == 65535 * CELL - 8
    largest = payload(1, ring.max_record)
    ring.put(largest)
    assert ring.get() == largest
    with pytest.raises(MessageTooLargeError):
        ring.put(bytes(ring.max_record + 1))


# ------------------------------------------------------------------------------------------- order and sizes


def test_records_come_out_in_the_order_in_which_they_went_in(ring: Ring) -> None:
    for lap in range(0, 100, 10):
        for number in range(lap, lap + 10):
            ring.put(b"%d" % number)
        assert [ring.get() for _ in range(10)] == [b"%d" % number for number in range(lap, lap + 10)]
    assert ring.try_get() is None


@pytest.mark.parametrize("nbytes", [0, 1, 7, 8, 55, 56, 57, 64, 119, 120, 121, 500, LARGEST])
def test_a_record_of_any_size_comes_back_at_every_place_of_the_ring(ring: Ring, nbytes: int) -> None:
    for number in range(3 * CELLS):
        ring.put(b"offset")  # one cell, so that the other record meets every offset and the end
        ring.put(payload(number, nbytes), timeout=0)
        assert ring.get(timeout=0) == b"offset"
        assert ring.get(timeout=0) == payload(number, nbytes)
    assert ring.depth == 0


def test_a_record_that_does_not_fit_before_the_end_goes_to_the_beginning_whole(ring: Ring) -> None:
    for _ in range(CELLS - 2):
        ring.put(b"")
        ring.get()
    ring.put(payload(1, 3 * CELL - 8))
    assert ring.depth == (2 + 3) * CELL  # two cells of padding
    with ring.peek() as view:
        assert view == payload(1, 3 * CELL - 8)
    assert ring.depth == 0


def test_padding_is_not_claimed_when_the_record_does_not_fit_behind_it(ring: Ring) -> None:
    for _ in range(CELLS - 2):
        ring.put(b"")
    for _ in range(3):
        ring.get()
    before = ring.depth
    assert not ring.try_put(bytes(4 * CELL - 8))  # 2 cells of padding and 4: 3 + 2 are free
    assert ring.depth == before
    assert ring.try_put(bytes(3 * CELL - 8))
    assert ring.depth == before + 5 * CELL


def test_padding_alone_is_released_by_a_get_that_finds_nothing(two: tuple[Ring, Ring]) -> None:
    ring, _ = two
    for _ in range(CELLS - 1):
        ring.put(b"")
        ring.get()
    with pytest.raises(ZeroDivisionError), ring.claim(2 * CELL - 8):
        raise ZeroDivisionError
    assert ring.depth == 3 * CELL
    assert ring.try_get() is None
    assert ring.depth == 0


def test_a_full_ring_refuses_and_takes_again_after_one_get(ring: Ring) -> None:
    for number in range(CELLS):
        assert ring.try_put(b"%d" % number)
    assert not ring.try_put(b"")
    assert ring.try_put_many([b"", b""]) == 0
    assert ring.depth == ring.capacity
    assert ring.get() == b"0"
    assert ring.try_put(b"16")
    assert not ring.try_put(b"")
    assert ring.get_many() == [b"%d" % number for number in range(1, CELLS + 1)]


def test_put_into_a_full_ring_raises_full_and_sends_nothing(ring: Ring) -> None:
    while ring.try_put(b"x"):
        pass
    with pytest.raises(
        Full, match=r"no room for a record of 3 bytes in 'ring' within 0 s: 1024 of 1024 bytes wait for"
    ):
        ring.put(b"new", timeout=0)
    assert set(ring.get_many()) == {b"x"}


def test_get_from_an_empty_ring_raises_empty(ring: Ring) -> None:
    assert ring.try_get() is None
    assert ring.try_get_many() == []
    with pytest.raises(Empty, match="nothing arrived in 'ring' within"):
        ring.get(timeout=0)
    with pytest.raises(Empty):
        ring.get_many(timeout=0.001)
    with pytest.raises(Empty):
        ring.peek(timeout=0)


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("-inf")])
def test_a_timeout_that_is_no_duration_is_a_value_error(ring: Ring, timeout: float) -> None:
    with pytest.raises(ValueError, match=r"timeout is .*; it must be None"):
        ring.get(timeout=timeout)
    while ring.try_put(b""):
        pass
    with pytest.raises(ValueError, match=r"timeout is .*; it must be None"):
        ring.put(b"", timeout=timeout)


def test_a_timeout_of_infinity_is_for_ever(ring: Ring) -> None:
    threading.Timer(0.05, ring.put, (b"late",)).start()
    assert ring.get(timeout=float("inf")) == b"late"


@pytest.mark.parametrize("send", ["put", "try_put", "claim", "put_many", "try_put_many"])
def test_a_record_that_can_never_fit_is_refused_at_once(ring: Ring, send: str) -> None:
    nbytes = LARGEST + 1
    data: object = {"claim": nbytes, "put": bytes(nbytes), "try_put": bytearray(nbytes)}.get(
        send, [b"small", bytes(nbytes)]
    )
    with pytest.raises(
        MessageTooLargeError, match=f"{nbytes} bytes can't pass 'ring'.*limit is {LARGEST}"
    ) as e:
        getattr(ring, send)(data)
    assert (e.value.size, e.value.limit) == (nbytes, LARGEST)
    assert ring.try_get() is None


@pytest.mark.parametrize(
    "data", [bytearray(b"abcdef"), memoryview(b"abcdef"), memoryview(b"xabcdefx")[1:7], mmap.mmap(-1, 6)]
)
def test_any_contiguous_buffer_can_be_put(ring: Ring, data: bytearray) -> None:
    ring.put(data)
    assert ring.try_put(data)
    assert ring.put_many([data, b"bytes", data]) == 3
    want = bytes(data)
    assert ring.get_many() == [want, want, want, b"bytes", want]


@pytest.mark.parametrize("data", ["text", None, 7, memoryview(b"abcdef")[::2]])
def test_what_is_no_contiguous_buffer_is_refused(ring: Ring, data: object) -> None:
    for send in (ring.put, ring.try_put):
        with pytest.raises((TypeError, BufferError)):
            send(data)
    assert ring.depth == 0


# --------------------------------------------------------------------------------------------------- batches


def test_batches_of_any_length_cross_the_end_in_order(ring: Ring) -> None:
    sent, got = 0, 0
    for length in [1, 2, 3, 5, 7, 11, 13, 16] * 4:
        assert ring.put_many([b"%d" % n for n in range(sent, sent + length)], timeout=0) == length
        sent += length
        records = ring.get_many(limit=length, timeout=0)
        assert records == [b"%d" % n for n in range(got, got + length)]
        got += length
    assert ring.depth == 0


def test_batches_of_records_of_many_cells_cross_the_end_whole(ring: Ring) -> None:
    for round_ in range(40):
        items = [payload(round_ * 10 + n, (round_ * 37 + n * 61) % 200) for n in range(3)]
        assert ring.put_many(items, timeout=0) == 3
        assert ring.get_many(timeout=0) == items


def test_try_put_many_sends_the_first_that_fit_and_says_how_many(ring: Ring) -> None:
    assert ring.try_put_many([b"%d" % n for n in range(100)]) == CELLS
    assert ring.get_many(limit=4) == [b"0", b"1", b"2", b"3"]
    assert ring.try_put_many([b"%d" % n for n in range(CELLS, 100)]) == 4
    assert ring.get_many() == [b"%d" % n for n in range(4, CELLS + 4)]


def test_put_many_that_runs_out_of_time_says_how_many_were_sent(ring: Ring) -> None:
    with pytest.raises(Full, match="16 of 20 records were sent; no room") as e:
        ring.put_many([b"%d" % n for n in range(20)], timeout=0)
    assert (e.value.delivered, e.value.missing) == (16, 4)
    assert ring.get_many() == [b"%d" % n for n in range(16)]


def test_put_many_waits_for_room_and_sends_all_in_order(two: tuple[Ring, Ring]) -> None:
    producer, consumer = two
    items = [b"%d" % n for n in range(500)]
    thread = threading.Thread(target=producer.put_many, args=(iter(items),))
    thread.start()
    got: list[bytes] = []
    while len(got) < len(items):
        got += consumer.get_many(limit=7)
    thread.join()
    assert got == items


def test_put_many_of_more_records_than_one_claim_takes() -> None:
    ring = Ring(new_memory(1024), owner=1)
    items = [b"%d" % n for n in range(1000)]
    assert ring.put_many(items) == 1000
    assert ring.get_many() == items


def test_an_empty_batch_sends_nothing(ring: Ring) -> None:
    assert ring.put_many([]) == 0
    assert ring.try_put_many(iter(())) == 0
    assert ring.depth == 0


def test_a_batch_with_an_item_of_a_wrong_type_sends_nothing(ring: Ring) -> None:
    with pytest.raises(TypeError):
        ring.put_many([b"good", "text"])  # type: ignore[list-item]
    assert ring.depth == 0


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_a_value_error_and_takes_nothing(ring: Ring, limit: int) -> None:
    for get in (ring.get_many, ring.try_get_many):
        with pytest.raises(ValueError, match=f"limit is {limit}; it must be at least 1"):
            get(limit)
        ring.put(b"x")
        with pytest.raises(ValueError, match=f"limit is {limit}"):
            get(limit)
        assert ring.get() == b"x"


# ---------------------------------------------------------------------------------------------------- claims


def test_a_claim_is_sent_when_its_block_ends(ring: Ring) -> None:
    with ring.claim(5) as view:
        assert (len(view), view.readonly) == (5, False)
        view[:] = b"hello"
        assert ring.try_get() is None
    assert ring.get() == b"hello"


def test_a_claim_of_no_bytes_is_a_record_of_no_bytes(ring: Ring) -> None:
    with ring.claim(0) as view:
        assert len(view) == 0
    assert ring.get() == b""


def test_a_claim_of_the_largest_record_is_written_in_place_at_every_place(ring: Ring) -> None:
    for number in range(20):
        with ring.claim(LARGEST) as view:
            view[:] = payload(number, LARGEST)
        assert ring.get() == payload(number, LARGEST)
        ring.put(b"")
        ring.get()


def test_an_exception_in_the_block_gives_the_claim_up(ring: Ring) -> None:
    with pytest.raises(ZeroDivisionError), ring.claim(100) as view:
        view[len(view) // 0] = 1
    ring.put(b"next")
    assert ring.get() == b"next"
    assert ring.stats().aborted == 1
    assert ring.stats().records_put == 1


def test_a_claim_that_is_never_entered_is_given_up_when_it_goes(ring: Ring) -> None:
    claim = ring.claim(10)
    ring.put(b"behind")
    assert ring.try_get() is None
    del claim
    assert ring.get() == b"behind"
    assert ring.stats().aborted == 1


def test_records_put_after_a_claim_wait_for_it(two: tuple[Ring, Ring]) -> None:
    one, other = two
    with one.claim(1) as view:
        other.put(b"b")
        one.put(b"c")
        assert other.try_get() is None
        view[:] = b"a"
    assert other.get_many() == [b"a", b"b", b"c"]


def test_claims_that_end_out_of_order_arrive_in_the_order_of_their_beginning(ring: Ring) -> None:
    for _ in range(CELLS):  # at every offset
        claims = [ring.claim(1) for _ in range(4)]
        views = [claim.__enter__() for claim in claims]
        for index in (2, 0, 3, 1):
            views[index][:] = b"%d" % index
            claims[index].__exit__(ZeroDivisionError if index == 2 else None, None, None)
        assert ring.get_many() == [b"0", b"1", b"3"]
        ring.put(b"")
        ring.get()


def test_nested_claims_are_each_sent_at_their_end(ring: Ring) -> None:
    with ring.claim(1) as outer:
        with ring.claim(1) as inner:
            inner[:] = b"i"
        outer[:] = b"o"
    assert ring.get_many() == [b"o", b"i"]


def test_a_view_that_outlives_its_claim_is_an_error_and_nothing_is_sent(ring: Ring) -> None:
    kept: list[memoryview] = []
    with pytest.raises(BufferError, match="outlives its `with` block"), ring.claim(4) as view:
        kept.append(view[1:3])
    ring.put(b"behind")
    assert ring.try_get() is None  # the claim stands while the view could write to its cells
    kept[0][:] = b"zz"
    kept.pop().release()
    assert ring.get() == b"behind"
    assert ring.stats().aborted == 1


def test_the_view_itself_is_released_at_the_end_of_its_block(ring: Ring) -> None:
    with ring.claim(4) as view:
        pass
    with pytest.raises(ValueError, match="released memoryview"):
        view[0] = 1
    with ring.peek() as view:
        pass
    with pytest.raises(ValueError, match="released memoryview"):
        bytes(view)


def test_an_exception_in_a_block_whose_view_outlives_it_is_the_one_that_is_seen(ring: Ring) -> None:
    kept: list[memoryview] = []

    def keep_and_fail() -> None:
        with ring.claim(4) as view:
            kept.append(view[:2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        keep_and_fail()
    kept.clear()
    gc.collect()
    ring.put(b"next")
    assert ring.get() == b"next"


def test_claims_and_peeks_are_entered_once_and_give_no_views_outside(ring: Ring) -> None:
    claim = ring.claim(1)
    with pytest.raises(BufferError, match="inside its `with` block"):
        memoryview(claim)
    with claim, pytest.raises(ValueError, match="entered once"):
        claim.__enter__()
    with pytest.raises(BufferError):
        memoryview(claim)
    with pytest.raises(ValueError, match="entered once"), claim:
        pass
    assert ring.depth == CELL


def test_claims_and_peeks_can_not_be_made_without_a_ring(ring: Ring) -> None:
    for kind in (type(ring.claim(1)), type(ring.claim(1)).__mro__[1]):
        with pytest.raises(TypeError, match=r"Ring.claim\(\)"):
            kind()


@pytest.mark.parametrize("nbytes", [-1, -(1 << 40)])
def test_a_claim_of_a_negative_size_is_a_value_error(ring: Ring, nbytes: int) -> None:
    with pytest.raises(ValueError, match=f"a record of {nbytes} bytes"):
        ring.claim(nbytes)


def test_a_claim_waits_for_room_and_raises_full(ring: Ring) -> None:
    while ring.try_put(b""):
        pass
    with pytest.raises(Full):
        ring.claim(1, timeout=0.01)
    threading.Timer(0.05, ring.get_many).start()
    with ring.claim(1, timeout=60) as view:
        view[:] = b"x"
    assert ring.get_many()[-1] == b"x"


# ----------------------------------------------------------------------------------------------------- peeks


def test_a_peek_shows_the_record_in_place_and_takes_it_at_the_end(ring: Ring) -> None:
    ring.put_many([b"one", b"two"])
    with ring.peek() as view:
        assert (bytes(view), view.readonly) == (b"one", True)
        assert ring.depth == 2 * CELL
    assert ring.depth == CELL
    assert ring.get() == b"two"
    assert ring.stats().records_got == 2


def test_an_exception_in_a_peek_leaves_the_record_to_be_read_again(ring: Ring) -> None:
    ring.put(b"record")
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), ring.peek():
            raise ZeroDivisionError
    assert ring.get() == b"record"


def test_a_peek_that_is_never_entered_leaves_the_record(ring: Ring) -> None:
    ring.put(b"record")
    del_me = ring.peek()
    with pytest.raises(RecordPinnedError):
        ring.get()
    del del_me
    assert ring.get() == b"record"


@pytest.mark.parametrize("call", ["get", "try_get", "get_many", "try_get_many", "peek"])
def test_nothing_else_is_read_while_a_record_is_pinned(ring: Ring, call: str) -> None:
    ring.put_many([b"one", b"two"])
    with ring.peek() as view:
        with pytest.raises(RecordPinnedError, match=r"held by peek\(\)"):
            getattr(ring, call)()
        assert view == b"one"
    assert ring.get() == b"two"


def test_a_view_that_outlives_its_peek_keeps_the_record_until_it_goes(ring: Ring) -> None:
    ring.put_many([b"one", b"two"])
    kept: list[memoryview] = []
    with pytest.raises(BufferError, match="outlives"), ring.peek() as view:
        kept.append(view[1:])
    with pytest.raises(RecordPinnedError):
        ring.get()
    while ring.try_put(b"more"):
        pass
    assert kept[0] == b"ne"
    kept.clear()
    assert ring.get() == b"two"


def test_a_ring_that_is_closed_stays_until_its_last_view_has_gone(ring: Ring) -> None:
    left: list[Ring] = []

    class Watched(Ring):
        def _leave(self) -> None:
            left.append(self)
            super()._leave()

    sut = Watched(new_memory(), owner=1)
    sut.put(b"pinned")
    with sut.peek() as view:
        sut.close()
        assert view == b"pinned"
        assert not left
    assert left == [sut]
    sut.close()
    assert left == [sut]


# ----------------------------------------------------------------------------------------------------- roles


def test_a_second_consumer_is_refused_until_the_first_closes(two: tuple[Ring, Ring]) -> None:
    one, other = two
    one.put_many([b"1", b"2"])
    assert one.get() == b"1"
    for call in (other.get, other.try_get, other.get_many, other.try_get_many, other.peek):
        with pytest.raises(RoleTakenError, match="the consumer of 'ring' is owner 1"):
            call()
    one.close()
    assert other.get() == b"2"


def test_a_second_producer_is_refused_where_there_is_one(start: int) -> None:
    memory = new_memory(start=start, one_producer=True)
    one, other = Ring(memory, owner=1), Ring(memory, owner=2)
    one.put(b"1")
    for call in (other.put, other.try_put):
        with pytest.raises(RoleTakenError, match="the producer of 'ring' is owner 1"):
            call(b"x")
    with pytest.raises(RoleTakenError):
        other.put_many([b"x"])
    with pytest.raises(RoleTakenError):
        other.claim(1)
    one.close()
    other.put(b"2")
    assert other.get_many() == [b"1", b"2"]


def test_any_number_of_producers_is_welcome_otherwise(start: int) -> None:
    memory = new_memory(start=start)
    rings = [Ring(memory, owner=owner) for owner in (1, 2, 4094)]
    for ring in rings:
        ring.put(ring.name.encode())
    assert len(rings[0].get_many()) == 3


def test_the_role_of_a_dead_owner_is_taken_and_its_claims_are_given_up(start: int) -> None:
    dead = {1}

    class Judging(Ring):
        def _owner_alive(self, owner: int) -> bool:
            return owner not in dead

    memory = new_memory(start=start)
    gone = Ring(memory, owner=1)
    assert gone.try_get() is None
    gone.put(b"committed")
    claims = [gone.claim(100), gone.claim(1)]
    survivor = Judging(memory, owner=2)
    survivor.put(b"behind")
    assert survivor.get_many() == [b"committed", b"behind"]
    assert survivor.stats().aborted == 2
    for claim in claims:  # were it alive after all, it learns that it was fenced
        claim.__enter__()
        with pytest.raises(Exception, match="taken for dead"):
            claim.__exit__(None, None, None)


# --------------------------------------------------------------------------------------------- state and end


def test_stats_count_what_this_handle_did(two: tuple[Ring, Ring]) -> None:
    producer, consumer = two
    producer.put_many([b"12345", b"67"])
    producer.put(bytearray(3))
    with producer.claim(7):
        pass
    assert len(consumer.get_many(limit=3)) == 3
    with consumer.peek():
        pass
    assert producer.stats()[:6] == (CELLS * CELL, 0, 4, 17, 0, 0)
    assert consumer.stats()[:6] == (CELLS * CELL, 0, 0, 0, 4, 17)
    assert consumer.stats().aborted == 0
    assert consumer.stats()._fields[-3:] == ("aborted", "misdirected", "discarded")


def test_a_closed_handle_refuses_every_call_and_closes_again(ring: Ring) -> None:
    ring.put(b"x")
    assert not ring.closed
    ring.close()
    ring.close()
    assert ring.closed
    for call in (
        ring.get, ring.try_get, ring.get_many, ring.try_get_many, ring.peek,
        lambda: ring.put(b""), lambda: ring.try_put(b""), lambda: ring.put_many([b""]), lambda: ring.claim(1),
    ):  # fmt: skip
        with pytest.raises(ClosedError, match="this handle of 'ring' is closed"):
            call()


def test_the_end_of_a_with_block_closes_the_handle(ring: Ring) -> None:
    with ring as same:
        assert same is ring
    assert ring.closed


def test_a_handle_keeps_the_memory_it_lies_over() -> None:
    memory = new_memory()
    ring = Ring(memory, owner=1)
    with pytest.raises(BufferError):
        memory.close()
    del ring
    memory.close()


# ------------------------------------------------------------------------------------------ corrupt contents


def header_at(cell: int) -> int:
    return 768 + 8 * cell


@pytest.mark.parametrize("word", [0x0000000500000005, 1 << 4, 0xF, 3 | 17 << 4, 2 | 0xFFFF << 4, 2, 1])
def test_a_header_that_no_producer_writes_is_a_corrupt_segment(ring: Ring, start: int, word: int) -> None:
    memory = new_memory()
    sut = Ring(memory, owner=1)
    sut.put(b"x")
    memory[header_at(0) : header_at(1)] = (1 << 32 | word & 0xFFFFFFFF).to_bytes(8, "little")
    with pytest.raises(CorruptSegmentError, match="has at cell 0 a header that no producer writes"):
        sut.get(timeout=1)


def test_a_record_that_says_it_is_longer_than_its_cells_is_a_corrupt_segment() -> None:
    memory = new_memory()
    sut = Ring(memory, owner=1)
    sut.put(b"x")
    data = header_at(CELLS)
    memory[data : data + 4] = (57).to_bytes(4, "little")
    with pytest.raises(CorruptSegmentError):
        sut.get()


def test_what_was_taken_before_a_corrupt_header_is_handed_over() -> None:
    memory = new_memory()
    sut = Ring(memory, owner=1)
    sut.put_many([b"a", b"b", b"c"])
    memory[header_at(2) : header_at(3)] = (1 << 32 | 0xF).to_bytes(8, "little")
    assert sut.get_many() == [b"a", b"b"]
    with pytest.raises(CorruptSegmentError):
        sut.get_many()


def test_a_tail_that_contradicts_the_head_is_a_corrupt_segment() -> None:
    memory = new_memory()
    sut = Ring(memory, owner=1)
    memory[128:136] = (1000 << 28).to_bytes(8, "little")
    with pytest.raises(CorruptSegmentError, match="head and the tail of 'ring' contradict each other"):
        sut.put(b"x", timeout=1)


@pytest.mark.parametrize("holder", [4095, 1 << 16, 0xFFFFFFFF])
def test_a_role_held_by_a_number_that_nobody_can_have_is_a_corrupt_segment(holder: int) -> None:
    memory = new_memory(one_producer=True)
    memory[640:648] = holder.to_bytes(4, "little") * 2
    sut = Ring(memory, owner=1)
    with pytest.raises(CorruptSegmentError, match=f"the consumer of 'ring' is said to be owner {holder}"):
        sut.try_get()
    with pytest.raises(CorruptSegmentError, match=f"the producer of 'ring' is said to be owner {holder}"):
        sut.try_put(b"")


# --------------------------------------------------------------------------------------------------- threads


@pytest.mark.tsan
def test_threads_put_through_one_handle_and_every_record_arrives_in_its_threads_order(
    two: tuple[Ring, Ring],
) -> None:
    producer, consumer = two
    each, threads = 400, 3

    def send(thread: int) -> None:
        for number in range(each):
            producer.put(b"%d %d" % (thread, number) + b"." * (number % 150))

    workers = [threading.Thread(target=send, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    received: dict[bytes, list[int]] = {}
    for _ in range(each * threads):
        thread, _, number = consumer.get(timeout=60).rstrip(b".").partition(b" ")
        received.setdefault(thread, []).append(int(number))
    for worker in workers:
        worker.join()
    assert received == {b"%d" % thread: list(range(each)) for thread in range(threads)}


@pytest.mark.tsan
def test_threads_get_through_one_handle_and_each_record_goes_to_one_of_them(two: tuple[Ring, Ring]) -> None:
    producer, consumer = two
    taken: list[list[bytes]] = [[] for _ in range(3)]

    def take(mine: list[bytes]) -> None:
        while (record := consumer.get(timeout=60)) != b"end":
            mine.append(record)

    workers = [threading.Thread(target=take, args=(mine,)) for mine in taken]
    for worker in workers:
        worker.start()
    items = [b"%d" % number for number in range(600)]
    for item in items:
        producer.put(item)
    producer.put_many([b"end"] * len(workers))
    for worker in workers:
        worker.join()
    assert sorted(record for mine in taken for record in mine) == sorted(items)
    assert all(mine == sorted(mine, key=int) for mine in taken)


@pytest.mark.tsan
def test_threads_claim_batch_and_peek_at_the_same_time_and_nothing_is_lost(start: int) -> None:
    memory = new_memory(64, start=start // CELLS * 64 % PERIOD)
    consumer = Ring(memory, owner=1)
    each = 300

    def claimer(ring: Ring) -> None:
        for number in range(each):
            with ring.claim(12) as view:
                view[:] = b"c%011d" % number

    def batcher(ring: Ring) -> None:
        for first in range(0, each, 10):
            ring.put_many([b"b%d" % number for number in range(first, first + 10)])

    workers = [
        threading.Thread(target=work, args=(Ring(memory, owner=owner),))
        for owner, work in ((2, claimer), (3, batcher))
    ]
    for worker in workers:
        worker.start()
    received: dict[int, list[int]] = {ord("b"): [], ord("c"): []}
    for _ in range(2 * each):
        with consumer.peek(timeout=60) as view:
            received[view[0]].append(int(view[1:].tobytes()))
    for worker in workers:
        worker.join()
    assert received == {ord("b"): list(range(each)), ord("c"): list(range(each))}


def test_close_ends_the_waits_of_other_threads(two: tuple[Ring, Ring]) -> None:
    """A get and a put that wait in the same handle."""
    sut, other = two
    while other.try_put(b"full"):
        pass
    errors: list[type[BaseException]] = []
    waiting = threading.Barrier(3)

    def wait(call: Callable[[], object]) -> None:
        waiting.wait()
        try:
            call()
        except BaseException as error:
            errors.append(type(error))

    empty = Ring(new_memory(), owner=1)
    threads = [
        threading.Thread(target=wait, args=(call,)) for call in (lambda: sut.put(b"x"), lambda: empty.get())
    ]
    for thread in threads:
        thread.start()
    waiting.wait()
    while not (sut.stats().sleeps and empty.stats().sleeps):
        pass
    sut.close()
    empty.close()
    for thread in threads:
        thread.join()
    assert errors == [ClosedError, ClosedError]


def test_a_record_put_by_another_process_wakes_a_get(two: tuple[Ring, Ring]) -> None:
    producer, consumer = two
    child = os.fork()
    if child == 0:
        while not producer.try_put(b"from the child"):
            pass
        os._exit(0)
    assert consumer.get(timeout=60) == b"from the child"
    assert os.waitpid(child, 0)[1] == 0


def iterate(ring: Ring) -> Iterator[bytes]:
    while (record := ring.try_get()) is not None:
        yield record


def test_the_64_bit_words_stay_right_over_thousands_of_laps(ring: Ring) -> None:
    numbers = iter(range(1 << 30))
    expected = iter(range(1 << 30))
    for round_ in range(3000):
        ring.try_put_many([b"%d" % next(numbers) for _ in range(round_ % 9 + 1)])
        assert all(int(record) == next(expected) for record in iterate(ring))
    assert ring.depth == 0

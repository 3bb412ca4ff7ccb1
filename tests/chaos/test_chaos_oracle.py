"""The oracle of the kill campaign is told wrong histories, and must say what is wrong; right ones it must not
blame.
"""

import pytest

from fastcomm.testing.chaos.history import (
    MOST_TAKEN,
    Author,
    AuthorLedger,
    Checker,
    Reader,
    ReaderLedger,
    Subscriber,
    Violation,
    blank_size,
    check_broadcast,
    check_deliveries,
    compose,
    identify,
    message,
)

SIZES = (0, 1, 43, 44, 45, 107, 108, 109, 300, 3000, 100_000)
ALL = [(1, n) for n in range(1, 5)]  # before the first blank
AUTHOR = Author(1, begun=4, returned=4)


class TestMessages:
    @pytest.mark.parametrize("nbytes", SIZES)
    def test_say_whose_they_are(self, nbytes: int) -> None:
        data = message(7, 12, nbytes)
        assert len(data) == nbytes + 12
        assert identify(data) == (7, 12)

    @pytest.mark.parametrize("nbytes", SIZES)
    def test_that_are_torn_anywhere_are_noticed(self, nbytes: int) -> None:
        data, other = message(7, 12, nbytes), message(7, 13, nbytes)
        for at in {1, 4, len(data) // 2, len(data) - 4, len(data) - 1}:
            for torn in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
                with pytest.raises(Violation, match="torn: expected a message with its checksum"):
                    identify(torn)
        with pytest.raises(Violation, match="torn"):
            identify(data[:8] + other[8:])

    def test_of_one_wrong_byte_are_noticed(self) -> None:
        with pytest.raises(Violation, match="torn"):
            identify(b"\0")

    def test_too_small_to_say_it_come_in_both_sizes(self) -> None:
        blanks = {blank_size(n): compose(1, n, 99) for n in range(1, 14) if blank_size(n) is not None}
        assert {size: identify(data) for size, data in blanks.items()} == {0: (0, 0), 1: (0, 1)}


class TestDeliveries:
    """Each message to one reader."""

    def check(self, *taken: list[tuple[int, int]], in_turns: bool = True) -> int:
        readers = [Reader(f"reader {number}", part) for number, part in enumerate(taken)]
        return check_deliveries([AUTHOR], readers, in_turns=in_turns).gone

    def test_all_once_and_in_order_is_right(self) -> None:
        assert self.check(ALL) == 0
        assert self.check(ALL[:2], [], ALL[2:]) == 0
        assert self.check(ALL[::2], ALL[1::2], in_turns=False) == 0

    @pytest.mark.parametrize("missing", [0, 1, 3])
    def test_a_lost_message_is_reported(self, missing: int) -> None:
        with pytest.raises(Violation, match=rf"lost: expected at most 0 .*; 1 are.*\(1, {missing + 1}\)"):
            self.check(ALL[:missing] + ALL[missing + 1 :])

    def test_everything_lost_is_reported(self) -> None:
        with pytest.raises(Violation, match=r"lost: .*; 4 are"):
            self.check([])

    @pytest.mark.parametrize("taken", [[ALL, ALL[3:]], [[*ALL, (1, 4)]], [ALL[:2], ALL[1:]]])
    def test_a_doubled_message_is_reported(self, taken: list[list[tuple[int, int]]]) -> None:
        with pytest.raises(Violation, match=r"doubled: .* which was given before"):
            self.check(*taken)
        with pytest.raises(Violation, match=r"doubled: .* which was given before"):
            self.check(*taken, in_turns=False)

    def test_messages_out_of_order_are_reported(self) -> None:
        with pytest.raises(Violation, match="out of order: reader 0 was given 2 of author 1 after 3"):
            self.check([(1, 1), (1, 3), (1, 2), (1, 4)], in_turns=False)

    def test_messages_out_of_order_from_one_reader_to_the_next_are_reported(self) -> None:
        with pytest.raises(Violation, match="out of order: reader 1 was given 1 of author 1 after 4"):
            self.check(ALL[1:], ALL[:1])

    @pytest.mark.parametrize("what", [(1, 5), (2, 1), (1, 0)])
    def test_what_nobody_sent_is_reported(self, what: tuple[int, int]) -> None:
        with pytest.raises(Violation, match="invented"):
            self.check([*ALL, what])

    def test_what_a_killed_producer_had_begun_may_come_or_not(self) -> None:
        killed = Author(1, begun=4, returned=2)
        for count in (2, 3, 4):
            check_deliveries([killed], [Reader("r", ALL[:count])], in_turns=True)
        with pytest.raises(Violation, match="lost"):  # the second of a batch without the first
            check_deliveries([killed], [Reader("r", [*ALL[:2], ALL[3]])], in_turns=True)
        with pytest.raises(Violation, match="lost"):
            check_deliveries([killed], [Reader("r", ALL[:1])], in_turns=True)

    def test_what_a_killed_consumer_had_in_hand_may_be_gone_and_no_more(self) -> None:
        rest = Reader("rest", ALL[2:])
        assert check_deliveries([AUTHOR], [Reader("killed", [], in_hand=2), rest], in_turns=True).gone == 2
        with pytest.raises(Violation, match=r"expected at most 1 .*; 2 are"):
            check_deliveries([AUTHOR], [Reader("killed", [], in_hand=1), rest], in_turns=True)

    def test_what_was_looked_at_may_come_again_to_the_next_reader_only(self) -> None:
        looking = Reader("killed", ALL[:2], last_may_come_again=True)
        check_deliveries([AUTHOR], [looking, Reader("next", ALL[1:])], in_turns=True)
        check_deliveries([AUTHOR], [looking, Reader("next", ALL[2:])], in_turns=True)
        with pytest.raises(Violation, match="doubled"):
            check_deliveries([AUTHOR], [looking, Reader("next", ALL)], in_turns=True)
        with pytest.raises(Violation, match="doubled"):
            check_deliveries([AUTHOR], [looking, Reader("next", [*ALL[2:], ALL[1]])], in_turns=True)

    @pytest.mark.parametrize(("came", "wrong"), [(0, "lost"), (1, ""), (2, "doubled")])
    @pytest.mark.parametrize("size", [0, 1])
    def test_the_smallest_messages_are_counted(self, size: int, came: int, wrong: str) -> None:
        last = next(n for n in range(1, 20) if blank_size(n) == size)
        taken = [(1, n) if blank_size(n) is None else (0, blank_size(n) or 0) for n in range(1, last)]
        readers = [Reader("r", [*taken, *[(0, size)] * came])]
        if wrong:
            with pytest.raises(Violation, match=wrong):
                check_deliveries([Author(1, last, last)], readers, in_turns=True)
        else:
            check_deliveries([Author(1, last, last)], readers, in_turns=True)


class TestBroadcasts:
    """Each message to all who were there."""

    def check(
        self,
        taken: list[int],
        residues: set[int] | None = None,
        since: int | None = 0,
        complete: bool = True,
        returned: int = 9,
    ) -> None:
        subscriber = Subscriber(
            "subscriber",
            [(1, n) for n in taken],
            frozenset(residues or {0, 1, 2}),
            None if since is None else {1: since},
            complete,
        )
        check_broadcast([Author(1, 9, returned)], [subscriber])

    def test_all_once_and_in_order_is_right(self) -> None:
        self.check([*range(1, 10)])
        self.check([2, 5, 8], {2})
        self.check([4, 5, 6, 7, 8, 9], since=5)  # what was begun as it subscribed may come
        self.check([4, 5], since=None, complete=False)
        self.check([1, 3, 4, 6, 7, 9], {0, 1})
        self.check([3, 6, 7, 9], {0, 1}, since=6)  # it subscribed to 1 modulo 3 later
        self.check([], since=None, complete=False)
        self.check([*range(1, 9)], returned=8)

    @pytest.mark.parametrize(
        ("taken", "wrong"),
        [
            ([1, 2, 4, 5, 6, 7, 8, 9], r"lost: .*\[3\]"),
            ([2, 3, 4, 5, 6, 7, 8, 9], r"lost: .*\[1\]"),
            ([1, 2, 3, 4, 5, 6, 7, 8], r"lost: .*\[9\]"),
            ([], "lost"),
            ([1, 2, 2, 3, 4, 5, 6, 7, 8, 9], "doubled: .* given 2"),
            ([1, 3, 2, 4, 5, 6, 7, 8, 9], "out of order: .* given 2 of author 1 after 3"),
            ([*range(1, 11)], "invented: .* given 10"),
        ],
    )
    def test_wrong_ones_are_reported(self, taken: list[int], wrong: str) -> None:
        with pytest.raises(Violation, match=wrong):
            self.check(taken)

    def test_what_was_not_subscribed_to_is_reported(self) -> None:
        with pytest.raises(Violation, match=r"unwanted: .*\[4\]"):
            self.check([2, 4, 5, 8], {2})

    def test_a_gap_is_reported_though_the_subscriber_was_killed(self) -> None:
        with pytest.raises(Violation, match=r"lost: .*\[5\]"):
            self.check([1, 2, 8], since=None, complete=False)


class TestLedgers:
    def test_keep_what_they_were_told(self) -> None:
        author, reader = AuthorLedger(), ReaderLedger()
        author.begun, author.returned = 7, 5
        for n in range(1, 6):
            reader.note(compose(3, n, 10))
        reader.reach, reader.peeking, reader.complete, reader.done = 4, True, True, 2
        assert (author.begun, author.returned) == (7, 5)
        assert reader.taken() == [(3, 1), (3, 2), (3, 3), (3, 4), (0, 0)]
        assert (reader.reach, reader.peeking, reader.complete, reader.done) == (4, True, True, 2)

    def test_remember_how_far_the_authors_were_at_the_subscription(self) -> None:
        author, reader = AuthorLedger(), ReaderLedger()
        author.begun = 7
        assert reader.since(1) is None
        reader.subscribed([None, author])
        author.begun = 9
        assert (reader.since(0), reader.since(1)) == (0, 7)

    def test_that_are_full_are_a_violation(self) -> None:
        reader = ReaderLedger()
        data = message(1, 1, 0)
        for _ in range(MOST_TAKEN):
            reader.note(data)
        with pytest.raises(Violation, match=f"more than {MOST_TAKEN}"):
            reader.note(data)


class TestChecker:
    def test_takes_what_comes_in_order(self) -> None:
        sut = Checker()
        assert [sut.take(message(1, n, 5)) for n in (1, 2, 4)] == [(1, 1), (1, 2), (1, 4)]
        assert (sut.last, sut.count) == ({1: 4}, 3)

    @pytest.mark.parametrize("sequence", [1, 2])
    def test_refuses_what_came_before(self, sequence: int) -> None:
        sut = Checker()
        sut.take(message(1, 2, 5))
        with pytest.raises(Violation, match=f"1 sent {sequence} after 2"):
            sut.take(message(1, sequence, 5))

"""The oracle of deliveries is told wrong histories and must say what is wrong; right ones it must pass."""

from typing import Any

import pytest

from fastcomm.testing.chaos.delivery import Delivered, Life, check_delivery
from fastcomm.testing.chaos.history import Violation
from fastcomm.testing.chaos.journal import CLOSE, NEVER, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Call, Given

SUBJECT, EVERYTHING, OTHERS, GROUP = 0, 0, 3, 1  # "delivery.a.x"; "delivery.>", "delivery.b.y"; "one"


def call(kind: int, began: int, ended: int, *what: int, result: int = 0, full: bool = False) -> Call:
    a, b, c, d = (*what, 0, 0, 0, 0)[:4]
    return Call(kind, began, ended, (a, b, c, d), result, full)


def publish(began: int, ended: int, first: int, count: int = 1, result: int = 1, full: bool = False) -> Call:
    return call(PUBLISH, began, ended, first, count, SUBJECT, 2, result=result, full=full)


def author(*calls: Call, **changes: Any) -> Life:
    return Life(1, "the author", calls, [], **changes)


def reader(given: list[int], *calls: Call, number: int = 2, by: int = 0, **changes: Any) -> Life:
    counters = {
        "received": len(given),
        **dict.fromkeys(("unwanted", "pending", "delivered", "lost", "refused"), 0),
    }
    changes = {"complete": True, "counters": counters, **changes}
    calls = calls or (call(SUBSCRIBE, 1, 2, EVERYTHING, GROUP if by else 0),)
    return Life(number, f"reader {number}", calls, [Given(1, n, by) for n in given], **changes)


TWO = (publish(10, 11, 1), publish(12, 13, 2))


def check(*lives: Life, discarded: int = 0) -> Delivered:
    return check_delivery(lives, discarded)


class TestWithoutGroups:
    def test_what_was_received_in_order_is_right(self) -> None:
        assert check(author(*TWO), reader([1, 2])) == Delivered(2, 2, 0, 0)

    @pytest.mark.parametrize(
        ("given", "wrong"),
        [
            ([1], "lost: reader 2 had subscribed"),
            ([2], "lost: reader 2"),
            ([1, 2, 2], "doubled: reader 2"),
            ([2, 1], "out of order: reader 2"),
            ([1, 2, 3], "invented: reader 2"),
        ],
    )
    def test_what_is_missing_too_much_or_out_of_order_is_wrong(self, given: list[int], wrong: str) -> None:
        with pytest.raises(Violation, match=wrong):
            check(author(*TWO), reader(given))

    def test_what_a_killed_reader_lacks_in_the_end_is_right_and_before_that_is_not(self) -> None:
        check(author(*TWO), reader([1], killed_at=20, complete=False))
        with pytest.raises(Violation, match="lost"):
            check(author(*TWO), reader([2], killed_at=20, complete=False))

    def test_the_first_part_of_a_batch_may_come_of_a_killed_author_and_no_other(self) -> None:
        batch = publish(10, NEVER, 1, count=3)
        check(author(batch, killed_at=20), reader([1, 2]))
        with pytest.raises(Violation, match=r"lost.*not those before"):
            check(author(batch, killed_at=20), reader([1, 3]))

    @pytest.mark.parametrize(
        "calls",
        [
            (call(SUBSCRIBE, 14, 15, EVERYTHING),),
            (call(SUBSCRIBE, 1, 2, EVERYTHING), call(UNSUBSCRIBE, 3, 4, 1)),
            (call(SUBSCRIBE, 1, 2, EVERYTHING), call(CLOSE, 3, 4)),
            (call(SUBSCRIBE, 1, 2, OTHERS),),
            (call(SUBSCRIBE, 1, 2, EVERYTHING, GROUP),),
        ],
    )
    def test_what_was_not_subscribed_to_then_is_wrong(self, calls: tuple[Call, ...]) -> None:
        with pytest.raises(Violation, match="misdelivered"):
            check(author(*TWO), reader([1, 2], *calls))

    def test_what_was_published_while_one_subscribed_may_come(self) -> None:
        for given, reached in (([], 0), ([2], 1)):
            second = publish(12, 13, 2, result=reached)
            check(author(publish(10, 11, 1, result=0), second), reader(given, call(SUBSCRIBE, 12, 14, 0)))

    @pytest.mark.parametrize("result", [0, 2])
    def test_a_publish_that_miscounts_is_wrong(self, result: int) -> None:
        with pytest.raises(Violation, match="miscounted"):
            check(author(publish(10, 11, 1, result=result)), reader([1]))

    def test_a_full_publish_may_reach_nobody(self) -> None:
        check(author(publish(10, 11, 1, result=0, full=True)), reader([]))

    def test_what_an_inbox_drops_has_to_be_counted(self) -> None:
        counters = {"received": 1, "unwanted": 0, "pending": 0, "delivered": 0, "lost": 0, "refused": 1}
        lives = author(publish(10, 11, 1, result=0), publish(12, 13, 2))
        check(lives, reader([2], drops=True, counters=counters))
        with pytest.raises(Violation, match="lost: reader 2 counts 0 refused"):
            check(lives, reader([2], drops=True))


class TestGroups:
    def test_one_member_gets_each(self) -> None:
        check(author(*TWO), reader([1], by=1), reader([2], by=1, number=3))

    def test_two_is_wrong_and_none_too(self) -> None:
        with pytest.raises(Violation, match="doubled: the group 'one', which no member left"):
            check(author(*TWO), reader([1, 2], by=1), reader([2], by=1, number=3))
        with pytest.raises(Violation, match="lost: nobody of the group 'one', which no member left"):
            check(author(*TWO), reader([1], by=1), reader([], by=1, number=3))

    def test_none_is_right_if_it_was_discarded_or_in_the_hands_of_the_killed(self) -> None:
        for in_hand, discarded in ((1, 0), (0, 1)):
            killed = reader([], by=1, number=3, killed_at=20, complete=False, in_hand=in_hand)
            assert check(author(*TWO), reader([1], by=1), killed, discarded=discarded).gone == 1
        with pytest.raises(Violation, match="lost: 1 messages of groups came to nobody"):
            check(author(*TWO), reader([1], by=1), killed)

    def test_two_is_right_while_a_member_leaves_or_if_a_reaper_was_killed(self) -> None:
        leaves = reader(
            [2], call(SUBSCRIBE, 1, 2, 0, GROUP), call(CLOSE, 12, 14), by=1, number=3, complete=False
        )
        assert check(author(*TWO), reader([1, 2], by=1), leaves).twice == 1
        left = leaves._replace(calls=(leaves.calls[0], call(CLOSE, 50, 60)))
        with pytest.raises(Violation, match="doubled: 1 messages of groups came to two members though"):
            check(author(*TWO), reader([1, 2], by=1), left)
        reaper = Life(4, "a reaper", [], [], killed_at=55)
        assert check(author(*TWO), reader([1, 2], by=1), left, reaper).twice == 1

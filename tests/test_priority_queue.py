"""PriorityQueue against a naive oracle: order, coalescing, bounds, and what is refused."""

import random
import weakref
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fastcomm import Empty, Full, NotRegisteredError, PriorityQueue

MIN, MAX = -(2**63), 2**63 - 1


class Oracle:
    """The rules in plain Python: a list of [priority, number, key, item], searched from end to end."""

    def __init__(self, maxsize: int, merge: Any, overflow: str) -> None:
        self.maxsize, self.merge, self.overflow = maxsize, merge, overflow
        self.entries: list[list[Any]] = []
        self.numbers = 0
        self.counts = dict.fromkeys(("put", "got", "coalesced", "dropped", "removed"), 0)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def entry(self, key: object) -> list[Any]:
        for entry in self.entries:
            if key is not None and entry[2] == key:
                return entry
        raise KeyError(key)

    def put(self, item: Any, priority: int, key: object) -> None:
        try:
            entry = self.entry(key)
        except KeyError:
            self.add(item, priority, key)
            return
        self.counts["put"] += 1
        self.counts["coalesced"] += 1
        if callable(self.merge):
            entry[3] = self.merge(entry[3], item)
        elif self.merge == "latest" or priority <= entry[0]:
            entry[3] = item
        if priority < entry[0]:
            entry[:2] = priority, self.number()

    def add(self, item: Any, priority: int, key: object) -> None:
        while 0 < self.maxsize <= len(self.entries):
            if self.overflow != "drop_lowest":
                raise Full
            last = max(self.entries)
            self.counts["dropped"] += 1
            if last[0] <= priority:
                self.counts["put"] += 1
                return
            self.entries.remove(last)
        self.counts["put"] += 1
        self.entries.append([priority, self.number(), key, item])

    def get(self) -> Any:
        if not self.entries:
            raise Empty
        first = min(self.entries)
        self.entries.remove(first)
        self.counts["got"] += 1
        return first[3]

    def peek(self) -> Any:
        if not self.entries:
            raise Empty
        return min(self.entries)[3]

    def remove(self, key: object) -> Any:
        entry = self.entry(key)
        self.entries.remove(entry)
        self.counts["removed"] += 1
        return entry[3]

    def update(self, key: object, priority: int) -> None:
        entry = self.entry(key)
        if priority != entry[0]:
            entry[:2] = priority, self.number()

    def clear(self) -> None:
        self.counts["removed"] += len(self.entries)
        self.entries.clear()


def concatenated(queued: tuple[int, ...], newer: tuple[int, ...]) -> tuple[int, ...]:
    return queued + newer


class Pair:
    """A queue and its oracle: each operation on both, with the same outcome."""

    def __init__(self, maxsize: int, merge: Any, overflow: str) -> None:
        self.queue: PriorityQueue[Any] = PriorityQueue(maxsize, merge=merge, overflow=overflow)  # type: ignore[arg-type]
        self.oracle = Oracle(maxsize, merge, overflow)
        self.messages = 0

    def both(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        expected = outcome(theirs)
        assert outcome(ours) == expected
        assert len(self.queue) == len(self.oracle.entries)

    def message(self) -> tuple[int, ...]:
        self.messages += 1
        return (self.messages,)

    def put(self, priority: int, key: object) -> None:
        item = self.message()
        self.both(
            lambda: self.queue.put_nowait(item, priority=priority, key=key),
            lambda: self.oracle.put(item, priority, key),
        )

    def put_many(self, ranks: list[int], keys: list[object]) -> None:
        entries = {self.message(): pair for pair in zip(ranks, keys, strict=True)}

        def theirs() -> int:
            for item, (priority, key) in entries.items():
                self.oracle.put(item, priority, key)
            return len(entries)

        self.both(
            lambda: self.queue.put_many(
                entries, False, priority=lambda item: entries[item][0], key=lambda item: entries[item][1]
            ),
            theirs,
        )

    def get(self) -> None:
        self.both(self.queue.get_nowait, self.oracle.get)

    def get_many(self, limit: int) -> None:
        def theirs() -> list[Any]:
            return [self.oracle.get(), *(self.oracle.get() for _ in range(min(limit - 1, self.left())))]

        self.both(lambda: self.queue.get_many(limit, False), theirs)

    def left(self) -> int:
        return len(self.oracle.entries)

    def peek(self) -> None:
        self.both(self.queue.peek, self.oracle.peek)

    def remove(self, key: object) -> None:
        self.both(lambda: self.queue.remove(key), lambda: self.oracle.remove(key))

    def update(self, key: object, priority: int) -> None:
        self.both(lambda: self.queue.update(key, priority), lambda: self.oracle.update(key, priority))

    def clear(self) -> None:
        self.both(self.queue.clear, self.oracle.clear)

    def set_maxsize(self, maxsize: int) -> None:
        self.queue.maxsize = self.oracle.maxsize = maxsize
        assert self.queue.maxsize == maxsize

    def compare_counts(self) -> None:
        counted = self.queue.stats()._asdict()
        assert {name: counted[name] for name in self.oracle.counts} == self.oracle.counts
        assert counted["items"] == self.left() == self.queue.qsize()
        assert self.queue.empty() == (not self.left())
        assert self.queue.full() == (0 < self.oracle.maxsize <= self.left())

    def compare_order(self) -> None:
        """Empties both."""
        while self.left():
            self.get()
        self.get()

    def random_step(self, rng: random.Random, keys: list[object]) -> None:
        priority = rng.choice((rng.randrange(8), rng.randrange(8), rng.randrange(MIN, MAX + 1), MIN, MAX))
        key = rng.choice(keys)
        roll = rng.randrange(100)
        if roll < 45:
            self.put(priority, key)
        elif roll < 70:
            self.get()
        elif roll < 80:
            self.update(key, priority)
        elif roll < 87:
            self.remove(key)
        elif roll < 94:
            self.peek()
        elif roll < 97:
            count = rng.randrange(6)
            self.put_many([rng.randrange(8) for _ in range(count)], rng.choices(keys, k=count))
        elif roll < 99:
            self.get_many(rng.randrange(1, 8))
        elif rng.randrange(4):
            self.set_maxsize(rng.choice((0, 3, 20, 60)))
        else:
            self.clear()


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except KeyError:
        return KeyError
    except (Full, Empty) as error:
        return type(error)


CONFIGURATIONS = st.tuples(
    st.sampled_from((0, 1, 4, 30)),
    st.sampled_from(("latest", "highest", concatenated)),
    st.sampled_from(("block", "error", "drop_lowest")),
)
PRIORITIES = st.integers(-2, 4) | st.sampled_from((MIN, MAX))
# 2**32 * n: equal in their low bits. 1 and True are equal and not the same. None is no key.
KEYS: list[object] = [None, None, "a", "b", (1, 2), 1, True, 2.5, 7 << 32, 9 << 32, frozenset("x")]
SEVERAL = st.lists(st.tuples(PRIORITIES, st.sampled_from(KEYS)), max_size=6)


class AgainstTheOracle(RuleBasedStateMachine):
    @initialize(configuration=CONFIGURATIONS)
    def begin(self, configuration: Any) -> None:
        self.pair = Pair(*configuration)

    @rule(priority=PRIORITIES, key=st.sampled_from(KEYS))
    def put(self, priority: int, key: object) -> None:
        self.pair.put(priority, key)

    @rule(several=SEVERAL)
    def put_many(self, several: list[tuple[int, object]]) -> None:
        self.pair.put_many([priority for priority, _ in several], [key for _, key in several])

    @rule()
    def get(self) -> None:
        self.pair.get()

    @rule(limit=st.integers(1, 5))
    def get_many(self, limit: int) -> None:
        self.pair.get_many(limit)

    @rule()
    def peek(self) -> None:
        self.pair.peek()

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key: object) -> None:
        self.pair.remove(key)

    @rule(key=st.sampled_from(KEYS), priority=PRIORITIES)
    def update(self, key: object, priority: int) -> None:
        self.pair.update(key, priority)

    @rule()
    def clear(self) -> None:
        self.pair.clear()

    @rule(maxsize=st.integers(-1, 8))
    def set_maxsize(self, maxsize: int) -> None:
        self.pair.set_maxsize(maxsize)

    @rule(seed=st.integers(0, 2**32))
    def do_many_things(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            self.pair.random_step(rng, KEYS)

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.pair.compare_counts()
            self.pair.compare_order()


TestAgainstTheOracle = AgainstTheOracle.TestCase
TestAgainstTheOracle.settings = settings(stateful_step_count=30)


class TestOrder:
    """What test_heapq of CPython asks of a heap, asked of the queue."""

    @pytest.mark.parametrize("overflow", ["block", "drop_lowest"])
    @pytest.mark.parametrize("merge", ["latest", "highest", concatenated])
    @pytest.mark.parametrize("many_keys", [False, True])
    def test_a_long_life_is_the_oracles(self, overflow: str, merge: Any, many_keys: bool) -> None:
        rng = random.Random(f"{overflow} {merge} {many_keys}")
        keys = [*KEYS, *(f"key {i}" for i in range(100))] if many_keys else KEYS
        pair = Pair(20, merge, overflow)
        for _ in range(20_000):
            pair.random_step(rng, keys)
        pair.compare_counts()
        pair.compare_order()

    def test_items_come_in_the_order_of_their_priorities(self) -> None:
        rng = random.Random(1)
        priorities = [rng.choice((rng.randrange(100), rng.randrange(MIN, MAX))) for _ in range(5000)]
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put_many(priorities, priority=int)
        assert queue.get_many(5000) == sorted(priorities)

    @given(st.lists(st.integers(0, 3)))
    def test_equal_priorities_come_first_in_first_out(self, priorities: list[int]) -> None:
        queue: PriorityQueue[tuple[int, int]] = PriorityQueue()
        entries = list(zip(priorities, range(len(priorities)), strict=True))
        queue.put_many(entries, priority=lambda entry: entry[0])
        assert [queue.get() for _ in entries] == sorted(entries)

    def test_the_n_best_of_many_are_kept_by_a_small_queue(self) -> None:
        rng = random.Random(2)
        data = [rng.randrange(2000) for _ in range(1000)]
        best: PriorityQueue[int] = PriorityQueue(10, overflow="drop_lowest")
        best.put_many(data, priority=int)
        assert best.get_many() == sorted(data)[:10]
        assert best.stats().dropped == 990

    def test_put_and_get_by_turns_stay_sorted(self) -> None:
        rng = random.Random(3)
        data = [rng.random() for _ in range(1000)]
        queue: PriorityQueue[float] = PriorityQueue()
        expected = sorted(data[:500])
        for value in data[:500]:
            queue.put(value, priority=int(value * 2**60))
        for value in data[500:]:
            assert queue.get() == expected.pop(0)
            queue.put(value, priority=int(value * 2**60))
            expected = sorted([*expected, value])
        assert queue.get_many() == expected

    def test_items_are_never_compared(self) -> None:
        queue: PriorityQueue[Any] = PriorityQueue()
        items = [object(), 3j, {}, None]
        queue.put_many(items)
        assert [queue.get() for _ in items] == items


class TestCoalescing:
    def test_a_newer_message_takes_the_place_of_the_queued_one(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue()
        queue.put("first", key="k")
        queue.put("second")
        queue.put("third", key="k")
        assert queue.get_many() == ["third", "second"]
        assert queue.stats().coalesced == 1

    def test_a_more_urgent_one_moves_up_behind_its_equals(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue()
        queue.put("late", priority=9, key="k")
        queue.put("equal", priority=1)
        queue.put("last", priority=2)
        queue.put("moved", priority=1, key="k")
        assert queue.get_many() == ["equal", "moved", "last"]

    def test_a_less_urgent_one_does_not_move_it_back(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue()
        queue.put("urgent", priority=1, key="k")
        queue.put("other", priority=5)
        queue.put("newer", priority=9, key="k")
        assert queue.get_many() == ["newer", "other"]

    def test_highest_keeps_the_more_urgent_item(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue(merge="highest")
        queue.put("urgent", priority=1, key="k")
        queue.put("lax", priority=9, key="k")
        assert queue.peek() == "urgent"
        queue.put("as urgent", priority=1, key="k")
        assert queue.peek() == "as urgent"

    def test_a_key_is_forgotten_when_its_item_leaves(self) -> None:
        class Key:
            pass

        queue: PriorityQueue[int] = PriorityQueue(3, overflow="drop_lowest")
        ways: list[Callable[[Any], object]] = [
            lambda key: queue.get(),
            queue.remove,
            lambda key: queue.clear(),
            lambda key: queue.put_many([1, 1, 1], priority=-1),
        ]
        for leave in ways:
            key = Key()
            dead = weakref.ref(key)
            queue.put(1, key=key)
            leave(key)
            with pytest.raises(NotRegisteredError):
                queue.remove(key)
            del key
            assert dead() is None
            queue.clear()

    def test_coalescing_needs_no_room(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue(1, overflow="error")
        queue.put("old", key="k")
        queue.put("new", key="k")
        with pytest.raises(Full):
            queue.put("other", key="l")
        assert queue.get() == "new"

    def test_many_keys_of_one_hash_are_told_apart(self) -> None:
        class Key:
            def __init__(self, number: int) -> None:
                self.number = number

            def __hash__(self) -> int:
                return 1

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Key) and self.number == other.number

        queue: PriorityQueue[int] = PriorityQueue()
        for number in range(60):
            queue.put(number, key=Key(number % 30))
        assert queue.remove(Key(7)) == 37
        assert len(queue) == 29
        with pytest.raises(NotRegisteredError):
            queue.update(Key(7), 1)
        assert queue.get_many() == [number for number in range(30, 60) if number != 37]

    def test_update_moves_in_both_directions_behind_equals(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue()
        for item, priority in (("a", 1), ("b", 1), ("c", 2)):
            queue.put(item, priority=priority, key=item)
        queue.update("a", 2)
        queue.update("b", 1)
        assert queue.get_many() == ["b", "c", "a"]


class TestOverflow:
    def test_block_waits_then_says_the_numbers(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1)
        queue.put(1)
        with pytest.raises(Full, match="no room in time: the queue has 1 items of at most 1"):
            queue.put(2, timeout=0.01)
        with pytest.raises(Full, match="no room: "):
            queue.put(2, block=False)

    def test_error_raises_at_once(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1, overflow="error")
        queue.put(1)
        with pytest.raises(Full):
            queue.put(2)  # the watchdog ends this test if it waits

    def test_drop_lowest_drops_what_would_come_last(self) -> None:
        queue: PriorityQueue[str] = PriorityQueue(2, overflow="drop_lowest")
        for item, priority in (("a", 5), ("b", 5), ("c", 5), ("d", 1), ("e", 9)):
            queue.put(item, priority=priority)
        assert queue.get_many() == ["d", "a"]
        assert queue.stats().dropped == 3

    def test_a_queue_made_smaller_keeps_what_it_has_until_the_next_put(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(overflow="drop_lowest")
        queue.put_many(range(10), priority=int)
        queue.maxsize = 3
        assert len(queue) == 10
        queue.put(1, priority=1)
        assert queue.get_many() == [0, 1, 1]
        assert queue.stats().dropped == 8

    def test_put_many_says_how_far_it_came(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(2, overflow="error")
        with pytest.raises(Full, match="2 of 5 items were put") as caught:
            queue.put_many(range(5))
        assert (caught.value.delivered, caught.value.missing) == (2, 3)
        assert queue.get_many() == [0, 1]


class Rank(IntEnum):
    HIGH = 1
    LOW = 2


class Index:
    def __index__(self) -> int:
        return -3


class TestInvalid:
    def test_priorities_are_ints(self) -> None:
        queue: PriorityQueue[Any] = PriorityQueue()
        priorities: list[Any] = [Rank.LOW, True, 0, Index(), MIN, MAX]
        for priority in priorities:
            queue.put(priority, priority=priority)
        assert queue.get_many() == [MIN, priorities[3], 0, True, Rank.LOW, MAX]

    @pytest.mark.parametrize("priority", [1.0, float("nan"), "1", None, 1j, (1,)])
    def test_anything_else_is_a_type_error(self, priority: Any) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1, key="k")
        for call in (
            lambda: queue.put(2, priority=priority),
            lambda: queue.put_nowait(2, priority=priority),
            lambda: queue.update("k", priority),
            lambda: queue.put_many([2], priority=priority),
            lambda: queue.put_many([2, 3], priority=lambda item: 1 if item == 2 else priority),
        ):
            with pytest.raises(TypeError, match=f"a priority is an int.* not {type(priority).__name__}"):
                call()
        assert queue.get_many() == [1]

    @pytest.mark.parametrize("priority", [MIN - 1, MAX + 1, 10**5000, -(10**5000)], ids=range(4))
    def test_more_than_64_bits_are_an_overflow_error(self, priority: int) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1, key="k")
        for call in (
            lambda: queue.put(2, priority=priority),
            lambda: queue.update("k", priority),
            lambda: queue.put_many([2], priority=lambda _: priority),
        ):
            with pytest.raises(OverflowError, match=f"has {priority.bit_length()} bits"):
                call()
        assert queue.get_many() == [1]

    def test_keys_must_be_hashable(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1, key="k")
        key: Any = []
        for call in (
            lambda: queue.put(2, key=key),
            lambda: queue.put_many([2, 3], key=lambda item: key),
            lambda: queue.remove(key),
            lambda: queue.update(key, 1),
        ):
            with pytest.raises(TypeError, match="unhashable"):
                call()
        assert queue.get_many() == [1]

    def test_none_is_no_key(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put_many([1, 2], key=lambda item: None)
        assert len(queue) == 2
        with pytest.raises(NotRegisteredError, match="nothing is queued with key None"):
            queue.remove(None)

    def test_arguments_that_make_no_sense(self) -> None:
        with pytest.raises(ValueError, match="merge is 'newest'"):
            PriorityQueue(merge="newest")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="merge is 3"):
            PriorityQueue(merge=3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="overflow is 'drop'"):
            PriorityQueue(overflow="drop")  # type: ignore[arg-type]
        queue: PriorityQueue[int] = PriorityQueue()
        with pytest.raises(ValueError, match="limit is 0"):
            queue.get_many(0)
        for timeout in (-1, float("nan")):
            with pytest.raises(ValueError, match="timeout is"):
                queue.put(1, timeout=timeout)

    def test_only_an_empty_queue_can_be_initialised_again(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1)
        with pytest.raises(RuntimeError, match="1 items"):
            queue.__init__(overflow="drop_lowest")  # type: ignore[misc]
        queue.get()
        queue.__init__(2, overflow="drop_lowest")  # type: ignore[misc]
        queue.put_many([3, 2, 1], priority=int)
        assert queue.get_many() == [1, 2]

    def test_time_outs_are_ignored_without_blocking(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        queue.put(1, False, -1)
        assert queue.get(False, -1) == 1

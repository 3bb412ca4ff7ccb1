"""EventBus: order, errors, listeners that change the bus, coroutines, and the queue in front."""

import asyncio
import gc
import itertools
import logging
import random
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from fastcomm import EventBus, EventBusStats, Full, InvalidSubjectError, ShutDown
from fastcomm.events import Subscription
from fastcomm.subjects import matches


class Log(list[Any]):
    """Listeners that note their name."""

    def note(self, name: object) -> Callable[[str, Any], None]:
        return lambda subject, data: self.append((name, subject, data))

    def names(self) -> list[Any]:
        return [name for name, *_ in self]


def raising(subject: str, data: Any) -> None:
    raise RuntimeError(f"{subject} {data}")


class TestEmit:
    def test_returns_how_many_it_reached(self) -> None:
        bus, log = EventBus(), Log()
        bus.on("tasks.>", log.note("all"))
        bus.on("tasks.*.done", log.note("done"))
        bus.on("other", log.note("other"))
        assert bus.emit("tasks.a.done", 1) == 2
        assert bus.emit("nobody", 2) == 0
        assert log == [("all", "tasks.a.done", 1), ("done", "tasks.a.done", 1)]
        assert bus.emit_many([("other", 3), ("tasks.b", 4)]) == 2

    def test_on_is_a_decorator_too(self) -> None:
        bus, seen = EventBus(), []

        @bus.on("a", priority=3)
        def listen(subject: str, data: int) -> None:
            seen.append(data)

        listen("called", 1)
        bus.emit("a", 2)
        assert seen == [1, 2]

    def test_lower_priority_first_then_first_come(self) -> None:
        bus, log = EventBus(), Log()
        for name, priority in (("a", 0), ("b", 5), ("c", -1), ("d", 0), ("e", -1), ("f", 2**70)):
            bus.on("x.*", log.note(name), priority=priority)
        bus.emit("x.y", None)
        assert log.names() == ["c", "e", "a", "d", "b", "f"]

    def test_a_priority_that_compares_as_it_likes_counts_as_its_number(self) -> None:
        class Odd(int):
            def __lt__(self, other: int) -> bool:
                raise RuntimeError

        bus, log = EventBus(), Log()
        for name, priority in (("b", Odd(2)), ("a", Odd(1)), ("c", Odd(3))):
            bus.on("x", log.note(name), priority=priority)
        assert bus.emit("x", None) == 3
        assert log.names() == ["a", "b", "c"]

    def test_a_long_random_life_is_that_of_a_list(self) -> None:
        rng = random.Random(1)
        bus, log = EventBus(), Log()
        stored: list[tuple[int, int, str, Subscription]] = []
        patterns = ["a", "b", "a.b", "a.*", "*.b", ">", "a.>"]
        for number in itertools.islice(itertools.count(), 5000):
            roll = rng.random()
            if roll < 0.2:
                pattern, priority = rng.choice(patterns), rng.choice((0, 0, 1, -1))
                added = bus.on(pattern, log.note(number), priority=priority)
                stored.append((priority, number, pattern, added))
            elif roll < 0.4 and stored:
                stored.pop(rng.randrange(len(stored)))[3].unsubscribe()
            else:
                subject = rng.choice(("a", "b", "a.b", "a.c", "c.b"))
                log.clear()
                expected = [
                    entry[1] for entry in sorted(stored, key=lambda e: e[:2]) if matches(entry[2], subject)
                ]
                assert bus.emit(subject, None) == len(expected)
                assert log.names() == expected

    def test_where_transform_and_once(self) -> None:
        bus, log = EventBus(), Log()
        bus.on("n", log.note("even"), where=lambda data: data % 2 == 0)
        bus.on("n", log.note("tenfold"), transform=lambda data: data * 10)
        bus.on("n", log.note("first even"), where=lambda data: data % 2 == 0, once=True)
        assert [bus.emit("n", number) for number in (1, 2, 4)] == [1, 3, 2]
        assert [(name, data) for name, _, data in log] == [
            ("tenfold", 10),
            ("even", 2),
            ("tenfold", 20),
            ("first even", 2),
            ("even", 4),
            ("tenfold", 40),
        ]
        assert bus.stats().subscriptions == 2

    def test_invalid_arguments_say_so(self) -> None:
        bus = EventBus()
        wrong: Any = "x"
        with pytest.raises(InvalidSubjectError):
            bus.on("a..b", print)
        with pytest.raises(InvalidSubjectError):
            bus.emit("a.*", 1)
        with pytest.raises(TypeError, match="'x' can't be called"):
            bus.on("a", wrong)
        with pytest.raises(TypeError, match="'x' can't be called"):
            bus.on("a", print, where=wrong)
        with pytest.raises(TypeError, match="a priority is an int"):
            bus.on("a", print, priority=wrong)
        assert bus.stats().subscriptions == 0
        with pytest.raises(ValueError, match="queued=True"):
            EventBus(maxsize=3)
        for call in (bus.dispatch, bus.run, bus.close):
            with pytest.raises(ValueError, match="has no queue"):
                call()


class TestSubscriptions:
    def test_unsubscribing_twice_is_harmless(self) -> None:
        bus, log = EventBus(), Log()
        subscription = bus.on("a", log.note("a"))
        assert (subscription.pattern, subscription.priority) == ("a", 0)
        subscription.unsubscribe()
        subscription.unsubscribe()
        assert bus.emit("a", 1) == 0
        assert "ended" in repr(subscription)

    def test_with_ends_it(self) -> None:
        bus = EventBus()
        with bus.on("a", print.__class__) as subscription:
            assert bus.stats().subscriptions == 1
        assert bus.stats().subscriptions == 0
        assert subscription.calls == 0

    def test_one_function_may_listen_twice(self) -> None:
        bus, log = EventBus(), Log()
        listener = log.note("x")
        first, second = bus.on("a", listener), bus.on("a", listener)
        assert bus.emit("a", 1) == 2
        second.unsubscribe()
        assert bus.emit("a", 1) == 1
        assert (first.calls, second.calls) == (2, 1)

    @pytest.mark.parametrize("way", ["unsubscribe", "once"])
    def test_what_has_ended_is_let_go(self, way: str) -> None:
        class Listener:
            def __call__(self, subject: str, data: Any) -> None:
                pass

        bus, listener = EventBus(), Listener()
        bus.on("a", lambda *_: None, priority=1)
        subscription = bus.on("*", listener, priority=-1, once=way == "once")
        assert bus.emit("a", 1) == 2
        subscription.unsubscribe()
        dead = weakref.ref(listener)
        del listener, subscription
        assert dead() is None

    def test_a_bus_and_its_listeners_are_collected(self) -> None:
        class Holder:
            def __init__(self) -> None:
                self.bus = EventBus(queued=True)
                self.bus.on("a", self.listen)
                self.bus.emit("a", self)

            def listen(self, subject: str, data: Any) -> None:
                pass

        dead = weakref.ref(Holder())
        gc.collect()
        assert dead() is None


class TestListenersThatChangeTheBus:
    def test_one_that_is_unsubscribed_is_not_called_any_more(self) -> None:
        bus, log = EventBus(), Log()
        bus.on("a", lambda subject, data: later.unsubscribe())
        later = bus.on("a", log.note("later"))
        assert bus.emit("a", 1) == 1
        assert log == []

    def test_one_that_is_added_hears_the_next_event(self) -> None:
        bus, log = EventBus(), Log()
        bus.on("a", lambda subject, data: bus.on("a", log.note(data)), once=True)
        bus.emit("a", 1)
        assert log == []
        bus.emit("a", 2)
        assert log == [(1, "a", 2)]

    def test_emitting_inside_a_listener_comes_before_the_rest(self) -> None:
        bus, log = EventBus(), Log()
        bus.on("a", lambda subject, data: bus.emit("b", data + 1))
        bus.on("a", log.note("a"))
        bus.on("b", log.note("b"))
        bus.emit("a", 1)
        assert log == [("b", "b", 2), ("a", "a", 1)]

    def test_once_is_once_even_if_it_emits_itself(self) -> None:
        bus, log = EventBus(), Log()

        def again(subject: str, data: int) -> None:
            log.append(data)
            bus.emit("a", data + 1)

        bus.on("a", again, once=True)
        bus.emit("a", 1)
        assert log == [1]


class TestErrors:
    def test_an_error_harms_no_other_listener(self, caplog: pytest.LogCaptureFixture) -> None:
        bus, log = EventBus(), Log()
        bad = bus.on("a", raising)
        bus.on("a", log.note("good"))
        with caplog.at_level(logging.ERROR):
            assert bus.emit("a", 1) == 1
        assert log.names() == ["good"]
        assert (bad.errors, bad.calls, bus.stats().errors, bus.stats().delivered) == (1, 0, 1, 1)
        (record,) = caplog.records
        assert record.name == "fastcomm.events"
        assert record.exc_info is not None
        assert str(record.exc_info[1]) == "a 1"

    @pytest.mark.parametrize("where_or_transform", ["where", "transform"])
    def test_a_filter_that_raises_is_an_error_of_its_listener(self, where_or_transform: str) -> None:
        told: list[Any] = []
        bus = EventBus(on_error=lambda *arguments: told.append(arguments))
        options: dict[str, Any] = {where_or_transform: lambda data: 1 // 0}
        bad = bus.on("a", lambda *_: None, **options)
        assert bus.emit("a", 7) == 0
        ((error, subscription, subject, data),) = told
        assert isinstance(error, ZeroDivisionError)
        assert (subscription, subject, data) == (bad, "a", 7)

    def test_a_handler_that_raises_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        def on_error(*_: object) -> None:
            raise LookupError("handler")

        bus = EventBus(on_error=on_error)
        bus.on("a", raising)
        bus.on("a", lambda *_: None)
        assert bus.emit("a", 1) == 1
        assert "LookupError" in caplog.text

    def test_keyboard_interrupt_goes_through(self) -> None:
        bus = EventBus()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        bus.on("a", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bus.emit("a", 1)


class TestCoroutines:
    def test_emit_async_awaits_one_after_the_other(self) -> None:
        bus, log = EventBus(), Log()

        async def slow(subject: str, data: int) -> None:
            await asyncio.sleep(0.01)
            log.append(("slow", data))

        async def failing(subject: str, data: int) -> None:
            await asyncio.sleep(0)
            raise RuntimeError

        told: list[Any] = []
        bus = EventBus(on_error=lambda *arguments: told.append(arguments))
        bus.on("a", slow, priority=-1)
        bus.on("a", failing)
        bus.on("a", lambda subject, data: log.append(("plain", data)))
        assert asyncio.run(bus.emit_async("a", 1)) == 2
        assert log == [("slow", 1), ("plain", 1)]
        assert len(told) == 1

    def test_cancelling_emit_async_cancels_the_listener(self) -> None:
        bus, log = EventBus(), []

        async def wait(subject: str, data: int) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        async def main() -> None:
            task = asyncio.ensure_future(bus.emit_async("a", 1))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        bus.on("a", wait)
        asyncio.run(main())
        assert log == ["cancelled"]
        assert bus.stats().errors == 0

    def test_emit_counts_a_coroutine_function_as_an_error(self) -> None:
        told: list[Any] = []
        bus = EventBus(on_error=lambda *arguments: told.append(arguments))

        async def listen(subject: str, data: int) -> None: ...

        bus.on("a", listen)
        assert bus.emit("a", 1) == 0  # and no warning that it was never awaited
        assert "emit_async" in str(told[0][0])

    def test_emit_ignores_other_values(self) -> None:
        bus = EventBus()
        bus.on("a", lambda subject, data: data)
        assert bus.emit("a", "value") == 1


class TestQueue:
    def test_events_wait_for_dispatch_in_order_of_priority(self) -> None:
        bus, log = EventBus(queued=True), Log()
        bus.on(">", log.note("x"))
        for data, priority in ((1, 5), (2, 0), (3, 5), (4, -1)):
            assert bus.emit("a", data, priority=priority) == 0
        assert log == []
        assert bus.dispatch(3) == 3
        assert [data for *_, data in log] == [4, 2, 1]
        assert bus.stats().queued == 1
        assert (bus.dispatch(), bus.dispatch()) == (1, 0)

    def test_a_newer_event_replaces_that_of_its_subject_and_key(self) -> None:
        bus, log = EventBus(queued=True), Log()
        bus.on(">", log.note("x"))
        for subject, data, key in (
            ("a", 1, "k"),
            ("b", 2, "k"),
            ("a", 3, "k"),
            ("a", 4, None),
            ("a", 5, None),
        ):
            bus.emit(subject, data, key=key)
        assert bus.stats().coalesced == 1
        bus.dispatch()
        assert [data for *_, data in log] == [3, 2, 4, 5]

    def test_the_bound_and_its_policies(self) -> None:
        bus = EventBus(queued=True, maxsize=2, overflow="error")
        assert bus.emit_many([("a", 1), ("a", 2)]) == 0
        with pytest.raises(Full):
            bus.emit("a", 3)
        dropping, log = EventBus(queued=True, maxsize=2, overflow="drop_lowest"), Log()
        dropping.on("a", log.note("x"))
        for data in (3, 2, 1):
            dropping.emit("a", data, priority=data)
        dropping.dispatch()
        assert [data for *_, data in log] == [1, 2]
        assert dropping.stats().dropped == 1

    def test_emit_many_says_how_far_it_came(self) -> None:
        bus = EventBus(queued=True, maxsize=2, overflow="error")
        with pytest.raises(Full, match="2 of 5 events were emitted; no room") as caught:
            bus.emit_many(("a", number) for number in range(5))
        assert (caught.value.delivered, caught.value.missing) == (2, 3)
        assert bus.stats().queued == 2

    def test_an_invalid_subject_is_noticed_at_once(self) -> None:
        bus = EventBus(queued=True)
        with pytest.raises(InvalidSubjectError):
            bus.emit("a.*", 1)
        assert bus.dispatch() == 0

    def test_a_thread_runs_it_until_it_is_closed_and_empty(self) -> None:
        bus, log = EventBus(queued=True, maxsize=3), Log()
        bus.on("a", log.note("x"))
        thread = threading.Thread(target=bus.run)
        thread.start()
        for number in range(1000):
            bus.emit("a", number)
        bus.close()
        thread.join()
        assert [data for *_, data in log] == list(range(1000))
        with pytest.raises(ShutDown):
            bus.emit("a", 1)
        with pytest.raises(ShutDown):
            bus.dispatch()

    def test_an_interrupted_dispatch_keeps_the_rest(self) -> None:
        bus, log = EventBus(queued=True), Log()

        def interrupt(subject: str, data: int) -> None:
            if data == 1:
                raise KeyboardInterrupt

        bus.on("a", interrupt)
        bus.on("a", log.note("x"))
        bus.emit_many([("a", 1), ("a", 2)])
        with pytest.raises(KeyboardInterrupt):
            bus.dispatch()
        assert bus.dispatch() == 1
        assert log == [("x", "a", 2)]

    def test_dispatch_wants_a_limit_above_nothing(self) -> None:
        with pytest.raises(ValueError, match="limit is 0"):
            EventBus(queued=True).dispatch(0)
        with pytest.raises(ValueError, match="limit is 0"):
            asyncio.run(EventBus(queued=True).dispatch_async(0))


class TestQueueInAnEventLoop:
    def test_what_listeners_return_is_awaited_event_by_event(self) -> None:
        bus, log = EventBus(queued=True), []

        async def listen(subject: str, data: int) -> None:
            log.append(("begun", data))
            await asyncio.sleep(0)
            log.append(("done", data))

        async def main() -> None:
            bus.emit_many([("a", 1), ("a", 2), ("a", 3)])
            assert await bus.dispatch_async(2) == 2
            assert (await bus.dispatch_async(), await bus.dispatch_async(timeout=0.001)) == (1, 0)

        bus.on("a", listen)
        asyncio.run(main())
        assert log == [(what, data) for data in (1, 2, 3) for what in ("begun", "done")]

    def test_a_task_runs_it_until_it_is_closed_and_empty(self) -> None:
        bus, log = EventBus(queued=True, maxsize=3), Log()

        def emit_from_another_thread() -> None:
            for number in range(500):
                bus.emit("a", number)
            bus.close()

        async def main() -> None:
            thread = threading.Thread(target=emit_from_another_thread)
            thread.start()
            await bus.run_async()
            thread.join()
            with pytest.raises(ShutDown):
                await bus.dispatch_async()

        bus.on("a", log.note("x"))
        asyncio.run(main())
        assert [data for *_, data in log] == list(range(500))

    def test_a_cancelled_dispatch_leaves_what_it_had_not_begun(self) -> None:
        bus, log = EventBus(queued=True), []

        async def listen(subject: str, data: int) -> None:
            log.append(data)
            if data == 2:
                await asyncio.sleep(60)

        async def main() -> None:
            bus.emit_many([("a", 1), ("a", 2), ("a", 3)])
            task = asyncio.ensure_future(bus.dispatch_async())
            while len(log) < 2:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert bus.stats().queued == 1
            assert await bus.dispatch_async() == 1

        bus.on("a", listen)
        asyncio.run(main())
        assert log == [1, 2, 3]


def test_threads_may_emit_while_others_subscribe() -> None:
    bus, told = EventBus(on_error=lambda *arguments: told.append(arguments)), []
    seen: list[int] = []
    bus.on("a.*", lambda subject, data: seen.append(data), priority=1)
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            with bus.on("a.b", lambda *_: None), bus.on(">", lambda *_: None, priority=2, once=True):
                pass

    def emit(first: int) -> None:
        for number in range(first, first + 2000):
            assert bus.emit("a.b", number) >= 1

    visitors = [threading.Thread(target=come_and_go) for _ in range(2)]
    emitters = [threading.Thread(target=emit, args=(first,)) for first in (0, 2000)]
    for thread in visitors + emitters:
        thread.start()
    for thread in emitters:
        thread.join()
    ended.set()
    for thread in visitors:
        thread.join()
    assert sorted(seen) == list(range(4000))
    assert told == []
    assert bus.stats().emitted == 4000
    assert bus.stats().subscriptions == 1


def test_stats_count_all_of_it() -> None:
    bus = EventBus(queued=True, on_error=lambda *_: None)
    bus.on("a", lambda *_: None)
    bus.on("*", raising)
    bus.emit("a", 1, key="k")
    bus.emit("a", 2, key="k")
    bus.dispatch()
    bus.emit("b", 3)
    assert bus.stats() == EventBusStats(
        subscriptions=2, emitted=1, delivered=1, errors=1, queued=1, coalesced=1, dropped=0
    )

"""PriorityQueue in event loops: waits, time-outs, cancelled calls, several loops and threads at once."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from fastcomm import Empty, Full, PriorityQueue, ShutDown


def waiting(queue: PriorityQueue[Any]) -> int:
    """Coroutines in the lists of the queue."""
    return len(queue._item_waiters) + len(queue._room_waiters) + len(queue._done_waiters)


async def until_waiting(queue: PriorityQueue[Any], count: int) -> None:
    while waiting(queue) != count:
        await asyncio.sleep(0)


async def begin(queue: PriorityQueue[Any], *calls: Awaitable[Any]) -> list[asyncio.Future[Any]]:
    """Tasks that wait on the queue, one after the other."""
    tasks = []
    for count, call in enumerate(calls, 1 + waiting(queue)):
        tasks.append(asyncio.ensure_future(call))
        await until_waiting(queue, count)
    return tasks


def in_another_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


class TestWaits:
    @pytest.mark.parametrize("elsewhere", [False, True])
    def test_get_waits_for_an_item(self, elsewhere: bool) -> None:
        async def main() -> None:
            (task,) = await begin(queue, queue.get_async())
            in_another_thread(lambda: queue.put(1)) if elsewhere else queue.put(1)
            assert await task == 1

        queue: PriorityQueue[int] = PriorityQueue()
        asyncio.run(main())
        assert waiting(queue) == 0

    @pytest.mark.parametrize("way", ["get", "get elsewhere", "remove", "clear", "maxsize"])
    def test_put_waits_for_room(self, way: str) -> None:
        ways: dict[str, Callable[[], object]] = {
            "get": lambda: queue.get(),
            "get elsewhere": lambda: in_another_thread(queue.get),
            "remove": lambda: queue.remove("k"),
            "clear": lambda: queue.clear(),
            "maxsize": lambda: setattr(queue, "maxsize", 2),
        }

        async def main() -> None:
            (task,) = await begin(queue, queue.put_async(2, priority=-1))
            ways[way]()
            await task
            assert queue.peek() == 2

        queue: PriorityQueue[int] = PriorityQueue(1)
        queue.put(1, key="k")
        asyncio.run(main())
        assert waiting(queue) == 0

    def test_what_is_there_needs_no_wait(self) -> None:
        async def main() -> list[int]:
            await queue.put_async(1, priority=2)
            assert await queue.put_many_async([2, 3], priority=lambda item: -item) == 2
            return [await queue.get_async(), *await queue.get_many_async()]

        queue: PriorityQueue[int] = PriorityQueue()
        assert asyncio.run(main()) == [3, 2, 1]

    def test_join_waits_for_the_last_task(self) -> None:
        async def main() -> None:
            await queue.join_async()
            queue.put_many([1, 2])
            (task,) = await begin(queue, queue.join_async())
            queue.get()
            queue.task_done()
            queue.get()
            await asyncio.sleep(0)
            assert not task.done()
            queue.task_done()
            await task

        queue: PriorityQueue[int] = PriorityQueue()
        asyncio.run(main())

    def test_clear_lets_all_that_wait_for_room_go(self) -> None:
        async def main() -> None:
            tasks = await begin(queue, *(queue.put_async(number) for number in range(5)))
            queue.maxsize = 3
            queue.clear()
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            queue.maxsize = 0
            await asyncio.gather(*tasks)
            assert sorted(queue.get_many()) == [0, 1, 2, 3, 4]

        queue: PriorityQueue[int] = PriorityQueue(1)
        queue.put(9)
        asyncio.run(main())

    def test_shutdown_ends_all_waits(self) -> None:
        async def main() -> None:
            tasks = await begin(empty, empty.get_async(), empty.get_many_async())
            empty.shutdown()
            for task in tasks:
                with pytest.raises(ShutDown):
                    await task
            tasks = await begin(full, full.put_async(2), full.put_many_async([3, 4]), full.join_async())
            full.shutdown(immediate=True)
            for task in tasks[:2]:
                with pytest.raises(ShutDown):
                    await task
            await tasks[2]

        empty: PriorityQueue[int] = PriorityQueue()
        full: PriorityQueue[int] = PriorityQueue(1)
        full.put(1)
        asyncio.run(main())


class TestTimeOuts:
    @pytest.mark.parametrize("timeout", [0, 0.01])
    def test_they_end_waits_with_what_the_other_calls_raise(self, timeout: float) -> None:
        async def main() -> None:
            with pytest.raises(Empty, match="still empty"):
                await queue.get_async(timeout)
            with pytest.raises(Empty):
                await queue.get_many_async(10, timeout)
            queue.put(1)
            with pytest.raises(Full, match="no room in time: the queue has 1 items of at most 1"):
                await queue.put_async(2, timeout)
            with pytest.raises(Full, match="0 of 2 items were put") as caught:
                await queue.put_many_async([3, 4], timeout)
            assert (caught.value.delivered, caught.value.missing) == (0, 2)

        queue: PriorityQueue[int] = PriorityQueue(1)
        asyncio.run(main())
        assert waiting(queue) == 0
        assert queue.get_many() == [1]

    def test_put_many_says_how_far_it_came(self) -> None:
        async def main() -> None:
            with pytest.raises(Full, match="2 of 5 items were put") as caught:
                await queue.put_many_async(range(5), 0.01)
            assert (caught.value.delivered, caught.value.missing) == (2, 3)

        queue: PriorityQueue[int] = PriorityQueue(2)
        asyncio.run(main())
        assert queue.get_many() == [0, 1]

    def test_overflow_error_waits_for_nothing(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue(1, overflow="error")
        queue.put(1)
        with pytest.raises(Full):
            asyncio.run(queue.put_async(2))  # the watchdog ends this test if it waits

    def test_invalid_arguments_put_nothing(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        calls: list[tuple[type[Exception], Callable[[], Any]]] = [
            (TypeError, lambda: queue.put_async(1, priority=1.5)),  # type: ignore[arg-type]
            (OverflowError, lambda: queue.put_many_async([1, 2**70], priority=int)),
            (ValueError, lambda: queue.put_many_async([1], -1)),
            (ValueError, lambda: queue.get_async(float("nan"))),
            (ValueError, lambda: queue.get_many_async(0)),
        ]
        for error, call in calls:
            with pytest.raises(error):
                asyncio.run(call())
        assert len(queue) == 0


class TestCancelling:
    def test_a_cancelled_call_has_taken_and_put_nothing(self) -> None:
        async def main() -> None:
            (getting,) = await begin(queue, queue.get_async())
            getting.cancel()
            with suppress(asyncio.CancelledError):
                await getting
            queue.put(1)
            (putting,) = await begin(queue, queue.put_async(2))
            putting.cancel()
            with suppress(asyncio.CancelledError):
                await putting

        queue: PriorityQueue[int] = PriorityQueue(1)
        asyncio.run(main())
        assert waiting(queue) == 0
        assert queue.get_many() == [1]

    @pytest.mark.parametrize("full", [False, True])
    def test_one_that_is_cancelled_after_it_was_woken_wakes_the_next(self, full: bool) -> None:
        async def main() -> None:
            call = (lambda: queue.put_async(2)) if full else queue.get_async
            first, second = await begin(queue, call(), call())
            queue.get() if full else queue.put(1)  # that wakes the first, which is not to run any more
            first.cancel()
            await second
            assert first.cancelled()

        queue: PriorityQueue[int] = PriorityQueue(1)
        if full:
            queue.put(1)
        asyncio.run(main())
        assert len(queue) == full

    def test_a_put_that_coalesced_leaves_the_room_to_the_next(self) -> None:
        async def main() -> None:
            first, second = await begin(queue, queue.put_async("new", key="k"), queue.put_async("other"))
            queue.get()  # wakes the first
            queue.put("old", key="k")  # now that needs no room
            queue.maxsize = 2
            await asyncio.gather(first, second)
            assert queue.get_many() == ["new", "other"]

        queue: PriorityQueue[str] = PriorityQueue(1)
        queue.put("filler")
        asyncio.run(main())

    def test_nothing_is_lost_or_doubled_by_tasks_cancelled_at_random(self) -> None:
        rng = random.Random(1)
        taken: list[int] = []
        put: list[int] = []

        async def consume() -> None:
            while True:
                taken.extend(
                    [await queue.get_async()] if rng.random() < 0.5 else await queue.get_many_async(3)
                )

        async def produce(first: int) -> None:
            for number in range(first, first + 10):
                await queue.put_async(number, priority=rng.randrange(4))
                put.append(number)

        async def main() -> None:
            consumers: set[asyncio.Future[None]] = set()
            producers = [asyncio.ensure_future(produce(10 * n)) for n in range(300)]
            while not all(task.done() for task in producers):
                consumers.add(asyncio.ensure_future(consume()))
                for tasks in (producers, list(consumers)):
                    rng.choice(tasks).cancel()
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            for task in consumers:
                task.cancel()
            await asyncio.gather(*producers, *consumers, return_exceptions=True)

        queue: PriorityQueue[int] = PriorityQueue(3)
        asyncio.run(main())
        assert waiting(queue) == 0
        taken.extend(queue.get_many() if len(queue) else [])
        assert sorted(taken) == sorted(put)
        assert len(put) == len(set(put)) > 500


class TestSignals:
    def test_control_c_while_a_coroutine_is_woken_is_raised_after_that(self) -> None:
        calls: list[int] = []

        def waiter() -> bool:
            calls.append(len(queue))
            if len(calls) == 1:
                raise KeyboardInterrupt
            return True

        def put_and_go_on() -> None:
            queue.put_many([1, 2])
            for _ in range(1000):
                pass

        queue: PriorityQueue[int] = PriorityQueue()
        queue._item_waiters.append(waiter)
        with pytest.raises(KeyboardInterrupt):
            put_and_go_on()
        assert calls == [1, 1]
        assert queue.get_many() == [1, 2]


class TestManyLoops:
    def test_the_waiter_of_a_closed_loop_is_passed_over(self) -> None:
        queue: PriorityQueue[int] = PriorityQueue()
        loop = asyncio.new_event_loop()
        abandoned = loop.create_task(queue.get_async())
        loop.run_until_complete(until_waiting(queue, 1))
        loop.close()

        async def main() -> None:
            (task,) = await begin(queue, queue.get_async())
            queue.put(1)
            assert await task == 1

        asyncio.run(main())
        abandoned._log_destroy_pending = False  # type: ignore[attr-defined]
        abandoned.get_coro().close()  # type: ignore[union-attr]

    @pytest.mark.parametrize("maxsize", [0, 2])
    def test_loops_and_threads_share_a_queue_and_lose_nothing(self, maxsize: int) -> None:
        taken: list[list[tuple[int, int]]] = [[] for _ in range(4)]
        queue: PriorityQueue[tuple[int, int]] = PriorityQueue(maxsize)

        async def produce_async(me: int) -> None:
            for number in range(400):
                await queue.put_async((me, number), priority=number % 3)

        async def consume_async(mine: list[tuple[int, int]]) -> None:
            with suppress(ShutDown):
                while True:
                    mine.append(await queue.get_async())
                    queue.task_done()

        def produce(me: int) -> None:
            for number in range(400):
                queue.put((me, number), priority=number % 3)

        def consume(mine: list[tuple[int, int]]) -> None:
            with suppress(ShutDown):
                while True:
                    mine.append(queue.get())
                    queue.task_done()

        async def several(*calls: Awaitable[None]) -> None:
            await asyncio.gather(*calls)

        producers = [
            threading.Thread(target=lambda: asyncio.run(several(produce_async(0), produce_async(1)))),
            threading.Thread(target=produce, args=(2,)),
            threading.Thread(target=lambda: asyncio.run(produce_async(3))),
        ]
        consumers = [
            threading.Thread(target=lambda: asyncio.run(several(*map(consume_async, taken[:2])))),
            threading.Thread(target=consume, args=(taken[2],)),
            threading.Thread(target=lambda: asyncio.run(consume_async(taken[3]))),
        ]
        for thread in producers + consumers:
            thread.start()
        for thread in producers:
            thread.join()
        asyncio.run(queue.join_async())
        queue.shutdown()
        for thread in consumers:
            thread.join()
        everything = sorted(entry for mine in taken for entry in mine)
        assert everything == [(me, number) for me in range(4) for number in range(400)]
        assert waiting(queue) == 0

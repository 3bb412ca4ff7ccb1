"""How long an event takes from EventBus.emit() to its listener, event by event: percentiles, not a mean."""

import contextlib
import time
from collections.abc import Callable

from benchlib.contest import Contender, Contenders, Contest, Role, Setting
from benchlib.method import Figures, calibrate, percentiles
from fastcomm import EventBus

SUBJECT = "tasks.render.done"
PERCENTS = (50, 95, 99)
NS_TO_US = 1e-3

Listener = Callable[[str, int], None]
Emit = Callable[[str, int], object]


def through_event_bus(listener: Listener) -> Emit:
    bus = EventBus()
    bus.on("tasks.*.done", listener)
    return bus.emit


def by_plain_call(listener: Listener) -> Emit:
    return listener


def contenders(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    return [
        stamped_events("fastcomm EventBus", through_event_bus, "ours", setting),
        stamped_events("plain call", by_plain_call, "limit", setting),
    ]


def stamped_events(name: str, connect: Callable[[Listener], Emit], role: Role, setting: Setting) -> Contender:
    """An event is the time at which it is emitted; the listener reads the clock again."""
    clock, ages = time.perf_counter_ns, list[int]()
    emit = connect(lambda subject, emitted: ages.append(clock() - emitted))

    def block(count: int) -> Figures:
        ages.clear()
        for _ in range(count):
            emit(SUBJECT, clock())
        return percentiles(ages, PERCENTS, NS_TO_US)

    count = calibrate(block, 1000, setting.block_seconds)
    return Contender(name, "", lambda: block(count), role)


CONTESTS = [Contest("event delivery", "from emit to the listener", "us", None, contenders)]

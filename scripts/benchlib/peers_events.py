"""EventBus beside other ways to call listeners in one process: an event to 1 and to 10 listeners.

"bare loop" is what can't be undercut in Python: a loop over a list of the functions, without subjects,
priorities or care about errors. The peers are those of the extra `peers` that are installed. None of them has
wildcards; where one has no subjects at all (psygnal, dust-riven, blinker), the subject is an argument.
"""

import contextlib
import functools
import time
from collections.abc import Callable

from benchlib.contest import Contender, Contenders, Contest, Role, Setting, Skipped
from benchlib.method import Figures, calibrate
from fastcomm import EventBus

SUBJECT = "tasks.render.done"
Emit = Callable[[str, int], object]


def listen(subject: str, data: int) -> None:
    pass


def bare_loop(listeners: int) -> Emit:
    functions = [listen] * listeners

    def emit(subject: str, data: int) -> None:
        for function in functions:
            function(subject, data)

    return emit


def ours(listeners: int) -> Emit:
    bus = EventBus()
    for _ in range(listeners):
        bus.on("tasks.*.done", listen)
    return bus.emit


def dust_riven(listeners: int) -> Emit:
    import dust_riven

    signal = dust_riven.Signal()
    for _ in range(listeners):
        signal.connect(lambda subject, data: None)
    emit: Emit = signal.emit
    return emit


def pyee(listeners: int) -> Emit:
    from pyee import EventEmitter

    emitter = EventEmitter()
    for _ in range(listeners):
        emitter.add_listener(SUBJECT, lambda data: None)
    emit: Emit = emitter.emit
    return emit


def blinker(listeners: int) -> Emit:
    from blinker import Signal

    signal = Signal()
    for _ in range(listeners):
        signal.connect(lambda sender, data: None, weak=False)
    return lambda subject, data: signal.send(subject, data=data)


def psygnal(listeners: int) -> Emit:
    from psygnal import SignalInstance

    signal = SignalInstance((str, int))
    for _ in range(listeners):
        signal.connect(lambda subject, data: None)
    emit: Emit = signal.emit
    return emit


def pypubsub(listeners: int) -> Emit:
    from pubsub.core import Publisher

    publisher = Publisher()
    functions = [lambda data: None for _ in range(listeners)]  # it keeps weak references
    for function in functions:
        publisher.subscribe(function, SUBJECT)
    send = publisher.sendMessage

    def emit(subject: str, data: int, kept: object = functions) -> None:
        send(subject, data=data)

    return emit


MAKERS: dict[str, tuple[Role, Callable[[int], Emit]]] = {
    "fastcomm": ("ours", ours),
    "bare loop": ("limit", bare_loop),
    "dust-riven": ("peer", dust_riven),
    "psygnal": ("peer", psygnal),
    "pyee": ("peer", pyee),
    "blinker": ("peer", blinker),
    "pypubsub": ("peer", pypubsub),
}


def block(emit: Emit, count: int) -> Figures:
    started = time.perf_counter_ns()
    for number in range(count):
        emit(SUBJECT, number)
    return {"": (time.perf_counter_ns() - started) / count}


def contenders(listeners: int, setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    found: list[Contender | Skipped] = []
    for name, (role, make) in MAKERS.items():
        try:
            emit = make(listeners)
        except ImportError as error:
            found.append(Skipped(name, f"{error}: pip install 'fastcomm[peers]'"))
            continue
        count = calibrate(functools.partial(block, emit), 1000, setting.block_seconds / 10)
        found.append(Contender(name, "", functools.partial(block, emit, count), role))
    return found


def contests() -> list[Contest]:
    return [
        Contest(
            f"dispatch to {listeners}",
            f"an event to {listeners} listener{'s' if listeners > 1 else ''}",
            "ns",
            None,
            functools.partial(contenders, listeners),
            rounds=(3, 25),
        )
        for listeners in (1, 10)
    ]

"""A request and its answer between two processes; two one-way messages; pyzmq's REQ and REP (ipc)."""

import contextlib
import itertools
import time
from collections.abc import Callable
from importlib import import_module

from benchlib.channels import CAPACITY, JOIN_SECONDS, BusChannel
from benchlib.contest import Contender, Contenders, Contest, Role, Setting, Skipped
from benchlib.latency import NS_TO_US, PAYLOAD, PERCENTS_SPINNING, ping_pong
from benchlib.method import Figures, calibrate, percentiles
from benchlib.peers_bus import ZmqChannel, zmq_socket
from benchlib.processes import Worker
from fastcomm import Bus
from fastcomm.testing import isolated_name

Ask = Callable[[bytes], object]
SECONDS = 60.0  # no call takes so long


class Calls:
    """Agents of a bus: request and respond."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.bus = Bus.open(isolated_name(), inbox_bytes=CAPACITY)
        stack.callback(self.bus.close)

    def asker(self) -> Ask:
        agent = self.bus.join()
        agent.wait_for_subscribers("bench.call", 1, timeout=JOIN_SECONDS)
        return lambda data: agent.request("bench.call", data, SECONDS).data

    def answerer(self) -> Callable[[], None]:
        agent = self.bus.join()
        agent.subscribe("bench.call")

        def answer() -> None:
            message = agent.receive()
            message.respond(message.data)

        return answer


class ZmqCalls(ZmqChannel):
    """REQ and REP."""

    def asker(self) -> Ask:
        socket = zmq_socket("REQ")
        socket.connect(self.address)

        def ask(data: bytes) -> object:
            socket.send(data)
            return socket.recv()

        return ask

    def answerer(self) -> Callable[[], None]:
        socket = zmq_socket("REP")
        socket.bind(self.address)
        return lambda: socket.send(socket.recv())


def answer_all(calls: Calls | ZmqCalls) -> Callable[[int], None]:
    answer = calls.answerer()

    def block(count: int) -> None:
        for _ in range(count):
            answer()

    return block


def contender(
    name: str, calls: Calls | ZmqCalls, role: Role, setting: Setting, stack: contextlib.ExitStack
) -> Contender:
    worker = stack.enter_context(Worker(setting.placement.cpu_of(0), answer_all, calls))
    ask = calls.asker()

    def exchange(count: int) -> Figures:
        worker.start(count)
        payload, clock = bytes(PAYLOAD), time.perf_counter_ns
        stamps = [clock()]
        for _ in range(count):
            ask(payload)
            stamps.append(clock())
        worker.result()
        trips = [later - earlier for earlier, later in itertools.pairwise(stamps)]
        return percentiles(trips, PERCENTS_SPINNING, NS_TO_US / 2)

    count = calibrate(exchange, 100, setting.block_seconds)
    return Contender(name, "spins" if role == "ours" else "sleeps", lambda: exchange(count), role)


def calling(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    found = [
        contender("fastcomm request", Calls(stack), "ours", setting, stack),
        ping_pong("fastcomm bus", BusChannel, setting, stack),
    ]
    try:
        import_module("zmq")
        return [*found, contender("pyzmq REQ", ZmqCalls(stack), "peer", setting, stack)]
    except ModuleNotFoundError as error:
        return [*found, Skipped("pyzmq REQ", f"{error}: pip install 'fastcomm[peers]'")]


def contests() -> list[Contest]:
    return [Contest("request and answer", "half a round trip", "us", PAYLOAD, calling, needs_two_cpus=True)]

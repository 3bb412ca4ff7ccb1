"""The benchmarks of rings, queues and the bus with other libraries in the same run, those that are installed.

- pyzmq: PUSH and PULL, XPUB and SUB, over ipc, without high-water marks, so that nothing is dropped.
- cloudtoid-interprocess: a queue in shared memory; a sender that finds it full yields and tries again.
- kickmsg: a topic or mailbox in shared memory. A sender that is too fast overwrites what a subscriber has not
  taken yet, and is not told; so it is measured where messages are due at times, and not at full speed.

Receivers wait in the blocking calls of their library; how long that looks before it sleeps is its affair.
"""

import contextlib
import datetime
import itertools
import select
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from benchlib import latency, load, throughput
from benchlib.channels import (
    CAPACITY,
    CHANNELS,
    JOIN_SECONDS,
    Channel,
    Receive,
    Send,
    consume,
    consume_stamped,
)
from benchlib.contest import Contender, Contenders, Contest, Role, Setting, Skipped
from benchlib.hot_operations import write_subscriptions
from benchlib.method import Figures, GaveUpError, calibrate
from benchlib.processes import Worker, WorkerError, context
from fastcomm import Bus
from fastcomm.testing import isolated_name

CLOUDTOID = "cloudtoid_interprocess"
AGENT_MESSAGES = 256  # that may wait for an agent
LOSES = "overwrites the oldest messages of a slower subscriber, and the sender is not told"
WAIT = datetime.timedelta(seconds=JOIN_SECONDS)
SHARED_MEMORY = Path("/dev/shm")

Make = Callable[[contextlib.ExitStack], Channel]


def retrying(attempt: Callable[[bytes], object]) -> Send:
    """Send when there is room: these libraries say that there is none, and can't wait for it."""

    def send(data: bytes) -> None:
        while attempt(data) is False:
            time.sleep(0)

    return send


# ---- channels


class ZmqChannel:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastcomm-bench-"))
        self.address = f"ipc://{folder}/socket"

    def sender(self) -> Send:
        socket = zmq_socket("PUSH")
        socket.connect(self.address)
        send: Send = socket.send
        return send

    def receiver(self) -> Receive:
        socket = zmq_socket("PULL")
        socket.bind(self.address)
        receive: Receive = socket.recv
        return receive


def zmq_socket(kind: str) -> Any:
    zmq = import_module("zmq")
    socket = zmq.Context.instance().socket(getattr(zmq, kind))
    socket.set_hwm(0)
    socket.linger = 0
    return socket


class CloudtoidChannel:
    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.name = isolated_name()
        self.folder = stack.enter_context(cloudtoid_folder())
        stack.callback((SHARED_MEMORY / f"sem.ct3ip.{self.name}").unlink, missing_ok=True)

    def sender(self) -> Send:
        return retrying(import_module(CLOUDTOID).Publisher(self.name, CAPACITY, self.folder).try_send)

    def receiver(self) -> Receive:
        receive: Receive = import_module(CLOUDTOID).Subscriber(self.name, CAPACITY, self.folder).receive
        return receive


def cloudtoid_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="fastcomm-bench-", dir=SHARED_MEMORY)


class KickmsgChannel:
    TOPIC = "data"

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.namespace = kickmsg_namespace(stack)

    def sender(self) -> Send:
        send: Send = self.node().advertise_or_join(self.TOPIC, kickmsg_config()).send
        return send

    def receiver(self) -> Receive:
        return partial(self.node().subscribe_or_create(self.TOPIC, kickmsg_config()).receive, WAIT)

    def node(self) -> Any:
        return import_module("kickmsg").Node(isolated_name("node"), self.namespace)


def kickmsg_namespace(stack: contextlib.ExitStack) -> str:
    """A prefix of file names of its own; the files go when the benchmark ends."""
    namespace = isolated_name("bench")
    stack.callback(lambda: [file.unlink() for file in SHARED_MEMORY.glob(f"{namespace}_*")])
    return namespace


def kickmsg_config() -> Any:
    config = import_module("kickmsg").Config()
    config.max_payload_size = throughput.PAYLOAD
    config.sub_ring_capacity = AGENT_MESSAGES
    config.pool_size = 2 * AGENT_MESSAGES  # a slot stays taken until its place in the ring is needed again
    config.max_subscribers = 1
    return config


PEERS: dict[str, Make] = {
    "pyzmq": ZmqChannel,
    "cloudtoid": CloudtoidChannel,
    "kickmsg": KickmsgChannel,
}
MODULES = {"pyzmq": "zmq", "cloudtoid": CLOUDTOID, "kickmsg": "kickmsg"}


# ---- our contests with these as additional contenders


class MakeContender(Protocol):
    def __call__(
        self, name: str, make: Make, setting: Setting, stack: contextlib.ExitStack, /
    ) -> Contender | Skipped: ...


def with_peers(contest: Contest, contender: MakeContender, *more: str) -> Contest:
    """The contest with a contender for each peer, and for each channel of CHANNELS named in `more`."""
    makes = {**PEERS, **{name: CHANNELS[name] for name in more}}

    def prepare(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
        return [
            *contest.prepare(setting, stack),
            *(if_installed(name, make, contender, setting, stack) for name, make in makes.items()),
        ]

    return replace(contest, prepare=prepare)


def if_installed(
    name: str, make: Make, contender: MakeContender, setting: Setting, stack: contextlib.ExitStack
) -> Contender | Skipped:
    try:
        import_module(MODULES.get(name, "multiprocessing"))
    except ImportError as error:
        return Skipped(name, f"{error}: pip install 'fastcomm[peers]'")
    return contender(name, make, setting, stack)


def one_to_one(name: str, make: Make, setting: Setting, stack: contextlib.ExitStack) -> Contender | Skipped:
    if name == "kickmsg":
        return Skipped(name, LOSES)
    return throughput.by_call(name, make(stack), 1, setting, stack)


def sleeping(name: str, make: Make, setting: Setting, stack: contextlib.ExitStack) -> Contender:
    return latency.stamped_sends(name, make(stack), consume_stamped, setting, stack)


def fan_out(subscribers: int) -> MakeContender:
    def contender(
        name: str, make: Make, setting: Setting, stack: contextlib.ExitStack
    ) -> Contender | Skipped:
        if name == "pyzmq":
            return zmq_fan_out(subscribers, setting, stack)
        if name == "kickmsg":
            return Skipped(name, LOSES)
        return throughput.channels_fan_out(name, make, subscribers, setting, stack)

    return contender


class ZmqSubscription(ZmqChannel):
    def receiver(self) -> Receive:
        socket = zmq_socket("SUB")
        socket.connect(self.address)
        socket.subscribe(b"")
        receive: Receive = socket.recv
        return receive


def zmq_fan_out(subscribers: int, setting: Setting, stack: contextlib.ExitStack) -> Contender:
    channel = ZmqSubscription(stack)
    socket = stack.enter_context(zmq_socket("XPUB"))
    socket.xpub_verbose = True  # it hears of each subscription, not of the first to a subject
    socket.bind(channel.address)
    workers = throughput.consumers(consume, [channel] * subscribers, setting, stack)
    for _ in range(subscribers):
        socket.recv()
    return throughput.sent_to_all("pyzmq PUB", socket.send, workers, setting)


# ---- a hundred agents


class ZmqEnd:
    """A PULL socket, and a PUSH socket for each other agent, connecting from the start."""

    def __init__(self, folder: str, index: int, agents: int) -> None:
        self.again = import_module("zmq").Again
        self.not_waiting = import_module("zmq").NOBLOCK
        self.socket = zmq_socket("PULL")
        self.socket.bind(f"ipc://{folder}/{index}")
        self.sockets = {other: zmq_socket("PUSH") for other in range(agents) if other != index}
        for other, socket in self.sockets.items():
            socket.connect(f"ipc://{folder}/{other}")

    def send(self, target: int, message: bytes) -> None:
        self.sockets[target].send(message)

    def poll(self) -> bytes | None:
        try:
            message: bytes = self.socket.recv(self.not_waiting)
        except self.again:
            return None
        return message

    def wait(self, seconds: float) -> bytes | None:
        """By its descriptor, which tells of changes only: its own poll() takes whole milliseconds."""
        until = time.monotonic() + seconds
        while (message := self.poll()) is None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            select.select((self.socket.fd,), (), (), left)
        return message


class CloudtoidEnd:
    """A queue of its own, and a publisher for each agent that it has sent to."""

    def __init__(self, where: tuple[str, str], index: int, agents: int) -> None:
        self.module = import_module(CLOUDTOID)
        self.where = where
        self.subscriber = self.module.Subscriber(self.name(index), load_capacity(), where[1])
        self.sends: dict[int, Send] = {}

    def name(self, index: int) -> str:
        return f"{self.where[0]}-{index}"

    def send(self, target: int, message: bytes) -> None:
        if target not in self.sends:
            publisher = self.module.Publisher(self.name(target), load_capacity(), self.where[1])
            self.sends[target] = retrying(publisher.try_send)
        self.sends[target](message)

    def poll(self) -> bytes | None:
        message: bytes | None = self.subscriber.try_receive()
        return message

    def wait(self, seconds: float) -> bytes | None:
        message: bytes | None = self.subscriber.receive(seconds)
        return message


def load_capacity() -> int:
    return AGENT_MESSAGES * throughput.PAYLOAD


class KickmsgEnd:
    """A mailbox, and the mailbox of each agent that it has sent to."""

    BOX = "in"

    def __init__(self, namespace: str, index: int, agents: int) -> None:
        self.node = import_module("kickmsg").Node(f"agent{index}", namespace)
        self.mailbox = self.node.create_mailbox(self.BOX, kickmsg_config())
        self.sends: dict[int, Send] = {}

    def send(self, target: int, message: bytes) -> None:
        if target not in self.sends:
            self.sends[target] = self.node.open_mailbox(f"agent{target}", self.BOX).send
        self.sends[target](message)

    def poll(self) -> bytes | None:
        message: bytes | None = self.mailbox.try_receive()
        return message

    def wait(self, seconds: float) -> bytes | None:
        message: bytes | None = self.mailbox.receive(datetime.timedelta(seconds=seconds))
        return message


class QueueEnd:
    """A multiprocessing.Queue for each agent."""

    def __init__(self, queues: list[Any], index: int, agents: int) -> None:
        self.queues = queues
        self.index = index

    def send(self, target: int, message: bytes) -> None:
        self.queues[target].put(message)

    def poll(self) -> bytes | None:
        return self.wait(0)

    def wait(self, seconds: float) -> bytes | None:
        try:
            message: bytes = self.queues[self.index].get(timeout=seconds)
        except Empty:
            return None
        return message


def cloudtoid_place(setting: Setting, stack: contextlib.ExitStack) -> tuple[str, str]:
    name = isolated_name()
    stack.callback(lambda: [file.unlink() for file in SHARED_MEMORY.glob(f"sem.ct3ip.{name}-*")])
    return name, stack.enter_context(cloudtoid_folder())


def zmq_place(setting: Setting, stack: contextlib.ExitStack) -> str:
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="fastcomm-bench-"))


def queues_place(setting: Setting, stack: contextlib.ExitStack) -> list[Any]:
    return [context.Queue() for _ in range(load.count_agents(setting))]


# how an agent joins, and what all of them are told of the place
CROWDS: dict[str, tuple[Callable[..., load.End], Callable[[Setting, contextlib.ExitStack], Any]]] = {
    "pyzmq": (ZmqEnd, zmq_place),
    "cloudtoid": (CloudtoidEnd, cloudtoid_place),
    "kickmsg": (KickmsgEnd, lambda setting, stack: kickmsg_namespace(stack)),
    "mp.Queue": (QueueEnd, queues_place),
}


def agents_at_rate(
    name: str, make: Make, setting: Setting, stack: contextlib.ExitStack
) -> Contender | Skipped:
    join, place = CROWDS[name]
    try:
        workers = load.crowd(join, place(setting, stack), setting, stack)
        return load.warmed_up(name, "sleeps", partial(keeping_up, workers, load.block_seconds(setting)))
    except (GaveUpError, WorkerError) as reason:
        return Skipped(name, str(reason))


def keeping_up(workers: list[Worker], seconds: float) -> Figures:
    try:
        return load.at_rate(workers, seconds)
    except (load.LostError, WorkerError) as reason:
        raise GaveUpError(str(reason)) from reason


# ---- what subscriptions that do not match cost a publisher


FEW, MANY = 10, 100_000
HOLDERS = 100  # agents that the subscriptions belong to
SUBJECTS = 8192  # published to in turn, beside the one: twice as many as a publisher remembers


def beside_subscriptions(setting: Setting, stack: contextlib.ExitStack) -> Contenders:
    counts: dict[int, Role] = {FEW: "limit", MANY: "ours"}
    return [publish_beside(count, role, setting, stack) for count, role in counts.items()]


def publish_beside(count: int, role: Role, setting: Setting, stack: contextlib.ExitStack) -> Contender:
    """An agent publishes what another of the same process receives, while others listen to other subjects."""
    bus = stack.enter_context(Bus.open(isolated_name(), max_subscriptions=count + 2))
    holders = [stack.enter_context(bus.join()) for _ in range(HOLDERS)]  # one that is collected leaves
    receiver, publisher = bus.join(), bus.join()
    receiver.subscribe("orders.>")
    write_subscriptions(bus, holders, count)
    subjects = {"one subject": ["orders.new"], "many subjects": [f"orders.{n}" for n in range(SUBJECTS)]}

    def block(turns: int) -> Figures:
        return {what: publish_in_turn(names, turns) for what, names in subjects.items()}

    def publish_in_turn(names: list[str], turns: int) -> float:
        publish, receive, payload = publisher.publish, receiver.receive, bytes(throughput.PAYLOAD)
        cycle = itertools.islice(itertools.cycle(names), turns)
        started = time.perf_counter_ns()
        for name in cycle:
            publish(name, payload)
            receive()
        return (time.perf_counter_ns() - started) / turns * 1e-3

    block(SUBJECTS)  # its publisher reads the table, which takes longer than a block does
    turns = calibrate(block, SUBJECTS, setting.block_seconds)
    return Contender(f"fastcomm bus, {count:,} subscriptions", "", lambda: block(turns), role)


def contests() -> list[Contest]:
    known = {one.name: one for one in (*throughput.CONTESTS, *latency.CONTESTS, *load.CONTESTS)}
    alone = replace(throughput.fan_out(1), name="bus 1:1 as a fan-out")
    fan_outs = {1: alone, **{count: throughput.fan_out(count) for count in (8, 100)}}
    return [
        with_peers(known["bus 1:1"], one_to_one),
        with_peers(known["ring and bus one way, spinning"], latency.ping_pong),
        with_peers(known["ring and bus one way, sleeping"], sleeping),
        *(with_peers(contest, fan_out(count), "mp.Queue") for count, contest in fan_outs.items()),
        with_peers(known["bus agents at rate"], agents_at_rate, "mp.Queue"),
        Contest(
            "bus publish beside subscriptions",
            "publish and receive in one thread; none of the other subscriptions matches",
            "us",
            throughput.PAYLOAD,
            beside_subscriptions,
        ),
    ]

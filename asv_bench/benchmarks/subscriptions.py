"""Subscriptions with handlers and other functions, and with a queue of their own, mirroring
fastcomm/subscription.py and _sorter.py.

By hand: ``b = Handlers(); b.setup(8)`` in IPython, then ``%timeit b.time_dispatch(8)``.
"""

import asyncio

from .bus import COUNT, PAYLOADS, OnABus


def handle(message):
    pass


async def handle_async(message):
    pass


class Handlers(OnABus):
    """COUNT messages of 64 bytes to one agent with `handlers` that match."""

    params = (1, 8)
    param_names = ("handlers",)

    def setup(self, handlers):
        super().setup()
        self.agent = self.bus.join("agent")
        for _ in range(handlers):
            self.agent.subscribe("orders.*", handle)

    def time_dispatch(self, handlers):
        self.publisher.publish_many("orders.new", [bytes(64)] * COUNT)
        self.agent.dispatch()

    def time_dispatch_one_by_one(self, handlers):
        publish, dispatch, payload = self.publisher.publish, self.agent.dispatch, bytes(64)
        for _ in range(COUNT):
            publish("orders.new", payload)
            dispatch()


class Coroutines(OnABus):
    """COUNT messages of 64 bytes that handlers are awaited for; the one after them is received."""

    def setup(self):
        super().setup()
        self.runner = asyncio.Runner()
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.new", handle_async)
        self.agent.subscribe("orders.end")

    def teardown(self):
        self.runner.close()
        super().teardown()

    def time_receive_async(self):
        self.publisher.publish_many("orders.new", [bytes(64)] * COUNT)
        self.publisher.publish("orders.end", b"")
        self.runner.run(self.agent.receive_async())


class Functions(OnABus):
    """COUNT dicts to a subscription with a function; half of them pass `where`, all coalesce to ten keys."""

    params = ("none", "where", "transform", "coalesce")
    param_names = ("function",)

    def setup(self, function):
        super().setup()
        functions = {
            "where": lambda message: message.data["lots"][0] % 2,
            "transform": lambda message: message.data["price"],
            "coalesce": lambda message: message.data["lots"][0] % 10,
        }
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.*", **{one: functions[one] for one in functions if one == function})
        self.items = [{**PAYLOADS["dict"], "lots": [number]} for number in range(COUNT)]

    def time_publish_many_receive(self, function):
        self.publisher.publish_many("orders.new", self.items)
        receive = self.agent.try_receive
        while receive() is not None:
            pass


class OwnQueues(OnABus):
    """COUNT messages of 64 bytes to one of `subscriptions`, each of which is received from by itself."""

    params = (1, 8, 64)
    param_names = ("subscriptions",)

    def setup(self, subscriptions):
        super().setup()
        self.agent = self.bus.join("agent")
        self.subscriptions = [self.agent.subscribe(f"orders.{number}") for number in range(subscriptions)]
        for subscription in self.subscriptions:
            subscription.try_receive()

    def time_publish_receive(self, subscriptions):
        publish, receive, payload = self.publisher.publish, self.subscriptions[-1].try_receive, bytes(64)
        subject = self.subscriptions[-1].pattern
        for _ in range(COUNT):
            publish(subject, payload)
            receive()


class Drain(OnABus):
    """Joining, COUNT messages of 64 bytes, and leaving in good order."""

    def time_join_publish_drain(self):
        agent = self.bus.join("passing")
        agent.subscribe("orders.new")
        self.publisher.publish_many("orders.new", [bytes(64)] * COUNT)
        agent.drain()

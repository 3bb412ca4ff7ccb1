"""Bus and Agent, mirroring fastcomm/bus.py and agent.py: all agents in one process, so that nothing waits.
Subscriptions with functions are in subscriptions.py, what passes between processes in between_processes.py.

By hand: ``b = Publish(); b.setup(8)`` in IPython, then ``%timeit b.time_publish_receive(8)``.
"""

import asyncio
import contextlib
import itertools
import os

from fastcomm import Bus, Full, Priority
from fastcomm.testing import isolated_name

COUNT = 100
PAYLOADS = {"bytes": bytes(64), "int": 12345, "dict": {"symbol": "ABC", "price": 12.5, "lots": [1, 2, 3]}}


class OnABus:
    """Each benchmark has a bus of its own."""

    def setup(self, *_):
        self.bus = Bus.open(isolated_name())
        self.publisher = self.bus.join("publisher")

    def teardown(self, *_):
        self.bus.close()


class Publish(OnABus):
    """COUNT messages of 256 bytes to each of `subscribers` agents."""

    params = (1, 8, 64)
    param_names = ("subscribers",)

    def setup(self, subscribers):
        super().setup()
        self.agents = [self.bus.join(f"a{number}") for number in range(subscribers)]
        for agent in self.agents:
            agent.subscribe("orders.*")

    def time_publish_receive(self, subscribers):
        publish, payload = self.publisher.publish, bytes(256)
        receives = [agent.try_receive for agent in self.agents]
        for _ in range(COUNT):
            publish("orders.new", payload)
            for receive in receives:
                receive()

    def time_publish_receive_many(self, subscribers):
        publish, payload = self.publisher.publish, bytes(256)
        for _ in range(COUNT // 20):
            for _ in range(20):
                publish("orders.new", payload)
            for agent in self.agents:
                agent.receive_many()


class PublishMany(OnABus):
    """COUNT messages of 64 bytes by one call to each of `subscribers` agents."""

    params = (1, 8, 64)
    param_names = ("subscribers",)

    def setup(self, subscribers):
        super().setup()
        self.agents = [self.bus.join(f"a{number}") for number in range(subscribers)]
        for agent in self.agents:
            agent.subscribe("orders.*")
        self.items = [bytes(64)] * COUNT

    def time_publish_many_receive_many(self, subscribers):
        self.publisher.publish_many("orders.new", self.items)
        for agent in self.agents:
            agent.receive_many()

    def time_publish_many_dicts_receive_many(self, subscribers):
        self.publisher.publish_many("orders.new", [PAYLOADS["dict"]] * 20)
        for agent in self.agents:
            agent.receive_many()


class PublishBeside(OnABus):
    """COUNT messages beside `subscriptions` that don't match: to nobody, and to subjects not met before."""

    params = (0, 10, 2000, 100_000)
    param_names = ("subscriptions",)

    def setup(self, subscriptions):
        self.bus = Bus.open(isolated_name(), max_subscriptions=subscriptions + 2)
        self.publisher, self.listener = self.bus.join("publisher"), self.bus.join("listener")
        with self.bus._changing_tables():  # subscribe() looks for a free entry from the first one on
            for number in range(1, subscriptions + 1):
                self.bus._subscriptions.write_entry(
                    number, self.listener._slot + 1, self.listener._epoch, b"other.%d.>" % number
                )
        self.publisher.publish("orders.new", b"")  # which reads them all
        self.numbers = itertools.count()

    def time_publish(self, subscriptions):
        publish = self.publisher.publish
        for _ in range(COUNT):
            publish("orders.new", b"")

    def time_publish_to_new_subjects(self, subscriptions):
        publish = self.publisher.publish
        for number in itertools.islice(self.numbers, COUNT):
            publish(f"orders.{number}", b"")


class Priorities(OnABus):
    """COUNT messages of 64 bytes to one agent, received one by one when all are there."""

    def setup(self):
        super().setup()
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.new")

    def exchange(self, *priorities):
        publish, receive, payload = self.publisher.publish, self.agent.try_receive, bytes(64)
        for priority in itertools.islice(itertools.cycle(priorities), COUNT):
            publish("orders.new", payload, priority=priority)
        for _ in range(COUNT):
            receive()

    def time_all_normal(self):
        self.exchange(Priority.NORMAL)

    def time_all_high(self):
        self.exchange(Priority.HIGH)

    def time_mixed(self):
        self.exchange(Priority.LOW, Priority.NORMAL, Priority.HIGH, Priority.CRITICAL)


class Headers(OnABus):
    """COUNT messages of 64 bytes with two headers."""

    def setup(self):
        super().setup()
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.new")
        self.headers = {"trace": "4bf92f35", "hop": 2}

    def time_publish_receive(self):
        publish, receive, payload = self.publisher.publish, self.agent.try_receive, bytes(64)
        for _ in range(COUNT):
            publish("orders.new", payload, headers=self.headers)
            receive()

    def time_publish_receive_read_headers(self):
        publish, receive, payload = self.publisher.publish, self.agent.try_receive, bytes(64)
        for _ in range(COUNT):
            publish("orders.new", payload, headers=self.headers)
            assert receive().headers["hop"]


class Groups(OnABus):
    """COUNT messages of 64 bytes to a group of `members`, which take them afterwards."""

    params = (1, 8, 64)
    param_names = ("members",)

    def setup(self, members):
        super().setup()
        self.agents = [self.bus.join(f"a{number}") for number in range(members)]
        for agent in self.agents:
            agent.subscribe("jobs.*", group="workers")

    def time_publish_receive_many(self, members):
        publish, payload = self.publisher.publish, bytes(64)
        for _ in range(COUNT):
            publish("jobs.weld", payload)
        self.take()

    def time_publish_many_receive_many(self, members):
        self.publisher.publish_many("jobs.weld", [bytes(64)] * COUNT)
        self.take()

    def take(self):
        for agent in self.agents:
            while agent.try_receive() is not None:
                pass


class FullInbox(OnABus):
    """COUNT messages that a full inbox has no room for, by what its agent asked for."""

    params = ("error", "drop_newest")
    param_names = ("overflow",)

    def setup(self, overflow):
        super().setup()
        self.agent = self.bus.join("agent", overflow=overflow)
        self.agent.subscribe("orders.new")
        self.fill()

    def fill(self):
        publish, payload = self.publisher.publish, bytes(1024)
        with contextlib.suppress(Full):
            while publish("orders.new", payload):
                pass

    def time_publish(self, overflow):
        publish, payload = self.publisher.publish, bytes(1024)
        for _ in range(COUNT):
            with contextlib.suppress(Full):
                publish("orders.new", payload)


class Payload(OnABus):
    """COUNT messages to one agent, encoded and decoded unless they are bytes."""

    params = tuple(PAYLOADS)
    param_names = ("payload",)

    def setup(self, payload):
        super().setup()
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.new")

    def time_publish_receive_data(self, payload):
        publish, receive, value = self.publisher.publish, self.agent.try_receive, PAYLOADS[payload]
        for _ in range(COUNT):
            publish("orders.new", value)
            assert receive().data


class Calls(OnABus):
    """COUNT times each of the smaller calls, on a bus of two agents."""

    def setup(self):
        super().setup()
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.*")
        self.publisher.publish("orders.new", b"")
        self.agent.receive()

    def time_try_receive_nothing(self):
        for _ in range(COUNT):
            self.agent.try_receive()

    def time_wait_for_subscribers(self):
        for _ in range(COUNT):
            self.publisher.wait_for_subscribers("orders.new")

    def time_stats(self):
        for _ in range(COUNT):
            self.agent.stats()

    def time_agents(self):
        for _ in range(COUNT):
            self.bus.agents()


class CallsAsync(OnABus):
    """COUNT messages of 64 bytes through the calls for asyncio, which find them there."""

    def setup(self):
        super().setup()
        self.runner = asyncio.Runner()
        self.agent = self.bus.join("agent")
        self.agent.subscribe("orders.*")

    def teardown(self):
        self.runner.close()
        super().teardown()

    def time_publish_async_receive_async(self):
        self.runner.run(self.exchange())

    async def exchange(self):
        payload = bytes(64)
        for _ in range(COUNT):
            await self.publisher.publish_async("orders.new", payload)
            await self.agent.receive_async()

    def time_publish_async_receive_many_async(self):
        self.runner.run(self.exchange_many())

    async def exchange_many(self):
        payload = bytes(64)
        for _ in range(COUNT // 20):
            for _ in range(20):
                await self.publisher.publish_async("orders.new", payload)
            await self.agent.receive_many_async()

    def time_wait_for_subscribers_async(self):
        self.runner.run(self.publisher.wait_for_subscribers_async("orders.new"))


class Membership(OnABus):
    """Joining, subscribing and leaving beside `agents` others."""

    params = (1, 100)
    param_names = ("agents",)

    def setup(self, agents):
        super().setup()
        self.others = [self.bus.join(f"other{number}") for number in range(agents)]

    def time_join_close(self, agents):
        self.bus.join("passing").close()

    def time_subscribe_unsubscribe(self, agents):
        self.publisher.subscribe("orders.>").unsubscribe()

    def time_publish_after_a_change(self, agents):
        """Each subscription that comes or goes has every publisher look up its subjects again."""
        subscription = self.others[0].subscribe("orders.new")
        self.publisher.publish("orders.new", b"")
        self.others[0].receive()
        subscription.unsubscribe()

    def track_segment_bytes(self, agents):
        return os.stat(self.bus.path).st_blocks * 512

    track_segment_bytes.unit = "bytes"

    def peakmem_joined(self, agents):
        self.publisher.publish("orders.new", b"")

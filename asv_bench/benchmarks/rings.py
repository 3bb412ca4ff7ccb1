"""RingBuffer, mirroring fastcomm/rings.py: each call of a handle whose other end is in the same thread, so
that nothing waits, and handles that come and go. What passes between processes is in between_processes.py.

By hand: ``b = Calls(); b.setup(64)`` in IPython, then ``%timeit b.time_put_get(64)``.
"""

import asyncio
import contextlib
import os

from fastcomm import RingBuffer
from fastcomm.testing import isolated_name

COUNT = 1000
BATCH = 100


class Calls:
    """COUNT records of `payload` bytes through each pair of calls."""

    params = (64, 256, 4096)
    param_names = ("payload",)

    def setup(self, payload):
        self.ring = RingBuffer.create(isolated_name(), capacity=1 << 21)
        self.record = bytes(payload)
        self.batch = [self.record] * BATCH

    def teardown(self, payload):
        self.ring.close()

    def time_put_get(self, payload):
        put, get, record = self.ring.put, self.ring.get, self.record
        for _ in range(COUNT):
            put(record)
            get()

    def time_try_put_try_get(self, payload):
        put, get, record = self.ring.try_put, self.ring.try_get, self.record
        for _ in range(COUNT):
            put(record)
            get()

    def time_put_many_get_many(self, payload):
        for _ in range(COUNT // BATCH):
            self.ring.put_many(self.batch)
            self.ring.get_many()

    def time_try_put_many_try_get_many(self, payload):
        for _ in range(COUNT // BATCH):
            self.ring.try_put_many(self.batch)
            self.ring.try_get_many()

    def time_claim_get(self, payload):
        claim, get = self.ring.claim, self.ring.get
        for _ in range(COUNT):
            with claim(payload):
                pass
            get()

    def time_put_peek(self, payload):
        put, peek, record = self.ring.put, self.ring.peek, self.record
        for _ in range(COUNT):
            put(record)
            with peek():
                pass

    def time_stats(self, payload):
        for _ in range(COUNT):
            self.ring.stats()


class CallsAsync:
    """COUNT records of 64 bytes through the calls for asyncio, which find them there."""

    def setup(self):
        self.ring = RingBuffer.create(isolated_name())
        self.runner = asyncio.Runner()

    def teardown(self):
        self.runner.close()
        self.ring.close()

    def time_put_async_get_async(self):
        self.runner.run(self.put_and_get())

    async def put_and_get(self):
        record = bytes(64)
        for _ in range(COUNT):
            await self.ring.put_async(record)
            await self.ring.get_async()

    def time_put_many_async_get_many_async(self):
        self.runner.run(self.put_many_and_get_many())

    async def put_many_and_get_many(self):
        batch = [bytes(64)] * BATCH
        for _ in range(COUNT // BATCH):
            await self.ring.put_many_async(batch)
            await self.ring.get_many_async()

    def time_claim_async_peek_async(self):
        self.runner.run(self.claim_and_peek())

    async def claim_and_peek(self):
        for _ in range(COUNT):
            with await self.ring.claim_async(64):
                pass
            with await self.ring.peek_async():
                pass


class Handles:
    """What comes and goes with a ring of `capacity` bytes, whose pages are reserved when it is made."""

    params = (1 << 14, 1 << 20, 1 << 24)
    param_names = ("capacity",)

    def setup(self, capacity):
        self.ring = RingBuffer.create(isolated_name(), capacity=capacity)

    def teardown(self, capacity):
        self.ring.close()

    def time_create_close(self, capacity):
        RingBuffer.create(isolated_name(), capacity=capacity).close()

    def time_attach_close(self, capacity):
        RingBuffer.attach(self.ring.name).close()

    def track_segment_bytes(self, capacity):
        return os.stat(self.ring.path).st_blocks * 512

    track_segment_bytes.unit = "bytes"

    def peakmem_create_put_get(self, capacity):
        with contextlib.closing(RingBuffer.create(isolated_name(), capacity=capacity)) as ring:
            ring.put(b"one")
            ring.get()

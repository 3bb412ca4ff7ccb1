"""Ring on private memory, mirroring fastcomm/_core/ring.pyx: the protocol alone, without a segment or a peer.

By hand: ``b = PutGet(); b.setup(256)`` in IPython, then ``%timeit b.time_put_get(256)``.
"""

import mmap
import queue
from collections import deque

from fastcomm._core.ring import Ring

CELLS = 4096
COUNT = 1000


def private_ring(one_producer=False):
    memory = mmap.mmap(-1, Ring.bytes_needed(CELLS))
    Ring.format(memory, cells=CELLS, one_producer=one_producer)
    return Ring(memory, owner=1)


class PutGet:
    """Each time is that of COUNT records, one after the other."""

    params = (8, 64, 512, 4096)
    param_names = ("payload",)

    def setup(self, payload):
        self.ring = private_ring()
        self.record = bytes(payload)

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

    def time_put_get_bytearray(self, payload):
        put, get, record = self.ring.put, self.ring.get, bytearray(self.record)
        for _ in range(COUNT):
            put(record)
            get()


class InPlace:
    """claim() and peek(): no copy, but an object for each view. COUNT records."""

    params = (64, 4096, 65536)
    param_names = ("payload",)

    def setup(self, payload):
        self.ring = private_ring()

    def time_claim_get(self, payload):
        ring = self.ring
        for _ in range(COUNT):
            with ring.claim(payload):
                pass
            ring.get()

    def time_put_peek(self, payload):
        ring, record = self.ring, bytes(payload)
        for _ in range(COUNT):
            ring.put(record)
            with ring.peek():
                pass

    def time_claim_peek(self, payload):
        ring = self.ring
        for _ in range(COUNT):
            with ring.claim(payload):
                pass
            with ring.peek():
                pass


class Batches:
    """put_many and get_many, COUNT records of 256 bytes in runs of `batch`."""

    params = (1, 8, 64, 250)
    param_names = ("batch",)

    def setup(self, batch):
        self.ring = private_ring()
        self.records = [bytes(256)] * batch

    def time_put_many_get_many(self, batch):
        ring, records = self.ring, self.records
        for _ in range(COUNT // batch):
            ring.put_many(records)
            ring.get_many()


class Producers:
    """What the second kind of claim costs: a ring for one producer checks a role once."""

    params = (True, False)
    param_names = ("one_producer",)

    def setup(self, one_producer):
        self.ring = private_ring(one_producer)

    def time_put_get(self, one_producer):
        put, get, record = self.ring.put, self.ring.get, bytes(64)
        for _ in range(COUNT):
            put(record)
            get()


class Baseline:
    """The least that queues within one process cost: COUNT references in and out, nothing copied."""

    def setup(self):
        self.queue = queue.SimpleQueue()
        self.deque = deque()

    def time_simple_queue(self):
        put, get, record = self.queue.put, self.queue.get, bytes(64)
        for _ in range(COUNT):
            put(record)
            get()

    def time_deque(self):
        put, get, record = self.deque.append, self.deque.popleft, bytes(64)
        for _ in range(COUNT):
            put(record)
            get()

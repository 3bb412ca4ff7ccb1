"""PriorityQueue at 10,000 items, mirroring fastcomm/_core/heap.pyx; beside it heapq with tuples.

By hand: ``Steady().setup()`` in IPython, then ``%timeit`` on the bodies below. Peers are in
scripts/benchlib/peers_heap.py.
"""

import heapq
import itertools
import random

from fastcomm import PriorityQueue

QUEUED = 10_000
BATCH = 1000


class Steady:
    """Each time is that of BATCH operations; what is pushed is popped again, so that QUEUED items stay."""

    def setup(self):
        rng = random.Random(1)
        self.priorities = [rng.randrange(1 << 20) for _ in range(BATCH)]
        queued = [rng.randrange(1 << 20) for _ in range(QUEUED)]
        self.queue = PriorityQueue()
        self.queue.put_many(queued, priority=int)
        self.keyed = PriorityQueue()
        self.keyed.put_many(range(QUEUED), priority=queued.__getitem__, key=str)
        self.dropping = PriorityQueue(QUEUED, overflow="drop_lowest")
        self.dropping.put_many(queued, priority=int)
        self.again = [(str(number), rng.randrange(1 << 20)) for number in rng.sample(range(QUEUED), BATCH)]
        self.count = itertools.count()
        self.heap = [(priority, next(self.count), None) for priority in queued]
        heapq.heapify(self.heap)

    def time_push_and_pop(self):
        for priority in self.priorities:
            self.queue.put(None, priority=priority)
        for _ in self.priorities:
            self.queue.get()

    def time_push_and_pop_heapq(self):
        for priority in self.priorities:
            heapq.heappush(self.heap, (priority, next(self.count), None))
        for _ in self.priorities:
            heapq.heappop(self.heap)

    def time_push_and_pop_many(self):
        self.queue.put_many(self.priorities, priority=int)
        self.queue.get_many(BATCH)

    def time_coalesce_in_place(self):
        for key, _ in self.again:
            self.keyed.put(None, priority=1 << 20, key=key)

    def time_update(self):
        for key, priority in self.again:
            self.keyed.update(key, priority)

    def time_push_into_a_full_one_that_drops(self):
        for priority in self.priorities:
            self.dropping.put(None, priority=priority)


class Memory:
    def track_bytes_per_item(self):
        queue = PriorityQueue()
        queue.put_many(range(QUEUED))
        return queue.stats().nbytes / QUEUED

    def track_bytes_per_item_with_key(self):
        queue = PriorityQueue()
        queue.put_many(range(QUEUED), key=int)
        return queue.stats().nbytes / QUEUED

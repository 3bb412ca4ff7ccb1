"""Queue, SimpleQueue, JoinableQueue, mirroring fastcomm/queue.py; beside them multiprocessing's, which sends
through a thread. Both ends are in one process, so that nothing waits but for that thread.

By hand: ``b = PutGet(); b.setup("Queue", "bytes")`` in IPython, then ``%timeit b.time_put_get("Queue",
"bytes")``.
"""

import multiprocessing

import fastcomm

COUNT = 1000
BATCH = 100
ITEMS = {"bytes": bytes(64), "int": 12345, "dict": {"symbol": "ABC", "price": 12.5, "lots": [1, 2, 3]}}


class PutGet:
    """COUNT items through one kind of queue."""

    params = (("Queue", "SimpleQueue", "JoinableQueue", "mp.Queue", "mp.SimpleQueue"), tuple(ITEMS))
    param_names = ("queue", "item")

    def setup(self, queue, item):
        module = multiprocessing if queue.startswith("mp.") else fastcomm
        self.queue = getattr(module, queue.removeprefix("mp."))()

    def teardown(self, queue, item):
        self.queue.close()

    def time_put_get(self, queue, item):
        put, get, item = self.queue.put, self.queue.get, ITEMS[item]
        for _ in range(COUNT):
            put(item)
            get()


class Batches:
    """COUNT items of 64 bytes in lists of BATCH; `maxsize` items at most (0: as many as fit)."""

    params = (0, 1000)
    param_names = ("maxsize",)

    def setup(self, maxsize):
        self.queue = fastcomm.Queue(maxsize)
        self.items = [bytes(64)] * BATCH

    def teardown(self, maxsize):
        self.queue.close()

    def time_put_many_get_many(self, maxsize):
        for _ in range(COUNT // BATCH):
            self.queue.put_many(self.items)
            self.queue.get_many()


class Nowait:
    """COUNT items of 64 bytes through a queue with a limit, and what may be asked about it."""

    def setup(self):
        self.queue = fastcomm.Queue(10)

    def teardown(self):
        self.queue.close()

    def time_put_nowait_get_nowait(self):
        put, get, item = self.queue.put_nowait, self.queue.get_nowait, bytes(64)
        for _ in range(COUNT):
            put(item)
            get()

    def time_qsize_empty_full(self):
        qsize, empty, full = self.queue.qsize, self.queue.empty, self.queue.full
        for _ in range(COUNT):
            qsize()
            empty()
            full()


class Tasks:
    """COUNT items of 64 bytes with task_done() for each, and a join() that finds all done."""

    def setup(self):
        self.queue = fastcomm.JoinableQueue()

    def teardown(self):
        self.queue.close()

    def time_put_get_task_done(self):
        put, get, task_done, item = self.queue.put, self.queue.get, self.queue.task_done, bytes(64)
        for _ in range(COUNT):
            put(item)
            get()
            task_done()
        self.queue.join()


class Large:
    """One item of `nbytes`: from an eighth of the capacity on it travels in a file of its own."""

    params = (1 << 16, 1 << 18, 1 << 22)
    param_names = ("nbytes",)

    def setup(self, nbytes):
        self.queue = fastcomm.Queue(capacity=1 << 20)
        self.item = bytes(nbytes)

    def teardown(self, nbytes):
        self.queue.close()

    def time_put_get(self, nbytes):
        self.queue.put(self.item)
        self.queue.get()


class Handles:
    def time_create_close(self):
        fastcomm.Queue().close()

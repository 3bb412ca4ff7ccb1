"""RingBuffer, mirroring fastcomm/rings.py: handles that come and go, a process at the other end, memory.

By hand: ``b = Handles(); b.setup(1 << 20)`` in IPython, then ``%timeit b.time_attach_close(1 << 20)``.
"""

import asyncio
import contextlib
import multiprocessing
import os

from fastcomm import RingBuffer
from fastcomm.testing import isolated_name

COUNT = 1000


def echo(receive, send):
    while message := receive():
        send(message)


def echo_rings(there, back):
    echo(RingBuffer.attach(there).get, RingBuffer.attach(back).put)


def echo_pipe(there, back):
    echo(there.recv_bytes, back.send_bytes)


class RoundTrip:
    """COUNT messages of 64 bytes to another process and back; an empty one ends it."""

    params = ("fastcomm", "mp.Pipe")
    param_names = ("transport",)

    def setup(self, transport):
        self.open = contextlib.ExitStack()
        context = multiprocessing.get_context("fork")  # asv's own main module can't be imported anew
        if transport == "fastcomm":
            there, back = (self.ring() for _ in range(2))
            self.send, self.receive = there.put, back.get
            process = context.Process(target=echo_rings, args=(there.name, back.name), daemon=True)
        else:
            (there, send), (receive, back) = (context.Pipe(duplex=False) for _ in range(2))
            self.send, self.receive = send.send_bytes, receive.recv_bytes
            process = context.Process(target=echo_pipe, args=(there, back), daemon=True)
        process.start()
        self.open.callback(process.join)
        self.time_round_trips(transport)

    def ring(self):
        ring = RingBuffer.create(isolated_name())
        self.open.callback(ring.close)
        return ring

    def teardown(self, transport):
        self.send(b"")
        self.open.close()

    def time_round_trips(self, transport):
        send, receive, message = self.send, self.receive, bytes(64)
        for _ in range(COUNT):
            send(message)
            receive()


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


class Async:
    """COUNT records through the calls for asyncio, which find them there: no wait."""

    def setup(self):
        self.ring = RingBuffer.create(isolated_name())
        self.runner = asyncio.Runner()

    def teardown(self):
        self.runner.close()
        self.ring.close()

    def time_put_async_get_async(self):
        self.runner.run(self.exchange())

    async def exchange(self):
        message = bytes(64)
        for _ in range(COUNT):
            await self.ring.put_async(message)
            await self.ring.get_async()

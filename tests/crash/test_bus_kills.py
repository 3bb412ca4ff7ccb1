"""Agents that publish to each other, killed and started again at random: what arrives is whole, in order."""

import random
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

from fastcomm import Bus

AGENTS = 4
SECONDS = 4.0

WORKER = textwrap.dedent(
    """
    import os, random, select, struct, sys, zlib
    from fastcomm import Bus
    from fastcomm.errors import Empty, Full, PeerDiedError

    bus_name, me, agents = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    bus = Bus.open(bus_name, inbox_bytes=8192, max_agents=agents)
    agent = bus.join(f"worker {me}")
    agent.subscribe(f"to.{me}")
    sent = [0] * agents
    last = {}
    received = 0


    def compose(number):
        body = struct.pack("<II", os.getpid(), number) + bytes([number % 256]) * random.randrange(400)
        return body + struct.pack("<I", zlib.crc32(body))


    def take(message):
        global received
        body, checksum = message.data[:-4], struct.unpack("<I", message.data[-4:])[0]
        assert zlib.crc32(body) == checksum, f"torn: {message.data!r}"
        assert message.subject == f"to.{me}", f"for another: {message}"
        sender, number = struct.unpack_from("<II", body)
        # The first one of each sender may be any; from then on none is missing, doubled or out of order.
        before = last.get(sender, number - 1)
        assert number == before + 1, f"{number} of {sender} came after {before}"
        last[sender] = number
        received += 1


    def take_all():
        while (message := agent.try_receive()) is not None:
            take(message)


    def send(to):
        sent[to] += 1
        data = compose(sent[to])
        while True:
            try:
                agent.publish(f"to.{to}", data)
                return
            except Full:  # and so is our own inbox
                take_all()


    while not select.select([0], [], [], 0)[0]:
        for _ in range(random.randrange(30)):
            send(random.randrange(agents))
        take_all()
    while True:
        try:
            take(agent.receive(0.5))
        except Empty:
            break
        except PeerDiedError:
            pass
    agent.close()
    bus.close()
    print(received)
    """
)


def start(name: str, index: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, name, str(index), str(AGENTS)]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, **pipes)


def failure(worker: subprocess.Popen[str]) -> str:
    """What a worker said that ended by itself; empty if it runs."""
    return worker.communicate()[1] or "it ended" if worker.poll() is not None else ""


@pytest.mark.timeout(120)
def test_agents_killed_at_random_leave_the_others_whole_and_in_order(name: str) -> None:
    workers = [start(name, index) for index in range(AGENTS)]
    kills = 0
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            time.sleep(random.uniform(0.05, 0.4))
            assert [text for text in map(failure, workers) if text] == []
            index = random.randrange(AGENTS)
            workers[index].kill()
            workers[index].communicate()
            kills += 1
            workers[index] = start(name, index)
        results = []
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("end\n")
            worker.stdin.flush()
        for worker in workers:
            out, err = worker.communicate()
            assert (worker.returncode, err) == (0, "")
            results.append(int(out))
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.communicate()
    assert kills > 5
    assert sum(results) > 1000
    with Bus.open(name, max_agents=AGENTS, inbox_bytes=8192) as bus:
        assert bus.agents() == []

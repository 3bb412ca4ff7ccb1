"""The role of a killed consumer, wanted by two at once: the worst interleavings of tests/model/role.pml."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fastcomm import RingBuffer
from fastcomm.errors import RoleTakenError

CONSUME_AND_DIE = """
import os, signal, sys
from fastcomm import RingBuffer
ring = RingBuffer.attach(sys.argv[1])
ring.get()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Standby(RingBuffer):
    """Once it finds the consumer dead, a newcomer reaps that one, gets its number and role, and claims."""

    newcomer: RingBuffer | None = None
    becomes_consumer = True

    def _owner_alive(self, owner: int) -> bool:
        alive = super()._owner_alive(owner)
        if not alive and self.newcomer is None:
            self.newcomer = RingBuffer.attach(self.name)
            assert self.newcomer._slot == owner - 1
            if self.becomes_consumer:
                assert self.newcomer.try_get() == b"2"
            self.claim_of_newcomer = self.newcomer.claim(1)
        return alive


@contextmanager
def standby_for_the_dead(name: str, *, becomes_consumer: bool) -> Iterator[Standby]:
    standby = Standby.create(name)
    standby.becomes_consumer = becomes_consumer
    standby.put_many([b"1", b"2", b"3"])
    died = subprocess.run([sys.executable, "-c", CONSUME_AND_DIE, name], check=False)
    assert died.returncode == -signal.SIGKILL
    yield standby
    if standby.newcomer is not None:
        standby.newcomer.close()
    standby.unlink()
    standby.close()


def test_a_newcomer_that_took_the_role_of_the_dead_under_its_number_keeps_it(name: str) -> None:
    with standby_for_the_dead(name, becomes_consumer=True) as standby:
        with pytest.raises(RoleTakenError):
            standby.try_get()
        assert standby.newcomer is not None
        with standby.claim_of_newcomer as view:
            view[:] = b"4"
        assert standby.newcomer.get_many(2) == [b"3", b"4"]


def test_a_claim_of_a_newcomer_under_the_number_of_the_dead_is_not_given_up(name: str) -> None:
    with standby_for_the_dead(name, becomes_consumer=False) as standby:
        assert standby.try_get() == b"2"
        with standby.claim_of_newcomer as view:
            view[:] = b"4"
        assert standby.get_many(2) == [b"3", b"4"]

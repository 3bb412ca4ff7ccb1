"""The role of a killed consumer, wanted by two at once. tests/model/role.pml has every interleaving; these are the worst, on the real thing."""

import os
import signal
import subprocess
import sys

import pytest

from fastcomm import RingBuffer
from fastcomm.errors import RoleTakenError

CONSUME_AND_DIE = """
import os, signal, sys
from fastcomm import RingBuffer
RingBuffer.attach(sys.argv[1]).get()
os.kill(os.getpid(), signal.SIGKILL)
"""


class Standby(RingBuffer):
    """Between finding the consumer dead and acting upon it, a newcomer reaps it, gets its number, and does `meanwhile`."""

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


@pytest.fixture
def standby(name):
    ring = Standby.create(name)
    ring.put_many([b"1", b"2", b"3"])
    died = subprocess.run([sys.executable, "-c", CONSUME_AND_DIE, name], env=os.environ, check=False)
    assert died.returncode == -signal.SIGKILL
    yield ring
    if ring.newcomer is not None:
        ring.newcomer.close()
    ring.close()
    if os.path.exists(ring.path):
        RingBuffer.attach(name).unlink()


def test_a_newcomer_that_took_the_role_of_the_dead_under_its_number_keeps_it(standby):
    with pytest.raises(RoleTakenError):
        standby.try_get()
    assert standby.newcomer.try_get() == b"3"


def test_a_claim_of_a_newcomer_under_the_number_of_the_dead_is_not_given_up(standby):
    standby.becomes_consumer = False
    assert standby.try_get() == b"2"
    with standby.claim_of_newcomer as view:
        view[:] = b"4"
    assert standby.get_many(2) == [b"3", b"4"]

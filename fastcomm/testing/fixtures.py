"""The helpers of :mod:`fastcomm.testing` as pytest fixtures.

In a ``conftest.py``::

    pytest_plugins = ["fastcomm.testing.fixtures"]

A test that takes `leak_check` fails when it leaves something behind; one that takes `isolated_fastcomm_name`
has a name for a bus or ring to itself.
"""

from collections.abc import Iterator

import pytest

from fastcomm.testing.leaks import LeakCheck
from fastcomm.testing.names import isolated_name


@pytest.fixture
def isolated_fastcomm_name() -> str:
    """A name of a bus or ring that no other test uses."""
    return isolated_name()


@pytest.fixture
def leak_check() -> Iterator[LeakCheck]:
    """Fails the test, at its end, if it leaves segments, descriptors, threads or processes behind."""
    with LeakCheck() as check:
        yield check

"""A bus of its own for each test."""

from collections.abc import Iterator

import pytest

from fastcomm import Bus


@pytest.fixture
def bus(request: pytest.FixtureRequest, name: str) -> Iterator[Bus]:
    with Bus.open(name) as opened:
        yield opened
    del request.node.funcargs["bus"]  # the last reference: a closed bus keeps its mapping


@pytest.fixture
def small_bus(request: pytest.FixtureRequest, name: str) -> Iterator[Bus]:
    """Inboxes of 32 cells: 2 KiB of messages."""
    with Bus.open(name, inbox_bytes=4096, max_agents=16) as opened:
        yield opened
    del request.node.funcargs["small_bus"]

"""The limits of a bus: what may be asked for, and where in the segment that puts everything."""

from __future__ import annotations

from typing import NamedTuple

from fastcomm._core.ring import Ring
from fastcomm._core.segment import MAX_PARTICIPANTS, PAGE, PARTICIPANT_BYTES
from fastcomm._core.strings import StringTable
from fastcomm._core.tables import AGENT_BYTES, SubscriptionTable

LIMITS = ("max_agents", "inbox_bytes", "max_subscriptions", "max_strings")  # that a user may give
DEFAULT_MAX_AGENTS = 128
DEFAULT_MAX_STRINGS = 1000
DEFAULT_INBOX_BYTES = 32768
STRING_BYTES = 28  # of text, on average; with the place of its end 32
MIN_INBOX_BYTES = 4096
MAX_INBOX_BYTES = 1 << 30
MAX_RECORD_CELLS = 65535  # FC_MAX_RECORD_CELLS


class Limits(NamedTuple):
    """What a bus is created with, as its segment's parameters say it.

    `stride`: bytes from one inbox to the next.
    """

    max_agents: int
    cells: int
    stride: int
    max_subscriptions: int
    max_strings: int


class BusBytes(NamedTuple):
    """Bytes of shared memory that a bus reserves: when it is created, and with all its agents joined."""

    created: int
    joined: int


def checked_limits(
    max_agents: int | None, inbox_bytes: int | None, max_subscriptions: int | None, max_strings: int | None
) -> Limits:
    """ValueError for what can't be; None for what is used then."""
    agents = DEFAULT_MAX_AGENTS if max_agents is None else max_agents
    inbox = DEFAULT_INBOX_BYTES if inbox_bytes is None else inbox_bytes
    subscriptions = 16 * agents if max_subscriptions is None else max_subscriptions
    strings = DEFAULT_MAX_STRINGS if max_strings is None else max_strings
    if not 1 <= agents <= MAX_PARTICIPANTS:
        raise ValueError(f"max_agents is {agents}; it must be 1 to {MAX_PARTICIPANTS}")
    if not MIN_INBOX_BYTES <= inbox <= MAX_INBOX_BYTES:
        raise ValueError(f"inbox_bytes is {inbox}; it must be {MIN_INBOX_BYTES} to {MAX_INBOX_BYTES}")
    if not 1 <= subscriptions <= 1 << 24:
        raise ValueError(f"max_subscriptions is {subscriptions}; it must be 1 to {1 << 24}")
    if not 1 <= strings <= 1 << 20:
        raise ValueError(f"max_strings is {strings}; it must be 1 to {1 << 20}")
    rounded = 1 << (inbox - 1).bit_length()
    cells = 16
    while Ring.bytes_needed(cells * 2) <= rounded:
        cells *= 2
    return Limits(agents, cells, _pages(Ring.bytes_needed(cells)), subscriptions, strings)


def plan_of(limits: Limits) -> tuple[int, list[tuple[int, int]], int, list[int]]:
    """Header page, participants, agents, subscriptions, strings; then the inboxes, reserved at a join."""
    sizes = (
        limits.max_agents * PARTICIPANT_BYTES,
        limits.max_agents * AGENT_BYTES,
        SubscriptionTable.bytes_needed(limits.max_subscriptions),
        string_table_bytes(limits.max_strings),
        limits.max_agents * limits.stride,
    )
    sections, offset = [], PAGE
    for size in map(_pages, sizes):
        sections.append((offset, size))
        offset += size
    return limits.max_agents, sections, sections[-1][0], list(limits)


def bytes_of(limits: Limits) -> BusBytes:
    _, _, reserved, _ = plan_of(limits)
    return BusBytes(reserved, reserved + limits.max_agents * limits.stride)


def string_table_bytes(max_strings: int) -> int:
    return StringTable.nbytes(max_strings, STRING_BYTES * max_strings)


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE

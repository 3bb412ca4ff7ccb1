"""Priorities of messages on a bus. Plain ints: `enum` would cost every process that joins one."""

__all__ = ["Priority"]


class Priority:
    """How urgent a message is: the lower number is received first.

    CRITICAL messages also have the last eighth of every inbox for themselves.
    """

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

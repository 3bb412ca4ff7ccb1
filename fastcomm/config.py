"""Feature flags: which optimisations are turned off, by an argument or by FASTCOMM_DISABLE.

    FASTCOMM_DISABLE=futex,spin python worker.py
    bus.join("worker", disable=["futex", "spin"])

Each optimisation has a flag. Turned off, messages are the same, in the same order; they cost more. Agents
with different flags understand each other. docs/bus.md says what each one does.

This is the only place that reads FASTCOMM_DISABLE; compiled modules read no environment, they are told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

from fastcomm.errors import UnknownFlagError

__all__ = ["FLAGS", "VARIABLE", "Settings", "settings"]

VARIABLE = "FASTCOMM_DISABLE"


class Settings(NamedTuple):
    """Which optimisations are on. Frozen, and checked when made by settings()."""

    futex: bool = True
    spin: bool = True
    interning: bool = True
    compression: bool = True
    cache: bool = True
    coalescing: bool = True
    blobs: bool = True
    affinity: bool = True
    batching: bool = True


FLAGS = Settings._fields
_read: dict[str, frozenset[str]] = {}  # what a value of the variable means


def settings(disable: Iterable[str] = ()) -> Settings:
    """What is on here: all but what `disable` and FASTCOMM_DISABLE name. UnknownFlagError for other names."""
    if isinstance(disable, str):
        disable = disable.split(",")
    off = _from_environment() | _checked(disable, "disable")
    return Settings(**dict.fromkeys(off, False))


def _from_environment() -> frozenset[str]:
    text = os.environ.get(VARIABLE, "")
    if text not in _read:
        _read[text] = _checked(text.split(","), VARIABLE)
    return _read[text]


def _checked(names: Iterable[str], source: str) -> frozenset[str]:
    found = frozenset(name.strip() for name in names) - {""}
    if unknown := sorted(found.difference(FLAGS)):
        raise UnknownFlagError(
            f"{source} names {', '.join(map(repr, unknown))}; the flags are {', '.join(FLAGS)}"
        )
    return found


_warned = False


def with_what_is_there(wanted: Settings) -> Settings:
    """Without what this machine does not have, which is warned of once a process (RuntimeWarning).

    That is futexes: a sandbox may refuse them. Pinning warns where it is tried (fastcomm.affinity).
    """
    global _warned
    from fastcomm._core.wait import futex_works  # who only pins threads needs it not

    if not wanted.futex or futex_works():
        return wanted
    if not _warned:
        _warned = True
        import warnings

        warnings.warn(
            "there are no futexes here; agents sleep on the FIFOs of their doorbells instead",
            RuntimeWarning,
            stacklevel=4,
        )
    return wanted._replace(futex=False)

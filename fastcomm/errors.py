"""Every exception that fastcomm raises. The text says numbers and next step; attributes carry the numbers."""

import queue


class FastCommError(Exception):
    """The root of all errors of this package."""


class Full(FastCommError, queue.Full):
    """No room was found in time. `delivered` and `missing` count inboxes if a publish reached only some."""

    def __init__(self, message: str = "", *, delivered: int = 0, missing: int = 0) -> None:
        super().__init__(message)
        self.delivered = delivered
        self.missing = missing


class Empty(FastCommError, queue.Empty):
    """Nothing arrived in time."""


class ClosedError(FastCommError, ValueError):
    """The handle that was used is closed."""


class ShutDown(ClosedError, getattr(queue, "ShutDown", Exception)):  # type: ignore[misc]  # which 3.13 has
    """The queue was shut down: it takes nothing any more, and nothing is left in it."""


class MessageTooLargeError(FastCommError, ValueError):
    """A message of `size` bytes can never fit: the limit is `limit`. Raised at once, never after a wait."""

    def __init__(self, message: str = "", *, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class PeerDiedError(FastCommError):
    """Nobody is left who could end the wait: peers were killed; or have left, who had a request.

    `pid` is the last one that died, 0 if unknown; `delivered`: how many records of a put_many() were sent.
    """

    def __init__(self, message: str = "", *, pid: int = 0, delivered: int = 0) -> None:
        super().__init__(message)
        self.pid = pid
        self.delivered = delivered


class RoleTakenError(FastCommError):
    """Another live handle, in process `pid`, already is the one consumer (or producer) of this ring."""

    def __init__(self, message: str = "", *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class NameTakenError(FastCommError):
    """A live agent, in process `pid`, already has this name."""

    def __init__(self, message: str = "", *, pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid


class RecordPinnedError(FastCommError, BufferError):
    """The record at the head is held by a view that is still alive; release the view first."""


class FencedError(FastCommError):
    """This process was taken for dead (its lock was lost) and its claim given up. Nothing was sent."""


class ForkedError(FastCommError):
    """A claim, view or role that was opened before a fork belongs to the parent alone."""


class InvalidNameError(FastCommError, ValueError):
    """The name of a bus, ring or agent breaks the rules that the text states."""


class InvalidSubjectError(FastCommError, ValueError):
    """A subject or pattern is not of NATS's grammar. `position` is where that was noticed, in characters."""

    def __init__(self, message: str = "", *, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class InvalidCpusError(FastCommError, ValueError):
    """A list of CPUs can't be read, is empty, or names CPUs that are not there or not to be had."""


class AffinityProfileError(FastCommError, ValueError):
    """A profile of scripts/tune_affinity.py can't be read, or was measured on another machine."""


class UnknownFlagError(FastCommError, ValueError):
    """An optimisation that is to be turned off has no such name; the text has the names."""


class NotRegisteredError(FastCommError, KeyError):
    """What is to be removed is not stored there."""

    # KeyError shows the repr of its text.
    __str__ = Exception.__str__


class SegmentError(FastCommError):
    """A shared memory segment could not be created, attached or used."""


class ShmFullError(SegmentError):
    """The file system of the segment has `free` bytes and `needed` are asked for."""

    def __init__(self, message: str = "", *, needed: int = 0, free: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


class SegmentVanishedError(SegmentError):
    """The segment's file was deleted by somebody else while it was in use."""


class AbiMismatchError(SegmentError):
    """The segment has layout version `found`; this build reads `expected`."""

    def __init__(self, message: str = "", *, found: int = 0, expected: int = 0) -> None:
        super().__init__(message)
        self.found = found
        self.expected = expected


class CorruptSegmentError(SegmentError):
    """A word in shared memory has a value that no correct peer writes."""


class SegmentExistsError(SegmentError, FileExistsError):
    """A segment of this name is in use; attach to it instead."""


class SegmentNotFoundError(SegmentError, FileNotFoundError):
    """There is no segment of this name."""


class TableFullError(SegmentError):
    """A table of fixed size (`capacity` entries) has no free entry."""

    def __init__(self, message: str = "", *, capacity: int = 0) -> None:
        super().__init__(message)
        self.capacity = capacity


class BusMismatchError(SegmentError):
    """The bus exists with other limits than the ones asked for."""


class EncodeError(FastCommError, ValueError):
    """An object can't be encoded; `path` leads to it, as in ``$.tasks[3].owner``."""

    def __init__(self, message: str = "", *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class DecodeError(FastCommError, ValueError):
    """Bytes that are no valid message; `offset` is where that was noticed."""

    def __init__(self, message: str = "", *, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


class RequestTimeoutError(FastCommError, TimeoutError):
    """What was waited for did not happen in time. Of a request: `reached` agents had it, `alive` of them are
    still there, and `seconds` were waited.
    """

    def __init__(self, message: str = "", *, reached: int = 0, alive: int = 0, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.reached = reached
        self.alive = alive
        self.seconds = seconds


class NoRespondersError(FastCommError):
    """Nobody got the request: it was not carried out, and may be sent again."""


class ResponderError(FastCommError):
    """Who was asked answered with an error: the exception that its handler raised, or what it passed to
    respond_error().

    `sender`: the agent that answered; `kind`: the exception's class, as ``module.Name`` (a builtin without
    its module), empty if it was a text; `text`: its text; `traceback`: as text, of the other process, empty
    if there is none.
    """

    def __init__(
        self, message: str = "", *, sender: str = "", kind: str = "", text: str = "", traceback: str = ""
    ) -> None:
        super().__init__(message)
        self.sender = sender
        self.kind = kind
        self.text = text
        self.traceback = traceback


class RespondError(FastCommError, RuntimeError):
    """A message can't be answered: it is no request, or it has been answered."""

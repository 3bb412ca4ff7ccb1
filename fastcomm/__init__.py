"""Messages between Python processes on one host, through shared memory and without a broker.

``fastcomm.connect("orders")`` joins a bus; the agent that it returns publishes, subscribes, asks and answers.
The parts that a bus is made of stand on their own: rings, the codec, the subject registry.

Names are imported at first use: ``import fastcomm`` loads neither numpy nor psutil, so that a hundred agents
stay small.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fastcomm._version import __version__ as __version__

if TYPE_CHECKING:
    from fastcomm._core.codec import decode as decode
    from fastcomm._core.codec import encode as encode
    from fastcomm._core.codec import encode_into as encode_into
    from fastcomm._core.message import Message as Message
    from fastcomm.agent import Agent as Agent
    from fastcomm.agent import Subscription as Subscription
    from fastcomm.bus import AgentInfo as AgentInfo
    from fastcomm.bus import Bus as Bus
    from fastcomm.bus import connect as connect
    from fastcomm.errors import AbiMismatchError as AbiMismatchError
    from fastcomm.errors import BusMismatchError as BusMismatchError
    from fastcomm.errors import ClosedError as ClosedError
    from fastcomm.errors import CorruptSegmentError as CorruptSegmentError
    from fastcomm.errors import DecodeError as DecodeError
    from fastcomm.errors import Empty as Empty
    from fastcomm.errors import EncodeError as EncodeError
    from fastcomm.errors import FastCommError as FastCommError
    from fastcomm.errors import FencedError as FencedError
    from fastcomm.errors import ForkedError as ForkedError
    from fastcomm.errors import Full as Full
    from fastcomm.errors import InvalidNameError as InvalidNameError
    from fastcomm.errors import InvalidSubjectError as InvalidSubjectError
    from fastcomm.errors import MessageTooLargeError as MessageTooLargeError
    from fastcomm.errors import NameTakenError as NameTakenError
    from fastcomm.errors import PeerDiedError as PeerDiedError
    from fastcomm.errors import RecordPinnedError as RecordPinnedError
    from fastcomm.errors import RoleTakenError as RoleTakenError
    from fastcomm.errors import SegmentError as SegmentError
    from fastcomm.errors import SegmentExistsError as SegmentExistsError
    from fastcomm.errors import SegmentNotFoundError as SegmentNotFoundError
    from fastcomm.errors import SegmentVanishedError as SegmentVanishedError
    from fastcomm.errors import ShmFullError as ShmFullError
    from fastcomm.errors import TableFullError as TableFullError
    from fastcomm.rings import RingBuffer as RingBuffer
    from fastcomm.rings import RingStats as RingStats
    from fastcomm.subjects import SubjectRegistry as SubjectRegistry
    from fastcomm.subjects import collides as collides
    from fastcomm.subjects import is_subset as is_subset
    from fastcomm.subjects import is_valid_pattern as is_valid_pattern
    from fastcomm.subjects import is_valid_subject as is_valid_subject
    from fastcomm.subjects import matches as matches

# The same names again, for run time; tests/test_api.py holds the two lists together.
_NAMES_BY_MODULE = {
    "fastcomm._core.codec": "decode encode encode_into",
    "fastcomm._core.message": "Message",
    "fastcomm.agent": "Agent Subscription",
    "fastcomm.bus": "AgentInfo Bus connect",
    "fastcomm.errors": """
        AbiMismatchError BusMismatchError ClosedError CorruptSegmentError DecodeError Empty EncodeError
        FastCommError FencedError ForkedError Full InvalidNameError InvalidSubjectError MessageTooLargeError
        NameTakenError PeerDiedError RecordPinnedError RoleTakenError SegmentError SegmentExistsError
        SegmentNotFoundError SegmentVanishedError ShmFullError TableFullError
    """,
    "fastcomm.rings": "RingBuffer RingStats",
    "fastcomm.subjects": "SubjectRegistry collides is_subset is_valid_pattern is_valid_subject matches",
}
_HOME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names.split()}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value  # the next use is an ordinary look-up
    return value


def __dir__() -> list[str]:
    return list(__all__)

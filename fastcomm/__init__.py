"""Messages between Python processes on one host, through shared memory and without a broker.

``fastcomm.connect("orders")`` joins a bus; the agent that it returns publishes, subscribes, asks and answers.
The parts that a bus is made of stand on their own: rings, the codec, the subject registry.

Names are imported at first use: ``import fastcomm`` loads neither numpy nor psutil, so that a hundred agents
stay small.
"""

from importlib import import_module

from fastcomm._version import __version__

# Type checkers take this name for true. The constant of that name in `typing` would load `typing`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastcomm._core.codec import Codec, decode, encode, encode_into
    from fastcomm._core.message import Message
    from fastcomm._core.strings import StringTable
    from fastcomm.agent import Agent, AgentStats
    from fastcomm.bus import AgentInfo, Bus, connect
    from fastcomm.codec import CodecPool
    from fastcomm.errors import (
        AbiMismatchError,
        AffinityProfileError,
        BusMismatchError,
        ClosedError,
        CorruptSegmentError,
        DecodeError,
        Empty,
        EncodeError,
        FastCommError,
        FencedError,
        ForkedError,
        Full,
        InvalidCpusError,
        InvalidNameError,
        InvalidSubjectError,
        MessageTooLargeError,
        NameTakenError,
        NoRespondersError,
        NotRegisteredError,
        PeerDiedError,
        RecordPinnedError,
        RequestTimeoutError,
        ResponderError,
        RespondError,
        RoleTakenError,
        SegmentError,
        SegmentExistsError,
        SegmentNotFoundError,
        SegmentVanishedError,
        ShmFullError,
        ShutDown,
        TableFullError,
        UnknownFlagError,
    )
    from fastcomm.events import EventBus, EventBusStats
    from fastcomm.priorities import Priority
    from fastcomm.priority import PriorityQueue, PriorityQueueStats
    from fastcomm.queue import JoinableQueue, Queue, SimpleQueue
    from fastcomm.rings import RingBuffer, RingStats
    from fastcomm.structs import Struct
    from fastcomm.subjects import (
        SubjectRegistry,
        collides,
        is_subset,
        is_valid_pattern,
        is_valid_subject,
        matches,
    )
    from fastcomm.subscription import Subscription

__all__ = [
    "AbiMismatchError",
    "AffinityProfileError",
    "Agent",
    "AgentInfo",
    "AgentStats",
    "Bus",
    "BusMismatchError",
    "ClosedError",
    "Codec",
    "CodecPool",
    "CorruptSegmentError",
    "DecodeError",
    "Empty",
    "EncodeError",
    "EventBus",
    "EventBusStats",
    "FastCommError",
    "FencedError",
    "ForkedError",
    "Full",
    "InvalidCpusError",
    "InvalidNameError",
    "InvalidSubjectError",
    "JoinableQueue",
    "Message",
    "MessageTooLargeError",
    "NameTakenError",
    "NoRespondersError",
    "NotRegisteredError",
    "PeerDiedError",
    "Priority",
    "PriorityQueue",
    "PriorityQueueStats",
    "Queue",
    "RecordPinnedError",
    "RequestTimeoutError",
    "RespondError",
    "ResponderError",
    "RingBuffer",
    "RingStats",
    "RoleTakenError",
    "SegmentError",
    "SegmentExistsError",
    "SegmentNotFoundError",
    "SegmentVanishedError",
    "ShmFullError",
    "ShutDown",
    "SimpleQueue",
    "StringTable",
    "Struct",
    "SubjectRegistry",
    "Subscription",
    "TableFullError",
    "UnknownFlagError",
    "__version__",
    "collides",
    "connect",
    "decode",
    "encode",
    "encode_into",
    "is_subset",
    "is_valid_pattern",
    "is_valid_subject",
    "matches",
]

_MODULES = {
    "fastcomm._core.codec": ("Codec", "decode", "encode", "encode_into"),
    "fastcomm._core.message": ("Message",),
    "fastcomm._core.strings": ("StringTable",),
    "fastcomm.agent": ("Agent", "AgentStats"),
    "fastcomm.bus": ("AgentInfo", "Bus", "connect"),
    "fastcomm.codec": ("CodecPool",),
    "fastcomm.events": ("EventBus", "EventBusStats"),
    "fastcomm.priorities": ("Priority",),
    "fastcomm.priority": ("PriorityQueue", "PriorityQueueStats"),
    "fastcomm.queue": ("JoinableQueue", "Queue", "SimpleQueue"),
    "fastcomm.rings": ("RingBuffer", "RingStats"),
    "fastcomm.structs": ("Struct",),
    "fastcomm.subscription": ("Subscription",),
    "fastcomm.subjects": (
        "SubjectRegistry",
        "collides",
        "is_subset",
        "is_valid_pattern",
        "is_valid_subject",
        "matches",
    ),
}
# Every public name that is in none of these modules is an exception.
_HOMES = dict.fromkeys(__all__, "fastcomm.errors") | {
    name: module for module, names in _MODULES.items() for name in names
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use is an ordinary look-up
    return value


def __dir__() -> list[str]:
    return __all__.copy()

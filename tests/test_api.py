"""The public names of fastcomm are locked: this list changes only on purpose, together with the changelog."""

import ast
import inspect
from pathlib import Path

import pytest

import fastcomm
from fastcomm import errors

PUBLIC = {
    "__version__",
    # connect, and what it leads to
    "Agent",
    "AgentInfo",
    "AgentStats",
    "Bus",
    "Message",
    "Priority",
    "Subscription",
    "connect",
    # queues
    "JoinableQueue",
    "PriorityQueue",
    "PriorityQueueStats",
    "Queue",
    "SimpleQueue",
    # events
    "EventBus",
    "EventBusStats",
    # messages with a layout
    "Struct",
    # rings
    "RingBuffer",
    "RingStats",
    # codec
    "Codec",
    "CodecPool",
    "StringTable",
    "decode",
    "encode",
    "encode_into",
    # subjects
    "SubjectRegistry",
    "collides",
    "is_subset",
    "is_valid_pattern",
    "is_valid_subject",
    "matches",
    # errors
    "AbiMismatchError",
    "AffinityProfileError",
    "BusMismatchError",
    "ClosedError",
    "CorruptSegmentError",
    "DecodeError",
    "Empty",
    "EncodeError",
    "FastCommError",
    "FencedError",
    "ForkedError",
    "Full",
    "InvalidCpusError",
    "InvalidNameError",
    "InvalidSubjectError",
    "MessageTooLargeError",
    "NameTakenError",
    "NoRespondersError",
    "NotRegisteredError",
    "PeerDiedError",
    "RecordPinnedError",
    "RequestTimeoutError",
    "RespondError",
    "ResponderError",
    "RoleTakenError",
    "SegmentError",
    "SegmentExistsError",
    "SegmentNotFoundError",
    "SegmentVanishedError",
    "ShmFullError",
    "ShutDown",
    "TableFullError",
    "UnknownFlagError",
}


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module of the imports that only type checkers see."""
    tree = ast.parse(Path(fastcomm.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_public_names_are_exactly_these() -> None:
    assert set(fastcomm.__all__) == PUBLIC


def test_dir_lists_the_public_names() -> None:
    assert set(dir(fastcomm)) == PUBLIC


@pytest.mark.parametrize("public", sorted(PUBLIC))
def test_name_resolves_to_the_object_of_its_module(public: str) -> None:
    found = getattr(fastcomm, public)
    home = inspect.getmodule(found)
    assert public == "__version__" or (home is not None and getattr(home, public) is found)


def test_type_checkers_see_the_names_that_run_time_has() -> None:
    homes = {name: home for name, home in fastcomm._HOMES.items() if name != "__version__"}
    assert names_for_type_checkers() == homes


def test_every_exception_is_public() -> None:
    raised = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert raised == {name for name, home in names_for_type_checkers().items() if home == "fastcomm.errors"}


@pytest.mark.parametrize("public", sorted(PUBLIC - {"__version__"}))
def test_name_has_a_docstring_of_its_own(public: str) -> None:
    found = getattr(fastcomm, public)
    assert vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__, public


def test_unknown_name_is_an_attribute_error_that_says_it() -> None:
    with pytest.raises(AttributeError, match="module 'fastcomm' has no attribute 'RingBufer'"):
        fastcomm.RingBufer  # noqa: B018

"""Subjects: the names that messages are published under, and who listens to them.

A subject is a list of tokens with dots between: ``tasks.render.done``. What is subscribed to is a pattern, in
which ``*`` stands for any one token and ``>``, as the last one, for one or more::

    tasks.*.done    matches tasks.render.done; not tasks.done
    tasks.>         matches tasks.render and tasks.render.done; not tasks
    *.render        matches tasks.render
    >               matches every subject
    a*.>b           has no wildcard: they count as a whole token alone

Every subject is also a pattern that matches itself and nothing else. Subjects are case-sensitive and have at
most MAX_SUBJECT_BYTES of UTF-8. White space, control characters and empty tokens are refused with
InvalidSubjectError, which says why and where. The grammar is that of NATS, so that a subject means the same
on both sides of a bridge.

The functions take str alone (TypeError for anything else) and may be called from any thread:

    is_valid_subject(subject), is_valid_pattern(pattern)    as a bool
    check_subject(subject), check_pattern(pattern)          or raise InvalidSubjectError
    matches(pattern, subject)                               does it match?
    collides(a, b)                                          is there a subject that both patterns match?
    is_subset(a, b)                                         does b match everything that a matches?

`SubjectRegistry` stores any number of values under patterns and finds all that match a subject::

    >>> registry = SubjectRegistry()
    >>> registry.insert("tasks.*.done", "log")
    >>> registry.insert("tasks.>", "count")
    >>> registry.match("tasks.render.done")
    ('log', 'count')
    >>> registry.remove("tasks.*.done", "log")
    >>> registry.match("tasks.render.done")
    ('count',)
"""

from fastcomm._core.subject_registry import RegistryStats, SubjectRegistry
from fastcomm._core.subjects import (
    MAX_SUBJECT_BYTES,
    check_pattern,
    check_subject,
    collides,
    is_subset,
    is_valid_pattern,
    is_valid_subject,
    matches,
)
from fastcomm.errors import InvalidSubjectError, NotRegisteredError

__all__ = [
    "MAX_SUBJECT_BYTES",
    "InvalidSubjectError",
    "NotRegisteredError",
    "RegistryStats",
    "SubjectRegistry",
    "check_pattern",
    "check_subject",
    "collides",
    "is_subset",
    "is_valid_pattern",
    "is_valid_subject",
    "matches",
]

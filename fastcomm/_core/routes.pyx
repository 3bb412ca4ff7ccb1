"""Routes: from a subject to the inboxes that want it, without a lock.

A subject leads to a Route, cached as long as the generation of the subscription table stands still; when it
moves, the private registry is brought up to date from the change log. A target is an owner number and an
epoch: an inbox whose epoch has moved on has another agent or none, and is passed over.

Thread safety: under the GIL.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from fastcomm._core.subjects cimport PATTERN, SOUND, c_check
from fastcomm._core.tables cimport SubscriptionTable

from fastcomm._core.subject_registry import SubjectRegistry
from fastcomm._core.subjects import check_subject
from fastcomm._core.tables import RESERVED as _RESERVED
from fastcomm.errors import CorruptSegmentError, InvalidSubjectError

cdef str BUS_OWN = _RESERVED.decode()

cdef enum:
    MAX_ROUTES = 4096      # subjects whose targets are kept; then all are forgotten


@cython.final
cdef class Route:
    """The inboxes that a subject leads to, each once, and the groups."""

    def __dealloc__(self):
        free(self.targets)
        free(self.groups)
        free(self.members)

    cdef const target_t *waited_for(self, int place):
        """Of a group that had no room the member that is waited for."""
        cdef group_t *group
        if place < self.count:
            return &self.targets[place]
        group = &self.groups[place - self.count]
        return &self.members[group.first + group.waits_for]


@cython.final
cdef class Routes:
    """What one agent knows of the subscription table."""

    def __init__(self, SubscriptionTable subscriptions not None, uint32_t max_owner, uint32_t owner):
        """`owner`: of the agent; `max_owner`: the highest that the bus has room for."""
        self.subscriptions = subscriptions
        self.max_owner = max_owner
        self.owner = owner
        self.registry = SubjectRegistry(cache_size=0)
        self.known = {}
        self.routes = {}
        self.targets = <target_t *>calloc(subscriptions.capacity, sizeof(target_t))
        if self.targets == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.targets)

    cdef Route find(self, str subject):
        cdef object route
        if self.subscriptions.c_generation() != self.generation:
            self.refresh()
        route = self.routes.get(subject)
        return <Route>route if route is not None else self.make(subject)

    cdef int refresh(self) except -1:
        """Bring the private registry up to the table's generation."""
        cdef uint64_t until = self.subscriptions.c_generation()
        changed = self.subscriptions.changes(self.generation, until)
        if changed is None:
            changed = set(self.known).union(self.subscriptions.entries_in_use())
        for index in changed:
            self.apply_change(index)
        self.routes = {}
        self.generation = until
        return 0

    cdef int apply_change(self, uint32_t index) except -1:
        cdef size_t position
        cdef target_t *target
        entry = self.subscriptions.read(index)
        if entry == ():
            return 0    # being written: what is known holds until that change is announced
        known = self.known.pop(index, None)
        if known is not None:
            self.registry.remove(known[0], index)
        if entry is not None:
            target = &self.targets[index]
            target.owner, target.epoch, encoded, target.subscription, group = entry
            if c_check(encoded, len(encoded), PATTERN, &position) != SOUND:
                raise CorruptSegmentError(f"subscription {index} of the bus has the pattern {encoded!r}")
            pattern = encoded.decode()
            self.registry.insert(pattern, index)
            self.known[index] = pattern, group
        return 0

    cdef Route make(self, str subject):
        cdef Route route = Route.__new__(Route)
        cdef target_t target
        cdef uint32_t index
        cdef set owners = set()
        cdef dict groups = {}    # name -> the index of the subscription of each member, by owner
        check_subject(subject)
        if subject.startswith(BUS_OWN):
            raise InvalidSubjectError(
                f"agents can't publish to {subject!r}: subjects that begin with '$bus.' are the bus's own"
            )
        found = self.registry.match(subject)
        route.subject = subject.encode()
        route.targets = <target_t *>malloc(max(1, len(found)) * sizeof(target_t))
        if route.targets == NULL:
            raise MemoryError
        for index in found:
            target = self.targets[index]
            if not 1 <= target.owner <= self.max_owner:
                continue
            group = self.known[index][1]
            if group:
                groups.setdefault(group, {}).setdefault(target.owner, index)
            elif target.owner not in owners:
                owners.add(target.owner)
                target.subscription = 0
                route.targets[route.count] = target
                route.count += 1
        if groups:
            self.add_groups(route, groups)
        if self.forgets:
            return route
        if len(self.routes) >= MAX_ROUTES:
            self.routes = {}
        self.routes[subject] = route
        return route

    cdef int add_groups(self, Route route, dict groups) except -1:
        cdef group_t *group
        cdef int member = 0
        route.groups = <group_t *>calloc(len(groups), sizeof(group_t))
        route.members = <target_t *>calloc(sum(map(len, groups.values())), sizeof(target_t))
        if route.groups == NULL or route.members == NULL:
            raise MemoryError
        for name in sorted(groups):
            group = &route.groups[route.group_count]
            route.group_count += 1
            group.first = member
            group.count = len(groups[name])
            group.turn = self.owner % group.count    # publishers don't all begin with the same one
            for owner in sorted(groups[name]):
                route.members[member] = self.targets[<uint32_t>groups[name][owner]]
                member += 1
        return 0

"""Delivery: messages on their way to the inboxes and groups that a subject leads to, some of them full.

It owns what the pieces of its messages point into, and knows for each place how many are still to come.

Thread safety: under the GIL.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastcomm._core.outboxes cimport DELIVERED, DROPPED, NO_ROOM, RUNG, Outboxes, parts_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.routes cimport Route, group_t, target_t


@cython.final
cdef class Delivery:
    """Messages that some inboxes had no room for, or were not tried yet: what is left to do."""

    def __init__(self, Ring inbox not None, Route route not None, size_t count):
        """Of `count` messages that are to be described, to places that are to be named."""
        self.inbox = inbox
        self.route = route
        self.count = count
        self.parts = <parts_t *>calloc(max(count, <size_t>1), sizeof(parts_t))
        self.remaining = <rest_t *>calloc(max(route.count + route.group_count, 1), sizeof(rest_t))
        if self.parts == NULL or self.remaining == NULL:
            raise MemoryError
        self.deadline = -1
        self.watched_head = <uint64_t>-1

    def __dealloc__(self):
        free(self.parts)
        free(self.remaining)

    cdef uint32_t owner(self):
        """Of the inbox that is waited for."""
        return self.route.waited_for(self.remaining[0].place).owner

    cdef const parts_t *next_parts(self):
        """The message that it has no room for."""
        return self.parts + self.remaining[0].done

    cdef Py_ssize_t missing(self):
        cdef Py_ssize_t total = 0
        cdef int i
        for i in range(self.left):
            total += self.count - self.remaining[i].done
        return total

    cdef bint advance(self, Outboxes outboxes, list rung) except -1:
        """Try the places that are left; True: none is. `rung` gets whose doorbells are to be rung."""
        cdef rest_t *rest
        cdef int i, full = 0
        for i in range(self.left):
            rest = &self.remaining[i]
            if self.try_place(outboxes, rest, rung) & NO_ROOM:
                self.remaining[full] = rest[0]
                full += 1
        self.left = full
        return full == 0

    cdef int note(self, const target_t *target) except -1:
        if self.targets is not None:
            self.targets.append((target.owner, target.epoch))
        return 0

    cdef int try_place(self, Outboxes outboxes, rest_t *rest, list rung) except -1:
        """What is left for a target or a group; the outcome. `rung` gets whose doorbell is to be rung."""
        cdef Route route = self.route
        cdef group_t *group
        cdef size_t taken, done
        cdef int outcome = DELIVERED
        if rest.place < route.count:
            outcome = outboxes.deliver_all(
                &route.targets[rest.place], self.parts + rest.done, self.count - rest.done, &taken,
                &done,
            )
            rest.done += done
            self.reached += taken
            if taken:
                self.note(&route.targets[rest.place])
            if outcome & RUNG:
                rung.append(route.targets[rest.place].owner)
            return outcome
        group = &route.groups[rest.place - route.count]
        while rest.done < self.count and outcome == DELIVERED:
            outcome = outboxes.deliver_to_group(route, group, self.parts + rest.done, rung)
            if outcome == DELIVERED:
                self.reached += 1
                self.note(&route.members[group.first + group.reached])
            if outcome == DROPPED:
                outcome = DELIVERED    # that is the end of this one
            rest.done += outcome == DELIVERED
        return outcome

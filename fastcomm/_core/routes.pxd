"""From a subject to inboxes."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.tables cimport SubscriptionTable


# Where a message goes: the inbox of `owner` as long as it has this epoch.
cdef struct target_t:
    uint32_t owner
    uint32_t epoch
    uint32_t subscription          # of a group: which of the agent's; 0: all that are of no group


# Members of which one gets each message.
cdef struct group_t:
    int first                      # in Route.members
    int count
    int turn                       # where to begin to look for the one with the least backlog
    int waits_for                  # the one with the least backlog when all were full
    int reached                    # the one that got the last message


cdef class Route:
    cdef bytes subject
    cdef int count
    cdef target_t *targets
    cdef int group_count
    cdef group_t *groups
    cdef target_t *members         # of one group after the other

    cdef const target_t *waited_for(self, int place)


cdef class Routes:
    cdef SubscriptionTable subscriptions
    cdef uint32_t owner, max_owner
    cdef object registry
    cdef dict known                # index in the table -> (pattern, as the registry has it; group)
    cdef target_t *targets         # by index in the table
    cdef dict routes               # subject -> Route, good for `generation`
    cdef bint forgets              # keep none
    cdef uint64_t generation

    cdef Route find(self, str subject)
    cdef int refresh(self) except -1
    cdef int apply_change(self, uint32_t index) except -1
    cdef Route make(self, str subject)
    cdef int add_groups(self, Route route, dict groups) except -1

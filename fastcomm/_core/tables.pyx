"""The agent table and the subscription table of a bus.

Writers hold the segment's gate, so there is one at a time. Readers take nothing: each entry has a version
that is odd while it is written; a reader copies the entry out between two looks at the version and tries
again if they differ. It does not wait for a writer, which may be stopped: what a publisher knew of a
subscription that is being written holds until the change is announced, and an entry changes in between only
from free to somebody's or from that one's to free.

        writer                                  reader
        version += 1: odd                       v = version; odd: it can't be read now
        fields (relaxed words)                  fields (relaxed words)
        version += 1: even                      version again: same as v?

Who sees an even version sees the fields (SYNC entry-written). The second look is a fetch-and-add of nothing
that releases, as a load could be moved before the loads of the fields; and the writer's first step is an
exchange that acquires (SYNC entry-read). One of the two comes first: if the look, then the fields were loaded
before the writer stores any; if the exchange, then the look finds the version odd, or later.

A change of subscriptions becomes known by the generation: entry first, then the log line, then generation +=
1 (SYNC generation-bumped), which a publisher loads at each publish. It brings its private registry up to date
from the log, or from the whole table when it is further behind than the log is long.

A writer that is killed halfway leaves an odd version or a change that was not announced. The segment's
`mutating` flag, set around every change, tells the next holder of the gate, which calls repair(): odd entries
become free, everybody rescans.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastcomm._core.atomics cimport (
    fc_copy_to_shared,
    fc_load_relaxed_u32,
    fc_load_relaxed_u64,
    fc_store_relaxed_u32,
    fc_store_relaxed_u64,
)
from fastcomm._core.futex cimport fc_futex_wait, fc_futex_wake_all
from fastcomm._core.hooks cimport (
    FC_HOOK_TABLE_BEFORE_GENERATION,
    FC_HOOK_TABLE_MID_WRITE,
    arm_hook,
    fc_hook,
)
from fastcomm._core.layout cimport (
    FC_CHANGE_LOG,
    FC_MAX_AGENT_NAME,
    FC_MAX_GROUP,
    FC_MAX_PATTERN,
    fc_agent_t,
    fc_subscription_t,
    fc_subscriptions_t,
)

from fastcomm._core.wait cimport SLICE_NS

from fastcomm.errors import CorruptSegmentError, TableFullError

AGENT_BYTES = <int>sizeof(fc_agent_t)
MAX_AGENT_NAME = <int>FC_MAX_AGENT_NAME
MAX_GROUP = <int>FC_MAX_GROUP
CHANGE_LOG = <int>FC_CHANGE_LOG
RESERVED = b"$bus."    # subjects that begin so are the bus's own: only patterns that do match them


@cython.final
cdef class AgentTable:
    """Names of agents, by slot. Thread and process safety: write under the gate, read any time."""

    def __cinit__(self, unsigned char[::1] memory not None):
        self.memory = memory
        self.capacity = memory.shape[0] // sizeof(fc_agent_t)
        self.agents = <fc_agent_t *>&memory[0]

    def write(self, int slot, str name):
        """Under the gate. Returns whether the slot's inbox has been laid out before."""
        cdef bytes encoded = name.encode()
        cdef fc_agent_t *agent = self.agents + slot
        cdef fc_agent_t entry
        memset(&entry, 0, sizeof(entry))
        entry.name_length = len(encoded)
        memcpy(entry.name, <const char *>encoded, len(encoded))
        begin_write(&agent.version)
        fc_copy_to_shared(&agent.name_length, &entry.name_length, 8 + FC_MAX_AGENT_NAME)
        end_write(&agent.version)
        return fc_load_relaxed_u32(&agent.initialised) != 0

    def set_initialised(self, int slot):
        """Under the gate, after its inbox has been laid out."""
        fc_store_relaxed_u32(&self.agents[slot].initialised, 1)

    def initialised(self, int slot):
        """Under the gate: whether the slot's inbox has ever been laid out; if not, its pages must not be
        touched.
        """
        return fc_load_relaxed_u32(&self.agents[slot].initialised) != 0

    def name(self, int slot):
        """The name of the slot's latest holder; '?' for one that is being written or was scribbled on."""
        cdef fc_agent_t entry
        cdef fc_agent_t *agent = self.agents + slot
        if not read_entry(&agent.version, &entry, agent, sizeof(entry)):
            return "?"
        if entry.name_length > FC_MAX_AGENT_NAME:
            return "?"
        return entry.name[:entry.name_length].decode("utf-8", "replace")

    def repair(self):
        """Under the gate, when a writer died: an entry that it left half-written loses its name."""
        cdef int slot
        for slot in range(self.capacity):
            if fc_load_relaxed_u32(&self.agents[slot].version) & 1:
                fc_store_relaxed_u32(&self.agents[slot].name_length, 0)
                end_write(&self.agents[slot].version)


@cython.final
cdef class SubscriptionTable:
    """Patterns and the inboxes that they lead to.

    Thread and process safety: write under the gate, read any time.
    """

    def __cinit__(self, unsigned char[::1] memory not None):
        cdef uint64_t room = memory.shape[0]
        self.memory = memory
        self.shared = <fc_subscriptions_t *>&memory[0]
        self.entries = <fc_subscription_t *>(&memory[0] + sizeof(fc_subscriptions_t))
        self.capacity = (room - sizeof(fc_subscriptions_t)) // sizeof(fc_subscription_t)

    @staticmethod
    def bytes_needed(int capacity):
        return sizeof(fc_subscriptions_t) + <size_t>capacity * sizeof(fc_subscription_t)

    # ---------------------------------------------------------------------------------------- under the gate

    def insert(self, uint32_t owner, uint32_t epoch, bytes pattern, uint32_t number=0, bytes group=b""):
        """Returns the entry's index. number: of the agent's subscriptions; group: empty for none.

        TableFullError.
        """
        cdef uint32_t index
        for index in range(self.capacity):
            if fc_load_relaxed_u32(&self.entries[index].owner) == 0:
                self.write_entry(index, owner, epoch, pattern, number, group)
                return index
        raise TableFullError(
            f"all {self.capacity} entries of the bus's subscription table are taken; unsubscribe, use "
            "wildcards, or open the bus "
            "with a larger max_subscriptions", capacity=self.capacity,
        )

    def remove(self, uint32_t index):
        self.write_entry(index, 0, 0, b"")

    def drop_owner(self, uint32_t owner):
        """Remove every subscription that leads to the inbox of `owner`; returns how many."""
        cdef uint32_t index, dropped = 0
        for index in range(self.capacity):
            if fc_load_relaxed_u32(&self.entries[index].owner) == owner:
                self.write_entry(index, 0, 0, b"")
                dropped += 1
        return dropped

    def write_entry(self, uint32_t index, uint32_t owner, uint32_t epoch, bytes pattern, uint32_t number=0,
                    bytes group=b""):
        cdef fc_subscription_t entry
        cdef fc_subscription_t *at = self.entries + index
        if len(pattern) > <int>FC_MAX_PATTERN:
            raise ValueError(f"a pattern has at most {FC_MAX_PATTERN} bytes, this one has {len(pattern)}")
        if len(group) > <int>FC_MAX_GROUP:
            raise ValueError(f"a group has at most {FC_MAX_GROUP} bytes, this one has {len(group)}")
        memset(&entry, 0, sizeof(entry))
        entry.owner = owner
        entry.epoch = epoch
        entry.pattern_length = len(pattern)
        memcpy(entry.pattern, <const char *>pattern, len(pattern))
        entry.number = number
        entry.group_length = len(group)
        memcpy(entry.group, <const char *>group, len(group))
        begin_write(&at.version)
        fc_copy_to_shared(&at.epoch, &entry.epoch, sizeof(entry) - 8)    # all behind version and owner
        fc_hook(FC_HOOK_TABLE_MID_WRITE)
        fc_store_relaxed_u32(&at.owner, owner)
        end_write(&at.version)
        self.log_change(index)

    cdef int log_change(self, uint32_t entry) except -1:
        cdef uint64_t generation = fc_load_relaxed_u64(&self.shared.generation) + 1
        fc_store_relaxed_u64(&self.shared.log[generation % FC_CHANGE_LOG], (generation << 32) | entry)
        fc_hook(FC_HOOK_TABLE_BEFORE_GENERATION)
        generation_bump(self.shared, generation)
        return 0

    def repair(self):
        """When a writer died: half-written entries become free, and every reader starts from the table."""
        cdef uint32_t index
        cdef uint64_t generation = fc_load_relaxed_u64(&self.shared.generation) + 1
        for index in range(self.capacity):
            if fc_load_relaxed_u32(&self.entries[index].version) & 1:
                fc_store_relaxed_u32(&self.entries[index].owner, 0)
                end_write(&self.entries[index].version)
        fc_store_relaxed_u64(&self.shared.rescan, generation)
        generation_bump(self.shared, generation)

    # ---------------------------------------------------------------------------------------------- any time

    cdef uint64_t c_generation(self) noexcept nogil:
        return generation_seen(self.shared)

    @property
    def generation(self):
        """How many changes there have been."""
        return self.c_generation()

    def wait_change(self, uint64_t seen, int64_t timeout_ns):
        """Sleep until the generation is no longer `seen`, at most so long; a slice at a time, so that the
        caller sees to the dead.

        Whoever changes something wakes all that sleep here, always: changes are rare.
        """
        cdef uint32_t *word = <uint32_t *>&self.shared.generation    # its low half
        if self.c_generation() == seen:
            with nogil:
                fc_futex_wait(word, <uint32_t>seen, min(timeout_ns, <int64_t>SLICE_NS))
            PyErr_CheckSignals()

    def wake_waiters(self):
        fc_futex_wake_all(<uint32_t *>&self.shared.generation)

    def changes(self, uint64_t since, uint64_t until):
        """Indices of the entries that changed after generation `since` up to `until`;

        None: read the whole table.
        """
        cdef uint64_t generation, line
        cdef list changed = []
        if since < fc_load_relaxed_u64(&self.shared.rescan) or until - since >= FC_CHANGE_LOG:
            return None
        for generation in range(since + 1, until + 1):
            line = fc_load_relaxed_u64(&self.shared.log[generation % FC_CHANGE_LOG])
            if line >> 32 != generation & 0xFFFFFFFF:
                return None    # overwritten by a later change meanwhile
            changed.append(line & 0xFFFFFFFF)
        return changed

    def read(self, uint32_t index):
        """(owner, epoch, pattern, number, group), both texts as bytes; None for a free entry; () for one that
        is being written.
        """
        cdef fc_subscription_t entry
        if index >= self.capacity:
            raise CorruptSegmentError(f"the bus's change log names subscription {index} of {self.capacity}")
        if not read_entry(&self.entries[index].version, &entry, self.entries + index, sizeof(entry)):
            return ()
        if entry.owner == 0:
            return None
        if entry.pattern_length > <uint32_t>FC_MAX_PATTERN:
            raise CorruptSegmentError(f"subscription {index} of the bus has {entry.pattern_length} bytes")
        if entry.group_length > <uint32_t>FC_MAX_GROUP:
            raise CorruptSegmentError(
                f"the group of subscription {index} of the bus has {entry.group_length} bytes"
            )
        return (
            entry.owner, entry.epoch, entry.pattern[:entry.pattern_length], entry.number,
            entry.group[:entry.group_length],
        )

    def entries_in_use(self):
        """Indices of the entries that were not free when looked at."""
        cdef uint32_t index
        return [
            index for index in range(self.capacity)
            if fc_load_relaxed_u32(&self.entries[index].owner) != 0
        ]

    def entries_under(self, bytes prefix not None):
        """Under the gate: indices of the entries in use with a pattern that begins so."""
        cdef uint32_t index
        cdef size_t length = min(len(prefix), <int>FC_MAX_PATTERN)
        cdef const char *wanted = prefix
        return [
            index for index in range(self.capacity)
            if fc_load_relaxed_u32(&self.entries[index].owner) != 0
            and memcmp(self.entries[index].pattern, wanted, length) == 0
        ]


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)

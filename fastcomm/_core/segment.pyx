"""A segment: a file of shared memory (segment_file.pyx), its participants, and who of them is alive.

Liveness. Each participant holds an OFD lock on a byte of its own, which the kernel drops when the process
dies: there is no pid to be reused, no clock, no heartbeat, and it works across pid namespaces.

States of a slot: FREE -> JOINING -> LIVE -> LEAVING -> FREE. Its byte is locked before the state leaves FREE,
and unlocked after it is FREE again, so "not FREE and not locked" means dead. A dead participant is reaped
under the gate, every step of it idempotent, its slot freed last: a reaper that dies leaves a slot that is
still dead, and a gate that is free.

Thread safety: all methods.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastcomm._core.atomics cimport (
    fc_cas_relaxed_u64,
    fc_fetch_add_relaxed_u32,
    fc_load_relaxed_u32,
    fc_load_relaxed_u64,
    fc_store_relaxed_u32,
)
from fastcomm._core.futex cimport fc_monotonic_ns
from fastcomm._core.hooks cimport *
from fastcomm._core.layout cimport *
from fastcomm._core.participant cimport slot_set_state, slot_state
from fastcomm._core.segment_file cimport SegmentFile, any_lock

import os

from fastcomm.errors import TableFullError

cdef enum:
    SCAN_PERIOD_NS = 500_000_000

KIND_RING = <int>FC_KIND_RING
KIND_BUS = <int>FC_KIND_BUS
KIND_QUEUE = <int>FC_KIND_QUEUE
SECTION_PARTICIPANTS = <int>FC_SECTION_PARTICIPANTS
SECTION_RING = <int>FC_SECTION_RING
SECTION_CONTROL = <int>FC_SECTION_CONTROL
SECTION_AGENTS = <int>FC_SECTION_AGENTS
SECTION_SUBSCRIPTIONS = <int>FC_SECTION_SUBSCRIPTIONS
SECTION_STRINGS = <int>FC_SECTION_STRINGS
SECTION_INBOXES = <int>FC_SECTION_INBOXES
PAGE = <int>FC_PAGE
PARTICIPANT_BYTES = <int>sizeof(fc_participant_t)
MAX_PARTICIPANTS = <int>FC_MAX_OWNER


@cython.final
cdef class Segment(SegmentFile):
    """An open segment.

    Made by Segment.open(); the caller holds the gate when it returns and must call leave_gate().
    """

    def __cinit__(self):
        self.own = set()

    cdef find_parts(self, const fc_header_t *checked):
        SegmentFile.find_parts(self, checked)
        self.max_participants = checked.max_participants
        self.participants = <fc_participant_t *>(
            self.mapping.base + checked.sections[<int>FC_SECTION_PARTICIPANTS].offset
        )

    def close(self):
        """Close the descriptors; slots that were not left count as dead from now on.

        The mapping stays while views of it do.
        """
        self.own.clear()
        SegmentFile.close(self)

    def after_fork_in_child(self):
        SegmentFile.after_fork_in_child(self)
        self.own = set()

    # ------------------------------------------------------------------------------------------ participants

    def join(self):
        """Take a free slot, under the gate; it is JOINING until live() says that it is complete.

        TableFullError.
        """
        cdef fc_participant_t *participant
        cdef int slot
        for slot in range(self.max_participants):
            participant = self.participants + slot
            if slot_state(participant) != FC_SLOT_FREE or slot in self.own:
                continue
            if not self.lock_byte(FC_LOCK_PARTICIPANTS + slot, False):
                continue    # its last holder has freed it and not unlocked it yet
            self.own.add(slot)
            fc_hook(FC_HOOK_JOIN_BEFORE_STATE)
            fc_store_relaxed_u32(&participant.pid, os.getpid())
            fc_store_relaxed_u32(&participant.fd_armed, 0)
            fc_fetch_add_relaxed_u32(&participant.generation, 1)
            participant.joined_ns = fc_monotonic_ns()
            slot_set_state(participant, FC_SLOT_JOINING)
            fc_hook(FC_HOOK_JOIN_AFTER_STATE)
            return slot
        raise TableFullError(
            f"all {self.max_participants} places of {self.name!r} are taken by live participants; end some, "
            "or create it with "
            "room for more", capacity=self.max_participants,
        )

    def live(self, int slot):
        slot_set_state(&self.participants[slot], FC_SLOT_LIVE)

    def leaving(self, int slot):
        """Its holder has begun to leave, under the gate; free() is the last step."""
        slot_set_state(&self.participants[slot], FC_SLOT_LEAVING)

    def free(self, int slot):
        """The last step of leaving and of reaping, under the gate: the slot's number may come to mean
        somebody else.
        """
        fc_hook(FC_HOOK_LEAVE_BEFORE_FREE)
        fifo = self.fifo_path(slot)
        if fc_load_relaxed_u32(&self.participants[slot].fd_armed):
            try:
                os.unlink(fifo)
            except FileNotFoundError:
                pass
        slot_set_state(&self.participants[slot], FC_SLOT_FREE)
        if slot in self.own:
            self.unlock_byte(FC_LOCK_PARTICIPANTS + slot)
            self.own.discard(slot)

    cdef bint taken(self, int slot) noexcept:
        """Whether there is such a slot and it is not free."""
        return (0 <= slot < self.max_participants
                and slot_state(&self.participants[slot]) != FC_SLOT_FREE)

    def alive(self, int slot):
        """Whether the holder of the slot lives; False for a free slot and for one out of range."""
        if not self.taken(slot):
            return False
        self.check_open()
        return slot in self.own or any_lock(self.probe_fd, FC_LOCK_PARTICIPANTS + slot, 1, self.path)

    def holds(self, int slot):
        """Whether this handle, in this process, joined in that slot."""
        return slot in self.own

    def dead_slots(self):
        """Slots whose holders died and were not reaped."""
        cdef int slot
        return [
            slot for slot in range(self.max_participants)
            if slot_state(&self.participants[slot]) != FC_SLOT_FREE and not self.alive(slot)
        ]

    def taken_slots(self):
        """Slots that are not free: the living, and the dead that were not reaped yet."""
        cdef int slot
        return [
            slot for slot in range(self.max_participants)
            if slot_state(&self.participants[slot]) != FC_SLOT_FREE
        ]

    def live_slots(self):
        """Slots of those that have joined completely and not begun to leave, the dead among them included."""
        return self.slots_in(FC_SLOT_LIVE)

    def leaving_slots(self):
        """Slots of those that have begun to leave."""
        return self.slots_in(FC_SLOT_LEAVING)

    cdef list slots_in(self, uint32_t state):
        cdef int slot
        return [
            slot for slot in range(self.max_participants) if slot_state(&self.participants[slot]) == state
        ]

    def others_alive(self):
        """Whether any live participant holds its slot through another handle than this."""
        return any(slot not in self.own and self.alive(slot) for slot in self.taken_slots())

    def pid_of(self, int slot):
        return fc_load_relaxed_u32(&self.participants[slot].pid) if 0 <= slot < self.max_participants else 0

    def generation_of(self, int slot):
        """Names one holder of the slot for ever; 0 for a slot out of range."""
        if not 0 <= slot < self.max_participants:
            return 0
        return fc_load_relaxed_u32(&self.participants[slot].generation)

    def joined_ns(self, int slot):
        """When the holder of the slot joined, CLOCK_MONOTONIC nanoseconds; 0 for a slot out of range."""
        return self.participants[slot].joined_ns if 0 <= slot < self.max_participants else 0

    def describe(self, int slot):
        """Who that is, for the text of an error."""
        if not self.taken(slot):
            return "nobody"
        return describe_process(self.pid_of(slot), self.alive(slot))

    def stopped(self, int slot):
        """Whether the holder of the slot lives, but is stopped (SIGSTOP, a debugger)."""
        return self.alive(slot) and process_of(self.pid_of(slot))[1]

    def scan_is_due(self):
        """True for one caller of all processes each 500 ms: it looks for the dead."""
        cdef uint64_t now = fc_monotonic_ns()
        cdef uint64_t due = fc_load_relaxed_u64(&self.header.scan_due)
        # Farther ahead than anybody sets it: the word is of another clock (another boot), or was overwritten.
        if now < due <= now + 2 * SCAN_PERIOD_NS:
            return False
        return fc_cas_relaxed_u64(&self.header.scan_due, &due, now + SCAN_PERIOD_NS)

    def note_death(self, int slot):
        """What the dead held has been given up; free() is next."""
        fc_hook(FC_HOOK_REAP_BEFORE_FREE)
        fc_store_relaxed_u32(&self.header.last_dead, self.pid_of(slot))
        fc_fetch_add_relaxed_u32(&self.header.deaths, 1)

    @property
    def deaths(self):
        """(how many participants were found dead since creation, pid of the latest)"""
        return fc_load_relaxed_u32(&self.header.deaths), fc_load_relaxed_u32(&self.header.last_dead)

    # ---------------------------------------------------------------------------------------- doorbell FIFOs

    def fifo_path(self, int slot):
        return f"{self.path}.{slot}.{self.generation_of(slot)}"

    def arm_fifo(self, int slot):
        """Create the slot's doorbell FIFO and return its read end, non-blocking; also open for writing, so
        never at EOF.
        """
        path = self.fifo_path(slot)
        # First the flag: a reaper that finds it set removes the file, whether we got as far as making it or
        # not.
        fc_store_relaxed_u32(&self.participants[slot].fd_armed, 1)
        while True:
            try:
                os.mkfifo(path, os.fstat(self.lock_fd).st_mode & 0o777)
            except FileExistsError:
                pass
            try:
                return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                pass    # of an unlinked segment: it was cleaned away, as nobody had it open

    def armed_fifos(self):
        """Paths of the FIFOs of everybody who may sleep on one."""
        cdef int slot
        return [
            self.fifo_path(slot) for slot in range(self.max_participants)
            if fc_load_relaxed_u32(&self.participants[slot].fd_armed)
            and slot_state(&self.participants[slot]) != FC_SLOT_FREE
        ]


# ------------------------------------------------------------------------------------------------- processes

cdef tuple process_of(int pid):
    """(command in parentheses, whether the process is stopped); of one that has gone: "(?)", False."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            text = file.read()    # pid (command) state ..., and the command may contain parentheses
    except OSError:
        return "(?)", False
    end = text.rindex(")")
    return text[text.index("("):end + 1], text[end + 2] in "Tt"


def describe_process(int pid, bint alive=True):
    """``pid 7 (python), alive but stopped``, for the text of an error."""
    command, stopped = process_of(pid)
    return f"pid {pid} {command}, {'dead' if not alive else 'alive but stopped' if stopped else 'alive'}"


# ----------------------------------------------------------------------------------------- without attaching

def inspect(str path):
    """What can be told of a segment file by reading it: a dict, or None if it is gone.

    Nothing is mapped, nobody disturbed.
    """
    cdef fc_header_t header
    cdef int slot, fd
    found = dict(path=path, name="", kind="", size=0, resident=0, participants=0, alive=0, problem=None)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        return dict(found, problem=error.strerror)
    try:
        status = os.fstat(fd)
        found.update(size=status.st_size, resident=status.st_blocks * 512)
        head = os.pread(fd, sizeof(fc_header_t), 0)
        if len(head) < <Py_ssize_t>sizeof(fc_header_t) or not any(head[:8]):
            return dict(found, problem="never completed by its creator")
        memcpy(&header, <const char *>head, sizeof(fc_header_t))
        if header.magic != FC_MAGIC:
            return dict(found, problem="not a fastcomm segment")
        if header.abi_version != FC_ABI_VERSION:
            return dict(found, problem=f"layout version {header.abi_version}, not {FC_ABI_VERSION}")
        kinds = {FC_KIND_RING: "ring", FC_KIND_BUS: "bus", FC_KIND_QUEUE: "queue"}
        kind = kinds.get(header.kind, f"kind {header.kind}")
        table = os.pread(fd, min(header.max_participants, FC_MAX_OWNER) * sizeof(fc_participant_t),
                         min(header.sections[<int>FC_SECTION_PARTICIPANTS].offset, <uint64_t>status.st_size))
        places = range(0, len(table), sizeof(fc_participant_t))
        states = [int.from_bytes(table[at:at + 4], "little") for at in places]
        taken = [slot for slot in range(len(states)) if states[slot] != FC_SLOT_FREE]
        alive = sum(any_lock(fd, FC_LOCK_PARTICIPANTS + slot, 1, path) for slot in taken)
        name = header.name[:min(header.name_length, <uint32_t>FC_MAX_NAME)].decode("utf-8", "replace")
        return dict(found, name=name, kind=kind, participants=len(taken), alive=alive)
    finally:
        os.close(fd)


def remove_if_dead(str path):
    """Remove a segment file in which nobody lives, and its doorbell FIFOs;

    True if it was removed. Waits for nobody.
    """
    cdef Segment segment = Segment.__new__(Segment)
    segment.path = segment.name = path
    try:
        segment.open_fds(False, 0)
        if not segment.try_enter_gate():
            return False
        try:
            if not segment.is_current():
                return False
            if any_lock(segment.probe_fd, FC_LOCK_PARTICIPANTS, FC_MAX_OWNER, path):
                return False
            folder, base = os.path.split(path)
            for entry in os.listdir(folder):
                if entry.startswith(base + "."):
                    os.unlink(os.path.join(folder, entry))
            os.unlink(path)
            return True
        finally:
            segment.leave_gate()
    except (FileNotFoundError, PermissionError):
        return False
    finally:
        segment.close_fds()


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)

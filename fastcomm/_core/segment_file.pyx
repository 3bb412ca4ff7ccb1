"""A segment's file: its name, its mapping, the locks on its bytes, creating, attaching, unlinking.

The file lies in /dev/shm (an ordinary POSIX shared memory object:
``multiprocessing.shared_memory.SharedMemory`` attaches to it by the same name) or in another directory on a
tmpfs or hugetlbfs. It is mapped here rather than by SharedMemory for four reasons: importing that module
costs a process 5 MB of private memory (measured, 3.11), its resource tracker unlinks live segments when an
attached process exits (bpo-38119, before 3.13), an attach that fails unlinks them too (3.11), and its views
and its mapping don't keep each other alive.

Locks are OFD locks (fcntl F_OFD_SETLK) on bytes far beyond the file's contents. The kernel drops one when the
last descriptor of that open file description goes, that is when the process dies. A probe (F_OFD_GETLK)
through the description that holds the lock always says "free", so a handle has two descriptions: `lock_fd`
locks, `probe_fd` probes and is mapped. A mapping keeps its description, and a forked child keeps the mapping:
made through `lock_fd` it would keep a killed parent's locks.

The gate is one such byte: who holds it may create, join, leave, reap, take over, unlink, or change tables.
Nothing that moves messages waits for it, nor does who only wants to tidy up.

Fork. The child shares the descriptions, and would keep its parent's locks alive: right after the fork it
closes both (never unlocks: that would unlock the parent) and opens new ones of its own. Its handles are
marked `forked` and join anew.

Pages are reserved (posix_fallocate) before they are touched: too little room is an error here, never a SIGBUS
later.

Thread safety: all methods; a mutex keeps the threads of a process from each other. The creator stores the
magic last; attaching reads the header by a system call, before it maps anything. Both hold the gate, whose
lock orders them.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EACCES, EAGAIN, EINTR, ENOSPC, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset, strerror

from fastcomm._core.atomics cimport (
    fc_load_relaxed_u32,
    fc_store_relaxed_u32,
    fc_store_release_u64,
)
from fastcomm._core.hooks cimport *
from fastcomm._core.layout cimport *

import os
import time
import weakref
from _thread import allocate_lock

from fastcomm.errors import (
    AbiMismatchError,
    ClosedError,
    CorruptSegmentError,
    InvalidNameError,
    SegmentError,
    SegmentNotFoundError,
    SegmentVanishedError,
    ShmFullError,
)

cdef extern from "<fcntl.h>" nogil:
    cdef struct flock:
        short l_type
        short l_whence
        long long l_start
        long long l_len
        int l_pid
    int F_OFD_SETLK, F_OFD_SETLKW, F_OFD_GETLK
    int F_RDLCK, F_WRLCK, F_UNLCK
    int fcntl(int fd, int command, flock *lock)
    int posix_fallocate(int fd, long long offset, long long length)
    int fallocate(int fd, int mode, long long offset, long long length)
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long long offset)
    int munmap(void *address, size_t length)
    int madvise(void *address, size_t length, int advice)
    int MADV_DONTNEED
    int PROT_READ, PROT_WRITE, MAP_SHARED, MAP_PRIVATE, MAP_NORESERVE
    void *MAP_FAILED

GATE = FC_LOCK_GATE              # the byte of a segment's file that the holder of its gate has locked
_segments = weakref.WeakSet()    # live handles, for the fork hook


# ----------------------------------------------------------------------------------------------------- names

def file_name(str name not None, uid=None):
    """The file of the segment `name` of a user: ``fastcomm.<uid>.<hash>``, short enough for every system.

    InvalidNameError for an empty name, one of more than 192 bytes of UTF-8, or one with a NUL or a slash.
    """
    cdef uint64_t digest = 0xCBF29CE484222325ULL    # FNV-1a, 64 bits; attaching compares the real name too
    cdef unsigned char byte
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise InvalidNameError(f"the name {name!r} is not valid Unicode: {error.reason}") from None
    if not 1 <= len(encoded) <= FC_MAX_NAME:
        raise InvalidNameError(f"a name has 1 to {FC_MAX_NAME} bytes of UTF-8; this one has {len(encoded)}")
    if b"/" in encoded or b"\0" in encoded:
        raise InvalidNameError(
            f"the name {name!r} contains '/' or NUL; give a plain name, and the folder of the segment as "
            "directory="
        )
    for byte in encoded:
        digest = (digest ^ byte) * 0x100000001B3ULL
    return f"fastcomm.{os.getuid() if uid is None else uid}.{digest:016x}"


cdef bytes boot_id():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


# ---------------------------------------------------------------------------------------------------- memory

@cython.final
cdef class Mapping:
    """A mapping of a file, exported as a buffer; it is unmapped when the last view of it has gone.

    Shared; or private: what is written here stays here, and from then on its page shows nothing of what
    others write, until renew().
    """

    def __cinit__(self, int fd, size_t size, bint private=False):
        # NORESERVE: a private copy of a segment that is larger than memory could not be had, nor is it made.
        cdef int flags = MAP_PRIVATE | MAP_NORESERVE if private else MAP_SHARED
        cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0)
        if base == MAP_FAILED:
            raise OSError(errno, strerror(errno).decode())
        self.base = <unsigned char *>base
        self.size = size

    def renew(self):
        """Of a private mapping: forget what was written here, and see what others have written."""
        madvise(self.base, self.size, MADV_DONTNEED)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.size, False, flags)

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.size)


def _free_bytes(int fd):
    status = os.fstatvfs(fd)
    return status.f_bavail * status.f_frsize


def reserve_pages(int fd, long long offset, long long length, path):
    """Make pages exist. ShmFullError if the file system has too few."""
    cdef int error
    while True:
        with nogil:
            error = posix_fallocate(fd, offset, length)
        if error == 0:
            return
        if error == ENOSPC:
            free = _free_bytes(fd)
            raise ShmFullError(
                f"{path}: {length} bytes of shared memory are needed, {free} are free on "
                f"{os.path.dirname(path)}. In a container "
                "start it with a larger --shm-size (Kubernetes: an emptyDir of medium Memory), use fewer or "
                "smaller inboxes, or "
                "name another tmpfs by directory= or FASTCOMM_DIR",
                needed=length, free=free,
            )
        if error != EINTR:
            raise OSError(error, strerror(error).decode(), path)


cdef bint any_lock(int fd, long long offset, long long length, str path) except -1:
    """Whether another description than fd's holds a lock within the range."""
    cdef flock lock
    memset(&lock, 0, sizeof(lock))
    lock.l_type = F_WRLCK
    lock.l_start = offset
    lock.l_len = length
    if fcntl(fd, F_OFD_GETLK, &lock):
        raise OSError(errno, strerror(errno).decode(), path)
    return lock.l_type != F_UNLCK


# -------------------------------------------------------------------------------------------- a file's handle

cdef class SegmentFile:
    """What Segment is without its participants."""

    def __cinit__(self):
        self.lock_fd = self.probe_fd = -1
        self.mutex = allocate_lock()

    def __dealloc__(self):
        self.close_fds()

    cdef close_fds(self):
        cdef int lock_fd = self.lock_fd, probe_fd = self.probe_fd
        self.lock_fd = self.probe_fd = -1
        if probe_fd >= 0:
            os.close(probe_fd)
        if lock_fd >= 0:
            os.close(lock_fd)

    @classmethod
    def open(cls, str path, *, str name, int kind, plan=None, int mode=0o600):
        """Open the segment at `path` and enter its gate.

        plan: None to attach only (SegmentNotFoundError if there is none), or a callable without arguments
        that returns (max_participants, sections, reserved, parameters) for creating it: sections a list of
        (offset, size) in bytes, `reserved` how many bytes from the start get their pages at once. A file
        without magic, left by a creator that died, is made anew. Returns (segment, created).
        AbiMismatchError, CorruptSegmentError, ShmFullError, PermissionError.
        """
        cdef SegmentFile self = cls.__new__(cls)
        self.path = path
        self.name = name
        while True:
            self.open_fds(plan is not None, mode)
            self.enter_gate()
            try:
                if self.is_current() and not self.finish_unlink():
                    break
            except BaseException:
                self.leave_gate()
                raise
            self.leave_gate()    # somebody unlinked the file between our open and our lock: start over
            self.close_fds()
        try:
            created = self.attach_or_create(kind, plan, mode)
        except BaseException:
            self.leave_gate()
            self.close_fds()
            raise
        self.forked = False
        _segments.add(self)
        return self, created

    @classmethod
    def look(cls, str path):
        """The segment at `path`, of whatever name and kind, only to look at it.

        Waits for nobody and disturbs nobody.

        The file is opened for reading, so no lock can be taken through it, and mapped privately, so that
        nothing written here reaches it. Only pages that were reserved may be read: reading one of an inbox
        that nobody has had would make it. SegmentNotFoundError, AbiMismatchError, CorruptSegmentError,
        PermissionError.
        """
        cdef SegmentFile self = cls.__new__(cls)
        cdef fc_header_t header
        self.path = self.name = path
        self.only_looks = True
        # O_NONBLOCK: opening a FIFO of that name must not wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            self.lock_fd = os.open(path, flags)
        except FileNotFoundError:
            raise SegmentNotFoundError(f"there is no segment {path}") from None
        self.probe_fd = os.dup(self.lock_fd)    # the same description will do: it holds no locks
        head = os.pread(self.lock_fd, sizeof(fc_header_t), 0)
        if len(head) < <Py_ssize_t>sizeof(fc_header_t) or not any(head[:8]):
            raise SegmentNotFoundError(f"the segment {path} was never completed by its creator")
        memcpy(&header, <const char *>head, sizeof(fc_header_t))
        self.name = header.name[:min(header.name_length, <uint32_t>FC_MAX_NAME)].decode("utf-8", "replace")
        self.attach(head, header.kind)
        return self

    cdef open_fds(self, bint create, int mode):
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        try:
            self.lock_fd = os.open(self.path, flags, mode)
        except FileNotFoundError:
            raise SegmentNotFoundError(
                f"there is no segment named {self.name!r} (no file {self.path}); create it first, or pass "
                "the same directory= and "
                "user as its creator"
            ) from None
        except PermissionError:
            self.explain_permissions()
            raise
        self.open_probe()

    cdef open_probe(self):
        # Through /proc: the same file for certain, whatever has become of its name, and a description of its
        # own.
        self.probe_fd = os.open(f"/proc/self/fd/{self.lock_fd}", os.O_RDWR | os.O_CLOEXEC)

    cdef explain_permissions(self):
        try:
            status = os.stat(self.path)
        except OSError:
            return
        raise PermissionError(
            EACCES,
            f"the segment {self.name!r} belongs to uid {status.st_uid} and has mode "
            f"{status.st_mode & 0o777:o}; "
            "its creator can open it to a group with mode=0o660", self.path,
        ) from None

    cdef bint is_current(self) except -1:
        """Whether the path still leads to the file that we opened."""
        mine = os.fstat(self.lock_fd)
        try:
            named = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)

    cdef bint finish_unlink(self) except -1:
        """Remove the file if somebody died between saying so and doing it: it must not be joined any more."""
        cdef fc_header_t header
        cdef bytes head = os.pread(self.lock_fd, sizeof(fc_header_t), 0)
        if len(head) < <Py_ssize_t>sizeof(fc_header_t):
            return False
        memcpy(&header, <const char *>head, sizeof(fc_header_t))
        if (header.magic != FC_MAGIC or header.abi_version != FC_ABI_VERSION
                or header.state != FC_SEGMENT_UNLINKED):
            return False
        os.unlink(self.path)
        return True

    cdef attach_or_create(self, int kind, plan, int mode):
        head = os.pread(self.lock_fd, sizeof(fc_header_t), 0)
        written = len(head) == sizeof(fc_header_t) and int.from_bytes(head[:8], "little") != 0
        if not written:
            # Gate free, no magic: its creator died before it was done.
            if plan is None:
                raise SegmentNotFoundError(
                    f"the segment {self.name!r} was never completed by its creator; create it"
                )
            self.create(kind, plan, mode)
            return True
        self.attach(head, kind)
        return False

    cdef create(self, int kind, plan, int mode):
        cdef fc_header_t *header
        cdef size_t i
        cdef bytes boot, encoded
        max_participants, sections, reserved, parameters = plan()
        total = max(offset + size for offset, size in sections)
        fc_hook(FC_HOOK_CREATE_BEFORE_RESERVE)
        try:
            os.fchmod(self.lock_fd, mode)
            os.ftruncate(self.lock_fd, 0)
            os.ftruncate(self.lock_fd, total)
            reserve_pages(self.lock_fd, 0, reserved, self.path)
            self.mapping = Mapping(self.probe_fd, total)
        except BaseException:
            os.unlink(self.path)
            raise
        header = <fc_header_t *>self.mapping.base
        header.abi_version = FC_ABI_VERSION
        header.kind = kind
        header.total_size = total
        header.max_participants = max_participants
        header.creator_pid = os.getpid()
        header.created_ns = time.time_ns()
        boot = boot_id()
        memcpy(header.boot_id, <const char *>boot, 16)
        encoded = self.name.encode()
        header.name_length = len(encoded)
        memcpy(header.name, <const char *>encoded, len(encoded))
        header.section_count = len(sections)
        for i, (offset, size) in enumerate(sections):
            header.sections[i].offset = offset
            header.sections[i].size = size
        for i, value in enumerate(parameters):
            header.parameters[i] = value
        header.state = FC_SEGMENT_ACTIVE
        self.find_parts(header)

    def publish(self):
        """The creator has laid out everything: let others attach."""
        fc_hook(FC_HOOK_CREATE_BEFORE_MAGIC)
        # NO SYNC: who attaches reads it under the gate. But a creator that is killed must not leave the magic
        # without the rest, and the compiler has to keep that order.
        fc_store_release_u64(&self.header.magic, FC_MAGIC)
        fc_hook(FC_HOOK_CREATE_AFTER_MAGIC)

    cdef attach(self, bytes head, int kind):
        """Check everything before anything is used; what is checked is a copy."""
        cdef fc_header_t header
        memcpy(&header, <const char *>head, sizeof(fc_header_t))
        size = os.fstat(self.lock_fd).st_size
        if header.magic != FC_MAGIC:
            raise CorruptSegmentError(
                f"{self.path} is not a fastcomm segment: it begins with {head[:8].hex()}"
            )
        if header.abi_version != FC_ABI_VERSION:
            raise AbiMismatchError(
                f"the segment {self.name!r} has layout version {header.abi_version}, this build of fastcomm "
                "reads version "
                f"{FC_ABI_VERSION}; use the same release everywhere, or remove the segment when its users "
                "have ended",
                found=header.abi_version, expected=FC_ABI_VERSION,
            )
        if header.total_size != size:
            raise CorruptSegmentError(
                f"{self.path} has {size} bytes and its header says {header.total_size}: it was truncated or "
                "overwritten"
            )
        if header.kind != <uint32_t>kind:
            kinds = {FC_KIND_RING: "a ring", FC_KIND_BUS: "a bus", FC_KIND_QUEUE: "a queue"}
            raise SegmentError(
                f"{self.name!r} is {kinds.get(header.kind, f'of unknown kind {header.kind}')}, not "
                f"{kinds.get(kind)}"
            )
        if header.name_length > FC_MAX_NAME or head[256:256 + header.name_length] != self.name.encode():
            raise SegmentError(
                f"{self.path} belongs to a segment with another name whose hash is the same; rename "
                f"{self.name!r}"
            )
        self.check_sections(&header, size)
        self.mapping = Mapping(self.probe_fd, size, self.only_looks)
        self.find_parts(&header)

    cdef check_sections(self, fc_header_t *header, uint64_t size):
        cdef uint32_t i
        if (not 1 <= header.section_count <= FC_MAX_SECTIONS
                or not 1 <= header.max_participants <= FC_MAX_OWNER):
            raise CorruptSegmentError(
                f"{self.path}: {header.section_count} sections, {header.max_participants} participants"
            )
        for i in range(<uint32_t>header.section_count):
            offset, length = header.sections[i].offset, header.sections[i].size
            if offset % FC_PAGE or offset < FC_PAGE or length > size or offset > size - length:
                raise CorruptSegmentError(
                    f"{self.path}: section {i} is {length} bytes at {offset}, the segment has {size} bytes"
                )
        needed = <uint64_t>header.max_participants * sizeof(fc_participant_t)
        if header.sections[<int>FC_SECTION_PARTICIPANTS].size < needed:
            raise CorruptSegmentError(
                f"{self.path}: the participant table is too small for {header.max_participants}"
            )

    cdef find_parts(self, const fc_header_t *checked):
        """From a header that has been checked and that nobody else can write; the one in the mapping is not
        read again.
        """
        cdef int i
        self.header = <fc_header_t *>self.mapping.base
        self.kind = checked.kind
        self.sections = [
            (checked.sections[i].offset, checked.sections[i].size) for i in range(<int>checked.section_count)
        ]
        self.parameters = [checked.parameters[i] for i in range(<int>FC_PARAMETERS)]

    def section(self, int index):
        """(offset, size) in bytes."""
        if not 0 <= index < len(self.sections):
            raise CorruptSegmentError(f"{self.path} has no section {index}")
        return self.sections[index]

    def memory(self, Py_ssize_t offset, Py_ssize_t size):
        """A writable view of part of the segment; it keeps the mapping."""
        if offset < 0 or size < 0 or <size_t>(offset + size) > self.mapping.size:
            raise CorruptSegmentError(f"{size} bytes at {offset} lie outside of {self.path}")
        return memoryview(self.mapping)[offset:offset + size]

    def reserve(self, long long offset, long long size):
        """Make the pages of a range exist before they are touched. ShmFullError."""
        reserve_pages(self.lock_fd, offset, size, self.path)

    def punch(self, long long offset, long long size):
        """Give the whole pages within a range back; they read as zeroes afterwards."""
        # C division: -(-offset // FC_PAGE) would round down
        first = (offset + FC_PAGE - 1) // FC_PAGE * FC_PAGE
        last = (offset + size) // FC_PAGE * FC_PAGE
        if last > first:
            fallocate(self.lock_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, first, last - first)

    # ------------------------------------------------------------------------------------------------- locks

    cdef int lock_byte(self, long long offset, bint wait) except -1:
        """1: locked; 0: somebody else has it (only without `wait`)."""
        cdef flock lock
        cdef int result, command = F_OFD_SETLKW if wait else F_OFD_SETLK
        self.check_open()
        while True:
            memset(&lock, 0, sizeof(lock))
            lock.l_type = F_WRLCK
            lock.l_start = offset
            lock.l_len = 1
            with nogil:
                result = fcntl(self.lock_fd, command, &lock)
            if result == 0:
                return 1
            if errno == EINTR:
                PyErr_CheckSignals()
            elif not wait and (errno == EAGAIN or errno == EACCES):
                return 0
            else:
                raise OSError(errno, strerror(errno).decode(), self.path)

    cdef int unlock_byte(self, long long offset) except -1:
        cdef flock lock
        memset(&lock, 0, sizeof(lock))
        lock.l_type = F_UNLCK
        lock.l_start = offset
        lock.l_len = 1
        if self.lock_fd >= 0:
            fcntl(self.lock_fd, F_OFD_SETLK, &lock)
        return 0

    cdef int check_open(self) except -1:
        if self.lock_fd < 0:
            raise ClosedError(f"this handle of {self.name!r} is closed")
        return 0

    def enter_gate(self):
        """Wait for the gate: its holder keeps it for microseconds, or is stopped; Ctrl-C works."""
        self.mutex.acquire()
        try:
            self.lock_byte(FC_LOCK_GATE, True)
        except BaseException:
            self.mutex.release()
            raise

    def try_enter_gate(self):
        """True if the gate was free and is ours now."""
        if not self.mutex.acquire(False):
            return False
        try:
            entered = self.lock_byte(FC_LOCK_GATE, False)
        except BaseException:
            self.mutex.release()
            raise
        if not entered:
            self.mutex.release()
        return bool(entered)

    def leave_gate(self):
        self.unlock_byte(FC_LOCK_GATE)
        self.mutex.release()

    def gate_is_held(self):
        """Whether another handle is in the gate now."""
        return any_lock(self.probe_fd, FC_LOCK_GATE, 1, self.path)

    # --------------------------------------------------------------------------------------------------- end

    @property
    def mutating(self):
        """Set while the holder of the gate changes tables; found set on entering the gate, they need repair.
        """
        return bool(fc_load_relaxed_u32(&self.header.mutating))

    @mutating.setter
    def mutating(self, bint value):
        fc_store_relaxed_u32(&self.header.mutating, value)

    def check_vanished(self):
        """SegmentVanishedError if somebody deleted the file who should not have."""
        if self.lock_fd >= 0 and os.fstat(self.lock_fd).st_nlink == 0 and (
                fc_load_relaxed_u32(&self.header.state) == FC_SEGMENT_ACTIVE):
            raise SegmentVanishedError(
                f"{self.path} was deleted while in use, so nobody new can join {self.name!r}. systemd "
                "removes shared memory at "
                "logout unless RemoveIPC=no; services put it elsewhere with directory= or FASTCOMM_DIR"
            )

    @property
    def unlinked(self):
        return fc_load_relaxed_u32(&self.header.state) == FC_SEGMENT_UNLINKED

    def unlink(self):
        """Remove the name, under the gate. Those who are attached go on with each other; nobody new joins."""
        fc_store_relaxed_u32(&self.header.state, FC_SEGMENT_UNLINKED)
        fc_hook(FC_HOOK_UNLINK_BEFORE_REMOVE)
        if self.is_current():
            os.unlink(self.path)

    def close(self):
        """Close the descriptors, which drops the locks. The mapping stays while views of it do."""
        self.close_fds()

    @property
    def closed(self):
        return self.lock_fd < 0

    def after_fork_in_child(self):
        """Give up the parent's descriptions and get own ones of the same file, unlinked or not."""
        if self.lock_fd < 0:
            return
        fd = os.open(f"/proc/self/fd/{self.lock_fd}", os.O_RDWR | os.O_CLOEXEC)
        self.close_fds()
        self.lock_fd = fd
        self.open_probe()
        self.mutex = allocate_lock()
        self.forked = True


def _after_fork_in_child():
    for segment in list(_segments):
        segment.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _arm_hook(int hook, int countdown=1):
    arm_hook(hook, countdown)

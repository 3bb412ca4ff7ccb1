"""The RingHandle class for the modules that are laid over it."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.protocol cimport claim_t, record_t, ring_t


cdef class RingHandle:
    cdef ring_t ring
    cdef unsigned char[::1] memory
    cdef object __weakref__
    cdef readonly str name
    cdef bint usable               # 0: closed, or forked and not joined anew; _not_usable() decides
    cdef bint is_closed
    cdef bint is_consumer
    cdef bint is_producer
    cdef bint watched              # fileno() was asked for: try_get() rests it
    cdef bint pinned               # a Peek holds the record at the head
    cdef int leases                # open claims and peeks
    cdef uint32_t forks            # how often this handle went through a fork into a child
    cdef uint32_t epoch            # that our records bear and that we accept
    cdef uint64_t position         # of the consumer
    cdef bint contested            # others move the head too (contested.pyx)
    cdef uint64_t head             # if so: as looked at last
    cdef uint64_t records_put, bytes_put, records_got, bytes_got, sleeps, spins

    cdef int look(self, record_t *record) except -1
    cdef int look_contested(self, record_t *record) except -1
    cdef int pass_on_behind(self, uint64_t position, inherit) except -1
    cdef bint clear_way(self, int status, uint64_t at, const record_t *record) except -1
    cdef int advance(self, const record_t *record) except -1
    cdef int publish_position(self) except -1
    cdef bytes take(self, const record_t *record)
    cdef list take_many(self, record_t *record, Py_ssize_t limit)
    cdef int check_size(self, uint64_t nbytes) except -1
    cdef int check_sizes(self, list records) except -1
    cdef int claim_run(self, const uint32_t *cells, size_t count, claim_t *claim, size_t *taken) except -1
    cdef int claim_cells(self, uint32_t cells, claim_t *claim) except -1
    cdef int write(self, const void *data, uint64_t nbytes) except -1
    cdef Py_ssize_t write_run(self, list records, Py_ssize_t first) except -1
    cdef int wake_consumer(self) except -1
    cdef int refused(self, int status) except -1
    cdef int end_lease(self) except -1


cdef inline int check_limit(Py_ssize_t limit) except -1:
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    return 0

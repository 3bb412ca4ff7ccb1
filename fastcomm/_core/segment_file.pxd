"""Files of shared memory for other compiled modules."""

from libc.stdint cimport uint64_t

from fastcomm._core.layout cimport fc_header_t


cdef class Mapping:
    cdef unsigned char *base
    cdef readonly size_t size


cdef class SegmentFile:
    cdef readonly str path
    cdef readonly str name
    cdef readonly Mapping mapping
    cdef object __weakref__
    cdef int lock_fd
    cdef int probe_fd
    cdef object mutex        # threads of this process: an OFD lock does not keep them from each other
    cdef readonly bint forked
    cdef bint only_looks     # made by look()
    cdef readonly int kind
    cdef fc_header_t *header
    cdef readonly list parameters
    cdef list sections       # (offset, size), as checked when the segment was attached

    cdef close_fds(self)
    cdef open_fds(self, bint create, int mode)
    cdef open_probe(self)
    cdef explain_permissions(self)
    cdef bint is_current(self) except -1
    cdef bint finish_unlink(self) except -1
    cdef attach_or_create(self, int kind, plan, int mode)
    cdef create(self, int kind, plan, int mode)
    cdef attach(self, bytes head, int kind)
    cdef check_sections(self, fc_header_t *header, uint64_t size)
    cdef find_parts(self, const fc_header_t *checked)
    cdef int check_open(self) except -1
    cdef int lock_byte(self, long long offset, bint wait) except -1
    cdef int unlock_byte(self, long long offset) except -1


# Whether another description than fd's holds a lock within the range.
cdef bint any_lock(int fd, long long offset, long long length, str path) except -1

"""Rings whose head others move besides the consumer; the description is in contested.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.protocol cimport claim_t, record_t, ring_t

cdef int contested_peek(ring_t *ring, uint64_t *head, record_t *record) noexcept nogil
cdef bint contested_take(ring_t *ring, uint64_t head, const record_t *record,
                         unsigned char *copy) noexcept nogil
cdef bint contested_advance(ring_t *ring, uint64_t head, const record_t *record) noexcept nogil
cdef int contested_claim_run(ring_t *ring, const uint32_t *cells, size_t count, claim_t *claim,
                             size_t *taken, uint64_t *dropped, record_t *oldest) noexcept nogil
cdef void contested_write_record(ring_t *ring, uint64_t position, const void *data, uint64_t nbytes,
                                 uint32_t epoch) noexcept nogil

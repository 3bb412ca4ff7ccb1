"""Segments for other compiled modules."""

from libc.stdint cimport uint32_t

from fastcomm._core.layout cimport fc_header_t, fc_participant_t
from fastcomm._core.segment_file cimport SegmentFile


cdef class Segment(SegmentFile):
    cdef set own             # slots whose byte this handle's description holds
    cdef fc_participant_t *participants
    cdef readonly int max_participants

    cdef find_parts(self, const fc_header_t *checked)
    cdef list slots_in(self, uint32_t state)
    cdef bint taken(self, int slot) noexcept

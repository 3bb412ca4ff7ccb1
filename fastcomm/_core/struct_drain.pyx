"""Records of a ring to rows of an array, copied from the ring's cells without a Python object for each."""

from libc.stdint cimport int64_t

from fastcomm._core.protocol cimport record_t
from fastcomm._core.ring cimport Ring
from fastcomm._core.struct_array cimport Rows

from fastcomm.errors import DecodeError, FastCommError


def drain(Rows rows, Ring ring not None, Py_ssize_t limit) -> None:
    """Take what is in the ring now, up to `limit` messages; nothing is a result too."""
    cdef record_t record
    check_limit(limit)
    if ring.look(&record):
        take_rows(rows, ring, &record, limit)


def drain_waiting(Rows rows, Ring ring not None, Py_ssize_t limit, object timeout) -> None:
    """Wait for a record as get() does, then take what else is there."""
    cdef record_t record
    cdef int64_t deadline = 0
    check_limit(limit)
    if ring.spin_first() or not ring.look(&record):
        ring.wait_record(&record, timeout, &deadline, ring.stirs)
    take_rows(rows, ring, &record, limit)


cdef int check_limit(Py_ssize_t limit) except -1:
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    return 0


cdef int take_rows(Rows rows, Ring ring, record_t* record, Py_ssize_t limit) except -1:
    """From `record` on. A record that is no such message stays: the next call raises what is wrong."""
    try:
        while True:
            rows.add_message(record.payload, record.nbytes)
            ring.advance(record)
            if rows.count == limit or not ring.look(record):
                return 0
    except DecodeError as error:
        if rows.count == 0:
            raise DecodeError(
                f"{error}; it is the next record of {ring.name!r}: take it with get()", offset=error.offset
            ) from None
    except (FastCommError, ValueError, MemoryError):
        if rows.count == 0:
            raise    # else what was taken is handed over, and the next call meets the same error
    finally:
        ring.publish_position()
    return 0

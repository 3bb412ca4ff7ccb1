"""The head of a string table, and how its count is published."""

from libc.stdint cimport uint32_t

from fastcomm._core.atomics cimport fc_load_acquire_u32, fc_store_release_u32


cdef struct string_table_t:
    uint32_t magic
    uint32_t version
    uint32_t id
    uint32_t max_strings
    uint32_t max_bytes
    uint32_t unused[11]
    uint32_t count          # of strings; only grows


cdef inline void strings_learned(string_table_t *table, uint32_t count) noexcept nogil:
    # SYNC entry-learned (release): the texts and ends of the strings up to it are there.
    fc_store_release_u32(&table.count, count)


cdef inline uint32_t strings_seen(string_table_t *table) noexcept nogil:
    # SYNC entry-learned (acquire)
    return fc_load_acquire_u32(&table.count)

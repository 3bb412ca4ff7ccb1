"""Cython's view of include/fc_atomics.h: the memory order of an access is in its name."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "fc_atomics.h" nogil:
    uint32_t fc_load_relaxed_u32(const uint32_t *p)
    uint32_t fc_load_acquire_u32(const uint32_t *p)
    uint32_t fc_load_seqcst_u32(const uint32_t *p)
    void fc_store_relaxed_u32(uint32_t *p, uint32_t v)
    void fc_store_release_u32(uint32_t *p, uint32_t v)
    void fc_store_seqcst_u32(uint32_t *p, uint32_t v)
    uint32_t fc_exchange_acquire_u32(uint32_t *p, uint32_t v)
    uint32_t fc_exchange_acqrel_u32(uint32_t *p, uint32_t v)
    uint32_t fc_fetch_or_seqcst_u32(uint32_t *p, uint32_t v)
    uint32_t fc_fetch_add_relaxed_u32(uint32_t *p, uint32_t v)
    uint32_t fc_fetch_add_release_u32(uint32_t *p, uint32_t v)
    bint fc_cas_relaxed_u32(uint32_t *p, uint32_t *expected, uint32_t v)
    bint fc_cas_acquire_u32(uint32_t *p, uint32_t *expected, uint32_t v)
    bint fc_cas_release_u32(uint32_t *p, uint32_t *expected, uint32_t v)
    bint fc_cas_seqcst_u32(uint32_t *p, uint32_t *expected, uint32_t v)

    uint64_t fc_load_relaxed_u64(const uint64_t *p)
    uint64_t fc_load_acquire_u64(const uint64_t *p)
    uint64_t fc_load_seqcst_u64(const uint64_t *p)
    void fc_store_relaxed_u64(uint64_t *p, uint64_t v)
    void fc_store_release_u64(uint64_t *p, uint64_t v)
    void fc_store_seqcst_u64(uint64_t *p, uint64_t v)
    uint64_t fc_fetch_add_relaxed_u64(uint64_t *p, uint64_t v)
    bint fc_cas_relaxed_u64(uint64_t *p, uint64_t *expected, uint64_t v)
    bint fc_cas_release_u64(uint64_t *p, uint64_t *expected, uint64_t v)
    bint fc_cas_seqcst_u64(uint64_t *p, uint64_t *expected, uint64_t v)

    void fc_pause()
    void fc_copy_from_shared(void *to, const void *source, size_t n)
    void fc_copy_to_shared(void *to, const void *source, size_t n)

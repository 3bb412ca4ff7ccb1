/* Atomic accesses to shared words. The only file of fastcomm that names memory orders: the order of every access is in
 * the name of the function, and a comment at it says which access it pairs with (SYNC; scripts/check_sync_points.py).
 *
 * No stand-alone fences: ThreadSanitizer can't see them, and every argument in this package is about two accesses.
 */
#ifndef FC_ATOMICS_H
#define FC_ATOMICS_H

#include <stdint.h>
#include <stddef.h>
#include <string.h>

#define FC_DEFINE_ATOMICS(T, suffix)                                                                               \
    static inline T fc_load_relaxed_##suffix(const T *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }          \
    static inline T fc_load_acquire_##suffix(const T *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }          \
    static inline T fc_load_seqcst_##suffix(const T *p) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }           \
    static inline void fc_store_relaxed_##suffix(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }          \
    static inline void fc_store_release_##suffix(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }          \
    static inline void fc_store_seqcst_##suffix(T *p, T v) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }           \
    FC_DEFINE_RMW(T, suffix, relaxed, __ATOMIC_RELAXED)                                                            \
    FC_DEFINE_RMW(T, suffix, acquire, __ATOMIC_ACQUIRE)                                                            \
    FC_DEFINE_RMW(T, suffix, release, __ATOMIC_RELEASE)                                                            \
    FC_DEFINE_RMW(T, suffix, acqrel, __ATOMIC_ACQ_REL)                                                             \
    FC_DEFINE_RMW(T, suffix, seqcst, __ATOMIC_SEQ_CST)

/* A CAS that fails makes *expected the value that was found, loaded relaxed. */
#define FC_DEFINE_RMW(T, suffix, name, order)                                                                      \
    static inline T fc_exchange_##name##_##suffix(T *p, T v) { return __atomic_exchange_n(p, v, order); }          \
    static inline T fc_fetch_or_##name##_##suffix(T *p, T v) { return __atomic_fetch_or(p, v, order); }            \
    static inline T fc_fetch_add_##name##_##suffix(T *p, T v) { return __atomic_fetch_add(p, v, order); }          \
    static inline int fc_cas_##name##_##suffix(T *p, T *expected, T v)                                             \
    {                                                                                                              \
        return __atomic_compare_exchange_n(p, expected, v, 0, order, __ATOMIC_RELAXED);                            \
    }

FC_DEFINE_ATOMICS(uint32_t, u32)
FC_DEFINE_ATOMICS(uint64_t, u64)

#ifdef FC_MUTANTS
#include "fc_mutants.h"
#endif

/* Tell the core (and its sibling) that this is a spin loop. */
static inline void fc_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory"); /* `yield` is a no-op on most arm64 cores, isb waits about as long as pause */
#endif
}

/* Copies of bytes that others may be writing at the same time: relaxed word accesses, so torn contents are possible and
 * a data race is not; the caller checks a version afterwards. Both sides 8-aligned, n a multiple of 8. */
static inline void fc_copy_from_shared(void *to, const void *from, size_t n)
{
    uint64_t *d = (uint64_t *)to;
    const uint64_t *s = (const uint64_t *)from;
    for (size_t i = 0; i < n / 8; i++)
        d[i] = fc_load_relaxed_u64(s + i);
}

static inline void fc_copy_to_shared(void *to, const void *from, size_t n)
{
    uint64_t *d = (uint64_t *)to;
    const uint64_t *s = (const uint64_t *)from;
    for (size_t i = 0; i < n / 8; i++)
        fc_store_relaxed_u64(d + i, s[i]);
}

#endif

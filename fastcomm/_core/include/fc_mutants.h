/* Mutants, in the ThreadSanitizer build only: one memory order, chosen when the process starts, is left out, so that a test
 * can show that it is needed (docs/verification.md). FASTCOMM_MUTANT=<file>:<line>:<acquire or release> names the access
 * by its place in the Cython source, which is what __FILE__ and __LINE__ are in this build. So the sources say nothing of
 * mutants, and every other build is compiled as if they did not exist.
 *
 * Only what ThreadSanitizer can see: that a pair of accesses orders what stands around them. What seq_cst adds to that is
 * left out in models (tests/model/).
 */
#ifndef FC_MUTANTS_H
#define FC_MUTANTS_H

#include <stdio.h>
#include <stdlib.h>

static struct {
    int line; /* 0: none */
    char file[128];
    char end[8];
} fc_mutant;

__attribute__((constructor)) static void fc_choose_mutant(void)
{
    const char *chosen = getenv("FASTCOMM_MUTANT");
    if (chosen && sscanf(chosen, "%127[^:]:%d:%7s", fc_mutant.file, &fc_mutant.line, fc_mutant.end) != 3)
        abort();
}

#define FC_WITHOUT(which)                                                                                          \
    (__builtin_expect(fc_mutant.line == __LINE__, 0) && strcmp(fc_mutant.file, __FILE__) == 0 &&                   \
     strcmp(fc_mutant.end, which) == 0)
#define FC_NO_ACQUIRE FC_WITHOUT("acquire")
#define FC_NO_RELEASE FC_WITHOUT("release")

/* Every kind of ordered access that fastcomm makes. One that is missing here has a mutant that nothing catches. */
#define fc_load_acquire_u32(p) (FC_NO_ACQUIRE ? fc_load_relaxed_u32(p) : fc_load_acquire_u32(p))
#define fc_load_acquire_u64(p) (FC_NO_ACQUIRE ? fc_load_relaxed_u64(p) : fc_load_acquire_u64(p))
#define fc_load_seqcst_u32(p) (FC_NO_ACQUIRE ? fc_load_relaxed_u32(p) : fc_load_seqcst_u32(p))
#define fc_load_seqcst_u64(p) (FC_NO_ACQUIRE ? fc_load_relaxed_u64(p) : fc_load_seqcst_u64(p))
#define fc_store_release_u32(p, v) (FC_NO_RELEASE ? fc_store_relaxed_u32(p, v) : fc_store_release_u32(p, v))
#define fc_store_release_u64(p, v) (FC_NO_RELEASE ? fc_store_relaxed_u64(p, v) : fc_store_release_u64(p, v))
#define fc_store_seqcst_u32(p, v) (FC_NO_RELEASE ? fc_store_relaxed_u32(p, v) : fc_store_seqcst_u32(p, v))
#define fc_store_seqcst_u64(p, v) (FC_NO_RELEASE ? fc_store_relaxed_u64(p, v) : fc_store_seqcst_u64(p, v))
#define fc_exchange_acquire_u32(p, v) (FC_NO_ACQUIRE ? fc_exchange_relaxed_u32(p, v) : fc_exchange_acquire_u32(p, v))
#define fc_exchange_acqrel_u32(p, v)                                                                               \
    (FC_NO_ACQUIRE   ? fc_exchange_release_u32(p, v)                                                               \
     : FC_NO_RELEASE ? fc_exchange_acquire_u32(p, v)                                                               \
                     : fc_exchange_acqrel_u32(p, v))
#define fc_fetch_or_seqcst_u32(p, v)                                                                               \
    (FC_NO_ACQUIRE   ? fc_fetch_or_release_u32(p, v)                                                               \
     : FC_NO_RELEASE ? fc_fetch_or_acquire_u32(p, v)                                                               \
                     : fc_fetch_or_seqcst_u32(p, v))
#define fc_fetch_add_release_u32(p, v) (FC_NO_RELEASE ? fc_fetch_add_relaxed_u32(p, v) : fc_fetch_add_release_u32(p, v))
#define fc_cas_acquire_u32(p, e, v) (FC_NO_ACQUIRE ? fc_cas_relaxed_u32(p, e, v) : fc_cas_acquire_u32(p, e, v))
#define fc_cas_release_u32(p, e, v) (FC_NO_RELEASE ? fc_cas_relaxed_u32(p, e, v) : fc_cas_release_u32(p, e, v))
#define fc_cas_release_u64(p, e, v) (FC_NO_RELEASE ? fc_cas_relaxed_u64(p, e, v) : fc_cas_release_u64(p, e, v))
#define fc_cas_seqcst_u32(p, e, v) (FC_NO_RELEASE ? fc_cas_relaxed_u32(p, e, v) : fc_cas_seqcst_u32(p, e, v))
#define fc_cas_seqcst_u64(p, e, v) (FC_NO_RELEASE ? fc_cas_relaxed_u64(p, e, v) : fc_cas_seqcst_u64(p, e, v))

#endif

/* Loads of what is checked and then used, from memory that others may be writing.

   Of a plain access the compiler may make two, one for the check and one for the use; a switch over a tag is apt
   to become that. A volatile one is made once. No order goes with it: nothing else is to be seen by it. */

#ifndef FC_ONCE_H
#define FC_ONCE_H

#include <stdint.h>

typedef uint64_t __attribute__((may_alias, aligned(1))) fc_unaligned_u64;

static inline uint8_t fc_byte_once(const uint8_t *at)
{
    return *(const volatile uint8_t *)at;
}

static inline uint64_t fc_word_once(const uint8_t *at)
{
    return *(const volatile fc_unaligned_u64 *)at;
}

#endif

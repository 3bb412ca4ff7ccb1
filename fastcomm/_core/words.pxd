"""The static table of words."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef extern from "fc_words.h" nogil:
    const int FC_WORDS
    const int FC_WORD_INDEX
    ctypedef struct fc_word_t:
        uint8_t length
        char text[31]
    const fc_word_t* fc_words
    const uint16_t* fc_word_index
    uint32_t fc_word_hash(const uint8_t* text, int length) noexcept

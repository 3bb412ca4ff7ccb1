"""Sketches of subjects: whether a pattern may match one, in two comparisons of words and without its text.

A sketch has 16 bits of the hash of each of the first eight tokens, and how many tokens there are. A filter
has the same of a pattern, with a mask that leaves out its wildcards. What it lets pass is compared for real:
of others about one in 65,000 for each literal token.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.subject_trie cimport MAX_TOKENS, Token

cdef enum:
    SKETCHED = 8            # tokens
    TOKENS_A_WORD = 4
    BITS = 16               # of a token's hash

cdef struct Sketch:
    uint64_t words[2]
    uint32_t tokens

cdef struct Filter:
    uint64_t words[2]
    uint64_t masks[2]
    uint32_t least          # tokens of what the pattern matches
    uint32_t most


cdef inline Sketch c_sketch(const Token* tokens, size_t count) noexcept nogil:
    """Of a subject."""
    cdef Sketch sketch
    cdef size_t i
    sketch.words[0] = sketch.words[1] = 0
    sketch.tokens = <uint32_t>count
    for i in range(min(count, <size_t>SKETCHED)):
        sketch.words[i // TOKENS_A_WORD] |= (tokens[i].hash & 0xFFFF) << (i % TOKENS_A_WORD * BITS)
    return sketch


cdef inline Filter c_filter(const Token* tokens, size_t count) noexcept nogil:
    """Of a pattern."""
    cdef Filter found
    cdef Sketch sketch = c_sketch(tokens, count)
    cdef bint open_end = False
    cdef size_t i
    found.masks[0] = found.masks[1] = 0
    for i in range(count):
        if tokens[i].length == 1 and tokens[i].text[0] == c">":
            open_end = True
        elif i < SKETCHED and not (tokens[i].length == 1 and tokens[i].text[0] == c"*"):
            found.masks[i // TOKENS_A_WORD] |= <uint64_t>0xFFFF << (i % TOKENS_A_WORD * BITS)
    found.words[0] = sketch.words[0] & found.masks[0]
    found.words[1] = sketch.words[1] & found.masks[1]
    found.least = <uint32_t>count
    found.most = MAX_TOKENS if open_end else <uint32_t>count
    return found


cdef inline bint c_passes(const Filter* filter, const Sketch* sketch) noexcept nogil:
    return (((sketch.words[0] & filter.masks[0]) ^ filter.words[0])
            | ((sketch.words[1] & filter.masks[1]) ^ filter.words[1])) == 0 \
        and filter.least <= sketch.tokens <= filter.most

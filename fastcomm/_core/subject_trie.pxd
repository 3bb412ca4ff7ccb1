from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    # As many as 192 bytes, the longest subject, can hold: tokens of one character with dots between.
    MAX_TOKENS = 96
    # Free lists of nodes by size in 4-byte units; the largest node (a token of 192 bytes) has 54.
    NODE_CLASSES = 64

cdef struct Token:
    const char* text
    uint32_t length
    uint64_t hash

cdef struct Node:
    uint32_t parent         # in a free node: the next free one of this size
    uint32_t star           # the child "*", 0 if there is none
    uint32_t rest           # the child ">", 0 if there is none
    uint32_t newest         # head of the chain of entries stored here, newest first
    uint32_t children       # of all three kinds; with no child and no entry the node goes
    uint8_t length
    char token[3]           # the token begins here and ends where `length` says, past the struct

cdef struct Slot:
    uint32_t hash
    uint32_t node           # 0: free

cdef struct Entry:
    uint64_t sequence       # rank in the order of insertion
    uint32_t node           # 0: free
    uint32_t older          # next in the node's chain, or in the chain of free entries

cdef struct Match:
    uint64_t sequence
    uint32_t entry

cdef struct Trie:
    uint64_t seed
    uint64_t star_hash
    uint64_t sequence
    uint64_t generation     # moved by every change and every walk; see c_trie_match
    uint32_t* arena         # nodes, addressed by their offset in 4-byte units; 1 is the root
    uint32_t arena_used
    uint32_t arena_capacity
    uint32_t free_nodes[NODE_CLASSES]
    Slot* slots             # literal children, by parent and token; a power of two of them
    uint32_t slot_count
    uint32_t slots_used
    Entry* entries          # 0 is never used
    uint32_t entries_used
    uint32_t entry_capacity
    uint32_t free_entry
    uint32_t nodes          # without the root
    uint32_t patterns
    uint32_t stored
    Match* matches          # what the last walk found
    size_t match_count
    size_t match_capacity

cdef size_t c_trie_split(const Trie* trie, const char* text, size_t length, Token* tokens) noexcept nogil
cdef uint32_t c_trie_insert(Trie* trie, const Token* tokens, size_t count) noexcept nogil
cdef uint32_t c_trie_find(const Trie* trie, const Token* tokens, size_t count) noexcept nogil
cdef void c_trie_remove(Trie* trie, uint32_t entry) noexcept nogil
cdef bint c_trie_match(Trie* trie, const Token* tokens, size_t count) noexcept nogil
cdef bint c_trie_push(Trie* trie, uint32_t entry) noexcept nogil
cdef void c_trie_sort(Trie* trie) noexcept nogil
cdef size_t c_trie_pattern(const Trie* trie, uint32_t node, char* text) noexcept nogil
cdef size_t c_trie_nbytes(const Trie* trie) noexcept nogil
cdef void c_trie_free(Trie* trie) noexcept nogil

cdef inline Node* c_trie_node(const Trie* trie, uint32_t node) noexcept nogil:
    return <Node*>(trie.arena + node)

# cython: autotestdict=False
"""The trie under SubjectRegistry: C structs alone, no Python objects, so that it can be small.

The idea (a trie over tokens in which ``*`` and ``>`` are children beside the literal ones) is that of NATS's
``server/sublist.go``. That has a hash map in every level; here one open-addressing table serves the whole
trie, keyed by parent and token, and a node holds its token's bytes. A step of a walk so costs two reads of
memory that is not in the cache: the slot and the node, which are needed anyhow. The hash is that of the whole
path, so that all slots of a subject are known, and fetched, before the first node has been read.

    root --"tasks"--> [tasks] --"*"--> [*] --"done"--> [done]     tasks.*.done    entries 7 -> 3
                         |
                         +-----">"--> [>]                         tasks.>         entry 5

    node    20 bytes, length, token, rounded up to 4; offsets instead of pointers
    slot    8 bytes: 32 bits of hash, node; linear probing, at most 3/4 of the slots are used
    entry   16 bytes: sequence, node, next; what is stored under it is the caller's affair

Left out: links from a node to its literal children (12 bytes each to be removable in constant time). Nothing
here enumerates children; whoever needs all patterns goes through the entries.

Threads: none of this locks; whoever owns the struct serialises all calls, `c_trie_match` included.
Patterns and subjects are taken to be checked (subjects.c_check). A struct of zeros is an empty trie.
"""

from libc.stdint cimport uint32_t, uint64_t, UINT32_MAX
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from *:
    void c_prefetch "__builtin_prefetch"(const void* address) noexcept nogil

cdef enum:
    ROOT = 1
    NODE_HEADER = 21
    FIRST_ARENA = 256
    FIRST_SLOTS = 32
    FIRST_ENTRIES = 16
    FIRST_MATCHES = 16


# Tokens and their hash

cdef inline uint64_t c_mix(uint64_t value) noexcept nogil:
    value *= 0x9E3779B97F4A7C15ULL
    return value ^ (value >> 32)


cdef uint64_t c_hash_token(uint64_t seed, const char* text, uint32_t length) noexcept nogil:
    cdef uint64_t value = seed + length
    cdef uint64_t chunk
    while length >= 8:
        memcpy(&chunk, text, 8)
        value = c_mix(value ^ chunk)
        text += 8
        length -= 8
    chunk = 0
    memcpy(&chunk, text, length)
    return c_mix(value ^ chunk)


cdef inline uint64_t c_path_hash(uint64_t parent, uint64_t token_hash) noexcept nogil:
    """Of a node, from its parent's (0 for the root) and its token's."""
    return c_mix(parent + token_hash)


cdef size_t c_trie_split(const Trie* trie, const char* text, size_t length, Token* tokens) noexcept nogil:
    """Cut checked text into `tokens` (room for MAX_TOKENS) and return how many there are."""
    cdef size_t count = 0
    cdef size_t start = 0
    cdef size_t i
    for i in range(length + 1):
        if i == length or text[i] == c".":
            tokens[count].text = text + start
            tokens[count].length = <uint32_t>(i - start)
            tokens[count].hash = c_hash_token(trie.seed, text + start, <uint32_t>(i - start))
            count += 1
            start = i + 1
    return count


cdef inline bint c_is_token(const Token* token, char character) noexcept nogil:
    return token.length == 1 and token.text[0] == character


# Nodes

cdef inline uint32_t c_node_units(uint32_t length) noexcept nogil:
    return (NODE_HEADER + length + 3) // 4


cdef bint c_grow_arena(Trie* trie, uint32_t units) noexcept nogil:
    cdef uint64_t wanted = <uint64_t>trie.arena_capacity + trie.arena_capacity // 2
    cdef uint32_t* grown
    wanted = max(wanted, <uint64_t>FIRST_ARENA)
    if wanted > UINT32_MAX:
        wanted = UINT32_MAX
    if wanted < <uint64_t>trie.arena_used + units:
        return False
    grown = <uint32_t*>realloc(trie.arena, <size_t>wanted * sizeof(uint32_t))
    if grown == NULL:
        return False
    trie.arena = grown
    trie.arena_capacity = <uint32_t>wanted
    return True


cdef uint32_t c_new_node(Trie* trie, uint32_t parent, const char* token, uint32_t length) noexcept nogil:
    """Offset of a new node, 0 without memory. Moves the arena: no pointer to a node survives this call."""
    cdef uint32_t units = c_node_units(length)
    cdef uint32_t node = trie.free_nodes[units]
    cdef Node* fresh
    if node:
        trie.free_nodes[units] = c_trie_node(trie, node).parent
    else:
        if trie.arena_capacity - trie.arena_used < units and not c_grow_arena(trie, units):
            return 0
        node = trie.arena_used
        trie.arena_used += units
    fresh = c_trie_node(trie, node)
    memset(fresh, 0, units * sizeof(uint32_t))
    fresh.parent = parent
    fresh.length = <uint8_t>length
    memcpy(fresh.token, token, length)
    return node


cdef void c_free_node(Trie* trie, uint32_t node) noexcept nogil:
    cdef uint32_t units = c_node_units(c_trie_node(trie, node).length)
    c_trie_node(trie, node).parent = trie.free_nodes[units]
    trie.free_nodes[units] = node


cdef bint c_have_root(Trie* trie) noexcept nogil:
    if trie.arena_used:
        return True
    if not c_grow_arena(trie, ROOT + c_node_units(0)):
        return False
    trie.arena_used = ROOT
    trie.star_hash = c_hash_token(trie.seed, "*", 1)
    return c_new_node(trie, 0, "", 0) == ROOT


# The table of literal children

cdef uint32_t c_literal_child(const Trie* trie, uint32_t parent, const Token* token,
                              uint64_t path) noexcept nogil:
    """The child of `parent` for this token, `path` being the child's hash; 0 if there is none."""
    cdef uint32_t mask = trie.slot_count - 1
    cdef uint32_t value = <uint32_t>path
    cdef uint32_t i = value & mask
    cdef Node* node
    if trie.slot_count == 0:
        return 0
    while trie.slots[i].node:
        if trie.slots[i].hash == value:
            node = c_trie_node(trie, trie.slots[i].node)
            if node.parent == parent and node.length == token.length \
                    and memcmp(node.token, token.text, token.length) == 0:
                return trie.slots[i].node
        i = (i + 1) & mask
    return 0


cdef void c_put_slot(Slot* slots, uint32_t mask, Slot slot) noexcept nogil:
    cdef uint32_t i = slot.hash & mask
    while slots[i].node:
        i = (i + 1) & mask
    slots[i] = slot


cdef bint c_grow_slots(Trie* trie) noexcept nogil:
    cdef uint32_t count = trie.slot_count * 2 if trie.slot_count else FIRST_SLOTS
    cdef Slot* slots
    cdef uint32_t i
    if count == 0:      # 2**32 slots
        return False
    slots = <Slot*>calloc(count, sizeof(Slot))
    if slots == NULL:
        return False
    for i in range(trie.slot_count):
        if trie.slots[i].node:
            c_put_slot(slots, count - 1, trie.slots[i])
    free(trie.slots)
    trie.slots = slots
    trie.slot_count = count
    return True


cdef bint c_room_for_literal(Trie* trie) noexcept nogil:
    return trie.slots_used < trie.slot_count // 4 * 3 or c_grow_slots(trie)


cdef void c_link_literal(Trie* trie, uint64_t path, uint32_t node) noexcept nogil:
    cdef Slot slot
    slot.hash = <uint32_t>path
    slot.node = node
    c_put_slot(trie.slots, trie.slot_count - 1, slot)
    trie.slots_used += 1


cdef uint64_t c_node_path_hash(const Trie* trie, uint32_t node) noexcept nogil:
    cdef Node* here = c_trie_node(trie, node)
    if node == ROOT:
        return 0
    return c_path_hash(c_node_path_hash(trie, here.parent), c_hash_token(trie.seed, here.token, here.length))


cdef void c_unlink_literal(Trie* trie, uint32_t node) noexcept nogil:
    """Free the slot and move back what had been pushed past it, so that no tombstones are needed."""
    cdef uint32_t mask = trie.slot_count - 1
    cdef uint32_t hole = <uint32_t>c_node_path_hash(trie, node) & mask
    cdef uint32_t i
    while trie.slots[hole].node != node:
        hole = (hole + 1) & mask
    i = (hole + 1) & mask
    while trie.slots[i].node:
        # Its place may be the hole unless its home lies after the hole.
        if ((i - trie.slots[i].hash) & mask) >= ((i - hole) & mask):
            trie.slots[hole] = trie.slots[i]
            hole = i
        i = (i + 1) & mask
    trie.slots[hole].node = 0
    trie.slots_used -= 1


# Paths

cdef uint32_t c_child(const Trie* trie, uint32_t parent, const Token* token, uint64_t path) noexcept nogil:
    if c_is_token(token, c"*"):
        return c_trie_node(trie, parent).star
    if c_is_token(token, c">"):
        return c_trie_node(trie, parent).rest
    return c_literal_child(trie, parent, token, path)


cdef uint32_t c_add_child(Trie* trie, uint32_t parent, const Token* token, uint64_t path) noexcept nogil:
    cdef uint32_t node
    if not c_room_for_literal(trie):
        return 0
    node = c_new_node(trie, parent, token.text, token.length)
    if node == 0:
        return 0
    if c_is_token(token, c"*"):
        c_trie_node(trie, parent).star = node
    elif c_is_token(token, c">"):
        c_trie_node(trie, parent).rest = node
    else:
        c_link_literal(trie, path, node)
    c_trie_node(trie, parent).children += 1
    trie.nodes += 1
    return node


cdef void c_unlink_child(Trie* trie, uint32_t parent, uint32_t node) noexcept nogil:
    if c_trie_node(trie, parent).star == node:
        c_trie_node(trie, parent).star = 0
    elif c_trie_node(trie, parent).rest == node:
        c_trie_node(trie, parent).rest = 0
    else:
        c_unlink_literal(trie, node)
    c_trie_node(trie, parent).children -= 1
    trie.nodes -= 1


cdef void c_prune(Trie* trie, uint32_t node) noexcept nogil:
    """Take away `node` and its ancestors as far up as they have neither entries nor children."""
    cdef uint32_t parent
    while node != ROOT and c_trie_node(trie, node).newest == 0 and c_trie_node(trie, node).children == 0:
        parent = c_trie_node(trie, node).parent
        c_unlink_child(trie, parent, node)
        c_free_node(trie, node)
        node = parent


cdef uint32_t c_trie_find(const Trie* trie, const Token* tokens, size_t count) noexcept nogil:
    """The node of exactly this pattern, 0 if there is none. It may have no entries."""
    cdef uint32_t node = ROOT
    cdef uint64_t path = 0
    cdef size_t i
    if trie.arena_used == 0:
        return 0
    for i in range(count):
        path = c_path_hash(path, tokens[i].hash)
        node = c_child(trie, node, &tokens[i], path)
        if node == 0:
            break
    return node


cdef size_t c_trie_pattern(const Trie* trie, uint32_t node, char* text) noexcept nogil:
    """Write the pattern of `node` to the start of `text` (192 bytes) and return its length."""
    cdef uint32_t walk = node
    cdef size_t length = 0
    cdef size_t position
    while walk != ROOT:
        length += c_trie_node(trie, walk).length + 1
        walk = c_trie_node(trie, walk).parent
    position = length - 1
    while node != ROOT:
        position -= c_trie_node(trie, node).length
        memcpy(text + position, c_trie_node(trie, node).token, c_trie_node(trie, node).length)
        if position:
            position -= 1
            text[position] = c"."
        node = c_trie_node(trie, node).parent
    return length - 1


# Entries

cdef bint c_grow_entries(Trie* trie) noexcept nogil:
    cdef uint64_t wanted = <uint64_t>trie.entry_capacity + trie.entry_capacity // 2
    cdef Entry* grown
    wanted = max(wanted, <uint64_t>FIRST_ENTRIES)
    if wanted > UINT32_MAX:
        return False
    grown = <Entry*>realloc(trie.entries, <size_t>wanted * sizeof(Entry))
    if grown == NULL:
        return False
    trie.entries = grown
    trie.entry_capacity = <uint32_t>wanted
    trie.entries_used = max(trie.entries_used, <uint32_t>1)
    return True


cdef uint32_t c_new_entry(Trie* trie) noexcept nogil:
    cdef uint32_t entry = trie.free_entry
    if entry:
        trie.free_entry = trie.entries[entry].older
        return entry
    if trie.entries_used == trie.entry_capacity and not c_grow_entries(trie):
        return 0
    entry = trie.entries_used
    trie.entries_used += 1
    return entry


cdef void c_release_entry(Trie* trie, uint32_t entry) noexcept nogil:
    trie.entries[entry].node = 0
    trie.entries[entry].older = trie.free_entry
    trie.free_entry = entry


cdef uint32_t c_make_path(Trie* trie, const Token* tokens, size_t count) noexcept nogil:
    """The node of this pattern, made if need be; 0 without memory, and then nothing has changed."""
    cdef uint32_t node = ROOT
    cdef uint32_t child
    cdef uint64_t path = 0
    cdef size_t i
    for i in range(count):
        path = c_path_hash(path, tokens[i].hash)
        child = c_child(trie, node, &tokens[i], path)
        if child == 0:
            child = c_add_child(trie, node, &tokens[i], path)
        if child == 0:
            c_prune(trie, node)
            return 0
        node = child
    return node


cdef uint32_t c_trie_insert(Trie* trie, const Token* tokens, size_t count) noexcept nogil:
    """Store one more entry under the pattern and return its number (from 1, reused after removal).

    0 means that there is no memory, and then nothing has changed.
    """
    cdef uint32_t entry, node
    if not c_have_root(trie):
        return 0
    entry = c_new_entry(trie)
    if entry == 0:
        return 0
    node = c_make_path(trie, tokens, count)
    if node == 0:
        c_release_entry(trie, entry)
        return 0
    trie.patterns += c_trie_node(trie, node).newest == 0
    trie.entries[entry].sequence = trie.sequence
    trie.entries[entry].node = node
    trie.entries[entry].older = c_trie_node(trie, node).newest
    c_trie_node(trie, node).newest = entry
    trie.sequence += 1
    trie.generation += 1
    trie.stored += 1
    return entry


cdef void c_trie_remove(Trie* trie, uint32_t entry) noexcept nogil:
    """Take out a stored entry. Linear in the entries of the same pattern, as they are chained one way."""
    cdef uint32_t node = trie.entries[entry].node
    cdef uint32_t* link = &c_trie_node(trie, node).newest
    while link[0] != entry:
        link = &trie.entries[link[0]].older
    link[0] = trie.entries[entry].older
    c_release_entry(trie, entry)
    trie.patterns -= c_trie_node(trie, node).newest == 0
    c_prune(trie, node)
    trie.generation += 1
    trie.stored -= 1


# Matching

cdef bint c_trie_push(Trie* trie, uint32_t entry) noexcept nogil:
    """Append one entry to `matches`; False without memory."""
    cdef size_t wanted
    cdef Match* grown
    if trie.match_count == trie.match_capacity:
        wanted = max(trie.match_capacity * 2, <size_t>FIRST_MATCHES)
        grown = <Match*>realloc(trie.matches, wanted * sizeof(Match))
        if grown == NULL:
            return False
        trie.matches = grown
        trie.match_capacity = wanted
    trie.matches[trie.match_count].sequence = trie.entries[entry].sequence
    trie.matches[trie.match_count].entry = entry
    trie.match_count += 1
    return True


cdef bint c_push_chain(Trie* trie, uint32_t node) noexcept nogil:
    cdef uint32_t entry = c_trie_node(trie, node).newest
    while entry:
        if not c_trie_push(trie, entry):
            return False
        entry = trie.entries[entry].older
    return True


cdef void c_fetch_ahead(const Trie* trie, const Token* tokens, size_t count) noexcept nogil:
    """Have memory read all slots on the way without wildcards at once, then all its nodes.

    They are spread out; the walk, which needs each one to find the next, would wait for them one by one.
    """
    cdef uint32_t mask = trie.slot_count - 1
    cdef uint64_t path = 0
    cdef size_t i
    if trie.slot_count == 0:
        return
    for i in range(count):
        path = c_path_hash(path, tokens[i].hash)
        c_prefetch(&trie.slots[path & mask])
    path = 0
    for i in range(count):
        path = c_path_hash(path, tokens[i].hash)
        if trie.slots[path & mask].hash == <uint32_t>path:
            c_prefetch(c_trie_node(trie, trie.slots[path & mask].node))


cdef bint c_walk(Trie* trie, uint32_t node, uint64_t path, const Token* tokens, size_t count) noexcept nogil:
    """Push what lies below `node`, whose hash is `path`, and matches the `count` tokens that are left."""
    cdef Node* here
    while count:
        here = c_trie_node(trie, node)
        if here.rest and not c_push_chain(trie, here.rest):
            return False
        if here.star and not c_walk(trie, here.star, c_path_hash(path, trie.star_hash),
                                    tokens + 1, count - 1):
            return False
        path = c_path_hash(path, tokens.hash)
        node = c_literal_child(trie, node, tokens, path)
        if node == 0:
            return True
        tokens += 1
        count -= 1
    return c_push_chain(trie, node)


cdef int c_compare_matches(const void* a, const void* b) noexcept nogil:
    cdef uint64_t first = (<const Match*>a).sequence
    cdef uint64_t second = (<const Match*>b).sequence
    return (first > second) - (first < second)


cdef void c_trie_sort(Trie* trie) noexcept nogil:
    """Put `matches` into the order of insertion."""
    cdef size_t count = trie.match_count
    cdef size_t i
    # A chain is newest first: turned round, the entries of a single pattern are in order.
    for i in range(count // 2):
        trie.matches[i], trie.matches[count - 1 - i] = trie.matches[count - 1 - i], trie.matches[i]
    for i in range(1, count):
        if trie.matches[i].sequence < trie.matches[i - 1].sequence:
            qsort(trie.matches, count, sizeof(Match), c_compare_matches)
            return


cdef bint c_trie_match(Trie* trie, const Token* tokens, size_t count) noexcept nogil:
    """Leave in `matches` every entry whose pattern matches the subject, in the order of insertion.

    False means that there is no memory. The next call overwrites `matches` and moves `generation`, and so
    does any change: who runs foreign code before having read them all compares `generation` and asks again.
    """
    trie.generation += 1
    trie.match_count = 0
    c_fetch_ahead(trie, tokens, count)
    if trie.arena_used and not c_walk(trie, ROOT, 0, tokens, count):
        return False
    c_trie_sort(trie)
    return True


# All of it

cdef size_t c_trie_nbytes(const Trie* trie) noexcept nogil:
    return (trie.arena_capacity * sizeof(uint32_t) + trie.slot_count * sizeof(Slot)
            + trie.entry_capacity * sizeof(Entry) + trie.match_capacity * sizeof(Match))


cdef void c_trie_free(Trie* trie) noexcept nogil:
    """Give all memory back and leave an empty trie that goes on with the same seed and generation."""
    cdef uint64_t seed = trie.seed
    cdef uint64_t generation = trie.generation
    free(trie.arena)
    free(trie.slots)
    free(trie.entries)
    free(trie.matches)
    memset(trie, 0, sizeof(Trie))
    trie.seed = seed
    trie.generation = generation + 1

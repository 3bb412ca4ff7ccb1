"""A hash table from keys to entries that holds neither: C arrays alone, inlined where it is used.

The owner holds the keys, by entry. A look-up goes through the entries whose keys have the tag that is looked
for, 32 bits of the hash, and the owner compares. Tags are kept, so that adding, removing and growing compare
and hash nothing: no code of a key's class runs in them, and none can raise while a structure is half changed.

Open addressing with linear probing; what is removed leaves no tombstone, its followers move up (D. E. Knuth,
The Art of Computer Programming, vol. 3, 6.4, algorithm R). A tag is the upper half of the hash times 2^64
over the golden ratio, and its highest bits are the place (6.4, "Fibonacci hashing"): hashes of small ints are
these ints, and strides of them must not meet in one place.

Threads: nothing here locks; whoever owns the struct serialises. A struct of zeros is an empty table.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

cdef enum:
    NO_ENTRY = 0xFFFFFFFF
    FIRST_BITS = 3
    MOST_BITS = 32

cdef struct Bucket:
    uint32_t tag
    uint32_t entry          # NO_ENTRY: free

cdef struct KeyTable:
    Bucket* buckets         # 2**bits of them, at most 3/4 of them used
    uint32_t* tags          # by entry
    uint32_t capacity       # of `tags`
    uint32_t bits
    uint32_t used
    uint64_t changes        # moved by whatever moves entries: a walk that compares has to begin again then


cdef inline uint32_t c_keys_tag(Py_hash_t hash) noexcept nogil:
    return <uint32_t>((<uint64_t>hash * 0x9E3779B97F4A7C15ULL) >> 32)


cdef inline uint64_t c_keys_home(const KeyTable* table, uint32_t tag) noexcept nogil:
    return tag >> (32 - table.bits)


cdef inline uint64_t c_keys_after(const KeyTable* table, uint64_t place) noexcept nogil:
    return (place + 1) & ((<uint64_t>1 << table.bits) - 1)


cdef inline uint32_t c_keys_match(const KeyTable* table, uint32_t tag, uint64_t* place) noexcept nogil:
    """The next entry of this tag from a place on, which is moved to where it is; NO_ENTRY: no more."""
    cdef const Bucket* bucket = &table.buckets[place[0]]
    while bucket.entry != NO_ENTRY and bucket.tag != tag:
        place[0] = c_keys_after(table, place[0])
        bucket = &table.buckets[place[0]]
    return bucket.entry


cdef inline void c_keys_set(KeyTable* table, uint32_t tag, uint32_t entry) noexcept nogil:
    cdef uint64_t place = c_keys_home(table, tag)
    while table.buckets[place].entry != NO_ENTRY:
        place = c_keys_after(table, place)
    table.buckets[place] = Bucket(tag, entry)


cdef inline bint c_keys_widen(KeyTable* table) noexcept nogil:
    """Twice as many buckets. False: no memory, nothing changed."""
    cdef Bucket* narrow = table.buckets
    cdef uint64_t count = <uint64_t>1 << table.bits if narrow != NULL else 0
    cdef uint32_t bits = table.bits + 1 if narrow != NULL else FIRST_BITS
    cdef size_t nbytes = sizeof(Bucket) << bits
    cdef Bucket* wide = NULL
    cdef uint64_t i
    if bits <= MOST_BITS:
        wide = <Bucket*>malloc(nbytes)
    if wide == NULL:
        return False
    memset(wide, 0xFF, nbytes)      # NO_ENTRY
    table.buckets = wide
    table.bits = bits
    for i in range(count):
        if narrow[i].entry != NO_ENTRY:
            c_keys_set(table, narrow[i].tag, narrow[i].entry)
    free(narrow)
    table.changes += 1
    return True


cdef inline bint c_keys_reserve(KeyTable* table, uint32_t capacity) noexcept nogil:
    """Room for one more key, of any of the entries below `capacity`. False: no memory, nothing changed."""
    cdef void* tags
    if table.capacity < capacity:
        tags = realloc(table.tags, capacity * sizeof(uint32_t))
        if tags == NULL:
            return False
        table.tags = <uint32_t*>tags
        table.capacity = capacity
    if table.buckets == NULL or (<uint64_t>table.used + 1) * 4 > <uint64_t>3 << table.bits:
        return c_keys_widen(table)
    return True


cdef inline void c_keys_add(KeyTable* table, uint32_t entry, uint32_t tag) noexcept nogil:
    """There is room for it, no equal key is in, and `entry` has none yet."""
    table.tags[entry] = tag
    c_keys_set(table, tag, entry)
    table.used += 1
    table.changes += 1


cdef inline void c_keys_remove(KeyTable* table, uint32_t entry) noexcept nogil:
    cdef uint64_t hole = c_keys_home(table, table.tags[entry])
    cdef uint64_t place, home
    while table.buckets[hole].entry != entry:
        hole = c_keys_after(table, hole)
    place = hole
    while True:
        place = c_keys_after(table, place)
        if table.buckets[place].entry == NO_ENTRY:
            break
        home = c_keys_home(table, table.buckets[place].tag)
        # It stays if its home lies, cyclically, behind the hole: a walk from there does not pass the hole.
        if (hole < home <= place) if hole <= place else (hole < home or home <= place):
            continue
        table.buckets[hole] = table.buckets[place]
        hole = place
    table.buckets[hole].entry = NO_ENTRY
    table.used -= 1
    table.changes += 1


cdef inline void c_keys_free(KeyTable* table) noexcept nogil:
    free(table.buckets)
    free(table.tags)
    table.buckets = NULL
    table.tags = NULL
    table.capacity = table.bits = table.used = 0
    table.changes += 1


cdef inline size_t c_keys_nbytes(const KeyTable* table) noexcept nogil:
    cdef size_t buckets = sizeof(Bucket) << table.bits if table.buckets != NULL else 0
    return buckets + table.capacity * sizeof(uint32_t)

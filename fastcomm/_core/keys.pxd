"""Strings that are not written out when they come again: keys of dicts, names of types.

A key is looked for by its hash, which every key of a dict has ready; what is kept of it are the bytes
that stand for it: a word of the static table, an entry of the string table, or its text, which within lists
becomes a reference to where the message has it already. How a key is written depends on its text and on the
tables alone, so that equal objects give equal messages.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from fastcomm._core.capi cimport (
    ascii_text, likely, PyObject, PyUnicode_GET_LENGTH, PyUnicode_IS_COMPACT_ASCII, Py_NewRef, Py_XDECREF,
    ready_hash, unlikely,
)
from fastcomm._core.wire cimport (
    FAR_ENTRY, FAR_REF, NEAR_ENTRY, NEAR_REF, NEAR_REF_MAX, SHORT_STR, SHORT_STR_MAX, SHORT_WORD, SHORT_WORDS,
    WORD, same_text, set_error,
)
from fastcomm._core.words cimport FC_WORD_INDEX, fc_word_hash, fc_word_index, fc_words
from fastcomm._core.output cimport (
    KEY_SLOTS, KEY_WAYS, PENDING, REF_SLOTS, KeySlot, RefSlot, Writer, copy_short, put_size,
)

cdef enum:
    LEARNED_AT = 2          # times that a key is met before the string table learns it
    NEAR_ENTRIES = 2048
    TAKEN = -2              # somebody else was learning


cdef inline uint8_t* put_ref(uint8_t* p, uint32_t offset) noexcept:
    if offset <= NEAR_REF_MAX:
        p[0] = <uint8_t> (NEAR_REF + (offset >> 8))
        p[1] = <uint8_t> offset
        return p + 2
    p[0] = FAR_REF
    return put_size(p + 1, offset)


cdef inline RefSlot* next_slot(Writer* writer, RefSlot* slot) noexcept:
    return slot + 1 if slot + 1 < &writer.refs[REF_SLOTS] else &writer.refs[0]


cdef inline bint says(Writer* writer, uint8_t* p, uint32_t offset, PyObject* key, Py_ssize_t size) noexcept:
    """Is the string at `offset` this one? Read from the message, so no pointer to a key is kept."""
    cdef uint8_t* said = writer.start + offset
    if said + size >= p or said[0] != SHORT_STR + size:
        return False
    return same_text(said + 1, ascii_text(key), size)


cdef inline uint8_t* put_repeated(Writer* writer, uint8_t* p, KeySlot* known) noexcept:
    """A key within a list, where it is likely to repeat: as a reference if the message has it already.

    Found by contents, not by identity, so that equal objects give equal messages.
    """
    cdef Py_ssize_t size = known.size - 1
    cdef RefSlot* slot = &writer.refs[known.hash & (REF_SLOTS - 1)]
    while slot.generation == writer.generation:
        if slot.hash == known.hash and says(writer, p, slot.offset, known.key, size):
            return put_ref(p, slot.offset)
        slot = next_slot(writer, slot)
    if writer.known < REF_SLOTS // 2 and p - writer.start <= <Py_ssize_t> 0xFFFFFFFF:
        slot[0] = RefSlot(known.hash, writer.generation, <uint32_t> (p - writer.start))
        writer.known += 1
    return put_code(p, known)


cdef inline uint8_t* put_code(uint8_t* p, KeySlot* known) noexcept:
    """Whole words: there is head room."""
    memcpy(p, known.code, 16)
    if known.size > 16:
        memcpy(p + 16, known.code + 16, 16)
    return p + known.size


cdef inline int find_word(const uint8_t* text, Py_ssize_t size) noexcept:
    """Number of a word of the static table, or -1."""
    cdef uint32_t slot = fc_word_hash(text, <int> size) % FC_WORD_INDEX
    cdef int number = fc_word_index[slot] - 1
    while number >= 0:
        if fc_words[number].length == size and same_text(<const uint8_t*> fc_words[number].text, text, size):
            return number
        slot = (slot + 1) % FC_WORD_INDEX
        number = fc_word_index[slot] - 1
    return -1


cdef inline void learn_key(KeySlot* slot, PyObject* key, Py_hash_t hash, Py_ssize_t size) noexcept:
    """How a key is written depends on its text alone: a table that says it, or its characters."""
    cdef const uint8_t* text = ascii_text(key)
    cdef int number = find_word(text, size) if size > 1 else -1
    Py_XDECREF(slot.key)
    slot.key = Py_NewRef(key)
    slot.hash = hash
    slot.uses = 0
    slot.is_text = number < 0
    if number < 0:
        slot.code[0] = <uint8_t> (SHORT_STR + size)
        copy_short(slot.code + 1, text, size)
        slot.size = <int> size + 1
    elif number < SHORT_WORDS:
        slot.code[0] = <uint8_t> (SHORT_WORD + number)
        slot.size = 1
    else:
        name_entry(slot, WORD, number - SHORT_WORDS)


cdef inline void name_entry(KeySlot* slot, int tag, int number) noexcept:
    slot.is_text = False
    slot.code[0] = <uint8_t> (tag + (number >> 8))
    slot.code[1] = <uint8_t> number
    slot.size = 2


cdef inline bint learn_entry(Writer* writer, KeySlot* slot) noexcept:
    """A key that was met before goes into the string table; it is asked for once, unless others kept us."""
    cdef int number
    slot.uses += 1
    if slot.uses != LEARNED_AT or slot.size < 3:
        return True
    try:
        number = (<object> writer.table).learn(<object> slot.key)
    except BaseException as error:
        set_error(error)
        writer.why = PENDING
        return False
    if number == TAKEN:
        slot.uses = 0
    elif 0 <= number < NEAR_ENTRIES:
        name_entry(slot, NEAR_ENTRY, number)
    elif number >= 0:
        slot.is_text = False
        slot.code[0] = FAR_ENTRY
        slot.size = <int> (put_size(slot.code + 1, number) - slot.code)
    return True


cdef inline bint is_known(KeySlot* slot, PyObject* key, Py_hash_t hash, Py_ssize_t size) noexcept:
    if slot.key == NULL or slot.hash != hash or PyUnicode_GET_LENGTH(slot.key) != size:
        return False
    if size == 1:
        return ascii_text(slot.key)[0] == ascii_text(key)[0]
    return same_text(ascii_text(slot.key), ascii_text(key), size)


cdef inline KeySlot* ways_of(Writer* writer, Py_hash_t hash) noexcept:
    return &writer.keys[hash & (KEY_SLOTS - KEY_WAYS)]


cdef inline KeySlot* find_key(Writer* writer, PyObject* key) noexcept:
    """What is known of a key; learned if it is new. NULL: it is not short, or not ASCII."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(key)
    cdef Py_hash_t hash = ready_hash(key)
    cdef KeySlot* ways = ways_of(writer, hash)
    cdef int i
    if not PyUnicode_IS_COMPACT_ASCII(key) or <size_t> (size - 1) >= <size_t> SHORT_STR_MAX:
        return NULL
    for i in range(KEY_WAYS):
        if is_known(&ways[i], key, hash, size):
            return &ways[i]
    for i in range(KEY_WAYS):
        if ways[i].key == NULL:
            break
    else:
        writer.evicted += 1
        i = writer.evicted & (KEY_WAYS - 1)
    learn_key(&ways[i], key, hash, size)
    return &ways[i]


cdef inline KeySlot* known_key(Writer* writer, PyObject* key) noexcept:
    """The same, first by identity: most keys are constants of some code, or came out of a decoder."""
    cdef KeySlot* ways = ways_of(writer, ready_hash(key))
    cdef int i
    for i in range(KEY_WAYS):
        if likely(ways[i].key == key):
            return &ways[i]
    return find_key(writer, key)


cdef inline uint8_t* put_known(Writer* writer, uint8_t* p, KeySlot* slot) noexcept:
    """There must be room for the longest."""
    if unlikely(slot.is_text and (writer.lists or writer.learns)):     # the rarer case is a call
        if writer.learns and not learn_entry(writer, slot):
            return NULL
        if writer.lists and slot.is_text and slot.size > 2:
            return put_repeated(writer, p, slot)
    return put_code(p, slot)

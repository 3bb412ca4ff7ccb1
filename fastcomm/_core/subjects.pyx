"""Subjects: NATS's grammar, and the relations between patterns.

A subject is a list of tokens with dots between: ``tasks.render.done``. In a pattern the token ``*`` stands
for any one token, and ``>``, which must be the last, for one or more: ``tasks.*.done`` and ``tasks.>`` match
the subject above, ``tasks.>`` does not match ``tasks``. Both count as wildcards only if they are a whole
token: ``a*.>b`` has none.

A subject or pattern is refused
- if it is empty, or longer than MAX_SUBJECT_BYTES of UTF-8, or not representable in UTF-8 (lone surrogates);
- if a token is empty: no dot at either end, no two in a row;
- if it has a character for which ``str.isspace()`` is true or a control character (category Cc: U+0000 to
  U+001F and U+007F to U+009F, so NUL too). Anything else goes;
- as a pattern, if a token ``>`` is not the last one; as a subject, if any token is ``*`` or ``>``.

Grammar and matching follow NATS (docs.nats.io, "Subject-Based Messaging"). Its server takes more: control
characters, spaces other than ASCII's, subjects of some 4,000 bytes; and from a publisher, unless it asked for
pedantry, any subject at all, in which wildcards are then literal and empty tokens match nothing.
tests/test_subjects_nats.py compares.

Threads: everything here holds the GIL from start to end.
"""

from cpython.unicode cimport PyUnicode_FromObject
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from fastcomm.errors import InvalidSubjectError

cdef extern from "Python.h":
    # Declared here because the bytes that it returns are const.
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

MAX_SUBJECT_BYTES = MAX_BYTES


# Grammar

cdef inline bint c_is_forbidden(uint32_t code) noexcept nogil:
    """White space (Unicode's property and U+001C to U+001F) and category Cc."""
    return (code <= 0x20 or 0x7F <= code <= 0xA0 or code == 0x1680 or 0x2000 <= code <= 0x200A
            or code == 0x2028 or code == 0x2029 or code == 0x202F or code == 0x205F or code == 0x3000)


cdef size_t c_sequence_size(unsigned char lead, uint32_t* code, uint32_t* smallest) noexcept nogil:
    """Size of the UTF-8 sequence that `lead` begins, 0 if none; and what `lead` gives to its code point."""
    if lead < 0x80:
        code[0], smallest[0] = lead, 0
        return 1
    if 0xC0 <= lead < 0xE0:
        code[0], smallest[0] = lead & 0x1F, 0x80
        return 2
    if 0xE0 <= lead < 0xF0:
        code[0], smallest[0] = lead & 0x0F, 0x800
        return 3
    if 0xF0 <= lead < 0xF8:
        code[0], smallest[0] = lead & 0x07, 0x10000
        return 4
    return 0


cdef size_t c_decode(const char* text, size_t available, uint32_t* code) noexcept nogil:
    """Decode one character; return its size in bytes, 0 if it is malformed, overlong or a surrogate."""
    cdef uint32_t smallest = 0
    cdef size_t size = c_sequence_size(<unsigned char>text[0], code, &smallest)
    cdef size_t i
    if size == 0 or size > available:
        return 0
    for i in range(1, size):
        if (<unsigned char>text[i] & 0xC0) != 0x80:
            return 0
        code[0] = code[0] << 6 | (<unsigned char>text[i] & 0x3F)
    if code[0] < smallest or 0xD800 <= code[0] < 0xE000 or code[0] > 0x10FFFF:
        return 0
    return size


cdef inline Flaw c_check_token(const char* token, size_t length, Kind kind, bint last) noexcept nogil:
    if length == 0:
        return FLAW_EMPTY_TOKEN
    if length > 1 or (token[0] != c"*" and token[0] != c">"):
        return SOUND
    if kind == SUBJECT:
        return FLAW_WILDCARD
    if token[0] == c">" and not last:
        return FLAW_REST_NOT_LAST
    return SOUND


cdef Flaw c_check_character(const char* text, size_t available, size_t* size) noexcept nogil:
    cdef uint32_t code = 0
    size[0] = c_decode(text, available, &code)
    if size[0] == 0:
        return FLAW_ENCODING
    return FLAW_CHARACTER if c_is_forbidden(code) else SOUND


cdef Flaw c_check(const char* text, size_t length, Kind kind, size_t* position) noexcept nogil:
    cdef size_t start = 0
    cdef size_t at = 0
    cdef size_t size
    cdef Flaw flaw
    if length == 0 or length > MAX_BYTES:
        position[0] = min(length, <size_t>MAX_BYTES)
        return FLAW_TOO_LONG if length else FLAW_EMPTY
    while at < length:
        if text[at] == c".":
            flaw = c_check_token(text + start, at - start, kind, False)
            if flaw != SOUND:
                position[0] = start
                return flaw
            at += 1
            start = at
        elif c" " < text[at] < 0x7F:
            at += 1
        else:
            flaw = c_check_character(text + at, length - at, &size)
            if flaw != SOUND:
                position[0] = at
                return flaw
            at += size
    flaw = c_check_token(text + start, length - start, kind, True)
    if flaw != SOUND:
        position[0] = start
    return flaw


# Relations

cdef inline size_t c_token_end(const char* text, size_t at, size_t length) noexcept nogil:
    while at < length and text[at] != c".":
        at += 1
    return at


cdef inline bint c_is_one(const char* text, size_t start, size_t end, char character) noexcept nogil:
    return end - start == 1 and text[start] == character


cdef inline bint c_same(const char* a, size_t a_start, size_t a_end,
                        const char* b, size_t b_start, size_t b_end) noexcept nogil:
    return a_end - a_start == b_end - b_start and memcmp(a + a_start, b + b_start, a_end - a_start) == 0


cdef bint c_is_subset(const char* a, size_t a_length, const char* b, size_t b_length) noexcept nogil:
    """Whether `b` matches everything that `a` matches."""
    cdef size_t a_start = 0
    cdef size_t b_start = 0
    cdef size_t a_end, b_end
    while a_start < a_length and b_start < b_length:
        a_end = c_token_end(a, a_start, a_length)
        b_end = c_token_end(b, b_start, b_length)
        if c_is_one(b, b_start, b_end, c">"):
            return True
        if c_is_one(a, a_start, a_end, c">"):
            return False
        if not c_is_one(b, b_start, b_end, c"*") and not c_same(a, a_start, a_end, b, b_start, b_end):
            return False
        a_start = a_end + 1
        b_start = b_end + 1
    # Sound text ends in a token: both starts are past the end only if both had equally many.
    return a_start > a_length and b_start > b_length


cdef bint c_collides(const char* a, size_t a_length, const char* b, size_t b_length) noexcept nogil:
    """Whether some subject is matched by both."""
    cdef size_t a_start = 0
    cdef size_t b_start = 0
    cdef size_t a_end, b_end
    while a_start < a_length and b_start < b_length:
        a_end = c_token_end(a, a_start, a_length)
        b_end = c_token_end(b, b_start, b_length)
        if c_is_one(a, a_start, a_end, c">") or c_is_one(b, b_start, b_end, c">"):
            return True
        if not c_is_one(a, a_start, a_end, c"*") and not c_is_one(b, b_start, b_end, c"*") \
                and not c_same(a, a_start, a_end, b, b_start, b_end):
            return False
        a_start = a_end + 1
        b_start = b_end + 1
    return a_start > a_length and b_start > b_length


cdef bint c_is_literal(const char* pattern, size_t length) noexcept nogil:
    cdef size_t start = 0
    cdef size_t end
    while start < length:
        end = c_token_end(pattern, start, length)
        if c_is_one(pattern, start, end, c"*") or c_is_one(pattern, start, end, c">"):
            return False
        start = end + 1
    return True


# From Python's str

cdef inline Text utf8(str text) except *:
    cdef Text found
    cdef Py_ssize_t size = 0
    found.start = PyUnicode_AsUTF8AndSize(text, &size)
    found.length = <size_t>size
    return found


cdef str plain(object text, Kind kind):
    """`text` as an exact str: a subclass (StrEnum, say) may compare and hash as it likes."""
    if not isinstance(text, str):
        raise TypeError(f"a {kind_name(kind)} is a str, not {type(text).__name__}")
    return PyUnicode_FromObject(text)


cdef str kind_name(Kind kind):
    return "subject" if kind == SUBJECT else "pattern"


cdef str flaw_text(Flaw flaw, str text, Py_ssize_t position, size_t length):
    if flaw == FLAW_EMPTY:
        return "it is empty"
    if flaw == FLAW_TOO_LONG:
        return f"it has {length} bytes of UTF-8, {MAX_BYTES} are allowed"
    if flaw == FLAW_EMPTY_TOKEN:
        return f"empty token at position {position}; put one dot between tokens and none at either end"
    if flaw == FLAW_WILDCARD:
        return f"wildcard {text[position]!r} at position {position}; only patterns have wildcards"
    if flaw == FLAW_REST_NOT_LAST:
        return f"'>' at position {position} is not the last token; use '*' for a single token"
    return (f"character {text[position]!r} at position {position}; "
            "white space and control characters are not allowed")


cdef object invalid(Flaw flaw, str text, Kind kind, size_t offset, size_t length):
    """The error to raise, with the position counted in characters."""
    cdef Py_ssize_t position = len(text.encode()[:offset].decode(errors="ignore"))
    reason = flaw_text(flaw, text, position, length)
    shown = text if len(text) <= MAX_BYTES else text[:MAX_BYTES] + "..."
    return InvalidSubjectError(f"invalid {kind_name(kind)} {shown!r}: {reason}", position=position)


cdef object not_utf8(str text, Kind kind, Py_ssize_t position):
    return InvalidSubjectError(
        f"invalid {kind_name(kind)} {text!r}: lone surrogate at position {position} has no UTF-8",
        position=position)


cdef Text checked(str text, Kind kind) except *:
    """The UTF-8 of `text`, which lives as long as `text` does."""
    cdef Text found
    cdef size_t position = 0
    cdef Flaw flaw
    try:
        found = utf8(text)
    except UnicodeEncodeError as error:
        raise not_utf8(text, kind, error.start) from None
    flaw = c_check(found.start, found.length, kind, &position)
    if flaw != SOUND:
        raise invalid(flaw, text, kind, position, found.length)
    return found


cdef bint is_valid(object text, Kind kind) except -1:
    cdef str held = plain(text, kind)
    cdef Text found
    cdef size_t position = 0
    try:
        found = utf8(held)
    except UnicodeEncodeError:
        return False
    return c_check(found.start, found.length, kind, &position) == SOUND


def is_valid_subject(subject) -> bool:
    """Whether `subject` may be published to. TypeError if it is no str."""
    return is_valid(subject, SUBJECT)


def is_valid_pattern(pattern) -> bool:
    """Whether `pattern` may be subscribed to. Every valid subject may. TypeError if it is no str."""
    return is_valid(pattern, PATTERN)


def check_subject(subject) -> None:
    """Raise InvalidSubjectError unless `subject` may be published to.

    The text has the reason; `position` counts characters. TypeError if it is no str.
    """
    checked(plain(subject, SUBJECT), SUBJECT)


def check_pattern(pattern) -> None:
    """Raise InvalidSubjectError unless `pattern` may be subscribed to.

    The text has the reason; `position` counts characters. TypeError if it is no str.
    """
    checked(plain(pattern, PATTERN), PATTERN)


def matches(pattern, subject) -> bool:
    """Whether `pattern` matches `subject`. InvalidSubjectError if either is not what it should be."""
    cdef str p = plain(pattern, PATTERN)
    cdef str s = plain(subject, SUBJECT)
    cdef Text left = checked(p, PATTERN)
    cdef Text right = checked(s, SUBJECT)
    return c_is_subset(right.start, right.length, left.start, left.length)


def collides(a, b) -> bool:
    """Whether some subject is matched by both patterns. InvalidSubjectError if either is no pattern.

    The limit on length is left out of account: a subject that both match may be longer than it.
    """
    cdef str first = plain(a, PATTERN)
    cdef str second = plain(b, PATTERN)
    cdef Text left = checked(first, PATTERN)
    cdef Text right = checked(second, PATTERN)
    return c_collides(left.start, left.length, right.start, right.length)


def is_subset(a, b) -> bool:
    """Whether pattern `b` matches every subject that pattern `a` matches.

    InvalidSubjectError if either is no pattern. The limit on length is left out of account, as in `collides`.
    """
    cdef str first = plain(a, PATTERN)
    cdef str second = plain(b, PATTERN)
    cdef Text left = checked(first, PATTERN)
    cdef Text right = checked(second, PATTERN)
    return c_is_subset(left.start, left.length, right.start, right.length)

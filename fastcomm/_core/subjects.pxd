cdef enum:
    MAX_BYTES = 192     # of UTF-8; entries of the tables in shared memory have a fixed size

cdef enum Kind:
    SUBJECT             # what is published to: literal
    PATTERN             # what is subscribed to

cdef enum Flaw:
    SOUND = 0
    FLAW_EMPTY
    FLAW_TOO_LONG
    FLAW_EMPTY_TOKEN
    FLAW_CHARACTER      # white space or a control character
    FLAW_ENCODING       # not UTF-8
    FLAW_WILDCARD       # a token "*" or ">" in a subject
    FLAW_REST_NOT_LAST

cdef struct Text:
    const char* start
    size_t length

# Any bytes may be given. `position` gets the offset of the flaw in bytes, and is left alone if there is none.
cdef Flaw c_check(const char* text, size_t length, Kind kind, size_t* position) noexcept nogil

# These take checked text. With anything else they read nothing outside it, and the answer means nothing.
cdef bint c_is_subset(const char* a, size_t a_length, const char* b, size_t b_length) noexcept nogil
cdef bint c_collides(const char* a, size_t a_length, const char* b, size_t b_length) noexcept nogil
cdef bint c_is_literal(const char* pattern, size_t length) noexcept nogil

# A subject is a pattern without wildcards: that it matches is that what it matches (itself) is covered.
cdef inline bint c_matches(const char* pattern, size_t pattern_length,
                           const char* subject, size_t subject_length) noexcept nogil:
    return c_is_subset(subject, subject_length, pattern, pattern_length)

# `text` as an exact str: a subclass (StrEnum, say) may compare and hash as it likes. TypeError.
cdef str plain(object text, Kind kind)
# The UTF-8 of `text`, which lives as long as `text` does. InvalidSubjectError.
cdef Text checked(str text, Kind kind) except *

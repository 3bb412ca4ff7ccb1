"""What agents send that always has the same fields. Words, counts and reports are lists, of any length."""

from fastcomm import Struct
from fastcomm.structs import u4, u8


class Verdict(Struct, type_id=0xDE300001):
    """No more words come from `tokenizer`: those of its groups up to `last_group` count (accounting.py)."""

    tokenizer: str
    last_group: u4


class Lost(Struct, type_id=0xDE300002):
    """The piece of file number `file` that was lost with `tokenizer`; its fields are those of Piece."""

    tokenizer: str
    file: u4
    start: u8
    end: u8
    first_line: u4
    last_line: u4


class Totals(Struct, type_id=0xDE300003):
    """The end of an account: words counted, words thrown away, groups that no verdict came for."""

    words: u8
    discarded: u8
    unsettled: u4

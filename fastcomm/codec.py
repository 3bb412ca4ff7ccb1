"""CodecPool: codecs of one kind for many threads. Codec itself is compiled (``fastcomm._core.codec``)."""

from __future__ import annotations

from _thread import get_ident
from types import TracebackType
from typing import Any, final

from fastcomm._core.codec import Codec, decode, encode, encode_into
from fastcomm._core.strings import StringTable

__all__ = ["Codec", "CodecPool", "StringTable", "decode", "encode", "encode_into"]


@final
class CodecPool:
    """Codecs with the same options, types and string table, so that threads need not take turns at one.

        pool = CodecPool(compression="lz4", size=4)
        with pool as codec:
            data = codec.encode(task)

    A `codec` to be like, or the options of Codec. acquire() never waits: it hands out an idle codec, the one
    given back last, or makes another. At most `size` idle ones are kept, which bounds the memory; `idle` says
    how many there are. Thread safety: yes, also of the ``with`` statement, which may be nested.
    """

    def __init__(self, codec: Codec | None = None, *, size: int = 8, **options: Any) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        if codec is not None and options:
            raise TypeError(f"a codec and options of one: {', '.join(options)}")
        self.size = size
        self._pattern = Codec(**options) if codec is None else codec
        self._idle: list[Codec] = []
        self._lent: dict[int, list[Codec]] = {}  # by thread: those of its with statements

    @property
    def idle(self) -> int:
        """How many codecs are kept and not in use."""
        return len(self._idle)

    def acquire(self) -> Codec:
        """A codec that nobody else uses until it is given back with release()."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._pattern.twin()

    def release(self, codec: Codec) -> None:
        """Give back what acquire() returned, once. Dropped if `size` are idle."""
        if len(self._idle) < self.size:
            self._idle.append(codec)

    def __enter__(self) -> Codec:
        codec = self.acquire()
        self._lent.setdefault(get_ident(), []).append(codec)
        return codec

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        thread = get_ident()
        codecs = self._lent[thread]
        self.release(codecs.pop())
        if not codecs:
            del self._lent[thread]

"""Incremental gzip that a hostile stream cannot blow up: output comes in small pieces, and a cut file is refused.

A stream is taken for gzip by its first two bytes, not by what a header claims, so that `.csv.gz` files, servers that
compress, and both at once are all read.
"""

import zlib
from collections.abc import Iterator

from app.services.sync.errors import FetchError

_MAGIC = b"\x1f\x8b"
_PIECE_BYTES = 262_144
_GZIP_WBITS = 31


class Gunzip:
    """Decodes one layer of gzip, of any number of members; passes through what is not gzip."""

    def __init__(self) -> None:
        self._head: bytes | None = b""  # None once the first two bytes have been judged
        self._decoder: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decodes to. Raises FetchError for damaged gzip."""
        if self._head is not None:
            data = self._head + data
            if len(data) < len(_MAGIC):
                self._head = data
                return
            self._head = None
            if data.startswith(_MAGIC):
                self._decoder = zlib.decompressobj(_GZIP_WBITS)
        if self._decoder is None:
            if data:
                yield data
            return
        while data:
            data = self._next_member(data)
            if not data:
                return
            try:
                piece = self._decoder.decompress(data, _PIECE_BYTES)
            except zlib.error as error:
                raise FetchError(f"The feed's gzip data is damaged ({error}).") from None
            data = self._decoder.unconsumed_tail or self._decoder.unused_data
            if piece:
                yield piece

    def finish(self) -> Iterator[bytes]:
        """Yield what is left at the end of the stream. Raises FetchError when it ended too early."""
        if self._head:
            yield self._head
        if self._decoder is None:
            return
        # A piece that was exactly full may have left output inside.
        if not self._decoder.eof and (rest := self._decoder.flush()):
            yield rest
        if not self._decoder.eof:
            raise FetchError("The feed's gzip data ends too early: the file is cut short.")

    def _next_member(self, data: bytes) -> bytes:
        """Begin another member when the last one has ended; zeros after it are padding."""
        if self._decoder is None or not self._decoder.eof:
            return data
        data = data.lstrip(b"\0")
        if data and not _MAGIC.startswith(data[:2]):
            raise FetchError("The feed's gzip data is followed by something else.")
        if data:
            self._decoder = zlib.decompressobj(_GZIP_WBITS)
        return data

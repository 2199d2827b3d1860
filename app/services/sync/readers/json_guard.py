"""Keeps hostile JSON from ijson, which holds a whole path for each level of nesting and a whole token in memory.

(20 kB of `[` cost ijson 3.6 a gigabyte.) It judges raw bytes on their way to the parser, at little cost.
"""

import codecs
import io
import re
from itertools import accumulate

from app.services.sync.errors import UnreadableFeedError

MAX_DEPTH = 64
MAX_ITEM_BYTES = 1_048_576

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NOT_STRUCTURAL = bytes(byte for byte in range(256) if byte not in b'[]{}"')


class GuardedJson:
    """A file that passes JSON on. Raises UnreadableFeedError for what is nested too deep or too long."""

    def __init__(self, raw: io.RawIOBase, *, limit_items: bool = True) -> None:
        self._raw = raw
        self._limit_items = limit_items
        self._at_start = True
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._token_bytes = 0
        self._item_bytes = 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, judged."""
        data = self._raw.read(size) or b""
        if self._at_start and len(data) > 2:
            self._at_start = False
            data = data.removeprefix(codecs.BOM_UTF8)
        self._item_bytes += len(data)
        if self._limit_items and self._item_bytes > MAX_ITEM_BYTES + len(data):
            raise UnreadableFeedError(f"An item of the feed is larger than {MAX_ITEM_BYTES} bytes.")
        self._judge(data)
        return data

    def item_done(self) -> None:
        """Note that an item was complete, so that the next may be as long again."""
        self._item_bytes = 0

    def _judge(self, data: bytes) -> None:
        chunk = self._without_escapes(data)
        ends_token = b'"' in chunk or (not self._in_string and b"," in chunk)
        self._token_bytes = 0 if ends_token else self._token_bytes + len(data)
        if self._token_bytes > MAX_ITEM_BYTES:
            raise UnreadableFeedError(f"A text or number in the feed is longer than {MAX_ITEM_BYTES} bytes.")
        # Two quotes side by side are a text without brackets, or end one and begin the next: neither matters.
        between_quotes = chunk.translate(None, _NOT_STRUCTURAL).replace(b'""', b"").split(b'"')
        brackets = b"".join(between_quotes[self._in_string :: 2])
        if len(between_quotes) % 2 == 0:
            self._in_string = not self._in_string
        levels = list(accumulate(map(_STEP.__getitem__, brackets), initial=self._depth))
        self._depth = levels[-1]
        if max(levels) > MAX_DEPTH:
            raise UnreadableFeedError(f"The feed nests deeper than {MAX_DEPTH} levels.")

    def _without_escapes(self, data: bytes) -> bytes:
        if self._escaped:
            data = data[1:]
            self._escaped = False
        if b"\\" not in data:
            return data
        chunk = _ESCAPE.sub(b"", data)
        if chunk.endswith(b"\\"):
            self._escaped = True
            chunk = chunk[:-1]
        return chunk

"""What was fetched, in a temporary file: one task writes documents to it while one thread reads behind.

The file keeps memory flat however slowly rows are taken, frees the feed's server early, and yields the digest that
tells an unchanged feed before anything is parsed. It has no name, so a killed process leaves nothing behind.
"""

import hashlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self

from app.services.sync.errors import TooLargeError


class SpoolAbortedError(Exception):
    """The writer gave up; its own exception says why."""


@dataclass(slots=True)
class _Document:
    name: str
    start: int
    # The digest of all documents before this one.
    before: bytes
    # Nothing of it may be read before its end, so that it can still be begun anew.
    whole: bool
    end: int | None = None


class Spool:
    """Documents one after another. Writing is for one task, `documents` for one thread; both may go on at once.

    `digest` and `size` are those of documents that an earlier spool had, when this one goes on with the next.
    """

    def __init__(self, *, max_bytes: int, digest: bytes = b"", size: int = 0) -> None:
        self._max_bytes = max_bytes
        self._file = tempfile.TemporaryFile(prefix="cashback-feed-", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._hash = hashlib.sha256()
        self._digest = digest
        self._earlier_size = size
        self._documents: list[_Document] = []
        self._size = 0
        self._finished = False
        self._aborted = False
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()
        self._file.close()

    @property
    def digest(self) -> bytes:
        """A digest of all documents that have ended, in their order; 32 bytes."""
        return self._digest

    def begin_document(self, name: str = "", *, whole: bool = False) -> None:
        """Begin the next document. A `whole` one is readable only once it has ended, and may be restarted."""
        self._hash = hashlib.sha256()
        with self._changed:
            self._documents.append(_Document(name, self._size, self._digest, whole))
            self._changed.notify_all()

    def restart_document(self) -> None:
        """Forget what was written of the present document, a whole one."""
        self._hash = hashlib.sha256()
        with self._changed:
            self._size = self._documents[-1].start
        self._file.seek(self._size)

    def write(self, data: bytes) -> None:
        """Append to the present document. Raises TooLargeError beyond the limit, OSError when the disk is full."""
        if self._aborted:
            raise SpoolAbortedError
        if self._earlier_size + self._size + len(data) > self._max_bytes:
            raise TooLargeError(
                f"The feed is larger than {self._max_bytes} bytes (its max_bytes, or FEED_MAX_BYTES), decompressed."
            )
        self._hash.update(data)
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        with self._changed:
            self._size += len(data)
            self._changed.notify_all()

    def end_document(self) -> "DocumentReader":
        """End the present document; returns a reader of its own for it."""
        self._digest = hashlib.sha256(self._digest + self._hash.digest()).digest()
        with self._changed:
            document = self._documents[-1]
            document.end = self._size
            self._changed.notify_all()
        return DocumentReader(self, document)

    def finish(self) -> None:
        """Say that no document follows."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Make the reading thread, which may be waiting, end with SpoolAbortedError. After `finish` it does no harm."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def size_before(self, document: _Document) -> int:
        """Return the size of all documents before one."""
        return self._earlier_size + document.start

    def documents(self) -> Iterator["DocumentReader"]:
        """Yield each document as soon as it has begun, waiting for it where needed."""
        for index in count():
            if (document := self._wait_for_document(index)) is None:
                return
            yield DocumentReader(self, document)

    def _wait_for_document(self, index: int) -> _Document | None:
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._finished or index < len(self._documents))
            if self._aborted:
                raise SpoolAbortedError
            return self._documents[index] if index < len(self._documents) else None

    def read_into(self, buffer: memoryview, document: _Document, offset: int) -> int:
        """Fill the buffer with what there is of a document at an offset, waiting for a first byte; 0 at its end."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._is_readable(document, offset))
            if self._aborted:
                raise SpoolAbortedError
            available = (self._size if document.end is None else document.end) - offset
        if available <= 0:
            return 0
        return os.preadv(self._file.fileno(), [buffer[:available]], offset)

    def _is_readable(self, document: _Document, offset: int) -> bool:
        return document.end is not None or (not document.whole and self._size > offset)


class DocumentReader(io.RawIOBase):
    """One document of a spool as a file to read, from its start."""

    def __init__(self, spool: Spool, document: _Document) -> None:
        self._spool = spool
        self._document = document
        self._offset = document.start

    @property
    def name(self) -> str:
        """The name that the document was begun with."""
        return self._document.name

    @property
    def digest_before(self) -> bytes:
        """A digest of all documents before this one, empty when it is the first."""
        return self._document.before

    @property
    def size_before(self) -> int:
        """The size of all documents before this one."""
        return self._spool.size_before(self._document)

    def again(self) -> "DocumentReader":
        """Return a reader of the same document, at its start."""
        return DocumentReader(self._spool, self._document)

    def readable(self) -> bool:
        """Tell io's wrappers that they may read."""
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]  # io's Buffer, once in typing
        """Read what is there, waiting for at least one byte."""
        count = self._spool.read_into(memoryview(buffer), self._document, self._offset)
        self._offset += count
        return count

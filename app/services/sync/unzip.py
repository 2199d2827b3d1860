"""Takes one file out of a zip archive, with memory that does not grow with either.

A zip is taken for one by its first bytes. It is kept in a temporary file, since its table of contents is at its end;
anything else passes through.
"""

import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Self

from app.services.sync.errors import FetchError, TooLargeError, UnreadableFeedError

_MAGIC = b"PK\x03\x04"
_EMPTY_MAGIC = b"PK\x05\x06"
_PIECE_BYTES = 262_144
# Of thousands of files; the library reads the whole table at once.
_MOST_TABLE_BYTES = 262_144
_MOST_NAMES_SHOWN = 5
_ENCRYPTED = 0x1


class Unzip:
    """Passes a document on to `write`: at once, or at its end when it is a zip. Use as a context manager."""

    def __init__(self, write: Callable[[bytes], None], *, member: str | None, max_bytes: int) -> None:
        self._pass_on = write
        self._member = member
        self._max_bytes = max_bytes
        self._archive: IO[bytes] | None = None
        self.restart()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what came so far, before a document or the same once more."""
        if self._archive is not None:
            self._archive.close()
        self._archive = None
        self._head: bytes | None = b""  # None once the first bytes have been judged

    def write(self, data: bytes) -> None:
        """Take a piece in. Raises TooLargeError, and what `write` raises."""
        if self._head is not None:
            data = self._head + data
            if len(data) < len(_MAGIC):
                self._head = data
                return
            self._head = None
            if data.startswith((_MAGIC, _EMPTY_MAGIC)):
                self._archive = tempfile.TemporaryFile(prefix="cashback-feed-")  # noqa: SIM115 - closed by restart
        if self._archive is None:
            self._pass_on(data)
            return
        if self._archive.tell() + len(data) > self._max_bytes:
            raise TooLargeError(f"The feed's archive is larger than {self._max_bytes} bytes.")
        self._archive.write(data)

    @property
    def is_archive(self) -> bool:
        """Whether `finish` has an archive to unpack, which takes a while."""
        return self._archive is not None

    def finish(self) -> None:
        """Pass on what is left. Raises FetchError for a damaged archive, UnreadableFeedError without the file in it."""
        if self._head:
            self._pass_on(self._head)
        if self._archive is None:
            return
        with _damage_as_fetch_error():
            archive = zipfile.ZipFile(_Guarded(self._archive))
            member = archive.open(self._find(archive))
        with archive, member:
            while True:
                with _damage_as_fetch_error():
                    piece = member.read(_PIECE_BYTES)
                if not piece:
                    return
                self._pass_on(piece)

    def _find(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        files = [file for file in archive.infolist() if not file.is_dir() and not file.filename.startswith("__MACOSX/")]
        if self._member is not None:
            files = [file for file in files if file.filename == self._member]
        if len(files) == 1:
            return _require_readable(files[0])
        names = [file.filename for file in archive.infolist()[:_MOST_NAMES_SHOWN]]
        shown = ", ".join(repr(name[:80]) for name in names) or "nothing"
        wanted = (
            f"has no file {self._member!r}" if self._member is not None else "has not one file; name it as `member`"
        )
        raise UnreadableFeedError(f"The feed's zip archive {wanted}. It holds {shown}.")


@contextmanager
def _damage_as_fetch_error() -> Iterator[None]:
    try:
        yield
    # All that the library lets out when a few bytes of an archive are changed.
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, LookupError, ValueError) as error:
        raise FetchError(f"The feed's zip archive is damaged or cut short ({str(error)[:200]}).") from None
    except NotImplementedError as error:
        raise UnreadableFeedError(
            f"The feed's zip archive is of a kind that is not read: {str(error)[:200]}."
        ) from None


def _require_readable(file: zipfile.ZipInfo) -> zipfile.ZipInfo:
    if file.flag_bits & _ENCRYPTED:
        raise UnreadableFeedError("The feed's zip archive needs a password.")
    # Others may ask for any amount of memory.
    if file.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UnreadableFeedError("The feed's zip archive is compressed in another way than deflate.")
    return file


class _Guarded:
    """An archive's file that refuses to be read in pieces larger than a table of contents may be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(_MOST_TABLE_BYTES + 1 if size < 0 else min(size, _MOST_TABLE_BYTES + 1))
        if len(data) > _MOST_TABLE_BYTES:
            raise UnreadableFeedError("The feed's zip archive has too many files.")
        return data

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - of the file
        return getattr(self._file, name)

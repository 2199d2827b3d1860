"""A ZIP file that is written as it goes and never held whole: of each file rows as JSON, and as CSV for spreadsheets.

Everything here takes processor time and asks nobody: callers run it in a thread.
"""

import csv
from collections.abc import Sequence
from io import StringIO
from typing import IO, Any, cast
from zipfile import ZIP_DEFLATED, ZipFile

import orjson

from app.services.report_tables import escape_formula

Row = Sequence[Any]


class _Outlet:
    """What a ZIP file is written to. It cannot seek, so sizes come behind each file's content (APPNOTE 4.3.9)."""

    def __init__(self) -> None:
        self.waiting = bytearray()
        self.written = 0

    def write(self, content: bytes) -> int:
        self.waiting += content
        self.written += len(content)
        return len(content)

    def flush(self) -> None:
        """All of it is written at once."""


class Archive:
    """Files of rows, one after the other; take what has been written from time to time."""

    def __init__(self) -> None:
        self._outlet = _Outlet()
        self._zip = ZipFile(cast("IO[bytes]", self._outlet), "w", ZIP_DEFLATED)
        self._file: Any = None
        self._columns: Sequence[str] = ()
        self._as_csv = False
        self._rows = 0

    @property
    def size_bytes(self) -> int:
        """How much has been written so far."""
        return self._outlet.written

    def begin(self, name: str, columns: Sequence[str], *, as_csv: bool) -> None:
        """Begin `name.json` or `name.csv`."""
        self._columns, self._as_csv, self._rows = columns, as_csv, 0
        self._file = self._zip.open(f"{name}.csv" if as_csv else f"{name}.json", "w")
        self._file.write(_line(columns) if as_csv else b"[")

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows to the file that was begun."""
        for row in rows:
            if self._as_csv:
                self._file.write(_line([_cell(value) for value in row]))
            else:
                lead = b",\n " if self._rows else b"\n "
                self._file.write(lead + _json(dict(zip(self._columns, row, strict=True))))
            self._rows += 1

    def end(self) -> None:
        """End the file that was begun."""
        if not self._as_csv:
            self._file.write(b"\n]\n" if self._rows else b"]\n")
        self._file.close()

    def add_document(self, name: str, document: object) -> None:
        """Add a JSON file of one document."""
        self._zip.writestr(name, _json(document, orjson.OPT_INDENT_2))

    def close(self) -> None:
        """Write the directory; nothing can be added after."""
        self._zip.close()

    def take(self, size: int, *, rest: bool = False) -> list[bytes]:
        """Return what has been written since, in pieces of `size` bytes; what is less waits, unless it is the rest."""
        waiting = self._outlet.waiting
        whole = len(waiting) // size * size
        until = len(waiting) if rest else whole
        pieces = [bytes(waiting[start : min(start + size, until)]) for start in range(0, until, size)]
        del waiting[:until]
        return pieces


def _json(value: object, option: int = 0) -> bytes:
    # The driver's ids are of a type of its own, which orjson takes for a stranger.
    return orjson.dumps(value, default=str, option=option | orjson.OPT_UTC_Z)


def _cell(value: object) -> str:
    match value:
        case None:
            return ""
        case str():
            return escape_formula(value)
        case bool() | dict() | list():
            return escape_formula(_json(value).decode())
        case int():
            return str(value)
        case _:
            # Times and ids, as JSON has them.
            return escape_formula(_json(value).decode().strip('"'))


def _line(cells: Sequence[str]) -> bytes:
    output = StringIO(newline="")
    # The csv module's own dialect is RFC 4180.
    csv.writer(output).writerow(cells)
    return output.getvalue().encode()

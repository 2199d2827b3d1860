"""Delimited text: a header line, then a row a line; or rows between a header and a trailer record.

Rows are read one by one from a stream; a row that cannot be read is rejected, a file that ends in the middle of one,
or before its trailer, is refused as a whole.
"""

import codecs
import csv
import io
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Literal

from app.schemas.feed_mappings import CsvMapping
from app.services.sync.errors import RowError, UnreadableFeedError
from app.services.sync.readers.pick import Get, Picker, Row, names_of, refuse_blanks, required_names
from app.services.sync.spool import DocumentReader

# Longest record, in characters. An open quote would otherwise swallow the rest of the file.
MAX_RECORD_CHARS = 1_048_576
_BUFFER_BYTES = 65_536
_MOST_COLUMNS_SHOWN = 12
_DELIMITERS = (",", ";", "\t", "|")


class CsvReader:
    """Reads the documents of one feed."""

    def __init__(self, mapping: CsvMapping) -> None:
        self._mapping = mapping

    def rows(self, document: DocumentReader) -> Iterator[Row]:
        """Yield the rows behind the header. Raises UnreadableFeedError."""
        records = _Records(document, self._mapping)
        header = self._header(records)
        # Further columns of a file without names are nobody's.
        exact = self._mapping.columns is None
        pick = Picker(self._mapping, _getters(header)).pick
        width = len(header)
        trailer = self._mapping.trailer_record
        rows = 0
        for record in records:
            if isinstance(record, RowError):
                rows += 1
                yield record
            elif trailer is not None and record[0].strip() == trailer:
                self._end(records, record, rows)
                return
            elif len(record) == width or (len(record) > width and not exact):
                rows += 1
                yield pick(record)
            elif len(record) < width and records.is_cut:
                raise UnreadableFeedError("The file ends in the middle of a row: it is cut short.")
            else:
                rows += 1
                yield RowError(f"the row has {len(record)} values, the header {width}")
        if trailer is not None:
            raise UnreadableFeedError(f"The file has no {trailer} record at its end: it is cut short.")

    def find(self, page: DocumentReader, path: str) -> str:  # noqa: ARG002 - a reader's signature
        """Return nothing: there are only rows here."""
        return ""

    def _header(self, records: "_Records") -> list[str]:
        mapping = self._mapping
        if mapping.header_record is not None:
            first = records.first()
            if not first or first[0].strip() != mapping.header_record:
                raise UnreadableFeedError(f"The file does not begin with a {mapping.header_record} record.")
        header = mapping.columns or [name.strip() for name in records.first()]
        missing = [names for names in required_names(mapping) if not set(names) & set(header)]
        if missing:
            has = ", ".join(repr(name[:60]) for name in header[:_MOST_COLUMNS_SHOWN]) or "none"
            wanted = ", ".join(dict.fromkeys(" or ".join(map(repr, names)) for names in missing))
            raise UnreadableFeedError(f"The file has no column {wanted}; its columns begin with: {has}.")
        return header

    def _end(self, records: "_Records", trailer: list[str], rows: int) -> None:
        """Check what the trailer says, and that it was the end."""
        place = self._mapping.trailer_count
        said = trailer[place].strip() if place < len(trailer) else ""
        if not (said.isascii() and said.isdecimal() and len(said) < 12):
            raise UnreadableFeedError(f"The trailer has no number of rows at place {place}.")
        if int(said) != rows:
            raise UnreadableFeedError(f"The trailer says {int(said)} rows, the file has {rows}: it is not whole.")
        if next(iter(records), None) is not None:
            raise UnreadableFeedError("The file goes on behind its trailer.")


def _getters(header: list[str]) -> Any:  # noqa: ANN401 - a function from a name to a function
    index = {name: position for position, name in reversed(list(enumerate(header)))}

    def getter(name: str) -> Get:
        # Of alternatives some may be missing, and what only decorates altogether.
        return itemgetter(index[name]) if name in index else lambda _: None

    return getter


class _Records:
    """A file's records as lists of texts; what is no record comes as a RowError."""

    def __init__(self, document: DocumentReader, mapping: CsvMapping) -> None:
        encoding = _encoding(document.again(), mapping.encoding)
        # Escaped bytes travel as lone surrogates, which the offer they are part of is then rejected for.
        errors = "strict" if encoding == "utf-16" else "surrogateescape"
        buffered = io.BufferedReader(document, _BUFFER_BYTES)
        self._lines = _Lines(io.TextIOWrapper(buffered, encoding, errors, newline=""))
        self._quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if mapping.quoted else csv.QUOTE_NONE
        csv.field_size_limit(MAX_RECORD_CHARS)
        # Strict: a quote out of place rejects its row instead of shifting values between columns.
        self._reader = csv.reader(
            self._lines,
            delimiter=mapping.delimiter or self._find_delimiter(mapping),
            quoting=self._quoting,
            strict=True,
        )

    def __iter__(self) -> Iterator[list[str] | RowError]:
        blank_lines = 0
        while True:
            try:
                record = self._next()
            except csv.Error as error:
                self._refuse_if_fatal(error)
                yield RowError(f"not readable as CSV: {error}")
                continue
            if record is None:
                return
            if record:
                yield record
            else:
                blank_lines += 1
                refuse_blanks(blank_lines)

    @property
    def is_cut(self) -> bool:
        """Whether the last line has no end."""
        return not self._lines.last.endswith(("\n", "\r"))

    def first(self) -> list[str]:
        """Return a record that the others depend on, empty when there is none. Raises UnreadableFeedError."""
        record = next(iter(self), [])
        if isinstance(record, RowError):
            raise UnreadableFeedError(f"The file's first lines are {record}.")
        return record

    def _next(self) -> list[str] | None:
        self._lines.record_chars = 0
        try:
            return next(self._reader, None)
        except UnicodeError:
            raise _wrong_encoding() from None

    def _find_delimiter(self, mapping: CsvMapping) -> str:
        """Return the delimiter that gives the first line most of the names that are looked for."""
        try:
            line = self._lines.peek()
        except UnicodeError:
            raise _wrong_encoding() from None
        wanted = names_of(mapping)

        def found(delimiter: str) -> int:
            columns = next(csv.reader([line], delimiter=delimiter, quoting=self._quoting), [])
            return len(wanted & {column.strip() for column in columns})

        return max(_DELIMITERS, key=found)

    def _refuse_if_fatal(self, error: csv.Error) -> None:
        if self._lines.ended:
            raise UnreadableFeedError("The file ends inside a quoted value: it is cut short.") from None
        if "field limit" in str(error):
            raise _record_too_long() from None


class _Lines:
    """Lines of a text, ends included, none longer than a record may be."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._peeked: str | None = None
        self.record_chars = 0
        self.last = ""
        self.ended = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_RECORD_CHARS + 1) if self._peeked is None else self._peeked
        self._peeked = None
        if not line:
            self.ended = True
            raise StopIteration
        self.record_chars += len(line)
        if self.record_chars > MAX_RECORD_CHARS:
            raise _record_too_long()
        self.last = line
        return line

    def peek(self) -> str:
        """Return the first line, which still comes."""
        self._peeked = self._text.readline(MAX_RECORD_CHARS + 1)
        return self._peeked


def _encoding(document: io.RawIOBase, mapped: str) -> str:
    """Return the encoding that a byte order mark names, else the mapping's."""
    head = io.BufferedReader(document, 16).read(3)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if head.startswith(codecs.BOM_UTF8) or mapped == "utf-8" else mapped


def _record_too_long() -> UnreadableFeedError:
    return UnreadableFeedError(f"A row is longer than {MAX_RECORD_CHARS} characters: is a quote left open?")


def _wrong_encoding() -> UnreadableFeedError:
    return UnreadableFeedError("The file is not in the encoding that its mapping names.")

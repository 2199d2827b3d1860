"""CSV: a header line, then a row an offer, or several adjacent rows an offer (its variants).

Rows are read one by one from a stream; a row that cannot be read is rejected, a file that ends in the middle of one
is refused as a whole.
"""

import csv
import io
from collections.abc import Callable, Iterator

from app.schemas.feeds import CsvMapping
from app.services.sync.errors import RowError, UnreadableFeedError
from app.services.sync.offers import OfferBuilder, Price, StagedRow, Values, read_flag
from app.services.sync.tally import Tally

# Longest record, in characters. An open quote would otherwise swallow the rest of the file.
MAX_RECORD_CHARS = 1_048_576
_BUFFER_BYTES = 65_536
_MOST_COLUMNS_SHOWN = 12


def read_csv(
    document: io.RawIOBase, mapping: CsvMapping, *, builder: OfferBuilder, tally: Tally
) -> Iterator[StagedRow]:
    """Yield the offers of a file, ready to stage. Raises UnreadableFeedError, TooLargeError."""
    table = _Table(document, mapping, builder.template_names, tally)
    if mapping.group_by is None:
        yield from _one_row_each(table, builder, tally)
    else:
        yield from _grouped(table, mapping.group_by, builder, tally)


def _one_row_each(table: "_Table", builder: OfferBuilder, tally: Tally) -> Iterator[StagedRow]:
    for number, row in table.rows():
        try:
            values = table.values(row)
            staged = builder.build(number, values, builder.price(values), table.lookup(row))
        except RowError as error:
            tally.reject(number, str(error))
        else:
            tally.offer()
            yield staged


def _grouped(table: "_Table", group_by: str, builder: OfferBuilder, tally: Tally) -> Iterator[StagedRow]:
    group: _Group | None = None
    for number, row in table.rows():
        key = table.lookup(row)(group_by).strip()
        if not key:
            tally.reject(number, f"{group_by} is empty")
            continue
        if group is not None and group.key != key:
            yield from group.finish()
            group = None
        if group is None:
            group = _Group(key, number, row, table, builder, tally)
        group.add(number, row)
    if group is not None:
        yield from group.finish()


class _Group:
    """Adjacent rows of one product: the first value of each field, the range of all prices, available if any is."""

    def __init__(
        self, key: str, number: int, row: list[str], table: "_Table", builder: OfferBuilder, tally: Tally
    ) -> None:
        self.key = key
        self._first_row = row
        self._number = number
        self._table = table
        self._builder = builder
        self._tally = tally
        self._values = Values()
        self._price: Price | None = None
        self._has_bad_row = False

    def add(self, number: int, row: list[str]) -> None:
        """Take a row in; one with a bad price is rejected by itself, one without a price is a further image."""
        values = self._table.values(row)
        self._values = Values._make(old or new for old, new in zip(self._values, values, strict=True))
        try:
            if values.available and read_flag(values.available):
                self._values = self._values._replace(available=True)
            self._price = _range(self._price, self._builder.price(values))
        except RowError as error:
            self._tally.reject(number, str(error))
            self._has_bad_row = True

    def finish(self) -> Iterator[StagedRow]:
        """Yield the offer, unless none can be made."""
        if self._price is None and self._has_bad_row:
            return  # the row that should have had the price is counted already
        try:
            staged = self._builder.build(self._number, self._values, self._price, self._table.lookup(self._first_row))
        except RowError as error:
            self._tally.reject(self._number, str(error))
        else:
            self._tally.offer()
            yield staged


def _range(one: Price | None, other: Price | None) -> Price | None:
    if one is None or other is None:
        return one or other
    if one.currency != other.currency:
        raise RowError(f"price is in {other.currency}, that of other rows in {one.currency}")
    return Price(one.currency, min(one.minor, other.minor), max(one.max_minor, other.max_minor))


class _Table:
    """A file's header and its rows, each as long as the header."""

    def __init__(self, document: io.RawIOBase, mapping: CsvMapping, template_names: list[str], tally: Tally) -> None:
        self._tally = tally
        encoding = "utf-8-sig" if mapping.encoding == "utf-8" else mapping.encoding
        buffered = io.BufferedReader(document, _BUFFER_BYTES)
        # Escaped bytes travel as lone surrogates, which the offer they are part of is then rejected for.
        errors = "strict" if encoding == "utf-16" else "surrogateescape"
        self._lines = _Lines(io.TextIOWrapper(buffered, encoding, errors, newline=""))
        csv.field_size_limit(MAX_RECORD_CHARS)
        # Strict: a quote out of place rejects its row instead of shifting values between columns.
        self._reader = csv.reader(self._lines, delimiter=mapping.delimiter, strict=True)
        self._header = [name.strip() for name in self._next_record() or []]
        fields = mapping.fields.model_dump()
        wanted = [*fields.values(), mapping.group_by, *template_names]
        self._require([name for name in wanted if name is not None])
        self._index = {name: position for position, name in reversed(list(enumerate(self._header)))}
        self._fields = [None if (name := fields[field]) is None else self._index[name] for field in Values._fields]

    def values(self, row: list[str]) -> Values:
        """Return a row's values of our fields."""
        return Values(*[None if position is None else row[position] for position in self._fields])

    def lookup(self, row: list[str]) -> Callable[[str], str]:
        """Return a function from a column's name to the row's value."""
        return lambda name: row[self._index[name]]

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield numbered rows; what is no row of this table is rejected."""
        width = len(self._header)
        while True:
            try:
                row = self._next_record()
            except csv.Error as error:
                self._refuse_if_fatal(error)
                self._tally.reject(self._tally.next_row(), f"not readable as CSV: {error}")
                continue
            if row is None:
                return
            if not row:
                continue
            number = self._tally.next_row()
            if len(row) == width:
                yield number, row
            elif len(row) < width and not self._lines.last.endswith(("\n", "\r")):
                raise UnreadableFeedError("The file ends in the middle of a row: it is cut short.")
            else:
                self._tally.reject(number, f"the row has {len(row)} values, the header {width}")

    def _next_record(self) -> list[str] | None:
        self._lines.record_chars = 0
        try:
            return next(self._reader, None)
        except UnicodeError:
            raise UnreadableFeedError("The file is not in the encoding that its mapping names.") from None

    def _refuse_if_fatal(self, error: csv.Error) -> None:
        if self._lines.ended:
            raise UnreadableFeedError("The file ends inside a quoted value: it is cut short.") from None
        if "field limit" in str(error):
            raise _record_too_long() from None

    def _require(self, names: list[str]) -> None:
        missing = [name for name in dict.fromkeys(names) if name not in self._header]
        if missing:
            has = ", ".join(repr(name[:60]) for name in self._header[:_MOST_COLUMNS_SHOWN]) or "none"
            wanted = ", ".join(map(repr, missing))
            raise UnreadableFeedError(f"The file has no column {wanted}; its columns begin with: {has}.")


class _Lines:
    """Lines of a text, ends included, none longer than a record may be."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.record_chars = 0
        self.last = ""
        self.ended = False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_RECORD_CHARS + 1)
        if not line:
            self.ended = True
            raise StopIteration
        self.record_chars += len(line)
        if self.record_chars > MAX_RECORD_CHARS:
            raise _record_too_long()
        self.last = line
        return line


def _record_too_long() -> UnreadableFeedError:
    return UnreadableFeedError(f"A row is longer than {MAX_RECORD_CHARS} characters: is a quote left open?")

"""One small reader a shape of feed. Each yields the same: rows of our fields' raw values, mapped as data says.

A reader knows its shape alone. Counting, grouping and judging rows is `assemble`'s and `offers`', whatever the shape.
"""

from collections.abc import Iterator
from typing import Protocol, assert_never

from app.schemas.feed_mappings import AnyMapping, CsvMapping, JsonMapping, NdjsonMapping, XmlMapping
from app.services.sync.readers.csv_rows import CsvReader
from app.services.sync.readers.json_rows import JsonReader
from app.services.sync.readers.ndjson_rows import NdjsonReader
from app.services.sync.readers.pick import Row
from app.services.sync.readers.xml_rows import XmlReader
from app.services.sync.spool import DocumentReader


class RowReader(Protocol):
    """Reads the documents of one feed, with memory that does not grow with them."""

    def rows(self, document: DocumentReader) -> Iterator[Row]:
        """Yield a document's rows, and a RowError for each that cannot be read. Raises UnreadableFeedError."""
        ...

    def find(self, page: DocumentReader, path: str) -> str:
        """Return the text or number at a path of a page, empty when there is none. Raises UnreadableFeedError."""
        ...


def reader_for(mapping: AnyMapping) -> RowReader:
    """Return the reader of a mapping's format."""
    match mapping:
        case CsvMapping():
            return CsvReader(mapping)
        case JsonMapping():
            return JsonReader(mapping)
        case NdjsonMapping():
            return NdjsonReader(mapping)
        case XmlMapping():
            return XmlReader(mapping)
        case _:
            assert_never(mapping)

"""NDJSON: a JSON object a line, with exact numbers. A line that cannot be read is rejected, the others are not."""

import codecs
import io
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from app.schemas.feed_mappings import NdjsonMapping
from app.services.sync.errors import RowError, UnreadableFeedError
from app.services.sync.readers.json_rows import getter
from app.services.sync.readers.pick import Picker, Row, refuse_blanks
from app.services.sync.spool import DocumentReader

MAX_LINE_BYTES = 1_048_576
_BUFFER_BYTES = 65_536
_SEPARATORS = b" \t\r\n"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant).decode


class NdjsonReader:
    """Reads the documents of one feed."""

    def __init__(self, mapping: NdjsonMapping) -> None:
        self._picker = Picker(mapping, getter)

    def rows(self, document: DocumentReader) -> Iterator[Row]:
        """Yield a row for each line that is not blank. Raises UnreadableFeedError."""
        lines = io.BufferedReader(document, _BUFFER_BYTES)
        first = True
        blank_lines = 0
        while line := lines.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise UnreadableFeedError(f"A line is longer than {MAX_LINE_BYTES} bytes: is it one JSON document?")
            if first:
                line = line.removeprefix(codecs.BOM_UTF8)
                first = False
            if line.strip(_SEPARATORS):
                yield self._row(line)
            else:
                blank_lines += 1
                refuse_blanks(blank_lines)

    def find(self, page: DocumentReader, path: str) -> str:  # noqa: ARG002 - a reader's signature
        """Return nothing: there are only rows here."""
        return ""

    def _row(self, line: bytes) -> Row:
        try:
            item: Any = _decode(line.decode())
        except UnicodeDecodeError:
            return RowError("the line is not in UTF-8")
        except (ValueError, RecursionError) as error:
            if not line.endswith(b"\n"):
                raise UnreadableFeedError("The file ends in the middle of a line: it is cut short.") from None
            said = str(error).splitlines()[0] if isinstance(error, ValueError) else "nested too deep"
            return RowError(f"not readable as JSON: {said[:100]}")
        return self._picker.pick(item) if isinstance(item, dict) else RowError("the item is not an object")

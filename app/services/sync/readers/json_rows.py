"""JSON: an array of items somewhere in a document, read item by item with exact numbers."""

import io
import re
from collections.abc import Iterator
from typing import Any

import ijson

from app.schemas.feed_mappings import JsonMapping
from app.services.sync.errors import RowError, UnreadableFeedError
from app.services.sync.readers.json_guard import GuardedJson
from app.services.sync.readers.pick import Get, Picker, Row
from app.services.sync.spool import DocumentReader

_BUFFER_BYTES = 65_536
_LONGEST_TOKEN = 2_048


class JsonReader:
    """Reads the documents of one feed, page after page."""

    def __init__(self, mapping: JsonMapping) -> None:
        self._items_path = mapping.items_path
        self._picker = Picker(mapping, getter)

    def rows(self, document: DocumentReader) -> Iterator[Row]:
        """Yield the items of the array. Raises UnreadableFeedError."""
        pick = self._picker.pick
        empty = True
        for item in _items(document, self._items_path):
            empty = False
            yield pick(item) if isinstance(item, dict) else RowError("the item is not an object")
        if empty and not _has_array(document.again(), self._items_path):
            where = f"at {self._items_path!r}" if self._items_path else "at the top"
            raise UnreadableFeedError(f"The document has no array {where}; check the mapping's items_path.")

    def find(self, page: DocumentReader, path: str) -> str:
        """Return the text or number at a dotted path, empty when there is none. Raises UnreadableFeedError."""
        if not _may_have(page.again(), path.rpartition(".")[2]):
            return ""
        try:
            for prefix, event, value in ijson.parse(GuardedJson(page, limit_items=False), buf_size=_BUFFER_BYTES):
                if prefix == path:
                    return _token(event, value)
        except (ijson.JSONError, ValueError) as error:
            raise unreadable(error) from None
        return ""


def getter(path: str) -> Get:
    """Return a function from an item to the value at a dotted path, None where there is none."""
    first, *rest = path.split(".")
    if not rest:
        return lambda item: item.get(first)

    def get(item: dict[str, Any]) -> Any:  # noqa: ANN401 - a feed's value
        value = item.get(first)
        for part in rest:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return None
        return value

    return get


def unreadable(error: Exception) -> UnreadableFeedError:
    """Say that a document is not JSON, in the parser's first line."""
    said = next(iter(str(error).strip().splitlines()), "")[:200]
    return UnreadableFeedError(f"The feed is not valid JSON, or it is cut short ({said}).")


def _items(document: io.RawIOBase, path: str) -> Iterator[Any]:
    guarded = GuardedJson(document)
    found = ijson.items(guarded, f"{path}.item" if path else "item", buf_size=_BUFFER_BYTES)
    while True:
        try:
            item = next(found)
        except StopIteration:
            return
        except (ijson.JSONError, ValueError) as error:
            raise unreadable(error) from None
        guarded.item_done()
        yield item


def _has_array(document: io.RawIOBase, path: str) -> bool:
    try:
        events = ijson.parse(GuardedJson(document, limit_items=False), buf_size=_BUFFER_BYTES)
        return any(prefix == path and event == "start_array" for prefix, event, _ in events)
    except (ijson.JSONError, ValueError) as error:
        raise unreadable(error) from None


def _may_have(page: io.RawIOBase, member: str) -> bool:
    """Whether a member of this name has a text or a number anywhere: most feeds are one page and need no parsing."""
    wanted = re.compile(rb'"%s"\s{0,100}:\s{0,100}["\d]' % re.escape(member.encode()))
    kept = b""
    while piece := page.read(_BUFFER_BYTES):
        if wanted.search(window := kept + piece):
            return True
        # What matches may be cut in two by the pieces' border.
        kept = window[-(len(member) * 4 + 210) :]
    return False


def _token(event: str, value: Any) -> str:  # noqa: ANN401 - a feed's value
    if event in {"null", "boolean"}:
        return ""
    token = str(value)
    if event not in {"string", "number"} or len(token) > _LONGEST_TOKEN:
        raise UnreadableFeedError("A page does not name the next one by a text or number; check the mapping's paging.")
    return token

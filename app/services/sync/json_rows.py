"""JSON: an array of items somewhere in a document, read item by item with exact numbers."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import ijson

from app.schemas.feeds import JsonMapping
from app.services.sync.errors import RowError, UnreadableFeedError
from app.services.sync.json_guard import GuardedJson
from app.services.sync.offers import OfferBuilder, StagedRow, Values
from app.services.sync.spool import DocumentReader
from app.services.sync.tally import Tally

BUFFER_BYTES = 65_536


class JsonReader:
    """Reads the documents of one feed, page after page."""

    def __init__(self, mapping: JsonMapping, *, builder: OfferBuilder, tally: Tally) -> None:
        self._items_path = mapping.items_path
        self._builder = builder
        self._tally = tally
        fields = mapping.fields.model_dump()
        paths = [fields[name] for name in Values._fields]
        self._getters = [getter(path) for path in paths]
        # Most items are flat, and a plain look-up of each member is several times as fast.
        self._is_flat = not any(path and "." in path for path in paths)
        self._members = paths
        self._template = {name: getter(name) for name in builder.template_names}

    def read(self, document: DocumentReader) -> Iterator[StagedRow]:
        """Yield the offers of a document, ready to stage. Raises UnreadableFeedError, TooLargeError."""
        empty = True
        for item in items(document, self._items_path):
            empty = False
            number = self._tally.next_row()
            try:
                staged = self._build(number, item)
            except RowError as error:
                self._tally.reject(number, str(error))
            else:
                self._tally.offer()
                yield staged
        if empty and not has_array(document.again(), self._items_path):
            where = f"at {self._items_path!r}" if self._items_path else "at the top"
            raise UnreadableFeedError(f"The document has no array {where}; check the mapping's items_path.")

    def _build(self, number: int, item: Any) -> StagedRow:  # noqa: ANN401 - a feed's value
        if not isinstance(item, dict):
            raise RowError("the item is not an object")
        if self._is_flat:
            look_up = item.get
            values = Values(*[look_up(name) for name in self._members])
        else:
            values = Values(*[get(item) for get in self._getters])
        return self._builder.build(number, values, self._builder.price(values), lambda name: self._template[name](item))


def items(document: io.RawIOBase, path: str) -> Iterator[Any]:
    """Yield the items of the array at a dotted path (empty: the document itself). Raises UnreadableFeedError."""
    guarded = GuardedJson(document)
    prefix = f"{path}.item" if path else "item"
    found = ijson.items(guarded, prefix, buf_size=BUFFER_BYTES)
    while True:
        try:
            item = next(found)
        except StopIteration:
            return
        except (ijson.JSONError, ValueError) as error:
            raise unreadable(error) from None
        guarded.item_done()
        yield item


def has_array(document: io.RawIOBase, path: str) -> bool:
    """Whether there is an array, maybe empty, at a dotted path. Raises UnreadableFeedError."""
    try:
        events = ijson.parse(GuardedJson(document, limit_items=False), buf_size=BUFFER_BYTES)
        return any(prefix == path and event == "start_array" for prefix, event, _ in events)
    except (ijson.JSONError, ValueError) as error:
        raise unreadable(error) from None


def unreadable(error: Exception) -> UnreadableFeedError:
    """Say that a document is not JSON, in the parser's first line."""
    said = next(iter(str(error).strip().splitlines()), "")[:200]
    return UnreadableFeedError(f"The feed is not valid JSON, or it is cut short ({said}).")


def getter(path: str | None) -> Callable[[dict[str, Any]], Any]:
    """Return a function from an item to the value at a dotted path, None where there is none."""
    if path is None:
        return lambda _: None
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

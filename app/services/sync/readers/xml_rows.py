"""XML: elements that repeat somewhere in a document, read by expat as they come.

Nothing of a document is kept but the texts that the mapping wants of the element at hand. What makes XML dangerous is
refused: a document type (with it entities, and their expansion), deep nesting, long tokens and items, and more
different names than any feed has, of which expat keeps each (docs/decisions/0014).
"""

import io
from collections import deque
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from app.schemas.feed_mappings import XmlMapping
from app.services.sync.errors import UnreadableFeedError
from app.services.sync.readers.pick import Get, Picker, Row, names_of
from app.services.sync.spool import DocumentReader

MAX_DEPTH = 64
MAX_ITEM_BYTES = 1_048_576
MAX_NAMES = 10_000
_CHUNK_BYTES = 65_536
_LONGEST_TOKEN = 2_048


class XmlReader:
    """Reads the documents of one feed, page after page."""

    def __init__(self, mapping: XmlMapping) -> None:
        self._items_path = mapping.items_path
        self._wanted = frozenset(names_of(mapping))
        self._picker = Picker(mapping, _getter)

    def rows(self, document: DocumentReader) -> Iterator[Row]:
        """Yield the items. Raises UnreadableFeedError."""
        elements = _Elements(self._items_path, self._wanted)
        pick = self._picker.pick
        for item in elements.read(document):
            yield pick(item)
        if not elements.has_place:
            raise UnreadableFeedError(
                f"The document has no place for {self._items_path!r}; check the mapping's items_path."
            )

    def find(self, page: DocumentReader, path: str) -> str:
        """Return the text of the element or attribute at a path from the root, empty when there is none."""
        root, _, inner = path.partition(".")
        elements = _Elements(root, frozenset({inner}), limit_items=False)
        found = next((item[inner] for item in elements.read(page, partial=True) if inner in item), "")
        if len(found) > _LONGEST_TOKEN:
            raise UnreadableFeedError("What a page says about its pages is too long; check the mapping's paging.")
        return found


def _getter(path: str) -> Get:
    return lambda item: item.get(path)


class _Elements:
    """The elements at one path of a document, each as a dict from wanted path to text."""

    def __init__(self, items_path: str, wanted: frozenset[str], *, limit_items: bool = True) -> None:
        self._items_path = items_path
        self._parent_path = items_path.rpartition(".")[0]
        self._wanted = wanted
        self._limit_items = limit_items
        # Whether there was an item, or the element that would hold it.
        self.has_place = False
        self._done: deque[dict[str, str]] = deque()
        self._item: dict[str, str] | None = None
        # Of each open element its path: from the root outside of items, within the item inside.
        self._paths = [""]
        self._texts: list[str] = []
        # Open elements whose text is wanted: how many elements were open, and where their text begins.
        self._open: list[tuple[int, int]] = []

    def read(self, document: io.RawIOBase, *, partial: bool = False) -> Iterator[dict[str, str]]:
        """Yield each item at its end; with `partial` the present one after each piece that is read, too."""
        parser = self._parser()
        fed = since_item = 0
        while True:
            piece = document.read(_CHUNK_BYTES) or b""
            try:
                parser.Parse(piece, not piece)
            except expat.ExpatError as error:
                said = expat.ErrorString(error.code)
                raise UnreadableFeedError(
                    f"The feed is not valid XML, or it is cut short ({said}, line {error.lineno})."
                ) from None
            except (ValueError, LookupError):
                raise UnreadableFeedError("The feed is in an encoding that is not known.") from None
            fed += len(piece)
            since_item = 0 if self._done else since_item + len(piece)
            if self._limit_items and since_item > MAX_ITEM_BYTES + _CHUNK_BYTES:
                raise UnreadableFeedError(f"An item of the feed is larger than {MAX_ITEM_BYTES} bytes.")
            self._refuse_excess(parser, fed)
            while self._done:
                yield self._done.popleft()
            if partial and self._item:
                yield self._item
            if not piece:
                return

    def _parser(self) -> expat.XMLParserType:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = _refuse_document_type
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._texts.append
        return parser

    def _refuse_excess(self, parser: Any, fed: int) -> None:  # noqa: ANN401 - typeshed does not know `intern`
        """Refuse what would fill the memory: one long token (a comment, say), one long text, too many names."""
        if not self._open:
            self._texts.clear()
        held = max(fed - parser.CurrentByteIndex, sum(map(len, self._texts)))
        if held > MAX_ITEM_BYTES + _CHUNK_BYTES:
            raise UnreadableFeedError(f"A text or tag in the feed is longer than {MAX_ITEM_BYTES} bytes.")
        if len(parser.intern) > MAX_NAMES:
            raise UnreadableFeedError(f"The feed has more than {MAX_NAMES} different names of elements.")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._paths[-1]
        path = f"{parent}.{name}" if parent else name
        if len(self._paths) > MAX_DEPTH:
            raise UnreadableFeedError(f"The feed nests deeper than {MAX_DEPTH} levels.")
        if self._item is None:
            if path == self._items_path:
                self._item = {}
                self.has_place = True
                path = ""
            elif path == self._parent_path:
                self.has_place = True
        elif path in self._wanted and path not in self._item:
            self._open.append((len(self._paths), len(self._texts)))
        self._paths.append(path)
        if attributes and self._item is not None:
            self._take_attributes(path, attributes)

    def _take_attributes(self, path: str, attributes: dict[str, str]) -> None:
        for name, value in attributes.items():
            key = f"{path}.@{name}" if path else f"@{name}"
            if key in self._wanted:
                self._item.setdefault(key, value)  # type: ignore[union-attr]  # asked for within items only

    def _end(self, _: str) -> None:
        path = self._paths.pop()
        if self._open and self._open[-1][0] == len(self._paths):
            start = self._open.pop()[1]
            self._item[path] = "".join(self._texts[start:])  # type: ignore[index]  # opened within items only
        if not self._open:
            self._texts.clear()
        if self._item is not None and path == "":
            self._done.append(self._item)
            self._item = None


def _refuse_document_type(*_: object) -> None:
    raise UnreadableFeedError("The feed has a document type (DOCTYPE), which may define entities; that is refused.")

"""The same offers in every shape of feed that is read, so that one test can be about all of them."""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import orjson

from tests.feed_server import offers

Item = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How items (of `tests.feed_server.offers`) look in one shape, and the mapping that reads it."""

    name: str
    mapping: dict[str, Any]
    # What comes before the items, an item, and what comes after so many of them.
    head: bytes
    item: Callable[[Item], bytes]
    tail: Callable[[int], bytes]
    between: bytes = b""
    format: str | None = None

    def encode(self, items: list[Item]) -> bytes:
        """Return a whole feed."""
        return self.head + self.between.join(map(self.item, items)) + self.tail(len(items))

    def pieces(self, count: int, *, size: int = 5_000) -> Iterator[bytes]:
        """Yield a feed of so many offers, piece by piece."""
        yield self.head
        for start in range(1, count + 1, size):
            part = self.between.join(map(self.item, offers(min(size, count - start + 1), start=start)))
            yield part if start == 1 else self.between + part
        yield self.tail(count)

    def feed(self, **mapping: Any) -> dict[str, Any]:
        """Return what sets such a feed, beside its URL."""
        body: dict[str, Any] = {"mapping": {**self.mapping, **mapping}}
        return body if self.format is None else {"format": self.format, **body}


_FIELDS = {
    "external_id": "id", "title": "title", "description": "description", "brand": "brand", "category": "category",
    "url": "url", "image_url": "image_url", "price": "price", "available": "available",
}  # fmt: skip
_COLUMNS = list(_FIELDS)


def _price(item: Item) -> str:
    minor = item["price"]["amount_minor"]
    return f"{minor // 100}.{minor % 100:02d} {item['price']['currency']}"


def _texts(item: Item) -> list[str]:
    texts = [str(item[name]) for name in _FIELDS.values()]
    texts[_COLUMNS.index("price")] = _price(item)
    texts[_COLUMNS.index("available")] = "in stock" if item["available"] else "out of stock"
    return texts


def _csv(item: Item) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(_texts(item))
    return line.getvalue().encode()


def _pipe(item: Item) -> bytes:
    return f"{'|'.join(_texts(item))}|\n".encode()


def _google(item: Item) -> bytes:
    texts = dict(zip(_COLUMNS, map(escape, _texts(item)), strict=True))
    return (
        f"<item><g:id>{texts['external_id']}</g:id><title>{texts['title']}</title>"
        f"<description>{texts['description']}</description><link>{texts['url']}</link>"
        f"<g:price>{texts['price']}</g:price><g:availability>{texts['available']}</g:availability>"
        f"<g:image_link>{texts['image_url']}</g:image_link><g:brand>{texts['brand']}</g:brand>"
        f"<g:product_type>{texts['category']}</g:product_type></item>\n"
    ).encode()


def _atom(item: Item) -> bytes:
    texts = dict(zip(_COLUMNS, map(escape, _texts(item)), strict=True))
    return (
        f"<entry><g:id>{texts['external_id']}</g:id><title>{texts['title']}</title>"
        f"<summary>{texts['description']}</summary><link href='{texts['url']}' rel='alternate'/>"
        f"<g:price>{texts['price']}</g:price><g:availability>{texts['available']}</g:availability>"
        f"<g:image_link>{texts['image_url']}</g:image_link><g:brand>{texts['brand']}</g:brand>"
        f"<g:product_type>{texts['category']}</g:product_type></entry>\n"
    ).encode()


JSON = Shape("json", {"preset": "direct-json"}, b'{"items": [', orjson.dumps, lambda _: b"]}", between=b",")
NDJSON = Shape("ndjson", {"preset": "direct-ndjson"}, b"", lambda item: orjson.dumps(item) + b"\n", lambda _: b"")
CSV = Shape(
    "csv",
    {"fields": {name: name for name in _COLUMNS}},
    ",".join(_COLUMNS).encode() + b"\r\n",
    _csv,
    lambda _: b"",
    format="csv",
)
PIPE = Shape(
    "pipe",
    {
        "delimiter": "|",
        "quoted": False,
        "header_record": "HDR",
        "trailer_record": "TRL",
        "columns": [*_COLUMNS, "modification"],
        "fields": {name: name for name in _COLUMNS},
    },
    b"HDR|1237|Shop|11/25/2026 00:02:32\n",
    _pipe,
    lambda count: f"TRL|{count}\n".encode(),
    format="csv",
)
RSS = Shape(
    "rss",
    {"preset": "google-merchant"},
    b'<?xml version="1.0"?>\n<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>\n',
    _google,
    lambda _: b"</channel></rss>\n",
)
ATOM = Shape(
    "atom",
    {"preset": "google-merchant-atom"},
    b'<?xml version="1.0"?>\n<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0">\n',
    _atom,
    lambda _: b"</feed>\n",
)
SHAPES = (JSON, NDJSON, CSV, PIPE, RSS, ATOM)

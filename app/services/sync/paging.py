"""Where the next page of a feed is, whatever its format."""

from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urljoin

from app.schemas.feed_mappings import (
    CursorPaging,
    LinkHeaderPaging,
    NextUrlPaging,
    OffsetPaging,
    PageNumberPaging,
    Paging,
)
from app.services.sync.errors import UnreadableFeedError
from app.services.sync.readers import RowReader
from app.services.sync.spool import DocumentReader
from app.urls import is_http_url, with_parameter


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was fetched."""

    # From 0.
    number: int
    # Where it came from, which relative addresses are relative to.
    url: str
    document: DocumentReader
    # As its `Link` header says.
    next_url: str | None = None


def first_page(paging: Paging | None, feed_url: str) -> str:
    """Return the address of the first page."""
    match paging:
        case PageNumberPaging(parameter=parameter, first=first):
            return with_parameter(feed_url, parameter, str(first))
        case OffsetPaging():
            return _at_offset(paging, feed_url, 0)
        case _:
            return feed_url


def next_page(paging: Paging | None, *, reader: RowReader, feed_url: str, page: Page) -> str | None:
    """Return the address of the page after this one, None after the last. Raises UnreadableFeedError."""
    match paging:
        case None:
            return None
        case NextUrlPaging(path=path):
            token = reader.find(page.document.again(), path)
            following = urljoin(page.url, token) if token else None
        case LinkHeaderPaging():
            following = urljoin(page.url, page.next_url) if page.next_url else None
        case CursorPaging(path=path, parameter=parameter):
            token = reader.find(page.document.again(), path)
            following = with_parameter(feed_url, parameter, token) if token else None
        case PageNumberPaging(parameter=parameter, first=first, pages=pages):
            count = None if pages is None else _number(reader, page, pages)
            is_last = _is_empty(reader, page) if count is None else page.number + 1 >= count
            following = None if is_last else with_parameter(feed_url, parameter, str(first + page.number + 1))
        case OffsetPaging():
            offset = (page.number + 1) * paging.size
            total = announced_total(paging, reader=reader, page=page)
            is_last = _is_empty(reader, page) or (total is not None and offset >= total)
            following = None if is_last else _at_offset(paging, feed_url, offset)
        case _:
            assert_never(paging)
    if following is not None and not is_http_url(following):
        raise UnreadableFeedError("A page names something that is no http or https address as the next one.")
    return following


def announced_total(paging: Paging | None, *, reader: RowReader, page: Page) -> int | None:
    """Return how many items there are in all, as a page says; None when it does not. Raises UnreadableFeedError."""
    return None if paging is None or paging.total is None else _number(reader, page, paging.total)


def _at_offset(paging: OffsetPaging, feed_url: str, offset: int) -> str:
    if paging.size_parameter is not None:
        feed_url = with_parameter(feed_url, paging.size_parameter, str(paging.size))
    return with_parameter(feed_url, paging.parameter, str(offset))


def _number(reader: RowReader, page: Page, path: str) -> int | None:
    text = reader.find(page.document.again(), path).strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise UnreadableFeedError(f"A page has no number at {path!r}; check the mapping's paging.")
    return int(text)


def _is_empty(reader: RowReader, page: Page) -> bool:
    return next(reader.rows(page.document.again()), None) is None

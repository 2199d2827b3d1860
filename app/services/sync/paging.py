"""Where the next page of a JSON feed is."""

import re
from typing import Any, assert_never
from urllib.parse import urljoin

import ijson

from app.schemas.feeds import CursorPaging, JsonMapping, NextUrlPaging, PageNumberPaging
from app.services.sync.errors import UnreadableFeedError
from app.services.sync.json_guard import GuardedJson
from app.services.sync.json_rows import BUFFER_BYTES, items, unreadable
from app.services.sync.spool import DocumentReader
from app.urls import is_http_url, with_parameter

_LONGEST_TOKEN = 2_048


def first_page(mapping: JsonMapping, url: str) -> str:
    """Return the address of the first page."""
    match mapping.paging:
        case PageNumberPaging(parameter=parameter, first=first):
            return with_parameter(url, parameter, str(first))
        case _:
            return url


def next_page(mapping: JsonMapping, *, feed_url: str, url: str, number: int, page: DocumentReader) -> str | None:
    """Return the address of the page after `page`, the `number`-th (from 0) that was fetched; None after the last.

    `url` is where the page came from, which relative addresses are relative to. Raises UnreadableFeedError.
    """
    match mapping.paging:
        case None:
            return None
        case NextUrlPaging(path=path):
            token = _find_token(page, path)
            following = urljoin(url, token) if token else None
        case CursorPaging(path=path, parameter=parameter):
            token = _find_token(page, path)
            following = with_parameter(feed_url, parameter, token) if token else None
        case PageNumberPaging(parameter=parameter, first=first):
            is_last = next(items(page, mapping.items_path), None) is None
            following = None if is_last else with_parameter(feed_url, parameter, str(first + number + 1))
        case _:
            assert_never(mapping.paging)
    if following is None:
        return None
    if not is_http_url(following):
        raise UnreadableFeedError("A page names something that is no http or https address as the next one.")
    if following == url:
        raise UnreadableFeedError("A page names itself as the next one.")
    return following


def _find_token(page: DocumentReader, path: str) -> str:
    """Return the text or number at a dotted path; empty where there is none."""
    if not _may_have(page.again(), path.rpartition(".")[2]):
        return ""
    try:
        for prefix, event, value in ijson.parse(GuardedJson(page, limit_items=False), buf_size=BUFFER_BYTES):
            if prefix == path:
                return _token(event, value)
    except (ijson.JSONError, ValueError) as error:
        raise unreadable(error) from None
    return ""


def _may_have(page: DocumentReader, member: str) -> bool:
    """Whether a member of this name has a text or a number anywhere: most feeds are one page and need no parsing."""
    wanted = re.compile(rb'"%s"\s{0,100}:\s{0,100}["\d]' % re.escape(member.encode()))
    kept = b""
    while piece := page.read(BUFFER_BYTES):
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

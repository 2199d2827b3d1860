"""Making the request for one page of a window: a definition's texts with their placeholders filled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import orjson

from app.schemas.source_polling import PLACEHOLDER, PageNumberPaging, Polling, PollPass
from app.services.polling.progress import Position
from app.services.sync.credentials import origin_of
from app.services.sync.fetch import Ask

_NUMBERS = frozenset({"page", "offset"})


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What is asked for a page; credentials are added when it is sent."""

    url: str = field(repr=False)
    ask: Ask


def page_request(
    polling: Polling, one: PollPass, position: Position, *, start: datetime, end: datetime, values: Mapping[str, str]
) -> PageRequest:
    """Return the request for one page of a window."""
    known = _known(polling, position, start, end, values)
    headers = {"Accept": "application/json"}
    headers |= {name: _fill(text, known) or "" for name, text in polling.headers.items()}
    url = position.url or _url(polling, one, known)
    if polling.body is None:
        return PageRequest(url, Ask(headers=headers))
    body = dict(polling.body)
    if one.variables:
        body["variables"] = {**body["variables"], **one.variables}
    content = orjson.dumps(_fill_json(body, known))
    return PageRequest(url, Ask("POST", {**headers, "Content-Type": "application/json"}, content))


def home_of(polling: Polling) -> str:
    """Return the origin that the credentials are for."""
    return origin_of(httpx.URL(PLACEHOLDER.sub("x", polling.url)))


def _known(
    polling: Polling, position: Position, start: datetime, end: datetime, values: Mapping[str, str]
) -> dict[str, str | None]:
    first = polling.paging.first if isinstance(polling.paging, PageNumberPaging) else 0
    return {
        **values,
        "from": start.astimezone(UTC).strftime(polling.time_format),
        "until": end.astimezone(UTC).strftime(polling.time_format),
        "cursor": position.cursor,
        "page": str(first + position.number),
        "offset": str(position.offset),
    }


def _url(polling: Polling, one: PollPass, known: Mapping[str, str | None]) -> str:
    base = PLACEHOLDER.sub(lambda found: quote(known.get(found[1]) or "", safe=""), polling.url)
    filled = {name: _fill(text, known) for name, text in {**polling.query, **one.query}.items()}
    # A parameter whose value there is not yet, such as the first page's cursor, is left out.
    query = urlencode({name: value for name, value in filled.items() if value is not None}, quote_via=quote)
    return f"{base}?{query}" if query else base


def _fill(text: str, known: Mapping[str, str | None]) -> str | None:
    """Fill a text; None when it consists of a placeholder that has no value."""
    whole = PLACEHOLDER.fullmatch(text)
    if whole is not None and whole[1] in known:
        return known[whole[1]]
    # What is no placeholder of ours, as in a GraphQL query, stays as it is.
    return PLACEHOLDER.sub(lambda found: (known[found[1]] or "") if found[1] in known else found[0], text)


def _fill_json(value: Any, known: Mapping[str, str | None]) -> Any:  # noqa: ANN401 - any JSON value
    match value:
        case str():
            filled, whole = _fill(value, known), PLACEHOLDER.fullmatch(value)
            return int(filled) if filled is not None and whole is not None and whole[1] in _NUMBERS else filled
        case dict():
            return {name: _fill_json(member, known) for name, member in value.items()}
        case list():
            return [_fill_json(member, known) for member in value]
        case _:
            return value

"""How a source is polled: which requests fetch what it knows of sales, and where the items and the next page are.

Part of a source's definition (`source_definitions.py`). Texts of a request may have placeholders: `{from}` and
`{until}` are the bounds of the window that is asked for, `{cursor}`, `{page}` and `{offset}` stand where the next page
needs them, and any other name, such as `{publisher_id}`, is a value that staff give the source beside its credentials.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from app.schemas.common import SafeText
from app.schemas.feeds import HeaderName
from app.schemas.source_authentication import DefinitionModel, PayloadName
from app.schemas.source_fields import Path, TimeFormat
from app.urls import is_http_url

PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]{0,39})\}")
OUR_PLACEHOLDERS = frozenset({"from", "until", "cursor", "page", "offset"})

_MOST_BODY_VALUES = 200


def _template_url(url: str) -> str:
    if not is_http_url(PLACEHOLDER.sub("x", url)):
        raise ValueError("must be an http or https URL with a host")
    parts = urlsplit(url)
    if PLACEHOLDER.search(parts.netloc) or "@" in parts.netloc:
        raise ValueError("neither placeholders nor credentials belong in the host")
    if parts.query or parts.fragment:
        raise ValueError("parameters belong in query")
    return url


def _no_secret_header(name: str) -> str:
    if name.lower() in {"authorization", "cookie"}:
        raise ValueError("credentials are given to the source, not written into its definition")
    return name


Template = Annotated[SafeText, StringConstraints(max_length=500), Field(examples=["{from}"])]
UrlTemplate = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=1000),
    AfterValidator(_template_url),
    Field(examples=["https://api.awin.com/publishers/{publisher_id}/transactions/"]),
]
Parameters = Annotated[dict[PayloadName, Template], Field(max_length=40)]


class PollPass(DefinitionModel):
    """One way of asking: by which date, how far back, how often. Each keeps its own place in time."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,29}$", examples=["validated"])
    query: Parameters = Field({}, description="Query parameters beside the common ones.")
    variables: Parameters = Field({}, description="Members of the body's `variables`, as GraphQL has them.")
    overlap_hours: int = Field(
        24, ge=0, le=24 * 400, description="How far before the end of the last window the next one begins."
    )
    first_days: int = Field(90, ge=1, le=1095, description="How far back the first poll looks.")
    longest_days: int = Field(31, ge=1, le=400, description="The longest window that may be asked for at once.")
    every_minutes: int | None = Field(
        None, ge=1, le=43_200, description="How often, where that is less often than the source is polled."
    )


class NextUrlPaging(DefinitionModel):
    """An answer names the next page's address, perhaps relative to its own; without it the page was the last."""

    kind: Literal["next_url"]
    path: Path


class LinkHeaderPaging(DefinitionModel):
    """The answer's `Link` header names the next page as `rel="next"` (RFC 8288)."""

    kind: Literal["link_header"]


class CursorPaging(DefinitionModel):
    """An answer has a value that the next request repeats as `{cursor}`, which the first request goes without."""

    kind: Literal["cursor"]
    path: Path
    complete: Path | None = Field(None, description="True in the last answer; without it the cursor is missing there.")


class PageNumberPaging(DefinitionModel):
    """Pages are numbered: `{page}`. The last one is empty, unless an answer says how many there are."""

    kind: Literal["page_number"]
    first: int = Field(1, ge=0, le=1)
    pages: Path | None = Field(None, description="How many pages there are.")


class OffsetPaging(DefinitionModel):
    """Pages begin at an item's number: `{offset}`. The last one has fewer items than fit."""

    kind: Literal["offset"]
    size: int = Field(ge=1, le=20_000, description="Items on a full page.")
    total: Path | None = Field(None, description="How many items there are.")


Paging: TypeAlias = Annotated[
    NextUrlPaging | LinkHeaderPaging | CursorPaging | PageNumberPaging | OffsetPaging, Field(discriminator="kind")
]
_NEEDED = {"cursor": "cursor", "page_number": "page", "offset": "offset"}


class Polling(DefinitionModel):
    """The requests that fetch items, and how their answers are taken apart. Each item is read as `polled` says."""

    url: UrlTemplate
    method: Literal["GET", "POST"] = "GET"
    query: Parameters = Field({}, description="Query parameters of every request.")
    headers: dict[Annotated[HeaderName, AfterValidator(_no_secret_header)], Template] = Field({}, max_length=10)
    body: dict[str, Any] | None = Field(None, description="Sent as JSON by a POST.")
    credentials: Literal["basic", "bearer", "header", "query", "none"] = Field(
        description="What staff must give the source for it to be polled."
    )
    time_format: TimeFormat = Field("%Y-%m-%dT%H:%M:%SZ", description="Of `{from}` and `{until}`, which are in UTC.")
    items: Path = Field(description="The list of items in an answer.")
    parts: Path | None = Field(
        None,
        description="In an item that is reported in parts: the list of them. Each becomes an event of its own, the item"
        " with that one as its member `part`.",
    )
    failed: Path | None = Field(None, description="True, or filled, in an answer of status 200 that says it failed.")
    paging: Paging | None = Field(None, description="Without it an answer is whole.")
    passes: list[PollPass] = Field(min_length=1, max_length=6)
    every_minutes: int = Field(60, ge=1, le=10_080)
    calls_a_minute: int | None = Field(
        None, ge=1, le=6000, description="Requests to the host, shared by all that ask there."
    )

    @property
    def value_names(self) -> list[str]:
        """The values that staff must give beside the credentials."""
        names = {name for text in self._texts() for name in PLACEHOLDER.findall(text)}
        return sorted(names - OUR_PLACEHOLDERS)

    def _texts(self) -> Iterator[str]:
        yield self.url
        yield from self.query.values()
        yield from self.headers.values()
        yield from _texts_in(self.body)
        for one in self.passes:
            yield from one.query.values()
            yield from one.variables.values()

    @model_validator(mode="after")
    def _request_is_whole(self) -> Self:
        if (self.method == "POST") != (self.body is not None):
            raise ValueError("body: a POST has one, a GET has none")
        if sum(1 for _ in _texts_in(self.body)) > _MOST_BODY_VALUES:
            raise ValueError(f"body: has more than {_MOST_BODY_VALUES} texts")
        names = [one.name for one in self.passes]
        if len(set(names)) < len(names):
            raise ValueError("passes: each name once")
        return self

    @model_validator(mode="after")
    def _passes_have_windows(self) -> Self:
        for one in self.passes:
            if one.variables and not isinstance((self.body or {}).get("variables"), dict):
                raise ValueError(f"passes.{one.name}.variables: the body has no variables")
            texts = [self.url, *self.query.values(), *_texts_in(self.body), *one.query.values()]
            found = {name for text in [*texts, *one.variables.values()] for name in PLACEHOLDER.findall(text)}
            if not {"from", "until"} <= found:
                raise ValueError(f"passes.{one.name}: neither {{from}} nor {{until}} may be missing")
            needed = _NEEDED.get(self.paging.kind) if self.paging is not None else None
            if needed is not None and needed not in found:
                raise ValueError(f"paging: the next page needs {{{needed}}} in the request")
        if self.method == "POST" and self.paging is not None and self.paging.kind in {"next_url", "link_header"}:
            raise ValueError("paging: the next page of a POST has no address of its own")
        return self


def _texts_in(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for member in value.values():
                yield from _texts_in(member)
        case list():
            for member in value:
                yield from _texts_in(member)

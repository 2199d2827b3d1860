"""Taking an answer apart: the items in it, and where the next page is. Asks nobody and writes nothing."""

from dataclasses import dataclass
from typing import Any, assert_never
from urllib.parse import urljoin

import httpx

from app.expressions import Budget, Expression, ExpressionError
from app.schemas.source_polling import (
    CursorPaging,
    LinkHeaderPaging,
    NextUrlPaging,
    OffsetPaging,
    PageNumberPaging,
    Polling,
)
from app.services.polling.progress import Position
from app.services.sync.credentials import origin_of
from app.services.sync.errors import UnreadableFeedError
from app.services.webhooks.delivery import read_json
from app.services.webhooks.payload import PayloadError
from app.urls import is_http_url

# Of one answer; networks put up to 20,000 items into one.
MOST_BYTES = 32 * 1024**2
_MOST_NODES = 1_500_000
_STEPS = 4 * _MOST_NODES
# So many pages of one window are not a list but a circle.
_MOST_PAGES = 5_000


@dataclass(frozen=True, slots=True)
class Page:
    """What an answer holds."""

    items: list[Any]
    following: Position | None


class PageReader:
    """A polling's expressions, parsed."""

    def __init__(self, polling: Polling) -> None:
        self._polling = polling
        paging = polling.paging
        paths = [polling.items, polling.parts, polling.failed]
        paths += [getattr(paging, name, None) for name in ("path", "complete", "pages", "total")]
        self._expressions = {path: Expression(path) for path in paths if path is not None}

    def read(self, content: bytes, *, url: str, link: str | None, position: Position) -> Page:
        """Read an answer that came from `url`, with the next page as its `Link` header names it.

        Raises UnreadableFeedError.
        """
        try:
            answer = read_json(content, most_nodes=_MOST_NODES)
        except PayloadError as error:
            raise UnreadableFeedError(f"The answer is {error}.") from None
        budget = Budget(_STEPS)
        if self._find(self._polling.failed, answer, budget):
            raise UnreadableFeedError("The answer says that the request failed; check the source's values and dates.")
        found = self._find(self._polling.items, answer, budget)
        if not isinstance(found, list):
            raise UnreadableFeedError(f"The answer has no list of items at {self._polling.items!r}.")
        following = self._following(answer, budget, len(found), url, link, position)
        if following is not None and following.number >= _MOST_PAGES:
            raise UnreadableFeedError(f"The window has more than {_MOST_PAGES} pages.")
        return Page([part for item in found for part in self._parts(item, budget)], following)

    def _parts(self, item: Any, budget: Budget) -> list[Any]:  # noqa: ANN401 - any JSON value
        parts = self._find(self._polling.parts, item, budget)
        if not isinstance(item, dict) or not isinstance(parts, list) or not parts:
            return [item]
        return [{**item, "part": part} for part in parts]

    def _following(
        self,
        answer: Any,  # noqa: ANN401 - any JSON value
        budget: Budget,
        count: int,
        url: str,
        link: str | None,
        position: Position,
    ) -> Position | None:
        number, offset = position.number + 1, position.offset + count
        match self._polling.paging:
            case NextUrlPaging(path=path):
                return self._at_url(self._text(path, answer, budget), url, number, offset)
            case LinkHeaderPaging():
                return self._at_url(link, url, number, offset)
            case CursorPaging(path=path, complete=complete):
                is_last = complete is not None and self._find(complete, answer, budget) is True
                cursor = None if is_last else self._text(path, answer, budget)
                if complete is not None and not is_last and cursor is None:
                    raise UnreadableFeedError("The answer is not complete, and has no cursor to go on with.")
                if cursor is not None and cursor == position.cursor:
                    raise UnreadableFeedError("The answer names itself as the next page.")
                return None if cursor is None else Position(number, offset, cursor)
            case PageNumberPaging(pages=pages):
                total = self._number(pages, answer, budget)
                is_last = not count if total is None else number >= total
            case OffsetPaging(size=size, total=total_path):
                total = self._number(total_path, answer, budget)
                is_last = not count or (count < size if total is None else offset >= total)
            case None:
                return None
            case _:
                assert_never(self._polling.paging)
        return None if is_last else Position(number, offset)

    def _at_url(self, token: str | None, url: str, number: int, offset: int) -> Position | None:
        if not token:
            return None
        following = urljoin(url, token)
        # The credentials go nowhere else, so neither does the poll.
        if not is_http_url(following) or origin_of(httpx.URL(following)) != origin_of(httpx.URL(url)):
            raise UnreadableFeedError("The answer names an address of another host as the next page.")
        if following == url:
            raise UnreadableFeedError("The answer names itself as the next page.")
        return Position(number, offset, url=following)

    def _find(self, path: str | None, document: Any, budget: Budget) -> Any:  # noqa: ANN401 - any JSON value
        try:
            return None if path is None else self._expressions[path].search(document, budget)
        except ExpressionError as error:
            raise UnreadableFeedError(f"{path!r} cannot be found in the answer: {error}.") from None

    def _text(self, path: str, document: Any, budget: Budget) -> str | None:  # noqa: ANN401 - any JSON value
        found = self._find(path, document, budget)
        return None if found is None or found == "" else str(found)

    def _number(self, path: str | None, document: Any, budget: Budget) -> int | None:  # noqa: ANN401 - any JSON value
        found = self._find(path, document, budget)
        text = "" if found is None else str(found)
        if text and not (text.isascii() and text.isdecimal() and len(text) < 12):
            raise UnreadableFeedError(f"The answer has no number at {path!r}.")
        return int(text) if text else None

"""Finished answers of the catalogue: kept as bytes until it changes, and given before any route is looked for.

A route says how long its answer may be kept (`KeptFor`); all else, ETags and 304 too, is here. An answer is at most
CHECK_SECONDS behind what is committed: so often, at most, a process asks PostgreSQL for the catalogue's version. Beside
that each has an age, since a rate begins and ends by the clock.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CHECK_SECONDS = 0.25
# Where in the scope a route leaves how long its answer may be kept.
_KEEP = "cashback.keep"
# Of one kept answer, beside its bytes and its address.
_OVERHEAD_BYTES = 1_000

# What routes with KeptFor document beside their own answers.
FINISHED: dict[int | str, dict[str, Any]] = {
    200: {
        "headers": {
            "ETag": {"description": "Send it back as `If-None-Match`.", "schema": {"type": "string"}},
        }
    },
    304: {"description": "It is still what the `If-None-Match` of the request names; no body."},
}


class JSONBytes(Response):
    """An answer whose JSON is written already."""

    media_type = "application/json"


@dataclass(frozen=True, slots=True)
class _Keep:
    version: int
    seconds: float


@dataclass(slots=True)
class _Finished:
    headers: list[tuple[bytes, bytes]]
    body: bytes
    etag: bytes
    # For the access log and the metrics.
    route: object
    version: int
    until: float
    size: int = field(default=0)


class FinishedAnswers:
    """What one process keeps: at most `max_bytes`, those asked for last."""

    def __init__(
        self,
        *,
        max_bytes: int,
        read_version: Callable[[], Awaitable[int]],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._read_version = read_version
        self._clock = clock
        self._kept: OrderedDict[tuple[str, bytes], _Finished] = OrderedDict()
        self._bytes = 0
        self._version = -1
        self._checked_at = float("-inf")
        self._checking = asyncio.Lock()

    async def version(self) -> int:
        """Return the catalogue's version as it was at most CHECK_SECONDS ago."""
        if not self._is_due():
            return self._version
        async with self._checking:
            if self._is_due():
                # The answer may be as old as the question.
                asked_at = self._clock()
                version = await self._read_version()
                if version != self._version:
                    self._kept.clear()
                    self._version, self._bytes = version, 0
                self._checked_at = asked_at
        return self._version

    def _is_due(self) -> bool:
        return self._clock() - self._checked_at >= CHECK_SECONDS

    async def find(self, key: tuple[str, bytes]) -> _Finished | None:
        """Return an answer that still holds."""
        if key not in self._kept:
            return None
        await self.version()
        found = self._kept.get(key)
        if found is None or found.until <= self._clock():
            return None
        self._kept.move_to_end(key)
        return found

    def keep(self, key: tuple[str, bytes], answer: _Finished, seconds: float) -> None:
        """Keep an answer, unless the catalogue has changed since its route began."""
        answer.size = len(answer.body) + len(key[0]) + len(key[1]) + _OVERHEAD_BYTES
        if answer.version != self._version or answer.size > self._max_bytes:
            return
        answer.until = self._clock() + seconds
        self._bytes += answer.size
        if (before := self._kept.pop(key, None)) is not None:
            self._bytes -= before.size
        self._kept[key] = answer
        while self._bytes > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].size


class KeptFor:
    """A dependency of a public GET route whose answer depends on its address and the catalogue alone."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self, request: Request) -> None:
        """Let the answer be kept: as of the version that was there before the route reads anything."""
        answers: FinishedAnswers = request.app.state.finished_answers
        request.scope[_KEEP] = _Keep(await answers.version(), self.seconds)


class FinishedAnswersMiddleware:
    """Gives kept answers, and keeps those that a route lets it keep. Innermost: what is counted outside still is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        answers: FinishedAnswers = scope["app"].state.finished_answers
        key = (scope["path"], scope["query_string"])
        found = await answers.find(key)
        if found is not None:
            scope["route"] = found.route
            await _give(found, scope, send)
            return
        start: Message = {}
        parts: list[bytes] = []

        async def finish(message: Message) -> None:
            nonlocal start
            if _KEEP not in scope:
                await send(message)
            elif message["type"] == "http.response.start":
                start = message
            elif start["status"] != 200:
                await send(start)
                await send(message)
            else:
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    keep: _Keep = scope[_KEEP]
                    answer = _finished(start, b"".join(parts), scope.get("route"), keep)
                    answers.keep(key, answer, keep.seconds)
                    await _give(answer, scope, send)

        await self.app(scope, receive, finish)


def _finished(start: Message, body: bytes, route: object, keep: _Keep) -> _Finished:
    etag = b'"%b"' % blake2b(body, digest_size=12).hexdigest().encode()
    # Anybody may store it, and asks each time whether it still holds.
    headers = [*start["headers"], (b"etag", etag), (b"cache-control", b"no-cache")]
    return _Finished(headers, body, etag, route, keep.version, until=0.0)


async def _give(answer: _Finished, scope: Scope, send: Send) -> None:
    wanted = next((value for name, value in scope["headers"] if name == b"if-none-match"), None)
    if wanted is not None and _names(wanted, answer.etag):
        headers = [field for field in answer.headers if field[0] not in {b"content-length", b"content-type"}]
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    # A list of its own: others add to it on the way out.
    await send({"type": "http.response.start", "status": 200, "headers": list(answer.headers)})
    await send({"type": "http.response.body", "body": answer.body})


def _names(if_none_match: bytes, etag: bytes) -> bool:
    """Whether a list of entity tags has this one; weakly compared (RFC 9110, section 13.1.2)."""
    return any(tag.strip().removeprefix(b"W/") in {etag, b"*"} for tag in if_none_match.split(b","))

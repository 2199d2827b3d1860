"""A payout provider as they are: it keeps its idempotency keys, and its answers get lost, late and wrong."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

import httpx
import orjson
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook

from app.config import Settings
from app.ids import new_id

TOKEN = "provider-token"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw1234567890ab"


class Manner(StrEnum):
    """How the answer to one request comes."""

    WELL = "well"
    # The whole answer never comes.
    HANG = "hang"
    DRIP = "drip"
    DROP = "drop"
    HALF = "half"
    GARBAGE = "garbage"
    ANOTHER = "another"
    HUGE = "huge"
    ERROR = "error"
    PLAIN_422 = "plain 422"
    UNAUTHORIZED = "unauthorized"
    BUSY = "busy"
    REDIRECT = "redirect"


@dataclass
class Turn:
    """What happens to one POST: whether the payout is made, how the answer comes, or with what it is refused."""

    manner: Manner = Manner.WELL
    accepts: bool = True
    # Status, code and message of a refusal.
    refusal: tuple[int, str, str] | None = None


class Moment(StrEnum):
    """A moment in the life of a POST."""

    RECEIVED = "received"
    ACCEPTED = "accepted"
    ANSWERED = "answered"


@dataclass
class Made:
    """A payout in the provider's books."""

    content: dict[str, Any]
    reference: str
    status: str = "pending"
    reason: str | None = None


@dataclass
class Request:
    """What was asked; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class PayoutServer:
    """Serves the provider's side of the protocol on 127.0.0.1."""

    # By idempotency key. An entry is money on its way: there is never a second one for a key.
    books: dict[str, Made] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    # For the next POSTs and GETs, in this order; afterwards all goes well. Bytes are a body that is answered as it is.
    posts: deque[Turn] = field(default_factory=deque)
    gets: deque[Manner | bytes] = field(default_factory=deque)
    # What a payout that is accepted becomes.
    becomes: str = "pending"
    # Holds each POST back, after it was written into the books, until it is set.
    gate: asyncio.Event | None = None
    # Where the next POST stops for good: the test then kills whoever sent it.
    stop_at: Moment | None = None
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v2"

    def settings(self, settings: Settings, **changes: Any) -> Settings:
        """Settings of a service that uses this provider, and waits for it as long as a busy machine may need."""
        return settings.model_copy(
            update={
                "payout_http_url": self.url,
                "payout_http_token": SecretStr(TOKEN),
                "payout_http_timeout_seconds": 10.0,
                "payout_callback_secrets": [SecretStr(SECRET)],
                **changes,
            }
        )

    def asked(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    def finish(self, status: str = "paid", reason: str | None = None) -> None:
        """Bring every payout in the books to a state."""
        for made in self.books.values():
            made.status, made.reason = status, reason

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = _parse(head)
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                self.requests.append(request)
                await self._answer(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            await _reply(writer, 401, _error("unauthorized"))
        elif (request.method, request.path) == ("POST", "/v2/payouts"):
            await self._take(request, writer)
        elif request.method == "GET" and request.path.startswith("/v2/payouts/"):
            await self._show(request.path.removeprefix("/v2/payouts/"), writer)
        else:
            await _reply(writer, 404, b"no such page")

    async def _take(self, request: Request, writer: asyncio.StreamWriter) -> None:
        turn = self.posts.popleft() if self.posts else Turn()
        stop_at, self.stop_at = self.stop_at, None
        if stop_at is Moment.RECEIVED:
            await self._stop()
        key, content = request.headers["idempotency-key"], orjson.loads(request.body)
        if turn.refusal is not None:
            status, code, message = turn.refusal
            await _reply(writer, status, _error(code, message))
            return
        known = self.books.get(key)
        if known is not None and known.content != content:
            await _reply(writer, 422, _error("idempotency_key_reused"))
            return
        if known is None and turn.accepts:
            self.books[key] = Made(content, f"prov-{len(self.books) + 1}", self.becomes)
        if self.gate is not None:
            await self.gate.wait()
        if stop_at is Moment.ACCEPTED:
            await self._stop()
        await self._say(writer, turn.manner, key)
        if stop_at is Moment.ANSWERED:
            await self._stop()

    async def _stop(self) -> None:
        self.stopped.set()
        await asyncio.Event().wait()

    async def _show(self, key: str, writer: asyncio.StreamWriter) -> None:
        manner = self.gets.popleft() if self.gets else Manner.WELL
        if isinstance(manner, bytes):
            await _reply(writer, 200, manner)
        elif manner is Manner.WELL and key not in self.books:
            await _reply(writer, 404, _error("not_found"))
        else:
            await self._say(writer, manner, key)

    async def _say(self, writer: asyncio.StreamWriter, manner: Manner, key: str) -> None:
        made = self.books.get(key)
        state = {"id": key, "status": "paid"}
        if made is not None:
            state = {"id": key, "status": made.status, "reference": made.reference}
            state |= {"reason": made.reason} if made.reason else {}
        body = orjson.dumps(state)
        match manner:
            case Manner.HANG:
                await asyncio.Event().wait()
            case Manner.DRIP:
                await _drip(writer, body)
            case Manner.DROP:
                writer.transport.abort()
            case Manner.HALF:
                await _reply(writer, 200, body[:-9], length=len(body))
                writer.transport.abort()
            case Manner.REDIRECT:
                await _reply(writer, 307, body, location="http://127.0.0.1:1/elsewhere")
            case _:
                await _reply(writer, *_whole(manner, state))


def _whole(manner: Manner, state: dict[str, str]) -> tuple[int, bytes]:
    """Status and body of an answer that comes at once and whole."""
    body = orjson.dumps(state)
    return {
        Manner.WELL: (201, body),
        Manner.GARBAGE: (200, b"<html>paid</html>"),
        Manner.ANOTHER: (200, orjson.dumps({**state, "id": f"payout-{new_id()}"})),
        Manner.HUGE: (200, body[:-1] + b" " * 1_000_000 + b"}"),
        Manner.ERROR: (500, _error("internal")),
        Manner.PLAIN_422: (422, b"unprocessable, says the gateway"),
        Manner.UNAUTHORIZED: (401, _error("token_expired")),
        Manner.BUSY: (429, _error("slow_down")),
    }[manner]


async def call_back(
    client: httpx.AsyncClient, key: str, status: str, *, secret: str = SECRET, **changes: Any
) -> httpx.Response:
    """Tell the service of a payout, signed."""
    at = changes.pop("at", datetime.now(UTC))
    body = orjson.dumps({"id": key, "status": status, "event": "payout.changed", **changes})
    message_id = f"msg_{new_id().hex}"
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body.decode()),
    }
    return await client.post("/v1/payout-callbacks", content=body, headers=headers)


def _error(code: str, message: str = "") -> bytes:
    return orjson.dumps({"error": {"code": code, "message": message}})


async def _reply(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, length: int | None = None, location: str | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"Location: {location}"] if location else []
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    await writer.drain()


async def _drip(writer: asyncio.StreamWriter, body: bytes) -> None:
    """A byte now and then: each comes in time, the whole never does."""
    writer.write(f"HTTP/1.1 200 Whatever\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    for number in range(len(body)):
        writer.write(body[number : number + 1])
        await writer.drain()
        await asyncio.sleep(0.1)


def _parse(head: bytes) -> Request:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    return Request(method, path, headers, b"")

"""A feed's server as merchants have them: correct, compressed, slow, endless, lying, redirecting."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import orjson


@dataclass(frozen=True)
class Request:
    """What was asked; header names are in lower case."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""


@dataclass
class Reply:
    """An answer. `body` may be an async iterator, which is sent as it comes, until the connection closes."""

    body: bytes | AsyncIterator[bytes] = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    # What Content-Length claims, when that is not the truth.
    claimed_length: int | None = None


Route = Reply | Callable[[Request], Reply]


class FeedServer:
    """Serves `routes` (by path) on 127.0.0.1, and remembers who asked for what."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[Request] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def url(self, path: str = "/feed") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def serve(self, body: bytes | str, path: str = "/feed", **headers: str) -> None:
        """Answer a path with a body."""
        content = body.encode() if isinstance(body, str) else body
        self.routes[path] = Reply(content, headers=headers)

    def serve_gzip(self, body: bytes | str, path: str = "/feed") -> None:
        """Answer a path with a body that the server compresses."""
        content = body.encode() if isinstance(body, str) else body
        self.routes[path] = Reply(gzip.compress(content), headers={"Content-Encoding": "gzip"})

    def serve_pages(self, pages: list[list[dict[str, Any]]], path: str = "/feed") -> None:
        """Answer with JSON pages in the form of the preset `direct-json`, each naming the next."""
        for number, items in enumerate(pages):
            following = f"{path}?page={number + 2}" if number + 1 < len(pages) else None
            self.routes[path if number == 0 else f"{path}?page={number + 1}"] = Reply(
                orjson.dumps({"items": items, "next": following})
            )

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request = _parse(head)
                if length := int(request.headers.get("content-length", "0")):
                    request = replace(request, body=await reader.readexactly(length))
                if not await self._answer(request, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Send the answer; False when the connection must end with it."""
        self.requests.append(request)
        route = self._route(request)
        reply = route(request) if callable(route) else route
        whole = isinstance(reply.body, bytes)
        headers = dict(reply.headers)
        if isinstance(reply.body, bytes) and reply.status != 304:
            length = len(reply.body) if reply.claimed_length is None else reply.claimed_length
            headers.setdefault("Content-Length", str(length))
        keep = whole and reply.claimed_length is None
        headers["Connection"] = "keep-alive" if keep else "close"
        lines = [f"HTTP/1.1 {reply.status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if isinstance(reply.body, bytes):
            writer.write(reply.body)
            await writer.drain()
        else:
            async for piece in reply.body:
                writer.write(piece)
                await writer.drain()
        return keep

    def _route(self, request: Request) -> Route:
        query = "&".join(f"{name}={value}" for name, value in request.query.items())
        exact = self.routes.get(f"{request.path}?{query}") if query else None
        return exact or self.routes.get(request.path) or Reply(b"no such feed", status=404)


def _parse(head: bytes) -> Request:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, address, _ = first.split(" ")
    target = urlsplit(address)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)}
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    return Request(target.path, query, headers, method)


def offers(count: int, *, start: int = 1, price_minor: int = 1000) -> list[dict[str, Any]]:
    """Offers in the form of the preset `direct-json`."""
    return [
        {
            "id": f"sku-{number:06d}",
            "title": f"Product number {number}",
            "description": "Soft, light and made to last.",
            "brand": f"Brand {number % 50}",
            "category": "shoes",
            "url": f"https://shop.example/products/{number}",
            "image_url": f"https://cdn.shop.example/{number}.jpg",
            "price": {"amount_minor": price_minor + number, "currency": "PKR"},
            "available": True,
        }
        for number in range(start, start + count)
    ]


def document(items: list[dict[str, Any]]) -> bytes:
    """One JSON document of offers."""
    return orjson.dumps({"items": items, "next": None})


def gzip_bomb(decompressed_bytes: int) -> Iterator[bytes]:
    """Gzip of zeros after the start of a CSV file, a thousandth of its decompressed size."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    yield compressor.compress(b"id,title,price,link\n")
    block = b"0" * 1_048_576
    for _ in range(decompressed_bytes // len(block)):
        yield compressor.compress(block)
    yield compressor.flush()

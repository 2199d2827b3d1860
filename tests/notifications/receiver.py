"""Another system's server: takes notifications, checks their signatures, and answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
from standardwebhooks.webhooks import Webhook


@dataclass
class Receiver:
    """Answers with `statuses` one after the other, and with the last of them from then on; None hangs up."""

    port: int = 0
    secret: str = ""
    statuses: list[int | None] = field(default_factory=lambda: [200])
    # What came with a signature that holds.
    received: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    refused: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/cashback?tenant=7"

    def take(self, headers: dict[str, str], body: bytes) -> int | None:
        """Check and keep a message; returns what to answer."""
        try:
            self.received.append(Webhook(self.secret).verify(body, headers))
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it is not from us
            self.refused += 1
            return 401
        self.ids.append(headers["webhook-id"])
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@asynccontextmanager
async def serving() -> AsyncIterator[Receiver]:
    """Serve on 127.0.0.1."""
    receiver = Receiver()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.splitlines()[1:] if line)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            assert orjson.loads(body)
            if (status := receiver.take(headers, body)) is not None:
                writer.write(f"HTTP/1.1 {status} Told\r\nLocation: /else\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        await server.wait_closed()

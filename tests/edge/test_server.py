"""What a real server does before the application sees a request: bounded, and in problem documents."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import uvicorn

from app.config import Settings
from app.edge import protocol
from app.edge.protocol import MAX_SILENT_BYTES, BoundedHttpProtocol
from app.main import create_app
from tests.service import free_port

CHUNK = 16_384


@pytest.fixture(scope="module")
async def port(settings: Settings) -> AsyncIterator[int]:
    config = uvicorn.Config(
        create_app(settings),
        port=free_port(),
        lifespan="off",
        ws="none",
        http=BoundedHttpProtocol,
        log_config=None,
        server_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield config.port
    server.should_exit = True
    await serving


async def ask(port: int, *parts: bytes) -> bytes:
    """Send all parts and return everything up to the server's hanging up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
        answer = await reader.read()
    writer.close()
    return answer


def problem_in(answer: bytes, status: int) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"application/problem+json" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"server:" not in head.lower()
    problem: dict[str, Any] = json.loads(body)
    assert problem["status"] == status
    return problem


ENDLESS = b"x" * CHUNK


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET / HTTP/1.1\r\nHost: test\r\nX-Endless: ", b"GET / HTTP/1.1\r\nHost: test\r\nX-"],
    ids=["target", "value", "name"],
)
async def test_a_head_without_end_is_431_before_much_of_it_is_read(port: int, start: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(start)
    sent = 0
    async with asyncio.timeout(10):
        with suppress(ConnectionError):
            while sent < 100 * MAX_SILENT_BYTES:
                writer.write(ENDLESS)
                await writer.drain()
                sent += CHUNK
                await asyncio.sleep(0)
    writer.close()
    # What the kernel buffers on both sides is sent, but nobody reads it.
    assert sent < 100 * MAX_SILENT_BYTES


async def test_a_head_just_too_long_is_told_so(port: int) -> None:
    start = b"GET / HTTP/1.1\r\nHost: test\r\nX-Endless: "
    answer = await ask(port, start + b"x" * (MAX_SILENT_BYTES - len(start)), b"x")
    assert problem_in(answer, 431)["code"] == "headers_too_large"


async def test_many_headers_and_long_targets_are_answered_by_the_application(port: int) -> None:
    many = b"".join(b"X-%d: x\r\n" % number for number in range(200))
    assert problem_in(await ask(port, b"GET /livez HTTP/1.1\r\nHost: test\r\n" + many + b"\r\n"), 431)["request_id"]
    target = b"/livez?" + b"q" * 10_000
    assert problem_in(await ask(port, b"GET " + target + b" HTTP/1.1\r\nHost: test\r\n\r\n"), 414)["request_id"]


async def test_a_trailer_without_end_closes_the_connection(port: int) -> None:
    head = b"POST /nothing HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Trailer: "
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404 ")
        with suppress(ConnectionError):
            for _ in range(20):
                writer.write(ENDLESS)
                await writer.drain()
        with suppress(ConnectionError):
            await reader.read()  # to its end, which the server makes
    writer.close()


@pytest.mark.parametrize("start", [b"", b"GET /livez HTTP/1.1\r\nHost: te"], ids=["nothing", "half a head"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    answer = await ask(port, start)
    if start:
        assert problem_in(answer, 408)["code"] == "request_timeout"
    else:
        assert answer == b""


async def test_a_second_head_is_not_waited_for_either(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.1)
    answer = await ask(port, b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\nGET /livez HT")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in answer


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET /a\x00b HTTP/1.1\r\nHost: test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nX-Nul: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_bytes_that_are_no_http_are_a_problem_document(port: int, head: bytes) -> None:
    answer = await ask(port, head)
    assert problem_in(answer, 400)["code"] == "malformed_request"


@pytest.mark.parametrize(
    "rest",
    [b"Content-Length: 5\r\n\r\n{} and more", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n\r\n"],
    ids=["longer than it says", "broken chunk"],
)
async def test_a_body_that_is_not_what_its_head_says_ends_the_connection(port: int, rest: bytes) -> None:
    head = b"POST /nothing HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    # An answer of ours in the place of the one to the first request would be taken for it.
    assert await ask(port, head + rest) == b""

"""A steady rate of any requests over raw sockets, in a process of its own, each answer noted with its time.

Requests are sent when their time has come, whether the ones before were answered or not, as far as there are
connections; their time counts from then on, so that a server that stalls is not spared those that would have waited.
One Python process: about 1,500 a second at most, and on a machine without a core for it its own waits are measured too.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self
from urllib.parse import urlsplit

_ANSWER_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """When a request's time had come (Unix), milliseconds to the end of its answer, and the status; 0: none came."""

    due: float
    ms: float
    status: int


def to_bytes(url: str, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(url).netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class SteadyLoad:
    """Sends requests, in turn and from the first again, from `start` until `stop`, which returns the answers."""

    def __init__(self, url: str, requests: Sequence[bytes], *, rate: int, connections: int = 64) -> None:
        context = get_context("spawn")
        self._stop = context.Event()
        self._reader, writer = context.Pipe(duplex=False)
        arguments = (url, list(requests), rate, connections, self._stop, writer)
        self._process = context.Process(target=_run, args=arguments, daemon=True)

    def start(self) -> Self:
        """Begin."""
        self._process.start()
        return self

    def stop(self) -> list[Answer]:
        """End; waits for the answers that are on their way."""
        self._stop.set()
        answers: list[Answer] = self._reader.recv()
        self._process.join(10)
        return answers


def _run(url: str, requests: list[bytes], rate: int, connections: int, stop: Any, writer: Any) -> None:  # noqa: ANN401 - of a context's own types
    writer.send(asyncio.run(_send(url, requests, rate, connections, stop)))


async def _send(url: str, requests: list[bytes], rate: int, connections: int, stop: Any) -> list[Answer]:  # noqa: ANN401 - as above
    parts = urlsplit(url)
    answers: list[Answer] = []
    started, number = time.time() + 0.2, 0

    async def one_after_the_other() -> None:
        nonlocal number
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not stop.is_set():
            mine, number = number, number + 1
            due = started + mine / rate
            await asyncio.sleep(max(0.0, due - time.time()))
            status = 0
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(_ANSWER_SECONDS):
                    streams = streams or await asyncio.open_connection(parts.hostname, parts.port)
                    status = await _ask(*streams, requests[mine % len(requests)])
            if status == 0 and streams is not None:
                streams[1].close()
                streams = None
            answers.append(Answer(due, (time.time() - due) * 1000, status))
        if streams is not None:
            streams[1].close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(one_after_the_other())
    return answers


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> int:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0"))
    return int(head.split(b" ", 2)[1])

"""Signed webhooks as load: as many as can be by wrk, or at a steady rate by a client of our own over raw sockets."""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import orjson

from benchmarks.load import Load, LoadError, generator, read_wrk
from tests.webhooks.sender import order_payload, signed_headers

# Each line of the file: the headers' values and the body; when all are used up they are sent again, and are duplicates.
WRK_SCRIPT = """
local lines = io.lines("{file}")
request = function()
  local line = lines()
  if line == nil then lines = io.lines("{file}"); line = lines() end
  local id, at, signature, body = line:match("^(.-)\\t(.-)\\t(.-)\\t(.*)$")
  return wrk.format("POST", nil, {{
    ["content-type"] = "application/json", ["webhook-id"] = id, ["webhook-timestamp"] = at,
    ["webhook-signature"] = signature }}, body)
end
"""


def sale(number: str, click_id: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a signed report of one sale."""
    body = orjson.dumps(order_payload("created", number, click_id, amount=100_000, commission=8_000))
    return signed_headers(body), body


def put_webhooks(url: str, clicks: list[str], *, count: int, connections: int, seconds: int) -> Load:
    """Post up to `count` different reports as fast as they are answered. Raises LoadError, also without wrk."""
    if generator() != "wrk":
        raise LoadError("wrk is missing (Debian, Ubuntu: apt install wrk); no client of ours is quick enough")
    with tempfile.TemporaryDirectory() as folder:
        file, script = Path(folder) / "webhooks", Path(folder) / "webhooks.lua"
        with file.open("wb") as lines:
            for number in range(count):
                headers, body = sale(f"W-{number}", clicks[number % len(clicks)])
                values = (headers[name] for name in ("webhook-id", "webhook-timestamp", "webhook-signature"))
                lines.write("\t".join([*values, body.decode()]).encode() + b"\n")
        script.write_text(WRK_SCRIPT.format(file=file))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"wrk failed: {done.stderr.strip()[-500:]}")
    return read_wrk(done.stdout)


async def send_steadily(
    url: str, click_of: Callable[[int], str], *, prefix: str, rate: int, count: int, connections: int = 32
) -> tuple[list[float], list[float]]:
    """Post `count` reports, one every 1/rate seconds; returns when each was sent, and milliseconds to its answer.

    Raises LoadError for any answer but 202.
    """
    parts = urlsplit(url)
    prepared = []
    for number in range(count):
        headers, body = sale(f"{prefix}-{number}", click_of(number))
        lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        prepared.append("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    sent, answered = [0.0] * count, [0.0] * count
    numbers = iter(range(count))
    started = time.time() + 0.1

    async def send_one_after_the_other() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for number in numbers:
            await asyncio.sleep(max(0.0, started + number / rate - time.time()))
            sent[number] = time.time()
            writer.write(prepared[number])
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            answer = await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 202"):
                raise LoadError(f"not 202: {answer[:300]!r}")
            answered[number] = (time.time() - sent[number]) * 1000
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(send_one_after_the_other())
    return sent, answered


async def watch_wallets(database_url: str, customers: list[str], *, deadline_seconds: float) -> dict[str, float]:
    """Look every 10 ms which customers' wallets have money; returns when each was seen first. Raises LoadError."""
    connection = await asyncpg.connect(database_url)
    seen: dict[str, float] = {}
    deadline = time.time() + deadline_seconds
    try:
        missing = dict.fromkeys(customers)
        while missing:
            if time.time() > deadline:
                raise LoadError(f"{len(missing)} wallets stayed empty for {deadline_seconds:g} s")
            rows = await connection.fetch(
                "SELECT customer_id::text AS id FROM wallets WHERE customer_id = ANY($1::uuid[]) AND pending_minor > 0",
                list(missing),
            )
            for row in rows:
                seen[row["id"]] = time.time()
                del missing[row["id"]]
            await asyncio.sleep(0.01)
    finally:
        await connection.close()
    return seen

"""Load on one URL over keep-alive connections: by wrk when it is on the PATH, else by a client of our own.

`python -m benchmarks.load URL CONNECTIONS SECONDS` is that client: raw sockets in a process of its own. It is slower
than wrk and takes more of the machine from the server, so its numbers compare only with its own.
"""

import asyncio
import re
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import orjson

_PERCENTILES = Path(__file__).parent / "percentiles.lua"
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class LoadError(Exception):
    """The load could not be made, or was not answered as it should be; then its numbers mean nothing."""


@dataclass(frozen=True)
class Load:
    """What was answered, and how fast. Failures are answers that are no 2xx, and broken connections."""

    requests: int
    requests_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failures: int


def generator() -> str:
    """Return which generator there is: `wrk` or `asyncio`."""
    return "wrk" if shutil.which("wrk") else "asyncio"


def put_load(
    url: str, *, connections: int, seconds: int, headers: dict[str, str] | None = None, script: Path | None = None
) -> Load:
    """Load a URL for some seconds, with what wrk alone can: headers, and a script that makes the requests.

    Raises LoadError when nothing at all was answered.
    """
    if generator() == "wrk":
        fields = [f"-H{name}: {value}" for name, value in (headers or {}).items()]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *fields]
        command += ["-s", str(script or _PERCENTILES), url]
        load = read_wrk(_output(command))
    else:
        command = [sys.executable, "-m", "benchmarks.load", url, str(connections), str(seconds)]
        load = Load(**orjson.loads(_output(command)))
    if not load.requests:
        raise LoadError(f"{url} answered nothing")
    return load


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"{command[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def read_wrk(text: str) -> Load:
    """Read what wrk prints with `--latency`."""

    def number(pattern: str) -> float:
        found = re.search(pattern, text)
        return float(found[1]) if found else 0.0

    def quantile(name: str) -> float:
        found = re.search(rf"^\s+{name}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
        return float(found[1]) * _UNITS_MS[found[2]] if found else 0.0

    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    return Load(
        requests=int(number(r"(\d+) requests in")),
        requests_per_second=number(r"Requests/sec:\s+([\d.]+)"),
        p50_ms=quantile("50"),
        # wrk's own list leaves it out; a script may print it.
        p95_ms=number(r"p95: ([\d.]+) us") / 1000,
        p99_ms=quantile("99"),
        failures=int(number(r"Non-2xx or 3xx responses: (\d+)")) + sum(map(int, broken.groups() if broken else ())),
    )


async def _run(url: str, connections: int, seconds: float) -> Load:
    parts = urlsplit(url)
    target = f"{parts.path or '/'}?{parts.query}".rstrip("?")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    taken: list[float] = []
    failures = 0
    started = time.perf_counter()

    async def ask_again_and_again() -> None:
        nonlocal failures
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (sent := time.perf_counter()) - started < seconds:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            failures += not head.startswith(b"HTTP/1.1 2")
            taken.append(time.perf_counter() - sent)
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(ask_again_and_again())
    elapsed = time.perf_counter() - started
    cuts = statistics.quantiles(taken, n=100)
    return Load(len(taken), len(taken) / elapsed, cuts[49] * 1000, cuts[94] * 1000, cuts[98] * 1000, failures)


if __name__ == "__main__":
    measured = asyncio.run(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
    sys.stdout.buffer.write(orjson.dumps(asdict(measured)))

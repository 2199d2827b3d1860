"""The hottest list: 20 offers of one merchant of 250,000, through the real API with its whole middleware.

Baseline in the same run, round by round: a bare FastAPI application answering a constant, in a uvicorn process of its
own. Usage: python -m benchmarks.offers [--rounds 5] [--seconds 5] [--connections 32] [--offers 50000]
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import psutil

from app import db
from app.db import transaction
from app.ids import new_id
from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.load import Load, LoadError, generator, put_load
from tests.factories import make_category, make_merchant
from tests.service import free_port, wait_until

MERCHANTS = 5
PAGE = 20


@dataclass
class Measured:
    """A server's rounds: the load, and microseconds of CPU a request of the server and of PostgreSQL."""

    url: str
    pid: int
    loads: list[Load] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    postgres_cpu_us: list[float] = field(default_factory=list)

    def run(self, *, connections: int, seconds: int) -> None:
        """Put load on the server for one round."""
        server, postgres = cpu_seconds([psutil.Process(self.pid)]), cpu_seconds(postgres_processes())
        load = put_load(self.url, connections=connections, seconds=seconds)
        if load.failures:
            raise LoadError(f"{load.failures} of {load.requests} requests to {self.url} failed")
        self.cpu_us.append((cpu_seconds([psutil.Process(self.pid)]) - server) / load.requests * 1e6)
        self.postgres_cpu_us.append((cpu_seconds(postgres_processes()) - postgres) / load.requests * 1e6)
        self.loads.append(load)

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds."""
        return {
            "requests_per_second": round(statistics.median(load.requests_per_second for load in self.loads)),
            "p50_ms": round(statistics.median(load.p50_ms for load in self.loads), 2),
            "p99_ms": round(statistics.median(load.p99_ms for load in self.loads), 2),
            "cpu_us_per_request": round(statistics.median(self.cpu_us)),
            "postgres_cpu_us_per_request": round(statistics.median(self.postgres_cpu_us)),
            "rounds": [round(load.requests_per_second) for load in self.loads],
        }


def cpu_seconds(processes: list[psutil.Process]) -> float:
    """CPU time that processes, and those they started that have ended, used so far, in user and system mode."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # ended a moment ago: then its parent tells
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def postgres_processes() -> list[psutil.Process]:
    """All of the embedded PostgreSQL; none when DATABASE_URL names another."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [process] if process.name().startswith("postgres") else []
    return found


async def load_offers(stack: Stack, each: int) -> int:
    """Fill the catalogue: five merchants with `each` offers, in turn as syncs would interleave; returns one's id."""
    await db.open_database(stack.settings, application_name="bench", pool_size=1, max_overflow=0)
    try:
        async with transaction() as session:
            category_id = (await make_category(session)).id
            merchants = [(await make_merchant(session, category_id=category_id)).id for _ in range(MERCHANTS)]
    finally:
        await db.close_database()
    columns = (
        "id merchant_id external_id title description brand category_id url image_url currency price_minor"
        " price_max_minor available content_hash"
    )
    rows = (
        (
            new_id(),
            merchant_id,
            f"sku-{number}",
            f"Embroidered lawn suit {number}, 3 pieces",
            "Unstitched lawn shirt with a printed chiffon dupatta and dyed trousers. Machine wash cold.",
            "Brand",
            category_id,
            f"https://shop.example/products/lawn-suit-{number}?variant=1",
            f"https://cdn.shop.example/images/{number}.jpg",
            "PKR",
            100_000 + number,
            120_000 + number,
            True,
            number.to_bytes(16, "big"),
        )
        for number in range(each)
        for merchant_id in merchants
    )
    connection = await asyncpg.connect(stack.settings.database_url)
    try:
        await connection.copy_records_to_table("offers", records=rows, columns=columns.split())
        await connection.execute("VACUUM ANALYZE offers")
    finally:
        await connection.close()
    return merchants[MERCHANTS // 2]


@contextlib.contextmanager
def constant_server() -> Iterator[Measured]:
    """The baseline in a uvicorn process of its own, set up as the API's is."""
    port = free_port()
    command = ["-m", "uvicorn", "benchmarks.constant:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([sys.executable, *command, "--no-access-log", "--no-server-header"])
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_until(lambda: httpx.get(url, trust_env=False).is_success, seconds=20, what="the baseline serves")
        yield Measured(url, process.pid)
    finally:
        process.terminate()
        process.wait(10)


def measure(stack: Stack, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds, the two servers in turn; returns the result."""
    merchant_id = asyncio.run(load_offers(stack, arguments.offers))
    url = f"{stack.service.url}/v1/merchants/{merchant_id}/offers"
    page = httpx.get(url, trust_env=False).raise_for_status()
    if len(page.json()["items"]) != PAGE:
        raise RuntimeError(f"expected {PAGE} offers: {page.text[:200]}")
    with constant_server() as constant:
        offers = Measured(url, stack.service.processes[-1].popen.pid)
        # What only the first requests pay for; some may even wait too long while every connection is being opened.
        for server in (constant, offers):
            put_load(server.url, connections=arguments.connections, seconds=2)
        for number in range(arguments.rounds):
            # Whoever comes first in a round comes second in the next.
            for server in (constant, offers) if number % 2 else (offers, constant):
                server.run(connections=arguments.connections, seconds=arguments.seconds)
    ratios = [
        ours.requests_per_second / theirs.requests_per_second
        for ours, theirs in zip(offers.loads, constant.loads, strict=True)
    ]
    return {
        "offers": MERCHANTS * arguments.offers,
        "answer_bytes": len(page.content),
        "load_generator": generator(),
        "connections": arguments.connections,
        "seconds_per_round": arguments.seconds,
        "constant": constant.summary(),
        "merchant_offers": offers.summary(),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def show(result: dict[str, Any]) -> None:
    """Print both servers and the ratio."""
    for name in ("constant", "merchant_offers"):
        row = result[name]
        latency = f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
        cpu = f"{row['cpu_us_per_request']} us API, {row['postgres_cpu_us_per_request']} us PostgreSQL"
        print(f"{name:<16}{row['requests_per_second']:>7} requests/s   {latency}   CPU a request: {cpu}")
    print(f"merchant_offers / constant: {result['ratio']} (median of {result['ratios']})")


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="length of a round for each server")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--offers", type=int, default=50_000, help="offers of each of the five merchants")
    arguments = parser.parse_args()
    if generator() != "wrk":
        print("wrk is missing (Debian, Ubuntu: apt install wrk): a slower client of our own makes the load instead.")
    if (os.cpu_count() or 1) < 2:
        print("One CPU only: the load generator takes its time from the servers.")
    with running_stack("serve") as stack:
        result = measure(stack, arguments)
    show(result)
    write_result("offers", result)


if __name__ == "__main__":
    main()

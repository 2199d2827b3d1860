"""Feeds of every shape through the real worker: seconds, rows a second, peak memory; and what an unchanged one costs.

Baseline in the same run: the bare COPY of the same offers, made beforehand, into an unlogged table. It reads nothing,
checks nothing and keeps no promise; no sync can be quicker.
Usage: python -m benchmarks.feeds [--offers 50000] [--repeat 3] [--large 500000]
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx

from app import db
from app.db import transaction
from app.ids import new_id
from app.models import StaffRole
from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.sync import Bench, check
from tests.factories import make_merchant, staff_headers
from tests.feed_server import FeedServer, Reply, offers
from tests.sync.shapes import CSV, NDJSON, RSS, SHAPES, Shape

TARGET_UNCHANGED_SECONDS = 0.2
TARGET_MEMORY_MIB = 64
LARGE = (CSV, RSS, NDJSON)

_FLOOR = """
    CREATE UNLOGGED TABLE copy_floor (id uuid, external_id text, title text, description text, brand text, url text,
        image_url text, currency text, price bigint, available boolean, content_hash bytea)
"""


class FeedBench(Bench):
    """The running service, asked for feeds of any shape."""

    async def merchant_of(self, shape: Shape, path: str) -> int:
        """Create a merchant whose feed of a shape is at this path of the server."""
        async with transaction() as session:
            merchant_id = (await make_merchant(session, slug=f"bench-{new_id().hex[-12:]}")).id
        body = {"url": self.server.url(path), "enabled": False, **shape.feed()}
        (await self.client.put(f"/v1/admin/merchants/{merchant_id}/feed", json=body)).raise_for_status()
        return merchant_id

    async def sync_or_fail(self, merchant_id: int, *, created: int) -> float:
        """Sync, and return its seconds from start to commit."""
        job = await self.sync(merchant_id)
        if (job["created"], job["rejected"]) != (created, 0):
            raise RuntimeError(f"{job['created']} created, {job['rejected']} rejected, {created} expected")
        return float(job["seconds"])


async def copy_floor(connection: asyncpg.Connection, rows: list[tuple[Any, ...]]) -> float:
    """Seconds of the bare COPY."""
    started = time.perf_counter()
    await connection.copy_records_to_table("copy_floor", records=rows)
    seconds = time.perf_counter() - started
    await connection.execute("TRUNCATE copy_floor")
    return seconds


async def one_shape(
    bench: FeedBench, connection: asyncpg.Connection, shape: Shape, options: argparse.Namespace
) -> dict[str, Any]:
    """First and unchanged syncs of one shape, alternating with the floor."""
    items = offers(options.offers)
    rows = [check(item) for item in items]
    content = shape.encode(items)
    path = f"/{shape.name}"
    bench.server.serve(content, path)
    first, unchanged, floor = [], [], []
    bench.forget_peak()
    for _ in range(options.repeat):
        merchant_id = await bench.merchant_of(shape, path)
        first.append(await bench.sync_or_fail(merchant_id, created=options.offers))
        floor.append(await copy_floor(connection, rows))
        unchanged.append(await bench.sync_or_fail(merchant_id, created=0))
    seconds, least = statistics.median(first), statistics.median(floor)
    return {
        "bytes": len(content),
        "seconds": round(seconds, 3),
        "rows_a_second": round(options.offers / seconds),
        "copy_floor_seconds": round(least, 3),
        "copy_floor_rows_a_second": round(options.offers / least),
        "ratio": round(seconds / least, 1),
        "unchanged_seconds": round(statistics.median(unchanged), 3),
        "memory_growth_mib": bench.grown_mib(),
    }


async def large_feed(bench: FeedBench, shape: Shape, *, count: int) -> dict[str, Any]:
    """A feed ten times the size, made while it is sent."""

    async def body() -> AsyncIterator[bytes]:
        for piece in shape.pieces(count):
            yield piece

    path = f"/large-{shape.name}"
    bench.server.routes[path] = lambda _: Reply(body())
    merchant_id = await bench.merchant_of(shape, path)
    bench.forget_peak()
    seconds = await bench.sync_or_fail(merchant_id, created=count)
    return {"rows": count, "seconds": round(seconds, 2), "memory_growth_mib": bench.grown_mib()}


def show(result: dict[str, Any]) -> None:
    """Print what was measured, and whether the targets are met."""

    def met(value: float | None, target: float) -> str:
        return "not measured" if value is None else "met" if value <= target else "MISSED"

    print(f"{result['offers']} offers, start to commit, beside the bare COPY of the same offers:")
    for name, row in result["shapes"].items():
        print(
            f"  {name:<8}{row['bytes'] / 1e6:6.1f} MB {row['seconds']:7.3f} s {row['rows_a_second']:>8,} rows/s"
            f"   COPY {row['copy_floor_rows_a_second']:>9,} rows/s   {row['ratio']:5.1f}x"
            f"   unchanged {row['unchanged_seconds']:.3f} s ({met(row['unchanged_seconds'], TARGET_UNCHANGED_SECONDS)})"
            f"   memory +{row['memory_growth_mib']} MiB ({met(row['memory_growth_mib'], TARGET_MEMORY_MIB)})"
        )
    for name, row in result["large"].items():
        grown = row["memory_growth_mib"]
        print(
            f"{row['rows']} offers as {name}: {row['seconds']} s, memory +{grown} MiB ({met(grown, TARGET_MEMORY_MIB)})"
        )


async def measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    """Run everything; returns the result."""
    await db.open_database(stack.settings, application_name="bench", pool_size=4, max_overflow=2)
    connection = await asyncpg.connect(stack.settings.database_url)
    await connection.execute(_FLOOR)
    async with transaction() as session:
        staff = await staff_headers(session, StaffRole.OPERATOR)
    client = httpx.AsyncClient(base_url=stack.service.url, headers=staff, timeout=30, trust_env=False)
    try:
        async with FeedServer() as server, client:
            bench = FeedBench(stack, server, client)
            # Imports, connections and plans that only the first sync of a shape pays for.
            for shape in SHAPES:
                server.serve(shape.encode(offers(1000)), "/warm")
                await bench.sync(await bench.merchant_of(shape, "/warm"))
            bench.idle_memory = bench.memory("VmRSS")
            return {
                "offers": options.offers,
                "shapes": {shape.name: await one_shape(bench, connection, shape, options) for shape in SHAPES},
                "large": {shape.name: await large_feed(bench, shape, count=options.large) for shape in LARGE},
            }
    finally:
        await connection.close()
        await db.close_database()


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description="Feeds of every shape.")
    parser.add_argument("--offers", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--large", type=int, default=500_000)
    options = parser.parse_args()
    with running_stack("serve", "worker sync") as stack:
        result = asyncio.run(measure(stack, options))
    show(result)
    print(f"kept in benchmarks/results/{write_result('feeds', result).name}")


if __name__ == "__main__":
    main()

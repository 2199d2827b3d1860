"""Webhook to wallet: signed webhooks at a steady rate through the real API and worker; how long until the money shows.

Baseline in the same run: a bare durable INSERT of the same bytes over one connection, which no intake can beat.
Usage: python -m benchmarks.webhooks [--rate 50] [--count 500]
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import orjson

from app import db
from app.db import transaction
from app.ids import new_id
from app.models import Source
from benchmarks.harness import Stack, running_stack, write_result
from tests.factories import make_click, make_customer, make_merchant
from tests.webhooks.sender import make_signed_source, order_payload, signed_headers


@dataclass
class Sent:
    """What was sent and how long its answer took, in milliseconds."""

    answered_ms: float
    event_id: str


async def prepare(stack: Stack, customers: int) -> tuple[Source, list[str]]:
    """Create a merchant, its source and clicks of many customers; returns the source and the click ids."""
    async with transaction() as session:
        source = await make_signed_source(session, stack.settings)
        merchant = await make_merchant(session, source_id=source.id)
        clicks = [await make_click(session, await make_customer(session), merchant) for _ in range(customers)]
        return source, [str(click.id) for click in clicks]


async def send(client: httpx.AsyncClient, source: Source, click_id: str, number: int) -> Sent:
    """Sign and post one report."""
    body = orjson.dumps(order_payload("created", f"B-{number}", click_id, amount=100_000, commission=8_000))
    headers = signed_headers(body)
    started = time.perf_counter()
    answer = await client.post(f"/v1/webhooks/{source.source_key}", content=body, headers=headers)
    answer.raise_for_status()
    return Sent((time.perf_counter() - started) * 1000, answer.json()["event_id"])


async def steady(client: httpx.AsyncClient, source: Source, clicks: list[str], *, rate: int, count: int) -> list[Sent]:
    """Post `count` reports, one every 1/rate seconds, whatever the answers take."""
    async with asyncio.TaskGroup() as group:
        tasks = []
        started = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
            tasks.append(group.create_task(send(client, source, clicks[number % len(clicks)], number)))
    return [task.result() for task in tasks]


async def to_wallet_ms(database_url: str, count: int) -> list[float]:
    """Milliseconds from each event's storage to the commit that credited it, once all are processed."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(120):
            while await connection.fetchval("SELECT count(*) FROM webhook_events WHERE status = 'processed'") < count:
                await asyncio.sleep(0.1)
        rows = await connection.fetch(
            "SELECT extract(epoch FROM processed_at - received_at) * 1000 AS ms FROM webhook_events"
        )
        return [float(row["ms"]) for row in rows]
    finally:
        await connection.close()


async def bare_insert_ms(database_url: str, count: int) -> list[float]:
    """Milliseconds of a bare committed INSERT of a body of the same size, one after another."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("CREATE TABLE bare (id uuid PRIMARY KEY, at timestamptz, body bytea)")
        body = orjson.dumps(order_payload("created", "B-0", new_id(), amount=100_000, commission=8_000))
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            await connection.execute("INSERT INTO bare VALUES ($1, $2, $3)", new_id(), datetime.now(UTC), body)
            taken.append((time.perf_counter() - started) * 1000)
        return taken
    finally:
        await connection.close()


def quantiles(milliseconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99, rounded."""
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "p99_ms": round(cuts[98], 1)}


async def measure(stack: Stack, *, rate: int, count: int) -> dict[str, Any]:
    """Run the whole measurement on a stack that is up."""
    await db.open_database(stack.settings, application_name="bench", pool_size=2, max_overflow=0)
    try:
        source, clicks = await prepare(stack, customers=100)
    finally:
        await db.close_database()
    bare = await bare_insert_ms(stack.settings.database_url, 300)
    async with httpx.AsyncClient(base_url=stack.service.url, timeout=30) as client:
        await steady(client, source, clicks, rate=20, count=20)  # warm up
        sent = await steady(client, source, clicks, rate=rate, count=count)
    wallet = await to_wallet_ms(stack.settings.database_url, 20 + count)
    return {
        "rate_per_second": rate,
        "count": count,
        "answer": quantiles([one.answered_ms for one in sent]),
        "to_wallet": quantiles(wallet),
        "bare_insert": quantiles(bare),
        "answer_over_bare_insert": round(
            statistics.median(one.answered_ms for one in sent) / statistics.median(bare), 1
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=50, help="webhooks a second")
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    with running_stack("serve", "worker default") as stack:
        result = asyncio.run(measure(stack, rate=options.rate, count=options.count))
    for name in ("bare_insert", "answer", "to_wallet"):
        print(f"{name:<12}", result[name])
    print("answer / bare insert:", result["answer_over_bare_insert"])
    write_result("webhooks", result)


if __name__ == "__main__":
    main()

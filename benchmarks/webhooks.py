"""Signed webhooks through the real API and worker: taken in, worked off, and how long until the money is in the wallet.

Baselines in the same run: a bare FastAPI constant for the intake's requests, and a bare durable INSERT of a row of the
same size by pgbench for its commits. Also a minute of 1,000 credits a second of one merchant, with PostgreSQL's own
count of deadlocks. Usage: python -m benchmarks.webhooks [--seconds 10] [--rate 500] [--burst 1000] [--burst-seconds 60]
"""

import argparse
import asyncio
import re
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from app import db
from app.db import transaction
from app.services.ledger.verify import violations
from benchmarks.harness import Stack, running_stack, write_result
from benchmarks.ledger import pgbench_program
from benchmarks.load import LoadError, put_load
from benchmarks.servers import constant_server, cpu_seconds, postgres_processes
from benchmarks.webhook_load import put_webhooks, sale, send_steadily, watch_wallets
from tests.factories import make_click, make_customer, make_merchant
from tests.service import wait_until
from tests.webhooks.sender import make_signed_source

CUSTOMERS = 500
# Every so many webhooks one of a customer of its own, whose wallet is watched.
PROBE_EVERY = 25
CONNECTIONS = 64


@dataclass
class World:
    """A merchant, its source's URL, clicks of many customers, and (customer, click) of those that are watched."""

    url: str
    clicks: list[str]
    probes: list[tuple[str, str]]


async def prepare(stack: Stack, probes: int) -> World:
    """Create and commit it."""
    await db.open_database(stack.settings, application_name="bench", pool_size=2, max_overflow=0)
    try:
        async with transaction() as session:
            source = await make_signed_source(session, stack.settings)
            merchant = await make_merchant(session, source_id=source.id)
            made = []
            for _ in range(CUSTOMERS + probes):
                customer = await make_customer(session)
                made.append((str(customer.id), str((await make_click(session, customer, merchant)).id)))
        url = f"{stack.service.url}/v1/webhooks/{source.source_key}"
        return World(url, [click for _, click in made[:CUSTOMERS]], made[CUSTOMERS:])
    finally:
        await db.close_database()


def bare_inserts(database_url: str, *, seconds: int) -> float:
    """Let pgbench insert rows of a webhook's size, each in a transaction of its own; returns how many a second."""
    program = pgbench_program()
    if program is None:
        raise LoadError("pgbench is missing (Debian, Ubuntu: apt install postgresql-client, or the embedded extra)")
    size = len(sale("W-0", "0" * 36)[1])
    asyncio.run(_execute(database_url, "CREATE TABLE bare (id uuid PRIMARY KEY, at timestamptz, body bytea)"))
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"INSERT INTO bare VALUES (gen_random_uuid(), now(), decode(repeat('ab', {size}), 'hex'));\n")
        script.flush()
        command = [program, "-n", "-M", "prepared", "-c", "16", "-j", "1", "-T", str(seconds), "-f", script.name]
        done = subprocess.run([*command, database_url], capture_output=True, text=True, check=True)
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    if found is None:
        raise LoadError(f"pgbench said nothing of its rate: {done.stdout[-300:]}")
    return float(found[1])


async def _execute(database_url: str, statement: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _ask(database_url: str, query: str) -> Any:  # noqa: ANN401 - whatever it selects
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def take_in(stack: Stack, world: World, *, seconds: int) -> dict[str, Any]:
    """Measure the intake beside the constant, no worker running."""
    api = psutil.Process(stack.service.processes[0].popen.pid)
    with constant_server() as constant:
        put_load(constant.url, connections=CONNECTIONS, seconds=1)
        constant.run(connections=CONNECTIONS, seconds=seconds)
        put_webhooks(world.url, world.clicks, count=200, connections=CONNECTIONS, seconds=1)
        before, postgres = cpu_seconds([api]), cpu_seconds(postgres_processes())
        load = put_webhooks(world.url, world.clicks, count=4000 * seconds, connections=CONNECTIONS, seconds=seconds)
    if load.failures or not load.requests:
        raise LoadError(f"{load.failures} of {load.requests} webhooks failed")
    return {
        "requests_per_second": round(load.requests_per_second),
        "p50_ms": round(load.p50_ms, 1),
        "p99_ms": round(load.p99_ms, 1),
        "api_cpu_us": round((cpu_seconds([api]) - before) / load.requests * 1e6),
        "postgres_cpu_us": round((cpu_seconds(postgres_processes()) - postgres) / load.requests * 1e6),
        "bare_constant": constant.summary(),
        "to_constant": round(load.requests_per_second / constant.loads[-1].requests_per_second, 2),
    }


def drain(stack: Stack, worker: psutil.Process) -> dict[str, Any]:
    """Measure how fast one worker process, which nobody has let run so far, works off what was taken in."""
    url = stack.settings.database_url
    waiting = asyncio.run(_ask(url, "SELECT count(*) FROM webhook_events WHERE status = 'received'"))
    cpu, postgres, started = cpu_seconds([worker]), cpu_seconds(postgres_processes()), time.perf_counter()
    worker.resume()
    asyncio.run(until_drained(url, seconds=600))
    seconds = time.perf_counter() - started
    return {
        "events": waiting,
        "events_per_second": round(waiting / seconds),
        "worker_cpu_us": round((cpu_seconds([worker]) - cpu) / waiting * 1e6),
        "postgres_cpu_us": round((cpu_seconds(postgres_processes()) - postgres) / waiting * 1e6),
    }


async def until_drained(database_url: str, *, seconds: float) -> None:
    """Wait until every event is processed. Raises TimeoutError, and LoadError for any that ended otherwise."""
    connection = await asyncpg.connect(database_url)
    try:
        async with asyncio.timeout(seconds):
            while await connection.fetchval("SELECT EXISTS (SELECT FROM webhook_events WHERE status = 'received')"):
                await asyncio.sleep(0.05)
        if other := await connection.fetchval("SELECT count(*) FROM webhook_events WHERE status <> 'processed'"):
            raise LoadError(f"{other} events were not processed")
    finally:
        await connection.close()


async def steady(stack: Stack, world: World, *, prefix: str, rate: int, seconds: int) -> dict[str, Any]:
    """Send at a steady rate, and watch some wallets; returns quantiles, and PostgreSQL's count of deadlocks."""
    count = rate * seconds
    probes = [world.probes.pop() for _ in range(count // PROBE_EVERY)]

    def click_of(number: int) -> str:
        place, is_other = divmod(number, PROBE_EVERY)
        return world.clicks[number % CUSTOMERS] if is_other or place >= len(probes) else probes[place][1]

    url = stack.settings.database_url
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before, started = await _ask(url, deadlocks), time.time()
    async with asyncio.TaskGroup() as group:
        customers = [customer for customer, _ in probes]
        watching = group.create_task(watch_wallets(url, customers, deadline_seconds=seconds + 120))
        sent, answered = await send_steadily(world.url, click_of, prefix=prefix, rate=rate, count=count)
        took = time.time() - started
    seen = watching.result()
    await until_drained(url, seconds=300)
    drained = time.time() - started
    # A backend reports what it counted only some moments after.
    await asyncio.sleep(2)
    waited = [(seen[customer] - sent[place * PROBE_EVERY]) * 1000 for place, (customer, _) in enumerate(probes)]
    return {
        "rate_per_second": rate,
        "count": count,
        "sent_per_second": round(count / took),
        "credited_per_second": round(count / drained),
        "answer": quantiles(answered),
        "to_wallet": quantiles(waited),
        "deadlocks": await _ask(url, deadlocks) - before,
    }


def quantiles(milliseconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99, rounded."""
    cuts = statistics.quantiles(milliseconds, n=100)
    return {"p50_ms": round(cuts[49], 1), "p95_ms": round(cuts[94], 1), "p99_ms": round(cuts[98], 1)}


async def _proven(stack: Stack) -> None:
    await db.open_database(stack.settings, application_name="bench", pool_size=2, max_overflow=0)
    try:
        async with transaction() as session:
            if found := await violations(session):
                raise LoadError(f"the ledger does not hold: {found[:3]}")
    finally:
        await db.close_database()


def measure(stack: Stack, options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole measurement on an API that is up."""
    probes = (options.rate * options.seconds + options.burst * options.burst_seconds) // PROBE_EVERY + 2
    world = asyncio.run(prepare(stack, probes))
    result: dict[str, Any] = {
        "bare_inserts_per_second": round(bare_inserts(stack.settings.database_url, seconds=options.seconds))
    }
    started = stack.service.start("worker", "default")
    wait_until(started.log_lines, seconds=30, what="the worker runs")
    worker = psutil.Process(started.popen.pid)
    worker.suspend()
    try:
        result["intake"] = take_in(stack, world, seconds=options.seconds)
        result["drain"] = drain(stack, worker)
    finally:
        worker.resume()
    for name, rate, seconds in (
        ("steady", options.rate, options.seconds),
        ("one_merchant", options.burst, options.burst_seconds),
    ):
        result[name] = asyncio.run(steady(stack, world, prefix=name, rate=rate, seconds=seconds))
    asyncio.run(_proven(stack))
    return result


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rate", type=int, default=500, help="webhooks a second, steadily")
    parser.add_argument("--burst", type=int, default=1000, help="webhooks a second of one merchant")
    parser.add_argument("--burst-seconds", type=int, default=60)
    with running_stack("serve") as stack:
        result = measure(stack, parser.parse_args())
    print(f"bare INSERT  {result['bare_inserts_per_second']}/s")
    for name in ("intake", "drain", "steady", "one_merchant"):
        print(f"{name:<12}", ", ".join(f"{key} {value}" for key, value in result[name].items()))
    write_result("webhooks", result)


if __name__ == "__main__":
    main()

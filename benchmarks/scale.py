"""What each call and each job costs as the business grows: the same calls on databases of several sizes, in turn.

Each size is a database of its own on one PostgreSQL, with an API process of its own; one client asks one thing at a
time, of customers, merchants and words that differ from call to call. A size is a scale of `scale_data`, or with a
colon a scale and one for the offers alone.
Usage: python -m benchmarks.scale [--scales 0.01 0.1 0.01:1] [--rounds 3] [--calls 100]
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import psutil
from alembic import command

from app import db
from app.cli import alembic_config
from app.config import Settings
from app.db import transaction
from app.embedded import embedded_servers
from app.embedded.postgres import EmbeddedPostgres
from app.models import Customer, StaffRole
from app.services.ledger.verify_slices import verify
from benchmarks.harness import write_result
from benchmarks.scale_data import Loaded, Sizes, load_business, measure_tables, show_tables
from benchmarks.scale_jobs import JOBS, Run
from benchmarks.servers import cpu_seconds, postgres_processes
from benchmarks.webhook_load import sale
from tests.conftest import make_settings
from tests.factories import customer_headers, staff_headers
from tests.service import Service

TARGET_RATIO = 1.2
_CUSTOMERS = 500
# Enough for what is hot at every size here; autovacuum would take its time in whichever call it pleases.
_POSTGRES = {"shared_buffers": "2GB", "autovacuum": "off", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}


@dataclass
class Site:
    """One size: its database, its API, and whom and what to ask for."""

    name: str
    settings: Settings
    service: Service
    loaded: Loaded
    tables: dict[str, Any]
    api: psutil.Process
    client: httpx.AsyncClient
    customers: list[tuple[dict[str, str], str]]
    staff: dict[str, str]
    proven_seconds: float
    asked: int = 0
    costs: dict[str, list["Cost"]] = field(default_factory=dict)

    def merchant(self, number: int) -> int:
        """Return one of the merchants' ids."""
        return self.loaded.merchant_id + number * 37 % self.loaded.merchants

    def customer(self, number: int) -> tuple[dict[str, str], str]:
        """Return the headers of one of the customers, and a click of theirs."""
        return self.customers[number * 61 % len(self.customers)]


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of CPU of our process and of PostgreSQL for one piece, and the milliseconds it took."""

    own_us: float
    postgres_us: float
    p50_ms: float


def _get(path: Callable[[Site, int], str], *, of: str = "") -> Callable[[Site, int], httpx.Request]:
    def request(site: Site, number: int) -> httpx.Request:
        headers = site.customer(number)[0] if of == "customer" else site.staff if of == "staff" else {}
        return site.client.build_request("GET", path(site, number), headers=headers)

    return request


def _click(site: Site, number: int) -> httpx.Request:
    headers = site.customer(number)[0]
    return site.client.build_request("POST", "/v1/clicks", json={"merchant_id": site.merchant(number)}, headers=headers)


def _webhook(site: Site, number: int) -> httpx.Request:
    headers, body = sale(f"N-{number}", site.customer(number)[1])
    return site.client.build_request("POST", f"/v1/webhooks/{site.loaded.source_key}", content=body, headers=headers)


# Bounds that keep nothing out differ from call to call, so that no finished answer is kept of a list of offers. Lists
# of merchants are mostly such answers, as they are in production.
CALLS: dict[str, Callable[[Site, int], httpx.Request]] = {
    "merchants": _get(lambda _, n: f"/v1/merchants?limit={20 + n % 3}"),
    "merchants of a category": _get(lambda _, n: f"/v1/merchants?category=bench-{n % 20}&limit={10 + n % 3}"),
    "merchant": _get(lambda site, n: f"/v1/merchants/{site.merchant(n)}"),
    "merchant's offers": _get(lambda site, n: f"/v1/merchants/{site.merchant(n)}/offers"),
    "offers, newest": _get(lambda _, n: f"/v1/offers?max_price={2_000_000 + n}"),
    "offers of a category": _get(lambda _, n: f"/v1/offers?category=bench-{n % 20}&max_price={2_000_000 + n}"),
    "offers in a price range": _get(
        lambda _, n: f"/v1/offers?min_price={50_000 + n * 97}&max_price={90_000 + n * 97}&sort=price_asc"
    ),
    "merchant's offers by price": _get(
        lambda site, n: f"/v1/offers?merchant_id={site.merchant(n)}&min_price={20_000 + n * 97}&sort=price_desc"
    ),
    "search, a common word": _get(lambda _, n: f"/v1/offers?q=perfume&max_price={2_000_000 + n}"),
    "search, several words": _get(lambda _, n: f"/v1/offers?q=golden+watch+brand{n % 40}&max_price={2_000_000 + n}"),
    "search, an unfinished word": _get(lambda _, n: f"/v1/offers?q=silk+bla&max_price={2_000_000 + n}"),
    "search, a rare word": _get(lambda _, n: f"/v1/offers?q=mk{n * 7 % 5000}&max_price={2_000_000 + n}"),
    "search, no match": _get(lambda _, n: f"/v1/offers?q=nothing{n}"),
    "wallet": _get(lambda *_: "/v1/me/wallet", of="customer"),
    "wallet entries": _get(lambda *_: "/v1/me/wallet/entries", of="customer"),
    "my orders": _get(lambda *_: "/v1/me/orders", of="customer"),
    "POST click": _click,
    "POST webhook": _webhook,
    "admin events": _get(lambda _, n: f"/v1/admin/webhook-events?limit={20 + n % 3}", of="staff"),
    "admin events of a merchant": _get(
        lambda site, n: f"/v1/admin/webhook-events?merchant_id={site.merchant(n)}&status=processed", of="staff"
    ),
    "report, a merchant, 30 days": _get(lambda site, n: f"/report?merchant_id={site.merchant(n)}", of="staff"),
    "report, all, 30 days": _get(lambda *_: "/report", of="staff"),
}
# Reads everything of its period: a few calls say enough.
_FEW = {"report, all, 30 days": 5}


async def measured(own: list[psutil.Process], work: Awaitable[tuple[int, float]]) -> Cost:
    """Do some work, which returns how many pieces it was and the seconds of one, and see what a piece cost."""
    before, postgres = cpu_time(own), cpu_time(postgres_processes())
    pieces, seconds = await work
    cpu, postgres = cpu_time(own) - before, cpu_time(postgres_processes()) - postgres
    return Cost(cpu / pieces * 1e6, postgres / pieces * 1e6, seconds * 1e3)


def cpu_time(processes: list[psutil.Process]) -> float:
    """CPU seconds of processes so far: to the nanosecond where Linux tells, else to its ticks of 10 ms."""
    total = 0.0
    for process in processes:
        try:
            threads = list(Path(f"/proc/{process.pid}/task").glob("*/schedstat"))
            total += sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
        except OSError:
            total += cpu_seconds([process])
    return total


async def ask(site: Site, make: Callable[[Site, int], httpx.Request], *, calls: int) -> tuple[int, float]:
    """Send so many requests one after the other; returns how many, and the median of seconds. Raises for a failure."""
    taken = []
    for _ in range(calls):
        site.asked += 1
        request = make(site, site.asked)
        started = time.perf_counter()
        answer = await site.client.send(request)
        taken.append(time.perf_counter() - started)
        if not answer.is_success:
            raise RuntimeError(f"{site.name}: {request.url} was answered {answer.status_code}: {answer.text[:300]}")
    return calls, statistics.median(taken)


async def measure_calls(sites: list[Site], *, rounds: int, calls: int) -> None:
    """Measure each call at each size, the sizes in turn."""
    for name, make in CALLS.items():
        count = min(calls, _FEW.get(name, calls))
        for site in sites:  # plans and caches
            await ask(site, make, calls=2 + count // 5)
        for number in range(rounds):
            for site in sites if number % 2 else sites[::-1]:
                cost = await measured([site.api], ask(site, make, calls=count))
                site.costs.setdefault(name, []).append(cost)
        _show_row(name, sites)


async def measure_jobs(sites: list[Site], *, rounds: int) -> None:
    """Measure each job in this process, at each size in turn."""
    for name, job in JOBS.items():
        for number in range(rounds):
            for site in sites if number % 2 else sites[::-1]:
                await db.open_database(site.settings, application_name="bench", pool_size=4, max_overflow=0)
                try:
                    cost = await measured([psutil.Process()], work(await job(site.settings, site.loaded)))
                finally:
                    await db.close_database()
                site.costs.setdefault(name, []).append(cost)
        _show_row(name, sites)


async def work(run: Run) -> tuple[int, float]:
    """Run a job; returns how many pieces it did, and the seconds of one. Raises when it found nothing to do."""
    started = time.perf_counter()
    if not (pieces := await run()):
        raise RuntimeError("a job found nothing to do")
    return pieces, (time.perf_counter() - started) / pieces


def summary(costs: list[Cost]) -> dict[str, float]:
    """Medians over the rounds."""
    own = statistics.median(cost.own_us for cost in costs)
    postgres = statistics.median(cost.postgres_us for cost in costs)
    return {
        "own_us": round(own),
        "postgres_us": round(postgres),
        "cpu_us": round(statistics.median(cost.own_us + cost.postgres_us for cost in costs)),
        "p50_ms": round(statistics.median(cost.p50_ms for cost in costs), 2),
    }


def ratios(name: str, sites: list[Site]) -> list[float]:
    """Return the CPU of each size beside that of the first."""
    cpu = [summary(site.costs[name])["cpu_us"] for site in sites]
    return [round(one / cpu[0], 2) for one in cpu]


def _show_row(name: str, sites: list[Site]) -> None:
    cells = []
    for site, ratio in zip(sites, ratios(name, sites), strict=True):
        cost = summary(site.costs[name])
        cells.append(f"{cost['own_us']:>7.0f} + {cost['postgres_us']:<8.0f}us {cost['p50_ms']:>8.2f} ms x{ratio:<6.2f}")
    missed = "" if max(ratios(name, sites)) <= TARGET_RATIO else f"over {TARGET_RATIO}"
    print(f"{name:<32}{'  '.join(cells)} {missed}", flush=True)


@asynccontextmanager
async def site_of(size: str, folder: Path, base: str, redis_url: str) -> AsyncIterator[Site]:
    """Make a database of a size, prove its ledger, and start an API on it."""
    scale, _, offers_scale = size.partition(":")
    name = f"scale_{size.replace('.', '_').replace(':', '_')}"
    connection = await asyncpg.connect(base)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    database_url = f"{base.rsplit('/', 1)[0]}/{name}"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(command.upgrade, alembic_config(database_url), "head").result()
    settings = make_settings(database_url=database_url, redis_url=redis_url)
    await db.open_database(settings, application_name="bench", pool_size=2, max_overflow=0)
    try:
        sizes = Sizes.at(float(scale), offers_scale=float(offers_scale) if offers_scale else None)
        loaded = await load_business(settings, sizes)
        started = time.perf_counter()
        async with transaction() as session:
            async for checked in verify(session):
                if checked.violations:
                    raise RuntimeError(f"the ledger does not hold: {checked.violations[:3]}")
        proven = time.perf_counter() - started
        async with transaction() as session:
            staff = await staff_headers(session, StaffRole.ADMIN)
    finally:
        await db.close_database()
    tables = await measure_tables(database_url)
    print(f"\n{size}: loaded in {loaded.seconds} s, ledger proven in {proven:.1f} s", flush=True)
    show_tables(tables)
    with Service(folder, database_url=database_url, redis_url=redis_url) as service:
        process = service.start_api()
        async with httpx.AsyncClient(base_url=service.url, timeout=60, trust_env=False) as client:
            api = psutil.Process(process.popen.pid)
            customers = await find_customers(settings)
            yield Site(size, settings, service, loaded, tables, api, client, customers, staff, round(proven, 1))


async def find_customers(settings: Settings) -> list[tuple[dict[str, str], str]]:
    """Return headers of some customers, and the id of a click of each that made no order."""
    connection = await asyncpg.connect(settings.database_url)
    try:
        rows = await connection.fetch(
            "SELECT DISTINCT ON (customer_id) customer_id, id FROM (SELECT customer_id, id FROM clicks c WHERE NOT"
            " EXISTS (SELECT FROM orders WHERE click_id = c.id) ORDER BY id DESC LIMIT $1) recent",
            5 * _CUSTOMERS,
        )
    finally:
        await connection.close()
    return [
        (customer_headers(settings, Customer(id=UUID(str(row["customer_id"])))), str(row["id"]))
        for row in rows[:_CUSTOMERS]
    ]


async def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Load all sizes, measure all calls and jobs; returns the result."""
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(folder, durable=True, settings=_POSTGRES)
        stack.callback(postgres.stop)
        base = postgres.start()
        servers = stack.enter_context(embedded_servers(folder, durable=True, database_url=base))
        sites = []
        for number, size in enumerate(arguments.scales):
            place = folder / f"site-{number}"
            place.mkdir()
            redis_url = f"{servers.redis_url.rsplit('/', 1)[0]}/{number}"
            sites.append(await stack.enter_async_context(site_of(size, place, base, redis_url)))
        print(f"\nCPU of our process + PostgreSQL for one, and its median time, at {', '.join(arguments.scales)}:")
        await measure_calls(sites, rounds=arguments.rounds, calls=arguments.calls)
        await measure_jobs(sites, rounds=arguments.rounds)
        return {
            "postgres": _POSTGRES,
            "target_ratio": TARGET_RATIO,
            "sizes": [
                {
                    "scale": site.name,
                    "loaded_seconds": site.loaded.seconds,
                    "proven_seconds": site.proven_seconds,
                    "tables": site.tables,
                }
                for site in sites
            ],
            "costs": {
                name: {
                    "ratios": ratios(name, sites),
                    "met": max(ratios(name, sites)) <= TARGET_RATIO,
                    **{site.name: summary(site.costs[name]) for site in sites},
                }
                for name in sites[0].costs
            },
        }


def main() -> None:
    """Measure, print and keep the result."""
    parser = argparse.ArgumentParser(description="What calls and jobs cost as the business grows.")
    default = os.environ.get("SCALE", "0.01").split()
    parser.add_argument("--scales", nargs="+", default=default, help="sizes, the first is what others are beside")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=100, help="calls of each kind a round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cashback-scale-") as folder:
        result = asyncio.run(measure(Path(folder), arguments))
    missed = [name for name, cost in result["costs"].items() if not cost["met"]]
    print(f"over {TARGET_RATIO} times the cost at the first size: {', '.join(missed) or 'none'}")
    print(f"kept in benchmarks/results/{write_result('scale', result).name}")


if __name__ == "__main__":
    main()

"""Soak: a mix of traffic for minutes or hours, with a fault every minute; memory, errors and the books at its end.

The API is asked for the catalogue, wallets and the report while reports of sales come in, each sent again until it is
taken. It fails when a sale is lost or doubled, a rule of the ledger is broken, or memory keeps growing.
Usage: SOAK_MINUTES=60 make bench ONLY=soak, or python -m benchmarks.soak [--minutes 2] [--rate 20] [--every 60]
"""

import argparse
import asyncio
import itertools
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from alembic import command

from app import db
from app.cli import alembic_config
from app.config import Settings
from app.db import transaction
from app.doorbell import create_arq_pool
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.models import StaffRole
from benchmarks.harness import write_result
from tests.conftest import make_settings
from tests.factories import customer_headers, staff_headers
from tests.faults.traffic import Books, Traffic, books, until_processed
from tests.service import Process, Service, frozen
from tests.webhooks.world import make_world

SAMPLE_SECONDS = 5
_LONGEST_SECONDS = 30 * 86_400
# Of a process that has warmed up; beyond it, memory is said to grow.
MOST_GROWTH = 1.3


@dataclass
class Rig:
    """All that runs, and what can be done to it."""

    service: Service
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    settings: Settings
    api: Process
    worker: Process
    client: httpx.AsyncClient
    answers: Counter[str] = field(default_factory=Counter)
    # By process id: resident megabytes over time.
    memory: dict[int, list[float]] = field(default_factory=dict)

    async def stop_redis(self) -> None:
        """Redis is away for five seconds."""
        await asyncio.to_thread(self.redis.stop)
        await asyncio.sleep(5)
        await asyncio.to_thread(self.redis.start)

    async def freeze_redis(self) -> None:
        """Redis does not answer for five seconds."""
        assert self.redis.pid is not None
        with frozen(self.redis.pid):
            await asyncio.sleep(5)

    async def empty_redis(self) -> None:
        """Every ring is forgotten."""
        pool = create_arq_pool(self.settings.redis_url)
        await pool.flushall()
        await pool.aclose()

    async def restart_postgres(self) -> None:
        """PostgreSQL is stopped and started."""
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.to_thread(self.postgres.start)

    async def freeze_postgres(self) -> None:
        """PostgreSQL does not answer for five seconds."""
        postmaster = psutil.Process(self.postgres.pid)
        processes = [postmaster, *postmaster.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        await asyncio.sleep(5)
        for process in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                process.resume()

    async def kill_worker(self) -> None:
        """The worker dies, and another comes."""
        await asyncio.to_thread(self.worker.kill)
        self.worker = self.service.start("worker", "default")

    async def replace_api(self) -> None:
        """The API is told to stop, and another comes."""
        self.api.signal(signal.SIGTERM)
        await asyncio.to_thread(self.api.popen.wait, 30)
        self.api = await asyncio.to_thread(self.service.start_api)

    def faults(self) -> list[Callable[[], Awaitable[None]]]:
        """Return what is done to it, in turn."""
        return [
            *(self.kill_worker, self.stop_redis, self.restart_postgres, self.empty_redis),
            *(self.freeze_postgres, self.freeze_redis, self.replace_api),
        ]

    async def sample_memory(self) -> None:
        """Note the resident memory of the API and the worker, again and again."""
        while True:
            for process in (self.api, self.worker):
                with suppress(psutil.NoSuchProcess):
                    resident = psutil.Process(process.popen.pid).memory_info().rss
                    self.memory.setdefault(process.popen.pid, []).append(resident / 1024**2)
            await asyncio.sleep(SAMPLE_SECONDS)

    async def read(self, headers: dict[str, dict[str, str]]) -> None:
        """Read what customers, shoppers and staff read, again and again."""
        for path in itertools.cycle(
            ["/v1/merchants", "/v1/offers?limit=20", "/v1/me/wallet", "/v1/me/orders", "/report"]
        ):
            try:
                answer = await self.client.get(path, headers=headers.get(path))
                assert not 400 <= answer.status_code < 500, f"{path}: {answer.text}"
                self.answers[f"{answer.status_code}"] += 1
            except httpx.HTTPError as error:
                self.answers[type(error).__name__] += 1
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.05)

    def growth(self) -> float:
        """Return how much the longest-lived process has grown since it had warmed up."""
        samples = max(self.memory.values(), key=len)
        warm = samples[len(samples) // 3]
        return round(samples[-1] / warm, 2)


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    """Start it all."""
    with tempfile.TemporaryDirectory(prefix="cashback-soak-") as name:
        folder = Path(name)
        postgres, redis = EmbeddedPostgres(folder / "postgres"), EmbeddedRedis(folder / "redis")
        try:
            settings = make_settings(
                database_url=postgres.start(), redis_url=redis.start(), access_token_seconds=_LONGEST_SECONDS
            )
            with ThreadPoolExecutor(1) as pool:
                pool.submit(command.upgrade, alembic_config(settings.database_url), "head").result()
            await db.open_database(settings, application_name="soak", pool_size=4, max_overflow=4)
            with Service(folder, database_url=settings.database_url, redis_url=settings.redis_url) as service:
                service.environment["SWEEP_INTERVAL_SECONDS"] = "5"
                api = await asyncio.to_thread(service.start_api)
                worker = service.start("worker", "default")
                async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                    yield Rig(service, postgres, redis, settings, api, worker, client)
        finally:
            await db.close_database()
            redis.stop()
            postgres.stop()


async def soak(*, minutes: float, rate: float, every: float) -> dict[str, Any]:
    """Run it; returns what came of it."""
    async with running() as rig:
        world = await make_world(rig.settings, rig.client)
        async with transaction() as session:
            staff = await staff_headers(session, StaffRole.VIEWER)
        customer = customer_headers(rig.settings, world.customer)
        headers = {"/v1/me/wallet": customer, "/v1/me/orders": customer, "/report": staff}
        traffic, done = Traffic(world, rate=rate, name="soak"), Counter[str]()
        beside = [asyncio.create_task(rig.sample_memory()), asyncio.create_task(rig.read(headers))]
        ends = time.monotonic() + minutes * 60
        async with traffic.flowing():
            for fault in itertools.cycle(rig.faults()):
                await asyncio.sleep(max(0.0, min(every, ends - time.monotonic() - every / 2)))
                if time.monotonic() + every / 2 >= ends:
                    break
                print(f"{max(0, ends - time.monotonic()):5.0f} s left: {fault.__name__}", flush=True)
                await fault()
                done[fault.__name__] += 1
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
        for task in beside:
            task.cancel()
        ended = await asyncio.gather(*beside, return_exceptions=True)
        if wrong := [error for error in ended if isinstance(error, Exception)]:
            raise wrong[0]
        drained = await until_processed(traffic.sent, seconds=300)
        found = await books(traffic.sent)
        return {
            "minutes": minutes,
            "webhooks": traffic.sent,
            "lost": found.lost,
            "doubled": found.doubled,
            "broken_rules": 0,  # `books` raises when there is one
            "faults": dict(done),
            "attempts_that_failed": dict(Counter(what for _, what in traffic.errors)),
            "slowest_webhook_seconds": round(traffic.slowest_seconds, 1),
            "reads": dict(rig.answers),
            "drained_seconds": round(drained, 1),
            "memory_growth": rig.growth(),
            "memory_mb": {"most": round(max(map(max, rig.memory.values())))},
        }


def main() -> int:
    """Soak, print and keep the result; 1 when something was lost, doubled or grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "2")))
    parser.add_argument("--rate", type=float, default=20, help="webhooks a second")
    parser.add_argument("--every", type=float, default=60, help="seconds between faults")
    options = parser.parse_args()
    result = asyncio.run(soak(minutes=options.minutes, rate=options.rate, every=options.every))
    for name, value in result.items():
        print(f"{name:<24} {value}")
    write_result("soak", result)
    is_sound = Books(result["lost"], result["doubled"]) == Books(0, 0) and result["memory_growth"] <= MOST_GROWTH
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())

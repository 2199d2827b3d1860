"""Servers that others replace: a standby that is promoted, a replica that is read, a Redis that Sentinels choose."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.config import Settings
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.models import SyncStatus
from tests.faults.report import Note
from tests.faults.servers import Replica, make_standby, pgbouncer, sentinels
from tests.faults.test_sync_worker import COUNT, staged
from tests.faults.traffic import Books, Traffic, books, scaled, until_processed
from tests.service import Service, frozen
from tests.webhooks.world import make_world

pytestmark = pytest.mark.fault

RATE = scaled(40, 300)


@pytest.fixture
def standby(postgres: EmbeddedPostgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    server = make_standby(postgres, folder / "standby")
    yield server
    server.stop()


def both(*servers: EmbeddedPostgres) -> str:
    """The URL of a primary and its standbys."""
    credentials = servers[0].url.partition("@")[0]
    hosts = ",".join(f"127.0.0.1:{server._port}" for server in servers)
    return f"{credentials}@{hosts}/cashback"


async def test_a_standby_that_is_promoted_takes_over_in_seconds(
    service: Service,
    postgres: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    settings_of_service: Settings,
    note: Note,
) -> None:
    service.environment |= {"DATABASE_URL": both(postgres, standby), "SWEEP_INTERVAL_SECONDS": "1"}
    await asyncio.to_thread(service.start_api)
    service.start("worker", "default")
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        traffic = Traffic(await make_world(settings_of_service, client), rate=RATE)
        await traffic.send_many(1)
        connection = await asyncpg.connect(standby.superuser_url)
        async with traffic.flowing():
            await asyncio.sleep(1)
            # A clean stop ends only once the standby has all.
            await asyncio.to_thread(postgres.stop)
            assert await connection.fetchval("SELECT pg_promote()")
            promoted = time.monotonic()
            await asyncio.sleep(scaled(5, 20))
        await connection.close()
    recovered = traffic.recovered(promoted)
    # What the books hold is now on the standby, which this process's own sessions do not know of.
    moved = await asyncpg.connect(standby.url)
    try:
        async with asyncio.timeout(60):
            while await moved.fetchval("SELECT count(*) FROM webhook_events WHERE status = 'processed'") < traffic.sent:
                await asyncio.sleep(0.1)
        orders = await moved.fetchval("SELECT count(*) FROM orders")
        credited = await moved.fetchval("SELECT count(*) FROM transfers")
    finally:
        await moved.close()
    note(
        13,
        "primary fails over to a standby",
        f"{RATE} webhooks/s",
        lost=traffic.sent - min(orders, credited),
        doubled=max(orders, credited) - traffic.sent,
        errors=len(traffic.errors),
        recovered=recovered,
    )
    assert (orders, credited) == (traffic.sent, traffic.sent)
    assert recovered < 15
    assert all(process.popen.poll() is None for process in service.processes)


async def test_reads_that_tolerate_lag_leave_a_replica_that_is_stale_or_away(
    service: Service,
    postgres: EmbeddedPostgres,
    standby: EmbeddedPostgres,
    settings_of_service: Settings,
    note: Note,
) -> None:
    service.environment |= {"DATABASE_REPLICA_URL": standby.url, "DATABASE_REPLICA_MAX_LAG_SECONDS": "1"}
    await asyncio.to_thread(service.start_api)
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        world = await make_world(settings_of_service, client)
        limits = itertools.cycle(range(1, 101))

        async def server_read() -> str:
            """Which server a read of the catalogue went to: one that was not asked before, so that none is kept."""
            before = await counts()
            assert (await client.get("/v1/offers", params={"limit": next(limits)})).status_code == 200
            names = {name for name, count in (await counts()).items() if count > before.get(name, 0)}
            return "replica" if names == {"replica"} else "primary"

        async def counts() -> dict[str, float]:
            lines = (await client.get("/metrics")).text.splitlines()
            reads = [line for line in lines if line.startswith("db_reads_total{")]
            return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in reads}

        async def until_read(name: str) -> float:
            began = time.monotonic()
            async with asyncio.timeout(20):
                while await server_read() != name:
                    await asyncio.sleep(0.1)
            return time.monotonic() - began

        await until_read("replica")
        replaying = await asyncpg.connect(standby.superuser_url)
        await replaying.execute("SELECT pg_wal_replay_pause()")
        await Traffic(world, rate=0).send_many(5)
        stale = await until_read("primary")
        await replaying.execute("SELECT pg_wal_replay_resume()")
        await replaying.close()
        await until_read("replica")
        await asyncio.to_thread(standby.stop)
        # Nobody notices: each read asks the primary when the replica's connection cannot be had.
        assert [await server_read() for _ in range(20)] == ["primary"] * 20
        await asyncio.to_thread(standby.start)
        recovered = await until_read("replica")
        note("replica", "replica stale, then away", "catalogue reads", recovered=recovered)
        assert stale < 10
        # The catalogue outlives the primary.
        await asyncio.to_thread(postgres.stop)
        assert await server_read() == "replica"


async def test_behind_a_pgbouncer_in_transaction_mode_nothing_fails(
    service: Service, postgres: EmbeddedPostgres, folder: Path, settings_of_service: Settings, note: Note
) -> None:
    with pgbouncer(postgres, folder / "pgbouncer", pool_size=3) as url:
        service.environment |= {
            "DATABASE_URL": url,
            "DB_TRANSACTION_POOLING": "true",
            "SWEEP_INTERVAL_SECONDS": "1",
        }
        await asyncio.to_thread(service.start_api)
        for name in ("default", "sync"):
            service.start("worker", name)
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            traffic = Traffic(await make_world(settings_of_service, client), rate=RATE)
            paths = ("/v1/merchants", "/v1/offers", "/v1/categories", "/readyz") * scaled(40, 1_000)
            async with traffic.flowing():
                reads = [(await client.get(path)).status_code for path in paths]
        await until_processed(traffic.sent, seconds=60)
        # The schedule has run each of its tasks by then, the proofs of the ledger among them.
        await asyncio.sleep(2)
        found = await books(traffic.sent)
        async with staged(postgres) as stage:
            stage.answers = 1  # the first would never end
            run_id = await stage.queue()
            async with asyncio.timeout(60):
                while (run := await stage.run(run_id)).finished_at is None:
                    await asyncio.sleep(0.1)
        logs = "".join(process.log.read_text() for process in service.processes)
    note(
        15,
        "PgBouncer, transaction mode",
        f"{RATE} webhooks/s, {len(reads)} reads, 3 server connections",
        lost=found.lost,
        doubled=found.doubled,
        errors=len(traffic.errors) + sum(status != 200 for status in reads),
    )
    assert (found, traffic.errors, set(reads)) == (Books(0, 0), [], {200})
    assert (run.status, run.created) == (SyncStatus.SUCCEEDED, COUNT)
    assert "prepared statement" not in logs
    assert '"level": "ERROR"' not in logs


async def test_the_doorbell_follows_the_master_that_sentinels_choose(
    service: Service, redis: EmbeddedRedis, folder: Path, settings_of_service: Settings, note: Note
) -> None:
    replica = Replica(folder / "replica", redis)
    replica.start()
    try:
        with sentinels(redis, folder / "sentinels") as url:
            # So long that only a ring explains what is done sooner.
            service.environment |= {"REDIS_URL": url, "SWEEP_INTERVAL_SECONDS": "30"}
            await asyncio.to_thread(service.start_api)
            worker = service.start("worker", "default")
            async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
                traffic = Traffic(await make_world(settings_of_service, client), rate=RATE)
                await traffic.send_many(1)
                await until_processed(1, seconds=60)
                async with traffic.flowing():
                    assert redis.pid is not None
                    with frozen(redis.pid):
                        failed = time.monotonic()
                        async with asyncio.timeout(30):
                            while (await client.get("/readyz")).status_code != 200 or time.monotonic() - failed < 3:
                                await asyncio.sleep(0.2)
                        back = time.monotonic()
                        # The one that comes back is a replica now, which takes no ring.
                    await asyncio.sleep(1)
                recovered = await until_processed(traffic.sent, seconds=60)
                late = Traffic(traffic.world, rate=0, name="late")
                await late.send_many(1)
                ring = await until_processed(traffic.sent + 1, seconds=60)
            found = await books(traffic.sent + 1)
            note(
                "sentinel",
                f"Redis fails over, {back - failed:.1f} s without a master",
                f"{RATE} webhooks/s",
                lost=found.lost,
                doubled=found.doubled,
                errors=len(traffic.errors),
                recovered=recovered,
            )
            assert (found, traffic.errors) == (Books(0, 0), [])
            assert ring < 5
            assert worker.popen.poll() is None
    finally:
        replica.stop()

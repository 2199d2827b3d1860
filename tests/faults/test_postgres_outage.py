"""PostgreSQL that refuses a commit, restarts, freezes or holds a lock: never a wrong yes, and soon well again."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import httpx
import psutil
import pytest
from sqlalchemy import text

from app.cli import ROOT
from app.config import Settings
from app.db import transaction
from app.embedded import EmbeddedPostgres
from app.schema_version import known_revisions
from tests.faults.report import Note
from tests.faults.traffic import Books, Traffic, books, scaled, until_processed
from tests.service import Service
from tests.webhooks.world import World, make_world

pytestmark = pytest.mark.fault

RATE = scaled(60, 300)


@pytest.fixture
async def world(service: Service, settings_of_service: Settings) -> AsyncIterator[World]:
    """An API and a worker that run, and a merchant that can report."""
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    await asyncio.to_thread(service.start_api)
    service.start("worker", "default")
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=service.url, timeout=20, limits=limits) as client:
        made = await make_world(settings_of_service, client)
        await Traffic(made, rate=0, name="first").send_many(1)
        yield made


@asynccontextmanager
async def frozen_postgres(server: EmbeddedPostgres) -> AsyncIterator[None]:
    """Stop the clocks of all of its processes."""
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(processes):
            os.kill(process.pid, signal.SIGCONT)


async def test_a_commit_that_fails_is_no_success(world: World, note: Note) -> None:
    async with transaction() as session:
        for statement in (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$",
            """CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON customers DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION refuse()""",
        ):
            await session.execute(text(statement))
    answer = await world.client.post("/v1/customers", json={"email": "a@example.com", "password": "x" * 12})
    assert answer.status_code == 500
    async with transaction() as session:
        assert await session.scalar(text("SELECT count(*) FROM customers WHERE email = 'a@example.com'")) == 0
    note(1, "COMMIT fails", "1 registration")


async def test_a_restart_under_load_costs_seconds_and_no_money(
    world: World, postgres: EmbeddedPostgres, note: Note
) -> None:
    traffic = Traffic(world, rate=RATE)
    async with traffic.flowing():
        await asyncio.sleep(1)
        stopped = time.monotonic()
        await asyncio.to_thread(postgres.stop)
        await asyncio.to_thread(postgres.start)
        back = time.monotonic()
        await asyncio.sleep(scaled(3, 15))
    recovered = traffic.recovered(back)
    await until_processed(traffic.sent + 1, seconds=60)
    found = await books(traffic.sent + 1)
    note(
        11,
        f"PostgreSQL restarted, {back - stopped:.1f} s away",
        f"{RATE} webhooks/s",
        lost=found.lost,
        doubled=found.doubled,
        errors=len(traffic.errors),
        recovered=recovered,
    )
    assert found == Books(0, 0)
    assert recovered < 5


async def test_a_freeze_is_answered_at_once_and_restarts_nothing(
    world: World, service: Service, postgres: EmbeddedPostgres, note: Note
) -> None:
    seconds = scaled(6, 20)
    traffic = Traffic(world, rate=20)
    alive = []
    async with traffic.flowing(), httpx.AsyncClient(base_url=service.url, timeout=5) as probe:
        await asyncio.sleep(1)
        async with frozen_postgres(postgres):
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                began = time.monotonic()
                alive.append((await probe.get("/livez")).status_code)
                assert time.monotonic() - began < 2
                await asyncio.sleep(0.2)
        back = time.monotonic()
        await asyncio.sleep(3)
    recovered = traffic.recovered(back)
    await until_processed(traffic.sent + 1, seconds=60)
    found = await books(traffic.sent + 1)
    note(
        12,
        f"PostgreSQL frozen {seconds} s",
        f"{traffic.rate:.0f} webhooks/s, slowest {traffic.slowest_seconds:.1f} s",
        lost=found.lost,
        doubled=found.doubled,
        errors=len(traffic.errors),
        recovered=recovered,
    )
    assert set(alive) == {200}
    assert found == Books(0, 0)
    assert {what for _, what in traffic.errors} == {"503"}
    # Three, and what a busy machine adds.
    assert traffic.slowest_seconds < 6
    assert recovered < 5
    assert all(process.popen.poll() is None for process in service.processes)


async def test_a_migration_behind_a_lock_gives_up_while_the_api_serves(
    world: World, postgres: EmbeddedPostgres, note: Note
) -> None:
    async with transaction() as session:
        tables = ", ".join(await session.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
    holder = await asyncpg.connect(postgres.url)
    try:
        held = holder.transaction()
        await held.start()
        # As a long report would: everybody else may read and write, and no table may be changed.
        await holder.execute(f"LOCK TABLE {tables} IN ACCESS SHARE MODE")
        traffic = Traffic(world, rate=20, name="locked")
        async with traffic.flowing():
            # The way back, since the newest schema is what the API needs.
            migration = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "alembic", "downgrade", "-1"),
                cwd=ROOT,
                env=os.environ | {"DATABASE_URL": postgres.url},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said, _ = await asyncio.wait_for(migration.communicate(), 60)
        await held.rollback()
        waited = await holder.fetchval("SELECT version_num FROM alembic_version")
    finally:
        await holder.close()
    assert migration.returncode == 1
    assert b"canceling statement due to lock timeout" in said
    assert waited == known_revisions()[0]
    await until_processed(traffic.sent + 1, seconds=60)
    found = await books(traffic.sent + 1)
    note(
        43,
        "migration behind a lock",
        f"{traffic.rate:.0f} webhooks/s, slowest {traffic.slowest_seconds:.1f} s",
        lost=found.lost,
        doubled=found.doubled,
        errors=len(traffic.errors),
    )
    assert (found, traffic.errors) == (Books(0, 0), [])
    # Whoever came behind it waited for as long as it did: LOCK_TIMEOUT of migrations/env.py.
    assert traffic.slowest_seconds < 6

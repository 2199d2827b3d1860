"""The doorbell: one job for many rings, and no request that ever waits for Redis."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import pytest
from arq.connections import ArqRedis
from arq.jobs import JobDef
from sqlalchemy import func, select

from app import db, metrics
from app.config import Settings
from app.db import Ring, ring_after_commit
from app.dependencies import SessionDep
from app.doorbell import DEFAULT_QUEUE, SYNC_QUEUE, Doorbell, create_arq_pool, deserialize, serialize
from app.embedded import EmbeddedRedis
from app.main import create_app
from app.models import StaffKey, StaffRole
from app.services import staff
from tests.logs import captured_logs, lines_of

LOOK = Ring("look")


@pytest.fixture
def redis() -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, to be stopped and frozen."""
    # Not tmp_path: other runs change the modes of its parents.
    with tempfile.TemporaryDirectory(prefix="cashback-doorbell-") as folder:
        server = EmbeddedRedis(Path(folder), durable=False)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
async def pool(redis: EmbeddedRedis) -> AsyncIterator[ArqRedis]:
    pool = create_arq_pool(redis.url)
    yield pool
    await pool.aclose()


@pytest.fixture
async def doorbell(pool: ArqRedis) -> AsyncIterator[Doorbell]:
    doorbell = Doorbell(pool)
    doorbell.start()
    yield doorbell
    await doorbell.stop()


def freeze(redis: EmbeddedRedis) -> None:
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGSTOP)


def thaw(redis: EmbeddedRedis) -> None:
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGCONT)


def counted(task: str, outcome: str) -> float:
    value: float = metrics.RINGS.labels(task, outcome)._value.get()
    return value


async def jobs(pool: ArqRedis, queue: str = DEFAULT_QUEUE) -> list[tuple[str, tuple[str, ...]]]:
    found: list[JobDef] = await pool.queued_jobs(queue_name=queue)
    return sorted((job.function, tuple(job.args)) for job in found)


async def until_counted(task: str, outcome: str, value: float) -> None:
    async with asyncio.timeout(10):
        while counted(task, outcome) < value:
            await asyncio.sleep(0.005)


def test_jobs_travel_as_json() -> None:
    job: dict[str, Any] = {"t": None, "f": "look", "a": ("1", "é"), "k": {}, "et": 1}
    assert deserialize(serialize(job)) == {**job, "a": ["1", "é"]}
    assert serialize(job).startswith(b"{")


async def test_each_task_goes_to_its_queue_with_its_ids(pool: ArqRedis, doorbell: Doorbell) -> None:
    doorbell.ring([Ring("look", ("a",)), Ring("look", ("b",)), Ring("sync_merchant", ("7",))])
    await doorbell.stop()
    assert await jobs(pool) == [("look", ("a",)), ("look", ("b",))]
    assert await jobs(pool, SYNC_QUEUE) == [("sync_merchant", ("7",))]


async def test_many_equal_rings_are_one_job(pool: ArqRedis, doorbell: Doorbell) -> None:
    before = counted("look", "delivered")
    for _ in range(500):
        doorbell.ring([LOOK])
    await doorbell.stop()
    assert await jobs(pool) == [("look", ())]
    assert counted("look", "delivered") == before + 1


async def test_rings_over_time_are_far_fewer_jobs(pool: ArqRedis, doorbell: Doorbell) -> None:
    before = counted("look", "delivered")
    began = perf_counter()
    while perf_counter() - began < 0.3:
        doorbell.ring([LOOK])
        await asyncio.sleep(0)
    await doorbell.stop()
    assert 2 <= counted("look", "delivered") - before <= 20


async def test_ring_after_a_delivery_is_a_job_of_its_own(pool: ArqRedis, doorbell: Doorbell) -> None:
    before = counted("look", "delivered")
    for number in (1, 2):
        doorbell.ring([LOOK])
        await until_counted("look", "delivered", before + number)
    assert len(await jobs(pool)) == 2


async def test_stop_delivers_what_waits_even_when_a_delivery_is_under_way(
    redis: EmbeddedRedis, pool: ArqRedis, doorbell: Doorbell
) -> None:
    await pool.ping()
    freeze(redis)
    doorbell.ring([Ring("look", (str(number),)) for number in range(20)])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stopping = asyncio.create_task(doorbell.stop())
    await asyncio.sleep(0)
    thaw(redis)
    await stopping
    assert len(await jobs(pool)) == 20


async def test_stopping_twice_or_unstarted_does_nothing(pool: ArqRedis) -> None:
    doorbell = Doorbell(pool)
    await doorbell.stop()
    doorbell.start()
    await doorbell.stop()
    await doorbell.stop()


async def test_stopped_redis_delays_nobody_is_logged_and_recovers(
    redis: EmbeddedRedis, pool: ArqRedis, doorbell: Doorbell
) -> None:
    redis.stop()
    failed, delivered = counted("look", "failed"), counted("look", "delivered")
    with captured_logs("INFO") as output:
        began = perf_counter()
        doorbell.ring([LOOK])
        assert perf_counter() - began < 0.1
        await until_counted("look", "failed", failed + 1)
    [line] = [line for line in lines_of(output) if line["logger"] == "app.doorbell"]
    assert line["level"] == "WARNING"
    assert line["message"] == "doorbell not answered; the sweep will find the work"
    assert (line["rings"], line["task"]) == (1, "look")
    assert redis.password not in output.getvalue()
    redis.start()
    doorbell.ring([LOOK])
    await until_counted("look", "delivered", delivered + 1)
    assert await jobs(pool) == [("look", ())]


async def test_many_rings_wait_for_a_frozen_redis_only_once(
    redis: EmbeddedRedis, pool: ArqRedis, doorbell: Doorbell
) -> None:
    await pool.ping()
    freeze(redis)
    try:
        failed = counted("look", "failed")
        doorbell.ring([Ring("look", (str(number),)) for number in range(50)])
        async with asyncio.timeout(5):
            await until_counted("look", "failed", failed + 50)
            await doorbell.stop()
    finally:
        thaw(redis)


@pytest.mark.parametrize("fault", ["stopped", "frozen"])
async def test_request_is_answered_at_once_without_redis(
    committed_db: Settings, redis: EmbeddedRedis, fault: str
) -> None:
    app = create_app(committed_db)

    @app.post("/write", status_code=201)
    async def write(session: SessionDep) -> str:
        await staff.create_key(session, name="x", role=StaffRole.VIEWER)
        ring_after_commit(session, "look")
        return "written"

    pool = create_arq_pool(redis.url)
    doorbell = Doorbell(pool)
    doorbell.start()
    db.set_bell(doorbell.ring)
    transport = httpx.ASGITransport(app)
    try:
        await pool.ping()
        if fault == "stopped":
            redis.stop()
        else:
            freeze(redis)
        failed = counted("look", "failed")
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.get("/livez")
            times = []
            for _ in range(20):
                began = perf_counter()
                assert (await client.post("/write")).status_code == 201
                times.append(perf_counter() - began)
        assert max(times) < 0.45  # less than one attempt to reach Redis takes
        await until_counted("look", "failed", failed + 1)
        async with db.transaction() as session:
            assert (await session.execute(select(func.count()).select_from(StaffKey))).scalar_one() == 20
    finally:
        db.set_bell(None)
        if fault == "frozen":
            thaw(redis)
        await doorbell.stop()
        with suppress(OSError):
            await pool.aclose()

"""Redis is only a doorbell: stopped, frozen or emptied, nothing is lost or doubled, and nobody waits for it."""

import asyncio
import time

import httpx
import pytest
from arq.connections import ArqRedis

from app.config import Settings
from app.doorbell import DEFAULT_QUEUE, create_arq_pool
from app.embedded import EmbeddedRedis
from app.services.monitoring import measure_queues
from tests.faults.report import Note
from tests.faults.traffic import Books, Traffic, books, scaled, until_processed
from tests.service import Service, frozen
from tests.webhooks.world import make_world

pytestmark = pytest.mark.fault

RATE = scaled(60, 500)


async def test_webhooks_while_redis_is_stopped_or_frozen_are_taken_and_processed_once(
    service: Service, redis: EmbeddedRedis, settings_of_service: Settings, note: Note
) -> None:
    service.environment["SWEEP_INTERVAL_SECONDS"] = "2"
    service.start_api()
    worker = service.start("worker", "default")
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        world = await make_world(settings_of_service, client)
        expected = 0
        for row, name, seconds in ((2, "stopped", scaled(3, 30)), (3, "frozen", scaled(4, 15))):
            traffic = Traffic(world, rate=RATE, name=name)
            await traffic.send_until_taken(0)
            traffic.sent, traffic.slowest_seconds = 1, 0.0
            async with traffic.flowing():
                if name == "stopped":
                    await asyncio.to_thread(redis.stop)
                    await asyncio.sleep(seconds)
                    await asyncio.to_thread(redis.start)
                else:
                    assert redis.pid is not None
                    with frozen(redis.pid):
                        await asyncio.sleep(seconds)
            expected += traffic.sent
            recovered = await until_processed(expected, seconds=60)
            found = await books(expected)
            note(
                row,
                f"Redis {name} {seconds} s",
                f"{RATE} webhooks/s, slowest {traffic.slowest_seconds * 1000:.0f} ms",
                lost=found.lost,
                doubled=found.doubled,
                errors=len(traffic.errors),
                recovered=recovered,
            )
            assert (found, traffic.errors) == (Books(0, 0), [])
            # For the doorbell nobody waits at all, for the rate limits' counters at most once in a while.
            assert traffic.slowest_seconds < scaled(3, 1)
            assert worker.popen.poll() is None, "the worker has ended"


async def test_all_that_was_queued_in_a_redis_that_is_emptied_is_done_by_the_sweep(
    service: Service, settings_of_service: Settings, note: Note
) -> None:
    service.environment["SWEEP_INTERVAL_SECONDS"] = "2"
    service.start_api()
    count = scaled(150, 1_000)
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        traffic = Traffic(await make_world(settings_of_service, client), rate=0)
        # There is no worker yet, so that all is still in the queue.
        await traffic.send_many(count)
    pool = create_arq_pool(settings_of_service.redis_url)
    try:
        assert await _queued(pool) > 0
        await pool.flushall()
        assert await _queued(pool) == 0
    finally:
        await pool.aclose()
    began = time.monotonic()
    service.start("worker", "default")
    await until_processed(count, seconds=120)
    found = await books(count)
    note(
        4,
        "FLUSHALL",
        f"{count} events queued",
        lost=found.lost,
        doubled=found.doubled,
        errors=len(traffic.errors),
        recovered=time.monotonic() - began,
    )
    assert found == Books(0, 0)


async def _queued(pool: ArqRedis) -> int:
    return (await measure_queues(pool, (DEFAULT_QUEUE,)))[DEFAULT_QUEUE]

"""Redis is only a doorbell: without it webhooks are taken in, and nothing is lost or doubled."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select

from app import db
from app.config import Settings
from app.db import transaction
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.models import Order, Transfer, WebhookEvent, WebhookStatus
from app.services.ledger.verify import violations
from tests.conftest import make_settings
from tests.service import Service
from tests.webhooks.world import World, make_world

pytestmark = pytest.mark.fault

EVENTS = 300


@pytest.fixture
async def settings_of_service(
    service: Service, postgres: EmbeddedPostgres, redis: EmbeddedRedis
) -> AsyncIterator[Settings]:
    settings = make_settings(database_url=postgres.url, redis_url=redis.url)
    await db.open_database(settings, application_name="tests", pool_size=2, max_overflow=2)
    yield settings
    await db.close_database()


async def test_webhooks_during_an_outage_are_accepted_and_processed_once(
    service: Service, redis: EmbeddedRedis, settings_of_service: Settings, folder: Path
) -> None:
    service.start_api()
    worker = service.start("worker", "default")
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        world = await make_world(settings_of_service, client)
        await world.post("created", "warm-up", amount=1_000, commission=100)
        redis.stop()
        statuses = await post_many(world)
        assert statuses == [202] * EVENTS
        redis.start()
        await post_one_more(world)
        await until_processed(EVENTS + 2)
    assert worker.popen.poll() is None, "the worker has ended"
    async with transaction() as session:
        assert (await session.scalars(select(func.count()).select_from(Order))).one() == EVENTS + 2
        assert (await session.scalars(select(func.count()).select_from(Transfer))).one() == EVENTS + 2
        assert await violations(session) == []


async def post_many(world: World) -> list[int]:
    slots = asyncio.Semaphore(16)

    async def post(number: int) -> int:
        async with slots:
            return (await world.post("created", f"out-{number}", amount=1_000, commission=100)).status_code

    return list(await asyncio.gather(*(post(number) for number in range(EVENTS))))


async def post_one_more(world: World) -> None:
    assert (await world.post("created", "afterwards", amount=1_000, commission=100)).status_code == 202


async def until_processed(count: int) -> None:
    async with asyncio.timeout(60):
        while True:
            async with transaction() as session:
                done = await session.scalars(
                    select(func.count()).select_from(WebhookEvent).where(WebhookEvent.status == WebhookStatus.PROCESSED)
                )
                if done.one() == count:
                    return
            await asyncio.sleep(0.05)

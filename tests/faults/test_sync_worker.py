"""A sync whose worker is killed or stopped in the middle: it resumes, and nothing is doubled or lost."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from app import db
from app.db import transaction
from app.embedded import EmbeddedPostgres, EmbeddedRedis
from app.models import Feed, FeedFormat, Merchant, Offer, OfferStaging, SyncRun, SyncStatus
from app.schemas.feed_mappings import FeedPreset, MappingWrite
from app.services.sync import runs
from app.services.sync.presets import resolve_mapping
from tests.conftest import make_settings
from tests.factories import make_merchant
from tests.faults.report import Note
from tests.faults.traffic import scaled
from tests.feed_server import FeedServer, Reply, Request, document, offers
from tests.service import Process, Service

pytestmark = pytest.mark.fault

COUNT = scaled(10_000, 50_000)


@dataclass
class Stage:
    """A feed whose server stops in the middle of its first answer, and the run that asks for it."""

    server: FeedServer
    merchant: Merchant
    answers: int = 0

    async def queue(self) -> UUID:
        async with transaction() as session:
            run = await runs.request_sync(session, merchant_id=self.merchant.id, request_id=None)
            return run.id

    async def run(self, run_id: UUID) -> SyncRun:
        async with transaction() as session:
            return await session.get_one(SyncRun, run_id)

    async def count(self, model: type[Offer] | type[OfferStaging]) -> int:
        async with transaction() as session:
            return (await session.execute(select(func.count()).select_from(model))).scalar_one()


@asynccontextmanager
async def staged(postgres: EmbeddedPostgres) -> AsyncIterator[Stage]:
    """Set the feed up; its first answer never ends, each later one is whole."""
    content = document(offers(COUNT))
    settings = make_settings(database_url=postgres.url, redis_url="redis://127.0.0.1:1/0")
    await db.open_database(settings, application_name="tests", pool_size=5, max_overflow=5)
    _, mapping = resolve_mapping(MappingWrite(preset=FeedPreset.DIRECT_JSON), None)
    try:
        async with FeedServer() as server:
            async with transaction() as session:
                merchant = await make_merchant(session)
                definition: dict[str, Any] = mapping.model_dump(mode="json")
                session.add(
                    Feed(
                        merchant_id=merchant.id,
                        url=server.url(),
                        format=FeedFormat.JSON,
                        mapping=definition,
                        enabled=False,
                    )
                )
            stage = Stage(server, merchant)

            async def half() -> AsyncIterator[bytes]:
                yield content[: len(content) // 2]
                await asyncio.Event().wait()

            def route(_: object) -> Reply:
                stage.answers += 1
                return Reply(half() if stage.answers == 1 else content)

            server.routes["/feed"] = route
            yield stage
    finally:
        await db.close_database()
        db.AsyncSessionLocal.configure(bind=None)


async def until(look: Callable[[], Awaitable[bool]], *, seconds: float) -> float:
    """Wait until it holds; returns how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await look():
            await asyncio.sleep(0.05)
    return time.monotonic() - started


async def stopped(worker: Process, *, seconds: float) -> int:
    """Wait for a process's end without keeping the feed's server from its work."""
    return await asyncio.to_thread(worker.popen.wait, seconds)


async def assert_done_once(stage: Stage, run_id: UUID) -> None:
    run = await stage.run(run_id)
    assert (run.status, run.error) == (SyncStatus.SUCCEEDED, None)
    assert (run.fetched, run.created, run.updated, run.removed, run.rejected) == (COUNT, COUNT, 0, 0, 0)
    async with transaction() as session:
        total, distinct = (
            await session.execute(select(func.count(), func.count(Offer.external_id.distinct())).select_from(Offer))
        ).one()
    assert (total, distinct) == (COUNT, COUNT)
    assert await stage.count(OfferStaging) == 0


async def test_kill_9_in_the_middle_of_a_sync_resumes_within_a_minute(
    service: Service, postgres: EmbeddedPostgres, note: Note
) -> None:
    async with staged(postgres) as stage:
        run_id = await stage.queue()
        first = service.start("worker", "sync")
        # Nobody rings: the sweep finds the run. Then rows are on their way, and the worker waits for more.
        await until(lambda: _has_staged(stage), seconds=60)
        first.kill()
        assert (await stage.run(run_id)).status is SyncStatus.RUNNING
        assert await stage.count(Offer) == 0

        killed = time.monotonic()
        service.start("worker", "sync")
        await until(lambda: _has_status(stage, run_id, SyncStatus.RUNNING, tries=2), seconds=60)
        resumed = time.monotonic() - killed
        assert resumed < 60
        await until(lambda: _has_status(stage, run_id, SyncStatus.SUCCEEDED), seconds=60)
        await assert_done_once(stage, run_id)
        note(5, "kill -9 of the worker in a sync", f"{COUNT} offers", recovered=resumed)


@pytest.mark.parametrize("redis_is_up", [True, False], ids=["redis up", "redis down"])
async def test_sigterm_in_the_middle_of_a_sync_ends_at_once_and_resumes(
    service: Service, postgres: EmbeddedPostgres, redis: EmbeddedRedis, note: Note, *, redis_is_up: bool
) -> None:
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    async with staged(postgres) as stage:
        run_id = await stage.queue()
        first = service.start("worker", "sync")
        await until(lambda: _has_staged(stage), seconds=60)
        if not redis_is_up:
            await asyncio.to_thread(redis.stop)
        first.signal(signal.SIGTERM)
        asked = time.monotonic()
        assert await stopped(first, seconds=30) == 0
        note(
            7,
            f"SIGTERM of the worker in a sync, Redis {'up' if redis_is_up else 'down'}",
            f"{COUNT} offers",
            recovered=time.monotonic() - asked,
        )
        run = await stage.run(run_id)
        assert (run.status, run.tries, run.attempt_id) == (SyncStatus.QUEUED, 0, None)
        assert await stage.count(OfferStaging) == 0
        if not redis_is_up:
            await asyncio.to_thread(redis.start)

        service.start("worker", "sync")
        await until(lambda: _has_status(stage, run_id, SyncStatus.SUCCEEDED), seconds=60)
        await assert_done_once(stage, run_id)


async def test_kill_9_while_offers_change_leaves_all_or_nothing(service: Service, postgres: EmbeddedPostgres) -> None:
    """The worker dies in its one big transaction: PostgreSQL rolls it back, or it was committed whole."""
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    async with staged(postgres) as stage:
        stage.answers = 1
        run_id = await stage.queue()
        first = service.start("worker", "sync")

        async def is_applying() -> bool:
            look = text(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'INSERT INTO offers%'"
            )
            async with transaction() as session:
                return bool(await session.scalar(look))

        await until(is_applying, seconds=90)
        first.kill()
        assert await stage.count(Offer) in {0, COUNT}
        service.start("worker", "sync")
        await until(lambda: _has_status(stage, run_id, SyncStatus.SUCCEEDED), seconds=90)
        await assert_done_once(stage, run_id)


async def test_kill_9_between_pages_goes_on_at_the_next_page(service: Service, postgres: EmbeddedPostgres) -> None:
    """A slow feed of pages: what is stored is not fetched again, and nothing is doubled or lost."""
    pages, size = 20, COUNT // 20
    service.environment["SWEEP_INTERVAL_SECONDS"] = "1"
    async with staged(postgres) as stage:
        stage.server.serve_pages([offers(size, start=size * number + 1) for number in range(pages)])
        eleventh = stage.server.routes["/feed?page=11"]
        assert isinstance(eleventh, Reply)
        answers = 0

        async def never() -> AsyncIterator[bytes]:
            yield b'{"items": ['
            await asyncio.Event().wait()

        def once_silent(_: Request) -> Reply:
            nonlocal answers
            answers += 1
            return Reply(never()) if answers == 1 else eleventh

        stage.server.routes["/feed?page=11"] = once_silent
        run_id = await stage.queue()
        first = service.start("worker", "sync")
        await until(lambda: _has_staged_exactly(stage, 10 * size), seconds=60)
        first.kill()
        asked = len(stage.server.requests)
        assert asked == 11
        assert await stage.count(Offer) == 0

        killed = time.monotonic()
        service.start("worker", "sync")
        await until(lambda: _has_status(stage, run_id, SyncStatus.SUCCEEDED), seconds=90)
        assert time.monotonic() - killed < 90
        await assert_done_once(stage, run_id)
        assert [request.query["page"] for request in stage.server.requests[asked:]] == [str(n) for n in range(11, 21)]
        assert (await stage.run(run_id)).tries == 2


async def _has_staged_exactly(stage: Stage, rows: int) -> bool:
    return await stage.count(OfferStaging) == rows


async def _has_staged(stage: Stage) -> bool:
    return await stage.count(OfferStaging) > COUNT // 4


async def _has_status(stage: Stage, run_id: UUID, status: SyncStatus, *, tries: int | None = None) -> bool:
    run = await stage.run(run_id)
    assert run.status is not SyncStatus.FAILED, run.error
    return run.status is status and tries in {None, run.tries}

"""A sync of a feed of pages goes on where its lost worker stopped; a single file begins anew."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import delete, update

from app.db import transaction
from app.models import OfferStaging, SyncRun, SyncStatus
from app.services.sync import runs, stream
from app.services.sync.runs import ClaimLostError
from app.workers.sync import merchant_sync
from tests.feed_server import Reply, document, offers
from tests.sync.world import World, counts, eventually


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RETRY_SECONDS", 0.001)


class Pages:
    """Five pages of ten offers, whose fourth does not come before it may."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gate = asyncio.Event()
        world.server.serve_pages([offers(10, start=10 * number + 1) for number in range(5)])
        fourth = world.server.routes["/feed?page=4"]
        assert isinstance(fourth, Reply)
        assert isinstance(fourth.body, bytes)
        self.fourth = fourth
        body = fourth.body

        async def late() -> Any:
            yield body[:100]
            await self.gate.wait()
            yield body[100:]

        world.server.routes["/feed?page=4"] = lambda _: Reply(late())

    async def stop_after_three(self) -> str:
        """Begin a sync and let its worker vanish once three pages are stored; returns the job."""
        await self.world.set_feed()
        job_id: str = (await self.world.post()).json()["job_id"]
        working = asyncio.create_task(merchant_sync(self.world.settings)(job_id))
        await eventually(self._has_three, seconds=20)
        # As a kill would: nothing is tidied up.
        await self.lose(job_id)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
        self.world.server.requests.clear()
        self.world.server.routes["/feed?page=4"] = self.fourth
        return job_id

    async def lose(self, job_id: str) -> None:
        """Make a worker's writes void without its knowledge."""
        async with transaction() as session:
            await session.execute(
                update(SyncRun)
                .where(SyncRun.id == UUID(job_id))
                .values(attempt_id=None, heartbeat_at=datetime.now(UTC) - timedelta(minutes=1))
            )

    async def _has_three(self) -> bool:
        return await self.world.staged() == 30

    @property
    def asked(self) -> list[str]:
        """The pages that were asked for since."""
        return [request.query.get("page", "1") for request in self.world.server.requests]


async def change(job_id: str, **values: Any) -> None:
    async with transaction() as session:
        await session.execute(update(SyncRun).where(SyncRun.id == UUID(job_id)).values(**values))


async def test_pages_that_are_stored_are_not_fetched_again(world: World) -> None:
    pages = Pages(world)
    job_id = await pages.stop_after_three()
    job = await world.work(job_id)
    assert (job["status"], counts(job)) == ("succeeded", {"fetched": 50, "created": 50})
    assert pages.asked == ["4", "5"]
    assert await world.staged() == 0
    assert (await world.run(job_id)).checkpoint is None
    # Its digest is that of a sync in one piece: the same feed is passed over.
    assert counts(await world.sync()) == {"fetched": 50, "unchanged": 50}


async def test_counts_and_samples_of_stored_pages_are_kept(world: World) -> None:
    pages = Pages(world)
    second = world.server.routes["/feed?page=2"]
    assert isinstance(second, Reply)
    assert isinstance(second.body, bytes)
    second.body = second.body.replace(b'"Product number 14"', b'""')
    await world.set_feed()
    job_id: str = (await world.post()).json()["job_id"]
    working = asyncio.create_task(merchant_sync(world.settings)(job_id))

    async def stored() -> bool:
        return await world.staged() == 29

    await eventually(stored, seconds=20)
    await pages.lose(job_id)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    pages.gate.set()
    job = await world.work(job_id)
    assert counts(job) == {"fetched": 50, "created": 49, "rejected": 1}
    assert job["rejected_samples"] == [{"row": 14, "reason": "title is empty"}]


async def test_a_stopped_worker_leaves_its_pages_to_the_next(world: World) -> None:
    pages = Pages(world)
    await world.set_feed()
    job_id: str = (await world.post()).json()["job_id"]
    working = asyncio.create_task(merchant_sync(world.settings)(job_id))
    await eventually(pages._has_three, seconds=20)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    run = await world.run(job_id)
    assert (run.status, run.tries) == (SyncStatus.QUEUED, 0)
    assert await world.staged() == 30
    world.server.requests.clear()
    pages.gate.set()
    assert counts(await world.work(job_id)) == {"fetched": 50, "created": 50}
    assert pages.asked == ["4", "5"]


async def test_the_checkpoint_hides_addresses(world: World) -> None:
    pages = Pages(world)
    job_id = await pages.stop_after_three()
    kept = (await world.run(job_id)).checkpoint
    assert kept is not None
    assert (kept["page"], kept["rows"], kept["fetched"]) == (3, 30, 30)
    assert "page=4" not in str(kept)
    assert "127.0.0.1" not in str(kept)


@pytest.mark.parametrize("why", ["definition", "age", "crash", "key"])
async def test_what_cannot_be_gone_on_with_begins_anew(world: World, why: str) -> None:
    pages = Pages(world)
    job_id = await pages.stop_after_three()
    match why:
        case "definition":
            await world.set_feed(mapping={"preset": "direct-json", "fields": {"brand": None}})
        case "age":
            run = await world.run(job_id)
            long_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
            await change(job_id, checkpoint={**(run.checkpoint or {}), "at": long_ago})
        case "crash":
            # PostgreSQL empties unlogged tables after one.
            async with transaction() as session:
                await session.execute(delete(OfferStaging))
        case _:
            world.settings = world.settings.model_copy(
                update={"encryption_keys": [SecretStr(Fernet.generate_key().decode())]}
            )
    job = await world.work(job_id)
    assert counts(job) == {"fetched": 50, "created": 50}
    assert pages.asked == ["1", "2", "3", "4", "5"]


async def test_an_address_that_no_longer_holds_begins_anew(world: World) -> None:
    pages = Pages(world)
    job_id = await pages.stop_after_three()
    answers = [Reply(b"expired", status=410), pages.fourth]
    world.server.routes["/feed?page=4"] = lambda _: answers.pop(0)
    job = await world.work(job_id)
    assert (job["error"], counts(job)) == (None, {"fetched": 50, "created": 50})
    assert pages.asked == ["4", "1", "2", "3", "4", "5"]


async def test_a_server_that_is_away_afterwards_fails_the_run(world: World) -> None:
    pages = Pages(world)
    job_id = await pages.stop_after_three()
    world.server.routes["/feed?page=5"] = Reply(b"gone", status=404)
    job = await world.work(job_id)
    assert (job["status"], "404 Not Found" in job["error"]) == ("failed", True)
    assert pages.asked == ["4", "5"]
    run = await world.run(job_id)
    assert run.checkpoint is None
    assert await world.staged() == 0


async def test_a_worker_that_lost_its_run_can_stage_nothing_more(world: World) -> None:
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    async with transaction() as session:
        first = await runs.claim(session, run_id=UUID(job_id), settings=world.settings)
    assert first is not None
    await change(job_id, heartbeat_at=datetime.now(UTC) - timedelta(seconds=31))
    async with transaction() as session:
        second = await runs.claim(session, run_id=UUID(job_id), settings=world.settings)
    assert second is not None
    with pytest.raises(ClaimLostError):
        async with transaction() as session:
            await runs.lock(session, claim=first)
    assert await world.staged() == 0


async def test_a_single_file_begins_anew(world: World) -> None:
    gate = asyncio.Event()
    content = document(offers(3000))

    async def body() -> Any:
        yield content[:-500]
        await gate.wait()
        yield content[-500:]

    world.server.routes["/feed"] = lambda _: Reply(body())
    await world.set_feed()
    job_id: str = (await world.post()).json()["job_id"]
    working = asyncio.create_task(merchant_sync(world.settings)(job_id))

    async def stored() -> bool:
        return await world.staged() >= stream.BATCH_ROWS

    await eventually(stored, seconds=20)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert await world.staged() == 0
    gate.set()
    assert counts(await world.work(job_id)) == {"fetched": 3000, "created": 3000}
    assert len(world.server.requests) == 2

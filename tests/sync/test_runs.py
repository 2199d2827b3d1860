"""Claims, heartbeats, retries and the schedule: a run is done once, whatever becomes of its workers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select, text, update

from app import db
from app.db import Ring, transaction
from app.ids import new_id
from app.models import Feed, Merchant, MerchantStatus, OfferStaging, SyncRun, SyncStatus
from app.services.sync import runs, stream
from app.services.sync.runs import Claim, ClaimLostError
from app.services.sync.tally import Tally
from app.workers import sync as worker
from app.workers.schedule import Scheduled, run_if_due
from app.workers.settings import worker_kind
from app.workers.sync import clear_abandoned_staging, merchant_sync, queue_due_syncs, sweep_syncs
from tests.factories import make_merchant
from tests.feed_server import Reply, document, offers
from tests.sync.world import World, counts, eventually


async def claim(world: World, job_id: str) -> Claim | None:
    async with transaction() as session:
        return await runs.claim(session, run_id=UUID(job_id), settings=world.settings)


async def change_run(job_id: str, **values: object) -> None:
    async with transaction() as session:
        await session.execute(update(SyncRun).where(SyncRun.id == UUID(job_id)).values(**values))


def gated_feed(world: World) -> asyncio.Event:
    """A feed of 3,000 offers that stops before its last 10 until the event is set."""
    gate = asyncio.Event()
    content = document(offers(3000))
    cut = content.index(b'{"id":"sku-002991"')

    async def body() -> AsyncIterator[bytes]:
        yield content[:cut]
        await gate.wait()
        yield content[cut:]

    world.server.routes["/feed"] = lambda _: Reply(body())
    return gate


async def is_staging(world: World) -> bool:
    return await world.staged() >= stream.BATCH_ROWS


# --- Claims


async def test_only_one_worker_can_claim_and_only_a_lost_one_is_replaced(world: World) -> None:
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    first = await claim(world, job_id)
    assert first is not None
    assert await claim(world, job_id) is None
    run = await world.run(job_id)
    assert (run.status, run.tries, run.attempt_id) == (SyncStatus.RUNNING, 1, first.attempt_id)

    await change_run(job_id, heartbeat_at=datetime.now(UTC) - timedelta(seconds=31))
    second = await claim(world, job_id)
    assert second is not None
    assert second.attempt_id != first.attempt_id
    # The first was only slow. It finds out at its next step, whichever that is.
    tally = Tally(max_rows=1)
    async with transaction() as session:
        with pytest.raises(ClaimLostError):
            await runs.beat(session, claim=first, tally=tally)
        with pytest.raises(ClaimLostError):
            await runs.lock(session, claim=first)
        with pytest.raises(ClaimLostError):
            await runs.fail(session, claim=first, tally=tally, error="No.")
        with pytest.raises(ClaimLostError):
            await runs.put_back(session, claim=first, error=None)
        await runs.beat(session, claim=second, tally=tally)


async def test_a_worker_that_lost_its_claim_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_HEARTBEAT_SECONDS", 0.05)
    gate = gated_feed(world)
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    slow = asyncio.create_task(merchant_sync(world.settings)(job_id))
    await eventually(lambda: is_staging(world))
    await change_run(job_id, attempt_id=new_id())
    # Ended by its heartbeat, while it still waits for the feed.
    await asyncio.wait_for(slow, 10)
    run = await world.run(job_id)
    assert (run.status, run.error) == (SyncStatus.RUNNING, None)
    assert await world.live() == {}
    gate.set()

    # What it had staged goes when the run is claimed anew.
    assert await world.staged() >= stream.BATCH_ROWS
    await change_run(job_id, heartbeat_at=datetime.now(UTC) - timedelta(seconds=31))
    assert await claim(world, job_id) is not None
    assert await world.staged() == 0


async def test_what_an_ended_run_has_left_in_staging_is_cleared(world: World) -> None:
    gate = gated_feed(world)
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    working = asyncio.create_task(merchant_sync(world.settings)(job_id))
    await eventually(lambda: is_staging(world))
    await change_run(job_id, attempt_id=None, status=SyncStatus.FAILED)
    assert await clear_abandoned_staging() >= stream.BATCH_ROWS
    gate.set()
    await working
    assert await world.staged() == 0
    assert await world.live() == {}


async def test_staging_of_a_running_attempt_is_not_cleared(world: World) -> None:
    gate = gated_feed(world)
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    working = asyncio.create_task(world.work(job_id))
    await eventually(lambda: is_staging(world))
    assert await clear_abandoned_staging() == 0
    gate.set()
    assert counts(await working) == {"fetched": 3000, "created": 3000}


async def test_rows_of_a_lost_attempt_do_not_count(world: World) -> None:
    """A worker dies after it staged rows; the next starts over."""
    world.server.serve(document(offers(10)))
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    lost = await claim(world, job_id)
    assert lost is not None
    async with transaction() as session:
        columns = {
            "external_id": "ghost", "title": "Ghost", "description": "", "url": "https://x.example", "currency": "PKR",
            "price_minor": 1, "price_max_minor": 1, "available": True, "deleted": False, "content_hash": b"x" * 16,
        }  # fmt: skip
        session.add(OfferStaging(run_id=lost.run_id, row_number=1, offer_id=new_id(), **columns))
    await change_run(job_id, heartbeat_at=datetime.now(UTC) - timedelta(seconds=31))
    assert counts(await world.work(job_id)) == {"fetched": 10, "created": 10}
    assert "ghost" not in await world.live()
    assert await world.staged() == 0


async def test_a_run_whose_workers_die_is_given_up_after_three_tries(world: World) -> None:
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    for _ in range(3):
        assert await claim(world, job_id) is not None
        await change_run(job_id, heartbeat_at=datetime.now(UTC) - timedelta(seconds=31))
    assert await claim(world, job_id) is None
    job = await world.job(job_id)
    assert job["status"] == "failed"
    assert job["error"].startswith("Given up after 3 tries. Its worker was lost each time;")
    assert (await world.post()).json()["status"] == "queued"


async def test_an_error_of_ours_is_tried_three_times(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("boom")

    world.server.serve(document(offers(10)))
    monkeypatch.setattr(worker, "apply_staged", broken)
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    for tries in (1, 2, 3):
        with pytest.raises(RuntimeError, match="boom"):
            await merchant_sync(world.settings)(job_id)
        run = await world.run(job_id)
        assert (run.status, run.tries) == (SyncStatus.QUEUED, tries)
        assert run.error == "An unexpected RuntimeError; the worker's log has more under this run's request id."
        assert await world.staged() == 0
    job = await world.work(job_id)
    assert job["status"] == "failed"
    assert job["error"].startswith("Given up after 3 tries. An unexpected RuntimeError;")


async def test_a_stopped_worker_hands_its_run_on(world: World) -> None:
    gate = gated_feed(world)
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    rings: list[Ring] = []
    db.set_bell(rings.extend)
    working = asyncio.create_task(merchant_sync(world.settings)(job_id))
    await eventually(lambda: is_staging(world))
    working.cancel()
    await asyncio.sleep(0)
    working.cancel()  # the runner is not patient
    with pytest.raises(asyncio.CancelledError):
        await working
    run = await world.run(job_id)
    # Not its fault: the try does not count, and whoever is rung takes it at once.
    assert (run.status, run.tries, run.error) == (SyncStatus.QUEUED, 0, None)
    assert rings == [Ring("sync_merchant", (job_id,))]
    assert await world.staged() == 0
    gate.set()
    assert counts(await world.work(job_id)) == {"fetched": 3000, "created": 3000}


async def test_a_stop_while_offers_change_changes_none(world: World) -> None:
    world.server.serve(document(offers(100)))
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    async with transaction() as session:
        # The sync cannot get past this lock, so it is stopped within its transaction.
        await session.scalar(select(Merchant).where(Merchant.id == world.merchant.id).with_for_update())
        working = asyncio.create_task(merchant_sync(world.settings)(job_id))

        async def waits() -> bool:
            look = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'INSERT'")
            async with transaction() as other:
                return bool(await other.scalar(look))

        await eventually(waits)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert (await world.run(job_id)).status is SyncStatus.QUEUED
    assert await world.live() == {}
    assert counts(await world.work(job_id)) == {"fetched": 100, "created": 100}


async def test_a_merchant_that_closed_meanwhile_is_not_synced(world: World) -> None:
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    async with transaction() as session:
        await session.execute(update(Merchant).values(status=MerchantStatus.CLOSED))
    job = await world.work(job_id)
    assert (job["status"], job["error"]) == ("failed", "The merchant was closed.")
    assert world.server.connections == 0


async def test_a_definition_that_changed_meanwhile_is_not_taken_for_synced(world: World) -> None:
    gate = gated_feed(world)
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    working = asyncio.create_task(world.work(job_id))
    await eventually(lambda: is_staging(world))
    await world.set_feed(mapping={"preset": "direct-json", "fields": {"brand": None}})
    gate.set()
    assert (await working)["created"] == 3000
    assert (await world.feed()).content_hash is None
    assert counts(await world.sync()) == {"fetched": 3000, "updated": 3000}


# --- The sweep and the schedule


async def test_the_sweep_rings_for_runs_that_lost_their_worker(world: World) -> None:
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    assert await claim(world, job_id) is not None
    await change_run(job_id, created_at=datetime.now(UTC) - timedelta(minutes=5))
    assert await sweep_syncs() == 0
    await change_run(job_id, heartbeat_at=datetime.now(UTC) - timedelta(seconds=31))
    rings: list[Ring] = []
    db.set_bell(rings.extend)
    assert await sweep_syncs() == 1
    assert rings == [Ring("sync_merchant", (job_id,))]


async def test_feeds_are_synced_at_their_own_interval(world: World) -> None:
    async with transaction() as session:
        others = [await make_merchant(session) for _ in range(3)]
    hourly, daily, disabled = (merchant.id for merchant in others)
    await world.set_feed(hourly, enabled=True, interval_seconds=3600)
    await world.set_feed(daily, enabled=True)
    await world.set_feed(disabled, enabled=False)
    assert await queue_due_syncs() == 2
    assert await queue_due_syncs() == 0
    async with transaction() as session:
        feeds = {feed.merchant_id: feed for feed in await session.scalars(select(Feed))}
        queued = (await session.scalars(select(SyncRun.merchant_id))).all()
    assert sorted(queued) == sorted([hourly, daily])
    now = datetime.now(UTC)
    assert abs(feeds[hourly].next_sync_at - now - timedelta(hours=1)) < timedelta(minutes=1)
    assert abs(feeds[daily].next_sync_at - now - timedelta(days=1)) < timedelta(minutes=1)


@pytest.mark.parametrize(("late", "following"), [(600, 3000), (3 * 3600, 3600)], ids=["rhythm", "caught up once"])
async def test_a_late_feed_keeps_its_rhythm_and_a_missed_one_is_caught_up_once(
    world: World, late: int, following: int
) -> None:
    await world.set_feed(enabled=True, interval_seconds=3600)
    async with transaction() as session:
        await session.execute(update(Feed).values(next_sync_at=datetime.now(UTC) - timedelta(seconds=late)))
    assert await queue_due_syncs() == 1
    expected = datetime.now(UTC) + timedelta(seconds=following)
    assert abs((await world.feed()).next_sync_at - expected) < timedelta(minutes=1)
    assert await queue_due_syncs() == 0


async def test_a_due_feed_with_an_unfinished_run_gets_no_second(world: World) -> None:
    await world.set_feed(enabled=True)
    job_id = (await world.post()).json()["job_id"]
    rings: list[Ring] = []
    db.set_bell(rings.extend)
    assert await queue_due_syncs() == 1
    async with transaction() as session:
        assert [str(found) for found in await session.scalars(select(SyncRun.id))] == [job_id]
    assert rings == [Ring("sync_merchant", (job_id,))]


@pytest.mark.parametrize("status", [MerchantStatus.PAUSED, MerchantStatus.CLOSED])
async def test_only_active_merchants_are_synced_by_themselves(world: World, status: MerchantStatus) -> None:
    await world.set_feed(enabled=True)
    async with transaction() as session:
        await session.execute(update(Merchant).values(status=status))
    assert await queue_due_syncs() == 0


async def test_schedulers_that_race_queue_each_feed_once(world: World) -> None:
    async with transaction() as session:
        merchants = [await make_merchant(session) for _ in range(10)]
    for merchant in merchants:
        await world.set_feed(merchant.id, enabled=True)
    assert sum(await asyncio.gather(*(queue_due_syncs() for _ in range(8)))) == 10
    async with transaction() as session:
        assert len((await session.scalars(select(SyncRun.id))).all()) == 10


async def test_the_sync_worker_has_the_jobs_and_the_schedule(world: World) -> None:
    kind = worker_kind("sync", world.settings)
    assert [function.name for function in kind.functions] == ["sync_merchant", "poll_source"]
    # Above what a sync gives itself.
    assert kind.functions[0].timeout_s == world.settings.feed_max_seconds + 60
    names = [task.name for task in kind.schedule]
    assert names == ["queue_due_syncs", "poll_due", "sweep_syncs", "clear_abandoned_staging"]
    due: Scheduled = kind.schedule[0]
    await world.set_feed(enabled=True)
    assert await run_if_due(due) is True
    assert await run_if_due(due) is False
    async with transaction() as session:
        run = (await session.scalars(select(SyncRun))).one()
    assert run.request_id is not None
    assert run.request_id.startswith("job-")

"""Asking for syncs over HTTP, and seeing how they go."""

import asyncio
import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.db import Ring, transaction
from app.doorbell import Doorbell, create_arq_pool
from app.ids import new_id
from app.models import Feed, FeedFormat, Merchant, MerchantStatus, StaffRole, SyncRun, SyncStatus
from app.workers.sync import merchant_sync, sweep_syncs
from tests.factories import make_merchant, staff_headers
from tests.feed_server import Reply, document, offers
from tests.logs import captured_logs, lines_of
from tests.sync.world import World, counts, eventually


async def test_a_sync_is_queued_and_answered_at_once(world: World) -> None:
    await world.set_feed()
    response = await world.post()
    assert response.status_code == 202
    assert list(response.json()) == ["job_id", "status"]
    assert response.json()["status"] == "queued"
    job = await world.job(response.json()["job_id"])
    assert job == {
        "job_id": response.json()["job_id"],
        "merchant_id": world.merchant.id,
        "status": "queued",
        "fetched": 0,
        "created": 0,
        "updated": 0,
        "unchanged": 0,
        "removed": 0,
        "rejected": 0,
        "started_at": None,
        "finished_at": None,
        "error": None,
        "rejected_samples": [],
    }
    # The server was not asked for anything yet.
    assert world.server.connections == 0


async def test_a_second_request_gets_the_unfinished_job(world: World) -> None:
    gate = asyncio.Event()

    async def body() -> Any:
        yield b'{"items": ['
        await gate.wait()
        yield orjson.dumps(offers(3))[1:] + b"}"

    world.server.routes["/feed"] = lambda _: Reply(body())
    await world.set_feed()
    first = (await world.post()).json()
    assert (await world.post()).json() == {"job_id": first["job_id"], "status": "queued"}
    working = asyncio.create_task(world.work(first["job_id"]))

    async def runs() -> bool:
        return bool((await world.job(first["job_id"]))["status"] == "running")

    await eventually(runs)
    assert (await world.post()).json() == {"job_id": first["job_id"], "status": "running"}
    gate.set()
    job = await working
    assert counts(job) == {"fetched": 3, "created": 3}
    assert job["started_at"] <= job["finished_at"]
    assert (await world.post()).json()["job_id"] != first["job_id"]


async def test_requests_that_race_give_one_run(world: World) -> None:
    await world.set_feed()
    responses = await asyncio.gather(*(world.post() for _ in range(40)))
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["job_id"] for response in responses}) == 1
    async with transaction() as session:
        assert len((await session.scalars(select(SyncRun.id))).all()) == 1


async def test_workers_that_race_do_the_work_once(world: World) -> None:
    world.server.serve(document(offers(50)))
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    jobs = [merchant_sync(world.settings) for _ in range(4)]
    await asyncio.gather(*(job(job_id) for job in jobs))
    assert counts(await world.job(job_id)) == {"fetched": 50, "created": 50}
    assert len(world.server.requests) == 1
    # A ring that comes again finds nothing to do.
    await merchant_sync(world.settings)(job_id)
    assert len(world.server.requests) == 1


async def test_a_request_does_not_wait_for_a_sync_that_is_being_applied(world: World) -> None:
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    async with transaction() as session:
        # What a worker holds while offers change, for as long as that takes.
        await session.scalar(select(SyncRun).where(SyncRun.id == UUID(job_id)).with_for_update())
        started = time.monotonic()
        assert (await world.post()).json()["job_id"] == job_id
        assert (await world.job(job_id))["status"] == "queued"
        assert time.monotonic() - started < 2


async def test_the_same_statement_works_however_often_a_connection_prepared_it(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    """PostgreSQL plans a prepared statement anew from its sixth use on, without looking at its parameters."""
    operator = await staff_headers(session, StaffRole.OPERATOR)
    for _ in range(12):
        merchant = await make_merchant(session)
        session.add(Feed(merchant_id=merchant.id, url="https://x.example/", format=FeedFormat.JSON, mapping={}))
        await session.flush()
        for _ in range(2):
            assert (await client.post(f"/sync/{merchant.id}", headers=operator)).status_code == 202


async def test_progress_shows_while_a_sync_runs(world: World) -> None:
    gate = asyncio.Event()

    async def body() -> Any:
        yield b'{"items": ['
        yield orjson.dumps([*offers(2500), {"id": "bad"}])[1:-1] + b","
        # Past what a reader buffers.
        yield b" " * 200_000
        await gate.wait()
        yield orjson.dumps(offers(500, start=2501))[1:] + b"}"

    world.server.routes["/feed"] = lambda _: Reply(body())
    await world.set_feed()
    job_id = (await world.post()).json()["job_id"]
    working = asyncio.create_task(world.work(job_id))

    async def progress() -> dict[str, Any] | None:
        job = await world.job(job_id)
        return job if job["fetched"] else None

    seen = await eventually(progress)
    assert seen is not None
    assert (seen["status"], seen["fetched"], seen["rejected"], seen["created"]) == ("running", 2501, 1, 0)
    assert seen["started_at"]
    assert seen["finished_at"] is None
    gate.set()
    assert counts(await working) == {"fetched": 3001, "created": 3000, "rejected": 1}


async def test_without_redis_a_request_is_taken_and_the_sweep_rings(world: World) -> None:
    world.server.serve(document(offers(5)))
    await world.set_feed()
    rings: list[Ring] = []
    pool = create_arq_pool("redis://127.0.0.1:1/0")
    doorbell = Doorbell(pool)
    doorbell.start()
    db.set_bell(doorbell.ring)
    started = time.monotonic()
    response = await world.post()
    assert time.monotonic() - started < 2
    await doorbell.stop()
    await pool.aclose()
    assert (response.status_code, response.json()["status"]) == (202, "queued")
    job_id = response.json()["job_id"]

    db.set_bell(rings.extend)
    # A young run may still be rung for by whoever queued it.
    assert (await sweep_syncs(), rings) == (0, [])
    async with transaction() as session:
        await session.execute(update(SyncRun).values(created_at=SyncRun.created_at - timedelta(seconds=11)))
    assert await sweep_syncs() == 1
    assert rings == [Ring("sync_merchant", (job_id,))]
    assert counts(await world.work(job_id)) == {"fetched": 5, "created": 5}
    assert await sweep_syncs() == 0


async def test_worker_logs_carry_the_requests_id(world: World) -> None:
    world.server.serve(document(offers(5)))
    await world.set_feed()
    response = await world.post(headers={"X-Request-ID": "ask-42"})
    with captured_logs("INFO") as output:
        await world.work(response.json()["job_id"])
    lines = [line for line in lines_of(output) if line["logger"] == "app.workers.sync"]
    assert [(line["message"], line["request_id"]) for line in lines] == [
        ("sync started", "ask-42"),
        ("sync done", "ask-42"),
    ]
    assert lines[1]["offers"] == {"created": 5, "updated": 0, "unchanged": 0, "removed": 0, "rejected": 0}
    assert lines[1]["merchant_id"] == world.merchant.id


async def test_what_cannot_be_synced_is_said_clearly(world: World) -> None:
    unknown = await world.post(999_999)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "merchant_not_found")
    without = await world.post()
    assert (without.status_code, without.json()["code"]) == (409, "merchant_has_no_feed")
    assert without.json()["detail"].endswith(f"PUT /v1/admin/merchants/{world.merchant.id}/feed.")
    await world.set_feed()
    async with transaction() as session:
        await session.execute(update(Merchant).values(status=MerchantStatus.CLOSED))
    closed = await world.post()
    assert (closed.status_code, closed.json()["code"]) == (409, "closed_merchant_sync")
    missing = await world.client.get(f"/sync/jobs/{new_id()}", headers=world.viewer)
    assert (missing.status_code, missing.json()["code"]) == (404, "sync_job_not_found")
    for nonsense in ("0", "-1", "abc", "2147483648", "99999999999999999999"):
        assert (await world.client.post(f"/sync/{nonsense}", headers=world.operator)).status_code == 422
    assert (await world.client.get("/sync/jobs/not-a-uuid", headers=world.viewer)).status_code == 422


async def test_roles(world: World) -> None:
    await world.set_feed()
    path = f"/sync/{world.merchant.id}"
    assert (await world.client.post(path)).status_code == 401
    assert (await world.client.post(path, headers=world.viewer)).status_code == 403
    assert (await world.client.get("/sync/jobs")).status_code == 401
    assert (await world.client.get(f"/sync/jobs/{new_id()}")).status_code == 401
    feed = f"/v1/admin/merchants/{world.merchant.id}/feed"
    for method in ("GET", "PUT"):
        assert (await world.client.request(method, feed)).status_code == 401
        assert (await world.client.request(method, feed, headers=world.viewer, json={})).status_code == 403


async def test_the_list_is_newest_first_in_pages(world: World, committed_db: Settings) -> None:
    async with transaction() as session:
        other = await make_merchant(session)
        for merchant_id in (world.merchant.id, other.id) * 3:
            session.add(SyncRun(merchant_id=merchant_id, status=SyncStatus.SUCCEEDED))
            await session.flush()
        session.add(SyncRun(merchant_id=other.id, status=SyncStatus.FAILED, error="No."))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        parameters = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await world.client.get("/sync/jobs", params=parameters, headers=world.viewer)).json()
        seen += [job["job_id"] for job in page["items"]]
        assert "rejected_samples" not in page["items"][0]
        if (cursor := page["next_cursor"]) is None:
            break
    assert (len(seen), seen) == (7, sorted(seen, reverse=True))
    failed = {"merchant_id": str(other.id), "status": "failed"}
    page = (await world.client.get("/sync/jobs", params=failed, headers=world.viewer)).json()
    assert [job["error"] for job in page["items"]] == ["No."]
    assert (await world.client.get("/sync/jobs", params={"cursor": "x"}, headers=world.viewer)).status_code == 422


@pytest.mark.parametrize("status", [500, 404])
async def test_a_failing_feed_keeps_yesterdays_offers(world: World, status: int) -> None:
    world.server.serve(document(offers(20)))
    await world.set_feed()
    await world.sync()
    world.server.routes["/feed"] = Reply(b"", status=status)
    job = await world.sync()
    assert (job["status"], counts(job)) == ("failed", {})
    assert f"answered {status}" in job["error"]
    assert job["finished_at"]
    assert len(await world.live()) == 20

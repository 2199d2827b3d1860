"""Replaying: many at a time with progress, by the present version, and never taking money by mistake."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from app.db import transaction
from app.ids import new_id
from app.models import Order, OrderReport, OrderStatus, Source, StaffRole, WebhookEvent, WebhookReplay, WebhookStatus
from app.services.sources.versions import add_version
from app.services.webhooks import replays
from app.services.webhooks.inbox import replay
from app.workers.webhooks import webhook_replay
from tests.factories import staff_headers
from tests.sources.definitions import definition_of
from tests.webhooks.world import World

PATH = "/v1/admin/webhook-replays"


async def as_operator(world: World, method: str, path: str = "", **body: Any) -> dict[str, Any]:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.OPERATOR)
    content = body if method == "POST" else None
    answer = await world.client.request(method, f"{PATH}{path}", json=content, headers=headers)
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def orphans(world: World, count: int) -> None:
    for number in range(count):
        await world.post("approved", f"O-{number}", click_id=None)
    await world.drain()


async def define(world: World, **mapping: Any) -> None:
    """Give the world's source another version: the direct preset with other rules."""
    async with transaction() as session:
        source = await session.get_one(Source, world.source.id, with_for_update=True)
        await add_version(session, source, definition_of("direct", **mapping), member_id=None)


async def test_a_filtered_many_are_replayed_with_progress(world: World) -> None:
    await orphans(world, 3)
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    started = await as_operator(world, "POST", status="orphaned", source_id=world.source.id)
    assert (started["status"], started["total"], started["replayed"]) == ("queued", 3, 0)
    assert started["filter"] == {"status": "orphaned", "source_id": world.source.id}
    assert await webhook_replay(world.settings)() == 3
    done = await as_operator(world, "GET", f"/{started['id']}")
    assert (done["status"], done["replayed"], done["outcomes"]) == ("finished", 3, {"orphaned": 3})
    assert done["finished_at"] is not None
    assert [item["id"] for item in (await as_operator(world, "GET"))["items"]] == [started["id"]]


async def test_everything_can_be_replayed_and_nothing_changes(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    await world.post("approved")
    await orphans(world, 1)
    await as_operator(world, "POST")
    # What comes later is not replayed.
    await world.post("created", "A-2", amount=50_000, commission=4_000)
    assert await webhook_replay(world.settings)() == 3
    order = await world.order()
    assert (order.status, order.revision) == (OrderStatus.APPROVED, 2)
    assert await world.wallet() == (5_000, 0)


async def test_more_than_was_expected_is_refused(world: World) -> None:
    await orphans(world, 2)
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.OPERATOR)
    answer = await world.client.post(PATH, json={"status": "orphaned", "most": 1}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "webhook_replay_too_large")
    assert await webhook_replay(world.settings)() == 0


async def test_a_cancelled_replay_leaves_the_rest_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "BATCH", 2)
    await orphans(world, 5)
    started = await as_operator(world, "POST", status="orphaned")
    async with transaction() as session:
        claim = await replays.claim_next(session)
        assert claim is not None
        batch = await replays.next_batch(session, claim)
    cancelled = await as_operator(world, "POST", f"/{started['id']}/cancel")
    assert cancelled["status"] == "cancelled"
    async with transaction() as session:
        assert await replays.note_batch(session, claim, batch, Counter(orphaned=2), go_on=True) is None
    assert await webhook_replay(world.settings)() == 0
    shown = await as_operator(world, "GET", f"/{started['id']}")
    assert (shown["status"], shown["replayed"], shown["total"]) == ("cancelled", 2, 5)
    assert (await as_operator(world, "POST", f"/{started['id']}/cancel"))["status"] == "cancelled"


async def test_a_replay_whose_worker_is_lost_is_taken_up_where_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "BATCH", 2)
    await orphans(world, 5)
    started = await as_operator(world, "POST", status="orphaned")
    async with transaction() as session:
        lost = await replays.claim_next(session)
        assert lost is not None
        first = await replays.next_batch(session, lost)
    async with transaction() as session:
        lost = await replays.note_batch(session, lost, first, Counter(orphaned=2), go_on=True)
        assert lost is not None
    # While it is claimed nobody else has it.
    assert await webhook_replay(world.settings)() == 0
    async with transaction() as session:
        await session.execute(update(WebhookReplay).values(claimed_until=func.now() - timedelta(seconds=1)))
    assert await webhook_replay(world.settings)() == 3
    # The lost one wakes up and may write nothing.
    async with transaction() as session:
        assert await replays.note_batch(session, lost, first, Counter(orphaned=2), go_on=True) is None
    shown = await as_operator(world, "GET", f"/{started['id']}")
    assert (shown["status"], shown["replayed"], shown["outcomes"]) == ("finished", 5, {"orphaned": 5})


async def test_a_long_replay_goes_on_in_the_next_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "BATCH", 2)
    monkeypatch.setattr("app.workers.webhooks._MOST_REPLAY_SECONDS", 0)
    await orphans(world, 3)
    started = await as_operator(world, "POST", status="orphaned")
    assert [await webhook_replay(world.settings)() for _ in range(3)] == [2, 1, 0]
    assert (await as_operator(world, "GET", f"/{started['id']}"))["status"] == "finished"


async def test_an_event_that_fails_in_a_replay_does_not_stop_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.post("created", "A-1", amount=100_000, commission=8_000)
    await orphans(world, 1)
    await world.post("created", "A-2", amount=100_000, commission=8_000)
    await world.drain()
    started = await as_operator(world, "POST")

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("app.services.webhooks.process.take_reports", broken)
        assert await webhook_replay(world.settings)() == 3
    shown = await as_operator(world, "GET", f"/{started['id']}")
    assert (shown["status"], shown["outcomes"]) == ("finished", {"failed": 2, "orphaned": 1})
    async with transaction() as session:
        await session.execute(update(WebhookEvent).values(next_attempt_at=func.now()))
    await world.drain()
    async with transaction() as session:
        statuses = await session.scalars(select(WebhookEvent.status).order_by(WebhookEvent.id))
        assert list(statuses) == [WebhookStatus.PROCESSED, WebhookStatus.ORPHANED, WebhookStatus.PROCESSED]


async def test_what_staff_discarded_is_replayed_only_when_they_say_so(world: World) -> None:
    await orphans(world, 1)
    async with transaction() as session:
        await session.execute(update(WebhookEvent).values(status=WebhookStatus.DISCARDED, discarded_reason="a test"))
    assert (await as_operator(world, "POST"))["total"] == 0
    assert (await as_operator(world, "POST", status="discarded"))["total"] == 1


async def test_a_mended_definition_reads_rejected_events(world: World) -> None:
    await define(world, order_reference={"path": "reference"})
    event_id = (await world.post("created", amount=100_000, commission=8_000)).json()["event_id"]
    await world.drain()
    broken = await world.event(event_id)
    assert (broken.status, broken.reason) == (WebhookStatus.REJECTED, "order_reference (reference): missing")
    await define(world, order_reference={"path": "order_id"})
    await as_operator(world, "POST", status="rejected")
    await webhook_replay(world.settings)()
    event = await world.event(event_id)
    assert (event.status, event.reason) == (WebhookStatus.PROCESSED, None)
    assert event.version_id != broken.version_id
    assert await world.wallet() == (5_000, 0)


async def test_a_report_moves_to_its_order_once_the_definition_is_right(world: World) -> None:
    # The first version takes a constant for the order's number: two sales become one order.
    await define(world, order_reference={"transforms": [{"kind": "constant", "value": "WRONG"}]})
    start = datetime.now(UTC)
    await world.post("created", "A-1", amount=100_000, commission=8_000, at=start)
    await world.post("created", "A-2", amount=60_000, commission=4_000, at=start + timedelta(minutes=1))
    await world.drain()
    assert (await world.order("WRONG")).cashback_minor == 3_000
    await define(world, order_reference={"path": "order_id"})
    await as_operator(world, "POST")
    await webhook_replay(world.settings)()
    assert (await world.order("A-1")).cashback_minor == 5_000
    assert (await world.order("A-2")).cashback_minor == 3_000
    assert (await world.order("WRONG")).status is OrderStatus.DECLINED
    assert await world.wallet() == (8_000, 0)
    async with transaction() as session:
        assert await session.scalar(select(func.count()).select_from(OrderReport)) == 2
        assert await session.scalar(select(func.count()).select_from(Order)) == 3


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"order_reference": {"path": "nothing"}}, "order_reference (nothing): missing"),
        ({"currency": {"transforms": [{"kind": "constant", "value": "USD"}]}}, "one order has one currency"),
        ({"status": {"transforms": [{"kind": "constant", "value": "new"}]}}, "status: 'new' is none of"),
    ],
)
async def test_what_a_broken_definition_no_longer_reads_still_counts(
    world: World, mapping: dict[str, Any], reason: str
) -> None:
    event_id = (await world.post("created", amount=100_000, commission=8_000)).json()["event_id"]
    await world.drain()
    reader = (await world.event(event_id)).version_id
    await define(world, **mapping)
    async with transaction() as session:
        await replay(session, UUID(event_id))
    await world.drain()
    event = await world.event(event_id)
    # The version that it counts by stays.
    assert (event.status, event.version_id) == (WebhookStatus.PROCESSED, reader)
    assert (event.reason or "").startswith("what was read of it before still counts; read again: ")
    assert reason in (event.reason or "")
    assert await world.wallet() == (5_000, 0)


async def test_only_operators_replay(world: World) -> None:
    async with transaction() as session:
        viewer = await staff_headers(session, StaffRole.VIEWER)
        operator = await staff_headers(session, StaffRole.OPERATOR)
    assert (await world.client.post(PATH, json={}, headers=viewer)).status_code == 403
    assert (await world.client.post(PATH, json={})).status_code == 401
    assert (await world.client.get(f"{PATH}/{new_id()}", headers=viewer)).json()["code"] == "webhook_replay_not_found"
    for wrong in ({"most": 0}, {"status": "gone"}, {"everything": True}, {"received_from": "1000-01-01T00:00:00Z"}):
        assert (await world.client.post(PATH, json=wrong, headers=operator)).status_code == 422

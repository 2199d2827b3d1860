"""Orders that no report ever closes are closed as their merchant's policy says, until a report says otherwise."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from app.config import Settings
from app.db import transaction
from app.models import (
    Click,
    Merchant,
    Order,
    OrderChange,
    OrderReport,
    OrderStatus,
    ReportKind,
    StaffKey,
    StaffRole,
    WebhookEvent,
    WebhookStatus,
)
from app.services.orders.expiry import BATCH
from app.workers.orders import order_expiry, release_payable
from app.workers.settings import worker_kind
from tests.factories import customer_headers, make_order, staff_headers
from tests.webhooks.world import World, make_world

LONG_AGO = datetime.now(UTC) - timedelta(days=61)
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


async def expire(world: World) -> int:
    """Do what the schedule does each hour."""
    return await order_expiry(world.settings)()


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client, expire_days=60)


async def sell(world: World, order_id: str = "A-1", *, at: datetime = LONG_AGO, **payload: Any) -> None:
    await world.post("created", order_id, amount=100_000, commission=8_000, at=at, **payload)
    await world.drain()


async def policy(world: World, **values: Any) -> None:
    async with transaction() as session:
        await session.execute(update(Merchant).where(Merchant.id == world.merchant.id).values(**values))


async def history(world: World, order_id: str = "A-1") -> list[str]:
    order = await world.order(order_id)
    async with transaction() as session:
        changes = select(OrderChange.status).where(OrderChange.order_id == order.id).order_by(OrderChange.revision)
        return [status.value for status in await session.scalars(changes)]


async def test_an_order_nobody_closed_is_declined_when_its_time_is_over(world: World) -> None:
    await sell(world)
    await sell(world, "A-2", at=YESTERDAY)
    assert await expire(world) == 1
    assert await expire(world) == 0
    order = await world.order()
    assert (order.status, order.expired_as, order.expired_at is not None) == (OrderStatus.DECLINED, "declined", True)
    assert (await world.order("A-2")).status is OrderStatus.PENDING
    assert (await world.wallet(), await history(world)) == ((5_000, 0), ["pending", "declined"])
    shown = await world.client.get(
        f"/v1/me/orders/{order.id}", headers=customer_headers(world.settings, world.customer)
    )
    assert (shown.json()["status"], shown.json()["expired_at"] is not None) == ("declined", True)


async def test_or_it_is_approved_and_held_from_then_on(world: World) -> None:
    await policy(world, expire_as="approved", hold_days=30)
    await sell(world)
    assert await expire(world) == 1
    order = await world.order()
    assert (order.status, order.expired_as) == (OrderStatus.APPROVED, "approved")
    assert order.payable_at is not None
    assert order.expired_at is not None
    assert order.payable_at == order.expired_at + timedelta(days=30)
    assert await release_payable() == 0
    await policy(world, hold_days=0)
    await sell(world, "A-2")
    assert await expire(world) == 1
    assert await release_payable() == 1
    assert await world.wallet() == (5_000, 5_000)


@pytest.mark.parametrize("values", [{"expire_days": None}, {"expire_days": 62}])
async def test_without_a_policy_or_before_its_time_it_stays_open(world: World, values: dict[str, Any]) -> None:
    await policy(world, **values)
    await sell(world)
    assert await expire(world) == 0
    assert (await world.order()).status is OrderStatus.PENDING


async def test_what_a_report_has_closed_does_not_expire(world: World) -> None:
    for number, kind in enumerate(("approved", "declined", "returned")):
        await sell(world, f"A-{number}")
        await world.post(kind, f"A-{number}", at=LONG_AGO + timedelta(days=1))
    await world.drain()
    assert await expire(world) == 0


@pytest.mark.parametrize(
    ("expire_as", "kind", "status"),
    [
        ("declined", "approved", OrderStatus.APPROVED),
        ("approved", "declined", OrderStatus.DECLINED),
        ("approved", "approved", OrderStatus.APPROVED),
        ("approved", "returned", OrderStatus.DECLINED),
    ],
)
async def test_a_later_report_outranks_it(world: World, expire_as: str, kind: str, status: OrderStatus) -> None:
    await policy(world, expire_as=expire_as)
    await sell(world)
    assert await expire(world) == 1
    # Late, and about a time before the order expired.
    reported_at = YESTERDAY - timedelta(days=1)
    await world.post(kind, at=reported_at)
    await world.drain()
    order = await world.order()
    assert order.status is status
    if status is OrderStatus.APPROVED:
        assert order.approved_at == reported_at
    assert await expire(world) == 0
    assert await world.wallet() == ((5_000, 0) if status is OrderStatus.APPROVED else (0, 0))


async def test_a_report_that_closes_nothing_leaves_it_expired(world: World) -> None:
    await sell(world)
    await expire(world)
    await world.post("created", amount=200_000, commission=16_000, at=LONG_AGO + timedelta(hours=1))
    await world.drain()
    assert (await world.order()).status is OrderStatus.DECLINED
    assert await world.wallet() == (0, 0)


async def test_a_return_after_it_was_paid_out_as_approved_takes_it_back(world: World) -> None:
    await policy(world, expire_as="approved", hold_days=0)
    await sell(world)
    await expire(world)
    await release_payable()
    await world.post("returned")
    await world.drain()
    assert await history(world) == ["pending", "approved", "payable", "reversed"]
    assert await world.wallet() == (0, 0)


async def test_staff_outrank_it_too(world: World) -> None:
    await sell(world)
    await expire(world)
    async with transaction() as session:
        headers = await staff_headers(session)
    order = await world.order()
    answer = await world.client.post(
        f"/v1/admin/orders/{order.id}/adjustments",
        json={"kind": "approved", "reason": "the shop's mail of 3 May"},
        headers=headers,
    )
    assert (answer.status_code, answer.json()["status"]) == (201, "approved")
    assert await expire(world) == 0


async def test_the_schedule_has_it_each_hour(world: World) -> None:
    (task,) = [task for task in worker_kind("default", world.settings).schedule if task.name == "expire_orders"]
    assert task.interval_seconds == 3600
    await sell(world)
    await task.run()
    assert (await world.order()).status is OrderStatus.DECLINED


async def test_workers_that_race_expire_each_order_once(world: World) -> None:
    for number in range(20):
        await sell(world, f"A-{number}")
    assert sum(await asyncio.gather(*(expire(world) for _ in range(5)))) == 20
    async with transaction() as session:
        revisions = set(await session.scalars(select(Order.revision)))
    assert revisions == {2}


async def test_batches_follow_until_none_is_left(world: World) -> None:
    async with transaction() as session:
        member = StaffKey(name="test", role=StaffRole.FINANCE, prefix="0" * 8, key_hash=b"")
        session.add(member)
        click = await session.get_one(Click, world.click.id)
        for _ in range(BATCH + 1):
            order = await make_order(session, click, ordered_at=LONG_AGO)
            session.add(
                OrderReport(
                    order_id=order.id,
                    staff_key_id=member.id,
                    kind=ReportKind.CREATED,
                    occurred_at=LONG_AGO,
                    sale_minor=100_000,
                    commission_minor=8_000,
                    currency="PKR",
                )
            )
    assert await expire(world) == BATCH + 1


async def test_an_order_and_its_last_report_may_meet(world: World) -> None:
    for number in range(20):
        await sell(world, f"A-{number}")
        await world.post("approved", f"A-{number}", at=YESTERDAY)
    await asyncio.gather(world.drain(), expire(world), world.drain(), expire(world))
    await world.drain()
    async with transaction() as session:
        assert set(await session.scalars(select(Order.status))) == {OrderStatus.APPROVED}
        assert set(await session.scalars(select(WebhookEvent.status))) == {WebhookStatus.PROCESSED}
        assert (await session.scalars(select(func.count()).where(Order.approved_at != YESTERDAY))).one() == 0

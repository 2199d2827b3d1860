"""Many sales of one merchant at once: every one is credited, and no two wait for each other in a circle."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db import transaction
from app.models import CauseType, Order, OrderStatus, Transfer, Wallet, WebhookEvent, WebhookStatus
from app.workers.orders import release_payable
from tests.factories import make_click, make_customer
from tests.webhooks.world import World

CUSTOMERS, SALES = 30, 300


async def test_three_hundred_credits_of_one_merchant_by_ten_workers(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with transaction() as session:
        customers = [await make_customer(session) for _ in range(CUSTOMERS)]
        clicks = [await make_click(session, customer, world.merchant) for customer in customers]
    long_ago = datetime.now(UTC) - timedelta(days=40)

    async def report(kind: str, number: int, **amounts: Any) -> None:
        click_id = clicks[number % CUSTOMERS].id
        answer = await world.post(kind, f"A-{number}", click_id=click_id, at=long_ago, **amounts)
        assert answer.status_code == 202

    await asyncio.gather(*(report("created", number, amount=10_000, commission=800) for number in range(SALES)))
    await asyncio.gather(*(world.drain() for _ in range(10)))
    assert await wallets() == [(SALES // CUSTOMERS * 500, 0)] * CUSTOMERS
    # Meanwhile sales are approved, some declined, and what is due becomes payable, all of it at once.
    outcomes = ["declined" if number % 10 == 0 else "approved" for number in range(SALES)]
    await asyncio.gather(*(report(kind, number) for number, kind in enumerate(outcomes)))
    await asyncio.gather(*(world.drain() for _ in range(10)), *(release_payable() for _ in range(5)))
    await release_payable()
    async with transaction() as session:
        events = dict(
            (await session.execute(select(WebhookEvent.status, func.max(WebhookEvent.tries)).group_by("status"))).all()
        )
        orders = dict((await session.execute(select(Order.status, func.count()).group_by(Order.status))).all())
        transfers = select(func.count()).select_from(Transfer).where(Transfer.cause_type == CauseType.ORDER)
        # One for each sale, and one for what became of it: approval alone moves nothing.
        assert (await session.scalars(transfers)).one() == 2 * SALES
    assert events == {WebhookStatus.PROCESSED: 0}
    assert orders == {OrderStatus.PAYABLE: SALES - SALES // 10, OrderStatus.DECLINED: SALES // 10}
    assert sum(available for _, available in await wallets()) == (SALES - SALES // 10) * 500
    # A deadlock is tried again, and says so; so is a connection that a machine under load could not make in time.
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING and record.name[:4] == "app."]
    assert [vars(record).get("error") for record in warnings if vars(record).get("error") != "ConnectionError"] == []


async def wallets() -> list[tuple[int, int]]:
    """(pending, available) of every customer."""
    async with transaction() as session:
        return [(row.pending_minor, row.available_minor) for row in await session.scalars(select(Wallet))]

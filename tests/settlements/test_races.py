"""Statements, decisions, events and releases that meet on the same orders: no deadlock, and nothing counted twice."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, update

from app.db import transaction
from app.models import Merchant, Order, OrderStatus, SettlementLine, WebhookEvent, WebhookStatus
from app.workers.orders import release_payable
from tests.settlements.desk import Desk, balances, fill


async def test_statements_over_the_same_orders_in_any_order_do_not_deadlock(desk: Desk) -> None:
    await fill(desk.world.click, 200)
    forwards = [(f"B-{n}", 4_000) for n in range(1, 201)]
    answers = await asyncio.gather(*(desk.post(*lines) for lines in (forwards, forwards[::-1]) * 3))
    assert [answer.status_code for answer in answers] == [201] * 6
    async with transaction() as session:
        assert set(await session.scalars(select(Order.settled_minor))) == {6 * 4_000}
        statuses = Counter(await session.scalars(select(SettlementLine.status)))
    # The second payment completes each order, whichever statement it was in.
    assert statuses == {"short_paid": 200, "matched": 200, "over_paid": 800}


async def test_a_statement_and_the_events_of_its_orders(desk: Desk) -> None:
    world = desk.world
    sold_at = datetime.now(UTC) - timedelta(hours=1)
    for number in range(30):
        await world.post("created", f"A-{number}", amount=100_000, commission=8_000, at=sold_at)
    await world.drain()
    for number in range(30):
        kind = ("approved", "declined", "returned")[number % 3]
        if kind == "declined":
            await world.post(kind, f"A-{number}")
        else:
            await world.post(kind, f"A-{number}", amount=50_000, commission=4_000)
    statement = [(f"A-{number}", 4_000) for number in range(30)]
    await asyncio.gather(
        world.drain(),
        desk.settle(*statement),
        world.drain(),
        desk.settle(*reversed(statement)),
        release_payable(),
    )
    await world.drain()
    async with transaction() as session:
        assert set(await session.scalars(select(WebhookEvent.status))) == {WebhookStatus.PROCESSED}
        dues = (await session.execute(select(Order.status, Order.due_minor))).all()
    assert {(status, int(due)) for status, due in dues} == {
        (OrderStatus.APPROVED, -4_000),
        (OrderStatus.DECLINED, -8_000),
        (OrderStatus.PENDING, -4_000),
    }


async def test_decisions_statements_events_and_releases_at_once(desk: Desk) -> None:
    world = desk.world
    async with transaction() as session:
        await session.execute(update(Merchant).values(hold_days=0))
    sold_at = datetime.now(UTC) - timedelta(hours=1)
    for number in range(20):
        await world.post("created", f"A-{number}", amount=100_000, commission=8_000, at=sold_at)
        await world.post("approved", f"A-{number}", at=sold_at)
    await world.drain()
    lines = await desk.settle(*((f"A-{number}", 7_000) for number in range(20)))
    for number in range(0, 20, 2):
        await world.post("returned", f"A-{number}", amount=25_000, commission=2_000)
    statement = [(f"A-{number}", 1_000) for number in reversed(range(20))]
    answers, *_ = await asyncio.gather(
        asyncio.gather(*(desk.resolve(line, "written_off") for line in lines), desk.post(*statement)),
        asyncio.gather(*(world.drain() for _ in range(2))),
        asyncio.gather(*(release_payable() for _ in range(4))),
    )
    assert {answer.status_code for answer in answers} <= {200, 201, 409}
    await world.drain()
    await release_payable()
    booked = await balances()
    async with transaction() as session:
        assert set(await session.scalars(select(WebhookEvent.status))) == {WebhookStatus.PROCESSED}
        due = (await session.scalars(select(func.sum(Order.due_minor)).select_from(Order))).one()
        unpaid = (await session.scalars(select(func.count()).select_from(Order).where(Order.due_minor > 0))).one()
        payable = (await session.scalars(select(func.count()).where(Order.status == OrderStatus.PAYABLE))).one()
    assert booked.get("network_receivable", 0) == due
    assert (unpaid, payable) == (0, 20)


async def test_a_decision_and_a_statement_on_one_line_meet_in_one_order_of_locks(desk: Desk) -> None:
    for number in range(20):
        await desk.order(f"A-{number}")
    lines = await desk.settle(*((f"A-{number}", 5_000) for number in range(20)))
    answers = await asyncio.gather(
        *(desk.resolve(line, "written_off") for line in lines),
        *(desk.post((f"A-{number}", 3_000)) for number in range(20)),
    )
    assert {answer.status_code for answer in answers[:20]} <= {200, 409}
    assert {answer.status_code for answer in answers[20:]} == {201}
    async with transaction() as session:
        orders = (await session.scalars(select(Order))).all()
    # Either the payment came first and left nothing to write off, or it came after and was too much.
    assert {(order.written_off_minor, order.due_minor) for order in orders} <= {(0, 0), (3_000, -3_000)}
    assert {order.settled_minor for order in orders} == {8_000}

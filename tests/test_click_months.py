"""Clicks by month: converted without losing one, made ahead, and replaced by what orders need in the end."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.cli import alembic_config
from app.config import Settings
from app.db import transaction
from app.ids import first_id_at, new_id
from app.models import Alert, AlertKind, Click, StaffRole, WebhookStatus
from app.schemas.orders import OrderAdjustment
from app.services import alerts, click_months, staff
from app.services.click_months import compact, due_months, list_months, make_ahead
from app.services.orders.adjust import adjust_order
from app.services.retention import first_kept
from app.workers.retention import drop_clicks, retention
from tests.factories import make_click, make_customer, make_merchant, make_order

BEFORE = "9d41c7e5a208"
LATER = datetime.now(UTC) + timedelta(days=900)


async def table_of(session: AsyncSession, click: Click) -> str:
    statement = text("SELECT tableoid::regclass::text FROM clicks WHERE id = :id")
    return str((await session.execute(statement, {"id": click.id})).scalar_one())


async def make_old_click(session: AsyncSession, **changes: object) -> Click:
    """A click in the first partition, wherever in the month the test runs."""
    return await make_click(session, await make_customer(session), await make_merchant(session), **changes)


async def test_clicks_there_were_are_the_first_partition_and_no_row_is_lost(committed_db: Settings) -> None:
    def migrate(verb: str, revision: str) -> None:
        getattr(command, verb)(alembic_config(committed_db.database_url), revision)

    async with transaction() as session:
        order = await make_order(session, await make_old_click(session))
        customer, merchant = await make_customer(session), await make_merchant(session)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(migrate, "downgrade", BEFORE).result()
        async with transaction() as session:
            kinds = await session.scalars(text("SELECT relkind::text FROM pg_class WHERE relname = 'clicks'"))
            assert kinds.all() == ["r"]
            # As it was, an order needs its click.
            late = await make_click(session, customer, merchant)
        pool.submit(migrate, "upgrade", "head").result()
    async with transaction() as session:
        assert {await table_of(session, await session.get_one(Click, one)) for one in (order.click_id, late.id)} == {
            "clicks_first"
        }
        names = [month.table for month in await list_months(session)]
        assert names[0] == "clicks_first"
        assert len(names) == 4
        assert await make_ahead(session, now=datetime.now(UTC)) == 0


async def test_months_are_made_ahead_and_take_their_clicks(session: AsyncSession) -> None:
    made = await make_ahead(session, now=LATER)
    months = await list_months(session)
    assert made > 20
    assert months[-1].ends == first_kept(LATER, -click_months.MONTHS_AHEAD - 1)
    assert all(earlier.until == later.first for earlier, later in pairwise(months))
    click = await make_old_click(session, id=first_id_at(LATER))
    assert await table_of(session, click) == f"clicks_{LATER:%Y_%m}"


async def test_click_that_no_month_takes_is_kept_and_raises_an_alert(session: AsyncSession) -> None:
    assert await alerts.look(session) == 0
    stray = await make_old_click(session, id=first_id_at(LATER))
    assert await table_of(session, stray) == "clicks_stray"
    assert await alerts.look(session) == 1
    [alert] = (await session.scalars(select(Alert))).all()
    assert (alert.kind, alert.details) == (AlertKind.STRAY_CLICKS, {"clicks": 1})


async def test_month_whose_time_is_over_keeps_what_orders_came_from(
    committed_db: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_months, "_WINDOW_ROWS", 2)
    async with transaction() as session:
        idle = [await make_old_click(session) for _ in range(5)]
        bought = [await make_old_click(session, address_hint=b"h") for _ in range(3)]
        orders = [await make_order(session, click) for click in bought]
        hurried = await make_old_click(session)
    copy = click_months._copy

    async def copy_and_be_overtaken(month: click_months.Month, kept: str) -> None:
        await copy(month, kept)
        async with transaction() as session:
            orders.append(await make_order(session, await session.get_one(Click, hurried.id)))

    monkeypatch.setattr(click_months, "_copy", copy_and_be_overtaken)
    async with transaction() as session:
        [first, *_] = await list_months(session)
        over = first.ends + timedelta(days=committed_db.click_lifetime_days + committed_db.claim_max_age_days)
        [(month, undecided)] = await due_months(session, committed_db, keep_months=3, now=over)
    assert (month.table, undecided) == ("clicks_first", 0)
    assert await compact(month) == 4
    async with transaction() as session:
        left = (await session.scalars(select(Click))).all()
        assert {click.id for click in left} == {order.click_id for order in orders}
        assert {click.address_hint for click in left} == {None}
        assert not await session.scalar(select(Click.id).where(Click.id.in_([click.id for click in idle])))
        # What an order is can still be computed, and the month takes late clicks as before.
        member, _ = await staff.create_key(session, name="desk", role=StaffRole.FINANCE)
        amounts = {
            "sale": {"amount_minor": 200_000, "currency": "PKR"},
            "commission": {"amount_minor": 9, "currency": "PKR"},
        }
        wanted = OrderAdjustment.model_validate({"kind": "created", **amounts, "reason": "as the shop says"})
        for order in orders:
            changed = await adjust_order(session, committed_db, order_id=order.id, member=member, wanted=wanted)
            assert changed.cashback_minor == 10_000
        assert (await table_of(session, await make_old_click(session))).startswith("clicks_kept_")
        assert not await due_months(session, committed_db, keep_months=3, now=over)
        strange = text("SELECT relname FROM pg_class WHERE relname = 'clicks_first'")
        assert (await session.execute(strange)).all() == []


async def test_month_stays_while_a_sale_counts_can_be_claimed_or_an_event_is_undecided(
    committed_db: Settings,
) -> None:
    async with transaction() as session:
        [first, *_] = await list_months(session)
        grace = timedelta(days=committed_db.click_lifetime_days + committed_db.claim_max_age_days)
        for late, due in ((timedelta(seconds=-1), 0), (timedelta(0), 1)):
            found = await due_months(session, committed_db, keep_months=3, now=first.ends + grace + late)
            assert len(found) == due
        merchant = await make_merchant(session)
        await session.execute(
            text(
                "INSERT INTO webhook_events"
                " (id, source_id, dedupe_key, body, body_sha256, content_type, headers, status)"
                " VALUES (:id, :source, 'k', '', '', '', '{}', :status)"
            ),
            {"id": new_id(), "source": merchant.source_id, "status": WebhookStatus.ORPHANED.value},
        )
        [(_, undecided)] = await due_months(session, committed_db, keep_months=3, now=first.ends + grace)
    assert undecided == 1
    # By today's clock nothing is due, and by default nothing is dropped; the task makes months all the same.
    assert await drop_clicks(committed_db, 3) == []
    assert await retention(committed_db)() == 0

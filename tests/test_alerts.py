"""Alerts: opened by what is wrong, refreshed while it lasts, closed when it is over."""

import math
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import first_id_at, new_id
from app.models import (
    Alert,
    AlertKind,
    Feed,
    FeedFormat,
    Merchant,
    Notification,
    SyncRun,
    SyncStatus,
    WebhookEvent,
    WebhookStatus,
)
from app.schemas.notifications import EndpointCreate
from app.services.alerts import is_silence, look, poisson_at_most
from app.services.notifications.endpoints import create_endpoint
from tests.factories import make_click, make_customer, make_merchant, make_order, make_source, staff_headers

NOW = datetime.now(UTC)


async def make_history(session: AsyncSession, *, weeks: int, a_day: int, today: int) -> Merchant:
    """A merchant with so many orders in the last 24 hours of each week before, and today."""
    merchant = await make_merchant(session, created_at=NOW - timedelta(days=365))
    click = await make_click(session, await make_customer(session), merchant)
    for week in range(weeks + 1):
        for number in range(a_day if week else today):
            at = NOW - timedelta(weeks=week, hours=1, minutes=number)
            # An order's id begins with the time it was made.
            made = first_id_at(at).int | (new_id().int & (1 << 74) - 1)
            await make_order(session, click, sale=0, commission=0, cashback=0, id=UUID(int=made))
    return merchant


async def test_a_merchant_that_usually_converts_and_stopped_is_shown_until_it_sells_again(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    merchant = await make_history(session, weeks=8, a_day=10, today=0)
    await make_history(session, weeks=8, a_day=10, today=9)
    assert await look(session, now=NOW) == 1
    headers = await staff_headers(session)
    (alert,) = (await client.get("/v1/admin/alerts?open=true", headers=headers)).json()["items"]
    assert (alert["kind"], alert["merchant_id"], alert["name"]) == ("silence", merchant.id, merchant.name)
    assert alert["details"] == {"expected": 10.0, "actual": 0, "hours": 24, "weeks_of_history": 8}
    # Looking again opens no second one.
    assert await look(session, now=NOW) == 1
    # A day later it is no longer the day of the week on which it usually sells.
    assert await look(session, now=NOW + timedelta(days=2)) == 0
    (closed,) = (await client.get("/v1/admin/alerts?open=false&kind=silence", headers=headers)).json()["items"]
    assert closed["closed_at"] is not None
    metrics = (await client.get("/metrics")).text
    assert 'alerts_open{kind="silence"} 0.0' in metrics


async def test_a_new_merchant_and_one_with_few_orders_are_not_judged(session: AsyncSession) -> None:
    await make_history(session, weeks=8, a_day=2, today=0)
    young = await make_history(session, weeks=8, a_day=10, today=0)
    young.created_at = NOW - timedelta(weeks=4)
    await session.flush()
    assert await look(session, now=NOW) == 0


@given(mean=st.floats(0.1, 500), count=st.integers(0, 500))
def test_the_probability_is_one_and_grows_with_the_count(mean: float, count: int) -> None:
    here, more = poisson_at_most(count, mean), poisson_at_most(count + 1, mean)
    assert 0 <= here <= more <= 1
    assert poisson_at_most(0, mean) == pytest.approx(math.exp(-mean))


def test_silence_is_improbable_and_deep() -> None:
    assert is_silence(0, 7.0)
    assert not is_silence(0, 6.0)
    # A bad day of a large merchant is improbable too, but it is no silence.
    assert poisson_at_most(800, 1000.0) < 0.001
    assert not is_silence(800, 1000.0)
    assert is_silence(150, 1000.0)


async def test_a_feed_without_success_for_two_intervals_is_stale(session: AsyncSession) -> None:
    merchants = [await make_merchant(session) for _ in range(3)]
    for merchant, hours in zip(merchants, (1, 60, None), strict=True):
        session.add(
            Feed(
                merchant_id=merchant.id,
                url="https://shop.example/feed.csv",
                format=FeedFormat.CSV,
                mapping={},
                updated_at=NOW - timedelta(days=9),
            )
        )
        if hours is not None:
            finished = NOW - timedelta(hours=hours)
            session.add(SyncRun(merchant_id=merchant.id, status=SyncStatus.SUCCEEDED, finished_at=finished))
            session.add(SyncRun(merchant_id=merchant.id, status=SyncStatus.FAILED, finished_at=NOW))
    await session.flush()
    assert await look(session, now=NOW) == 2
    stale = (await session.scalars(select(Alert).order_by(Alert.merchant_id))).all()
    assert [alert.merchant_id for alert in stale] == [merchants[1].id, merchants[2].id]
    assert stale[0].details["last_success_at"] is not None
    assert stale[1].details["last_success_at"] is None
    session.add(SyncRun(merchant_id=merchants[1].id, status=SyncStatus.SUCCEEDED, finished_at=NOW))
    await session.flush()
    assert await look(session, now=NOW) == 1


async def test_a_source_whose_events_fail_is_shown_and_told_to_the_operators_system(
    session: AsyncSession, settings: Settings
) -> None:
    wanted = EndpointCreate.model_validate({"url": "https://ops.example/", "topics": ["alert"]})
    await create_endpoint(session, settings, wanted=wanted)
    good, bad = await make_source(session), await make_source(session)
    for source, broken in ((good, 4), (bad, 5)):
        for number in range(20):
            session.add(
                WebhookEvent(
                    source_id=source.id,
                    dedupe_key=str(number),
                    body=b"",
                    body_sha256=b"",
                    content_type="text/plain",
                    headers={},
                    status=WebhookStatus.REJECTED if number < broken else WebhookStatus.PROCESSED,
                )
            )
    await session.flush()
    later = datetime.now(UTC) + timedelta(seconds=1)
    assert await look(session, now=later) == 1
    alert = (await session.scalars(select(Alert))).one()
    assert (alert.kind, alert.source_id) == (AlertKind.FAILING_SOURCE, bad.id)
    assert alert.details == {"events": 20, "failed": 5, "minutes": 60}
    assert await look(session, now=later + timedelta(hours=2)) == 0
    told = (await session.scalars(select(Notification).order_by(Notification.id))).all()
    assert [message.type for message in told] == ["alert.opened", "alert.closed"]
    assert told[1].data["alert_id"] == str(alert.id)

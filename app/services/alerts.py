"""Alerts: merchants that fell silent, stale feeds, sources that fail or cannot be polled, orders held for long.

Silence is judged against a merchant's own history: the orders heard of in the last 24 hours beside those of the same 24
hours of the week in each of the eight weeks before. Orders are rare, independent events, so their number is taken to be
Poisson distributed with the mean of those weeks; a number so small that it comes up once in a thousand, and is at most
a fifth of the mean, is silence.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, case, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import first_id_at
from app.models import (
    Alert,
    AlertKind,
    Feed,
    Merchant,
    MerchantStatus,
    Order,
    OrderReview,
    Poller,
    ReviewStatus,
    Source,
    SourceStatus,
    SyncRun,
    SyncStatus,
    WebhookEvent,
    WebhookStatus,
)
from app.schemas.alerts import AlertRead
from app.schemas.common import Page, utc
from app.services.click_months import count_strays
from app.services.notifications import Topic, publish
from app.services.pagination import newest_rows

_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_WEEKS = 8
# With fewer weeks of history a merchant is too new to be judged.
_FEWEST_WEEKS = 4
_UNLIKELY = 0.001
_MOST_SHARE_OF_EXPECTED = 0.2
# A feed is stale after two of its intervals and an hour for the sync itself.
_STALE_INTERVALS = 2
_STALE_GRACE = timedelta(hours=1)
_SOURCE_WINDOW = timedelta(hours=1)
_FEWEST_EVENTS = 20
_MOST_FAILED_SHARE = 0.2
# A poll that failed once is tried again before anybody is told.
_MOST_FAILED_POLLS = 2
# Customers wait for a decision, who have done nothing wrong as a rule.
_REVIEW_PATIENCE = timedelta(hours=48)
_FAILED = (WebhookStatus.REJECTED, WebhookStatus.DEAD, WebhookStatus.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong now, with the figures that say so."""

    kind: AlertKind
    details: Mapping[str, Any]
    merchant_id: int | None = None
    source_id: int | None = None

    @property
    def subject(self) -> tuple[AlertKind, int | None, int | None]:
        """What it is about: one alert at a time."""
        return self.kind, self.merchant_id, self.source_id


def is_silence(actual: int, expected: float) -> bool:
    """Whether so few orders, where so many are usual, are more than bad luck."""
    return actual <= expected * _MOST_SHARE_OF_EXPECTED and poisson_at_most(actual, expected) < _UNLIKELY


def poisson_at_most(count: int, mean: float) -> float:
    """Return the probability of `count` or fewer events where `mean` are expected (Poisson's distribution function)."""
    if mean <= 0:
        return 1.0
    # In logarithms: the terms of a large mean would underflow.
    return min(1.0, sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1)))


async def look(session: AsyncSession, *, now: datetime | None = None) -> int:
    """Open an alert for whatever is wrong, refresh the figures of open ones, and close those that are over.

    Returns the number of open alerts. One worker at a time (the schedule sees to it).
    """
    now = now or datetime.now(UTC)
    found = {finding.subject: finding for finding in await _findings(session, now)}
    open_alerts = await session.scalars(select(Alert).where(Alert.closed_at.is_(None)).with_for_update())
    for alert in open_alerts:
        finding = found.pop((alert.kind, alert.merchant_id, alert.source_id), None)
        if finding is None:
            alert.closed_at = now
            await _tell(session, alert, "closed")
        else:
            alert.details = dict(finding.details)
    for finding in found.values():
        alert = Alert(
            kind=finding.kind,
            merchant_id=finding.merchant_id,
            source_id=finding.source_id,
            details=dict(finding.details),
            opened_at=now,
        )
        session.add(alert)
        await session.flush()
        await _tell(session, alert, "opened")
    await session.flush()
    return await session.scalar(select(func.count()).where(Alert.closed_at.is_(None))) or 0


async def list_alerts(
    session: AsyncSession, *, limit: int, cursor: str | None, kind: AlertKind | None, is_open: bool | None
) -> Page[AlertRead]:
    """Return alerts, newest first. Raises InvalidCursorError."""
    statement = (
        select(Alert, Merchant.name, Source.name)
        .outerjoin(Merchant, Merchant.id == Alert.merchant_id)
        .outerjoin(Source, Source.id == Alert.source_id)
    )
    if kind is not None:
        statement = statement.where(Alert.kind == kind)
    if is_open is not None:
        statement = statement.where(Alert.closed_at.is_(None) if is_open else Alert.closed_at.is_not(None))
    rows, next_cursor = await newest_rows(session, statement, Alert.id, limit=limit, cursor=cursor)
    items = [
        AlertRead(
            id=alert.id,
            kind=alert.kind,
            merchant_id=alert.merchant_id,
            source_id=alert.source_id,
            name=merchant or source or "",
            details=alert.details,
            opened_at=alert.opened_at,
            closed_at=alert.closed_at,
        )
        for alert, merchant, source in rows
    ]
    return Page(items=items, next_cursor=next_cursor)


async def count_open(session: AsyncSession) -> dict[str, int]:
    """Count open alerts by kind."""
    rows = await session.execute(select(Alert.kind, func.count()).where(Alert.closed_at.is_(None)).group_by(Alert.kind))
    return {kind.value: 0 for kind in AlertKind} | {kind.value: count for kind, count in rows}


async def _findings(session: AsyncSession, now: datetime) -> list[Finding]:
    return [
        *await _silent_merchants(session, now),
        *await _stale_feeds(session, now),
        *_one_a_source([*await _failing_sources(session, now), *await _failing_polls(session, now)]),
        *await _waiting_reviews(session, now),
        *await _stray_clicks(session),
    ]


async def _silent_merchants(session: AsyncSession, now: datetime) -> Iterable[Finding]:
    merchants = await session.execute(
        select(Merchant.id, Merchant.created_at).where(Merchant.status == MerchantStatus.ACTIVE)
    )
    actual = await _orders_a_merchant(session, until=now)
    history = [await _orders_a_merchant(session, until=now - week * _WEEK) for week in range(1, _WEEKS + 1)]
    findings = []
    for merchant_id, created_at in merchants:
        weeks = min(_WEEKS, (now - created_at - _DAY) // _WEEK)
        if weeks < _FEWEST_WEEKS:
            continue
        expected = sum(week.get(merchant_id, 0) for week in history[:weeks]) / weeks
        heard = actual.get(merchant_id, 0)
        if is_silence(heard, expected):
            details = {"expected": round(expected, 1), "actual": heard, "hours": 24, "weeks_of_history": weeks}
            findings.append(Finding(AlertKind.SILENCE, details, merchant_id=merchant_id))
    return findings


async def _orders_a_merchant(session: AsyncSession, *, until: datetime) -> dict[int, int]:
    """Count by merchant the orders that were first heard of in the 24 hours before."""
    # An order's id begins with the time it was made: a range of ids is a range of the primary key.
    rows = await session.execute(
        select(Order.merchant_id, func.count())
        .where(Order.id >= first_id_at(until - _DAY), Order.id < first_id_at(until))
        .group_by(Order.merchant_id)
    )
    return {row[0]: row[1] for row in rows}


async def _stale_feeds(session: AsyncSession, now: datetime) -> Iterable[Finding]:
    last = (
        select(
            func.max(case((SyncRun.status == SyncStatus.SUCCEEDED, SyncRun.finished_at))).label("succeeded_at"),
            func.max(SyncRun.finished_at).label("finished_at"),
        )
        .where(SyncRun.merchant_id == Feed.merchant_id)
        .lateral("last")
    )
    allowed = Feed.interval_seconds * _STALE_INTERVALS * literal(timedelta(seconds=1)) + _STALE_GRACE
    rows = await session.execute(
        select(Feed.merchant_id, Feed.interval_seconds, last.c.succeeded_at, last.c.finished_at)
        .join(Merchant, Merchant.id == Feed.merchant_id)
        .join(last, literal(True))  # noqa: FBT003 - a condition that always holds
        .where(
            Feed.enabled,
            Merchant.status == MerchantStatus.ACTIVE,
            func.coalesce(last.c.succeeded_at, Feed.updated_at) + allowed < now,
        )
    )
    return [
        Finding(
            AlertKind.STALE_FEED,
            {
                "last_success_at": row.succeeded_at and utc(row.succeeded_at),
                "last_attempt_at": row.finished_at and utc(row.finished_at),
                "interval_seconds": row.interval_seconds,
            },
            merchant_id=row.merchant_id,
        )
        for row in rows
    ]


async def _failing_sources(session: AsyncSession, now: datetime) -> Iterable[Finding]:
    failed = func.count().filter(WebhookEvent.status.in_(_FAILED))
    statement: Select[int, int, int] = (
        select(WebhookEvent.source_id, func.count(), failed)
        .join(Source, Source.id == WebhookEvent.source_id)
        .where(
            WebhookEvent.id >= first_id_at(now - _SOURCE_WINDOW),
            WebhookEvent.id < first_id_at(now),
            Source.status == SourceStatus.ACTIVE,
        )
        .group_by(WebhookEvent.source_id)
        .having(func.count() >= _FEWEST_EVENTS, failed > func.count() * _MOST_FAILED_SHARE)
    )
    return [
        Finding(
            AlertKind.FAILING_SOURCE,
            {"events": events, "failed": broken, "minutes": int(_SOURCE_WINDOW.total_seconds() // 60)},
            source_id=source_id,
        )
        for source_id, events, broken in await session.execute(statement)
    ]


async def _failing_polls(session: AsyncSession, now: datetime) -> Iterable[Finding]:
    """Find sources whose polls fail, or do not come: what they know of sales is not known here."""
    allowed = Poller.interval_seconds * _STALE_INTERVALS * literal(timedelta(seconds=1)) + _STALE_GRACE
    rows = await session.scalars(
        select(Poller)
        .join(Source, Source.id == Poller.source_id)
        .where(
            Poller.enabled,
            Source.status == SourceStatus.ACTIVE,
            or_(
                Poller.failures > _MOST_FAILED_POLLS,
                func.coalesce(Poller.last_success_at, Poller.created_at) + allowed < now,
            ),
        )
    )
    return [
        Finding(
            AlertKind.FAILING_SOURCE,
            {
                "failed_polls": poller.failures,
                "poll_error": poller.last_error,
                "last_poll_success_at": poller.last_success_at and utc(poller.last_success_at),
            },
            source_id=poller.source_id,
        )
        for poller in rows
    ]


def _one_a_source(findings: Iterable[Finding]) -> Iterable[Finding]:
    """Make one finding of those about the same source, with the figures of all."""
    found: dict[int | None, Finding] = {}
    for finding in findings:
        known = found.get(finding.source_id)
        details = {**(known.details if known else {}), **finding.details}
        found[finding.source_id] = Finding(finding.kind, details, source_id=finding.source_id)
    return found.values()


async def _waiting_reviews(session: AsyncSession, now: datetime) -> Iterable[Finding]:
    rows = await session.execute(
        select(OrderReview.merchant_id, func.count(), func.min(OrderReview.held_since))
        .where(OrderReview.status == ReviewStatus.HELD, OrderReview.held_since < now - _REVIEW_PATIENCE)
        .group_by(OrderReview.merchant_id)
    )
    return [
        Finding(
            AlertKind.WAITING_REVIEWS,
            {"orders": count, "held_since": utc(since), "hours": int(_REVIEW_PATIENCE.total_seconds() // 3600)},
            merchant_id=merchant_id,
        )
        for merchant_id, count, since in rows
    ]


async def _stray_clicks(session: AsyncSession) -> Iterable[Finding]:
    strays = await count_strays(session)
    return [Finding(AlertKind.STRAY_CLICKS, {"clicks": strays})] if strays else []


async def _tell(session: AsyncSession, alert: Alert, event: str) -> None:
    await publish(
        session,
        Topic.ALERT,
        event,
        {
            "alert_id": str(alert.id),
            "kind": alert.kind.value,
            "merchant_id": alert.merchant_id,
            "source_id": alert.source_id,
            "details": alert.details,
            "opened_at": utc(alert.opened_at),
            "closed_at": alert.closed_at and utc(alert.closed_at),
        },
    )

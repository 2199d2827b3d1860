"""Processing one stored event: read it, attribute it to a click, apply it to its order.

All in one transaction that holds the event's row, so that a job that runs twice, or is killed, does no harm.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.config import Settings
from app.db import ring_after_commit
from app.ids import new_id
from app.models import Click, Merchant, Order, OrderReport, OrderStatus, Source, SourceKind, WebhookEvent, WebhookStatus
from app.services.orders.cashback import needs_merchant_currency
from app.services.orders.change import follow_reports
from app.services.orders.fold import Report, fold
from app.services.webhooks import awin, direct
from app.services.webhooks.payload import PayloadError, SaleReport

# Clocks differ; a sale is only "before its click" beyond this.
CLOCK_SKEW = timedelta(minutes=10)
_FIRST_RETRY_SECONDS = 2
_MOST_REASON_CHARACTERS = 2000


class NotAttributedError(Exception):
    """The event cannot be credited; its message says why and `status` where it waits."""

    def __init__(self, status: WebhookStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def _orphan(reason: str) -> NotAttributedError:
    return NotAttributedError(WebhookStatus.ORPHANED, reason)


def _quarantine(reason: str) -> NotAttributedError:
    return NotAttributedError(WebhookStatus.QUARANTINED, reason)


@dataclass(frozen=True, slots=True)
class _Attribution:
    click: Click
    merchant: Merchant
    order: Order
    is_new: bool


async def waiting_events(session: AsyncSession, *, limit: int) -> list[tuple[UUID, str | None]]:
    """Return (id, request id) of events that are due, oldest first."""
    rows = await session.execute(
        select(WebhookEvent.id, WebhookEvent.request_id)
        .where(WebhookEvent.status == WebhookStatus.RECEIVED, WebhookEvent.next_attempt_at <= func.now())
        .order_by(WebhookEvent.next_attempt_at)
        .limit(limit)
    )
    return [(row.id, row.request_id) for row in rows]


async def process_event(session: AsyncSession, settings: Settings, event_id: UUID) -> WebhookStatus | None:
    """Process an event that waits; returns its new status, or None when another worker has it or had it."""
    row = (
        await session.execute(
            select(WebhookEvent, Source)
            .join(Source, Source.id == WebhookEvent.source_id)
            .where(WebhookEvent.id == event_id, WebhookEvent.status == WebhookStatus.RECEIVED)
            .with_for_update(skip_locked=True, of=WebhookEvent)
        )
    ).one_or_none()
    if row is None:
        return None
    event, source = row
    try:
        report = _read(source, event)
        event.external_order_id = report.external_order_id
        # One report of an order at a time: so that of two that arrive together, the one that cannot find its order
        # yet is seen as an orphan by the one that creates it.
        await session.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:order, :source))"),
            {"order": report.external_order_id, "source": source.id},
        )
        found = await _attribute(session, source, report)
        await _apply(session, settings, event, report, found)
        event.order_id = found.order.id
        event.status, event.reason = WebhookStatus.PROCESSED, None
        if found.is_new:
            await _wake_orphans(session, event)
    except PayloadError as error:
        event.status, event.reason = WebhookStatus.REJECTED, str(error)[:_MOST_REASON_CHARACTERS]
    except NotAttributedError as error:
        event.status, event.reason = error.status, str(error)
    event.processed_at = datetime.now(UTC)
    await session.flush()
    metrics.WEBHOOKS_PROCESSED.labels(event.status.value).inc()
    return event.status


async def note_failure(session: AsyncSession, settings: Settings, event_id: UUID, error: Exception) -> WebhookStatus:
    """Count a failed try, with the wait doubling from 2 s; after `webhook_max_tries` the event is dead."""
    event = await session.get_one(WebhookEvent, event_id, with_for_update=True)
    event.tries += 1
    event.reason = f"{type(error).__name__}: {error}"[:_MOST_REASON_CHARACTERS]
    if event.tries >= settings.webhook_max_tries:
        event.status = WebhookStatus.DEAD
        event.processed_at = datetime.now(UTC)
        metrics.WEBHOOKS_PROCESSED.labels(event.status.value).inc()
    else:
        event.next_attempt_at = datetime.now(UTC) + timedelta(seconds=_FIRST_RETRY_SECONDS * 2**event.tries)
    await session.flush()
    return event.status


def _read(source: Source, event: WebhookEvent) -> SaleReport:
    match source.kind:
        case SourceKind.DIRECT:
            return direct.read(event.body, received_at=event.received_at)
        case SourceKind.AWIN:
            return awin.read(event.body, event.content_type, click_field=source.subid_parameter)
        case _:
            assert_never(source.kind)


async def _attribute(session: AsyncSession, source: Source, report: SaleReport) -> _Attribution:
    """Find the order the report is about, or the click that a new one came from. Raises NotAttributedError."""
    if report.click_reference is None:
        return await _by_order(session, source, report)
    row = (
        await session.execute(
            select(Click, Merchant).join(Merchant, Merchant.id == Click.merchant_id).where(Click.id == report.click_id)
        )
    ).one_or_none()
    if row is None:
        raise _orphan(f"no click has the reference {report.click_reference[:80]!r}")
    click, merchant = row
    if merchant.source_id != source.id:
        raise _quarantine(f"click {click.id} belongs to {merchant.slug}, which this source does not report for")
    if None not in (report.network_merchant_ref, merchant.network_merchant_ref) and (
        report.network_merchant_ref != merchant.network_merchant_ref
    ):
        raise _quarantine(
            f"click {click.id} belongs to {merchant.slug} ({merchant.network_merchant_ref}),"
            f" the report names {report.network_merchant_ref}"
        )
    order = await session.scalar(
        select(Order)
        .where(Order.merchant_id == merchant.id, Order.external_id == report.external_order_id)
        .with_for_update()
    )
    if order is None:
        return _Attribution(click, merchant, _new_order(source, report, click, merchant), is_new=True)
    if order.click_id != click.id:
        raise _quarantine(f"order {report.external_order_id!r} is attributed to another click already")
    return _Attribution(click, merchant, _same_currency(order, report), is_new=False)


async def _by_order(session: AsyncSession, source: Source, report: SaleReport) -> _Attribution:
    orders = (
        await session.scalars(
            select(Order)
            .where(Order.source_id == source.id, Order.external_id == report.external_order_id)
            .limit(2)
            .with_for_update()
        )
    ).all()
    if not orders:
        raise _orphan(f"no click, and no order {report.external_order_id!r} of this source yet")
    if len(orders) > 1:
        raise _quarantine(f"several merchants of this source have an order {report.external_order_id!r}")
    (order,) = orders
    click = await session.get_one(Click, order.click_id)
    merchant = await session.get_one(Merchant, order.merchant_id)
    return _Attribution(click, merchant, _same_currency(order, report), is_new=False)


def _new_order(source: Source, report: SaleReport, click: Click, merchant: Merchant) -> Order:
    if report.currency is None or report.sale_minor is None or report.commission_minor is None:
        # An approval that came before its sale: it waits, and is woken by the order's creation.
        raise _orphan(f"no order {report.external_order_id!r} yet, and no amounts to make one of")
    if report.occurred_at > click.expires_at:
        raise _quarantine(f"the sale is later than click {click.id} counts ({click.expires_at:%Y-%m-%d})")
    if report.currency != click.currency and needs_merchant_currency(click):
        raise _quarantine(f"the rate of click {click.id} is in {click.currency}, the sale in {report.currency}")
    if source.kind is not SourceKind.DIRECT:
        _fence(report, click)
    return Order(
        id=new_id(),
        merchant_id=merchant.id,
        external_id=report.external_order_id,
        source_id=source.id,
        customer_id=click.customer_id,
        click_id=click.id,
        status=OrderStatus.PENDING,
        currency=report.currency,
        sale_minor=0,
        commission_minor=0,
        cashback_minor=0,
        explanation={},
        ordered_at=report.occurred_at,
        revision=0,
    )


def _fence(report: SaleReport, click: Click) -> None:
    """What an unsigned source says must at least be plausible."""
    if report.occurred_at < click.created_at - CLOCK_SKEW:
        raise _quarantine(f"the sale is earlier than click {click.id}")
    sale_minor, commission_minor = report.sale_minor or 0, report.commission_minor or 0
    if sale_minor <= 0:
        raise _quarantine("the sale is zero")
    if commission_minor > sale_minor:
        raise _quarantine("the commission is larger than the sale")


def _same_currency(order: Order, report: SaleReport) -> Order:
    if report.currency not in (None, order.currency):
        raise _quarantine(f"the order is in {order.currency}, the report in {report.currency}")
    return order


async def _apply(
    session: AsyncSession, settings: Settings, event: WebhookEvent, report: SaleReport, found: _Attribution
) -> None:
    """Add the report to its order's and bring the order to what they fold to."""
    order = found.order
    known = [] if found.is_new else await _reports_of(session, order)
    # An event that is replayed says again what it said: its report is replaced, not added.
    stored = next((row for row in known if row.webhook_event_id == event.id), None)
    if stored is None:
        stored = OrderReport(order_id=order.id, webhook_event_id=event.id, currency=order.currency)
        known.append(stored)
    stored.kind, stored.occurred_at = report.kind, report.occurred_at
    stored.sale_minor, stored.commission_minor = report.sale_minor, report.commission_minor
    await follow_reports(
        session,
        order,
        fold(
            Report(row.webhook_event_id, row.kind, row.occurred_at, row.sale_minor, row.commission_minor)
            for row in known
        ),
        click=found.click,
        merchant=found.merchant,
        rounding=settings.cashback_rounding,
        now=datetime.now(UTC),
    )
    session.add(stored)


async def _reports_of(session: AsyncSession, order: Order) -> list[OrderReport]:
    return list(await session.scalars(select(OrderReport).where(OrderReport.order_id == order.id)))


async def _wake_orphans(session: AsyncSession, event: WebhookEvent) -> None:
    """Let reports that came before their order was known be tried again."""
    woken = await session.execute(
        update(WebhookEvent)
        .where(
            WebhookEvent.source_id == event.source_id,
            WebhookEvent.external_order_id == event.external_order_id,
            WebhookEvent.status == WebhookStatus.ORPHANED,
            WebhookEvent.id != event.id,
        )
        .values(status=WebhookStatus.RECEIVED, next_attempt_at=func.now())
        .returning(WebhookEvent.id)
    )
    if woken.first() is not None:
        ring_after_commit(session, "drain_webhooks")

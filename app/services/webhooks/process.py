"""Processing one stored event: read it, attribute it to a click, apply it to its order.

All in one transaction that holds the event's row, so that a job that runs twice, or is killed, does no harm.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

from sqlalchemy import Text, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.config import Settings
from app.db import ring_after_commit
from app.ids import new_id
from app.models import (
    CLOCK_SKEW,
    Claim,
    Click,
    Merchant,
    Order,
    OrderReport,
    Source,
    SourceKind,
    WebhookEvent,
    WebhookStatus,
    reference_key,
)
from app.money import MoneyError
from app.services.claims.follow import follow_event
from app.services.claims.granted import by_hand, find_granted
from app.services.orders.report import NoExchangeRateError, Said, lock_reference, start_order, take_reports
from app.services.webhooks import awin, direct
from app.services.webhooks.payload import PayloadError, SaleReport

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
        report = read_report(source, event)
        _note(event, report)
        await lock_reference(session, source_id=source.id, external_id=report.external_order_id)
        found = await _find(session, settings, event, source, report)
        await _apply(session, settings, event, report, found)
        event.order_id, event.merchant_id = found.order.id, found.merchant.id
        event.status, event.reason, event.waits_for = WebhookStatus.PROCESSED, None, None
    except (PayloadError, MoneyError) as error:
        event.status, event.reason = WebhookStatus.REJECTED, str(error)[:_MOST_REASON_CHARACTERS]
    except NoExchangeRateError as error:
        event.status, event.reason = WebhookStatus.QUARANTINED, str(error)
        event.waits_for = error.waits_for
    except NotAttributedError as error:
        event.status, event.reason = error.status, str(error)
    event.processed_at = datetime.now(UTC)
    await session.flush()
    if event.matched_click_id is not None:
        await follow_event(session, event)
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


def read_report(source: Source, event: WebhookEvent) -> SaleReport:
    """Read what a source posted. Raises PayloadError."""
    match source.kind:
        case SourceKind.DIRECT:
            return direct.read(event.body, received_at=event.received_at)
        case SourceKind.AWIN:
            return awin.read(event.body, event.content_type, click_field=source.subid_parameter)
        case _:
            assert_never(source.kind)


def _note(event: WebhookEvent, report: SaleReport) -> None:
    """Keep with the event what was read, by which it finds its order, or a claim finds it."""
    event.external_order_id, event.reported_kind = report.external_order_id, report.kind
    event.reported_currency, event.reported_sale_minor = report.currency, report.sale_minor
    event.reported_at = report.occurred_at


async def _find(
    session: AsyncSession, settings: Settings, event: WebhookEvent, source: Source, report: SaleReport
) -> _Attribution:
    try:
        return await _attribute(session, settings, event, source, report)
    except NotAttributedError as error:
        if error.status is WebhookStatus.ORPHANED:
            # A customer may miss this very sale.
            event.merchant_id = await _merchant_id(session, source, report)
            event.compared_at = None
            ring_after_commit(session, "match_claims")
        raise


async def _merchant_id(session: AsyncSession, source: Source, report: SaleReport) -> int | None:
    """Return the merchant of a report that has no click, where that is certain."""
    of_source = select(Merchant.id).where(Merchant.source_id == source.id)
    if report.network_merchant_ref is not None:
        of_source = of_source.where(Merchant.network_merchant_ref == report.network_merchant_ref)
    ids = (await session.scalars(of_source.limit(2))).all()
    return ids[0] if len(ids) == 1 else None


async def _attribute(
    session: AsyncSession, settings: Settings, event: WebhookEvent, source: Source, report: SaleReport
) -> _Attribution:
    """Find the order the report is about, or the click that a new one came from. Raises NotAttributedError."""
    # What staff or a claim attributed an orphan to holds in place of the reference it lacks.
    click_id = event.matched_click_id or report.click_id
    if click_id is None and report.click_reference is None:
        return await _by_order(session, source, report)
    row = (
        await session.execute(
            select(Click, Merchant).join(Merchant, Merchant.id == Click.merchant_id).where(Click.id == click_id)
        )
    ).one_or_none()
    if row is None:
        # A reference that leads nowhere, perhaps of an order that was attributed all the same.
        return await _by_order(session, source, report)
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
        order = await _granted(session, event, report, click)
    if order is None:
        order = await _new_order(session, settings, source, report, click, merchant)
        return _Attribution(click, merchant, order, is_new=True)
    if order.click_id != click.id:
        if order.customer_id != click.customer_id:
            raise _quarantine(f"order {report.external_order_id!r} is attributed to another click already")
        # A customer's claim was granted before this came: the order keeps what was promised for it then.
        click = await session.get_one(Click, order.click_id)
    return _Attribution(click, merchant, _same_currency(order, report), is_new=False)


async def _granted(session: AsyncSession, event: WebhookEvent, report: SaleReport, click: Click) -> Order | None:
    """Return the order that a claim made of this sale, if one did. Raises NotAttributedError when that is not sure."""
    found = await find_granted(
        session,
        click,
        reference=report.external_order_id,
        currency=report.currency,
        sale_minor=report.sale_minor,
        at=report.occurred_at,
    )
    if found.order_id is not None:
        return await session.get_one(Order, found.order_id, with_for_update=True)
    if found.like_claim_id is not None and event.matched_click_id is None:
        raise _orphan(
            f"claim {found.like_claim_id} of this customer was credited by hand for a like sale:"
            " match this if it is another one, discard it if it is the same"
        )
    return None


async def _by_order(session: AsyncSession, source: Source, report: SaleReport) -> _Attribution:
    of_source = (
        select(Order)
        .join(Merchant, Merchant.id == Order.merchant_id)
        .where(
            Order.source_id == source.id,
            # Merchants of one network count their orders each from 1.
            or_(
                literal(report.network_merchant_ref, Text).is_(None),
                Merchant.network_merchant_ref == report.network_merchant_ref,
            ),
        )
        .limit(2)
        .with_for_update(of=Order)
    )
    orders = (await session.scalars(of_source.where(Order.external_id == report.external_order_id))).all()
    if not orders:
        claimed = of_source.join(Claim, Claim.order_id == Order.id).where(
            Claim.merchant_id == Merchant.id, *by_hand(literal(reference_key(report.external_order_id)))
        )
        orders = (await session.scalars(claimed)).all()
    if not orders:
        if report.click_reference is not None:
            raise _orphan(f"no click has the reference {report.click_reference[:80]!r}")
        raise _orphan(f"no click, and no order {report.external_order_id!r} of this source yet")
    if len(orders) > 1:
        raise _quarantine(f"several merchants of this source have an order {report.external_order_id!r}")
    (order,) = orders
    click = await session.get_one(Click, order.click_id)
    merchant = await session.get_one(Merchant, order.merchant_id)
    return _Attribution(click, merchant, _same_currency(order, report), is_new=False)


async def _new_order(
    session: AsyncSession, settings: Settings, source: Source, report: SaleReport, click: Click, merchant: Merchant
) -> Order:
    if report.currency is None or report.sale_minor is None or report.commission_minor is None:
        # An approval that came before its sale: it waits, and is woken by the order's creation.
        raise _orphan(f"no order {report.external_order_id!r} yet, and no amounts to make one of")
    if report.occurred_at > click.expires_at:
        raise _quarantine(f"the sale is later than click {click.id} counts ({click.expires_at:%Y-%m-%d})")
    if source.kind is not SourceKind.DIRECT:
        _fence(report, click)
    return await start_order(
        session,
        merchant=merchant,
        source_id=source.id,
        click=click,
        external_id=report.external_order_id,
        reported_currency=report.currency,
        ordered_at=report.occurred_at,
        rate_max_age_days=settings.exchange_rate_max_age_days,
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
    if report.currency not in (None, order.reported_currency):
        raise _quarantine(f"the order is in {order.reported_currency}, the report in {report.currency}")
    return order


async def _apply(
    session: AsyncSession, settings: Settings, event: WebhookEvent, report: SaleReport, found: _Attribution
) -> None:
    """Add the report to its order's and bring the order to what they fold to."""
    stored = None
    if not found.is_new:
        # An event that is replayed says again what it said: its report is replaced, not added.
        stored = await session.scalar(select(OrderReport).where(OrderReport.webhook_event_id == event.id))
    await take_reports(
        session,
        settings,
        found.order,
        [
            (
                stored or OrderReport(id=new_id(), webhook_event_id=event.id),
                Said(report.kind, report.occurred_at, report.sale_minor, report.commission_minor, report.part),
            )
        ],
        click=found.click,
        merchant=found.merchant,
    )

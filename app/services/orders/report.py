"""Taking a report about an order, whoever it comes from: a source's event, a resolved claim, a member of staff."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.ids import new_id
from app.models import Click, Merchant, Order, OrderReport, OrderStatus, ReportKind, WebhookEvent, WebhookStatus
from app.services.exchange_rates import rate_on, wait_key
from app.services.fraud.judge import follow_order
from app.services.orders.change import follow_reports
from app.services.orders.fold import Folded, Report, fold


@dataclass(frozen=True, slots=True)
class Said:
    """What a report says. Amounts in minor units of the order's reported currency; None where it repeats none.

    See `fold.Report` for undated reports, deltas and their rows.
    """

    kind: ReportKind
    occurred_at: datetime
    sale_minor: int | None = None
    commission_minor: int | None = None
    part: str | None = None
    ordered_at: datetime | None = None
    is_dated: bool = True
    is_delta: bool = False
    row_id: str | None = None


class NoExchangeRateError(Exception):
    """No exchange rate is known for the day of a sale; `waits_for` names it."""

    def __init__(self, base: str, quote: str, day: datetime) -> None:
        super().__init__(
            f"no exchange rate from {base} to {quote} is known for {day:%Y-%m-%d}; add it, and this is retried"
        )
        self.waits_for = wait_key(base, quote)


async def lock_reference(session: AsyncSession, *, source_id: int, external_id: str) -> None:
    """Let one transaction at a time work on what a source calls by this order id, whether or not the order exists yet.

    So of two reports that arrive together, the one that cannot find its order yet is seen as an orphan by the one that
    creates it.
    """
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:order, :source))"),
        {"order": external_id, "source": source_id},
    )


async def start_order(
    session: AsyncSession,
    *,
    merchant: Merchant,
    source_id: int,
    click: Click,
    external_id: str,
    reported_currency: str,
    ordered_at: datetime,
    rate_max_age_days: int,
) -> Order:
    """Return a new order without amounts, not yet in the session. Raises NoExchangeRateError.

    In another currency than its merchant's it keeps the rate of the day (UTC) of its sale, for ever.
    """
    rate_e12 = None
    if reported_currency != merchant.currency:
        rate_e12 = await rate_on(
            session,
            base=reported_currency,
            quote=merchant.currency,
            day=ordered_at.astimezone(UTC).date(),
            max_age_days=rate_max_age_days,
        )
        if rate_e12 is None:
            raise NoExchangeRateError(reported_currency, merchant.currency, ordered_at)
    return new_order(
        merchant=merchant,
        source_id=source_id,
        click=click,
        external_id=external_id,
        reported_currency=reported_currency,
        ordered_at=ordered_at,
        rate_e12=rate_e12,
    )


def new_order(
    *,
    merchant: Merchant,
    source_id: int,
    click: Click,
    external_id: str,
    reported_currency: str,
    ordered_at: datetime,
    rate_e12: int | None = None,
) -> Order:
    """Return an order without amounts; with a rate only if it is reported in another currency than its merchant's."""
    return Order(
        id=new_id(),
        merchant_id=merchant.id,
        external_id=external_id,
        source_id=source_id,
        customer_id=click.customer_id,
        click_id=click.id,
        status=OrderStatus.PENDING,
        currency=merchant.currency,
        sale_minor=0,
        commission_minor=0,
        cashback_minor=0,
        boost_minor=0,
        reported_currency=reported_currency,
        reported_sale_minor=0,
        reported_commission_minor=0,
        exchange_rate_e12=rate_e12,
        settled_minor=0,
        written_off_minor=0,
        explanation={},
        ordered_at=ordered_at,
        revision=0,
    )


async def take_reports(
    session: AsyncSession,
    settings: Settings,
    order: Order,
    reports: list[tuple[OrderReport, Said]],
    *,
    click: Click,
    merchant: Merchant,
) -> bool:
    """Add reports to those of a locked or new order and bring it to what all of them fold to; False: no change.

    Each comes with the row it is kept in, which names its origin. A row that is in the database already, of an event
    that is replayed, says again what it said.
    """
    is_new = order.revision == 0
    sold_at = order.ordered_at
    known = list(await session.scalars(select(OrderReport).where(OrderReport.order_id == order.id)))
    for row, said in reports:
        fill(row, order, said)
        if row not in known:
            known.append(row)
    changed = await follow_reports(
        session,
        order,
        fold_rows(known),
        click=click,
        merchant=merchant,
        rounding=settings.cashback_rounding,
        now=datetime.now(UTC),
    )
    # After the order, which they refer to.
    session.add_all(row for row, _ in reports)
    await session.flush()
    await follow_order(session, order, is_new=is_new, has_moved=order.ordered_at != sold_at)
    if is_new:
        await wake_orphans(session, source_id=order.source_id, references=[order.external_id])
    return changed


def fill(row: OrderReport, order: Order, said: Said) -> None:
    """Write what is reported of an order to the row it is kept in."""
    row.order_id, row.currency = order.id, order.reported_currency
    row.kind, row.occurred_at, row.part = said.kind, said.occurred_at, said.part
    row.sale_minor, row.commission_minor = said.sale_minor, said.commission_minor
    row.ordered_at, row.is_dated, row.is_delta = said.ordered_at, said.is_dated, said.is_delta
    row.row_id = said.row_id


def fold_rows(rows: Sequence[OrderReport]) -> Folded:
    """Fold all that is reported of an order."""
    return fold(map(_report, _standing(rows)))


async def refold(session: AsyncSession, settings: Settings, order: Order) -> bool:
    """Bring a locked order to what its reports and its expiry say; False when that changes nothing."""
    click = await session.get_one(Click, order.click_id)
    merchant = await session.get_one(Merchant, order.merchant_id)
    return await take_reports(session, settings, order, [], click=click, merchant=merchant)


async def withdraw_report(session: AsyncSession, settings: Settings, row: OrderReport) -> None:
    """Take back a report that turned out to be another order's; an order of which nothing is left is declined."""
    order = await session.get_one(Order, row.order_id, with_for_update=True)
    await session.delete(row)
    await session.flush()
    left = await session.scalar(select(OrderReport.id).where(OrderReport.order_id == order.id).limit(1))
    if left is not None:
        await refold(session, settings, order)
        return
    sale_minor, commission_minor = order.reported_sale_minor, order.reported_commission_minor
    await follow_reports(
        session,
        order,
        Folded(OrderStatus.DECLINED, sale_minor, commission_minor, order.ordered_at, None),
        click=await session.get_one(Click, order.click_id),
        merchant=await session.get_one(Merchant, order.merchant_id),
        rounding=settings.cashback_rounding,
        now=datetime.now(UTC),
    )


async def wake_orphans(session: AsyncSession, *, source_id: int, references: Collection[str]) -> None:
    """Let events that came before their order was known be tried again."""
    woken = await session.execute(
        update(WebhookEvent)
        .where(
            WebhookEvent.source_id == source_id,
            WebhookEvent.external_order_id.in_(references),
            WebhookEvent.status == WebhookStatus.ORPHANED,
        )
        .values(status=WebhookStatus.RECEIVED, next_attempt_at=func.now())
        .returning(WebhookEvent.id)
    )
    if woken.first() is not None:
        ring_after_commit(session, "drain_webhooks")


def _standing(rows: Sequence[OrderReport]) -> Sequence[OrderReport]:
    """Leave out the amounts that a claim was granted in want of a report, once the source has reported the sale."""
    if not any(row.webhook_event_id is not None and row.kind is ReportKind.CREATED for row in rows):
        return rows
    return [row for row in rows if row.claim_id is None or row.kind is not ReportKind.CREATED]


def _report(row: OrderReport) -> Report:
    # Of an event its own id: so that reports of one moment are in one order however often they are read.
    return Report(
        id=row.webhook_event_id or row.id,
        kind=row.kind,
        occurred_at=row.occurred_at,
        sale_minor=row.sale_minor,
        commission_minor=row.commission_minor,
        part=row.part,
        ordered_at=row.ordered_at,
        is_dated=row.is_dated,
        is_delta=row.is_delta,
        row_id=row.row_id,
    )

"""Attribution: which click a report of a sale belongs to, and with that which order. What is not certain waits.

Nothing is credited on a guess: a report without a click we know is an orphan, one that cannot be true is quarantined.
"""

from dataclasses import dataclass

from sqlalchemy import Text, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.models import (
    CLOCK_SKEW,
    Claim,
    Click,
    Merchant,
    Order,
    Source,
    WebhookEvent,
    WebhookStatus,
    reference_key,
)
from app.services.claims.granted import by_hand, find_granted
from app.services.orders.report import start_order
from app.services.webhooks.payload import SaleReport


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
class Attribution:
    """Where a report belongs: the click it came from, and the order, locked or new."""

    click: Click
    merchant: Merchant
    order: Order
    is_new: bool


async def attribute(
    session: AsyncSession,
    settings: Settings,
    event: WebhookEvent,
    source: Source,
    report: SaleReport,
    *,
    is_fenced: bool,
) -> Attribution:
    """Find the order the report is about, or the click that a new one came from.

    `is_fenced`: what the source says is not proven. Raises NotAttributedError and NoExchangeRateError.
    """
    if event.contradicts_id is not None and event.released_at is None:
        raise _quarantine(f"event {event.contradicts_id} came before with the same id and says something else")
    try:
        found = await _attribute(session, settings, event, source, report, is_fenced=is_fenced)
    except NotAttributedError as error:
        if error.status is WebhookStatus.ORPHANED:
            # A customer may miss this very sale.
            event.merchant_id = await _merchant_id(session, source, report)
            event.compared_at = None
            ring_after_commit(session, "match_claims")
        raise
    if is_fenced:
        fence_commission(report)
    return found


async def _merchant_id(session: AsyncSession, source: Source, report: SaleReport) -> int | None:
    """Return the merchant of a report that has no click, where that is certain."""
    of_source = select(Merchant.id).where(Merchant.source_id == source.id)
    if report.network_merchant_ref is not None:
        of_source = of_source.where(Merchant.network_merchant_ref == report.network_merchant_ref)
    ids = (await session.scalars(of_source.limit(2))).all()
    return ids[0] if len(ids) == 1 else None


async def _attribute(
    session: AsyncSession,
    settings: Settings,
    event: WebhookEvent,
    source: Source,
    report: SaleReport,
    *,
    is_fenced: bool,
) -> Attribution:
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
    check_reporter(click, merchant, source, report)
    order = await session.scalar(
        select(Order)
        .where(Order.merchant_id == merchant.id, Order.external_id == report.external_order_id)
        .with_for_update()
    )
    if order is None:
        order = await _granted(session, event, report, click)
    if order is None:
        if event.released_at is None:
            fence(report, click, is_fenced=is_fenced)
        order = await _new_order(session, settings, source, report, click, merchant)
        return Attribution(click, merchant, order, is_new=True)
    if order.click_id != click.id:
        if order.customer_id != click.customer_id:
            raise _quarantine(f"order {report.external_order_id!r} is attributed to another click already")
        # A customer's claim was granted before this came: the order keeps what was promised for it then.
        click = await session.get_one(Click, order.click_id)
    return Attribution(click, merchant, same_currency(order, report), is_new=False)


async def _granted(session: AsyncSession, event: WebhookEvent, report: SaleReport, click: Click) -> Order | None:
    """Return the order that a claim made of this sale, if one did. Raises NotAttributedError when that is not sure."""
    found = await find_granted(
        session,
        click,
        reference=report.external_order_id,
        currency=report.currency,
        sale_minor=report.sale_minor,
        at=report.sold_at,
    )
    if found.order_id is not None:
        return await session.get_one(Order, found.order_id, with_for_update=True)
    if found.like_claim_id is not None and event.matched_click_id is None:
        raise _orphan(
            f"claim {found.like_claim_id} of this customer was credited by hand for a like sale:"
            " match this if it is another one, discard it if it is the same"
        )
    return None


async def _by_order(session: AsyncSession, source: Source, report: SaleReport) -> Attribution:
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
    return Attribution(click, merchant, same_currency(order, report), is_new=False)


async def _new_order(
    session: AsyncSession, settings: Settings, source: Source, report: SaleReport, click: Click, merchant: Merchant
) -> Order:
    currency = currency_of_new(report)
    return await start_order(
        session,
        merchant=merchant,
        source_id=source.id,
        click=click,
        external_id=report.external_order_id,
        reported_currency=currency,
        ordered_at=report.sold_at,
        rate_max_age_days=settings.exchange_rate_max_age_days,
    )


def check_reporter(click: Click, merchant: Merchant, source: Source, report: SaleReport) -> None:
    """Refuse what another source, or of another merchant, says of a click. Raises NotAttributedError."""
    if merchant.source_id != source.id:
        raise _quarantine(f"click {click.id} belongs to {merchant.slug}, which this source does not report for")
    if None not in (report.network_merchant_ref, merchant.network_merchant_ref) and (
        report.network_merchant_ref != merchant.network_merchant_ref
    ):
        raise _quarantine(
            f"click {click.id} belongs to {merchant.slug} ({merchant.network_merchant_ref}),"
            f" the report names {report.network_merchant_ref}"
        )


def currency_of_new(report: SaleReport) -> str:
    """Return the currency of an order that a report makes. Raises NotAttributedError when it cannot make one."""
    if report.currency is None or report.sale_minor is None or report.commission_minor is None:
        # An approval that came before its sale: it waits, and is woken by the order's creation.
        raise _orphan(f"no order {report.external_order_id!r} yet, and no amounts to make one of")
    if report.is_delta and report.sale_minor <= 0:
        raise _orphan(f"no order {report.external_order_id!r} yet that this takes back from")
    return report.currency


def fence(report: SaleReport, click: Click, *, is_fenced: bool) -> None:
    """Let a click make an order only while it counts; what an unsigned source says must also be plausible.

    Raises NotAttributedError.
    """
    if report.sold_at > click.expires_at:
        raise _quarantine(f"the sale is later than click {click.id} counts ({click.expires_at:%Y-%m-%d})")
    if is_fenced and report.sold_at < click.created_at - CLOCK_SKEW:
        raise _quarantine(f"the sale is earlier than click {click.id}")
    if is_fenced and report.sale_minor == 0:
        raise _quarantine("the sale is zero")
    if is_fenced:
        fence_commission(report)


def fence_commission(report: SaleReport) -> None:
    """Refuse a commission that an unsigned source cannot mean. Raises NotAttributedError."""
    if report.sale_minor is not None and abs(report.commission_minor or 0) > abs(report.sale_minor):
        raise _quarantine("the commission is larger than the sale")


def same_currency(order: Order, report: SaleReport) -> Order:
    """Return the order, if it is reported in its own currency. Raises NotAttributedError."""
    if report.currency not in (None, order.reported_currency):
        raise _quarantine(f"the order is in {order.reported_currency}, the report in {report.currency}")
    return order

"""What changes an order without its source: a resolved claim, or a member of staff with a reason.

Each is a report like any other, so that it is folded with what the source says before and after, and posted in the
same way.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import InvalidRequestError, NotFoundError
from app.ids import new_id
from app.models import Claim, Click, Merchant, Order, OrderReport, ReportKind, StaffKey
from app.schemas.orders import OrderAdjustment
from app.services.orders.report import Said, lock_reference, start_order, take_reports


class UnknownOrderError(NotFoundError):
    """No order has this id."""

    code = "unknown_order"
    title = "Order not found"

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"There is no order {order_id}.")


class AdjustmentCurrencyError(InvalidRequestError):
    """An adjustment in a currency that the order was not reported in."""

    code = "adjustment_currency_mismatch"
    title = "Wrong currency"

    def __init__(self, currency: str) -> None:
        super().__init__(f"This order was reported in {currency}; give its amounts in that.")


async def report_by_claim(
    session: AsyncSession,
    settings: Settings,
    *,
    claim: Claim,
    click: Click,
    merchant: Merchant,
    sale_minor: int,
    commission_minor: int,
    currency: str,
    approved: bool,
) -> Order:
    """Make the order of a resolved claim, at the rate its click promised, as if its source had reported it.

    The merchant has a source. Raises NoExchangeRateError, and IntegrityError (`uq_orders_merchant_id_external_id`)
    when the order exists.
    """
    if merchant.source_id is None:
        raise ValueError(f"the merchant {merchant.slug} has no source to credit its orders to")
    await lock_reference(session, source_id=merchant.source_id, external_id=claim.order_reference)
    order = await start_order(
        session,
        merchant=merchant,
        source_id=merchant.source_id,
        click=click,
        external_id=claim.order_reference,
        reported_currency=currency,
        ordered_at=claim.ordered_at,
        rate_max_age_days=settings.exchange_rate_max_age_days,
    )
    reports = [
        (
            OrderReport(id=new_id(), claim_id=claim.id),
            Said(ReportKind.CREATED, claim.ordered_at, sale_minor, commission_minor),
        )
    ]
    if approved:
        reports.append((OrderReport(id=new_id(), claim_id=claim.id), Said(ReportKind.APPROVED, datetime.now(UTC))))
    await take_reports(session, settings, order, reports, click=click, merchant=merchant)
    return order


async def adjust_order(
    session: AsyncSession,
    settings: Settings,
    *,
    order_id: UUID,
    member: StaffKey,
    wanted: OrderAdjustment,
) -> Order:
    """Let staff say what an order's source does not; returns the order as it then is.

    Raises UnknownOrderError and AdjustmentCurrencyError.
    """
    order = await session.get(Order, order_id, with_for_update=True)
    if order is None:
        raise UnknownOrderError(order_id)
    if wanted.currency not in (None, order.reported_currency):
        raise AdjustmentCurrencyError(order.reported_currency)
    said = Said(
        wanted.kind,
        datetime.now(UTC),
        None if wanted.sale is None else wanted.sale.amount_minor,
        None if wanted.commission is None else wanted.commission.amount_minor,
        wanted.part,
    )
    await take_reports(
        session,
        settings,
        order,
        [(OrderReport(id=new_id(), staff_key_id=member.id, reason=wanted.reason), said)],
        click=await session.get_one(Click, order.click_id),
        merchant=await session.get_one(Merchant, order.merchant_id),
    )
    return order

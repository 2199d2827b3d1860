"""Orders as the contract shows them, to their customer and to staff."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import BLOCKING, Merchant, Order, OrderChange, OrderReport, OrderReview, OrderStatus
from app.schemas.common import Money, Page
from app.schemas.orders import (
    ExplanationStep,
    OrderAdminDetail,
    OrderAdminRead,
    OrderDetail,
    OrderMerchant,
    OrderRead,
    OrderReportRead,
    OrderState,
    OwedBy,
)
from app.services.exchange_rates import show_rate
from app.services.orders.adjust import UnknownOrderError
from app.services.orders.hold import waits_for
from app.services.orders.read import OrderView
from app.services.pagination import newest_rows


def order_read(order: Order, merchant: Merchant, *, is_held: bool) -> OrderRead:
    """Show an order in a list."""
    return OrderRead(
        id=order.id,
        merchant=OrderMerchant.model_validate(merchant),
        order_reference=order.external_id,
        status=order.status,
        sale=Money(amount_minor=order.sale_minor, currency=order.currency),
        cashback=Money(amount_minor=order.cashback_minor, currency=order.currency),
        ordered_at=order.ordered_at,
        payable_at=order.payable_at,
        waits_for=waits_for(order, merchant, is_held=is_held, now=datetime.now(UTC)),
    )


def order_detail(view: OrderView) -> OrderDetail:
    """Show a customer's order with the steps that made its cashback and each state with its time."""
    order = view.order
    return OrderDetail(
        **dict(order_read(order, view.merchant, is_held=view.is_held)),
        click_id=order.click_id,
        reported_sale=Money(amount_minor=order.reported_sale_minor, currency=order.reported_currency),
        exchange_rate=_rate(order),
        expired_at=order.expired_at,
        explanation=_explanation(order),
        history=[_state(order, change) for change in view.changes],
    )


async def list_for_staff(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    merchant_id: int | None = None,
    customer_id: UUID | None = None,
    status: OrderStatus | None = None,
    order_reference: str | None = None,
    owed_by: OwedBy | None = None,
) -> Page[OrderAdminRead]:
    """Return orders, newest first. Raises InvalidCursorError."""
    statement = select(Order, Merchant, OrderReview.blocks()).join(Merchant, Merchant.id == Order.merchant_id)
    filters = {
        Order.merchant_id: merchant_id,
        Order.customer_id: customer_id,
        Order.status: status,
        Order.external_id: order_reference,
    }
    for column, value in filters.items():
        if value is not None:
            statement = statement.where(column == value)
    if owed_by is not None:
        statement = statement.where(Order.due_minor > 0 if owed_by is OwedBy.NETWORK else Order.due_minor < 0)
    rows, next_cursor = await newest_rows(session, statement, Order.id, limit=limit, cursor=cursor)
    items = [_admin_read(order, merchant, is_held=is_held) for order, merchant, is_held in rows]
    return Page(items=items, next_cursor=next_cursor)


async def show_to_staff(session: AsyncSession, *, order_id: UUID) -> OrderAdminDetail:
    """Return an order with all that explains it. Raises UnknownOrderError."""
    order = await session.get(Order, order_id)
    if order is None:
        raise UnknownOrderError(order_id)
    merchant = await session.get_one(Merchant, order.merchant_id)
    review = await session.get(OrderReview, order_id)
    changes = await session.scalars(
        select(OrderChange).where(OrderChange.order_id == order_id).order_by(OrderChange.revision)
    )
    reports = await session.scalars(
        select(OrderReport).where(OrderReport.order_id == order_id).order_by(OrderReport.occurred_at, OrderReport.id)
    )
    return OrderAdminDetail(
        **dict(_admin_read(order, merchant, is_held=review is not None and review.status in BLOCKING)),
        explanation=_explanation(order),
        history=[_state(order, change) for change in changes],
        reports=_reports(reports.all()),
    )


def _admin_read(order: Order, merchant: Merchant, *, is_held: bool) -> OrderAdminRead:
    return OrderAdminRead(
        **dict(order_read(order, merchant, is_held=is_held)),
        customer_id=order.customer_id,
        click_id=order.click_id,
        commission=Money(amount_minor=order.commission_minor, currency=order.currency),
        boost=Money(amount_minor=order.boost_minor, currency=order.currency),
        reported_sale=Money(amount_minor=order.reported_sale_minor, currency=order.reported_currency),
        reported_commission=Money(amount_minor=order.reported_commission_minor, currency=order.reported_currency),
        exchange_rate=_rate(order),
        settled_minor=order.settled_minor,
        written_off_minor=order.written_off_minor,
        due_minor=order.due_minor,
        expired_at=order.expired_at,
        revision=order.revision,
    )


def _explanation(order: Order) -> list[ExplanationStep]:
    return [ExplanationStep.model_validate(step) for step in order.explanation["steps"]]


def _rate(order: Order) -> str | None:
    return None if order.exchange_rate_e12 is None else show_rate(order.exchange_rate_e12)


def _state(order: Order, change: OrderChange) -> OrderState:
    return OrderState(
        status=change.status,
        sale=Money(amount_minor=change.sale_minor, currency=order.currency),
        cashback=Money(amount_minor=change.cashback_minor, currency=order.currency),
        at=change.at,
    )


def _reports(reports: Sequence[OrderReport]) -> list[OrderReportRead]:
    shown = []
    for report in reports:
        origins = (("event", report.webhook_event_id), ("claim", report.claim_id), ("staff", report.staff_key_id))
        origin, origin_id = next((name, value) for name, value in origins if value is not None)
        shown.append(
            OrderReportRead.model_validate(
                {
                    **{name: getattr(report, name) for name in OrderReportRead.model_fields if name[:6] != "origin"},
                    "origin": origin,
                    "origin_id": origin_id,
                }
            )
        )
    return shown

"""A customer's orders, newest first, and one with all that explains it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Integer, bindparam, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Customer, Merchant, Order, OrderChange, OrderReview, OrderStatus
from app.reads import Read
from app.services.json_items import json_text, money, page, utc_text
from app.services.orders.hold import waits_for_in_sql
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.tokens import InvalidAccessTokenError, signed_in_customer


class OrderNotFoundError(NotFoundError):
    """This customer has no order with this id."""

    code = "order_not_found"
    title = "Order not found"

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"You have no order {order_id}.")


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order with its merchant and its history."""

    order: Order
    merchant: Merchant
    # Staff have to look at it before its cashback becomes payable.
    is_held: bool = False
    changes: Sequence[OrderChange] = ()


async def list_orders(
    *, customer_id: UUID, session_id: UUID, limit: int, cursor: str | None, status: OrderStatus | None = None
) -> bytes:
    """Return the JSON of a page of `OrderRead`s, newest first: a hot read, which also finds out if the session lasts.

    Raises InvalidCursorError, and InvalidAccessTokenError when the session has ended.
    """
    parameters: dict[str, Any] = {"customer_id": customer_id, "session_id": session_id, "limit": limit + 1}
    if cursor is not None:
        (parameters["after"],) = decode_cursor(cursor, UUID)
    if status is not None:
        parameters["status"] = status.value
    statement = orders_statement(filtered=status is not None, continued=cursor is not None)
    found = await statement.fetch(**parameters, now=datetime.now(UTC))
    if not found:
        raise InvalidAccessTokenError.ended()
    # Without any order there is one row all the same, which tells of the session.
    rows, more = cut_page([row for row in found if row["id"] is not None], limit)
    return page(rows, encode_cursor(rows[-1]["id"]) if more else None)


@cache
def orders_statement(*, filtered: bool, continued: bool) -> Read:
    """Select a customer's orders, newest first; no row when the session has ended, one of nulls when there are none."""
    shown = {
        "id": Order.id,
        "merchant": {"id": Merchant.id, "slug": Merchant.slug, "name": Merchant.name},
        "order_reference": Order.external_id,
        "status": Order.status,
        "sale": money(Order.sale_minor, Order.currency),
        "cashback": money(Order.cashback_minor, Order.currency),
        "ordered_at": utc_text(Order.ordered_at),
        "payable_at": utc_text(Order.payable_at),
        "waits_for": waits_for_in_sql(bindparam("now", type_=DateTime(timezone=True))),
    }
    statement = (
        select(Order.id, json_text(shown))
        .join(Merchant, Merchant.id == Order.merchant_id)
        .where(Order.customer_id == Customer.id)
        .order_by(Order.id.desc())
        .limit(bindparam("limit", type_=Integer))
        .correlate(Customer)
    )
    if filtered:
        statement = statement.where(Order.status == bindparam("status"))
    if continued:
        statement = statement.where(Order.id < bindparam("after"))
    rows = statement.lateral("page")
    return Read.of(
        signed_in_customer()
        .with_only_columns(rows.c.id, rows.c.item)
        .outerjoin(rows, true())
        .order_by(rows.c.id.desc())
    )


async def get_order(session: AsyncSession, *, customer_id: UUID, order_id: UUID) -> OrderView:
    """Return a customer's order with its history. Raises OrderNotFoundError, also for another customer's."""
    row = (
        await session.execute(
            select(Order, Merchant, OrderReview.blocks())
            .join(Merchant, Merchant.id == Order.merchant_id)
            .where(Order.id == order_id, Order.customer_id == customer_id)
        )
    ).one_or_none()
    if row is None:
        raise OrderNotFoundError(order_id)
    changes = await session.scalars(
        select(OrderChange).where(OrderChange.order_id == order_id).order_by(OrderChange.revision)
    )
    return OrderView(row[0], row[1], row[2], changes.all())

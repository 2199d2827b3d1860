"""A customer's orders, newest first, and one with all that explains it."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Merchant, Order, OrderChange, OrderReview, OrderStatus
from app.services.pagination import cut_page, decode_cursor, encode_cursor


class OrderNotFoundError(NotFoundError):
    """This customer has no order with this id."""

    code = "order_not_found"
    title = "Order not found"

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"You have no order {order_id}.")


@dataclass(frozen=True, slots=True)
class OrderView:
    """An order with its merchant, and its history where one order is shown."""

    order: Order
    merchant: Merchant
    # Staff have to look at it before its cashback becomes payable.
    is_held: bool = False
    changes: Sequence[OrderChange] = ()


@dataclass(frozen=True, slots=True)
class OrderPage:
    """A page of orders."""

    items: list[OrderView]
    next_cursor: str | None


async def list_orders(
    session: AsyncSession, *, customer_id: UUID, limit: int, cursor: str | None, status: OrderStatus | None = None
) -> OrderPage:
    """List a customer's orders, newest first. Raises InvalidCursorError."""
    statement = (
        select(Order, Merchant, OrderReview.blocks())
        .join(Merchant, Merchant.id == Order.merchant_id)
        .where(Order.customer_id == customer_id)
        .order_by(Order.id.desc())
        .limit(limit + 1)
    )
    if status is not None:
        statement = statement.where(Order.status == status)
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, UUID)
        statement = statement.where(Order.id < last_id)
    rows, more = cut_page((await session.execute(statement)).all(), limit)
    return OrderPage(
        [OrderView(order, merchant, is_held) for order, merchant, is_held in rows],
        encode_cursor(rows[-1][0].id) if more else None,
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

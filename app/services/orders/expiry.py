"""Expiry: an order that no report closes in its merchant's time is closed as the merchant's policy says.

It is a mark on the order, with which its reports are folded: one that closes the order, also a late one, outranks it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Merchant, Order, OrderStatus
from app.services.orders.report import refold

BATCH = 200


async def expiring_merchants(session: AsyncSession) -> Sequence[int]:
    """Return ids of merchants whose orders expire."""
    return (await session.scalars(select(Merchant.id).where(Merchant.expire_days.is_not(None)))).all()


async def due_orders(
    session: AsyncSession, *, merchant_id: int, after: tuple[datetime, UUID] | None = None, limit: int = BATCH
) -> Sequence[tuple[datetime, UUID]]:
    """Return (time of the sale, id) of a merchant's orders whose time is over, the oldest first."""
    place = (Order.ordered_at, Order.id)
    statement = (
        select(*place)
        .join(Merchant, Merchant.id == Order.merchant_id)
        .where(Order.merchant_id == merchant_id, *_due())
        .order_by(*place)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(*place) > after)
    return [(row.ordered_at, row.id) for row in await session.execute(statement)]


async def expire_order(session: AsyncSession, settings: Settings, order_id: UUID) -> bool:
    """Close an order; False when it was closed meanwhile, or its time is not over any more. Safe to repeat."""
    row = (
        await session.execute(
            select(Order, Merchant.expire_as)
            .join(Merchant, Merchant.id == Order.merchant_id)
            .where(Order.id == order_id, *_due())
            .with_for_update(of=Order)
        )
    ).one_or_none()
    if row is None:
        return False
    order: Order = row[0]
    order.expired_at, order.expired_as = datetime.now(UTC), row[1]
    return await refold(session, settings, order)


def _due() -> tuple[ColumnElement[bool], ...]:
    return (
        Order.status == OrderStatus.PENDING,
        Order.expired_at.is_(None),
        Order.ordered_at <= func.now() - Merchant.expire_days * literal(timedelta(days=1)),
    )

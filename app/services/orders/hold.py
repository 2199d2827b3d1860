"""The end of the hold: which approved orders become payable, and what the others wait for.

Cashback whose commission the network has paid waits for nothing more. Before that it is our own money that we advance:
not at all where the merchant's cashback is payable after payment, else within the merchant's exposure limit, the oldest
first. Which of these holds is read from the rows each time, so that no mark can be forgotten when a setting changes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, func, literal, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from app.models import Merchant, Order, OrderStatus
from app.schemas.orders import OrderWait
from app.services.orders.change import Target, change

BATCH = 200
# Who advances cashback of a merchant with a limit does it alone, so that two never both see the same room.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:merchant, 3))")
_Item = TypeVar("_Item")


def waits_for(order: Order, merchant: Merchant, *, now: datetime) -> OrderWait | None:
    """Return why an approved order is not payable yet; None for any other, and for one whose turn has come."""
    if order.status is not OrderStatus.APPROVED or order.payable_at is None:
        return None
    if order.payable_at > now:
        return OrderWait.HOLD
    if order.due_minor <= 0:
        return None
    limit_minor = merchant.exposure_limit_minor
    if merchant.payable_after_payment or (limit_minor is not None and order.cashback_minor > limit_minor):
        return OrderWait.PAYMENT
    return None if limit_minor is None else OrderWait.EXPOSURE


async def release_paid(session: AsyncSession, *, limit: int = BATCH) -> int:
    """Make up to `limit` due orders payable whose commission the network has paid, and return how many.

    Safe to run twice and beside itself.
    """
    orders = await session.scalars(
        select(Order)
        .where(Order.status == OrderStatus.APPROVED, Order.due_minor <= 0, Order.payable_at <= func.now())
        .order_by(Order.payable_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return await _release(session, orders)


async def advancing_merchants(session: AsyncSession) -> Sequence[int]:
    """Return ids of merchants that advance cashback and have a due order which the network has not paid."""
    # One look into the index for each merchant, however many orders wait for their payment. Its order is asked for, or
    # PostgreSQL might expect to meet some such order soon in the table itself, and read all of it when there is none.
    first = select(literal(1)).where(*_unpaid(Merchant.id)).order_by(Order.payable_at).limit(1).lateral()
    statement = select(Merchant.id).join(first, true()).where(Merchant.payable_after_payment.is_not(True))
    return (await session.scalars(statement.order_by(Merchant.id))).all()


async def release_advanced(session: AsyncSession, *, merchant_id: int, limit: int = BATCH) -> int:
    """Make up to `limit` due orders of a merchant payable before the network has paid, and return how many.

    With an exposure limit only as many as it leaves room for; those behind the first that does not fit wait with it.
    Safe to run twice and beside itself.
    """
    merchant = await session.get_one(Merchant, merchant_id)
    if merchant.payable_after_payment:
        return 0
    oldest = select(Order).where(*_unpaid(merchant_id)).order_by(Order.payable_at, Order.id).limit(limit)
    limit_minor = merchant.exposure_limit_minor
    if limit_minor is None:
        return await _release(session, await session.scalars(oldest.with_for_update(skip_locked=True)))
    room_minor = limit_minor - await _exposure(session, merchant_id)
    # What is larger than the whole limit can only wait for its payment; it holds up nobody.
    oldest = oldest.where(Order.cashback_minor <= limit_minor)
    looked_at = (await session.execute(oldest.with_only_columns(Order.id, Order.cashback_minor))).all()
    fitting = _fitting(((row.id, row.cashback_minor) for row in looked_at), room_minor)
    if not fitting:
        return 0
    locked = await session.scalars(oldest.where(Order.id.in_(fitting)).with_for_update(skip_locked=True))
    # An event may have changed an order before it was locked.
    return await _release(session, _fitting(((order, order.cashback_minor) for order in locked), room_minor))


def _unpaid(merchant_id: int | InstrumentedAttribute[int]) -> tuple[ColumnElement[bool], ...]:
    """Say which orders are due that the network has not paid."""
    return (
        Order.merchant_id == merchant_id,
        Order.status == OrderStatus.APPROVED,
        Order.due_minor > 0,
        Order.payable_at <= func.now(),
    )


async def _exposure(session: AsyncSession, merchant_id: int) -> int:
    """Return the cashback of a merchant that is payable though the network has not paid, which only we raise now."""
    await session.execute(_LOCK, {"merchant": f"exposure {merchant_id}"})
    advanced_minor = await session.scalar(
        select(func.coalesce(func.sum(Order.cashback_minor), 0)).where(
            Order.merchant_id == merchant_id, Order.status == OrderStatus.PAYABLE, Order.due_minor > 0
        )
    )
    return int(advanced_minor or 0)


def _fitting(items: Iterable[tuple[_Item, int]], room_minor: int) -> list[_Item]:
    """Return the first items that fit in the room together."""
    fitting = []
    for item, amount_minor in items:
        room_minor -= amount_minor
        if room_minor < 0:
            break
        fitting.append(item)
    return fitting


async def _release(session: AsyncSession, orders: Iterable[Order]) -> int:
    released = 0
    # By wallet, so that two batches meet the same wallets in the same order.
    for order in sorted(orders, key=lambda order: (order.customer_id, order.currency, order.id)):
        released += await change(session, order, Target.of(order, status=OrderStatus.PAYABLE))
    return released

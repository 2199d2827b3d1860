"""The end of the hold: which approved orders become payable, and what the others wait for.

Cashback whose commission the network has paid waits for nothing more. Before that it is our own money that we advance:
not at all where the merchant's cashback is payable after payment, else within the merchant's exposure limit, the oldest
first. Which of these holds is read from the rows each time, so that no mark can be forgotten when a setting changes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    Text,
    and_,
    case,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    text,
    true,
)
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Merchant, Order, OrderReview, OrderStatus
from app.schemas.orders import OrderWait
from app.services.fraud.judge import hold_back
from app.services.orders.change import Target, change

BATCH = 200
# Who advances cashback of a merchant with a limit does it alone, so that two never both see the same room.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:merchant, 3))")
# Due orders, by whether the network has paid: each as an index has them (`app/models/orders.py`).
_DUE = (Order.status == OrderStatus.APPROVED, Order.payable_at <= func.now(), not_(OrderReview.blocks()))
_PAID = (*_DUE, Order.due_minor <= 0)
_UNPAID = (*_DUE, Order.due_minor > 0)
_Item = TypeVar("_Item")


def waits_for(order: Order, merchant: Merchant, *, is_held: bool, now: datetime) -> OrderWait | None:
    """Return why an approved order is not payable yet; None for any other, and for one whose turn has come.

    `is_held`: staff have to look at it first.
    """
    if order.status is not OrderStatus.APPROVED or order.payable_at is None:
        return None
    if order.payable_at > now:
        return OrderWait.HOLD
    if is_held:
        return OrderWait.CONFIRMATION
    if order.due_minor <= 0:
        return None
    limit_minor = merchant.exposure_limit_minor
    if merchant.payable_after_payment or (limit_minor is not None and order.cashback_minor > limit_minor):
        return OrderWait.PAYMENT
    return None if limit_minor is None else OrderWait.EXPOSURE


def waits_for_in_sql(now: BindParameter[datetime]) -> ColumnElement[str | None]:
    """Say the same as `waits_for`, in a statement of orders and their merchants; a test holds the two together."""
    limit_minor = Merchant.exposure_limit_minor
    return case(
        (or_(Order.status != OrderStatus.APPROVED, Order.payable_at.is_(None)), None),
        (Order.payable_at > now, _word(OrderWait.HOLD)),
        (OrderReview.blocks(), _word(OrderWait.CONFIRMATION)),
        (Order.due_minor <= 0, None),
        (or_(Merchant.payable_after_payment, Order.cashback_minor > limit_minor), _word(OrderWait.PAYMENT)),
        (limit_minor.is_(None), None),
        else_=_word(OrderWait.EXPOSURE),
    )


def _word(wait: OrderWait) -> ColumnElement[str]:
    return literal_column(f"'{wait.value}'", Text)


async def due_merchants(session: AsyncSession) -> Sequence[int]:
    """Return ids of merchants with an approved order that may become payable by now."""
    # Two looks into indexes for each merchant, however many orders wait. Their order is asked for, or PostgreSQL might
    # expect to meet such an order soon in the table itself, and read all of it when there is none.
    paid, unpaid = (
        select(literal(1).label("found"))
        .where(Order.merchant_id == Merchant.id, *conditions)
        .order_by(Order.payable_at)
        .limit(1)
        .lateral()
        for conditions in (_PAID, _UNPAID)
    )
    statement = (
        select(Merchant.id)
        .outerjoin(paid, true())
        .outerjoin(unpaid, true())
        .where(
            or_(
                paid.c.found.is_not(None),
                and_(unpaid.c.found.is_not(None), Merchant.payable_after_payment.is_not(True)),
            )
        )
        .order_by(Merchant.id)
    )
    return (await session.scalars(statement)).all()


async def release_due(session: AsyncSession, merchant_id: int, *, limit: int = BATCH) -> int:
    """Make up to `limit` due orders of a merchant payable, or hold them for staff by its rules; returns how many.

    Fewer are all that may be by now. First those that the network has paid, then those that we advance. Safe to run
    twice and beside itself.
    """
    merchant = await session.get_one(Merchant, merchant_id)
    orders = list(await session.scalars(_oldest(merchant_id, _PAID, limit).with_for_update(skip_locked=True)))
    if len(orders) < limit and not merchant.payable_after_payment:
        orders += await _lock_advanced(session, merchant, limit - len(orders))
    held = await hold_back(session, merchant_id, orders)
    # By wallet, so that two batches meet the same wallets in the same order.
    for order in sorted(orders, key=lambda order: (order.customer_id, order.currency, order.id)):
        if order.id not in held:
            await change(session, order, Target.of(order, status=OrderStatus.PAYABLE))
    return len(orders)


async def _lock_advanced(session: AsyncSession, merchant: Merchant, limit: int) -> Sequence[Order]:
    """Lock the oldest due orders that the network has not paid, as many as the exposure limit leaves room for.

    Those behind the first that does not fit wait with it.
    """
    oldest, limit_minor = _oldest(merchant.id, _UNPAID, limit), merchant.exposure_limit_minor
    if limit_minor is None:
        return (await session.scalars(oldest.with_for_update(skip_locked=True))).all()
    room_minor = limit_minor - await _exposure(session, merchant.id)
    # What is larger than the whole limit can only wait for its payment; it holds up nobody.
    oldest = oldest.where(Order.cashback_minor <= limit_minor)
    looked_at = (await session.execute(oldest.with_only_columns(Order.id, Order.cashback_minor))).all()
    fitting = _fitting(((row.id, row.cashback_minor) for row in looked_at), room_minor)
    if not fitting:
        return []
    locked = await session.scalars(oldest.where(Order.id.in_(fitting)).with_for_update(skip_locked=True))
    # An event may have changed an order before it was locked.
    return _fitting(((order, order.cashback_minor) for order in locked), room_minor)


def _oldest(merchant_id: int, conditions: tuple[ColumnElement[bool], ...], limit: int) -> Select[Order]:
    return (
        select(Order)
        .where(Order.merchant_id == merchant_id, *conditions)
        .order_by(Order.payable_at, Order.id)
        .limit(limit)
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

"""Changing an order: the row, its history and its postings move together, in the caller's transaction.

What an order has in the ledger follows from its state alone (`position`). A change posts the difference between two
positions, so that declines, new amounts and returns need no posting rules of their own.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.models import Account, CauseType, Click, Merchant, Order, OrderChange, OrderStatus
from app.money import Rounding
from app.services import ledger
from app.services.ledger import Line, credit, debit
from app.services.orders.cashback import compute
from app.services.orders.fold import Folded, next_status


@dataclass(frozen=True, slots=True)
class Target:
    """The state an order shall have. Amounts in minor units."""

    status: OrderStatus
    sale_minor: int
    commission_minor: int
    cashback_minor: int


def position(order: Order) -> list[Line]:
    """Return what the order has in the ledger in its present state."""
    match order.status:
        case OrderStatus.PENDING | OrderStatus.APPROVED:
            customer, margin = Account.CUSTOMER_PENDING, Account.MARGIN_PENDING
        case OrderStatus.PAYABLE:
            customer, margin = Account.CUSTOMER_AVAILABLE, Account.MARGIN
        case OrderStatus.DECLINED | OrderStatus.REVERSED:
            return []
        case _:
            assert_never(order.status)
    merchant_id, currency = order.merchant_id, order.currency
    return [
        debit(Account.NETWORK_RECEIVABLE, order.commission_minor, currency, merchant_id=merchant_id),
        credit(customer, order.cashback_minor, currency, customer_id=order.customer_id),
        # Below zero when the promise was larger than the commission: our loss, and it shows.
        credit(margin, order.commission_minor - order.cashback_minor, currency, merchant_id=merchant_id),
    ]


async def follow_reports(
    session: AsyncSession,
    order: Order,
    folded: Folded,
    *,
    click: Click,
    merchant: Merchant,
    rounding: Rounding,
    now: datetime,
) -> bool:
    """Bring an order to what its reports fold to; False when that changes nothing."""
    cashback = compute(
        click,
        sale_minor=folded.sale_minor,
        commission_minor=folded.commission_minor,
        currency=order.currency,
        rounding=rounding,
    )
    order.ordered_at = folded.ordered_at
    order.approved_at = folded.approved_at
    order.payable_at = folded.approved_at and folded.approved_at + timedelta(days=merchant.hold_days)
    order.explanation = cashback.explanation
    current = order.status if order.revision else None
    changed = await change(
        session,
        order,
        Target(next_status(current, folded.status), folded.sale_minor, folded.commission_minor, cashback.amount_minor),
    )
    if order.status is OrderStatus.APPROVED and order.payable_at is not None and order.payable_at <= now:
        ring_after_commit(session, "release_payable")
    return changed


async def change(session: AsyncSession, order: Order, target: Target) -> bool:
    """Move an order (locked by the caller, or new and not yet in the session) to a state; False when it is there.

    Posts one transfer, named by the state and the order's new revision, so that it cannot be posted twice.
    """
    if order.revision and target == Target(
        order.status, order.sale_minor, order.commission_minor, order.cashback_minor
    ):
        return False
    before = position(order) if order.revision else []
    order.status = target.status
    order.sale_minor = target.sale_minor
    order.commission_minor = target.commission_minor
    order.cashback_minor = target.cashback_minor
    order.revision += 1
    session.add(order)
    # The order's row first: what refers to it has no relationship() by which the ORM could know.
    await session.flush()
    session.add(
        OrderChange(
            order_id=order.id,
            revision=order.revision,
            status=target.status,
            sale_minor=target.sale_minor,
            commission_minor=target.commission_minor,
            cashback_minor=target.cashback_minor,
        )
    )
    await ledger.post(
        session,
        cause_type=CauseType.ORDER,
        cause_id=order.id,
        purpose=f"{order.status.value}:{order.revision}",
        lines=[*(line.reversed() for line in before), *position(order)],
    )
    return True

"""Changing an order: the row, its history, its boosts and its postings move together, in the caller's transaction.

What an order has in the ledger follows from its state alone (`position`). A change posts the difference between two
positions, so that declines, new amounts and returns need no posting rules of their own.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.models import (
    Account,
    CauseType,
    Click,
    Merchant,
    Order,
    OrderChange,
    OrderStatus,
)
from app.money import Rounding
from app.schemas.common import utc
from app.services import clawbacks, ledger, referrals
from app.services.exchange_rates import convert, show_rate
from app.services.fraud.judge import is_rejected
from app.services.ledger import Line, credit, debit
from app.services.notifications import Topic, publish
from app.services.orders import boosts
from app.services.orders.cashback import Amounts, compute
from app.services.orders.fold import Folded, next_status
from app.services.settlements.follow import follow_order as follow_settlements

DEAD = (OrderStatus.DECLINED, OrderStatus.REVERSED)


@dataclass(frozen=True, slots=True)
class Target:
    """The state an order shall have. Amounts in minor units: of the order's currency, and as reported."""

    status: OrderStatus
    sale_minor: int
    commission_minor: int
    cashback_minor: int
    boost_minor: int
    reported_sale_minor: int
    reported_commission_minor: int

    @classmethod
    def of(cls, order: Order, *, status: OrderStatus | None = None) -> "Target":
        """Return the state an order has, with another status if one is given."""
        return cls(
            status or order.status,
            order.sale_minor,
            order.commission_minor,
            order.cashback_minor,
            order.boost_minor,
            order.reported_sale_minor,
            order.reported_commission_minor,
        )

    def apply(self, order: Order) -> None:
        """Write it to the order's row."""
        order.status = self.status
        order.sale_minor, order.commission_minor = self.sale_minor, self.commission_minor
        order.cashback_minor, order.boost_minor = self.cashback_minor, self.boost_minor
        order.reported_sale_minor = self.reported_sale_minor
        order.reported_commission_minor = self.reported_commission_minor


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
    merchant_id, currency, reported = order.merchant_id, order.currency, order.reported_currency
    lines = [
        debit(Account.NETWORK_RECEIVABLE, order.reported_commission_minor, reported, merchant_id=merchant_id),
        credit(customer, order.cashback_minor, currency, customer_id=order.customer_id),
        debit(Account.PROMOTIONS, order.boost_minor, currency, merchant_id=merchant_id),
        # Below zero when the promise was larger than the commission: our loss, and it shows.
        credit(
            margin,
            order.commission_minor - (order.cashback_minor - order.boost_minor),
            currency,
            merchant_id=merchant_id,
        ),
    ]
    if reported != currency:
        # The network owes one currency, the customer is owed another: each sums to zero by itself.
        lines += [
            credit(Account.CURRENCY_EXCHANGE, order.reported_commission_minor, reported),
            debit(Account.CURRENCY_EXCHANGE, order.commission_minor, currency),
        ]
    return lines


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
    folded = _with_expiry(order, folded)
    if order.revision and await is_rejected(session, order.id):
        # What staff decided outranks whatever its source says.
        folded = replace(folded, status=OrderStatus.DECLINED, approved_at=None, approved=None)
    current = order.status if order.revision else None
    status = next_status(current, folded.status)
    if status is OrderStatus.PAYABLE and folded.approved is not None:
        # A part that is announced only now is not available before it is approved.
        folded = folded.approved
    # The month of the sale decides which cap counts it, so it is set before the cashback is computed.
    order.ordered_at = folded.ordered_at
    order.approved_at = folded.approved_at
    order.payable_at = folded.approved_at and folded.approved_at + timedelta(days=merchant.hold_days)
    changed = await change(
        session, order, await _target(session, order, folded, status=status, click=click, rounding=rounding)
    )
    if order.status is OrderStatus.APPROVED and order.payable_at is not None and order.payable_at <= now:
        ring_after_commit(session, "release_payable")
    return changed


async def change(session: AsyncSession, order: Order, target: Target) -> bool:
    """Move an order (locked by the caller, or new and not yet in the session) to a state; False when it is there.

    Posts one transfer, named by the state and the order's new revision, so that it cannot be posted twice.
    """
    if order.revision and target == Target.of(order):
        return False
    before = position(order) if order.revision else []
    was_payable = order.revision > 0 and order.status is OrderStatus.PAYABLE
    owed_before_minor = order.owed_minor
    target.apply(order)
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
            boost_minor=target.boost_minor,
        )
    )
    after = position(order)
    await ledger.post(
        session,
        cause_type=CauseType.ORDER,
        cause_id=order.id,
        purpose=f"{order.status.value}:{order.revision}",
        lines=[*(line.reversed() for line in before), *after],
    )
    if order.owed_minor != owed_before_minor and (order.settled_minor or order.written_off_minor):
        await follow_settlements(session, order)
    await publish(session, Topic.ORDER, order.status.value, _told(order))
    if moved_minor := _available(after) - _available(before):
        merchant = await session.get_one(Merchant, order.merchant_id)
        await clawbacks.follow_order(session, order, merchant=merchant, available_change_minor=moved_minor)
    if was_payable or order.status is OrderStatus.PAYABLE:
        await referrals.follow_order(session, order)
    return True


def _told(order: Order) -> dict[str, Any]:
    """Return what other systems are told of an order."""
    return {
        "order_id": str(order.id),
        "revision": order.revision,
        "customer_id": str(order.customer_id),
        "merchant_id": order.merchant_id,
        "order_reference": order.external_id,
        "status": order.status.value,
        "sale": {"amount_minor": order.sale_minor, "currency": order.currency},
        "cashback": {"amount_minor": order.cashback_minor, "currency": order.currency},
        "ordered_at": utc(order.ordered_at),
        "payable_at": order.payable_at and utc(order.payable_at),
    }


def _available(lines: list[Line]) -> int:
    return -sum(line.amount_minor for line in lines if line.account is Account.CUSTOMER_AVAILABLE)


def _with_expiry(order: Order, folded: Folded) -> Folded:
    """Close what no report closes, once the merchant's policy has; any report that does outranks it."""
    if folded.status is not OrderStatus.PENDING or order.expired_as is None:
        return folded
    status = OrderStatus(order.expired_as.value)
    return replace(folded, status=status, approved_at=order.expired_at if status is OrderStatus.APPROVED else None)


async def _target(
    session: AsyncSession, order: Order, folded: Folded, *, status: OrderStatus, click: Click, rounding: Rounding
) -> Target:
    live = status not in DEAD
    was_live = order.revision > 0 and order.status not in DEAD
    reported = (folded.sale_minor, folded.commission_minor)
    if order.revision and live == was_live and reported == (order.reported_sale_minor, order.reported_commission_minor):
        # Nothing that counts has changed; to compute anew could only pick up what others left of a cap or a budget.
        return Target.of(order, status=status)
    amounts = _amounts(order, folded)
    base = compute(
        click,
        amounts,
        rounding=rounding,
        month_left_minor=await _month_left(session, order, click) if live else None,
    )
    boost_minor, steps = 0, base.steps
    if live and click.boosts:
        if not order.revision:
            # What a budget gave is noted with the order, which therefore comes first.
            session.add(order)
            await session.flush()
        boosted = await boosts.grant(session, order, click.boosts, amounts, rounding=rounding)
        boost_minor, steps = boosted.amount_minor, [*steps, *boosted.steps]
    elif was_live:
        await boosts.give_back(session, order)
    cashback_minor = base.amount_minor + boost_minor
    order.explanation = {"currency": order.currency, "steps": steps, "cashback_minor": cashback_minor}
    return Target(status, amounts.sale_minor, amounts.commission_minor, cashback_minor, boost_minor, *reported)


def _amounts(order: Order, folded: Folded) -> Amounts:
    if order.exchange_rate_e12 is None:
        return Amounts(folded.sale_minor, folded.commission_minor, order.currency)
    rate, pair = order.exchange_rate_e12, {"base": order.reported_currency, "quote": order.currency}
    return Amounts(
        convert(folded.sale_minor, rate, **pair),
        convert(folded.commission_minor, rate, **pair),
        order.currency,
        converted=f", from {order.reported_currency} at {show_rate(rate)}",
    )


async def _month_left(session: AsyncSession, order: Order, click: Click) -> int | None:
    """Return what the click's cap a month leaves for this order: the customer's other orders there come first."""
    if click.rate_cap_month_minor is None:
        return None
    start = order.ordered_at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=32)).replace(day=1)
    # Two orders of one month are counted one after the other, and never both see the same rest.
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:month, 1))"),
        {"month": f"cap {order.customer_id} {order.merchant_id} {start:%Y-%m}"},
    )
    used_minor = await session.scalar(
        select(func.coalesce(func.sum(Order.cashback_minor - Order.boost_minor), 0)).where(
            Order.customer_id == order.customer_id,
            Order.merchant_id == order.merchant_id,
            Order.ordered_at >= start,
            Order.ordered_at < end,
            Order.status.not_in(DEAD),
            Order.id != order.id,
        )
    )
    return max(0, click.rate_cap_month_minor - int(used_minor or 0))

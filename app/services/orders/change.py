"""Changing an order: the row, its history, its boosts and its postings move together, in the caller's transaction."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.models import Click, Merchant, Order, OrderChange, OrderStatus
from app.money import Rounding
from app.services import clawbacks, ledger, referrals
from app.services.exchange_rates import convert, show_rate
from app.services.fraud.judge import is_rejected
from app.services.notifications import Topic, publish
from app.services.orders import boosts
from app.services.orders.cashback import Amounts, Cashback, compute
from app.services.orders.fold import Folded, next_status
from app.services.orders.position import DEAD, Target, is_due, move, position, told
from app.services.settlements.follow import follow_order as follow_settlements

__all__ = ["DEAD", "Target", "aim", "change", "follow_reports", "plain_target", "position"]


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
    rejected = order.revision > 0 and await is_rejected(session, order.id)
    folded, status = aim(order, folded, merchant, rejected=rejected)
    changed = await change(
        session, order, await _target(session, order, folded, status=status, click=click, rounding=rounding)
    )
    if is_due(order, now):
        ring_after_commit(session, "release_payable")
    return changed


def aim(order: Order, folded: Folded, merchant: Merchant, *, rejected: bool = False) -> tuple[Folded, OrderStatus]:
    """Set an order's times by what its reports fold to; returns what then counts of that, and the status to come.

    `rejected`: staff decided that nothing is owed for it.
    """
    folded = _with_expiry(order, folded)
    if rejected:
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
    return folded, status


async def change(session: AsyncSession, order: Order, target: Target) -> bool:
    """Move an order (locked by the caller, or new and not yet in the session) to a state; False when it is there.

    Posts one transfer.
    """
    moved = move(order, target)
    if moved is None:
        return False
    session.add(order)
    # The order's row first: what refers to it has no relationship() by which the ORM could know.
    await session.flush()
    session.add(OrderChange(**moved.history))
    entry = moved.entry
    await ledger.post(
        session,
        cause_type=entry.cause_type,
        cause_id=entry.cause_id,
        purpose=entry.purpose,
        lines=entry.lines,
    )
    if moved.is_other_owed and (order.settled_minor or order.written_off_minor):
        await follow_settlements(session, order)
    await publish(session, Topic.ORDER, order.status.value, told(order))
    if moved.available_minor:
        merchant = await session.get_one(Merchant, order.merchant_id)
        await clawbacks.follow_order(session, order, merchant=merchant, available_change_minor=moved.available_minor)
    if moved.was_payable or order.status is OrderStatus.PAYABLE:
        await referrals.follow_order(session, order)
    return True


def _with_expiry(order: Order, folded: Folded) -> Folded:
    """Close what no report closes, once the merchant's policy has; any report that does outranks it."""
    if folded.status is not OrderStatus.PENDING or order.expired_as is None:
        return folded
    status = OrderStatus(order.expired_as.value)
    return replace(folded, status=status, approved_at=order.expired_at if status is OrderStatus.APPROVED else None)


async def _target(
    session: AsyncSession, order: Order, folded: Folded, *, status: OrderStatus, click: Click, rounding: Rounding
) -> Target:
    if (same := _unchanged(order, folded, status)) is not None:
        return same
    live, was_live = status not in DEAD, order.revision > 0 and order.status not in DEAD
    amounts = _amounts(order, folded)
    base = compute(
        click,
        amounts,
        rounding=rounding,
        month_left_minor=await _month_left(session, order, click) if live else None,
    )
    boosted = Cashback(0, [])
    if live and click.boosts:
        if not order.revision:
            # What a budget gave is noted with the order, which therefore comes first.
            session.add(order)
            await session.flush()
        boosted = await boosts.grant(session, order, click.boosts, amounts, rounding=rounding)
    elif was_live:
        await boosts.give_back(session, order)
    return _earned(order, folded, status, amounts, base, boosted)


def plain_target(order: Order, folded: Folded, status: OrderStatus, *, click: Click, rounding: Rounding) -> Target:
    """Return the state of an order whose click has neither a cap a month nor boosts: only its own amounts count."""
    if (same := _unchanged(order, folded, status)) is not None:
        return same
    amounts = _amounts(order, folded)
    return _earned(order, folded, status, amounts, compute(click, amounts, rounding=rounding), Cashback(0, []))


def _unchanged(order: Order, folded: Folded, status: OrderStatus) -> Target | None:
    live, was_live = status not in DEAD, order.revision > 0 and order.status not in DEAD
    reported = (folded.sale_minor, folded.commission_minor)
    if order.revision and live == was_live and reported == (order.reported_sale_minor, order.reported_commission_minor):
        # Nothing that counts has changed; to compute anew could only pick up what others left of a cap or a budget.
        return Target.of(order, status=status)
    return None


def _earned(
    order: Order, folded: Folded, status: OrderStatus, amounts: Amounts, base: Cashback, boosted: Cashback
) -> Target:
    cashback_minor = base.amount_minor + boosted.amount_minor
    steps = [*base.steps, *boosted.steps]
    order.explanation = {"currency": order.currency, "steps": steps, "cashback_minor": cashback_minor}
    return Target(
        status,
        amounts.sale_minor,
        amounts.commission_minor,
        cashback_minor,
        boosted.amount_minor,
        folded.sale_minor,
        folded.commission_minor,
    )


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

"""Judging orders: whoever holds an order's row brings its review to what the rules find in it now.

An order is judged in the transaction that changes it, again when another order of its customer comes or moves, and a
last time before its cashback becomes payable. So which orders are held follows from all that is known, not from the
order in which it came to be known.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.models import (
    FraudRuleKind,
    Order,
    OrderReview,
    OrderReviewChange,
    OrderReviewCheck,
    OrderStatus,
    ReviewStatus,
)
from app.services.fraud.assess import Finding, Rule, assess
from app.services.fraud.rules import rules_of

BATCH = 200
# How many of a customer's other orders are judged again when one comes: the newest that still can be held.
_MOST_OTHERS = 100
# Twice as much of something as staff have seen when they released an order is new evidence.
_NEW_FROM = 2
_CAN_BE_HELD = (OrderStatus.PENDING, OrderStatus.APPROVED)
_COUNTING = (FraudRuleKind.ORDERS_PER_CLICK, FraudRuleKind.VELOCITY)


async def follow_order(session: AsyncSession, order: Order, *, is_new: bool, has_moved: bool) -> None:
    """Judge an order, which the caller has locked or made, after its reports were folded.

    `has_moved`: its purchase counts at another time than before.
    """
    rules = await rules_of(session, order.merchant_id)
    if is_new and not rules:
        return
    await _judge(session, order, rules)
    if (is_new or has_moved) and any(rule.thresholds.kind in _COUNTING for rule in rules):
        await _note_others(session, order)


async def follow_new_and_moved(
    session: AsyncSession, merchant_id: int, orders: Collection[Order], *, moved: Collection[UUID]
) -> None:
    """Do for orders of a merchant, none of them reviewed so far, what `follow_order` does for one.

    `moved`: ids of those that are new, or whose purchase counts at another time than before.
    """
    rules = await rules_of(session, merchant_id)
    if not rules:
        return
    found = await assess(session, rules, [order.id for order in orders if order.status in _CAN_BE_HELD])
    for order in orders:
        _bring(session, order, None, found.get(order.id, ()))
    await session.flush()
    if any(rule.thresholds.kind in _COUNTING for rule in rules):
        for order in orders:
            if order.id in moved:
                await _note_others(session, order)


async def reviewed(session: AsyncSession, order_ids: Collection[UUID]) -> set[UUID]:
    """Return which orders have a review, whatever it came to."""
    return set(await session.scalars(select(OrderReview.order_id).where(OrderReview.order_id.in_(order_ids))))


async def is_rejected(session: AsyncSession, order_id: UUID) -> bool:
    """Whether staff decided that nothing is owed for an order."""
    review = await session.get(OrderReview, order_id)
    return review is not None and review.status is ReviewStatus.REJECTED


async def hold_back(session: AsyncSession, merchant_id: int, orders: Sequence[Order]) -> set[UUID]:
    """Judge orders of a merchant, all locked, that are about to become payable; returns those that may not."""
    rules = await rules_of(session, merchant_id)
    found = await assess(session, rules, [order.id for order in orders])
    if not found:
        return set()
    reviews = {
        review.order_id: review
        for review in await session.scalars(
            select(OrderReview).where(OrderReview.order_id.in_(found)).execution_options(populate_existing=True)
        )
    }
    held = {
        order.id
        for order in orders
        if order.id in found and _bring(session, order, reviews.get(order.id), found[order.id])
    }
    await session.flush()
    return held


async def noted_orders(session: AsyncSession) -> list[UUID]:
    """Return ids of orders that somebody noted to be judged again, the first noted first."""
    first = func.min(OrderReviewCheck.id)
    rows = await session.execute(
        select(OrderReviewCheck.order_id).group_by(OrderReviewCheck.order_id).order_by(first).limit(BATCH)
    )
    return [row.order_id for row in rows]


async def judge_noted(session: AsyncSession, order_id: UUID) -> None:
    """Judge an order anew, and forget the notes that asked for it. Safe to run twice and beside itself."""
    order = await session.get_one(Order, order_id, with_for_update=True)
    # Those that are there now: one that is noted meanwhile stays for another time.
    await session.execute(delete(OrderReviewCheck).where(OrderReviewCheck.order_id == order_id))
    await _judge(session, order, await rules_of(session, order.merchant_id))


async def _judge(session: AsyncSession, order: Order, rules: Sequence[Rule]) -> None:
    review = await session.get(OrderReview, order.id, populate_existing=True)
    findings: Sequence[Finding] = ()
    if order.status in _CAN_BE_HELD:
        findings = (await assess(session, rules, [order.id])).get(order.id, ())
    _bring(session, order, review, findings)
    await session.flush()


def _bring(session: AsyncSession, order: Order, review: OrderReview | None, findings: Sequence[Finding]) -> bool:
    """Bring a review to what is found; returns whether the order may not become payable."""
    status = _next(review, findings)
    if status is None:
        return False
    kept = [finding.kept() for finding in findings]
    if review is None:
        review = OrderReview(order_id=order.id, merchant_id=order.merchant_id, findings=[], seen={})
        session.add(review)
    if status is ReviewStatus.HELD:
        if review.status is not ReviewStatus.HELD:
            review.held_since = datetime.now(UTC)
        is_news = review.status is not status or _kinds(review.findings) != _kinds(kept)
        review.findings = kept
    else:
        is_news = review.status is not status
    review.status = status
    if is_news:
        session.add(OrderReviewChange(order_id=order.id, status=status, findings=kept))
    return status in (ReviewStatus.HELD, ReviewStatus.REJECTED)


def _next(review: OrderReview | None, findings: Sequence[Finding]) -> ReviewStatus | None:
    """Return what a review comes to; None where there is none, and need not be."""
    if review is None:
        return ReviewStatus.HELD if findings else None
    match review.status:
        case ReviewStatus.REJECTED:
            return ReviewStatus.REJECTED
        case ReviewStatus.HELD:
            return ReviewStatus.HELD if findings else ReviewStatus.CLEARED
        case ReviewStatus.RELEASED | ReviewStatus.CLEARED:
            return ReviewStatus.HELD if any(_is_new(review, finding) for finding in findings) else review.status


def _is_new(review: OrderReview, finding: Finding) -> bool:
    seen: int | None = review.seen.get(finding.kind.value)
    return seen is None or finding.measure >= max(seen, 1) * _NEW_FROM


def _kinds(findings: Sequence[dict[str, object]]) -> set[object]:
    return {finding["kind"] for finding in findings}


async def _note_others(session: AsyncSession, order: Order) -> None:
    """Note the customer's other orders: each is judged in a transaction of its own, which holds its row."""
    others = (
        select(Order.id, func.now())
        .where(Order.customer_id == order.customer_id, Order.id != order.id, Order.status.in_(_CAN_BE_HELD))
        .order_by(Order.id.desc())
        .limit(_MOST_OTHERS)
    )
    noted = await session.execute(
        insert(OrderReviewCheck).from_select(["order_id", "created_at"], others).returning(OrderReviewCheck.id)
    )
    if noted.first() is not None:
        ring_after_commit(session, "judge_orders")

"""Reviews for staff, and what a rule would have held."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import first_id_at, new_id
from app.models import FraudRuleKind, Order, OrderReview, OrderReviewChange, ReviewStatus
from app.schemas.common import Money, Page
from app.schemas.fraud import (
    FindingRead,
    FraudDryRun,
    FraudDryRunRead,
    ReviewDetail,
    ReviewRead,
    ReviewStep,
    WouldHold,
)
from app.services.fraud.assess import Rule, assess
from app.services.fraud.decide import ReviewNotFoundError
from app.services.pagination import newest_rows

_BATCH = 500
_MOST_SAMPLES = 100


async def list_reviews(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: ReviewStatus | None,
    merchant_id: int | None,
    kind: FraudRuleKind | None,
) -> Page[ReviewRead]:
    """Return reviews, those of the newest orders first. Raises InvalidCursorError."""
    statement = select(OrderReview, Order).join(Order, Order.id == OrderReview.order_id)
    if status is not None:
        statement = statement.where(OrderReview.status == status)
    if merchant_id is not None:
        statement = statement.where(OrderReview.merchant_id == merchant_id)
    if kind is not None:
        statement = statement.where(OrderReview.findings.contains([{"kind": kind.value}]))
    rows, next_cursor = await newest_rows(session, statement, OrderReview.order_id, limit=limit, cursor=cursor)
    items = [_read(review, order) for review, order in rows]
    return Page(items=items, next_cursor=next_cursor)


async def show_review(session: AsyncSession, *, order_id: UUID) -> ReviewDetail:
    """Return a review with its steps. Raises ReviewNotFoundError."""
    review = await session.get(OrderReview, order_id)
    if review is None:
        raise ReviewNotFoundError(order_id)
    order = await session.get_one(Order, order_id)
    steps = await session.scalars(
        select(OrderReviewChange).where(OrderReviewChange.order_id == order_id).order_by(OrderReviewChange.id)
    )
    return ReviewDetail(
        **dict(_read(review, order)),
        history=[ReviewStep.model_validate(step) for step in steps],
    )


async def try_rule(session: AsyncSession, *, wanted: FraudDryRun) -> FraudDryRunRead:
    """Say which past orders a rule would have held, were it judged by today; nothing is stored."""
    rule = Rule(new_id(), wanted.thresholds)
    last, until = first_id_at(wanted.heard_from), first_id_at(wanted.heard_to)
    looked_at, held, samples = 0, 0, list[WouldHold]()
    while looked_at < wanted.most:
        size = min(_BATCH, wanted.most - looked_at)
        statement = select(Order.id).where(Order.id > last, Order.id < until).order_by(Order.id).limit(size)
        if wanted.merchant_id is not None:
            statement = statement.where(Order.merchant_id == wanted.merchant_id)
        ids = (await session.scalars(statement)).all()
        found = await assess(session, [rule], ids)
        looked_at, held = looked_at + len(ids), held + len(found)
        samples += [WouldHold(order_id=one, evidence=dict(found[one][0].evidence)) for one in sorted(found)]
        if len(ids) < size:
            return FraudDryRunRead(
                looked_at=looked_at, is_complete=True, would_hold=held, samples=samples[:_MOST_SAMPLES]
            )
        last = ids[-1]
    more = select(Order.id).where(Order.id > last, Order.id < until).limit(1)
    if wanted.merchant_id is not None:
        more = more.where(Order.merchant_id == wanted.merchant_id)
    is_complete = await session.scalar(more) is None
    return FraudDryRunRead(
        looked_at=looked_at, is_complete=is_complete, would_hold=held, samples=samples[:_MOST_SAMPLES]
    )


async def measure_reviews(session: AsyncSession) -> tuple[int, float]:
    """Count the orders that are held, and return the age in seconds of the one that waits longest."""
    row = (
        await session.execute(
            select(func.count(), func.min(OrderReview.held_since), func.now()).where(
                OrderReview.status == ReviewStatus.HELD
            )
        )
    ).one()
    count, oldest, now = tuple[int, datetime | None, datetime](row)
    return count, (now - oldest).total_seconds() if oldest is not None else 0.0


def _read(review: OrderReview, order: Order) -> ReviewRead:
    return ReviewRead(
        order_id=order.id,
        merchant_id=order.merchant_id,
        customer_id=order.customer_id,
        order_reference=order.external_id,
        order_status=order.status,
        sale=Money(amount_minor=order.sale_minor, currency=order.currency),
        cashback=Money(amount_minor=order.cashback_minor, currency=order.currency),
        status=review.status,
        findings=[FindingRead.model_validate(finding) for finding in review.findings],
        held_since=review.held_since,
        decided_at=review.decided_at,
        decided_by_id=review.decided_by_id,
        note=review.note,
    )

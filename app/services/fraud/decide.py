"""What staff decide about an order that is held: release it, or reject it for good."""

import logging
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError
from app.models import Order, OrderReview, OrderReviewChange, ReviewStatus
from app.services.orders.report import refold

logger = logging.getLogger(__name__)


class ReviewNotFoundError(NotFoundError):
    """The order was never held, or there is no such order."""

    code = "review_not_found"
    title = "Review not found"

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"No order {order_id} is or was held.")


class NotHeldError(ConflictError):
    """There is nothing to decide about the order."""

    code = "order_not_held"
    title = "Order not held"

    def __init__(self, review: OrderReview) -> None:
        super().__init__(f"The order {review.order_id} is not held: its review is {review.status.value}.")


async def release(session: AsyncSession, settings: Settings, *, order_id: UUID, note: str, staff_key_id: UUID) -> None:
    """Let an order that is held or was rejected go its way; only new evidence holds it again.

    Raises ReviewNotFoundError and NotHeldError.
    """
    order, review = await _lock(session, order_id, (ReviewStatus.HELD, ReviewStatus.REJECTED))
    was_rejected = review.status is ReviewStatus.REJECTED
    review.seen = {
        **review.seen,
        **{finding["kind"]: finding["measure"] for finding in review.findings},
    }
    await _note(session, review, ReviewStatus.RELEASED, note=note, staff_key_id=staff_key_id)
    if was_rejected:
        await refold(session, settings, order)
    ring_after_commit(session, "release_payable")


async def reject(session: AsyncSession, settings: Settings, *, order_id: UUID, note: str, staff_key_id: UUID) -> None:
    """Owe nothing for an order that is held: it is declined, whatever its source says before and after.

    Raises ReviewNotFoundError and NotHeldError.
    """
    order, review = await _lock(session, order_id, (ReviewStatus.HELD,))
    await _note(session, review, ReviewStatus.REJECTED, note=note, staff_key_id=staff_key_id)
    await refold(session, settings, order)


async def _lock(
    session: AsyncSession, order_id: UUID, decidable: tuple[ReviewStatus, ...]
) -> tuple[Order, OrderReview]:
    order = await session.get(Order, order_id, with_for_update=True, populate_existing=True)
    review = await session.get(OrderReview, order_id, populate_existing=True)
    if order is None or review is None:
        raise ReviewNotFoundError(order_id)
    if review.status not in decidable:
        raise NotHeldError(review)
    return order, review


async def _note(
    session: AsyncSession, review: OrderReview, status: ReviewStatus, *, note: str, staff_key_id: UUID
) -> None:
    review.status, review.note = status, note
    review.decided_at, review.decided_by_id = datetime.now(UTC), staff_key_id
    session.add(
        OrderReviewChange(
            order_id=review.order_id, status=status, findings=review.findings, note=note, staff_key_id=staff_key_id
        )
    )
    await session.flush()
    logger.info(
        "order review decided",
        extra={"order_id": str(review.order_id), "status": status.value, "staff_key_id": str(staff_key_id)},
    )

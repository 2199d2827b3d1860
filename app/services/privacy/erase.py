"""Erasing a person whose account is closed, from every table that can name one; the books stay.

What stays in each table is written down in `inventory.AFTER_CLOSING`.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import (
    Click,
    IdempotencyKey,
    Order,
    OrderReport,
    OrderReview,
    OrderReviewChange,
    Payout,
    PayoutChange,
    PayoutMethod,
    Referral,
    WebhookEvent,
    WebhookStatus,
)
from app.services.privacy import export

# In place of a text: that there was one still shows.
ERASED = "erased"


async def erase(session: AsyncSession, *, customer_id: UUID) -> None:
    """Erase what other domains do not erase themselves. The caller has locked the customer, who has no open payout."""
    await export.forget(session, customer_id=customer_id)
    # Remembered answers show what was asked for.
    await session.execute(delete(IdempotencyKey).where(IdempotencyKey.scope == str(customer_id)))
    await session.execute(
        update(Click)
        .where(Click.customer_id == customer_id, Click.address_hint.is_not(None))
        .values(address_hint=None)
        .execution_options(synchronize_session=False)
    )
    await session.execute(
        update(PayoutMethod)
        .where(PayoutMethod.customer_id == customer_id)
        .values(masked=ERASED)
        .execution_options(synchronize_session=False)
    )
    await _erase_texts(session, customer_id)
    await _erase_events(session, customer_id)


async def _erase_texts(session: AsyncSession, customer_id: UUID) -> None:
    """Erase what people wrote into decisions."""
    own_orders = select(Order.id).where(Order.customer_id == customer_id).scalar_subquery()
    own_payouts = select(Payout.id).where(Payout.customer_id == customer_id).scalar_subquery()
    for column, condition in (
        (OrderReport.reason, OrderReport.order_id.in_(own_orders)),
        (OrderReview.note, OrderReview.order_id.in_(own_orders)),
        (OrderReviewChange.note, OrderReviewChange.order_id.in_(own_orders)),
        (Payout.reason, Payout.customer_id == customer_id),
        (PayoutChange.reason, PayoutChange.payout_id.in_(own_payouts)),
        (Referral.note, Referral.referrer_id == customer_id),
        (Referral.note, Referral.invited_id == customer_id),
    ):
        await session.execute(
            update(column.class_)
            .where(condition, column.is_not(None))
            .values({column: ERASED})
            .execution_options(synchronize_session=False)
        )


async def _erase_events(session: AsyncSession, customer_id: UUID) -> None:
    """Erase the raw bytes of events about the customer's orders, and of the requests that brought them among others."""
    own = (
        select(OrderReport.webhook_event_id)
        .join(Order, Order.id == OrderReport.order_id)
        .where(Order.customer_id == customer_id, OrderReport.webhook_event_id.is_not(None))
    )
    ids = (await session.scalars(own)).all()
    deliveries = await session.scalars(
        select(WebhookEvent.delivery_id).where(WebhookEvent.id.in_(ids), WebhookEvent.delivery_id.is_not(None))
    )
    await erase_raw(session, [*ids, *deliveries])


async def erase_raw(session: AsyncSession, ids: list[UUID | None]) -> int:
    """Erase the raw bytes of events; what was read of them stays, and they can be replayed no more. Returns how many.

    Those that wait for a worker keep theirs.
    """
    erased = await session.scalars(
        update(WebhookEvent)
        .where(
            WebhookEvent.id.in_(ids),
            WebhookEvent.status != WebhookStatus.RECEIVED,
            WebhookEvent.erased_at.is_(None),
        )
        .values(body=b"", query=b"", headers={}, erased_at=datetime.now(UTC))
        .returning(WebhookEvent.id)
        .execution_options(synchronize_session=False)
    )
    return len(erased.all())

"""Retention: raw webhook events lose their bytes when their time is over, unless something still needs them.

The narrow row of an event stays for ever: it is what tells a repeat, and what an order's reports refer to.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, not_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import first_id_at
from app.models import Order, OrderStatus, WebhookEvent, WebhookStatus
from app.services.privacy.erase import erase_raw

BATCH = 1_000
# Nobody has to decide about these any more.
_DECIDED = (
    WebhookStatus.PROCESSED,
    WebhookStatus.REJECTED,
    WebhookStatus.DISCARDED,
    WebhookStatus.IGNORED,
    WebhookStatus.SPLIT,
)
_IN_PROGRESS = (OrderStatus.PENDING, OrderStatus.APPROVED)


def first_kept(now: datetime, months: int) -> datetime:
    """Return the beginning of the first month that is kept, when so many whole months before this one are."""
    years, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    return datetime(years, month + 1, 1, tzinfo=UTC)


async def due_events(
    session: AsyncSession, *, before: datetime, after: UUID | None = None, limit: int = BATCH
) -> Sequence[tuple[UUID, bool]]:
    """Return (id, whether its bytes may go) of events from before a time that still have them, the oldest first.

    One that waits, or belongs to an order in progress, keeps them until that is over.
    """
    in_progress = (
        select(Order.id)
        .where(Order.id == WebhookEvent.order_id, Order.status.in_(_IN_PROGRESS))
        .correlate(WebhookEvent)
    ).exists()
    may_go = WebhookEvent.status.in_(_DECIDED) & not_(in_progress)
    statement = (
        select(WebhookEvent.id, may_go.label("may_go"))
        .where(WebhookEvent.erased_at.is_(None), WebhookEvent.id < first_id_at(before))
        .order_by(WebhookEvent.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(WebhookEvent.id > after)
    return [(row.id, row.may_go) for row in await session.execute(statement)]


async def erase_events(session: AsyncSession, due: Sequence[tuple[UUID, bool]]) -> int:
    """Erase the raw bytes of those that may go, and return how many. Safe to repeat."""
    return await erase_raw(session, [event_id for event_id, may_go in due if may_go])


async def oldest_raw(session: AsyncSession) -> datetime | None:
    """Return when the oldest event came that can still be replayed."""
    statement = select(func.min(WebhookEvent.received_at)).where(WebhookEvent.erased_at.is_(None))
    return await session.scalar(statement)

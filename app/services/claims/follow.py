"""Claims follow what becomes of events and orders without them.

An event that staff credited a claim with, but which cannot be processed yet (no exchange rate is known, say), leaves
the claim approved without an order: processing writes the outcome to the claim in its own transaction. Orders that
appear by themselves, and orphans that are none any more, are looked for by the sweep.
"""

import logging

from sqlalchemy import and_, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.models import WAITING, Claim, ClaimStatus, Order, WebhookEvent, WebhookStatus
from app.services.orders.change import DEAD

logger = logging.getLogger(__name__)

BATCH = 100
_TRACKED_NOTE = "The shop has reported this order meanwhile."


async def follow_event(session: AsyncSession, event: WebhookEvent) -> None:
    """Give the order to claims that wait for it, or open them again when there will be none."""
    waiting = update(Claim).where(
        Claim.matched_event_id == event.id, Claim.status == ClaimStatus.APPROVED, Claim.order_id.is_(None)
    )
    if event.status is WebhookStatus.PROCESSED:
        await session.execute(waiting.values(order_id=event.order_id))
    elif event.waits_for is None:
        reopened = await session.scalars(
            waiting.values(
                status=ClaimStatus.OPEN,
                matched_event_id=None,
                score=None,
                score_reasons=None,
                compared_at=None,
                resolution_note=None,
                resolved_by_id=None,
                resolved_at=None,
            ).returning(Claim.id)
        )
        for claim_id in reopened:
            logger.warning(
                "approved claim reopened: its event cannot be credited",
                extra={"claim_id": str(claim_id), "event_id": str(event.id), "reason": event.reason},
            )
            ring_after_commit(session, "match_claims")


async def forget_stale(session: AsyncSession, *, limit: int = BATCH) -> int:
    """Let waiting claims be compared anew whose orphan is none any more; returns how many."""
    stale = (
        select(Claim.id)
        .join(WebhookEvent, WebhookEvent.id == Claim.matched_event_id)
        .where(Claim.status.in_(WAITING), Claim.compared_at.is_not(None), WebhookEvent.status != WebhookStatus.ORPHANED)
        .order_by(Claim.id)
        .limit(limit)
        .with_for_update(skip_locked=True, of=Claim)
    )
    forgotten = await session.scalars(
        update(Claim)
        .where(Claim.id.in_(stale))
        .values(compared_at=None)
        .returning(Claim.id)
        .execution_options(synchronize_session=False)
    )
    return len(forgotten.all())


async def settle_tracked(session: AsyncSession, *, limit: int = BATCH) -> int:
    """Resolve waiting claims whose order the shop has reported for their customer meanwhile; returns how many."""
    key = Claim.reference_key
    tracked = (
        select(Claim.id, Order.id)
        .join(
            Order,
            and_(
                Order.merchant_id == Claim.merchant_id,
                Order.external_id.in_(
                    (Claim.order_reference, key, func.upper(key), literal("#") + key, literal("#") + func.upper(key))
                ),
            ),
        )
        .where(
            Claim.status.in_(WAITING),
            Order.customer_id == Claim.customer_id,
            # What was declined stays with staff: it is not what the customer asked for.
            Order.status.not_in(DEAD),
        )
        .order_by(Claim.id, Order.id)
        .limit(limit)
    )
    settled = 0
    for claim_id, order_id in (await session.execute(tracked)).all():
        resolved = await session.scalars(
            update(Claim)
            .where(Claim.id == claim_id, Claim.status.in_(WAITING))
            .values(
                status=ClaimStatus.APPROVED,
                order_id=order_id,
                resolved_at=func.now(),
                resolution_note=_TRACKED_NOTE,
            )
            .returning(Claim.id)
            .execution_options(synchronize_session=False)
        )
        settled += len(resolved.all())
    return settled

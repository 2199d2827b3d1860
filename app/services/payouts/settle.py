"""Settling by hand: finance says what the bank did with a payout, or with all of a batch.

Also later: a bank may send money back days after it was paid. Saying the same twice changes nothing.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, FieldError, InvalidRequestError
from app.models import Payout, PayoutChange, PayoutProvider, PayoutStatus
from app.schemas.common import utc
from app.schemas.payout_batches import PayoutBatchSettlement, PayoutSettlement
from app.services.payouts import life
from app.services.payouts.batches import get_batch
from app.services.payouts.decide import UnknownPayoutError
from app.services.payouts.life import Step
from app.services.payouts.send import RESEND_FOR

# Longer than any attempt lasts that began while a payout could still be sent again.
_LAST_ATTEMPT = timedelta(hours=1)


class PayoutMayStillBePaidError(ConflictError):
    """The provider may be given the payout again at any moment, so nobody can know that it failed."""

    code = "payout_may_still_be_paid"
    title = "It may still be paid"

    def __init__(self, payout: Payout, until: datetime) -> None:
        super().__init__(
            f"Payout {payout.id} is with its provider, which may still be asked to pay it. From {utc(until)} on it is"
            " only asked about, and can be failed by hand."
        )


class PayoutNotInBatchError(InvalidRequestError):
    """A failure names a payout that is not in the batch."""

    code = "payout_not_in_batch"
    title = "Not in this batch"

    def __init__(self, wrong: dict[int, UUID]) -> None:
        errors: list[FieldError] = [
            {"loc": ["body", "failures", position, "payout_id"], "msg": "Not in this batch", "type": self.code}
            for position in wrong
        ]
        super().__init__("Failures name payouts that are not in this batch; nothing was settled.", errors=errors)


async def settle_payout(
    session: AsyncSession, *, payout_id: UUID, wanted: PayoutSettlement, staff_key_id: UUID
) -> Payout:
    """Say that a sent payout was paid or failed, or that a paid one came back.

    Its provider is asked no more, until it calls back.
    Raises UnknownPayoutError, PayoutStateError and PayoutMayStillBePaidError.
    """
    payout = await session.get(Payout, payout_id, with_for_update=True, populate_existing=True)
    if payout is None:
        raise UnknownPayoutError(payout_id)
    if payout.status is wanted.status:
        # Somebody has looked: a provider that contradicts it is not asked any more.
        payout.next_attempt_at = None
        return payout
    if payout.provider is PayoutProvider.HTTP and wanted.status is PayoutStatus.FAILED:
        await _require_never_sent_again(session, payout)
    payout.next_attempt_at = None
    await life.advance(session, payout, wanted.status, reason=wanted.reason, staff_key_id=staff_key_id)
    return payout


async def settle_batch(
    session: AsyncSession, *, batch_id: UUID, wanted: PayoutBatchSettlement, staff_key_id: UUID
) -> None:
    """Say that all of a batch was paid but the failures; what was settled before stays, unless it is one of these.

    Raises PayoutBatchNotFoundError and PayoutNotInBatchError.
    """
    await get_batch(session, batch_id)
    rows = await session.scalars(
        select(Payout).where(Payout.batch_id == batch_id).order_by(Payout.id).with_for_update()
    )
    payouts = {payout.id: payout for payout in rows}
    reasons = {failure.payout_id: failure.reason for failure in wanted.failures}
    if wrong := {number: one.payout_id for number, one in enumerate(wanted.failures) if one.payout_id not in payouts}:
        raise PayoutNotInBatchError(wrong)
    steps = [
        Step(payout, PayoutStatus.FAILED, reasons[payout.id])
        if payout.id in reasons
        else Step(payout, PayoutStatus.PAID)
        for payout in payouts.values()
    ]
    await life.advance_all(
        session,
        [step for step in steps if life.may_become(step.payout.status, step.status)],
        staff_key_id=staff_key_id,
    )


async def _require_never_sent_again(session: AsyncSession, payout: Payout) -> None:
    sent_at = await session.scalar(
        select(func.min(PayoutChange.at)).where(
            PayoutChange.payout_id == payout.id, PayoutChange.status == PayoutStatus.SENT
        )
    )
    if sent_at is not None and (until := sent_at + RESEND_FOR + _LAST_ATTEMPT) > datetime.now(UTC):
        raise PayoutMayStillBePaidError(payout, until)

"""Deciding about a requested payout: a rule approves small ones, staff the others; staff reject with a reason."""

from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import Customer, CustomerStatus, Payout, PayoutStatus, Proposal, ProposalKind, ProposalStatus
from app.services.payouts import life


class UnknownPayoutError(NotFoundError):
    """No payout has this id."""

    code = "unknown_payout"
    title = "Payout not found"

    def __init__(self, payout_id: UUID) -> None:
        super().__init__(f"There is no payout {payout_id}.")


class PayoutCustomerFrozenError(ConflictError):
    """The customer was frozen after asking, and a frozen one withdraws nothing."""

    code = "payout_customer_frozen"
    title = "Customer frozen"

    def __init__(self, payout: Payout) -> None:
        super().__init__(f"The customer of payout {payout.id} is frozen; reject it, or decide once the review is over.")


async def approve(session: AsyncSession, payout: Payout, *, staff_key_id: UUID | None) -> None:
    """Approve a payout, locked by the caller; without a staff key a rule decided. Raises PayoutStateError."""
    payout.decided_by_id = staff_key_id
    await life.advance(session, payout, PayoutStatus.APPROVED, staff_key_id=staff_key_id)


async def approve_by_staff(session: AsyncSession, *, payout_id: UUID, staff_key_id: UUID) -> Payout:
    """Approve a requested payout. Raises UnknownPayoutError, PayoutStateError and PayoutCustomerFrozenError."""
    payout = await _lock(session, payout_id)
    status = await session.scalar(select(Customer.status).where(Customer.id == payout.customer_id))
    if status is CustomerStatus.FROZEN:
        raise PayoutCustomerFrozenError(payout)
    await approve(session, payout, staff_key_id=staff_key_id)
    return payout


async def reject_by_staff(session: AsyncSession, *, payout_id: UUID, reason: str, staff_key_id: UUID) -> Payout:
    """Reject a payout that was not handed over yet; its amount is available again, and no approval of it waits.

    Raises UnknownPayoutError and PayoutStateError.
    """
    # Before the payout, as whoever confirms locks them.
    await session.execute(
        update(Proposal)
        .where(
            Proposal.kind == ProposalKind.PAYOUT_APPROVAL,
            Proposal.target_id == payout_id,
            Proposal.status == ProposalStatus.OPEN,
        )
        .values(status=ProposalStatus.REFUSED, decided_by_id=staff_key_id, decided_at=func.now(), note=reason)
    )
    payout = await _lock(session, payout_id)
    payout.decided_by_id = staff_key_id
    payout.next_attempt_at = None
    await life.advance(session, payout, PayoutStatus.REJECTED, reason=reason, staff_key_id=staff_key_id)
    return payout


async def _lock(session: AsyncSession, payout_id: UUID) -> Payout:
    payout = await session.get(Payout, payout_id, with_for_update=True, populate_existing=True)
    if payout is None:
        raise UnknownPayoutError(payout_id)
    return payout

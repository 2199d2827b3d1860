"""What staff decide about a bonus: allow one that is held or was refused, or refuse one that is not granted yet."""

import logging
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import Referral, ReferralReason, ReferralStatus
from app.services.referrals.settle import bring_up_to_date, lock_referral

logger = logging.getLogger(__name__)

_DECIDABLE = (ReferralStatus.WAITING, ReferralStatus.HELD, ReferralStatus.REFUSED)


class ReferralNotFoundError(NotFoundError):
    """No referral has this id."""

    code = "referral_not_found"
    title = "Referral not found"

    def __init__(self, referral_id: UUID) -> None:
        super().__init__(f"There is no referral {referral_id}.")


class ReferralGrantedError(ConflictError):
    """The bonus was granted; only the order that earns it can take it back."""

    code = "referral_granted"
    title = "Bonus granted already"

    def __init__(self) -> None:
        super().__init__("The bonus was granted; it goes with its order from now on, and is not decided any more.")


async def allow(session: AsyncSession, *, referral_id: UUID, note: str, staff_key_id: UUID) -> Referral:
    """Let likenesses of the two customers count no more, and settle the referral at once.

    Accounts that are not active and the referrer's limit count as before. Raises ReferralNotFoundError and
    ReferralGrantedError.
    """
    referral = await _decide(session, referral_id, note, staff_key_id)
    referral.status, referral.reason = ReferralStatus.WAITING, None
    await bring_up_to_date(session, referral)
    return referral


async def refuse(session: AsyncSession, *, referral_id: UUID, note: str, staff_key_id: UUID) -> Referral:
    """Refuse a bonus that is not granted. Raises ReferralNotFoundError and ReferralGrantedError."""
    referral = await _decide(session, referral_id, note, staff_key_id)
    referral.status, referral.reason = ReferralStatus.REFUSED, ReferralReason.BY_STAFF
    await session.flush()
    return referral


async def _decide(session: AsyncSession, referral_id: UUID, note: str, staff_key_id: UUID) -> Referral:
    referral = await lock_referral(session, referral_id)
    if referral is None:
        raise ReferralNotFoundError(referral_id)
    if referral.status not in _DECIDABLE:
        raise ReferralGrantedError
    referral.decided_by_id, referral.note = staff_key_id, note
    logger.info("referral decided", extra={"referral_id": str(referral_id), "staff_key_id": str(staff_key_id)})
    return referral

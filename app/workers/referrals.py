"""Settling the referrals whose orders have changed."""

import logging
from uuid import UUID

from app.db import is_unavailable, transaction
from app.services.referrals.settle import BATCH, noted_referrals, settle

logger = logging.getLogger(__name__)


async def settle_referrals() -> int:
    """Settle all that are noted, one transaction each, and return how many. One that fails delays no other."""
    looked_at, last = 0, 0
    while True:
        async with transaction() as session:
            noted = await noted_referrals(session, after=last)
        for _, referral_id in noted:
            await _settle_one(referral_id)
        looked_at += len(noted)
        if len(noted) < BATCH:
            return looked_at
        last, _ = noted[-1]


async def _settle_one(referral_id: UUID) -> None:
    try:
        async with transaction() as session:
            await settle(session, referral_id)
    except Exception as error:
        # Its note stays: it is looked at again by the sweep.
        if is_unavailable(error):
            logger.warning("referral postponed", extra={"referral_id": str(referral_id), "error": type(error).__name__})
            return
        logger.exception("referral cannot be settled", extra={"referral_id": str(referral_id)})

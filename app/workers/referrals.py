"""Settling the referrals whose orders have changed."""

from app.db import transaction
from app.services.referrals.settle import BATCH, noted_referrals, settle
from app.workers.tasks import one_by_one


async def settle_referrals() -> int:
    """Settle all that are noted, one transaction each, and return how many."""
    found, last = 0, 0
    while True:
        async with transaction() as session:
            noted = await noted_referrals(session, after=last)
        await one_by_one("settle_referrals", [referral_id for _, referral_id in noted], settle)
        found += len(noted)
        if len(noted) < BATCH:
            return found
        last, _ = noted[-1]

"""Comparing claims with orphans, one transaction each, and following what became of them elsewhere."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import is_unavailable, transaction
from app.services.claims import follow, match

logger = logging.getLogger(__name__)


def claim_matching(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the job `match_claims` of one worker process."""

    async def match_claims() -> int:
        """Compare the claims and the orphans that were not compared yet; returns how many."""
        return await _compare_all(settings, match.claims_to_compare, match.compare_claim) + await _compare_all(
            settings, match.orphans_to_compare, match.compare_orphan
        )

    return match_claims


def claim_sweep(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the task `sweep_claims` of one worker process."""
    match_claims = claim_matching(settings)

    async def sweep_claims() -> int:
        """Resolve claims whose order has appeared, compare those anew whose orphan went, and what no ring spoke of."""
        followed = 0
        for follow_batch in (follow.settle_tracked, follow.forget_stale):
            while True:
                async with transaction() as session:
                    count = await follow_batch(session)
                followed += count
                if count < follow.BATCH:
                    break
        return followed + await match_claims()

    return sweep_claims


async def _compare_all(
    settings: Settings,
    find: Callable[[AsyncSession], Awaitable[Sequence[UUID]]],
    compare: Callable[[AsyncSession, Settings, UUID], Awaitable[bool]],
) -> int:
    compared = 0
    while True:
        async with transaction() as session:
            ids = await find(session)
        done = 0
        for one in ids:
            done += await _compare_one(settings, compare, one)
        compared += done
        # The rest of the batch is in another worker's hands, or cannot be compared.
        if not done:
            return compared


async def _compare_one(
    settings: Settings, compare: Callable[[AsyncSession, Settings, UUID], Awaitable[bool]], one: UUID
) -> bool:
    """Compare one in a transaction of its own; what fails is left to the sweep and holds up nothing else."""
    try:
        async with transaction() as session:
            return await compare(session, settings, one)
    except Exception as error:
        if is_unavailable(error):
            raise
        logger.exception("claim or orphan not compared", extra={"id": str(one)})
        return False

"""Orders over time: those whose hold is over become payable, and those that no report closes are closed."""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from app.config import Settings
from app.db import is_unavailable, transaction
from app.services.orders import adjust, hold

logger = logging.getLogger(__name__)


async def release_payable() -> int:
    """Make due orders payable, one transaction a batch; returns how many.

    What fails at one merchant is logged, stays for the next time, and delays no other merchant's customers.
    """
    released = await _all_batches(hold.release_paid, hold.BATCH)
    async with transaction() as session:
        merchant_ids = await hold.advancing_merchants(session)
    for merchant_id in merchant_ids:
        try:
            released += await _all_batches(partial(hold.release_advanced, merchant_id=merchant_id), hold.BATCH)
        except Exception as error:
            if is_unavailable(error):
                raise
            logger.exception("orders cannot be released", extra={"merchant_id": merchant_id})
    return released


def order_expiry(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the task `expire_orders` of one worker process."""

    async def expire_orders() -> int:
        """Close orders that no report closed in their merchant's time, one transaction a batch; returns how many."""
        return await _all_batches(partial(adjust.expire_orders, settings=settings), adjust.EXPIRE_BATCH)

    return expire_orders


async def _all_batches(run: Callable[..., Awaitable[int]], size: int) -> int:
    """Run batches, each in a transaction of its own, until one is not full: the others are not for us, or not yet."""
    done = 0
    while True:
        async with transaction() as session:
            count = await run(session, limit=size)
        done += count
        if count < size:
            return done

"""Orders over time: those whose hold is over become payable, and those that no report closes expire."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.services.orders import expiry, hold
from app.workers.tasks import one_by_one


async def release_payable() -> int:
    """Make all due orders payable that may be, one transaction a batch of a merchant's; returns how many."""
    async with transaction() as session:
        waiting = await hold.due_merchants(session)
    released = 0
    while waiting:
        done = await one_by_one("release_payable", waiting, hold.release_due)
        released += sum(count for _, count in done)
        # In turn: a merchant with many due orders does not make the others wait.
        waiting = [merchant_id for merchant_id, count in done if count == hold.BATCH]
    return released


def order_expiry(settings: Settings) -> Callable[[], Awaitable[int]]:
    """Return the task `expire_orders` of one worker process."""

    async def expire(session: AsyncSession, order: tuple[datetime, UUID]) -> bool:
        return await expiry.expire_order(session, settings, order[1])

    async def expire_orders() -> int:
        """Close orders whose time is over, one transaction each; returns how many."""
        async with transaction() as session:
            merchants = await expiry.expiring_merchants(session)
        return sum([await _expire_all(merchant_id, expire) for merchant_id in merchants])

    return expire_orders


async def _expire_all(
    merchant_id: int, expire: Callable[[AsyncSession, tuple[datetime, UUID]], Awaitable[bool]]
) -> int:
    expired, last = 0, None
    while True:
        async with transaction() as session:
            due = await expiry.due_orders(session, merchant_id=merchant_id, after=last)
        expired += sum(closed for _, closed in await one_by_one("expire_orders", due, expire))
        if len(due) < expiry.BATCH:
            return expired
        last = due[-1]

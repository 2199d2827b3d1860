"""Ending what has served its time: answers, refresh tokens, exports and proposals that expired, old notifications."""

from collections.abc import Awaitable, Callable

from app.db import transaction
from app.services import idempotency, merchant_view, proposals, sign_in
from app.services.notifications.deliver import forget_old
from app.services.privacy import export

BATCH = 10_000
_FORGETFUL = (
    idempotency.forget_expired,
    sign_in.forget_expired,
    forget_old,
    export.forget_expired,
    proposals.expire,
    merchant_view.forget_duplicates,
)


async def forget_expired() -> int:
    """Delete or close expired rows, one transaction a batch, so that no long lock is held; returns how many."""
    return sum([await _all_batches(forget) for forget in _FORGETFUL])


async def _all_batches(forget: Callable[..., Awaitable[int]]) -> int:
    forgotten = 0
    while True:
        async with transaction() as session:
            count = await forget(session, limit=BATCH)
        forgotten += count
        if count < BATCH:
            return forgotten

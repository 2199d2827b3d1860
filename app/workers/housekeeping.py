"""Deleting what has served its time: remembered answers and refresh tokens that expired."""

from collections.abc import Awaitable, Callable

from app.db import transaction
from app.services import idempotency, sign_in

BATCH = 10_000


async def forget_expired() -> int:
    """Delete expired rows, one transaction a batch, so that no long lock is held; returns how many."""
    return await _all_batches(idempotency.forget_expired) + await _all_batches(sign_in.forget_expired)


async def _all_batches(forget: Callable[..., Awaitable[int]]) -> int:
    forgotten = 0
    while True:
        async with transaction() as session:
            count = await forget(session, limit=BATCH)
        forgotten += count
        if count < BATCH:
            return forgotten

"""Letting approved orders become payable when their hold is over."""

from app.db import transaction
from app.services.orders.hold import BATCH
from app.services.orders.hold import release_payable as release_batch


async def release_payable() -> int:
    """Release all due orders, one transaction a batch; returns how many."""
    released = 0
    while True:
        async with transaction() as session:
            count = await release_batch(session)
        released += count
        if count < BATCH:
            return released

"""Judging orders again because another one came."""

from app.db import transaction
from app.services.fraud.judge import BATCH, judge_noted, noted_orders
from app.workers.tasks import one_by_one


async def judge_orders() -> int:
    """Judge all that are noted, one transaction each, and return how many."""
    judged = 0
    while True:
        async with transaction() as session:
            noted = await noted_orders(session)
        done = await one_by_one("judge_orders", noted, judge_noted)
        judged += len(done)
        # What failed would come again and again; the next run tries it.
        if len(noted) < BATCH or not done:
            return judged

"""Clawbacks over time: debts taken from later money, and what is never earned back written off."""

from app.db import transaction
from app.services import clawbacks


async def recover_debts() -> int:
    """Take debts from balances that have money, one transaction a customer; returns how many were found."""
    async with transaction() as session:
        waiting = await clawbacks.customers_to_recover(session)
    for customer_id, currency in waiting:
        async with transaction() as session:
            await clawbacks.recover_debts(session, customer_id=customer_id, currency=currency)
    return len(waiting)


async def write_off_due() -> int:
    """Write off what is due, one transaction each; returns how many were looked at."""
    done = 0
    while True:
        async with transaction() as session:
            due = await clawbacks.due_clawbacks(session)
        for clawback_id in due:
            async with transaction() as session:
                await clawbacks.write_off(session, clawback_id)
        done += len(due)
        if len(due) < clawbacks.BATCH:
            return done

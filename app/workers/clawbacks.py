"""Clawbacks over time: debts taken from later money, and what is never earned back written off."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.services import clawbacks
from app.workers.tasks import one_by_one


async def recover_debts() -> int:
    """Take debts from balances that have money, one transaction a balance; returns how many were found."""

    async def recover(session: AsyncSession, wallet: tuple[UUID, str]) -> None:
        customer_id, currency = wallet
        await clawbacks.recover_debts(session, customer_id=customer_id, currency=currency)

    found, last = 0, None
    while True:
        async with transaction() as session:
            waiting = await clawbacks.customers_to_recover(session, after=last)
        await one_by_one("recover_debts", waiting, recover)
        found += len(waiting)
        if len(waiting) < clawbacks.BATCH:
            return found
        last = waiting[-1]


async def write_off_due() -> int:
    """Write off what is due, one transaction each; returns how many were looked at."""
    found, last = 0, None
    while True:
        async with transaction() as session:
            due = await clawbacks.due_clawbacks(session, after=last)
        await one_by_one("write_off_due", due, clawbacks.write_off)
        found += len(due)
        if len(due) < clawbacks.BATCH:
            return found
        last = due[-1]

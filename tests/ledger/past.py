"""Postings of the past, and tampering with them as somebody with the database owner's power would."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Account, CauseType, Customer, Posting, Transfer, Wallet

TABLES = ("transfers", "postings", "ledger_days", "ledger_day_totals", "month_closes")


async def post_at(
    session: AsyncSession, at: datetime, customer: Customer, amount_minor: int, **changes: Any
) -> tuple[int, ...]:
    """Give a customer pending money at a time of the past; returns the ids of the two postings."""
    transfer_id = changes.pop("id", None) or new_id()
    transfer = {
        "id": transfer_id,
        "cause_type": CauseType.ADJUSTMENT,
        "cause_id": new_id(),
        "purpose": "gift",
        "details": {},
        "created_at": at,
        **changes,
    }
    await session.execute(insert(Transfer).values(**transfer))
    common = {"transfer_id": transfer_id, "currency": "PKR", "created_at": at}
    lines = [
        {**common, "account": Account.PROMOTIONS, "amount_minor": amount_minor, "customer_id": None},
        {**common, "account": Account.CUSTOMER_PENDING, "amount_minor": -amount_minor, "customer_id": customer.id},
    ]
    ids = (await session.scalars(insert(Posting).returning(Posting.id, sort_by_parameter_order=True), lines)).all()
    wallet = upsert(Wallet).values(customer_id=customer.id, currency="PKR", pending_minor=amount_minor)
    await session.execute(
        wallet.on_conflict_do_update(
            index_elements=[Wallet.customer_id, Wallet.currency],
            set_={"pending_minor": Wallet.pending_minor + amount_minor},
        )
    )
    return tuple(ids)


@asynccontextmanager
async def tampering() -> AsyncIterator[AsyncSession]:
    """A transaction as the owner of the tables, in which no trigger of ours refuses anything."""
    async with transaction() as session:
        for table in TABLES:
            await session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        yield session
        for table in TABLES:
            await session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


async def tamper(*statements: str) -> None:
    """Run statements with the triggers off."""
    async with tampering() as session:
        for statement in statements:
            await session.execute(text(statement))


def run_command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real `cashback ledger ...`."""
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "ledger", *arguments],
        env={
            "ENVIRONMENT": "development",
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

"""The ledger that `benchmarks/ledger.py` proves is one like ours: sound by every rule, and its days can be sealed."""

import os

import pytest

from app.config import Settings
from app.db import transaction
from app.services.ledger.chain import last_day
from app.workers.ledger import seal_days, verify_ledger
from benchmarks.ledger_data import DAYS, load_ledger


@pytest.mark.skipif("DATABASE_URL" in os.environ, reason="needs the superuser of the embedded PostgreSQL")
async def test_the_measured_ledger_is_sound(committed_db: Settings) -> None:
    count = await load_ledger(committed_db, postings=5_000)
    assert 4_000 < count < 6_000
    assert await seal_days() == DAYS
    async with transaction() as session:
        day = await last_day(session)
    assert day is not None
    assert await verify_ledger() == 0

"""What tests of the ledger share: a database to tamper with, which nothing checks when the test is over."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from app import db
from app.config import Settings
from app.ids import new_id
from app.services.ledger import chain
from tests.conftest import administer, drop_database, make_settings
from tests.servers import database_url, redis_url


@pytest.fixture(autouse=True)
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Yesterday is over, also ten minutes past midnight."""
    monkeypatch.setattr(chain, "MARGIN", timedelta(0))


@pytest.fixture
async def doomed_db(template: str, worker_number: int) -> AsyncIterator[Settings]:
    """Settings of a fresh database of this test alone, opened as a process would."""
    name = f"{template}_{new_id().hex[-12:]}"
    await administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    own = make_settings(database_url=database_url(name), redis_url=redis_url(worker_number % 16))
    try:
        await db.open_database(own, application_name="tests", pool_size=5, max_overflow=5)
        yield own
    finally:
        await db.close_database()
        db.AsyncSessionLocal.configure(bind=None)
        await drop_database(name)

"""The application against its own OpenAPI document: whatever is sent, it answers as documented and never fails.

`make test-schema` tries more, and prints how many cases it tried (SCHEMA_EXAMPLES, SCHEMA_PHASES, SCHEMA_SEED).
"""

import os
import sys
from collections.abc import AsyncIterator

import pytest

from app import db
from app.config import Settings
from app.main import create_app
from app.services.ledger.verify import violations
from tests.access.matrix import OPERATIONS
from tests.access.world import World, make_world
from tests.conftest import copied, make_settings
from tests.schema.campaign import run
from tests.servers import database_url, redis_url

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "2"))
PHASES = set(os.environ.get("SCHEMA_PHASES", "examples,fuzzing,stateful").split(","))
SEED = int(os.environ.get("SCHEMA_SEED", "1"))


@pytest.fixture
async def own_settings(template: str, worker_number: int) -> AsyncIterator[Settings]:
    """Settings of a database of this test's own, on which the application runs as in production."""
    async with copied(template) as name:
        yield make_settings(
            database_url=database_url(name),
            redis_url=redis_url(worker_number % 16),
            rate_limit_factor=0,
            allow_private_feeds=False,
            log_level="ERROR",
        )


@pytest.fixture
async def world(own_settings: Settings) -> World:
    """Rows to be found, committed; nobody stays connected."""
    await db.open_database(own_settings, application_name="tests", pool_size=1, max_overflow=0)
    try:
        async with db.transaction() as session:
            return await make_world(session, own_settings)
    finally:
        await close()


async def close() -> None:
    await db.close_database()
    db.AsyncSessionLocal.configure(bind=None)


async def test_the_api_keeps_to_its_document(own_settings: Settings, world: World) -> None:
    outcome = run(create_app(own_settings), world, phases=PHASES, examples=EXAMPLES, seed=SEED)
    sys.stderr.write(f"{outcome.cases} cases, by status {dict(sorted(outcome.statuses.items()))}\n")
    assert not outcome.failures, "\n\n".join(f"{name}\n{told}" for name, told in outcome.failures.items())
    assert outcome.operations == {operation.name for operation in OPERATIONS}
    assert outcome.statuses[200] > 50
    assert max(outcome.statuses) < 500
    await db.open_database(own_settings, application_name="tests", pool_size=1, max_overflow=0)
    try:
        async with db.transaction() as session:
            assert await violations(session) == []
    finally:
        await close()

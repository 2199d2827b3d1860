"""A world inside the test's transaction, a committed one for races, and one with a payout provider."""

from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from tests.payouts.sending import Sending, provided
from tests.payouts.world import World, make_world


@pytest.fixture
async def world(session: AsyncSession, settings: Settings, client: httpx.AsyncClient) -> World:
    """A customer with 10,000.00 PKR available; everything is rolled back."""
    return await make_world(settings, client)


@pytest.fixture
async def committed_world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    """The same on a database of its own, where requests may race."""
    return await make_world(committed_db, committed_client)


@pytest.fixture
async def sending(committed_db: Settings) -> AsyncIterator[Sending]:
    """A provider of the test's own, and a worker that talks to it."""
    async with provided(committed_db) as sending:
        yield sending

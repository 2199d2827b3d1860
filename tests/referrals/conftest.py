"""The world, inside the test's transaction."""

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from tests.referrals.world import World, make_world


@pytest.fixture
async def world(session: AsyncSession, settings: Settings, client: httpx.AsyncClient) -> World:
    return await make_world(settings, client)

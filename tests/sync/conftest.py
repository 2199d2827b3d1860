"""The committed world and its feed server as fixtures."""

from collections.abc import AsyncIterator

import httpx
import pytest

from app.config import Settings
from tests.feed_server import FeedServer
from tests.sync.world import World, make_world


@pytest.fixture
async def server() -> AsyncIterator[FeedServer]:
    async with FeedServer() as running:
        yield running


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient, server: FeedServer) -> World:
    return await make_world(committed_db, committed_client, server)

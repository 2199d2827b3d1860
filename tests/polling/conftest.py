"""The server of the networks, and a function that makes a world at it."""

from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest

from app.config import Settings
from tests.feed_server import FeedServer
from tests.polling.world import World, make_world

Make = Callable[..., Awaitable[World]]


@pytest.fixture
async def server() -> AsyncIterator[FeedServer]:
    async with FeedServer() as running:
        yield running


@pytest.fixture
def make(committed_db: Settings, committed_client: httpx.AsyncClient, server: FeedServer) -> Make:
    async def made(*args: object, **options: object) -> World:
        return await make_world(committed_db, committed_client, server, *args, **options)  # type: ignore[arg-type]

    return made

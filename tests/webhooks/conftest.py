"""The committed world as a fixture."""

from pathlib import Path

import httpx
import pytest

from app.config import Settings
from tests.webhooks.world import World, make_world


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client)


@pytest.fixture
def awin_push() -> bytes:
    """Awin's public example of a transaction push."""
    return (Path(__file__).parents[1] / "data/postbacks/awin-push.json").read_bytes()

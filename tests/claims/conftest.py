"""The committed world, and a network's push, as fixtures."""

import json
from pathlib import Path

import httpx
import pytest

from app.config import Settings
from tests.claims.world import ClaimWorld, make_claim_world


@pytest.fixture
async def claims(committed_db: Settings, committed_client: httpx.AsyncClient) -> ClaimWorld:
    return await make_claim_world(committed_db, committed_client)


@pytest.fixture
def awin_push() -> dict[str, str]:
    """Awin's public example of a transaction push."""
    push: dict[str, str] = json.loads((Path(__file__).parents[1] / "data/postbacks/awin-push.json").read_text())
    return push

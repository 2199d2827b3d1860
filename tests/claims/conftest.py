"""The committed world as a fixture."""

import httpx
import pytest

from app.config import Settings
from tests.claims.world import ClaimWorld, make_claim_world


@pytest.fixture
async def claims(committed_db: Settings, committed_client: httpx.AsyncClient) -> ClaimWorld:
    return await make_claim_world(committed_db, committed_client)

"""The finance desk as a fixture."""

import httpx
import pytest

from app.config import Settings
from tests.settlements.desk import Desk
from tests.webhooks.world import make_world


@pytest.fixture
async def desk(committed_db: Settings, committed_client: httpx.AsyncClient) -> Desk:
    """A merchant without limits, whose cashback is not payable before the network has paid."""
    return await Desk.open(await make_world(committed_db, committed_client, payable_after_payment=True))

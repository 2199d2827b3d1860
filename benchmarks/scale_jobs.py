"""The jobs that `scale` measures: each is given something to do, and returns how many pieces it did."""

from collections.abc import Awaitable, Callable

import asyncpg

from app.config import Settings
from app.db import transaction
from app.models import StaffRole
from app.schemas.feeds import FeedWrite
from app.services import alerts
from app.services.ledger.verify_slices import CHECKS, continue_pass
from app.services.sync import feeds, runs
from app.workers.claims import claim_matching
from app.workers.orders import order_expiry, release_payable
from app.workers.sync import merchant_sync
from app.workers.webhooks import webhook_drain
from benchmarks.scale_data import Loaded
from tests.factories import make_merchant
from tests.feed_server import FeedServer, document, offers

Run = Callable[[], Awaitable[int]]
PIECES = 200
FEED_OFFERS = 2_000

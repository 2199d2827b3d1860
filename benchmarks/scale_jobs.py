"""The jobs that `scale` measures: each is given something to do, and returns how many pieces it did."""

from collections.abc import Awaitable, Callable

import asyncpg

from app.config import Settings
from app.db import transaction
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


async def _execute(settings: Settings, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(settings.database_url)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


def inbox_statement(source_key: str, count: int) -> str:
    """Return the statement that puts reports of new orders into the inbox, of the last clicks that made none."""
    return f"""
        INSERT INTO webhook_events (id, source_id, dedupe_key, body, body_sha256, content_type, headers, status)
        SELECT uuidv7(), s.id, 'drain-' || gen_random_uuid(), convert_to(json_build_object(
                   'type', 'order.created', 'order_id', 'D-' || gen_random_uuid(), 'occurred_at', now(),
                   'click_id', c.id, 'amount', json_build_object('amount_minor', 50000, 'currency', 'PKR'),
                   'commission', json_build_object('amount_minor', 4000, 'currency', 'PKR'))::text, 'UTF8'),
               sha256('drain'), 'application/json', '{{}}', 'received'
        FROM (SELECT id FROM clicks WHERE NOT EXISTS (SELECT FROM orders WHERE click_id = clicks.id)
              ORDER BY id DESC LIMIT {count}) c, sources s WHERE s.source_key = '{source_key}'
    """


async def drain(settings: Settings, loaded: Loaded) -> Run:
    """Events of new orders wait in the inbox."""
    await _execute(settings, inbox_statement(loaded.source_key, PIECES))
    return webhook_drain(settings)


async def release(settings: Settings, loaded: Loaded) -> Run:  # noqa: ARG001 - a job's signature
    """Approved orders of many merchants come to the end of their hold."""
    await _execute(
        settings,
        "UPDATE orders SET payable_at = now() - interval '1 hour' WHERE id IN"
        " (SELECT id FROM orders WHERE status = 'approved' ORDER BY id LIMIT $1)",
        PIECES,
    )
    return release_payable


async def expire(settings: Settings, loaded: Loaded) -> Run:
    """Orders of many merchants that nobody reported on come to the end of their time."""
    await _execute(
        settings, "UPDATE merchants SET expire_days = 300 WHERE id >= $1 AND expire_days IS NULL", loaded.merchant_id
    )
    await _execute(
        settings,
        "UPDATE orders SET ordered_at = now() - interval '301 days' WHERE id IN"
        " (SELECT id FROM orders WHERE status = 'pending' ORDER BY id LIMIT $1)",
        PIECES,
    )
    return order_expiry(settings)


async def prove(settings: Settings, loaded: Loaded) -> Run:  # noqa: ARG001 - a job's signature
    """The next small slice of each rule of the ledger, as the schedule checks them."""

    async def run() -> int:
        for check in CHECKS:
            async with transaction() as session:
                violations, _ = await continue_pass(session, check)
            if violations:
                raise RuntimeError(f"the ledger does not hold: {violations[:3]}")
        return 1

    return run


async def look(settings: Settings, loaded: Loaded) -> Run:  # noqa: ARG001 - a job's signature
    """Look for what deserves an alert."""

    async def run() -> int:
        async with transaction() as session:
            await alerts.look(session)
        return 1

    return run


async def match(settings: Settings, loaded: Loaded) -> Run:  # noqa: ARG001 - a job's signature
    """Claims and orphans that were compared before are to be compared again."""
    for table, status in (("claims", "open"), ("webhook_events", "orphaned")):
        await _execute(
            settings,
            f"UPDATE {table} SET compared_at = NULL WHERE id IN"
            f" (SELECT id FROM {table} WHERE status = $1 ORDER BY id DESC LIMIT $2)",
            status,
            PIECES // 10,
        )
    return claim_matching(settings)


async def sync(settings: Settings, loaded: Loaded) -> Run:  # noqa: ARG001 - a job's signature
    """A new merchant's feed of two thousand offers, and the same with other prices."""
    async with transaction() as session:
        merchant_id = (await make_merchant(session)).id
    sync_merchant = merchant_sync(settings)

    async def run() -> int:
        async with FeedServer() as server:
            for price in (1000, 2000):
                server.serve(document(offers(FEED_OFFERS, price_minor=price)), "/feed")
                mapping = {"preset": "direct-json"}
                wanted = FeedWrite.model_validate({"url": server.url("/feed"), "mapping": mapping, "enabled": False})
                async with transaction() as session:
                    await feeds.set_feed(session, settings=settings, merchant_id=merchant_id, wanted=wanted)
                    run_id = (await runs.queue_run(session, merchant_id=merchant_id, request_id=None)).id
                await sync_merchant(str(run_id))
                async with transaction() as session:
                    done = await runs.get_run(session, job_id=run_id)
                if done.created + done.updated != FEED_OFFERS:
                    raise RuntimeError(f"the sync failed: {done.error}")
        return 2 * FEED_OFFERS

    return run


# What a piece is: an event, an order, an order, a slice of each rule, a look, a claim or an orphan, an offer.
JOBS: dict[str, Callable[[Settings, Loaded], Awaitable[Run]]] = {
    "job: drain an event": drain,
    "job: release an order": release,
    "job: expire an order": expire,
    "job: ledger, a slice of all": prove,
    "job: look for alerts": look,
    "job: match a claim or orphan": match,
    "job: sync an offer": sync,
}

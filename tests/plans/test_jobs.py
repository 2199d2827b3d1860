"""Jobs and the schedule read no big table as a whole: what they cost follows from what there is to do."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.services import alerts, monitoring
from app.services.claims import follow, match
from app.services.ledger.verify import violations
from app.services.ledger.verify_slices import CHECKS, Check, continue_pass
from app.services.orders import expiry, hold
from app.services.webhooks.bulk import claim_events, process_plain
from benchmarks.ledger_data import fill
from benchmarks.scale_jobs import inbox_statement
from tests.plans.conftest import MOST_ROWS, Business

Step = Callable[[AsyncSession, Business], Awaitable[Any]]


async def test_the_loaded_business_keeps_every_invariant(business: Business) -> None:
    async with transaction() as session:
        assert await violations(session) == []
    assert {"orders", "postings", "transfers", "offers", "webhook_events", "order_reports"} <= business.big
    assert any(name.startswith("clicks") for name in business.big)


async def test_a_statement_that_reads_a_whole_table_is_caught(business: Business) -> None:
    async def work() -> None:
        async with transaction() as session:
            await session.execute(text("SELECT count(*) FROM orders WHERE sale_minor = 1"))

    with pytest.raises(AssertionError, match="Seq Scan of orders, 6000 rows"):
        await business.assert_bounded(work)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
async def test_a_slice_of_the_ledger_reads_its_keys_alone(business: Business, check: Check) -> None:
    async def work() -> None:
        async with transaction() as session:
            found, _ = await continue_pass(session, check)
            assert found == []

    await business.assert_bounded(work, most_rows=MOST_ROWS, generic=True)


async def due_merchants(session: AsyncSession, business: Business) -> None:
    assert business.loaded.merchant_id in await hold.due_merchants(session)


async def release_due(session: AsyncSession, business: Business) -> None:
    assert await hold.release_due(session, business.loaded.merchant_id) == 10


async def expire(session: AsyncSession, business: Business) -> None:
    due = await expiry.due_orders(session, merchant_id=business.loaded.merchant_id, limit=20)
    assert due
    assert await expiry.expire_order(session, business.settings, due[0][1])


async def drain(session: AsyncSession, business: Business) -> None:
    events = await claim_events(session, limit=20)
    assert len(await process_plain(session, business.settings, events)) == 20


async def look_for_alerts(session: AsyncSession, _: Business) -> None:
    await alerts.look(session)


async def compare_claims(session: AsyncSession, business: Business) -> None:
    claims = await match.claims_to_compare(session)
    assert claims
    assert await match.compare_claim(session, business.settings, claims[0])


async def compare_orphans(session: AsyncSession, business: Business) -> None:
    orphans = await match.orphans_to_compare(session)
    assert orphans
    assert await match.compare_orphan(session, business.settings, orphans[0])


async def follow_claims(session: AsyncSession, _: Business) -> None:
    assert await follow.settle_tracked(session) == 0
    assert await follow.forget_stale(session) == 0


async def measure_depths(session: AsyncSession, _: Business) -> None:
    assert (await monitoring.measure_inbox(session))[0]["orphaned"]
    await monitoring.measure_claims(session)
    await monitoring.measure_syncs(session)
    await monitoring.measure_payouts(session)
    await monitoring.measure_ledger(session)


DUE = """UPDATE orders SET payable_at = now() - interval '1 hour' WHERE id IN
         (SELECT id FROM orders WHERE status = 'approved' AND merchant_id = $merchant LIMIT 10)"""


@pytest.mark.parametrize(
    ("step", "given"),
    [
        (due_merchants, DUE),
        (release_due, DUE),
        (expire, "UPDATE merchants SET expire_days = 5 WHERE id = $merchant"),
        (drain, "$inbox"),
        (look_for_alerts, ""),
        (compare_claims, "UPDATE claims SET compared_at = NULL"),
        (compare_orphans, "UPDATE webhook_events SET compared_at = NULL WHERE external_order_id LIKE 'O-4%'"),
        (follow_claims, ""),
        (measure_depths, ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else "given",
)
async def test_a_job_reads_what_it_has_to_do_alone(business: Business, step: Step, given: str) -> None:
    async def work() -> None:
        async with transaction() as session:
            await step(session, business)

    loaded = business.loaded
    statement = fill(given, {"$merchant": loaded.merchant_id, "$inbox": inbox_statement(loaded.source_key, 20)})
    await business.assert_bounded(work, given=[statement] if given else [], most_rows=1_000)

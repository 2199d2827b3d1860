"""`cashback webhooks replay --all`: raw events make the same orders and balances again, in an empty database.

What is given is copied into a new database: who sends, who buys, what was promised, and the raw events with what staff
decided about them. Orders, reports, postings and wallets are not.
"""

import asyncio
import io
import os
import random
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import asyncpg
import httpx
import pytest
from sqlalchemy import select

from app import db
from app.config import Settings
from app.db import transaction
from app.models import Campaign, ExchangeRate, RateKind, StaffRole, WebhookEvent, WebhookStatus
from app.services import staff
from app.services.ledger.verify import violations
from app.services.webhooks.inbox import release
from app.workers.orders import release_payable
from tests.conftest import copied, make_settings
from tests.factories import make_click, make_customer, make_merchant, make_source
from tests.servers import database_url
from tests.webhooks.batches import batches
from tests.webhooks.world import World, make_world

# In the order in which they refer to each other; what is derived is left out or set back.
GIVEN = {
    "staff_members": "",
    "staff_keys": "",
    "customers": "",
    "categories": "",
    "sources": "",
    "source_versions": "",
    "merchants": "",
    "rates": "",
    "campaigns": "spent_minor=0",
    "exchange_rates": "",
    "clicks": "",
    "webhook_events": "order_id=NULL",
}
ORDERS = """
    SELECT merchant_id, external_id, customer_id, status, currency, sale_minor, commission_minor, cashback_minor,
           boost_minor, reported_currency, reported_sale_minor, reported_commission_minor, exchange_rate_e12,
           ordered_at, approved_at
    FROM orders ORDER BY merchant_id, external_id
"""
WALLETS = """
    SELECT customer_id, currency, pending_minor, available_minor, in_payout_minor, paid_minor, debt_minor
    FROM wallets ORDER BY customer_id, currency
"""
BALANCES = """
    SELECT account, merchant_id, customer_id, currency, sum(amount_minor)::bigint AS balance
    FROM postings GROUP BY 1, 2, 3, 4 HAVING sum(amount_minor) <> 0 ORDER BY 1, 2, 3, 4
"""
EVENTS = "SELECT id, status, external_order_id FROM webhook_events ORDER BY id"


@pytest.fixture
async def empty(template: str, committed_db: Settings) -> AsyncIterator[Settings]:
    """Settings of a second database, with a schema and nothing in it."""
    async with copied(template) as name:
        yield make_settings(database_url=database_url(name), redis_url=committed_db.redis_url)
        await reopen(committed_db)


async def reopen(settings: Settings) -> None:
    """Turn this process to another database."""
    await db.close_database()
    await db.open_database(settings, application_name="tests", pool_size=5, max_overflow=5)


async def copy_given(source: Settings, target: Settings) -> None:
    reading, writing = await asyncpg.connect(source.database_url), await asyncpg.connect(target.database_url)
    try:
        async with writing.transaction():
            for table, change in GIVEN.items():
                columns = [
                    row["column_name"]
                    for row in await reading.fetch(
                        "SELECT column_name FROM information_schema.columns WHERE table_name = $1"
                        " AND is_generated = 'NEVER' ORDER BY ordinal_position",
                        table,
                    )
                ]
                changed, _, value = change.partition("=")
                shown = ", ".join(f"{value} AS {name}" if name == changed else f'"{name}"' for name in columns)
                content = io.BytesIO()
                query = f"SELECT {shown} FROM {table} ORDER BY 1"  # noqa: S608 - names of our own
                await reading.copy_from_query(query, output=content)
                content.seek(0)
                await writing.copy_to_table(table, source=content, columns=columns)
    finally:
        await reading.close()
        await writing.close()


async def fetch(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def live(world: World) -> None:
    """Some weeks of three sources: signed reports, rows that add up, requests with several events; many come early."""
    chance = random.Random(7)  # noqa: S311 - a story that can be told again
    start = datetime.now(UTC) - timedelta(days=20)
    async with transaction() as session:
        session.add(ExchangeRate(base="USD", quote="PKR", effective_on=start.date(), rate_e12=280 * 10**12))
        rakuten = await make_source(session, preset="rakuten")
        abroad = await make_merchant(session, source_id=rakuten.id, network_merchant_ref="13816", hold_days=0)
        several = await make_source(session, definition=batches())
        shop = await make_merchant(session, source_id=several.id, hold_days=0)
        campaign = Campaign(
            name="Week",
            merchant_id=shop.id,
            kind=RateKind.PERCENT_OF_SALE,
            basis_points=1000,
            currency="PKR",
            budget_minor=2_500,
            valid_from=start - timedelta(days=1),
        )
        session.add(campaign)
        await session.flush()
        boost = {
            "campaign_id": str(campaign.id),
            "name": "Week",
            "kind": "percent_of_sale",
            "basis_points": 1000,
            "fixed_minor": None,
            "cap_minor": None,
            "minimum_sale_minor": 0,
        }
        customers = [await make_customer(session) for _ in range(3)]
        clicks = {
            (merchant.id, number): await make_click(
                session,
                customer,
                merchant,
                created_at=start - timedelta(hours=1),
                boosts=[boost] if merchant is shop else None,
            )
            for merchant in (world.merchant, abroad, shop)
            for number, customer in enumerate(customers)
        }
    reports: list[tuple[str, Any]] = []
    deliveries: list[tuple[str, Any]] = []
    for number in range(12):
        at = start + timedelta(hours=number)
        click_id = clicks[world.merchant.id, chance.randrange(3)].id
        life: list[tuple[str, dict[str, Any]]] = [
            ("created", {"amount": 10_000 * (number + 1), "commission": 900 * (number + 1), "at": at})
        ]
        if number % 3:
            life.append(("approved", {"at": at + timedelta(days=5)}))
        if number % 4 == 3:
            life.append(("returned", {"at": at + timedelta(days=9)}))
        reports += [("direct", (kind, f"D-{number}", {"click_id": click_id, **payload})) for kind, payload in life]
        for index, (amount, commission) in enumerate([(f"{10 + number}.00", "1.00"), ("-5.00", "-0.50")]):
            query = {
                "etransaction_id": f"e-{number}-{index}",
                "advertiser_id": "13816",
                "order_id": f"R-{number}",
                "u1": str(clicks[abroad.id, number % 3].id),
                "currency": "USD",
                "sale_amount": amount,
                "commissions": commission,
                "transaction_date": f"{at:%a %b %d %Y %H:%M:%S} GMT+0000 (UTC)",
            }
            reports.append(("get", f"/v1/webhooks/{rakuten.source_key}?{urlencode(query)}"))
        events = [
            {
                "event": f"b-{number}-{status}",
                "id": f"B-{number}",
                "click": str(clicks[shop.id, number % 3].id),
                "sum": "100.00",
                "fee": "8.00",
                "status": status,
            }
            for status in ("new", "ok")
        ]
        deliveries.append(("post", (f"/v1/webhooks/{several.source_key}", {"rows": events})))
    # Not as things happened: orphans wait for their orders, and rows that take back for what they take back from.
    chance.shuffle(reports)
    # First come, first served is only the campaign's budget: its orders keep their order among the others.
    places = sorted(chance.sample(range(len(reports) + len(deliveries)), len(deliveries)))
    for place, delivery in zip(places, deliveries, strict=True):
        reports.insert(place, delivery)
    for kind, report in reports:
        await send(world, kind, report)
        await world.drain()


async def send(world: World, kind: str, report: Any) -> None:
    match kind:
        case "direct":
            status, order_id, payload = report
            answer = await world.post(status, order_id, **payload)
        case "get":
            answer = await world.client.get(report)
        case _:
            url, body = report
            answer = await world.client.post(url, json=body)
    assert answer.status_code == 202, answer.text


async def release_one(order_reference: str) -> None:
    async with transaction() as session:
        member, _ = await staff.create_key(session, name="finance", role=StaffRole.FINANCE)
        wanted = select(WebhookEvent).where(WebhookEvent.external_order_id == order_reference)
        event = (await session.scalars(wanted)).one()
        assert event.status is WebhookStatus.QUARANTINED
        await release(session, event.id, member=member, reason="The shop confirmed it.")


async def replay_all(settings: Settings) -> str:
    """Run the real command."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", "app.cli", "webhooks", "replay", "--all"]
    environment = {
        **os.environ,
        "ENVIRONMENT": "development",
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
    }
    run = await asyncio.create_subprocess_exec(*command, env=environment, stdout=pipe, stderr=pipe)
    said, complained = await asyncio.wait_for(run.communicate(), 300)
    assert run.returncode == 0, complained.decode()
    return said.decode()


async def test_raw_events_make_the_same_orders_and_balances_in_an_empty_database(
    committed_db: Settings, committed_client: httpx.AsyncClient, empty: Settings
) -> None:
    world = await make_world(committed_db, committed_client, hold_days=0)
    await live(world)
    # Staff credit an implausible one anyway; one stays in quarantine, one is an orphan, one cannot be read.
    late = world.click.expires_at + timedelta(days=1)
    for order_id in ("LATE-1", "LATE-2"):
        await world.post("created", order_id, amount=70_000, commission=5_000, at=late)
    await world.post("approved", "NOBODY", click_id=None)
    await send(world, "direct", ("eaten", "BAD", {}))
    await world.drain()
    await release_one("LATE-1")
    await world.drain()
    await release_payable()

    await copy_given(committed_db, empty)
    for query in (ORDERS, WALLETS, BALANCES):
        assert await fetch(empty, query) == []
    said = await replay_all(empty)
    await reopen(empty)
    await release_payable()

    orders = await fetch(committed_db, ORDERS)
    assert len(orders) == 12 * 3 + 1
    assert {order[3] for order in orders} == {"pending", "payable", "declined"}
    assert await fetch(empty, ORDERS) == orders
    for query in (WALLETS, BALANCES, EVENTS):
        assert await fetch(empty, query) == await fetch(committed_db, query) != []
    async with transaction() as session:
        assert await violations(session) == []
    ((total, replayed, status),) = await fetch(empty, "SELECT total, replayed, status FROM webhook_replays")
    assert (total, status) == (replayed, "finished")
    assert said.startswith(f"{total} events\n")


async def test_replaying_everything_where_it_happened_changes_nothing(
    committed_db: Settings, committed_client: httpx.AsyncClient
) -> None:
    await live(await make_world(committed_db, committed_client, hold_days=0))
    queries = (ORDERS, WALLETS, BALANCES, EVENTS, "SELECT count(*) FROM transfers")
    before = [await fetch(committed_db, query) for query in queries]
    await replay_all(committed_db)
    assert [await fetch(committed_db, query) for query in queries] == before

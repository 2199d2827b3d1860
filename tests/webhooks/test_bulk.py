"""Many events at once and one after the other end in the same orders, postings, wallets and outcomes."""

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import func, insert, select, text, update

from app import db
from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import (
    Campaign,
    Click,
    Merchant,
    NotificationEndpoint,
    RateKind,
    Source,
    StaffKey,
    WebhookEvent,
    WebhookStatus,
)
from app.schemas.fraud import FraudRuleWanted
from app.services.fraud.rules import set_rule
from app.services.ledger.verify import violations
from app.services.webhooks.bulk import claim_events, process_plain
from app.services.webhooks.process import note_failure, process_event
from app.workers import webhooks as worker
from app.workers.fraud import judge_orders
from app.workers.orders import release_payable
from tests.conftest import copied, make_settings
from tests.factories import make_click, make_customer, make_merchant, make_source, staff_headers
from tests.servers import database_url
from tests.webhooks.sender import make_signed_source, order_payload
from tests.webhooks.world import World

ROUNDS, ORDERS = 3, 24
LONG_AGO = datetime(2026, 11, 1, tzinfo=UTC)
FAR = datetime(2027, 12, 1, tzinfo=UTC)

# What an order, an event and the ledger are, told without ids that the application makes.
STATES = {
    "orders": """SELECT o.merchant_id, o.external_id, o.source_id, o.customer_id, o.click_id, o.status, o.currency,
        o.sale_minor, o.commission_minor, o.cashback_minor, o.boost_minor, o.reported_currency, o.reported_sale_minor,
        o.reported_commission_minor, o.exchange_rate_e12, o.explanation, o.ordered_at, o.approved_at, o.payable_at,
        o.revision FROM orders o""",
    "reports": """SELECT r.webhook_event_id, o.merchant_id, o.external_id, r.part, r.kind, r.occurred_at, r.sale_minor,
        r.commission_minor, r.currency, r.ordered_at, r.is_dated, r.is_delta
        FROM order_reports r JOIN orders o ON o.id = r.order_id""",
    "history": """SELECT o.merchant_id, o.external_id, h.revision, h.status, h.sale_minor, h.commission_minor,
        h.cashback_minor, h.boost_minor FROM order_changes h JOIN orders o ON o.id = h.order_id""",
    "postings": """SELECT o.merchant_id, o.external_id, t.cause_type, t.purpose, p.account, p.merchant_id,
        p.customer_id, p.currency, p.amount_minor FROM postings p JOIN transfers t ON t.id = p.transfer_id
        LEFT JOIN orders o ON o.id = t.cause_id""",
    "wallets": """SELECT customer_id, currency, pending_minor, available_minor, in_payout_minor, paid_minor, debt_minor
        FROM wallets""",
    "campaigns": "SELECT id, spent_minor FROM campaigns",
    "boosts": """SELECT o.merchant_id, o.external_id, b.campaign_id, b.amount_minor
        FROM order_boosts b JOIN orders o ON o.id = b.order_id""",
    "events": """SELECT e.id, e.status, e.reason, e.version_id, e.external_order_id, e.merchant_id, e.reported_kind,
        e.reported_currency, e.reported_sale_minor, e.reported_at, e.waits_for, e.tries, o.merchant_id, o.external_id
        FROM webhook_events e LEFT JOIN orders o ON o.id = e.order_id""",
    "reviews": """SELECT o.merchant_id, o.external_id, r.status FROM order_reviews r
        JOIN orders o ON o.id = r.order_id""",
    "told": "SELECT type, data - 'order_id' AS data FROM notifications WHERE type LIKE 'order.%'",
}


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_ways_give_the_same(
    template: str, worker_number: int, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # What is first come, first served depends on which event comes first, also without batches.
    monkeypatch.setattr(worker, "_CONCURRENCY", 1)
    monkeypatch.setattr(worker, "_BATCHES", 1)
    async with copied(template) as name:
        async with opened(name) as settings:
            await make_histories(settings, random.Random(seed))  # noqa: S311 - to be repeated
        async with copied(name) as other:
            async with opened(name) as settings:
                plain = [await in_batches(settings, number) for number in range(ROUNDS)]
                by_batches = await state()
            async with opened(other) as settings:
                for number in range(ROUNDS):
                    await one_by_one(settings, number)
                by_events = await state()
    assert by_batches == by_events
    assert {row[1] for row in by_events["events"]} >= {"processed", "orphaned", "quarantined", "rejected"}
    assert "held" in {row[2] for row in by_events["reviews"]}
    # Otherwise nothing would have been compared.
    assert sum(plain) > len(by_events["events"]) / 4, plain


async def test_a_poison_event_in_a_batch_spoils_no_other(world: World) -> None:
    async with transaction() as session:
        # The database refuses it, so that all that is written with it fails.
        await session.execute(text("ALTER TABLE orders ADD CONSTRAINT poison CHECK (external_id <> 'A-13')"))
    for number in range(30):
        await world.post("created", f"A-{number}", amount=100_000, commission=8_000)
    await world.drain()
    assert await world.wallet() == (29 * 5_000, 0)
    async with transaction() as session:
        (poison,) = await session.scalars(select(WebhookEvent).where(WebhookEvent.status == WebhookStatus.RECEIVED))
    assert poison.tries == 1
    assert "poison" in (poison.reason or "")


async def test_an_order_that_somebody_holds_waits_for_them(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    await world.post("created", amount=200_000, commission=16_000)
    await world.post("created", "A-2", amount=100_000, commission=8_000)
    async with transaction() as holder:
        await holder.execute(text("SELECT 1 FROM orders WHERE external_id = 'A-1' FOR UPDATE"))
        async with transaction() as session:
            events = await claim_events(session, limit=10)
            done = await process_plain(session, world.settings, events)
        assert done == {events[1].id}
    await world.drain()
    assert (await world.order()).sale_minor == 200_000
    assert await world.wallet() == (15_000, 0)


@asynccontextmanager
async def opened(name: str) -> AsyncIterator[Settings]:
    """A database, open as a process would have it; its invariants hold in the end."""
    settings = make_settings(database_url=database_url(name), redis_url="redis://127.0.0.1:1")
    await db.open_database(settings, application_name="tests", pool_size=5, max_overflow=5)
    try:
        yield settings
        async with transaction() as session:
            assert await violations(session) == []
    finally:
        await db.close_database()
        db.AsyncSessionLocal.configure(bind=None)


async def make_histories(settings: Settings, dice: random.Random) -> None:
    """Store reports of many kinds of orders, in rounds, each round's in a random order."""
    async with transaction() as session:
        signed = await make_signed_source(session, settings)
        unsigned = await make_source(session, preset="impact")
        session.add(
            NotificationEndpoint(
                id=new_id(), url="https://shop.example/", topics=["order", "wallet"], secrets_encrypted=b"-"
            )
        )
        # What is suspicious is held, whichever way it came.
        await staff_headers(session)
        member_id = (await session.scalars(select(StaffKey.id))).one()
        rule = {"thresholds": {"kind": "orders_per_click", "most_orders": 1}}
        await set_rule(session, wanted=FraudRuleWanted.model_validate(rule), member_id=member_id)
        shops = [await make_merchant(session, source_id=signed.id, hold_days=dice.choice([0, 400])) for _ in range(3)]
        foreign = await make_merchant(session, source_id=signed.id, currency="USD")
        other = await make_merchant(session, source_id=unsigned.id)
        campaign = Campaign(
            id=new_id(),
            name="Double",
            kind=RateKind.PERCENT_OF_SALE,
            basis_points=500,
            currency="PKR",
            budget_minor=30_000,
            valid_from=LONG_AGO,
            valid_to=FAR,
        )
        session.add(campaign)
        boost = {
            "campaign_id": str(campaign.id), "name": "Double", "kind": "percent_of_sale", "basis_points": 500,
            "fixed_minor": None, "cap_minor": None, "minimum_sale_minor": 0,
        }  # fmt: skip
        clicks = []
        for _ in range(ORDERS):
            customer = await make_customer(session)
            changes: dict[str, Any] = {"created_at": LONG_AGO - timedelta(days=1), "expires_at": FAR}
            match dice.randrange(20):
                case 0:
                    changes["boosts"] = [boost]
                case 1:
                    changes["rate_cap_month_minor"] = 6_000
                case 2:
                    changes["expires_at"] = LONG_AGO + timedelta(days=1)
                case 3:
                    changes |= {"rate_basis_points": None, "rate_kind": RateKind.FIXED, "rate_fixed_minor": 700}
                case 4:
                    changes |= {"rate_tiers": [{"from_minor": 50_000, "basis_points": 700}], "rate_cap_minor": 5_500}
            clicks.append(await make_click(session, customer, dice.choice([*shops, *shops, foreign, other]), **changes))
        rows = [
            row
            for number in range(ROUNDS)
            for row in make_round(dice, number, clicks, shops, {one.id: one for one in (signed, unsigned)})
        ]
        await session.execute(insert(WebhookEvent), rows)


def make_round(
    dice: random.Random, number: int, clicks: list[Click], shops: list[Merchant], sources: dict[int, Source]
) -> list[dict[str, Any]]:
    """Rows of events: of each order up to three reports, some of them twice, late, unreadable or about no order."""
    signed = min(sources)
    bodies: list[bytes | dict[str, Any]] = []
    for index, click in enumerate(clicks):
        for _ in range(dice.randrange(1, 4)):
            kind = "created" if number == 0 else dice.choice(["created", "approved", "declined", "returned"])
            amount = dice.choice([0, 9_999, 40_000, 100_000])
            payload = order_payload(
                dice.choice([kind] * 9 + ["approved"]),
                # Two customers' orders with one number, perhaps at one shop.
                f"N-{index - (index % 6 == 5)}{'b' * (number == 0 and dice.randrange(5) == 0)}",
                dice.choice([click.id] * 9 + [None, None, "no-click"]),
                amount=amount if kind == "created" or dice.random() < 0.2 else None,
                commission=amount // 12 if kind == "created" else None,
                currency=dice.choice([click.currency] * 19 + ["EUR"]),
                at=LONG_AGO + timedelta(hours=dice.randrange(200)),
                part=dice.choice([None] * 9 + ["1", "2"]),
            )
            bodies += [payload] * dice.choice([1, 1, 1, 2])
    bodies += [b"no json", {"type": "order.created"}]
    dice.shuffle(bodies)
    rows = []
    for place, body in enumerate(bodies):
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        row = {
            "id": new_id(),
            "source_id": signed if dice.random() < 0.98 else max(sources),
            "dedupe_key": f"{number}-{place}",
            "body": content,
            "body_sha256": hashlib.sha256(content).digest(),
            "content_type": "application/json",
            "headers": {"webhook-id": f"{number}-{place}"},
            "status": WebhookStatus.RECEIVED,
            "received_at": LONG_AGO + timedelta(days=20, seconds=1000 * number + place),
            # Due when its round is.
            "next_attempt_at": FAR + timedelta(days=number, seconds=place),
        }
        rows.append(row)
    return rows


async def begin(number: int) -> None:
    """Make the events of a round due."""
    async with transaction() as session:
        await session.execute(
            update(WebhookEvent)
            .where(WebhookEvent.next_attempt_at >= FAR + timedelta(days=number))
            .where(WebhookEvent.next_attempt_at < FAR + timedelta(days=number + 1))
            .values(next_attempt_at=WebhookEvent.next_attempt_at - timedelta(days=400 + number))
        )


async def in_batches(settings: Settings, number: int) -> int:
    """Process a round as the worker does; returns how many events of its first batch were plain."""
    await begin(number)
    async with transaction() as session:
        plain = await process_plain(session, settings, await claim_events(session, limit=1000))
    await worker.webhook_drain(settings)()
    await judge_orders()
    await release_payable()
    return len(plain)


async def one_by_one(settings: Settings, number: int) -> None:
    """Process a round one event after the other."""
    await begin(number)
    while True:
        async with transaction() as session:
            ids = (
                await session.scalars(
                    select(WebhookEvent.id)
                    .where(WebhookEvent.status == WebhookStatus.RECEIVED, WebhookEvent.next_attempt_at <= func.now())
                    .order_by(WebhookEvent.next_attempt_at, WebhookEvent.id)
                )
            ).all()
        if not ids:
            break
        for event_id in ids:
            try:
                async with transaction() as session:
                    await process_event(session, settings, event_id)
            except Exception as error:  # noqa: BLE001 - as the worker does
                async with transaction() as session:
                    await note_failure(session, settings, event_id, error)
    await judge_orders()
    await release_payable()


async def state() -> dict[str, list[tuple[Any, ...]]]:
    """Return all that came of the events, in an order of its own."""
    found = {}
    async with transaction() as session:
        for name, query in STATES.items():
            rows = [tuple(row) for row in await session.execute(text(query))]
            found[name] = sorted(rows, key=repr)
    return found

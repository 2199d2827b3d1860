"""From a stored event to the wallet: attribution, states, orphans, quarantine, poison."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import func, select, update

from app.config import Settings
from app.db import transaction
from app.models import CauseType, ExchangeRate, Order, OrderStatus, Transfer, WebhookEvent, WebhookStatus
from app.services import ledger
from app.workers.orders import release_payable
from tests.factories import make_click, make_customer, make_merchant, make_source
from tests.webhooks.sender import post_signed
from tests.webhooks.world import World, make_world


async def test_a_sale_becomes_pending_cashback_at_the_frozen_rate(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    assert await world.drain() == 1
    order = await world.order()
    assert (order.status, order.sale_minor, order.commission_minor, order.cashback_minor) == (
        OrderStatus.PENDING,
        100_000,
        8_000,
        5_000,
    )
    assert await world.wallet() == (5_000, 0)


async def test_decimal_text_amounts_are_exact(world: World) -> None:
    payload = {
        "type": "order.created", "order_id": "A-1", "click_id": str(world.click.id), "amount": "1000.10",
        "commission": "80", "currency": "PKR", "occurred_at": datetime.now(UTC).isoformat(),
    }  # fmt: skip
    await post_signed(world.client, world.source.source_key, payload)
    await world.drain()
    assert (await world.order()).sale_minor == 100_010


async def test_approved_money_becomes_available_when_its_hold_is_over(world: World) -> None:
    approved_at = datetime.now(UTC) - timedelta(days=31)
    await world.post("created", amount=100_000, commission=8_000, at=approved_at - timedelta(days=1))
    await world.post("approved", at=approved_at)
    await world.drain()
    assert await world.wallet() == (5_000, 0)
    assert await release_payable() == 1
    assert await release_payable() == 0
    assert (await world.order()).status is OrderStatus.PAYABLE
    assert await world.wallet() == (0, 5_000)


async def test_money_on_hold_stays_pending(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.post("approved")
    await world.drain()
    assert await release_payable() == 0
    assert (await world.order()).status is OrderStatus.APPROVED
    assert await world.wallet() == (5_000, 0)


async def test_a_declined_order_takes_its_cashback_back(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    await world.post("declined")
    await world.drain()
    assert (await world.order()).status is OrderStatus.DECLINED
    assert await world.wallet() == (0, 0)


async def test_a_return_after_payable_is_clawed_back(world: World) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=40)
    await world.post("created", amount=100_000, commission=8_000, at=long_ago)
    await world.post("approved", at=long_ago)
    await world.drain()
    await release_payable()
    await world.post("returned")
    await world.drain()
    assert (await world.order()).status is OrderStatus.REVERSED
    assert await world.wallet() == (0, 0)


async def test_a_new_amount_moves_the_difference(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.post("approved", amount=60_000, commission=4_800)
    await world.drain()
    assert (await world.order()).cashback_minor == 3_000
    assert await world.wallet() == (3_000, 0)


@pytest.mark.parametrize("with_click", [True, False])
async def test_an_event_before_its_order_waits_and_is_applied_then(world: World, *, with_click: bool) -> None:
    early = await world.post("approved", click_id=world.click.id if with_click else None)
    await world.drain()
    assert (await world.event(early.json()["event_id"])).status is WebhookStatus.ORPHANED
    await world.post("created", amount=100_000, commission=8_000, at=datetime.now(UTC) - timedelta(hours=1))
    await world.drain()
    assert (await world.event(early.json()["event_id"])).status is WebhookStatus.PROCESSED
    assert (await world.order()).status is OrderStatus.APPROVED


async def test_shuffled_histories_end_in_the_same_state(world: World) -> None:
    start = datetime.now(UTC) - timedelta(days=3)
    history: list[tuple[str, dict[str, Any]]] = [
        ("created", {"amount": 100_000, "commission": 8_000, "at": start}),
        ("approved", {"amount": 90_000, "commission": 7_200, "at": start + timedelta(hours=1)}),
        ("returned", {"amount": 30_000, "commission": 2_400, "at": start + timedelta(hours=2)}),
        ("approved", {"at": start + timedelta(hours=3)}),
    ]
    chance = random.Random(20)  # noqa: S311 - repeatable, not secret
    for number in range(12):
        shuffled = history * 2 if number % 3 == 0 else history.copy()
        chance.shuffle(shuffled)
        for position, (kind, payload) in enumerate(shuffled):
            # A repeated report is the same message again.
            message_id = f"{number}-{kind}-{payload['at'].timestamp()}"
            await world.post(kind, f"S-{number}", message_id=message_id, **payload)
            if position % 2:
                await world.drain()
        await world.drain()
        order = await world.order(f"S-{number}")
        assert (order.status, order.sale_minor, order.commission_minor, order.cashback_minor) == (
            OrderStatus.APPROVED,
            60_000,
            4_800,
            3_000,
        )


async def test_without_a_click_nothing_is_credited(world: World) -> None:
    for reference in ("not-an-id", "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"):
        response = await world.post("created", click_id=reference, amount=100_000, commission=8_000)
        await world.drain()
        event = await world.event(response.json()["event_id"])
        assert (event.status, event.reason) == (WebhookStatus.ORPHANED, f"no click has the reference {reference!r}")
    assert await world.wallet() == (0, 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"not json", "no JSON"),
        (b"[]", "the event is no object"),
        (b'{"type": "order.created"}', "order_reference (order_id): missing"),
        (b'{"type": "order.eaten", "order_id": "1"}', "status (type): 'order.eaten' is none of order.created"),
        (b'{"type": "order.created", "order_id": "1", "amount": 12.5, "currency": "PKR"}', "amount"),
        (b'{"type": "order.created", "order_id": "1", "amount": "1e9", "currency": "PKR"}', "not a plain decimal"),
        (b'{"type": "order.created", "order_id": "1", "amount": "NaN", "currency": "PKR"}', "not a plain decimal"),
        (b'{"type": "order.created", "order_id": "1", "amount": "-5", "currency": "PKR"}', "must not be negative"),
        (b'{"type": "order.created", "order_id": "1", "amount": "1.005", "currency": "PKR"}', "more decimals"),
        (b'{"type": "order.created", "order_id": "1", "amount": "5"}', "needs a currency"),
        (b'{"type": "order.created", "order_id": "1\\u0000"}', "U+0000"),
        (b'{"type": "order.created", "order_id": "1"}', "needs both amount and commission"),
        (
            b'{"type": "order.created", "order_id": "1", "amount": {"amount_minor": 1.5, "currency": "PKR"}}',
            "amount (amount.amount_minor): '1.5' is not a whole number of minor units",
        ),
        (
            (
                b'{"type": "order.created", "order_id": "1", "amount": {"amount_minor": 1, "currency": "PKR"},'
                b' "commission": {"amount_minor": 1, "currency": "EUR"}}'
            ),
            "one order has one currency",
        ),
    ],
)
async def test_a_bad_payload_is_kept_with_its_reason(world: World, body: bytes, reason: str) -> None:
    from tests.webhooks.sender import signed_headers  # noqa: PLC0415 - only here

    url = f"/v1/webhooks/{world.source.source_key}"
    response = await world.client.post(url, content=body, headers=signed_headers(body))
    assert response.status_code == 202
    await world.drain()
    event = await world.event(response.json()["event_id"])
    assert event.status is WebhookStatus.REJECTED
    assert reason in (event.reason or "")
    assert event.body == body


async def test_a_click_of_another_sources_merchant_is_quarantined(world: World) -> None:
    async with transaction() as session:
        stranger = await make_click(session, world.customer, await make_merchant(session))
    response = await world.post("created", click_id=stranger.id, amount=100_000, commission=8_000)
    await world.drain()
    event = await world.event(response.json()["event_id"])
    assert event.status is WebhookStatus.QUARANTINED
    assert "does not report for" in (event.reason or "")


async def test_an_order_is_not_moved_to_another_click(world: World) -> None:
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    async with transaction() as session:
        thief = await make_click(session, await make_customer(session), world.merchant)
    response = await world.post("created", click_id=thief.id, amount=100_000, commission=8_000)
    await world.drain()
    assert (await world.event(response.json()["event_id"])).status is WebhookStatus.QUARANTINED
    assert (await world.order()).customer_id == world.customer.id


async def test_a_sale_after_the_click_has_expired_is_quarantined(world: World) -> None:
    late = world.click.expires_at + timedelta(days=1)
    response = await world.post("created", amount=100_000, commission=8_000, at=late)
    await world.drain()
    assert (await world.event(response.json()["event_id"])).status is WebhookStatus.QUARANTINED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"transactionDate": "2013-06-13 12:05:00"}, "earlier than click"),
        ({"transactionAmount": "0.00", "commission": "0.00"}, "the sale is zero"),
        ({"commission": "27.00"}, "larger than the sale"),
        ({"merchantId": "666"}, "the report names 666"),
    ],
)
async def test_an_unsigned_source_is_fenced(
    world: World, awin_push: bytes, changes: dict[str, str], reason: str
) -> None:
    assert await push_awin(world, awin_push, changes) == (WebhookStatus.QUARANTINED, reason)


async def test_a_plausible_awin_push_is_credited(world: World, awin_push: bytes) -> None:
    async with transaction() as session:
        # The merchant's cashback is in rupees, the network reports in pounds.
        today = datetime.now(UTC).date()
        session.add(ExchangeRate(base="GBP", quote="PKR", effective_on=today, rate_e12=350 * 10**12))
    assert await push_awin(world, awin_push, {}) == (WebhookStatus.PROCESSED, "")
    order = await world.order("105956531")
    assert (order.reported_currency, order.reported_sale_minor, order.reported_commission_minor) == ("GBP", 2_609, 164)
    assert (order.currency, order.sale_minor, order.commission_minor) == ("PKR", 913_150, 57_400)
    assert order.cashback_minor == 45_658  # 5 % of 9,131.50 is 456.575


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", "application/json", "no JSON"),
        (b"\xff", "application/x-www-form-urlencoded", "no form"),
        (b"x=1", "application/x-www-form-urlencoded", "AwinTransactionPush is missing"),
        (b'{"transactionId": "1"}', "application/json", "transactionCurrency"),
    ],
)
async def test_a_bad_awin_push_is_kept_with_its_reason(
    world: World, body: bytes, content_type: str, reason: str
) -> None:
    async with transaction() as session:
        source = await make_source(session, preset="awin")
    response = await world.client.post(
        f"/v1/webhooks/{source.source_key}", content=body, headers={"content-type": content_type}
    )
    assert response.status_code == 202
    await world.drain()
    event = await world.event(response.json()["event_id"])
    assert event.status is WebhookStatus.REJECTED
    assert reason in (event.reason or "")


async def push_awin(world: World, push: bytes, changes: dict[str, str]) -> tuple[WebhookStatus, str]:
    """Post Awin's example for a click of now, changed; returns its status and the part of the reason that matters."""
    async with transaction() as session:
        source = await make_source(session, preset="awin")
        merchant = await make_merchant(session, source_id=source.id, network_merchant_ref="3661")
        click = await make_click(session, world.customer, merchant)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    payload = {**orjson.loads(push), "clickRef": str(click.id), "transactionDate": now, **changes}
    response = await world.client.post(
        f"/v1/webhooks/{source.source_key}", data={"AwinTransactionPush": orjson.dumps(payload).decode()}
    )
    await world.drain()
    event = await world.event(response.json()["event_id"])
    wanted = ("earlier than click", "the sale is zero", "larger than the sale", "the report names 666")
    return event.status, next((part for part in wanted if part in (event.reason or "")), event.reason or "")


async def test_a_poison_event_dies_after_five_tries_and_can_be_replayed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    for name in ("post", "post_all"):
        monkeypatch.setattr(ledger, name, broken)
    response = await world.post("created", amount=100_000, commission=8_000)
    event_id = response.json()["event_id"]
    for _ in range(world.settings.webhook_max_tries):
        async with transaction() as session:
            await session.execute(update(WebhookEvent).values(next_attempt_at=func.now()))
        await world.drain()
    event = await world.event(event_id)
    assert (event.status, event.tries) == (WebhookStatus.DEAD, 5)
    assert event.reason == "ZeroDivisionError: a bug"
    monkeypatch.undo()
    async with transaction() as session:
        from app.services.webhooks.inbox import replay  # noqa: PLC0415 - only here

        await replay(session, event.id)
    await world.drain()
    assert (await world.event(event_id)).status is WebhookStatus.PROCESSED
    assert await world.wallet() == (5_000, 0)


async def test_replaying_a_processed_event_changes_nothing(world: World) -> None:
    response = await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    async with transaction() as session:
        from app.services.webhooks.inbox import replay  # noqa: PLC0415 - only here

        await replay(session, (await world.event(response.json()["event_id"])).id)
    assert await world.drain() == 1
    async with transaction() as session:
        transfers = await session.scalars(
            select(func.count()).select_from(Transfer).where(Transfer.cause_type == CauseType.ORDER)
        )
        assert transfers.one() == 1
    assert (await world.order()).revision == 1


async def test_same_order_number_at_two_merchants_is_two_orders(
    committed_db: Settings, committed_client: httpx.AsyncClient
) -> None:
    first = await make_world(committed_db, committed_client)
    second = await make_world(committed_db, committed_client)
    for world in (first, second):
        await world.post("created", "SAME", amount=10_000, commission=1_000)
        await world.drain()
    async with transaction() as session:
        assert len((await session.scalars(select(Order).where(Order.external_id == "SAME"))).all()) == 2
    assert await first.wallet() == await second.wallet() == (500, 0)

"""What a poll fetched is an event like a pushed one: the same inbox, the same order, in either order."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from app.config import Settings
from app.db import transaction
from app.models import EventOrigin, OrderStatus, Source, WebhookEvent, WebhookStatus
from app.services.sources.versions import load_version
from app.services.webhooks.delivery import read_json, write_json
from app.services.webhooks.polled import hear, take_polled
from tests.factories import make_click, make_merchant, make_source
from tests.polling.networks import MERCHANT, Awin, Impact, Network, Sale
from tests.webhooks.world import World, make_world


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client)


async def make_network(world: World, preset: str) -> tuple[Source, UUID]:
    async with transaction() as session:
        source = await make_source(session, preset=preset)
        merchant = await make_merchant(session, source_id=source.id, network_merchant_ref=MERCHANT, currency="USD")
        click = await make_click(session, world.customer, merchant)
    return source, click.id


def pushed_awin(sale: Sale) -> dict[str, str]:
    return {
        "transactionId": str(sale.number),
        "transactionDate": f"{sale.sold_at:%Y-%m-%d %H:%M:%S}",
        "transactionCurrency": "USD",
        "transactionAmount": "100.00",
        "commission": "10.00",
        "merchantId": MERCHANT,
        "clickRef": sale.click_id,
    }


def pushed_impact(sale: Sale) -> dict[str, str]:
    return {
        "ActionId": f"1000.4636.{sale.number}",
        "Status": "PENDING",
        "Amount": "100.00",
        "Payout": "10.00",
        "Currency": "USD",
        "CampaignId": MERCHANT,
        "EventDate": sale.sold_at.isoformat(),
        "SubId1": sale.click_id,
    }


async def take(source: Source, *items: Any) -> list[WebhookEvent]:
    """Keep items as a poll does; their numbers as the network wrote them."""
    async with transaction() as session:
        version = await load_version(session, source.version_id)
        ids = await take_polled(session, source, hear(version, [read_json(write_json(item)) for item in items]))
        return list(await session.scalars(select(WebhookEvent).where(WebhookEvent.id.in_(ids))))


@pytest.mark.parametrize("push_first", [True, False])
@pytest.mark.parametrize(
    ("api", "pushed"), [(Awin(), pushed_awin), (Impact(), pushed_impact)], ids=lambda one: getattr(one, "preset", "")
)
async def test_a_push_and_a_poll_of_one_sale_are_one_order(
    world: World,
    api: Network,
    pushed: Any,
    push_first: bool,
) -> None:
    source, click_id = await make_network(world, api.preset)
    now = datetime.now(UTC).replace(microsecond=0)
    sale = Sale(77, str(click_id), now, 10_000, 1_000)

    async def push() -> None:
        answer = await world.client.post(f"/v1/webhooks/{source.source_key}", json=pushed(sale))
        assert answer.status_code == 202
        await world.drain()

    if push_first:
        await push()
    await take(source, api.item(sale))  # type: ignore[attr-defined]  # of both
    # Decided, and amended by the merchant.
    sale.status, sale.changed_at, sale.sale, sale.commission = "approved", now + timedelta(days=30), 8_000, 800
    (event,) = await take(source, api.item(sale))  # type: ignore[attr-defined]  # of both
    await world.drain()
    if not push_first:
        await push()
    order = await world.order("77" if isinstance(api, Awin) else "1000.4636.77")
    assert (order.status, order.sale_minor, order.commission_minor) == (OrderStatus.APPROVED, 8_000, 800)
    assert order.ordered_at == now
    known = await world.event(str(event.id))
    assert (known.origin, known.status) == (EventOrigin.POLL, WebhookStatus.PROCESSED)


async def test_what_says_nothing_new_is_no_event(world: World) -> None:
    source, click_id = await make_network(world, "awin")
    api, sale = Awin(), Sale(77, str(click_id), datetime.now(UTC), 10_000, 1_000)
    first = api.item(sale)
    assert len(await take(source, first)) == 1
    assert await take(source, first, {**first, "lapseTime": 99}) == []
    # Of one item that a page has twice the last counts.
    assert len(await take(source, {**first, "commissionStatus": "approved"}, {**first, "voucherCode": "X"})) == 0
    assert len(await take(source, {**first, "commissionStatus": "declined"}, first)) == 0
    assert len(await take(source, {**first, "commissionStatus": "declined"})) == 1
    # And what it said before is news again.
    assert len(await take(source, first)) == 1


@pytest.mark.parametrize("item", ["text", [], {}, {"id": 77, "saleAmount": "many"}], ids=str)
async def test_a_polled_item_that_cannot_be_read_is_kept_with_its_reason(world: World, item: Any) -> None:
    source, _ = await make_network(world, "awin")
    (received,) = await take(source, item)
    await world.drain()
    event = await world.event(str(received.id))
    assert event.status is WebhookStatus.REJECTED
    assert event.reason
    assert event.body == write_json(item)
    assert await take(source, item) == []


async def test_a_push_cannot_take_the_place_of_what_is_polled(world: World) -> None:
    source, click_id = await make_network(world, "awin")
    sale = Sale(77, str(click_id), datetime.now(UTC), 10_000, 1_000)
    for guess in ("poll:77", "poll:77:1", "77"):
        await world.client.post(f"/v1/webhooks/{source.source_key}", json={**pushed_awin(sale), "transactionId": guess})
    assert len(await take(source, Awin().item(sale))) == 1

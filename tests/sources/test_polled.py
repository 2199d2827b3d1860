"""What a poll fetched is an event like a pushed one: the same inbox, the same order, in either order."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest

from app.config import Settings
from app.db import transaction
from app.models import EventOrigin, OrderStatus, Source, WebhookStatus
from app.schemas.source_definitions import SourceDefinition
from app.services.sources import get_preset
from app.services.webhooks.intake import IntakeStatus, Received, take_polled
from tests.factories import make_click, make_merchant, make_source
from tests.webhooks.world import World, make_world

# Awin's transactions as its API gives them: amounts are objects, and the state is told.
POLLED = {
    "mapping": {
        "order_reference": "to_string(id)",
        "click_reference": "clickRefs.clickRef",
        "network_merchant_ref": "to_string(advertiserId)",
        "status": "commissionStatus",
        "currency": "saleAmount.currency",
        "commission_currency": "commissionAmount.currency",
        "amount": {"path": "saleAmount.amount", "as": {"kind": "decimal", "numbers": True}},
        "commission": {"path": "commissionAmount.amount", "as": {"kind": "decimal", "numbers": True}},
        "occurred_at": {"path": "validationDate || transactionDate", "as": {"kind": "iso8601", "zone": "UTC"}},
        "ordered_at": {"path": "transactionDate", "as": {"kind": "iso8601", "zone": "UTC"}},
    },
    "statuses": {"pending": "created", "approved": "approved", "declined": "declined", "deleted": "declined"},
}


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client)


async def make_network(world: World) -> tuple[Source, UUID]:
    awin = get_preset("awin").definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    async with transaction() as session:
        source = await make_source(session, definition=SourceDefinition.model_validate({**awin, "polled": POLLED}))
        merchant = await make_merchant(session, source_id=source.id, network_merchant_ref="3661", currency="GBP")
        click = await make_click(session, world.customer, merchant)
    return source, click.id


def pushed(click_id: UUID, at: datetime) -> dict[str, str]:
    return {
        "transactionId": "77",
        "transactionDate": f"{at:%Y-%m-%d %H:%M:%S}",
        "transactionCurrency": "GBP",
        "transactionAmount": "26.09",
        "commission": "1.64",
        "merchantId": "3661",
        "clickRef": str(click_id),
    }


def polled(click_id: UUID, at: datetime, status: str, **more: Any) -> bytes:
    item = {
        "id": 77,
        "advertiserId": 3661,
        "commissionStatus": status,
        "clickRefs": {"clickRef": str(click_id)},
        "saleAmount": {"amount": 26.09, "currency": "GBP"},
        "commissionAmount": {"amount": 1.64, "currency": "GBP"},
        "transactionDate": f"{at:%Y-%m-%dT%H:%M:%S}",
        **more,
    }
    return orjson.dumps(item)


async def take(source: Source, item: bytes) -> Received:
    async with transaction() as session:
        return await take_polled(session, source, item)


@pytest.mark.parametrize("push_first", [True, False])
async def test_a_push_and_a_poll_of_one_sale_are_one_order(world: World, *, push_first: bool) -> None:
    source, click_id = await make_network(world)
    now = datetime.now(UTC).replace(microsecond=0)
    approval = polled(click_id, now, "approved", validationDate=f"{now + timedelta(days=30):%Y-%m-%dT%H:%M:%S}")

    async def push() -> None:
        answer = await world.client.post(f"/v1/webhooks/{source.source_key}", json=pushed(click_id, now))
        assert answer.status_code == 202

    if push_first:
        await push()
        await world.drain()
    await take(source, polled(click_id, now, "pending"))
    received = await take(source, approval)
    await world.drain()
    if not push_first:
        await push()
        await world.drain()
    order = await world.order("77")
    assert (order.status, order.sale_minor, order.commission_minor) == (OrderStatus.APPROVED, 2_609, 164)
    assert (order.ordered_at, order.approved_at) == (now, now + timedelta(days=30))
    event = await world.event(str(received.event_id))
    assert (event.origin, event.status) == (EventOrigin.POLL, WebhookStatus.PROCESSED)
    assert event.body == approval


async def test_what_was_polled_before_is_a_duplicate(world: World) -> None:
    source, click_id = await make_network(world)
    item = polled(click_id, datetime.now(UTC), "pending")
    first, again = await take(source, item), await take(source, item)
    assert (first.status, again.status) == (IntakeStatus.ACCEPTED, IntakeStatus.DUPLICATE)
    assert again.event_id == first.event_id


@pytest.mark.parametrize("item", [b"no json", b"[]", b"{}", b"\xff"])
async def test_a_polled_item_that_cannot_be_read_is_kept_with_its_reason(world: World, item: bytes) -> None:
    source, _ = await make_network(world)
    received = await take(source, item)
    await world.drain()
    event = await world.event(str(received.event_id))
    assert event.status is WebhookStatus.REJECTED
    assert event.reason

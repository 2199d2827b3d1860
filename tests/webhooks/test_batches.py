"""Requests with several events: each is a row of its own, and none is lost, doubled or hidden by another."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select

from app.db import transaction
from app.models import EventOrigin, Source, StaffRole, WebhookEvent, WebhookStatus
from app.services.webhooks.inbox import replay
from tests.factories import make_click, make_merchant, make_source, staff_headers
from tests.webhooks.batches import batches
from tests.webhooks.world import World


@dataclass
class Network:
    """A source that reports several events at a time."""

    world: World
    source: Source
    click_id: UUID

    def row(self, order: str, *, event: str | None = None, **changes: Any) -> dict[str, Any]:
        return {
            "event": event or f"new-{order}",
            "id": order,
            "click": str(self.click_id),
            "sum": "100.00",
            "fee": "8.00",
            **changes,
        }

    async def send(self, *rows: Any) -> UUID:
        """Send the rows in one request, and drain; returns the delivery's id."""
        answer = await self.world.client.post(f"/v1/webhooks/{self.source.source_key}", json={"rows": rows})
        assert answer.status_code == 202, answer.text
        await self.world.drain()
        return UUID(answer.json()["event_id"])

    async def items(self, delivery_id: UUID) -> list[WebhookEvent]:
        async with transaction() as session:
            found = await session.scalars(
                select(WebhookEvent).where(WebhookEvent.delivery_id == delivery_id).order_by(WebhookEvent.id)
            )
            return list(found)


@pytest.fixture
async def network(world: World) -> Network:
    async with transaction() as session:
        source = await make_source(session, definition=batches())
        merchant = await make_merchant(session, source_id=source.id)
        click = await make_click(session, world.customer, merchant)
    return Network(world, source, click.id)


async def test_each_event_of_a_request_is_a_row_of_its_own(network: Network) -> None:
    delivery_id = await network.send(network.row("B-1"), network.row("B-2"), network.row("B-3", status="test"))
    delivery = await network.world.event(str(delivery_id))
    assert (delivery.status, delivery.origin) == (WebhookStatus.SPLIT, EventOrigin.PUSH)
    items = await network.items(delivery_id)
    assert [item.status for item in items] == [WebhookStatus.PROCESSED, WebhookStatus.PROCESSED, WebhookStatus.IGNORED]
    assert [item.external_order_id for item in items[:2]] == ["B-1", "B-2"]
    assert {item.received_at for item in items} == {delivery.received_at}
    assert {item.origin for item in items} == {EventOrigin.ITEM}
    assert await network.world.wallet() == (1_000, 0)


async def test_a_bad_event_does_not_lose_the_others_and_has_its_reason(network: Network) -> None:
    delivery_id = await network.send(
        network.row("B-1"), "no object", network.row("B-2", sum="much"), network.row("B-3", click="nobody"), None
    )
    items = await network.items(delivery_id)
    assert [(item.status, item.reason) for item in items] == [
        (WebhookStatus.PROCESSED, None),
        (WebhookStatus.REJECTED, "the event is no object"),
        (WebhookStatus.REJECTED, "amount (sum): 'much' is not a plain decimal amount"),
        (WebhookStatus.ORPHANED, "no click has the reference 'nobody'"),
        (WebhookStatus.REJECTED, "the event is no object"),
    ]
    assert await network.world.wallet() == (500, 0)


async def test_an_event_that_came_in_another_request_is_not_taken_twice(network: Network) -> None:
    first = await network.send(network.row("B-1"), network.row("B-2"))
    second = await network.send(network.row("B-2"), network.row("B-3"), network.row("B-3"))
    assert [item.external_order_id for item in await network.items(first)] == ["B-1", "B-2"]
    assert [item.external_order_id for item in await network.items(second)] == ["B-3"]
    assert await network.world.wallet() == (1_500, 0)


async def test_an_event_id_with_other_content_is_quarantined_and_never_counts_twice(network: Network) -> None:
    first = (await network.items(await network.send(network.row("B-1", event="e-1"))))[0]
    delivery_id = await network.send(network.row("B-1", event="e-1", sum="900.00"), network.row("B-2", event="e-2"))
    for replayed in (False, True):
        if replayed:
            async with transaction() as session:
                for event_id in (delivery_id, *(item.id for item in await network.items(delivery_id))):
                    await replay(session, event_id)
            await network.world.drain()
        reasons = {item.external_order_id: (item.status, item.reason) for item in await network.items(delivery_id)}
        assert reasons == {
            "B-1": (
                WebhookStatus.QUARANTINED,
                f"event {first.id} came before with the same id and says something else",
            ),
            "B-2": (WebhookStatus.PROCESSED, None),
        }
        assert await network.world.wallet() == (1_000, 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [({"rows": {}}, "events (rows): there is no list"), ({}, "there is no list"), ([], "there is no list")],
)
async def test_a_request_without_events_is_rejected_with_its_reason(network: Network, body: Any, reason: str) -> None:
    answer = await network.world.client.post(f"/v1/webhooks/{network.source.source_key}", json=body)
    await network.world.drain()
    event = await network.world.event(answer.json()["event_id"])
    assert (event.status, reason in (event.reason or "")) == (WebhookStatus.REJECTED, True)


async def test_replaying_a_delivery_processes_its_events_again_and_changes_nothing(network: Network) -> None:
    delivery_id = await network.send(network.row("B-1"), network.row("B-2", sum="much"))
    before = await network.items(delivery_id)
    async with transaction() as session:
        await replay(session, delivery_id)
    await network.world.drain()
    after = await network.items(delivery_id)
    assert [item.id for item in after] == [item.id for item in before]
    assert [item.status for item in after] == [WebhookStatus.PROCESSED, WebhookStatus.REJECTED]
    assert after[0].processed_at != before[0].processed_at
    assert await network.world.wallet() == (500, 0)


async def test_an_empty_list_is_a_delivery_without_events(network: Network) -> None:
    delivery_id = await network.send()
    assert (await network.world.event(str(delivery_id))).status is WebhookStatus.SPLIT
    assert await network.items(delivery_id) == []


async def test_the_inbox_lists_the_events_of_a_delivery(network: Network) -> None:
    delivery_id = await network.send(network.row("B-1"), network.row("B-2"))
    async with transaction() as session:
        viewer = await staff_headers(session, StaffRole.VIEWER)
    answer = await network.world.client.get(f"/v1/admin/webhook-events?delivery_id={delivery_id}", headers=viewer)
    assert [item["order_reference"] for item in answer.json()["items"]] == ["B-2", "B-1"]
    assert {item["delivery_id"] for item in answer.json()["items"]} == {str(delivery_id)}


async def test_many_events_in_one_request(network: Network) -> None:
    delivery_id = await network.send(*(network.row(f"M-{number}") for number in range(300)))
    assert {item.status for item in await network.items(delivery_id)} == {WebhookStatus.PROCESSED}
    assert len(await network.items(delivery_id)) == 300
    assert await network.world.wallet() == (150_000, 0)

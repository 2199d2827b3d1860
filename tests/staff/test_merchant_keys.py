"""Keys of merchants: they read their own, nothing of customers, nothing of others, and change nothing."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import Alert, AlertKind, Merchant, MerchantKey, SyncRun, SyncStatus, WebhookDuplicate
from app.routers import ROUTERS
from app.workers.housekeeping import forget_expired
from tests.factories import make_merchant, staff_headers
from tests.webhooks.world import World, make_world


@dataclass
class Shop:
    """A merchant that has reported, its key, and what another merchant has."""

    world: World
    headers: dict[str, str]
    other: Merchant
    foreign: dict[str, str]

    async def get(self, path: str, **parameters: Any) -> httpx.Response:
        return await self.world.client.get(f"/v1/merchant/{path}", headers=self.headers, params=parameters)

    async def read(self, path: str, **parameters: Any) -> Any:
        answer = await self.get(path, **parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def shop(committed_db: Settings, committed_client: httpx.AsyncClient) -> Shop:
    world = await make_world(committed_db, committed_client)
    other = await make_world(committed_db, committed_client)
    await other.post("created", "B-1", amount=50_000, commission=4_000)
    at = datetime.now(UTC)
    for status in ("accepted", "duplicate"):
        answer = await world.post("created", amount=100_000, commission=8_000, message_id="one", at=at)
        assert answer.json()["status"] == status
    await world.post("created", "A-2", amount="not a number", commission=8_000)
    await world.drain()
    async with transaction() as session:
        admin = await staff_headers(session)
        runs = [SyncRun(merchant_id=one.merchant.id, status=SyncStatus.FAILED) for one in (world, other)]
        session.add_all([*runs, Alert(kind=AlertKind.SILENCE, merchant_id=world.merchant.id, details={})])
    path = f"/v1/admin/merchants/{world.merchant.id}/keys"
    made = await committed_client.post(path, json={"name": "dashboard"}, headers=admin)
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    event = await other_event(committed_client, admin, other.merchant.id)
    foreign = {"events": event, "orders": str((await other.order("B-1")).id), "sync-runs": str(runs[1].id)}
    return Shop(world, {"X-API-Key": made.json()["key"]}, other.merchant, foreign)


async def other_event(client: httpx.AsyncClient, admin: dict[str, str], merchant_id: int) -> str:
    found = await client.get("/v1/admin/webhook-events", params={"merchant_id": merchant_id}, headers=admin)
    [event] = found.json()["items"]
    return str(event["id"])


async def test_a_merchant_reads_its_own_events_orders_and_syncs(shop: Shop) -> None:
    events = (await shop.read("events"))["items"]
    assert [(event["order_reference"], event["status"]) for event in events] in (
        [("A-2", "rejected"), ("A-1", "processed")],
        [(None, "rejected"), ("A-1", "processed")],
    )
    assert events[0]["reason"]
    assert await shop.read(f"events/{events[0]['id']}") == events[0]
    assert (await shop.read("events", order_reference="A-1"))["items"] == events[1:]
    [order] = (await shop.read("orders"))["items"]
    assert (order["order_reference"], order["sale"], order["commission"]["amount_minor"]) == (
        "A-1",
        {"amount_minor": 100_000, "currency": "PKR"},
        8_000,
    )
    assert await shop.read(f"orders/{order['id']}") == order
    [run] = (await shop.read("sync-runs"))["items"]
    assert (await shop.read(f"sync-runs/{run['job_id']}"))["merchant_id"] == shop.world.merchant.id


async def test_nothing_of_a_customer_is_shown(shop: Shop) -> None:
    customer = shop.world.customer
    [order] = (await shop.read("orders"))["items"]
    for path in ("events", "orders", f"orders/{order['id']}", "delivery"):
        text = (await shop.get(path)).text
        for word in (str(customer.id), customer.email, str(shop.world.click.id), "customer", "cashback"):
            assert word not in text, (path, word)


async def test_delivery_health_counts_what_arrived(shop: Shop) -> None:
    health = await shop.read("delivery")
    assert (health["accepted"], health["duplicate"]) == (2, 1)
    assert {status: count for status, count in health["by_status"].items() if count} == {"processed": 1, "rejected": 1}
    assert health["last_event_at"] is not None
    assert health["silent_since"] is not None
    async with transaction() as session:
        session.add(
            WebhookDuplicate(
                source_id=shop.world.merchant.source_id or 0, received_at=datetime.now(UTC) - timedelta(days=32)
            )
        )
    assert (await shop.read("delivery"))["duplicate"] == 1
    assert await forget_expired() == 1


async def test_what_nobody_could_read_is_not_shown_where_a_source_is_shared(shop: Shop) -> None:
    async with transaction() as session:
        await make_merchant(session, source_id=shop.world.merchant.source_id, network_merchant_ref="x")
    assert [event["status"] for event in (await shop.read("events"))["items"]] == ["processed"]
    health = await shop.read("delivery")
    assert (health["accepted"], health["duplicate"]) == (1, None)


async def test_ids_of_another_merchant_are_unknown(shop: Shop) -> None:
    for path, found in shop.foreign.items():
        theirs, none = await shop.get(f"{path}/{found}"), await shop.get(f"{path}/{new_id()}")
        assert (theirs.status_code, theirs.json()["code"]) == (404, none.json()["code"])
    everything = [(await shop.get(path, limit=100)).text for path in shop.foreign]
    assert not any(found in text for found in shop.foreign.values() for text in everything)


async def test_a_merchants_key_opens_nothing_else(shop: Shop) -> None:
    for headers in (shop.headers, {"Authorization": f"Bearer {shop.headers['X-API-Key']}"}):
        for method, path in (("GET", "/v1/me"), ("GET", "/v1/admin/orders"), ("POST", "/sync/1"), ("GET", "/report")):
            answer = await shop.world.client.request(method, path, headers=headers)
            assert answer.status_code == 401, path
    async with transaction() as session:
        staff_key = await staff_headers(session)
    for strange in ({}, staff_key, {"X-API-Key": "cbm_00000000_wrong"}, {"X-API-Key": "cbm_"}):
        answer = await shop.world.client.get("/v1/merchant/orders", headers=strange)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_merchant_key")


def test_merchants_have_no_route_that_writes() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    own = [route for route in routes if route.path.startswith("/v1/merchant/")]
    assert len(own) == 7
    assert {method for route in own for method in route.methods or ()} == {"GET"}


async def test_staff_list_and_revoke_keys_of_a_merchant(shop: Shop) -> None:
    client, merchant_id = shop.world.client, shop.world.merchant.id
    async with transaction() as session:
        admin = await staff_headers(session)
    await shop.read("delivery")
    path = f"/v1/admin/merchants/{merchant_id}/keys"
    listed = await client.get(path, headers=admin)
    [key] = listed.json()["items"]
    assert key["last_used_at"] is not None
    assert "key" not in key
    elsewhere = f"/v1/admin/merchants/{shop.other.id}/keys/{key['id']}/revoke"
    assert (await client.post(elsewhere, headers=admin)).json()["code"] == "merchant_key_not_found"
    for _ in range(2):
        assert (await client.post(f"{path}/{key['id']}/revoke", headers=admin)).json()["revoked_at"] is not None
    assert (await shop.get("delivery")).status_code == 401
    expired = (await client.post(path, json={"name": "x", "valid_days": 1}, headers=admin)).json()
    async with transaction() as session:
        row = await session.get_one(MerchantKey, expired["id"])
        row.expires_at = datetime.now(UTC) - timedelta(hours=1)
    shop.headers = {"X-API-Key": expired["key"]}
    assert (await shop.get("delivery")).status_code == 401
    log = (await client.get("/v1/admin/audit-log", params={"target_type": "merchant_keys"}, headers=admin)).json()
    actions = [entry["action"] for entry in log["items"]]
    assert actions == ["create_merchant_key", "revoke_merchant_key", "revoke_merchant_key", "create_merchant_key"]
    missing = await client.post("/v1/admin/merchants/999999/keys", json={"name": "x"}, headers=admin)
    assert (missing.status_code, missing.json()["code"]) == (404, "merchant_not_found")

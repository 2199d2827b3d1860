"""The inbox for staff: list, show raw, replay."""

import base64
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import func, update

from app.db import transaction
from app.ids import new_id
from app.models import StaffRole, WebhookEvent, WebhookStatus
from app.services import ledger
from tests.factories import make_click, make_merchant, make_source, staff_headers
from tests.webhooks.sender import signed_headers
from tests.webhooks.world import World


async def headers_of(role: StaffRole) -> dict[str, str]:
    async with transaction() as session:
        return await staff_headers(session, role)


async def reject_one(world: World, body: bytes = b"not json \xf0\x9f\x98\x80") -> str:
    url = f"/v1/webhooks/{world.source.source_key}"
    answer = await world.client.post(url, content=body, headers=signed_headers(body))
    await world.drain()
    event_id: str = answer.json()["event_id"]
    return event_id


async def test_a_bad_payload_is_visible_with_its_reason_and_its_bytes(world: World) -> None:
    event_id = await reject_one(world)
    viewer = await headers_of(StaffRole.VIEWER)
    listed = (await world.client.get("/v1/admin/webhook-events?status=rejected", headers=viewer)).json()["items"]
    assert [(item["id"], item["status"]) for item in listed] == [(event_id, "rejected")]
    assert "no JSON" in listed[0]["reason"]
    shown = (await world.client.get(f"/v1/admin/webhook-events/{event_id}", headers=viewer)).json()
    assert shown["body"] == "not json 😀"
    assert shown["headers"]["webhook-id"] == shown["message_id"]


async def test_lists_are_filtered_and_paged(world: World) -> None:
    made = [await reject_one(world, f"bad {number}".encode()) for number in range(3)]
    viewer = await headers_of(StaffRole.VIEWER)
    first = (await world.client.get("/v1/admin/webhook-events?limit=2", headers=viewer)).json()
    rest = (await world.client.get(f"/v1/admin/webhook-events?cursor={first['next_cursor']}", headers=viewer)).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == made[::-1]
    for query in ("status=processed", f"source_id={world.source.id + 1}"):
        assert (await world.client.get(f"/v1/admin/webhook-events?{query}", headers=viewer)).json()["items"] == []


async def test_events_are_found_by_order_merchant_and_time(world: World) -> None:
    for order_id in ("A-1", "A-2"):
        await world.post("created", order_id, amount=10_000, commission=1_000)
    await world.drain()
    await reject_one(world)
    viewer = await headers_of(StaffRole.VIEWER)
    now = datetime.now(UTC)

    async def found(**query: str | int) -> list[str | None]:
        answer = await world.client.get("/v1/admin/webhook-events", params=query, headers=viewer)
        assert answer.status_code == 200, answer.text
        return [item["order_reference"] for item in answer.json()["items"]]

    assert await found(order_reference="A-1") == ["A-1"]
    assert await found(merchant_id=world.merchant.id) == ["A-2", "A-1"]
    assert await found(merchant_id=world.merchant.id + 1) == []
    assert await found(received_from=(now - timedelta(hours=1)).isoformat()) == [None, "A-2", "A-1"]
    assert await found(received_from=(now + timedelta(hours=1)).isoformat()) == []
    assert await found(received_to=(now - timedelta(hours=1)).isoformat()) == []
    assert await found(received_to=(now + timedelta(hours=1)).isoformat(), status="processed") == ["A-2", "A-1"]
    for wrong in ("received_from=0001-01-01T00:00:00Z", "received_to=yesterday", "delivery_id=1"):
        answer = await world.client.get(f"/v1/admin/webhook-events?{wrong}", headers=viewer)
        assert answer.status_code == 422


async def test_every_byte_and_header_is_shown_but_no_credentials(world: World) -> None:
    body = b"\xff\x00 not text"
    async with transaction() as session:
        source = await make_source(session, preset="impact")
    answer = await world.client.post(
        f"/v1/webhooks/{source.source_key}?a=%20b", content=body, headers={"x-trace": "7", "authorization": "Basic x"}
    )
    viewer = await headers_of(StaffRole.VIEWER)
    await world.drain()
    url = f"/v1/admin/webhook-events/{answer.json()['event_id']}"
    shown = (await world.client.get(url, headers=viewer)).json()
    assert base64.b64decode(shown["body_base64"]) == body
    assert (shown["method"], shown["query"], shown["headers"]["x-trace"]) == ("POST", "a=%20b", "7")
    assert "authorization" not in shown["headers"]
    assert shown["version_id"] == str(source.version_id)


async def test_a_dead_letter_shows_its_reason_and_tries(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    for name in ("post", "post_all"):
        monkeypatch.setattr(ledger, name, broken)
    await world.post("created", amount=100_000, commission=8_000)
    for _ in range(world.settings.webhook_max_tries):
        async with transaction() as session:
            await session.execute(update(WebhookEvent).values(next_attempt_at=func.now()))
        await world.drain()
    viewer = await headers_of(StaffRole.VIEWER)
    (dead,) = (await world.client.get("/v1/admin/webhook-events?status=dead", headers=viewer)).json()["items"]
    assert (dead["tries"], dead["reason"]) == (5, "ZeroDivisionError: a bug")


async def test_what_is_quarantined_is_credited_once_staff_release_it(world: World) -> None:
    late = world.click.expires_at + timedelta(days=1)
    event_id = (await world.post("created", amount=100_000, commission=8_000, at=late)).json()["event_id"]
    await world.drain()
    assert await world.wallet() == (0, 0)
    url = f"/v1/admin/webhook-events/{event_id}/release"
    reason = {"reason": "The shop confirmed the sale by mail."}
    assert (await world.client.post(url, json=reason)).status_code == 401
    operator = await headers_of(StaffRole.OPERATOR)
    assert (await world.client.post(url, json=reason, headers=operator)).status_code == 403
    finance = await headers_of(StaffRole.FINANCE)
    assert (await world.client.post(url, json={"reason": " "}, headers=finance)).status_code == 422
    answer = await world.client.post(url, json=reason, headers=finance)
    assert (answer.status_code, answer.json()["status"]) == (202, "received")
    await world.drain()
    event = await world.event(event_id)
    assert (event.status, event.released_reason) == (WebhookStatus.PROCESSED, reason["reason"])
    assert event.released_by_id is not None
    assert await world.wallet() == (5_000, 0)
    again = await world.client.post(url, json=reason, headers=finance)
    assert (again.status_code, again.json()["code"]) == (409, "webhook_event_not_quarantined")
    missing = await world.client.post(f"/v1/admin/webhook-events/{new_id()}/release", json=reason, headers=finance)
    assert missing.status_code == 404


async def test_an_implausible_sale_of_an_unsigned_source_can_be_released(world: World) -> None:
    async with transaction() as session:
        source = await make_source(session, preset="affise")
        merchant = await make_merchant(session, source_id=source.id)
        click = await make_click(session, world.customer, merchant)
    sale = f"transactionid=T-1&status=2&sum=90&order_sum=50&currency=PKR&sub1={click.id}"
    answer = await world.client.get(f"/v1/webhooks/{source.source_key}?{sale}")
    await world.drain()
    event_id = answer.json()["event_id"]
    assert (await world.event(event_id)).reason == "the commission is larger than the sale"
    finance = await headers_of(StaffRole.FINANCE)
    url = f"/v1/admin/webhook-events/{event_id}/release"
    assert (await world.client.post(url, json={"reason": "a launch bonus"}, headers=finance)).status_code == 202
    await world.drain()
    assert (await world.order("T-1")).commission_minor == 9_000


async def test_what_cannot_be_credited_at_all_stays_where_it_is_when_released(world: World) -> None:
    async with transaction() as session:
        stranger = await make_click(session, world.customer, await make_merchant(session))
    answer = await world.post("created", click_id=stranger.id, amount=100_000, commission=8_000)
    await world.drain()
    event_id = answer.json()["event_id"]
    finance = await headers_of(StaffRole.FINANCE)
    url = f"/v1/admin/webhook-events/{event_id}/release"
    assert (await world.client.post(url, json={"reason": "please"}, headers=finance)).status_code == 202
    await world.drain()
    event = await world.event(event_id)
    assert (event.status, "does not report for" in (event.reason or "")) == (WebhookStatus.QUARANTINED, True)


async def test_replay_needs_an_operator_and_processes_again(world: World) -> None:
    orphan = (await world.post("approved", click_id=None)).json()["event_id"]
    await world.drain()
    url = f"/v1/admin/webhook-events/{orphan}/replay"
    assert (await world.client.post(url, headers=await headers_of(StaffRole.VIEWER))).status_code == 403
    assert (await world.client.post(url)).status_code == 401
    operator = await headers_of(StaffRole.OPERATOR)
    answer = await world.client.post(url, headers=operator)
    assert (answer.status_code, answer.json()["status"]) == (202, "received")
    assert await world.drain() == 1
    missing = await world.client.post(f"/v1/admin/webhook-events/{new_id()}/replay", headers=operator)
    assert (missing.status_code, missing.json()["code"]) == (404, "webhook_event_not_found")


async def test_staff_keys_work_as_bearer_and_as_header(world: World) -> None:
    key = (await headers_of(StaffRole.VIEWER))["X-API-Key"]
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
        assert (await world.client.get("/v1/admin/webhook-events", headers=headers)).status_code == 200
    for wrong in (f"{key}x", "cbk_00000000_x", "nonsense", key.upper()):
        response: httpx.Response = await world.client.get("/v1/admin/webhook-events", headers={"X-API-Key": wrong})
        assert (response.status_code, response.json()["code"]) == (401, "invalid_staff_key")

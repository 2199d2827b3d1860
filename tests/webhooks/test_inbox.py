"""The inbox for staff: list, show raw, replay."""

import httpx

from app.db import transaction
from app.ids import new_id
from app.models import StaffRole
from tests.factories import staff_headers
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

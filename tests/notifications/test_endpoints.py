"""Endpoints as staff manage them."""

from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.ids import new_id
from app.models import StaffRole
from app.services.notifications import Topic, publish
from tests.factories import staff_headers

ENDPOINTS = "/v1/admin/notification-endpoints"
WANTED = {"url": "https://backend.example/cashback", "topics": ["order", "alert"], "description": "App backend"}


async def test_a_secret_is_shown_once(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = await staff_headers(session)
    made = await client.post(ENDPOINTS, json=WANTED, headers=headers)
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    secret = made.json().pop("secret")
    assert secret.startswith("whsec_")
    url = f"{ENDPOINTS}/{made.json()['id']}"
    for answer in (await client.get(url, headers=headers), await client.get(ENDPOINTS, headers=headers)):
        assert answer.status_code == 200
        assert secret not in answer.text
    assert (await client.get(url, headers=headers)).json()["topics"] == ["alert", "order"]


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://backend.example"},
        {"url": "file:///etc/passwd"},
        {"topics": []},
        {"topics": ["everything"]},
        {"secret": "mine"},
        {"description": "x" * 501},
    ],
    ids=["ftp", "file", "no-topic", "unknown-topic", "own-secret", "long"],
)
async def test_what_makes_no_sense_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, change: dict[str, Any]
) -> None:
    answer = await client.post(ENDPOINTS, json={**WANTED, **change}, headers=await staff_headers(session))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_disabling_gives_up_what_is_on_its_way(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = await staff_headers(session)
    endpoint = (await client.post(ENDPOINTS, json=WANTED, headers=headers)).json()
    await publish(session, Topic.ORDER, "approved", {"order_id": "x"})
    listed = (await client.get("/v1/admin/notification-deliveries?status=pending", headers=headers)).json()["items"]
    assert [(row["type"], row["data"]) for row in listed] == [("order.approved", {"order_id": "x"})]
    changed = await client.patch(f"{ENDPOINTS}/{endpoint['id']}", json={"status": "disabled"}, headers=headers)
    assert (changed.status_code, changed.json()["status"]) == (200, "disabled")
    url = f"/v1/admin/notification-deliveries?endpoint_id={endpoint['id']}"
    (row,) = (await client.get(url, headers=headers)).json()["items"]
    assert (row["status"], row["last_error"]) == ("failed", "the endpoint was disabled")
    retried = await client.post(f"/v1/admin/notification-deliveries/{row['id']}/retry", headers=headers)
    assert (retried.status_code, retried.json()["code"]) == (409, "notification_endpoint_disabled")


async def test_unknown_ids_are_not_found_and_roles_are_kept(client: httpx.AsyncClient, session: AsyncSession) -> None:
    admin, viewer = await staff_headers(session), await staff_headers(session, StaffRole.VIEWER)
    for method, path in (
        ("GET", f"{ENDPOINTS}/{new_id()}"),
        ("POST", f"{ENDPOINTS}/{new_id()}/rotate-secret"),
        ("POST", f"/v1/admin/notification-deliveries/{new_id()}/retry"),
    ):
        assert (await client.request(method, path, headers=admin)).status_code == 404
    assert (await client.post(ENDPOINTS, json=WANTED, headers=viewer)).status_code == 403
    assert (await client.get(ENDPOINTS, headers=viewer)).status_code == 200
    assert (await client.get(ENDPOINTS)).status_code == 401

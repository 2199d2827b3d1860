"""Sessions: every sign-in is shown to its customer, and can be ended from another."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import CustomerSession
from app.services import sessions
from tests.factories import customer_headers, make_customer
from tests.test_auth import EMAIL, PASSWORD, TOKEN_URL, is_invalid_grant, me, refresh, register, signed_in


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def test_sessions_show_device_and_use_and_which_is_the_current(client: httpx.AsyncClient) -> None:
    await register(client)
    form = {"grant_type": "password", "username": EMAIL, "password": PASSWORD, "device_label": " Ayesha's phone "}
    agent = "Cashback/3.2 (Android 16)\x07" + "x" * 400
    phone = (await client.post(TOKEN_URL, data=form, headers={"User-Agent": agent})).json()
    browser = await signed_in(client)
    page = (await client.get("/v1/me/sessions", headers=bearer(phone))).json()
    first, second = page["items"]
    assert page["next_cursor"] is None
    assert (first["current"], second["current"]) == (False, True)
    assert second["device_label"] == "Ayesha's phone"
    assert second["user_agent"].startswith("Cashback/3.2 (Android 16)xxx")
    assert len(second["user_agent"]) == 256
    assert (first["device_label"], first["method"]) == (None, "password")
    renewed = (await refresh(client, browser["refresh_token"])).json()
    shown = (await client.get("/v1/me/sessions?limit=1", headers=bearer(renewed))).json()
    assert shown["items"][0]["current"]
    assert shown["items"][0]["last_used_at"] > first["last_used_at"]
    rest = await client.get(f"/v1/me/sessions?cursor={shown['next_cursor']}", headers=bearer(renewed))
    assert [item["id"] for item in rest.json()["items"]] == [second["id"]]


async def test_one_session_is_ended_from_another_at_once(client: httpx.AsyncClient) -> None:
    await register(client)
    lost, kept = await signed_in(client), await signed_in(client)
    items = (await client.get("/v1/me/sessions", headers=bearer(kept))).json()["items"]
    [other] = [item["id"] for item in items if not item["current"]]
    assert (await client.delete(f"/v1/me/sessions/{other}", headers=bearer(kept))).status_code == 204
    assert (await me(client, lost["access_token"])).json()["code"] == "invalid_token"
    assert is_invalid_grant(await refresh(client, lost["refresh_token"]))
    assert (await me(client, kept["access_token"])).status_code == 200
    again = await client.delete(f"/v1/me/sessions/{other}", headers=bearer(kept))
    assert (again.status_code, again.json()["code"]) == (404, "session_not_found")


async def test_all_other_sessions_end_together(client: httpx.AsyncClient) -> None:
    await register(client)
    kept, *others = [await signed_in(client) for _ in range(3)]
    assert (await client.delete("/v1/me/sessions", headers=bearer(kept))).status_code == 204
    assert [(await me(client, tokens["access_token"])).status_code for tokens in others] == [401, 401]
    assert [is_invalid_grant(await refresh(client, tokens["refresh_token"])) for tokens in others] == [True, True]
    assert (await refresh(client, kept["refresh_token"])).status_code == 200


async def test_sessions_of_others_are_neither_shown_nor_ended(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    mine, other = await make_customer(session), await make_customer(session)
    headers = customer_headers(settings, mine)
    shown = (await client.get("/v1/me/sessions", headers=headers)).json()["items"]
    assert [item["id"] for item in shown] == [str(mine.id)]
    assert (await client.delete(f"/v1/me/sessions/{other.id}", headers=headers)).status_code == 404
    await client.delete("/v1/me/sessions", headers=headers)
    assert (await client.get("/v1/me", headers=customer_headers(settings, other))).status_code == 200


async def test_ended_session_ends_every_route_that_needs_a_sign_in(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session)
    headers = customer_headers(settings, customer)
    await session.execute(update(CustomerSession).values(ended_at=func.now()))
    method = {"kind": "email", "holder": "A", "provider": "PayPal", "email": "a@example.com", "password": PASSWORD}
    answers = [
        await client.get("/v1/me/wallet", headers=headers),
        await client.post("/v1/me/payout-methods", headers=headers, json=method),
        await client.post("/v1/clicks", headers=headers, json={"merchant_id": 1}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(401, "invalid_token")] * 3


async def test_expired_sessions_are_forgotten_in_bounded_steps(session: AsyncSession) -> None:
    for _ in range(3):
        await make_customer(session)
    over = datetime.now(UTC) - timedelta(seconds=1)
    await session.execute(update(CustomerSession).values(expires_at=over))
    await make_customer(session)
    assert [await sessions.forget_expired(session, limit=2) for _ in range(3)] == [2, 1, 0]
    assert await session.scalar(select(func.count()).select_from(CustomerSession)) == 1

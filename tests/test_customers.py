"""Accounts: who may have one, what it shows, and what is left when it is closed."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import Customer, CustomerStatus, RefreshToken
from app.services import customers
from tests.factories import customer_headers, make_customer

PASSWORD = "correct horse battery staple"


async def register(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    body = {"email": "ayesha@example.com", "password": PASSWORD, **changes}
    # httpx's own encoding of JSON cannot send everything that a client can.
    return await client.post("/v1/customers", content=json.dumps(body), headers={"Content-Type": "application/json"})


async def sign_in(client: httpx.AsyncClient, email: str = "ayesha@example.com") -> dict[str, str]:
    form = {"grant_type": "password", "username": email, "password": PASSWORD}
    answer = await client.post("/v1/auth/token", data=form)
    assert answer.status_code == 200
    tokens: dict[str, str] = answer.json()
    return tokens


def bearer(tokens: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


async def test_registered_customer_is_shown_without_secrets(client: httpx.AsyncClient) -> None:
    answer = await register(client, display_name="  Ayesha ")
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {
        "id",
        "email",
        "display_name",
        "referral_code",
        "status",
        "created_at",
        "email_verified",
        "phone",
    }
    assert body["email"] == "ayesha@example.com"
    assert body["display_name"] == "Ayesha"
    assert body["status"] == "active"
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{8}", body["referral_code"])
    assert body["created_at"].endswith("Z")
    shown = await client.get("/v1/me", headers=bearer(await sign_in(client)))
    assert shown.json() == body


async def test_address_is_normalised_and_taken_whatever_its_case(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    first = await register(client, email="Ayesha.Khan@EXAMPLE.com")
    assert first.json()["email"] == "ayesha.khan@example.com"
    second = await register(client, email="ayesha.KHAN@example.com")
    assert second.status_code == 201
    assert await session.scalar(select(func.count()).select_from(Customer)) == 1


async def test_password_is_kept_as_argon2id_only(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await register(client)
    kept = await session.scalar(select(Customer.password_hash))
    assert kept is not None
    assert kept.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in kept


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"email": "not an address"}, "email"),
        ({"email": "a@b"}, "email"),
        ({"email": "x" * 250 + "@example.com"}, "email"),
        ({"email": f"{'x' * 60}@{'y.' * 100}example.com"}, "email"),
        ({"email": "a\x00b@example.com"}, "email"),
        ({"email": "hunter2 hunter2@"}, "email"),
        ({"email": 5}, "email"),
        ({"password": "seven77"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"password": None}, "password"),
        ({"password": "lone surrogate \ud800"}, "password"),
        ({"display_name": ""}, "display_name"),
        ({"display_name": " "}, "display_name"),
        ({"display_name": "x" * 101}, "display_name"),
        ({"display_name": "nul\x00"}, "display_name"),
        ({"referral_code": "x" * 33}, "referral_code"),
        ({"referral_code": "nul\x00"}, "referral_code"),
        ({"status": "active"}, "status"),
        ({"balance": 100}, "balance"),
        ({"role": "admin"}, "role"),
        ({"referred_by_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"}, "referred_by_id"),
    ],
)
async def test_bad_registration_names_the_field_and_never_echoes_it(
    client: httpx.AsyncClient, changes: dict[str, Any], field: str
) -> None:
    answer = await register(client, **changes)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["code"] == "invalid_request"
    assert [error["loc"] for error in problem["errors"]] == [["body", field]]
    assert set(problem["errors"][0]) == {"loc", "msg", "type"}
    sent = str(changes[field])
    assert len(sent) < 4 or sent not in answer.text
    assert "hunter2" not in answer.text
    assert PASSWORD not in answer.text


@pytest.mark.parametrize("password", ["Sunshine", "1qaz2wsx", "123456789"])
async def test_password_that_is_tried_first_is_refused(client: httpx.AsyncClient, password: str) -> None:
    answer = await register(client, password=password)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["loc"], error["type"]) == (["body", "password"], "common_password")
    assert password not in error["msg"]
    # The same rule wherever a password is set.
    assert (await register(client)).status_code == 201
    change = {"current_password": PASSWORD, "new_password": password}
    changed = await client.post("/v1/me/password", json=change, headers=bearer(await sign_in(client)))
    assert [error["type"] for error in changed.json()["errors"]] == ["common_password"]


async def test_longest_password_in_the_widest_characters_works(client: httpx.AsyncClient) -> None:
    password = "🦉" * 128
    assert (await register(client, password=password)).status_code == 201
    form = {"grant_type": "password", "username": "ayesha@example.com", "password": password}
    assert (await client.post("/v1/auth/token", data=form)).status_code == 200


async def test_referral_code_of_an_active_customer_is_remembered_however_it_is_typed(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    referrer = await make_customer(session, referral_code="0J1KMNPQ")
    assert (await register(client, referral_code="oJl-kmnpq")).status_code == 201
    assert await session.scalar(select(Customer.referred_by_id).where(Customer.id != referrer.id)) == referrer.id


@pytest.mark.parametrize("status", [None, CustomerStatus.FROZEN])
async def test_referral_code_that_no_active_customer_has_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, status: CustomerStatus | None
) -> None:
    if status is not None:
        await make_customer(session, referral_code="7KD2MQ9X", status=status)
    answer = await register(client, referral_code="7KD2MQ9X")
    assert answer.status_code == 422
    assert answer.json()["code"] == "unknown_referral_code"
    assert answer.json()["errors"][0]["loc"] == ["body", "referral_code"]
    assert await session.scalar(Customer.by_email("ayesha@example.com")) is None


async def test_referral_code_that_is_taken_is_drawn_again(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_customer(session, referral_code="AAAAAAAA")
    drawn = iter(["AAAAAAAA", "AAAAAAAA", "BBBBBBBB"])
    monkeypatch.setattr(customers, "new_referral_code", lambda: next(drawn))
    answer = await register(client)
    assert answer.status_code == 201
    assert answer.json()["referral_code"] == "BBBBBBBB"


async def test_one_address_registered_ten_times_at_once_is_one_customer(committed_client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(register(committed_client) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10
    async with transaction() as session:
        assert await session.scalar(select(func.count()).select_from(Customer)) == 1


async def test_profile_changes_only_what_is_sent(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await register(client, display_name="Ayesha")
    headers = bearer(await sign_in(client))

    async def change(body: dict[str, Any]) -> httpx.Response:
        return await client.patch("/v1/me", json=body, headers=headers)

    assert (await change({})).json()["display_name"] == "Ayesha"
    assert (await change({"display_name": "Bilal"})).json()["display_name"] == "Bilal"
    assert (await client.get("/v1/me", headers=headers)).json()["display_name"] == "Bilal"
    assert (await change({"display_name": None})).json()["display_name"] is None
    for member in ("email", "status", "referral_code", "id", "password"):
        assert (await change({member: "x"})).status_code == 422


async def test_closing_pseudonymises_ends_sign_ins_and_keeps_the_row(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    created = (await register(client, display_name="Ayesha")).json()
    tokens = await sign_in(client)
    assert (await client.delete("/v1/me", headers=bearer(tokens))).status_code == 204

    refused = await client.get("/v1/me", headers=bearer(tokens))
    assert refused.status_code == 401
    assert refused.json()["code"] == "invalid_token"
    renewal = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert (await client.post("/v1/auth/token", data=renewal)).status_code == 400
    form = {"grant_type": "password", "username": "ayesha@example.com", "password": PASSWORD}
    assert (await client.post("/v1/auth/token", data=form)).status_code == 401

    row = (await session.scalars(select(Customer))).one()
    assert str(row.id) == created["id"]
    assert row.status is CustomerStatus.CLOSED
    assert row.closed_at is not None
    assert (row.password_hash, row.display_name) == (None, None)
    assert row.email == f"closed-{row.id}@closed.invalid"
    assert await session.scalar(select(func.count()).where(RefreshToken.revoked_at.is_(None))) == 0


async def test_address_of_a_closed_account_may_be_registered_again(client: httpx.AsyncClient) -> None:
    first = (await register(client)).json()
    await client.delete("/v1/me", headers=bearer(await sign_in(client)))
    second = await register(client)
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


async def test_code_of_a_closed_account_refers_nobody(client: httpx.AsyncClient) -> None:
    code = (await register(client)).json()["referral_code"]
    await client.delete("/v1/me", headers=bearer(await sign_in(client)))
    answer = await register(client, email="bilal@example.com", referral_code=code)
    assert answer.json()["code"] == "unknown_referral_code"


async def test_frozen_account_is_shown_but_cannot_be_closed(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session, status=CustomerStatus.FROZEN)
    headers = customer_headers(settings, customer)
    assert (await client.get("/v1/me", headers=headers)).json()["status"] == "frozen"
    answer = await client.delete("/v1/me", headers=headers)
    assert answer.status_code == 409
    assert answer.json()["code"] == "account_frozen"


async def test_account_closed_ten_times_at_once_is_closed(committed_client: httpx.AsyncClient) -> None:
    await register(committed_client)
    headers = bearer(await sign_in(committed_client))
    answers = await asyncio.gather(*(committed_client.delete("/v1/me", headers=headers) for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {204, 401}
    assert 204 in {answer.status_code for answer in answers}


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_me_needs_a_valid_access_token(client: httpx.AsyncClient, method: str) -> None:
    for headers, code in (
        ({}, "sign_in_required"),
        ({"Authorization": "Bearer "}, "invalid_token"),
        ({"Authorization": "Basic YTpi"}, "sign_in_required"),
        ({"Authorization": "Bearer nonsense"}, "invalid_token"),
        ({"X-API-Key": "cbk_12_34"}, "sign_in_required"),
    ):
        answer = await client.request(method, "/v1/me", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["code"] == code

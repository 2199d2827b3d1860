"""Proving an address and replacing a password: once, by whom the mail reached, telling nobody who has an account."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Customer, CustomerStatus, ExternalIdentity, Message, OneTimePurpose, OneTimeToken
from app.services import one_time
from tests.factories import customer_headers, make_customer, make_payout_method
from tests.mail import Mailbox
from tests.test_auth import EMAIL, PASSWORD, ask, is_invalid_grant, me, refresh, register, signed_in
from tests.test_sessions import bearer

NEW_PASSWORD = "another horse battery staple"
VERIFY, RESET = "/v1/auth/email-verification", "/v1/auth/password-reset"


@pytest.fixture
def mailbox(settings: Settings) -> Mailbox:
    return Mailbox(settings)


async def confirm(client: httpx.AsyncClient, path: str, token: str, **body: str) -> tuple[int, str | None]:
    answer = await client.post(f"{path}/confirm", json={"token": token, **body})
    return answer.status_code, answer.json()["code"] if answer.content else None


async def test_registration_sends_a_token_that_verifies_its_address_once(
    client: httpx.AsyncClient, mailbox: Mailbox
) -> None:
    assert (await register(client))["email_verified"] is False
    token = await mailbox.token()
    assert mailbox.taken[0].recipient == EMAIL
    assert await confirm(client, VERIFY, token) == (204, None)
    assert (await me(client, (await signed_in(client))["access_token"])).json()["email_verified"] is True
    assert await confirm(client, VERIFY, token) == (400, "invalid_one_time_token")
    # Nothing is left to be verified.
    await client.post(VERIFY, json={"email": EMAIL})
    assert await mailbox.collect() == []


async def test_nobody_learns_whether_an_address_has_an_account(
    client: httpx.AsyncClient, session: AsyncSession, mailbox: Mailbox
) -> None:
    known = await register(client)
    await mailbox.collect()
    closed = await make_customer(session, status=CustomerStatus.CLOSED, closed_at=datetime.now(UTC))
    for path in (VERIFY, RESET):
        answers = [
            await client.post(path, json={"email": email}) for email in (EMAIL, "nobody@example.com", closed.email)
        ]
        assert [(answer.status_code, answer.json()) for answer in answers] == [(202, {"status": "accepted"})] * 3
    # All wrote one row each; only one of them has somebody to go to.
    assert await session.scalar(select(func.count()).where(Message.customer_id.is_(None))) == 6
    assert {outgoing.recipient for outgoing in await mailbox.collect()} == {EMAIL}
    assert await session.scalar(select(func.count()).select_from(Message).where(Message.recipient != EMAIL)) == 0

    again = await client.post("/v1/customers", json={"email": EMAIL.upper(), "password": NEW_PASSWORD})
    assert again.status_code == 201
    assert set(again.json()) == set(known)
    assert again.json()["id"] != known["id"]
    assert {**again.json(), **dict.fromkeys(("id", "referral_code", "created_at"))} == {
        **known,
        **dict.fromkeys(("id", "referral_code", "created_at")),
    }
    [told] = await mailbox.collect()
    assert (told.recipient, told.text.subject) == (EMAIL, "You have an account already")
    assert (await ask(client, password=NEW_PASSWORD)).status_code == 401
    assert (await ask(client)).status_code == 200


async def test_reset_replaces_the_password_ends_every_session_and_verifies_the_address(
    client: httpx.AsyncClient, session: AsyncSession, mailbox: Mailbox
) -> None:
    customer = await register(client)
    await mailbox.collect()
    stolen = await signed_in(client)
    # Left by whoever registered with an address that is not theirs.
    await session.execute(update(Customer).values(phone="+923001234567", phone_verified_at=func.now()))
    session.add(ExternalIdentity(customer_id=customer["id"], issuer="https://idp.example", subject="thief"))
    await session.flush()
    await client.post(RESET, json={"email": EMAIL})
    await client.post(RESET, json={"email": EMAIL})
    first, second = await mailbox.collect()
    [token] = [word for word in first.text.body.split() if word.startswith("cbo_")]
    [other] = [word for word in second.text.body.split() if word.startswith("cbo_")]
    assert await confirm(client, VERIFY, token) == (400, "invalid_one_time_token")
    assert await confirm(client, RESET, token, password="short") == (422, "invalid_request")
    assert await confirm(client, RESET, token, password=NEW_PASSWORD) == (204, None)
    # The second mail is no second way in.
    for used in (token, other):
        assert await confirm(client, RESET, used, password=PASSWORD) == (400, "invalid_one_time_token")
    assert (await ask(client)).status_code == 401
    assert (await ask(client, password=NEW_PASSWORD)).status_code == 200
    assert (await me(client, stolen["access_token"])).status_code == 401
    assert is_invalid_grant(await refresh(client, stolen["refresh_token"]))
    row = await session.get_one(Customer, customer["id"], populate_existing=True)
    assert row.email_verified
    assert row.phone is None
    assert await session.scalar(select(func.count()).select_from(ExternalIdentity)) == 0
    assert [outgoing.text.subject for outgoing in await mailbox.collect()] == ["Your password was changed"]


@pytest.mark.parametrize(
    "spoil",
    [
        {OneTimeToken.expires_at: datetime.now(UTC) - timedelta(seconds=1)},
        {OneTimeToken.address: "another@example.com"},
        {OneTimeToken.purpose: OneTimePurpose.VERIFY_EMAIL},
        {Customer.email: "changed@example.com"},
        {Customer.status: CustomerStatus.CLOSED, Customer.closed_at: datetime.now(UTC)},
    ],
    ids=["expired", "other address", "other purpose", "changed address", "closed"],
)
async def test_token_is_bound_to_time_purpose_address_and_account(
    client: httpx.AsyncClient, session: AsyncSession, mailbox: Mailbox, spoil: dict[Any, Any]
) -> None:
    customer = await register(client)
    await mailbox.collect()
    await client.post(RESET, json={"email": EMAIL})
    token = await mailbox.token()
    kept = await session.scalar(select(OneTimeToken.token_hash).order_by(OneTimeToken.id.desc()).limit(1))
    assert kept == one_time.digest(token)
    await session.execute(
        update(next(iter(spoil)).class_).values({column.key: value for column, value in spoil.items()})
    )
    session.expire_all()
    assert await confirm(client, RESET, token, password=NEW_PASSWORD) == (400, "invalid_one_time_token")
    row = await session.get_one(Customer, customer["id"], populate_existing=True)
    assert not row.email_verified


async def test_one_token_used_ten_times_at_once_changes_one_password(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    client, mailbox = committed_client, Mailbox(committed_db)
    await register(client)
    await mailbox.collect()
    await client.post(RESET, json={"email": EMAIL})
    token = await mailbox.token()
    wanted = [f"{NEW_PASSWORD} {number}" for number in range(5)]
    answers = await asyncio.gather(*(confirm(client, RESET, token, password=one) for one in wanted))
    assert sorted(status for status, _ in answers) == [204] + [400] * 4
    [winner] = [one for one, (status, _) in zip(wanted, answers, strict=True) if status == 204]
    assert (await ask(client, password=winner)).status_code == 200


async def test_mails_to_one_address_are_limited_whoever_asks(client: httpx.AsyncClient) -> None:
    await register(client)
    for email in (EMAIL, "nobody@example.com"):
        answers = [(await client.post(RESET, json={"email": email})).status_code for _ in range(6)]
        assert answers == [202] * 5 + [429]


async def test_password_is_changed_with_the_one_of_now_and_ends_the_other_sessions(
    client: httpx.AsyncClient, mailbox: Mailbox
) -> None:
    await register(client)
    kept, other = await signed_in(client), await signed_in(client)
    await mailbox.collect()

    async def change(current: str) -> httpx.Response:
        body = {"current_password": current, "new_password": NEW_PASSWORD}
        return await client.post("/v1/me/password", headers=bearer(kept), json=body)

    wrong = await change("wrong password")
    assert (wrong.status_code, wrong.json()["code"]) == (403, "step_up_failed")
    assert (await me(client, other["access_token"])).status_code == 200
    assert (await change(PASSWORD)).status_code == 204
    assert (await me(client, other["access_token"])).status_code == 401
    assert is_invalid_grant(await refresh(client, other["refresh_token"]))
    assert (await refresh(client, kept["refresh_token"])).status_code == 200
    assert (await ask(client)).status_code == 401
    assert (await ask(client, password=NEW_PASSWORD)).status_code == 200
    [told] = await mailbox.collect()
    assert told.text.subject == "Your password was changed"


async def test_nothing_is_paid_out_before_the_address_is_verified(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, mailbox: Mailbox
) -> None:
    await register(client)
    token = await mailbox.token()
    headers = bearer(await signed_in(client))
    method = {"kind": "email", "holder": "A", "provider": "PayPal", "email": EMAIL, "password": PASSWORD}
    refused = await client.post("/v1/me/payout-methods", headers=headers, json=method)
    assert (refused.status_code, refused.json()["code"]) == (403, "email_unverified")
    customer = await make_customer(session, email_verified_at=None)
    kept = await make_payout_method(session, settings, customer)
    wanted = {"amount_minor": 5_000, "currency": "PKR", "method_id": str(kept.id)}
    payout = await client.post("/v1/me/payouts", headers=customer_headers(settings, customer), json=wanted)
    assert (payout.status_code, payout.json()["code"]) == (403, "email_unverified")
    assert await confirm(client, VERIFY, token) == (204, None)
    assert (await client.post("/v1/me/payout-methods", headers=headers, json=method)).status_code == 201


async def test_closing_an_account_leaves_no_token_and_no_message(
    client: httpx.AsyncClient, session: AsyncSession, mailbox: Mailbox
) -> None:
    await register(client)
    await mailbox.collect()
    await client.delete("/v1/me", headers=bearer(await signed_in(client)))
    for table in (OneTimeToken, Message, ExternalIdentity):
        assert await session.scalar(select(func.count()).select_from(table)) == 0


async def test_expired_tokens_are_forgotten_in_bounded_steps(session: AsyncSession) -> None:
    customer = await make_customer(session)
    for lasts in (-3, -2, -1, 60):
        await one_time.issue(
            session, customer_id=customer.id, purpose=OneTimePurpose.VERIFY_EMAIL, lasts=timedelta(seconds=lasts)
        )
    assert [await one_time.forget_expired(session, limit=2) for _ in range(3)] == [2, 1, 0]

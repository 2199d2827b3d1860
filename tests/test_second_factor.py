"""The second factor: a phone proven by a code, few tries, and asked for wherever a password alone was enough."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Customer, MessageChannel, OneTimeToken
from app.services.passwords import Passwords
from tests.factories import customer_headers, make_customer
from tests.mail import Mailbox

PASSWORD = "correct horse battery staple"
PHONE = "+923001234567"
METHOD = {"kind": "email", "holder": "A", "provider": "PayPal", "email": "a@example.com"}


class Owner:
    """A customer with a password, at the API, and the phone in hand."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, customer: Customer) -> None:
        self.client, self.customer = client, customer
        self.headers, self.phone = customer_headers(settings, customer), Mailbox(settings)

    async def call(self, method: str, path: str, **body: Any) -> tuple[int, str | None]:
        answer = await self.client.request(method, path, headers=self.headers, json=body or None)
        return answer.status_code, answer.json().get("code") if answer.content else None

    async def add_phone(self) -> None:
        assert await self.call("PUT", "/v1/me/phone", phone="0300 1234567", current_password=PASSWORD) in [
            (202, None),
            (422, "invalid_request"),
        ]
        assert (await self.call("PUT", "/v1/me/phone", phone=PHONE, current_password=PASSWORD))[0] == 202
        code = await self.phone.token()
        assert await self.call("POST", "/v1/me/phone/verify", code=code) == (204, None)


@pytest.fixture
async def owner(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> Owner:
    customer = await make_customer(session, password_hash=await Passwords(1).hash(PASSWORD))
    return Owner(client, settings, customer)


async def test_phone_is_added_with_the_password_and_the_code_it_got(owner: Owner) -> None:
    assert await owner.call("PUT", "/v1/me/phone", phone=PHONE) == (403, "step_up_failed")
    assert await owner.call("PUT", "/v1/me/phone", phone=PHONE, current_password="wrong") == (403, "step_up_failed")
    assert await owner.phone.collect() == []
    await owner.add_phone()
    assert owner.phone.taken[-1].channel is MessageChannel.SMS
    assert owner.phone.taken[-1].recipient == PHONE
    profile = await owner.client.get("/v1/me", headers=owner.headers)
    assert profile.json()["phone"] == PHONE


async def test_with_a_phone_the_password_alone_adds_no_payout_method(owner: Owner) -> None:
    assert await owner.call("POST", "/v1/me/step-up") == (403, "phone_missing")
    await owner.add_phone()
    add = ("POST", "/v1/me/payout-methods")
    assert await owner.call(*add, **METHOD, password=PASSWORD) == (403, "second_factor_required")
    assert await owner.call(*add, **METHOD, password=PASSWORD, code="000000") == (403, "invalid_code")
    assert (await owner.call("POST", "/v1/me/step-up"))[0] == 202
    code = await owner.phone.token()
    # The code alone is not enough either, and a wrong password does not use it up.
    assert await owner.call(*add, **METHOD, password="wrong", code=code) == (403, "step_up_failed")
    assert await owner.call(*add, **METHOD, code=code) == (403, "step_up_failed")
    assert (await owner.call(*add, **METHOD, password=PASSWORD, code=code))[0] == 201
    assert await owner.call(*add, **METHOD, password=PASSWORD, code=code) == (403, "invalid_code")
    for path, body in (
        ("/v1/me/password", {"current_password": PASSWORD, "new_password": "x" * 12}),
        ("/v1/me/phone/remove", {"current_password": PASSWORD}),
    ):
        assert await owner.call("POST", path, **body) == (403, "second_factor_required")


async def test_code_allows_five_tries_and_ten_minutes(owner: Owner, session: AsyncSession) -> None:
    await owner.add_phone()
    await owner.call("POST", "/v1/me/step-up")
    code = await owner.phone.token()
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    remove = {"current_password": PASSWORD}
    for _ in range(5):
        assert await owner.call("POST", "/v1/me/phone/remove", **remove, code=wrong) == (403, "invalid_code")
    assert await owner.call("POST", "/v1/me/phone/remove", **remove, code=code) == (403, "invalid_code")
    await owner.call("POST", "/v1/me/step-up")
    code = await owner.phone.token()
    await session.execute(update(OneTimeToken).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert await owner.call("POST", "/v1/me/phone/remove", **remove, code=code) == (403, "invalid_code")
    await owner.call("POST", "/v1/me/step-up")
    code = await owner.phone.token()
    assert await owner.call("POST", "/v1/me/phone/remove", **remove, code=code) == (204, None)
    assert await session.scalar(select(Customer.phone).where(Customer.id == owner.customer.id)) is None


async def test_codes_to_one_customer_are_limited(owner: Owner) -> None:
    body = {"phone": PHONE, "current_password": PASSWORD}
    answers = [(await owner.call("PUT", "/v1/me/phone", **body))[0] for _ in range(6)]
    assert answers == [202] * 5 + [429]


async def test_new_code_replaces_the_one_before_and_serves_its_purpose_only(owner: Owner) -> None:
    await owner.add_phone()
    await owner.call("POST", "/v1/me/step-up")
    first = await owner.phone.token()
    await owner.call("POST", "/v1/me/step-up")
    second = await owner.phone.token()
    assert await owner.call("POST", "/v1/me/phone/verify", code=second) == (403, "invalid_code")
    if first != second:
        body = {"current_password": PASSWORD, "code": first}
        assert await owner.call("POST", "/v1/me/phone/remove", **body) == (403, "invalid_code")
    body = {"current_password": PASSWORD, "code": second}
    assert (await owner.call("POST", "/v1/me/phone/remove", **body))[0] == 204


async def test_customer_without_a_password_confirms_by_code_alone(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session, phone=PHONE, phone_verified_at=datetime.now(UTC))
    owner = Owner(client, settings, customer)
    await owner.call("POST", "/v1/me/step-up")
    code = await owner.phone.token()
    assert await owner.call("POST", "/v1/me/payout-methods", **METHOD) == (403, "second_factor_required")
    assert (await owner.call("POST", "/v1/me/payout-methods", **METHOD, code=code))[0] == 201
    without = await make_customer(session)
    owner = Owner(client, settings, without)
    assert await owner.call("POST", "/v1/me/payout-methods", **METHOD) == (403, "step_up_failed")
    assert await session.scalar(select(func.count()).select_from(OneTimeToken)) == 1

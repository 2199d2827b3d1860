"""Staff find customers, freeze an account while something is looked into, and thaw it."""

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import AuditEntry, CustomerStatus, OrderStatus, StaffRole
from tests.factories import (
    customer_headers,
    make_click,
    make_customer,
    make_merchant,
    make_order,
    make_payout_method,
    make_payout_rule,
    staff_headers,
)

PATH = "/v1/admin/customers"
WHY = {"reason": "Chargebacks, see ticket 4711"}


@pytest.fixture
async def operator(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session, StaffRole.OPERATOR)


async def test_customers_are_found_by_address_and_state(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    first, second = await make_customer(session), await make_customer(session, status=CustomerStatus.FROZEN)

    async def found(**query: str) -> list[str]:
        answer = await client.get(PATH, params=query, headers=operator)
        assert answer.status_code == 200
        return [one["id"] for one in answer.json()["items"]]

    assert await found() == [str(second.id), str(first.id)]
    assert await found(email=first.email.upper()) == [str(first.id)]
    assert await found(email="nobody@example.com") == []
    assert await found(status="frozen") == [str(second.id)]
    assert await found(status="frozen", email=first.email) == []
    page = (await client.get(PATH, params={"limit": "1"}, headers=operator)).json()
    rest = (await client.get(PATH, params={"cursor": page["next_cursor"]}, headers=operator)).json()
    assert [one["id"] for one in page["items"] + rest["items"]] == [str(second.id), str(first.id)]
    assert (await client.get(PATH, params={"email": "no address"}, headers=operator)).status_code == 422


async def test_a_frozen_account_is_paid_nothing_until_it_is_thawed(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, operator: dict[str, str]
) -> None:
    customer = await make_customer(session)
    await make_payout_rule(session)
    click = await make_click(session, customer, await make_merchant(session))
    await make_order(session, click, status=OrderStatus.PAYABLE, sale=200_000, commission=100_000, cashback=90_000)
    method = await make_payout_method(session, settings, customer)
    own = customer_headers(settings, customer)

    async def withdraw() -> tuple[int, str | None]:
        body = {"amount_minor": 60_000, "currency": "PKR", "method_id": str(method.id)}
        answer = await client.post("/v1/me/payouts", json=body, headers=own)
        return answer.status_code, answer.json().get("code")

    frozen = await client.post(f"{PATH}/{customer.id}/freeze", json=WHY, headers=operator)
    assert (frozen.status_code, frozen.json()["status"], frozen.json()["frozen_reason"]) == (
        200,
        "frozen",
        WHY["reason"],
    )
    assert await withdraw() == (403, "payouts_frozen")
    assert (await client.get("/v1/me", headers=own)).json()["status"] == "frozen"
    assert (await client.delete("/v1/me", headers=own)).json()["code"] == "account_frozen"
    for _ in range(2):
        thawed = await client.post(f"{PATH}/{customer.id}/thaw", headers=operator)
        assert (thawed.status_code, thawed.json()["status"]) == (200, "active")
    assert await withdraw() == (201, None)
    entries = (await session.scalars(select(AuditEntry).order_by(AuditEntry.id))).all()
    assert entries[0].after is not None
    assert entries[0].after["status"] == "frozen"
    assert {entry.target_id for entry in entries[:2]} == {str(customer.id)}


async def test_closed_and_unknown_accounts_are_left_alone(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, operator: dict[str, str]
) -> None:
    customer = await make_customer(session)
    assert (await client.delete("/v1/me", headers=customer_headers(settings, customer))).status_code == 204
    for verb, body in (("freeze", WHY), ("thaw", None)):
        closed = await client.post(f"{PATH}/{customer.id}/{verb}", json=body, headers=operator)
        assert (closed.status_code, closed.json()["code"]) == (409, "account_closed")
        unknown = await client.post(f"{PATH}/{new_id()}/{verb}", json=body, headers=operator)
        assert (unknown.status_code, unknown.json()["code"]) == (404, "customer_not_found")
    assert (await client.get(f"{PATH}/{customer.id}", headers=operator)).json()["status"] == "closed"
    assert (await client.post(f"{PATH}/{customer.id}/freeze", json={}, headers=operator)).status_code == 422

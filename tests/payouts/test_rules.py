"""Payout rules: finance sets them, everybody reads what is theirs, and no rule can eat a whole payout."""

from typing import Any

import httpx
import pytest
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import constraint_name
from app.models import PayoutProvider, PayoutRule, StaffRole
from app.money import MAX_MINOR
from app.schemas.payouts import PayoutRuleWrite
from app.services.payouts.rules import fee_of
from tests.factories import make_payout_rule, staff_headers
from tests.logs import captured_logs, lines_of
from tests.payouts.world import World

RULE: dict[str, Any] = {
    "minimum_minor": 50_000,
    "fee_minor": 1_000,
    "fee_basis_points": 50,
    "daily_limit_minor": 5_000_000,
    "daily_count": 3,
    "auto_approve_minor": 500_000,
    "method_hold_hours": 24,
    "provider": "batch",
    "method_kinds": ["iban", "local_account"],
}


async def put(
    client: httpx.AsyncClient, session: AsyncSession, currency: str = "PKR", **changes: Any
) -> httpx.Response:
    body = {name: value for name, value in {**RULE, **changes}.items() if value is not ...}
    headers = await staff_headers(session, StaffRole.FINANCE)
    return await client.put(f"/v1/admin/payout-rules/{currency}", json=body, headers=headers)


async def test_a_rule_is_set_replaced_and_shown(client: httpx.AsyncClient, session: AsyncSession) -> None:
    first = await put(client, session)
    assert first.status_code == 200
    assert {**first.json(), "updated_at": None} == {"currency": "PKR", **RULE, "updated_at": None}
    second = await put(client, session, minimum_minor=60_000, provider="http", fee_minor=...)
    assert (second.json()["minimum_minor"], second.json()["provider"], second.json()["fee_minor"]) == (
        60_000,
        "http",
        0,
    )
    await put(client, session, "JPY")
    headers = await staff_headers(session, StaffRole.VIEWER)
    assert (await client.get("/v1/admin/payout-rules/PKR", headers=headers)).json() == second.json()
    listed = (await client.get("/v1/admin/payout-rules?limit=1", headers=headers)).json()
    assert [item["currency"] for item in listed["items"]] == ["JPY"]
    rest = await client.get("/v1/admin/payout-rules", params={"cursor": listed["next_cursor"]}, headers=headers)
    assert rest.json() == {"items": [second.json()], "next_cursor": None}


async def test_a_change_is_logged_with_the_staff_key(client: httpx.AsyncClient, session: AsyncSession) -> None:
    with captured_logs() as output:
        await put(client, session)
    [line] = [line for line in lines_of(output) if line["message"] == "payout rule set"]
    assert (line["currency"], line["minimum_minor"], line["provider"]) == ("PKR", 50_000, "batch")
    assert line["staff_key_id"]


@pytest.mark.parametrize(
    "changes",
    [
        {"minimum_minor": 0},
        {"minimum_minor": -1},
        {"minimum_minor": 5e4},
        {"minimum_minor": "50000"},
        {"minimum_minor": 2**63},
        {"minimum_minor": ...},
        {"minimum_minor": 5_000_001},
        {"fee_minor": -1},
        {"fee_minor": 50_000},
        {"fee_minor": 49_750},
        {"fee_basis_points": -1},
        {"fee_basis_points": 10_000},
        {"fee_basis_points": 9_800},
        {"fee_basis_points": 0.5},
        {"daily_limit_minor": 49_999},
        {"daily_limit_minor": ...},
        {"daily_count": 0},
        {"daily_count": 2**31},
        {"auto_approve_minor": -1},
        {"method_hold_hours": -1},
        {"method_hold_hours": 2**31},
        {"method_hold_hours": ...},
        {"provider": "carrier pigeon"},
        {"method_kinds": []},
        {"method_kinds": ["cash"]},
        {"method_kinds": ["iban"] * 5},
        {"updated_at": "2026-01-31T12:00:00Z"},
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, changes: dict[str, Any]
) -> None:
    answer = await put(client, session, **changes)
    assert answer.status_code == 422
    assert await session.get(PayoutRule, "PKR") is None


@pytest.mark.parametrize("currency", ["pkr", "PK", "PKRR", "123"])
async def test_a_path_that_is_no_currency_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, currency: str
) -> None:
    assert (await put(client, session, currency)).status_code == 422


async def test_a_rule_is_for_all_kinds_of_methods_unless_it_names_some(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    answer = await put(client, session, method_kinds=...)
    assert answer.json()["method_kinds"] == ["iban", "local_account", "mobile_wallet", "email"]
    answer = await put(client, session, method_kinds=["email", "iban", "email"])
    assert answer.json()["method_kinds"] == ["email", "iban"]


async def test_only_finance_sets_rules_and_staff_read_them(client: httpx.AsyncClient, session: AsyncSession) -> None:
    url = "/v1/admin/payout-rules/PKR"
    for role in (StaffRole.VIEWER, StaffRole.OPERATOR):
        headers = await staff_headers(session, role)
        assert (await client.put(url, json=RULE, headers=headers)).status_code == 403
        missing = await client.get(url, headers=headers)
        assert (missing.status_code, missing.json()["code"]) == (404, "payout_rule_not_found")
    for path in (url, "/v1/admin/payout-rules"):
        assert (await client.get(path)).status_code == 401


async def test_everybody_reads_the_terms_and_nothing_more(client: httpx.AsyncClient, session: AsyncSession) -> None:
    assert (await client.get("/v1/payout-terms")).json() == {"items": [], "next_cursor": None}
    await put(client, session)
    await put(client, session, "JPY")
    shown = {name: value for name, value in RULE.items() if name not in {"auto_approve_minor", "provider"}}
    page = (await client.get("/v1/payout-terms", params={"limit": 1})).json()
    assert page["items"] == [{"currency": "JPY", **shown}]
    rest = (await client.get("/v1/payout-terms", params={"cursor": page["next_cursor"]})).json()
    assert rest == {"items": [{"currency": "PKR", **shown}], "next_cursor": None}


async def test_a_new_rule_leaves_payouts_of_before_alone(world: World) -> None:
    payout = await world.asked(60_000)
    await world.change_rule(fee_minor=5_000, provider=PayoutProvider.HTTP)
    shown = await world.client.get(f"/v1/admin/payouts/{payout['id']}", headers=await world.as_staff())
    assert (shown.json()["fee"]["amount_minor"], shown.json()["provider"]) == (0, "batch")
    assert (await world.asked(60_000))["fee"]["amount_minor"] == 5_000


@pytest.mark.parametrize("changes", [{"fee_minor": 49_999, "fee_basis_points": 1}, {"fee_basis_points": 10_000}])
async def test_the_database_refuses_a_fee_that_leaves_nothing(session: AsyncSession, changes: dict[str, Any]) -> None:
    with pytest.raises(sqlalchemy.exc.IntegrityError) as refused:
        async with session.begin_nested():
            await make_payout_rule(session, **changes)
    assert constraint_name(refused.value) == "ck_payout_rules_amounts"


@given(
    minimum=st.integers(1, MAX_MINOR) | st.integers(1, 1_000),
    fixed=st.integers(0, MAX_MINOR) | st.integers(0, 100),
    share=st.integers(0, 9_999),
    above=st.integers(0, MAX_MINOR),
)
def test_a_fee_never_takes_a_whole_payout_where_the_rule_is_accepted(
    minimum: int, fixed: int, share: int, above: int
) -> None:
    exact = fixed * 10_000 + minimum * share < minimum * 10_000
    values = {**RULE, "minimum_minor": minimum, "fee_minor": fixed, "fee_basis_points": share}
    try:
        wanted = PayoutRuleWrite.model_validate({**values, "daily_limit_minor": MAX_MINOR})
    except ValidationError:
        # The database's CHECK, which is exact, says the same.
        assert not exact
        return
    assert exact
    rule = PayoutRule(currency="PKR", **wanted.model_dump())
    for amount in (minimum, min(minimum + above, MAX_MINOR)):
        fee = fee_of(rule, amount)
        assert 0 <= fee < amount
        assert fee == fixed + amount * share // 10_000

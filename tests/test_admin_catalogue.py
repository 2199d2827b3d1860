"""Staff manage categories, merchants and rates; a new merchant is on sale without a deployment."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import Merchant, MerchantStatus, StaffRole
from app.services.pagination import encode_cursor
from tests.factories import (
    customer_headers,
    make_category,
    make_customer,
    make_merchant,
    make_source,
    staff_headers,
)

MERCHANT = {"slug": "khaadi", "name": "Khaadi", "currency": "PKR", "tracking_url": "https://khaadi.example/"}
SHARE = {"kind": "percent_of_sale", "basis_points": 450}


@pytest.fixture
async def operator(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session, StaffRole.OPERATOR)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_merchant_is_onboarded_and_takes_clicks(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, operator: dict[str, str]
) -> None:
    category = await client.post("/v1/admin/categories", json={"slug": "fashion", "name": "Fashion"}, headers=operator)
    assert category.status_code == 201
    assert category.json() == {"id": category.json()["id"], "slug": "fashion", "name": "Fashion"}
    source = await make_source(session, preset="awin")
    body = {
        **MERCHANT,
        "description": " Fabrics ",
        "category": "fashion",
        "logo_url": "https://cdn.example/k.png",
        "tracking_url": "https://network.example/c?mid=1",
        "deeplink_parameter": "ued",
        "source_id": source.id,
        "network_merchant_ref": "1001",
        "hold_days": 45,
        "payable_after_payment": True,
        "exposure_limit_minor": 5_000_000,
        "clawback_policy": "write_off",
        "write_off_days": 60,
        "expire_days": 120,
        "expire_as": "declined",
    }
    created = await client.post("/v1/admin/merchants", json=body, headers=operator)
    assert created.status_code == 201, created.text
    merchant = created.json()
    assert merchant == {
        **body,
        "id": merchant["id"],
        "description": "Fabrics",
        "status": "active",
        "created_at": merchant["created_at"],
        "updated_at": merchant["updated_at"],
    }
    rate = await client.post(f"/v1/admin/merchants/{merchant['id']}/rates", json=SHARE, headers=operator)
    assert rate.status_code == 201
    shown = (await client.get("/v1/merchants/khaadi")).json()
    assert shown["category"] == "fashion"
    assert (shown["rate"]["kind"], shown["rate"]["basis_points"]) == ("percent_of_sale", 450)
    click = await client.post(
        "/v1/clicks",
        json={"merchant_id": merchant["id"]},
        headers=customer_headers(settings, await make_customer(session)),
    )
    assert click.status_code == 201


# --- Access

WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/v1/admin/categories", {"slug": "x", "name": "X"}),
    ("POST", "/v1/admin/merchants", MERCHANT),
    ("PATCH", "/v1/admin/merchants/1", {"name": "X"}),
    ("POST", "/v1/admin/merchants/1/rates", SHARE),
]
READS = ["/v1/admin/merchants", "/v1/admin/merchants/1/rates"]


async def test_anonymous_and_customers_have_no_access(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = customer_headers(settings, await make_customer(session))
    for headers in ({}, customer, {"X-API-Key": "cbk_00000000_wrong"}):
        for method, path, body in WRITES:
            answer = await client.request(method, path, json=body, headers=headers)
            assert refusal(answer) == (401, "invalid_staff_key")
        for path in READS:
            assert refusal(await client.get(path, headers=headers)) == (401, "invalid_staff_key")


async def test_viewers_read_but_do_not_write(client: httpx.AsyncClient, session: AsyncSession) -> None:
    viewer = await staff_headers(session, StaffRole.VIEWER)
    for method, path, body in WRITES:
        answer = await client.request(method, path, json=body, headers=viewer)
        assert refusal(answer) == (403, "staff_role_required")
    merchant = await make_merchant(session)
    assert (await client.get("/v1/admin/merchants", headers=viewer)).status_code == 200
    assert (await client.get(f"/v1/admin/merchants/{merchant.id}/rates", headers=viewer)).status_code == 200


# --- Categories and merchants


async def test_slugs_are_taken_once(client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]) -> None:
    await make_category(session, slug="fashion")
    answer = await client.post("/v1/admin/categories", json={"slug": "fashion", "name": "F"}, headers=operator)
    assert refusal(answer) == (409, "category_slug_taken")
    await make_merchant(session, slug="khaadi")
    answer = await client.post("/v1/admin/merchants", json=MERCHANT, headers=operator)
    assert refusal(answer) == (409, "merchant_slug_taken")
    other = await make_merchant(session, slug="other")
    answer = await client.patch(f"/v1/admin/merchants/{other.id}", json={"slug": "khaadi"}, headers=operator)
    assert refusal(answer) == (409, "merchant_slug_taken")


async def test_network_reference_is_taken_once_a_source(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    first = await make_merchant(session, network_merchant_ref="1001")
    body = {**MERCHANT, "source_id": first.source_id, "network_merchant_ref": "1001"}
    answer = await client.post("/v1/admin/merchants", json=body, headers=operator)
    assert refusal(answer) == (409, "network_merchant_ref_taken")
    body["source_id"] = (await make_source(session)).id
    assert (await client.post("/v1/admin/merchants", json=body, headers=operator)).status_code == 201


async def test_unknown_references_are_refused_by_name(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    for change, code in (({"category": "x"}, "unknown_category"), ({"source_id": 99_999}, "unknown_merchant_source")):
        created = await client.post("/v1/admin/merchants", json={**MERCHANT, **change}, headers=operator)
        changed = await client.patch(f"/v1/admin/merchants/{merchant.id}", json=change, headers=operator)
        for answer in (created, changed):
            assert refusal(answer) == (422, code)
            assert answer.json()["errors"][0]["loc"] == ["body", next(iter(change))]
    for path in ("/v1/admin/merchants/99999", "/v1/admin/merchants/99999/rates"):
        method = "POST" if path.endswith("rates") else "PATCH"
        answer = await client.request(method, path, json=SHARE if method == "POST" else {"name": "X"}, headers=operator)
        assert refusal(answer) == (404, "merchant_not_found")
    assert (await client.get("/v1/admin/merchants/99999/rates", headers=operator)).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"id": 1},
        {"status": "closed"},
        {"created_at": "2020-01-01T00:00:00Z"},
        {"category_id": 1},
        {"search": "x"},
        {"slug": "Not A Slug"},
        {"slug": "12345"},
        {"name": "  "},
        {"name": "a\0b"},
        {"name": "\ud800"},
        {"currency": "pkr"},
        {"currency": None},
        {"tracking_url": "javascript:alert(1)"},
        {"tracking_url": "/relative"},
        {"logo_url": "ftp://x.example/"},
        {"deeplink_parameter": "a b"},
        {"deeplink_parameter": ""},
        {"source_id": 2**31},
        {"hold_days": -1},
    ],
)
async def test_merchants_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, operator: dict[str, str], change: dict[str, Any]
) -> None:
    # Not through httpx's own encoder, which cannot write a lone surrogate.
    body = json.dumps({**MERCHANT, **change})
    operator["Content-Type"] = "application/json"
    answer = await client.post("/v1/admin/merchants", content=body, headers=operator)
    assert refusal(answer) == (422, "invalid_request")


@pytest.mark.parametrize(
    "change",
    [
        {"id": 7},
        {"currency": "USD"},
        {"updated_at": "2020-01-01T00:00:00Z"},
        {"name": None},
        {"slug": None},
        {"description": None},
        {"status": None},
        {"status": "gone"},
        {"tracking_url": None},
        {"hold_days": None},
    ],
)
async def test_changes_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str], change: dict[str, Any]
) -> None:
    merchant = await make_merchant(session)
    answer = await client.patch(f"/v1/admin/merchants/{merchant.id}", json=change, headers=operator)
    assert refusal(answer) == (422, "invalid_request")


async def test_only_what_was_sent_changes(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    category = await make_category(session, slug="fashion")
    merchant = await make_merchant(
        session, category_id=category.id, logo_url="https://cdn.example/k.png", description="Fabrics"
    )
    path = f"/v1/admin/merchants/{merchant.id}"
    before = (await client.patch(path, json={}, headers=operator)).json()
    assert before["category"] == "fashion"
    paused = (await client.patch(path, json={"status": "paused", "logo_url": None}, headers=operator)).json()
    ignored = {"updated_at": ""}
    assert {**paused, **ignored} == {**before, "status": "paused", "logo_url": None, **ignored}
    without = (await client.patch(path, json={"category": None}, headers=operator)).json()
    assert without["category"] is None
    assert (await client.patch(path, json={"category": "fashion"}, headers=operator)).json()["category"] == "fashion"


async def test_closing_takes_a_merchant_off_the_shop_and_staff_still_see_it(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    await make_merchant(session)
    path = f"/v1/admin/merchants/{merchant.id}"
    assert (await client.patch(path, json={"status": "closed"}, headers=operator)).status_code == 200
    assert (await client.get(f"/v1/merchants/{merchant.id}")).status_code == 404
    listed = await client.get("/v1/admin/merchants", params={"status": "closed"}, headers=operator)
    assert [one["id"] for one in listed.json()["items"]] == [merchant.id]


async def test_all_merchants_are_walked_once_each(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    made = [(await make_merchant(session, status=status)).id for status in [*MerchantStatus, *MerchantStatus]]
    seen: list[int] = []
    params: dict[str, Any] = {"limit": 4}
    while True:
        page = (await client.get("/v1/admin/merchants", params=params, headers=operator)).json()
        seen += [merchant["id"] for merchant in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == made
    for cursor in (encode_cursor(2**63 - 1), encode_cursor("x"), "x"):
        answer = await client.get("/v1/admin/merchants", params={"cursor": cursor}, headers=operator)
        assert answer.status_code in (200, 422)


# --- Rates


async def rates(client: httpx.AsyncClient, merchant: Merchant, headers: dict[str, str]) -> list[dict[str, Any]]:
    page = await client.get(f"/v1/admin/merchants/{merchant.id}/rates", headers=headers)
    items: list[dict[str, Any]] = page.json()["items"]
    return items


async def test_campaign_holds_while_it_lasts_and_the_usual_rate_returns(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    now = datetime.now(UTC)
    path = f"/v1/admin/merchants/{merchant.id}/rates"
    over = {"valid_from": now - timedelta(hours=3), "valid_to": now - timedelta(hours=1)}
    for basis_points, period in ((900, over), (700, {"valid_from": now - timedelta(hours=2)})):
        body = {"kind": "percent_of_commission", "basis_points": basis_points}
        body |= {name: moment.isoformat() for name, moment in period.items()}
        assert (await client.post(path, json=body, headers=operator)).status_code == 201
    assert [rate["basis_points"] for rate in await rates(client, merchant, operator)] == [700, 900, 500]
    assert (await client.get(f"/v1/merchants/{merchant.id}")).json()["rate"]["basis_points"] == 700
    body = {"kind": "fixed", "fixed": {"amount_minor": 5000, "currency": "PKR"}, "valid_from": now.isoformat()}
    made = (await client.post(path, json=body, headers=operator)).json()
    assert made["fixed"] == {"amount_minor": 5000, "currency": "PKR"}
    assert made["valid_to"] is None
    assert (await rates(client, merchant, operator))[0] == made
    assert (await client.get(f"/v1/merchants/{merchant.id}")).json()["rate"]["kind"] == "fixed"


async def test_times_are_answered_in_utc(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    body = {**SHARE, "valid_from": "2026-03-01T05:00:00+05:00", "valid_to": "2026-04-01T00:00:00-01:00"}
    made = (await client.post(f"/v1/admin/merchants/{merchant.id}/rates", json=body, headers=operator)).json()
    assert (made["valid_from"], made["valid_to"]) == ("2026-03-01T00:00:00Z", "2026-04-01T01:00:00Z")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"kind": "percent_of_sale"}, "invalid_request"),
        ({"kind": "fixed"}, "invalid_request"),
        ({"kind": "fixed", "basis_points": 1}, "invalid_request"),
        ({"kind": "fixed", "fixed": {"amount_minor": 0, "currency": "PKR"}}, "invalid_request"),
        ({"kind": "fixed", "fixed": {"amount_minor": -5, "currency": "PKR"}}, "invalid_request"),
        ({"kind": "fixed", "fixed": {"amount_minor": 1.0, "currency": "PKR"}}, "invalid_request"),
        ({"kind": "fixed", "fixed": {"amount_minor": 1, "currency": "USD"}}, "rate_currency_mismatch"),
        ({**SHARE, "fixed": {"amount_minor": 1, "currency": "PKR"}}, "invalid_request"),
        ({**SHARE, "cap": {"amount_minor": 0, "currency": "PKR"}}, "invalid_request"),
        ({**SHARE, "cap": {"amount_minor": 1, "currency": "USD"}}, "rate_currency_mismatch"),
        ({**SHARE, "basis_points": 0}, "invalid_request"),
        ({**SHARE, "basis_points": 10_001}, "invalid_request"),
        ({**SHARE, "basis_points": "450"}, "invalid_request"),
        ({**SHARE, "merchant_id": 1}, "invalid_request"),
        ({**SHARE, "valid_from": "2026-01-01T00:00:00"}, "invalid_request"),
        ({**SHARE, "valid_from": "0001-01-01T00:00:00+14:00"}, "invalid_request"),
        ({**SHARE, "valid_to": "2020-01-01T00:00:00Z"}, "rate_period_empty"),
        (
            {**SHARE, "valid_from": "2026-01-01T00:00:00Z", "valid_to": "2026-01-01T00:00:00Z"},
            "rate_period_empty",
        ),
    ],
)
async def test_rates_that_do_not_fit_are_refused(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str], body: dict[str, Any], code: str
) -> None:
    merchant = await make_merchant(session, rate_basis_points=None)
    answer = await client.post(f"/v1/admin/merchants/{merchant.id}/rates", json=body, headers=operator)
    assert refusal(answer) == (422, code)
    assert await rates(client, merchant, operator) == []


async def test_rates_that_began_together_are_walked_once_each(
    client: httpx.AsyncClient, session: AsyncSession, operator: dict[str, str]
) -> None:
    merchant = await make_merchant(session, rate_basis_points=None)
    path = f"/v1/admin/merchants/{merchant.id}/rates"
    for number in range(1, 8):
        body = {**SHARE, "basis_points": number, "valid_from": f"2026-01-0{1 + number % 2}T00:00:00Z"}
        await client.post(path, json=body, headers=operator)
    seen: list[int] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = (await client.get(path, params=params, headers=operator)).json()
        seen += [rate["basis_points"] for rate in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == [7, 5, 3, 1, 6, 4, 2]

"""Filing, listing and withdrawing claims over HTTP: bodies, limits, and whose they are."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import Claim, ClaimStatus, CustomerStatus, Merchant, StaffRole
from tests.claims.world import ClaimWorld, pkr
from tests.factories import customer_headers, make_click, make_customer, make_merchant, make_order, staff_headers


class Shopper:
    """A customer, a shop, and what is posted about them."""

    def __init__(self, client: httpx.AsyncClient, merchant: Merchant, headers: dict[str, str]) -> None:
        self.client, self.merchant, self.headers = client, merchant, headers

    def body(self, **changes: Any) -> dict[str, Any]:
        values = {
            "merchant_id": self.merchant.id,
            "order_reference": "A-1",
            "ordered_at": (datetime.now(UTC) - timedelta(days=1)).isoformat(),
            "amount": pkr(100_000),
            **changes,
        }
        return {name: value for name, value in values.items() if value is not ...}

    async def file(self, **changes: Any) -> httpx.Response:
        return await self.client.post("/v1/me/claims", json=self.body(**changes), headers=self.headers)


@pytest.fixture
async def shopper(client: httpx.AsyncClient, session: AsyncSession, settings: Settings) -> Shopper:
    customer = await make_customer(session)
    return Shopper(client, await make_merchant(session), customer_headers(settings, customer))


async def test_a_claim_is_filed_and_shown(shopper: Shopper) -> None:
    evidence = [{"kind": "link", "value": "https://mail.example/1"}, {"kind": "invoice_number", "value": "INV-1"}]
    answer = await shopper.file(note="In the app's browser", evidence=evidence)
    assert answer.status_code == 201, answer.text
    claim = answer.json()
    assert (claim["status"], claim["amount"], claim["evidence"]) == ("open", pkr(100_000), evidence)
    assert (claim["order_id"], claim["resolved_at"], claim["resolution_note"]) == (None, None, None)
    promised = datetime.fromisoformat(claim["due_at"]) - datetime.fromisoformat(claim["created_at"])
    assert promised == timedelta(days=5)
    assert "score" not in claim
    assert answer.headers["RateLimit-Policy"] == '"claim";q=60;w=3600'
    url = f"/v1/me/claims/{claim['id']}"
    assert (await shopper.client.get(url, headers=shopper.headers)).json() == claim
    listed = await shopper.client.get("/v1/me/claims?status=open", headers=shopper.headers)
    assert listed.json() == {"items": [claim], "next_cursor": None}
    none = await shopper.client.get("/v1/me/claims?status=approved", headers=shopper.headers)
    assert none.json()["items"] == []


@pytest.mark.parametrize(
    "amount",
    [
        {"amount": pkr(125_000)},
        {"amount": pkr(125_000), "currency": "PKR"},
        {"amount": 125_000, "currency": "PKR"},
    ],
)
async def test_an_amount_is_money_or_minor_units_beside_a_currency(shopper: Shopper, amount: dict[str, Any]) -> None:
    answer = await shopper.file(**amount)
    assert answer.status_code == 201, answer.text
    assert answer.json()["amount"] == pkr(125_000)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 125_000},
        {"amount": 1250.5, "currency": "PKR"},
        {"amount": "1250.00", "currency": "PKR"},
        {"amount": True, "currency": "PKR"},
        {"amount": 0, "currency": "PKR"},
        {"amount": 2**63, "currency": "PKR"},
        {"amount": pkr(0)},
        {"amount": pkr(-1)},
        {"amount": pkr(1), "currency": "EUR"},
        {"amount": 1, "currency": "rupees"},
        {"amount": ...},
        {"order_reference": ""},
        {"order_reference": " # "},
        {"order_reference": "A\x001"},
        {"order_reference": "A" * 201},
        {"order_reference": ...},
        {"ordered_at": "2026-01-01T00:00:00"},
        {"ordered_at": "yesterday"},
        {"ordered_at": "0001-01-01T00:00:00+14:00"},
        {"ordered_at": "9999-12-31T23:59:59-12:00"},
        {"merchant_id": 0},
        {"merchant_id": 2**31},
        {"note": "x" * 2001},
        {"evidence": [{"kind": "rumour", "value": "x"}]},
        {"evidence": [{"kind": "link", "value": "javascript:alert(1)"}]},
        {"evidence": [{"kind": "other", "value": ""}]},
        {"evidence": [{"kind": "other", "value": "x", "order_id": "y"}]},
        {"evidence": [{"kind": "other", "value": "x"}] * 11},
        {"status": "approved"},
        {"customer_id": "01a21338-0000-7000-8000-000000000000"},
        {"score": 100},
    ],
    ids=str,
)
async def test_a_body_that_makes_no_sense_is_refused(shopper: Shopper, changes: dict[str, Any]) -> None:
    answer = await shopper.file(**changes)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), answer.text
    assert answer.json()["errors"]


@pytest.mark.parametrize("days", [-1, 181, 100_000], ids=["future", "old", "ancient"])
async def test_an_order_of_the_future_or_of_long_ago_is_not_looked_into(shopper: Shopper, days: int) -> None:
    ordered_at = datetime.now(UTC) - timedelta(days=days)
    answer = await shopper.file(ordered_at=ordered_at.isoformat())
    assert (answer.status_code, answer.json()["code"]) == (422, "claim_time_out_of_range")
    assert answer.json()["errors"][0]["loc"] == ["body", "ordered_at"]


async def test_a_shop_that_does_not_exist_is_not_found(shopper: Shopper) -> None:
    answer = await shopper.file(merchant_id=2**31 - 1)
    assert (answer.status_code, answer.json()["code"]) == (404, "merchant_not_found")


@pytest.mark.parametrize("again", ["A-1", "a-1", " #A-1", "A - 1"])
async def test_an_order_has_one_live_claim_of_a_customer(shopper: Shopper, again: str) -> None:
    first = (await shopper.file()).json()
    answer = await shopper.file(order_reference=again)
    assert (answer.status_code, answer.json()["code"]) == (409, "claim_exists")
    assert first["id"] in answer.json()["detail"]


async def test_a_withdrawn_claim_can_be_filed_again_and_not_be_withdrawn_twice(shopper: Shopper) -> None:
    first = (await shopper.file()).json()
    url = f"/v1/me/claims/{first['id']}/withdraw"
    withdrawn = await shopper.client.post(url, headers=shopper.headers)
    assert (withdrawn.status_code, withdrawn.json()["status"]) == (200, "withdrawn")
    assert withdrawn.json()["resolved_at"] is not None
    again = await shopper.client.post(url, headers=shopper.headers)
    assert (again.status_code, again.json()["code"]) == (409, "claim_resolved")
    assert (await shopper.file()).status_code == 201


async def test_a_customer_has_at_most_so_many_claims_waiting(shopper: Shopper, settings: Settings) -> None:
    for number in range(settings.claim_max_open):
        assert (await shopper.file(order_reference=f"A-{number}")).status_code == 201
    refused = await shopper.file(order_reference="A-one-more")
    assert (refused.status_code, refused.json()["code"]) == (409, "claim_limit_reached")
    first = (await shopper.client.get("/v1/me/claims", headers=shopper.headers)).json()["items"][0]
    await shopper.client.post(f"/v1/me/claims/{first['id']}/withdraw", headers=shopper.headers)
    assert (await shopper.file(order_reference="A-one-more")).status_code == 201


async def test_claims_are_paged_newest_first(shopper: Shopper) -> None:
    ids = [(await shopper.file(order_reference=f"A-{number}")).json()["id"] for number in range(5)]
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await shopper.client.get(f"/v1/me/claims?limit=2{cursor}", headers=shopper.headers)).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ids[::-1]
    bad = await shopper.client.get("/v1/me/claims?cursor=x", headers=shopper.headers)
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_cursor")


async def test_another_customers_claim_is_not_there(
    shopper: Shopper, session: AsyncSession, settings: Settings
) -> None:
    claim_id = (await shopper.file()).json()["id"]
    other = customer_headers(settings, await make_customer(session))
    for method, path in (("GET", f"/v1/me/claims/{claim_id}"), ("POST", f"/v1/me/claims/{claim_id}/withdraw")):
        answer = await shopper.client.request(method, path, headers=other)
        assert (answer.status_code, answer.json()["code"]) == (404, "claim_not_found")
        assert (await shopper.client.request(method, path)).status_code == 401
    assert (await shopper.client.get("/v1/me/claims", headers=other)).json()["items"] == []
    assert (await session.get_one(Claim, UUID(claim_id))).status is ClaimStatus.OPEN
    # Nor does a staff key open the customers' routes.
    staff = await staff_headers(session)
    assert (await shopper.client.get(f"/v1/me/claims/{claim_id}", headers=staff)).status_code == 401


async def test_a_frozen_customer_claims_nothing(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session, status=CustomerStatus.FROZEN)
    frozen = Shopper(client, await make_merchant(session), customer_headers(settings, customer))
    answer = await frozen.file()
    assert (answer.status_code, answer.json()["code"]) == (403, "customer_frozen")


async def test_an_order_that_is_tracked_is_named_to_its_customer_only(
    shopper: Shopper, session: AsyncSession, settings: Settings
) -> None:
    owner = await make_customer(session)
    order = await make_order(session, await make_click(session, owner, shopper.merchant), external_id="#A-1")
    own = Shopper(shopper.client, shopper.merchant, customer_headers(settings, owner))
    answer = await own.file(order_reference="a-1")
    assert (answer.status_code, answer.json()["code"]) == (409, "order_tracked")
    assert str(order.id) in answer.json()["detail"]
    assert (await shopper.file(order_reference="a-1")).status_code == 201


async def test_the_same_key_files_one_claim(claims: ClaimWorld) -> None:
    body = claims.claim_body()
    headers = {**claims.headers(), "Idempotency-Key": "mine"}
    first, again = [await claims.client.post("/v1/me/claims", json=body, headers=headers) for _ in range(2)]
    assert first.status_code == 201
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    other = await claims.client.post("/v1/me/claims", json={**body, "note": "x"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_of_claims_filed_at_once_the_limit_and_the_uniqueness_hold(claims: ClaimWorld) -> None:
    answers = await asyncio.gather(*(claims.file(f"A-{number // 2}") for number in range(30)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [201] * 10 + [409] * 20
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {
        "claim_exists",
        "claim_limit_reached",
    }


async def test_closing_an_account_withdraws_its_claims_and_forgets_what_they_told(
    shopper: Shopper, session: AsyncSession
) -> None:
    claim_id = (await shopper.file(note="mine", evidence=[{"kind": "other", "value": "mine"}])).json()["id"]
    closed = await shopper.client.delete("/v1/me", headers=shopper.headers)
    assert closed.status_code in {200, 204}, closed.text
    claim = await session.get_one(Claim, UUID(claim_id), populate_existing=True)
    assert (claim.status, claim.note, claim.evidence) == (ClaimStatus.WITHDRAWN, None, [])


@pytest.mark.parametrize(
    ("method", "path", "role"),
    [
        ("GET", "/v1/admin/claims", StaffRole.VIEWER),
        ("GET", "/v1/admin/claims/{id}", StaffRole.VIEWER),
        ("POST", "/v1/admin/claims/{id}/approve", StaffRole.OPERATOR),
        ("POST", "/v1/admin/claims/{id}/reject", StaffRole.OPERATOR),
        ("GET", "/v1/admin/orphans", StaffRole.VIEWER),
        ("GET", "/v1/admin/orphans/{id}", StaffRole.VIEWER),
        ("POST", "/v1/admin/orphans/{id}/match", StaffRole.OPERATOR),
        ("POST", "/v1/admin/orphans/{id}/discard", StaffRole.OPERATOR),
    ],
)
async def test_staff_routes_need_their_role_and_something_that_exists(
    shopper: Shopper, session: AsyncSession, method: str, path: str, role: StaffRole
) -> None:
    url = path.replace("{id}", str(new_id()))
    body = {"match": {"customer_id": str(new_id())}, "reject": {"note": "no such"}, "discard": {"reason": "a test"}}
    json = body.get(url.rsplit("/", 1)[1], {}) if method == "POST" else None
    assert (await shopper.client.request(method, url, json=json)).status_code == 401
    assert (await shopper.client.request(method, url, json=json, headers=shopper.headers)).status_code == 401
    for held in StaffRole:
        answer = await shopper.client.request(method, url, json=json, headers=await staff_headers(session, held))
        enough = 404 if "{id}" in path else 200
        assert answer.status_code == (enough if held.rank >= role.rank else 403), answer.text
        if answer.status_code == 404:
            assert answer.json()["code"] in {"claim_not_found", "orphan_not_found"}

"""Campaigns: promised by clicks, granted to orders, never beyond their budget, paid by promotions."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import Account, Campaign, Click, OrderBoost, OrderStatus, Posting, StaffRole
from tests.factories import customer_headers, make_category, make_click, make_customer, make_merchant, staff_headers
from tests.webhooks.world import World, make_world

CAMPAIGN = {"name": "Eid week", "currency": "PKR", "kind": "percent_of_sale", "basis_points": 200}


def pkr(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "PKR"}


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client)


async def add_campaign(world: World, **changes: Any) -> str:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
    answer = await world.client.post("/v1/admin/campaigns", json={**CAMPAIGN, **changes}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def click_now(world: World) -> str:
    headers = customer_headers(world.settings, world.customer)
    answer = await world.client.post("/v1/clicks", json={"merchant_id": world.merchant.id}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def spent(campaign_id: str) -> int:
    async with transaction() as session:
        return (await session.scalars(select(Campaign.spent_minor).where(Campaign.id == campaign_id))).one()


async def balance(account: Account) -> int:
    async with transaction() as session:
        total = select(func.coalesce(func.sum(Posting.amount_minor), 0)).where(Posting.account == account)
        return int((await session.scalars(total)).one())


async def test_a_boost_is_frozen_on_the_click_and_paid_by_promotions(world: World) -> None:
    campaign_id = await add_campaign(world)
    click_id = await click_now(world)
    async with transaction() as session:
        campaign = await session.get_one(Campaign, campaign_id)
        campaign.valid_to = datetime.now(UTC) + timedelta(microseconds=1)
    await world.post("created", click_id=click_id, amount=100_000, commission=8_000)
    await world.drain()
    order = await world.order()
    assert (order.cashback_minor, order.boost_minor) == (7_000, 2_000)
    assert [step["step"] for step in order.explanation["steps"]] == ["base", "rate", "boost"]
    assert await world.wallet() == (7_000, 0)
    assert await balance(Account.PROMOTIONS) == 2_000
    # The rate's own part is taken of the commission, the boost is not.
    assert await balance(Account.MARGIN_PENDING) == -3_000
    assert await spent(campaign_id) == 2_000


async def test_a_declined_order_gives_its_boost_back_and_a_won_dispute_takes_it_again(world: World) -> None:
    campaign_id = await add_campaign(world, budget=pkr(2_500))
    click_id = await click_now(world)
    await world.post("created", click_id=click_id, amount=100_000, commission=8_000)
    await world.drain()
    await world.post("declined", click_id=click_id)
    await world.drain()
    assert (await world.order()).boost_minor == 0
    assert await spent(campaign_id) == 0
    assert await balance(Account.PROMOTIONS) == 0
    await world.post("approved", click_id=click_id)
    await world.drain()
    order = await world.order()
    assert (order.status, order.cashback_minor, order.boost_minor) == (OrderStatus.APPROVED, 7_000, 2_000)
    assert await spent(campaign_id) == 2_000


async def test_the_last_of_a_budget_is_granted_and_explained_and_then_no_longer_promised(world: World) -> None:
    campaign_id = await add_campaign(world, budget=pkr(2_500))
    click_id = await click_now(world)
    await world.post("created", "A-1", click_id=click_id, amount=100_000, commission=8_000)
    await world.drain()
    await world.post("created", "A-2", click_id=click_id, amount=100_000, commission=8_000)
    await world.drain()
    second = await world.order("A-2")
    assert second.boost_minor == 500
    assert second.explanation["steps"][-1] == {
        "step": "cap",
        "detail": "Eid week: its budget is used up",
        "amount_minor": -1_500,
    }
    assert sum(step["amount_minor"] for step in second.explanation["steps"]) == second.cashback_minor
    assert await spent(campaign_id) == 2_500
    async with transaction() as session:
        assert (await session.get_one(Click, UUID(await click_now(world)))).boosts is None


async def test_a_budget_is_not_overspent_by_orders_that_come_at_once(world: World) -> None:
    campaign_id = await add_campaign(world, budget=pkr(25_000))
    async with transaction() as session:
        customers = [await make_customer(session) for _ in range(20)]
        frozen = [
            {
                "campaign_id": campaign_id,
                "name": "Eid week",
                "kind": "percent_of_sale",
                "basis_points": 200,
                "fixed_minor": None,
                "cap_minor": None,
                "minimum_sale_minor": 0,
            }
        ]
        clicks = [await make_click(session, customer, world.merchant, boosts=frozen) for customer in customers]
    for number, click in enumerate(clicks):
        await world.post("created", f"B-{number}", click_id=click.id, amount=100_000, commission=8_000)
    await asyncio.gather(*(world.drain() for _ in range(4)))
    # Twenty orders want 2,000 each; twelve and a half of them fit.
    async with transaction() as session:
        granted = (await session.scalars(select(OrderBoost.amount_minor))).all()
    assert await spent(campaign_id) == sum(granted) == 25_000
    assert sorted(granted) == [1_000] + [2_000] * 12


async def test_a_smaller_amount_gives_the_difference_back(world: World) -> None:
    campaign_id = await add_campaign(world, cap=pkr(1_500))
    click_id = await click_now(world)
    await world.post("created", click_id=click_id, amount=100_000, commission=8_000)
    await world.drain()
    assert await spent(campaign_id) == 1_500
    await world.post("approved", click_id=click_id, amount=50_000, commission=4_000)
    await world.drain()
    assert await spent(campaign_id) == 1_000
    assert (await world.order()).cashback_minor == 3_500


@pytest.mark.parametrize(
    ("changes", "promised"),
    [
        ({}, True),
        ({"currency": "EUR"}, False),
        ({"status": "paused"}, False),
        ({"valid_to": datetime(2026, 1, 2, tzinfo=UTC)}, False),
        ({"elsewhere": True}, False),
        ({"category": "other"}, False),
        ({"category": "own"}, True),
    ],
    ids=["all", "currency", "paused", "over", "merchant", "category", "own-category"],
)
async def test_only_campaigns_in_force_are_promised(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, changes: dict[str, Any], promised: bool
) -> None:
    own, other = await make_category(session), await make_category(session)
    merchant = await make_merchant(session, category_id=own.id)
    values: dict[str, Any] = {
        "name": "Eid week",
        "currency": "PKR",
        "kind": "fixed",
        "fixed_minor": 100,
        "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
        **changes,
    }
    if values.pop("elsewhere", False):
        values["merchant_id"] = (await make_merchant(session)).id
    if category := values.pop("category", None):
        values["category_id"] = (own if category == "own" else other).id
    session.add(Campaign(**values))
    await session.flush()
    headers = customer_headers(settings, await make_customer(session))
    answer = await client.post("/v1/clicks", json={"merchant_id": merchant.id}, headers=headers)
    assert [boost["name"] for boost in answer.json()["boosts"]] == (["Eid week"] if promised else [])


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"basis_points": None}, "invalid_request"),
        ({"fixed": pkr(1)}, "invalid_request"),
        ({"budget": {"amount_minor": 1, "currency": "EUR"}}, "invalid_request"),
        ({"budget": pkr(0)}, "invalid_request"),
        ({"category": "nowhere"}, "unknown_category"),
        ({"valid_to": "2020-01-01T00:00:00Z"}, "campaign_period_empty"),
        ({"spent": pkr(1)}, "invalid_request"),
    ],
    ids=["no-value", "two-values", "currency", "no-budget", "category", "period", "spent"],
)
async def test_a_campaign_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, changes: dict[str, Any], code: str
) -> None:
    headers = await staff_headers(session, StaffRole.FINANCE)
    answer = await client.post("/v1/admin/campaigns", json={**CAMPAIGN, **changes}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_a_budget_is_not_cut_below_what_is_spent(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = await staff_headers(session, StaffRole.FINANCE)
    made = (await client.post("/v1/admin/campaigns", json=CAMPAIGN, headers=headers)).json()
    url = f"/v1/admin/campaigns/{made['id']}"
    changed = await client.patch(url, json={"budget_minor": 1_000, "status": "paused"}, headers=headers)
    assert (changed.json()["budget"], changed.json()["status"]) == (pkr(1_000), "paused")
    assert (await client.get(url, headers=headers)).json() == changed.json()
    listed = (await client.get("/v1/admin/campaigns", headers=headers)).json()["items"]
    assert listed == [changed.json()]
    viewer = await staff_headers(session, StaffRole.VIEWER)
    assert (await client.patch(url, json={"status": "active"}, headers=viewer)).status_code == 403


async def test_the_same_key_makes_one_campaign(client: httpx.AsyncClient, session: AsyncSession) -> None:
    headers = {**await staff_headers(session, StaffRole.FINANCE), "Idempotency-Key": "eid"}
    first = await client.post("/v1/admin/campaigns", json=CAMPAIGN, headers=headers)
    again = await client.post("/v1/admin/campaigns", json=CAMPAIGN, headers=headers)
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    other = await client.post("/v1/admin/campaigns", json={**CAMPAIGN, "name": "x"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

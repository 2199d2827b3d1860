"""Rates: by category and tier, capped an order and a month, in other currencies, all as the click was promised."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import Order, RateKind
from tests.factories import (
    customer_headers,
    make_category,
    make_click,
    make_customer,
    make_merchant,
    make_offer,
    make_rate,
    staff_headers,
)
from tests.webhooks.world import World, make_world


@pytest.fixture
async def world(committed_db: Settings, committed_client: httpx.AsyncClient) -> World:
    return await make_world(committed_db, committed_client)


def pkr(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "PKR"}


async def test_a_rate_of_the_offers_category_comes_before_the_general_one(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    shoes, hats = await make_category(session), await make_category(session)
    merchant = await make_merchant(session)
    await make_rate(
        session,
        merchant,
        basis_points=900,
        category_id=shoes.id,
        valid_from=datetime.now(UTC) - timedelta(days=9),
    )
    headers = customer_headers(settings, await make_customer(session))
    promised = []
    for category in (shoes, hats, None):
        offer = await make_offer(session, merchant, category_id=category.id if category else None)
        body = {"merchant_id": merchant.id, "offer_id": str(offer.id)}
        promised.append((await client.post("/v1/clicks", json=body, headers=headers)).json()["rate"]["basis_points"])
    general = (await client.post("/v1/clicks", json={"merchant_id": merchant.id}, headers=headers)).json()
    assert [*promised, general["rate"]["basis_points"]] == [900, 500, 500, 500]
    shown = (await client.get(f"/v1/merchants/{merchant.id}")).json()
    assert shown["rate"]["basis_points"] == 500


async def test_staff_add_a_rate_with_tiers_and_caps_and_a_click_is_promised_it(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    merchant, category = await make_merchant(session), await make_category(session)
    headers = await staff_headers(session)
    rate = {
        "kind": "percent_of_sale",
        "basis_points": 300,
        "category": category.slug,
        "cap": pkr(10_000),
        "cap_month": pkr(30_000),
        "tiers": [{"minimum_sale": pkr(50_000), "basis_points": 400, "fixed": None}],
    }
    made = await client.post(f"/v1/admin/merchants/{merchant.id}/rates", json=rate, headers=headers)
    assert made.status_code == 201, made.text
    assert {name: made.json()[name] for name in rate} == rate
    listed = (await client.get(f"/v1/admin/merchants/{merchant.id}/rates", headers=headers)).json()["items"]
    assert listed[0] == made.json()
    offer = await make_offer(session, merchant, category_id=category.id)
    click = await client.post(
        "/v1/clicks",
        json={"merchant_id": merchant.id, "offer_id": str(offer.id)},
        headers=customer_headers(settings, await make_customer(session)),
    )
    promised = click.json()["rate"]
    assert {name: promised[name] for name in ("cap", "cap_month", "tiers")} == {
        name: rate[name] for name in ("cap", "cap_month", "tiers")
    }


@pytest.mark.parametrize(
    "tiers",
    [
        [{"minimum_sale": pkr(5), "fixed": pkr(1)}],
        [{"minimum_sale": pkr(5)}],
        [{"minimum_sale": pkr(5), "basis_points": 1}, {"minimum_sale": pkr(5), "basis_points": 2}],
        [{"minimum_sale": pkr(6), "basis_points": 1}, {"minimum_sale": pkr(5), "basis_points": 2}],
        [{"minimum_sale": pkr(0), "basis_points": 1}],
        [{"minimum_sale": {"amount_minor": 5, "currency": "EUR"}, "basis_points": 1}],
    ],
    ids=["kind", "empty", "twice", "falling", "zero", "currency"],
)
async def test_tiers_that_make_no_sense_are_refused(
    client: httpx.AsyncClient, session: AsyncSession, tiers: list[dict[str, Any]]
) -> None:
    merchant = await make_merchant(session)
    body = {"kind": "percent_of_sale", "basis_points": 300, "tiers": tiers}
    url = f"/v1/admin/merchants/{merchant.id}/rates"
    assert (await client.post(url, json=body, headers=await staff_headers(session))).status_code == 422


async def test_the_cap_of_a_month_holds_over_orders_that_come_at_once(world: World) -> None:
    async with transaction() as session:
        click = await make_click(session, world.customer, world.merchant, rate_cap_month_minor=12_000)
    for number in range(6):
        await world.post("created", f"M-{number}", click_id=click.id, amount=100_000, commission=8_000)
    await asyncio.gather(*(world.drain() for _ in range(4)))
    async with transaction() as session:
        orders = (await session.scalars(select(Order))).all()
    assert sorted(order.cashback_minor for order in orders) == [0, 0, 0, 2_000, 5_000, 5_000]
    assert all(
        sum(step["amount_minor"] for step in order.explanation["steps"]) == order.cashback_minor for order in orders
    )
    assert await world.wallet() == (12_000, 0)


async def test_another_month_and_a_declined_order_do_not_count_for_the_cap(world: World) -> None:
    async with transaction() as session:
        click = await make_click(session, world.customer, world.merchant, rate_cap_month_minor=5_000)
    now = datetime.now(UTC)
    last_month = now.replace(day=1) - timedelta(days=1)
    await world.post("created", "M-1", click_id=click.id, amount=100_000, commission=8_000, at=last_month)
    await world.post("created", "M-2", click_id=click.id, amount=100_000, commission=8_000)
    await world.drain()
    assert [(await world.order(name)).cashback_minor for name in ("M-1", "M-2")] == [5_000, 5_000]
    await world.post("declined", "M-2", click_id=click.id)
    await world.drain()
    await world.post("created", "M-3", click_id=click.id, amount=100_000, commission=8_000)
    await world.drain()
    assert (await world.order("M-3")).cashback_minor == 5_000


@pytest.mark.parametrize(
    ("currency", "sale", "commission", "cashback"),
    [("JPY", 12_345, 1_000, 617), ("KWD", 12_345, 1_000, 617), ("PKR", 2**53 + 1, 2**50, 450_359_962_737_050)],
)
async def test_money_is_exact_in_every_currency(
    committed_db: Settings,
    committed_client: httpx.AsyncClient,
    currency: str,
    sale: int,
    commission: int,
    cashback: int,
) -> None:
    world = await make_world(committed_db, committed_client, currency=currency)
    await world.post("created", amount=sale, commission=commission, currency=currency)
    await world.drain()
    order = await world.order()
    assert (order.currency, order.sale_minor, order.cashback_minor) == (currency, sale, cashback)


async def test_a_fixed_rate_is_paid_in_the_merchants_currency(world: World) -> None:
    async with transaction() as session:
        click = await make_click(
            session,
            world.customer,
            world.merchant,
            rate_kind=RateKind.FIXED,
            rate_basis_points=None,
            rate_fixed_minor=2_500,
        )
    await world.post("created", click_id=click.id, amount=100_000, commission=8_000)
    await world.drain()
    assert (await world.order()).cashback_minor == 2_500

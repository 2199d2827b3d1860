"""A customer's orders over HTTP: own ones only, explained."""

from datetime import UTC, datetime

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import Customer, Merchant, Order, OrderStatus
from app.services.orders.change import follow_reports
from app.services.orders.fold import Folded
from app.services.orders.report import start_order
from tests.factories import customer_headers, make_click, make_customer, make_merchant


async def make_order(session: AsyncSession, customer: Customer, merchant: Merchant, external_id: str = "A-1") -> Order:
    """A pending order of 1,000.00 that went through the ledger."""
    click = await make_click(session, customer, merchant)
    now = datetime.now(UTC)
    order = await start_order(
        session,
        merchant=merchant,
        source_id=merchant.source_id or 0,
        click=click,
        external_id=external_id,
        reported_currency="PKR",
        ordered_at=now,
        rate_max_age_days=7,
    )
    await follow_reports(
        session,
        order,
        Folded(OrderStatus.PENDING, 100_000, 8_000, now, None),
        click=click,
        merchant=merchant,
        rounding="half_even",
        now=now,
    )
    await session.commit()
    return order


async def test_an_order_explains_its_cashback(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer, merchant = await make_customer(session), await make_merchant(session)
    order = await make_order(session, customer, merchant)
    answer = (await client.get(f"/v1/me/orders/{order.id}", headers=customer_headers(settings, customer))).json()
    assert answer["merchant"] == {"id": merchant.id, "slug": merchant.slug, "name": merchant.name}
    assert answer["cashback"] == {"amount_minor": 5_000, "currency": "PKR"}
    assert answer["explanation"] == [
        {"step": "base", "detail": "the sale of 1000.00 PKR", "amount_minor": 0},
        {"step": "rate", "detail": "5 % of the sale", "amount_minor": 5_000},
    ]
    assert [state["status"] for state in answer["history"]] == ["pending"]


async def test_pages_give_every_order_once_newest_first(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer, merchant = await make_customer(session), await make_merchant(session)
    made = [str((await make_order(session, customer, merchant, f"A-{number}")).id) for number in range(5)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (
            await client.get(
                "/v1/me/orders",
                params={"limit": 2} | ({"cursor": cursor} if cursor else {}),
                headers=customer_headers(settings, customer),
            )
        ).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]


async def test_another_customers_order_does_not_exist(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer, other = await make_customer(session), await make_customer(session)
    order = await make_order(session, customer, await make_merchant(session))
    response = await client.get(f"/v1/me/orders/{order.id}", headers=customer_headers(settings, other))
    assert (response.status_code, response.json()["code"]) == (404, "order_not_found")
    assert (await client.get("/v1/me/orders", headers=customer_headers(settings, other))).json()["items"] == []


async def test_wallet_and_entries_follow_the_ledger(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer, merchant = await make_customer(session), await make_merchant(session)
    headers = customer_headers(settings, customer)
    assert (await client.get("/v1/me/wallet", headers=headers)).json() == {"balances": []}
    first = await make_order(session, customer, merchant, "A-1")
    await make_order(session, customer, merchant, "A-2")
    assert (await client.get("/v1/me/wallet", headers=headers)).json() == {
        "balances": [
            {
                "currency": "PKR",
                "pending_minor": 10_000,
                "available_minor": 0,
                "in_payout_minor": 0,
                "paid_minor": 0,
                "debt_minor": 0,
            }
        ]
    }
    page = (await client.get("/v1/me/wallet/entries", params={"limit": 1}, headers=headers)).json()
    last = (await client.get("/v1/me/wallet/entries", params={"cursor": page["next_cursor"]}, headers=headers)).json()[
        "items"
    ]
    assert [(entry["order_id"], entry["amount_minor"], entry["balance"]) for entry in last] == [
        (str(first.id), 5_000, "pending")
    ]


async def test_without_a_token_nothing_is_shown(client: httpx.AsyncClient) -> None:
    for path in ("/v1/me/wallet", "/v1/me/wallet/entries", "/v1/me/orders", f"/v1/me/orders/{new_id()}"):
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (401, "sign_in_required")

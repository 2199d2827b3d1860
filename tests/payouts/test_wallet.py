"""The wallet's history tells of payouts, and of debts after a return that came too late."""

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import ClawbackPolicy, OrderStatus, Payout, PayoutStatus
from app.services.orders.change import Target, change
from app.services.payouts import life
from tests.factories import customer_headers, make_click, make_customer, make_merchant, make_order, make_payout_method
from tests.payouts.world import World


async def entries(client: httpx.AsyncClient, headers: dict[str, str]) -> list[tuple[str, int, str, str | None]]:
    items = (await client.get("/v1/me/wallet/entries", headers=headers)).json()["items"]
    return [(item["balance"], item["amount_minor"], item["cause"], item["payout_id"]) for item in items]


async def test_the_entries_of_a_payout_name_it_and_add_up(world: World, session: AsyncSession) -> None:
    payout_id = (await world.asked(60_000))["id"]
    for status in (PayoutStatus.APPROVED, PayoutStatus.SENT, PayoutStatus.PAID):
        await life.advance(session, await session.get_one(Payout, payout_id), status)
    await session.commit()
    found = await entries(world.client, world.headers)
    assert sorted(found[:3]) == [
        ("available", -60_000, "requested", payout_id),
        ("in_payout", -60_000, "paid", payout_id),
        ("in_payout", 60_000, "requested", payout_id),
    ]
    assert found[3:] == [("available", 1_000_000, "payable", None)]
    assert await world.balance() == {"available": 940_000, "paid": 60_000}


async def test_a_debt_is_told_in_the_entries(world: World, session: AsyncSession) -> None:
    customer = await make_customer(session)
    merchant = await make_merchant(session, clawback_policy=ClawbackPolicy.OFFSET)
    order = await make_order(
        session, await make_click(session, customer, merchant), status=OrderStatus.PAYABLE, cashback=60_000
    )
    headers = customer_headers(world.settings, customer)
    method = await make_payout_method(session, world.settings, customer)
    payout_id = (await world.asked(60_000, headers=headers, method_id=str(method.id)))["id"]
    await change(session, order, Target(OrderStatus.REVERSED, 0, 0, 0, 0, 0, 0))
    await session.commit()
    found = await entries(world.client, headers)
    assert sorted(found[:3]) == [
        ("available", -60_000, "reversed", None),
        ("available", 60_000, "debt", None),
        ("debt", 60_000, "debt", None),
    ]
    assert [entry[3] for entry in found[3:5]] == [payout_id, payout_id]

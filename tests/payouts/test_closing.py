"""Closing an account that has payouts or money: nothing is left by mistake, and no account number survives."""

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.models import Customer, CustomerStatus, Payout, PayoutMethod, PayoutStatus
from app.services.payouts import life
from tests.factories import make_payout_rule
from tests.payouts.world import World, fund, wallet_of


async def close(world: World, query: str = "") -> httpx.Response:
    return await world.client.delete(f"/v1/me{query}", headers=world.headers)


async def status_of(world: World) -> CustomerStatus:
    async with transaction() as session:
        return (await session.scalars(select(Customer.status).where(Customer.id == world.customer.id))).one()


@pytest.mark.parametrize("query", ["", "?forfeit=true"])
@pytest.mark.parametrize("path", [[], [PayoutStatus.APPROVED], [PayoutStatus.APPROVED, PayoutStatus.SENT]])
async def test_an_account_stays_open_while_a_payout_is_under_way(
    world: World, session: AsyncSession, path: list[PayoutStatus], query: str
) -> None:
    payout = await session.get_one(Payout, (await world.asked(1_000_000))["id"])
    for status in path:
        await life.advance(session, payout, status)
    await session.commit()
    answer = await close(world, query)
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_under_way")
    assert await status_of(world) is CustomerStatus.ACTIVE


async def test_money_that_could_be_paid_out_is_named_before_it_is_left(world: World, session: AsyncSession) -> None:
    await make_payout_rule(session, "KWD", minimum_minor=1_000)
    await fund(session, world.customer, 1_500, "KWD")
    answer = await close(world)
    assert (answer.status_code, answer.json()["code"]) == (409, "money_left")
    assert "1.500 KWD and 10000.00 PKR" in answer.json()["detail"]
    assert await status_of(world) is CustomerStatus.ACTIVE


async def test_money_is_left_by_who_says_so_and_stays_in_the_books(world: World) -> None:
    assert (await close(world, "?forfeit=true")).status_code == 204
    assert await status_of(world) is CustomerStatus.CLOSED
    wallet = await wallet_of(world.customer.id)
    assert wallet is not None
    assert wallet.available_minor == 1_000_000


async def test_what_is_below_the_minimum_or_has_no_rule_holds_nobody(world: World, session: AsyncSession) -> None:
    await fund(session, world.customer, 99_000, "EUR")
    await world.asked(950_001)
    [payout] = await world.payouts()
    for status in (PayoutStatus.APPROVED, PayoutStatus.SENT, PayoutStatus.PAID):
        await life.advance(session, await session.get_one(Payout, payout.id), status)
    await session.commit()
    assert await world.balance() == {"available": 49_999, "paid": 950_001}
    assert (await close(world)).status_code == 204


async def test_closing_wipes_the_accounts_of_all_methods(world: World) -> None:
    await close(world, "?forfeit=true")
    async with transaction() as session:
        kept = (await session.scalars(select(PayoutMethod))).all()
    assert [(method.details_encrypted, method.deleted_at is not None) for method in kept] == [(b"", True)]

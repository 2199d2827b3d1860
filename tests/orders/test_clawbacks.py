"""Cashback taken back that the balance does not cover: each policy, what is earned back, written off, reinstated."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, update

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import (
    Account,
    CauseType,
    Clawback,
    ClawbackPolicy,
    ClawbackStatus,
    Merchant,
    Order,
    OrderStatus,
    PayoutStatus,
    Posting,
    StaffRole,
    Transfer,
)
from app.services import clawbacks
from app.services.payouts import life
from app.workers.clawbacks import recover_debts, write_off_due
from app.workers.orders import release_payable
from tests.factories import pay_out, staff_headers
from tests.orders.tale import Tale
from tests.webhooks.world import make_world

Begin = Callable[..., Awaitable[Tale]]


@pytest.fixture
def begin(committed_db: Settings, committed_client: httpx.AsyncClient) -> Begin:
    async def begin(policy: ClawbackPolicy, write_off_days: int | None = None) -> Tale:
        if policy is ClawbackPolicy.WRITE_OFF and write_off_days is None:
            write_off_days = 30
        world = await make_world(
            committed_db, committed_client, hold_days=0, clawback_policy=policy, write_off_days=write_off_days
        )
        return Tale(world)

    return begin


async def test_what_the_balance_covers_is_taken_and_nothing_is_missing(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.OFFSET)
    await tale.earn("A", 5_000)
    await tale.earn("B", 2_000)
    await tale.spend(2_000)
    await tale.tell("returned", "A")
    assert await tale.balance() == (0, 0)
    assert await tale.clawbacks() == []


async def test_negative_the_balance_goes_below_zero_and_later_cashback_fills_it(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.NEGATIVE)
    await tale.earn("A", 5_000)
    await tale.spend(4_000)
    await tale.tell("returned", "A")
    assert await tale.balance() == (-4_000, 0)
    assert await tale.clawbacks() == [(ClawbackStatus.OPEN, 4_000, 0, 0)]
    await tale.earn("B", 3_000)
    assert await tale.balance() == (-1_000, 0)
    assert await tale.clawbacks() == [(ClawbackStatus.OPEN, 4_000, 3_000, 0)]
    await tale.earn("C", 3_000)
    assert await tale.balance() == (2_000, 0)
    assert await tale.clawbacks() == [(ClawbackStatus.RECOVERED, 4_000, 4_000, 0)]


async def test_offset_what_is_missing_is_a_debt_that_later_cashback_pays(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.OFFSET)
    await tale.earn("A", 5_000)
    await tale.spend(4_000)
    await tale.tell("returned", "A")
    assert await tale.balance() == (0, 4_000)
    await tale.earn("B", 3_000)
    assert await tale.balance() == (0, 1_000)
    assert await tale.clawbacks() == [(ClawbackStatus.OPEN, 4_000, 3_000, 0)]
    await tale.earn("C", 3_000)
    assert await tale.balance() == (2_000, 0)
    assert await tale.clawbacks() == [(ClawbackStatus.RECOVERED, 4_000, 4_000, 0)]


async def test_the_oldest_debt_is_paid_first(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.OFFSET)
    for order, cashback in (("A", 1_000), ("B", 2_000), ("C", 4_000)):
        await tale.earn(order, cashback)
    await tale.spend(7_000)
    for order in ("B", "C", "A"):
        await tale.tell("returned", order)
    assert await tale.balance() == (0, 7_000)
    await tale.earn("D", 3_000)
    assert await tale.clawbacks() == [
        (ClawbackStatus.RECOVERED, 2_000, 2_000, 0),
        (ClawbackStatus.OPEN, 4_000, 1_000, 0),
        (ClawbackStatus.OPEN, 1_000, 0, 0),
    ]
    assert await tale.balance() == (0, 4_000)


async def test_write_off_waits_its_days_and_then_is_our_loss_at_that_merchant(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF)
    await tale.earn("A", 5_000)
    await tale.spend(5_000)
    await tale.tell("returned", "A")
    assert await write_off_due() == 0
    assert (await tale.balance(), await tale.loss()) == ((-5_000, 0), 0)
    async with transaction() as session:
        days = await session.scalar(select(func.extract("day", Clawback.due_at - Clawback.created_at)))
    assert round(float(days or 0)) in (29, 30)
    await tale.come_due()
    assert (await tale.balance(), await tale.loss()) == ((0, 0), 5_000)
    assert await tale.clawbacks() == [(ClawbackStatus.WRITTEN_OFF, 5_000, 0, 5_000)]
    assert await write_off_due() == 0
    async with transaction() as session:
        at = await session.scalar(select(Posting.merchant_id).where(Posting.account == Account.BAD_DEBT))
    assert at == tale.world.merchant.id


async def test_only_what_was_not_earned_back_is_written_off(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF)
    await tale.earn("A", 5_000)
    await tale.earn("B", 2_000)
    await tale.spend(7_000)
    await tale.tell("returned", "A")
    await tale.tell("returned", "B")
    await tale.earn("C", 6_000)
    assert await tale.balance() == (-1_000, 0)
    await tale.come_due()
    assert (await tale.balance(), await tale.loss()) == ((0, 0), 1_000)
    assert await tale.clawbacks() == [
        (ClawbackStatus.RECOVERED, 5_000, 5_000, 0),
        (ClawbackStatus.WRITTEN_OFF, 2_000, 1_000, 1_000),
    ]


async def test_what_was_earned_back_and_is_missing_again_is_another_clawback(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF)
    await tale.earn("A", 5_000)
    await tale.spend(5_000)
    await tale.tell("returned", "A")
    await tale.earn("B", 5_000)
    assert await tale.clawbacks() == [(ClawbackStatus.RECOVERED, 5_000, 5_000, 0)]
    async with transaction() as session:
        # Another policy holds for what comes after, not for what was.
        await session.execute(update(Merchant).values(clawback_policy=ClawbackPolicy.NEGATIVE, write_off_days=None))
    await tale.earn("C", 1_000)
    await tale.spend(1_000)
    await tale.tell("returned", "B")
    await tale.come_due()
    assert (await tale.balance(), await tale.loss()) == ((-5_000, 0), 0)


async def test_a_part_that_comes_back_after_payable_is_clawed_back_as_a_part(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.OFFSET)
    await tale.earn("A", 5_000)
    await tale.spend(4_500)
    await tale.tell("returned", "A", 40_000)
    assert await tale.order("A") == (OrderStatus.PAYABLE, 60_000, 3_000)
    assert await tale.balance() == (0, 1_500)
    await tale.tell("returned", "A", 60_000)
    assert (await tale.world.order("A")).status is OrderStatus.REVERSED
    assert await tale.balance() == (0, 4_500)
    assert [shortfall for _, shortfall, _, _ in await tale.clawbacks()] == [1_500, 3_000]


@pytest.mark.parametrize("policy", ClawbackPolicy)
async def test_a_won_dispute_gives_back_what_was_taken(begin: Begin, policy: ClawbackPolicy) -> None:
    """Whatever became of the clawback meanwhile, the customer ends with what was earned less what was paid out."""
    for earned_back in (0, 2_000, 4_000, 6_000):
        for due in (False, True):
            await win_a_dispute(await begin(policy), policy, earned_back, due=due)


async def win_a_dispute(tale: Tale, policy: ClawbackPolicy, earned_back: int, *, due: bool) -> None:
    """Have an order of 50.00 taken back after 40.00 were paid out, earn something, and get the order back."""
    await tale.earn("A", 5_000)
    await tale.spend(4_000)
    await tale.tell("returned", "A")
    if earned_back:
        await tale.earn("B", earned_back)
    if due:
        await tale.come_due()
    await tale.tell("approved", "A")
    assert await tale.balance() == (5_000 - 4_000 + earned_back, 0)
    assert await tale.loss() == 0
    [(status, shortfall, recovered, written_off)] = await tale.clawbacks()
    assert (shortfall, written_off) == (4_000, 0)
    assert status is not ClawbackStatus.OPEN
    if policy is ClawbackPolicy.OFFSET or earned_back >= 4_000:
        assert (status, recovered) == (ClawbackStatus.RECOVERED, 4_000)
    else:
        assert status is ClawbackStatus.REINSTATED


async def test_an_order_taken_back_twice_has_two_clawbacks_and_each_is_undone_once(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF)
    await tale.earn("A", 5_000)
    await tale.spend(5_000)
    for _ in range(2):
        await tale.tell("returned", "A")
        await tale.come_due()
        assert (await tale.balance(), await tale.loss()) == ((0, 0), 5_000)
        await tale.tell("approved", "A")
        assert (await tale.balance(), await tale.loss()) == ((0, 0), 0)
    assert await tale.clawbacks() == [(ClawbackStatus.REINSTATED, 5_000, 0, 0)] * 2


async def test_what_comes_back_in_parts_undoes_no_more_of_a_write_off_than_that(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF)
    await tale.earn("A", 5_000)
    await tale.spend(5_000)
    await tale.tell("returned", "A", 40_000)
    await tale.come_due()
    assert (await tale.balance(), await tale.loss()) == ((0, 0), 2_000)
    # The shop finds that it was less: 500 of the 2,000 were ours to pay after all, and 500 are no loss any more.
    await tale.tell("approved", "A", 70_000)
    assert (await tale.world.order("A")).cashback_minor == 3_500
    assert (await tale.balance(), await tale.loss()) == ((0, 0), 1_500)
    await tale.tell("approved", "A", 120_000)
    assert (await tale.balance(), await tale.loss()) == ((1_000, 0), 0)
    assert await tale.clawbacks() == [(ClawbackStatus.REINSTATED, 2_000, 0, 0)]


async def test_money_that_a_bank_sends_back_pays_a_debt_by_the_job(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.OFFSET)
    await tale.earn("A", 5_000)
    async with transaction() as session:
        payout = await pay_out(session, tale.world.settings, tale.world.customer, 5_000, "PKR")
    await tale.tell("returned", "A")
    assert await tale.balance() == (0, 5_000)
    async with transaction() as session:
        await life.advance(session, await session.merge(payout), PayoutStatus.FAILED, reason="the account is closed")
    assert await tale.balance() == (5_000, 5_000)
    assert await recover_debts() == 1
    assert await tale.balance() == (0, 0)
    assert await recover_debts() == 0


async def test_a_balance_that_a_bank_fills_closes_its_clawbacks_by_the_job(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.NEGATIVE)
    await tale.earn("A", 5_000)
    async with transaction() as session:
        payout = await pay_out(session, tale.world.settings, tale.world.customer, 5_000, "PKR")
    await tale.tell("returned", "A")
    async with transaction() as session:
        await life.advance(session, await session.merge(payout), PayoutStatus.FAILED, reason="the account is closed")
    assert await recover_debts() == 1
    assert await tale.clawbacks() == [(ClawbackStatus.RECOVERED, 5_000, 5_000, 0)]
    assert await recover_debts() == 0


async def test_a_debt_is_paid_once_by_jobs_and_new_cashback_that_come_together(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.OFFSET)
    await tale.earn("A", 10_000)
    await tale.spend(10_000)
    for number in range(20):
        await tale.tell("created", f"N-{number}", 20_000)
    await tale.tell("returned", "A")
    for number in range(20):
        await tale.world.post("approved", f"N-{number}", at=tale.at)
    # Twenty orders of 1,000 become payable, while everybody looks for debts.
    await asyncio.gather(*(tale.world.drain() for _ in range(3)))
    await asyncio.gather(*(release_payable() for _ in range(4)), *(recover_debts() for _ in range(8)))
    assert await tale.balance() == (10_000, 0)
    assert await tale.clawbacks() == [(ClawbackStatus.RECOVERED, 10_000, 10_000, 0)]


async def test_reversals_reinstatements_and_write_offs_at_once_end_where_the_orders_say(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF, write_off_days=0)
    names = [f"A-{number}" for number in range(8)]
    for name in names:
        await tale.earn(name, 1_000)
    await tale.spend(8_000)
    for kind in ("returned", "approved", "returned", "approved"):
        tale.at += timedelta(minutes=1)
        for name in names:
            await tale.world.post(kind, name, at=tale.at)
        await asyncio.gather(
            *(tale.world.drain() for _ in range(4)),
            *(write_off_due() for _ in range(4)),
            *(recover_debts() for _ in range(4)),
        )
    await write_off_due()
    async with transaction() as session:
        statuses = set(await session.scalars(select(Order.status)))
    assert statuses == {OrderStatus.PAYABLE}
    assert (await tale.balance(), await tale.loss()) == ((0, 0), 0)


async def test_one_clawback_is_written_off_once(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF, write_off_days=0)
    await tale.earn("A", 5_000)
    await tale.spend(5_000)
    await tale.tell("returned", "A")
    async with transaction() as session:
        [clawback_id] = await clawbacks.due_clawbacks(session)

    async def write_off() -> int:
        async with transaction() as session:
            return await clawbacks.write_off(session, clawback_id)

    assert sorted(await asyncio.gather(*(write_off() for _ in range(20)))) == [0] * 19 + [5_000]
    async with transaction() as session:
        made = await session.scalars(select(Transfer.purpose).where(Transfer.cause_type == CauseType.CLAWBACK))
    assert made.all() == ["written_off"]


async def test_what_is_not_due_is_not_written_off(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF)
    await tale.earn("A", 5_000)
    await tale.spend(5_000)
    await tale.tell("returned", "A")
    async with transaction() as session:
        assert await clawbacks.write_off(session, (await session.scalars(select(Clawback.id))).one()) == 0


async def test_one_that_fails_delays_no_other(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = [await begin(ClawbackPolicy.WRITE_OFF, write_off_days=0) for _ in range(2)]
    for tale in (first, second):
        await tale.earn("A", 5_000)
        await tale.spend(5_000)
        await tale.tell("returned", "A")
    original = clawbacks.write_off

    async def fails(session: Any, clawback_id: Any) -> int:
        if (await session.get_one(Clawback, clawback_id)).customer_id == first.world.customer.id:
            raise ZeroDivisionError("a bug")
        return await original(session, clawback_id)

    monkeypatch.setattr(clawbacks, "write_off", fails)
    await write_off_due()
    assert (await first.balance(), await second.balance()) == ((-5_000, 0), (0, 0))
    monkeypatch.undo()
    await write_off_due()
    assert await first.balance() == (0, 0)


async def test_staff_list_clawbacks_by_state_and_customer(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.WRITE_OFF, write_off_days=0)
    for order in ("A", "B"):
        await tale.earn(order, 5_000)
    await tale.spend(10_000)
    await tale.tell("returned", "A")
    await tale.come_due()
    await tale.tell("returned", "B")
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.VIEWER)

    async def listed(**params: Any) -> dict[str, Any]:
        answer = await tale.world.client.get("/v1/admin/clawbacks", headers=headers, params=params)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    newest, oldest = (await listed())["items"]
    of_order = await tale.world.order("B")
    assert newest == {
        "id": newest["id"],
        "order_id": str(of_order.id),
        "customer_id": str(tale.world.customer.id),
        "currency": "PKR",
        "policy": "write_off",
        "status": "open",
        "shortfall_minor": 5_000,
        "recovered_minor": 0,
        "written_off_minor": 0,
        "due_at": newest["due_at"],
        "created_at": newest["created_at"],
    }
    assert (oldest["status"], oldest["written_off_minor"]) == ("written_off", 5_000)
    assert (await listed(status="open"))["items"] == [newest]
    assert (await listed(customer_id=str(tale.world.customer.id)))["items"] == [newest, oldest]
    assert (await listed(customer_id=str(new_id())))["items"] == []
    page = await listed(limit=1)
    assert page["items"] == [newest]
    assert await listed(cursor=page["next_cursor"]) == {"items": [oldest], "next_cursor": None}


async def test_clawbacks_are_for_staff_and_bad_filters_are_refused(begin: Begin) -> None:
    tale = await begin(ClawbackPolicy.NEGATIVE)
    assert (await tale.world.client.get("/v1/admin/clawbacks")).status_code == 401
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.VIEWER)
    for params in ({"status": "lost"}, {"customer_id": "x"}, {"cursor": "x"}, {"limit": 0}):
        answer = await tale.world.client.get("/v1/admin/clawbacks", headers=headers, params=params)
        assert answer.status_code == 422, params

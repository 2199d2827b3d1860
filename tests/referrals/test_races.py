"""Bonuses under concurrency: the limit is exact, nobody waits for each other, and the end is what the orders say."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.models import (
    Customer,
    Merchant,
    Order,
    OrderStatus,
    Payout,
    PayoutStatus,
    Referral,
    ReferralReason,
    ReferralStatus,
    Wallet,
)
from app.services.orders.change import Target, change
from app.services.payouts import life
from app.services.payouts.life import Step
from app.services.referrals import invite
from app.services.referrals.settle import settle
from app.workers.orders import release_payable
from app.workers.referrals import settle_referrals
from tests.factories import make_click, make_customer, make_merchant, make_order, pay_out
from tests.referrals.world import REFERRER_BONUS, make_invited, make_program

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


pytestmark = pytest.mark.usefixtures("committed_db")


@pytest.fixture(autouse=True)
def _no_deadlock(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A deadlock ends in an exception, or is logged where one referral must not delay another."""
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def approved_order(customer_id: UUID, merchant: Merchant) -> UUID:
    """An order whose hold is over."""
    async with transaction() as session:
        customer = await session.get_one(Customer, customer_id)
        click = await make_click(session, customer, merchant)
        order = await make_order(session, click, status=OrderStatus.APPROVED, payable_at=YESTERDAY)
        return order.id


async def move(order_id: UUID, status: OrderStatus) -> None:
    async with transaction() as session:
        order = await session.get_one(Order, order_id, with_for_update=True)
        await change(session, order, Target.of(order, status=status))


async def settle_one(referral_id: UUID) -> None:
    async with transaction() as session:
        await settle(session, referral_id)


async def settle_all() -> None:
    while await settle_referrals():
        pass


async def referrals() -> list[Referral]:
    async with transaction() as session:
        return list(await session.scalars(select(Referral).order_by(Referral.id)))


async def test_the_limit_is_exact_when_forty_friends_buy_at_once() -> None:
    async with transaction() as session:
        await make_program(session, max_granted=15)
        merchant, referrer = await make_merchant(session), await make_customer(session)
        invited = [await make_invited(session, referrer) for _ in range(40)]
    orders = [await approved_order(friend.id, merchant) for friend in invited]
    await asyncio.gather(*(release_payable() for _ in range(4)))
    # Each by a worker of its own, and all of them by some more.
    waiting = [referral.id for referral in await referrals()]
    await asyncio.gather(*(settle_one(referral) for referral in waiting), *(settle_referrals() for _ in range(3)))
    found = Counter((referral.status, referral.reason) for referral in await referrals())
    assert found == {
        (ReferralStatus.GRANTED, None): 15,
        (ReferralStatus.REFUSED, ReferralReason.LIMIT_REACHED): 25,
    }
    assert await available(referrer) == 15 * REFERRER_BONUS
    # All is taken back and given again at once, while it is settled.
    for status in (OrderStatus.REVERSED, OrderStatus.PAYABLE, OrderStatus.REVERSED):
        await asyncio.gather(*(move(order, status) for order in orders), *(settle_referrals() for _ in range(6)))
    await settle_all()
    assert await available(referrer) == 0


async def test_customers_who_invited_each_others_friends_do_not_wait_for_each_other(committed_db: Settings) -> None:
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    async with transaction() as session:
        await make_program(session, max_granted=1_000)
        merchants = [await make_merchant(session) for _ in range(3)]
        customers = [await make_customer(session) for _ in range(16)]
        # Anybody by anybody, also an older account by a younger one and two by each other, as no id promises an order.
        for number, customer in enumerate(customers):
            customer.referred_by_id = chance.choice(customers[:number] + customers[number + 1 :]).id
            await session.flush()
            await invite(session, invited=customer)
    orders = [await approved_order(customer.id, chance.choice(merchants)) for customer in customers * 3]
    async with transaction() as session:
        payouts = [await payable_payout(session, committed_db, customer) for customer in customers]

    async def deed(number: int) -> None:
        match number % 4:
            case 0:
                await release_payable()
            case 1:
                await move(chance.choice(orders), OrderStatus.REVERSED)
            case 2:
                await settle_referrals()
            case _:
                await move(chance.choice(orders), OrderStatus.PAYABLE)

    await asyncio.gather(fail_all(payouts), *(deed(number) for number in range(120)))
    await settle_all()
    async with transaction() as session:
        earned = select(Order.customer_id).where(Order.id.in_(orders), Order.status == OrderStatus.PAYABLE)
        earners = set(await session.scalars(earned))
    for referral in await referrals():
        assert (referral.status is ReferralStatus.GRANTED) is (referral.invited_id in earners)


async def payable_payout(session: AsyncSession, settings: Settings, customer: Customer) -> Payout:
    """A payout of 10.00 that was paid, out of an order of its own."""
    click = await make_click(session, customer, await make_merchant(session))
    await make_order(session, click, status=OrderStatus.PAYABLE, sale=20_000, cashback=1_000)
    return await pay_out(session, settings, customer, 1_000, "PKR")


async def fail_all(payouts: list[Payout]) -> None:
    """Let the bank send all of them back: many wallets in one transaction."""
    async with transaction() as session:
        ids = [payout.id for payout in payouts]
        locked = await session.scalars(select(Payout).where(Payout.id.in_(ids)).order_by(Payout.id).with_for_update())
        steps = [Step(payout, PayoutStatus.FAILED, "the account is closed") for payout in locked]
        await life.advance_all(session, steps)


async def available(customer: Customer) -> int:
    async with transaction() as session:
        return (await session.get_one(Wallet, (customer.id, "PKR"))).available_minor

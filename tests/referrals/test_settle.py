"""Granted with the first order that counts, refused to whoever invites themselves, and gone with the order."""

from typing import Any

import pytest
from sqlalchemy import select

from app.db import transaction
from app.models import (
    Account,
    CauseType,
    Clawback,
    ClawbackPolicy,
    ClawbackStatus,
    Customer,
    CustomerStatus,
    OrderStatus,
    PayoutMethodKind,
    ReferralCheck,
    ReferralReason,
    ReferralStatus,
)
from app.services import ledger
from app.services.ledger.verify import violations
from app.services.payouts.accounts import PayoutAccount
from app.services.referrals import settle as settling
from app.workers.orders import release_payable
from app.workers.referrals import settle_referrals
from tests.factories import make_customer, make_payout_method, pay_out
from tests.referrals.world import INVITED_BONUS, REFERRER_BONUS, World, make_invited

CASHBACK = 5_000


async def test_both_get_their_bonus_with_the_first_payable_order_as_one_transfer(world: World) -> None:
    order = await world.buy()
    referral = await world.referral()
    assert (referral.status, referral.order_id, referral.revision) == (ReferralStatus.GRANTED, order.id, 1)
    assert await world.transfers() == [
        (
            "granted:1",
            {
                (Account.PROMOTIONS, None): REFERRER_BONUS + INVITED_BONUS,
                (Account.CUSTOMER_AVAILABLE, world.referrer): -REFERRER_BONUS,
                (Account.CUSTOMER_AVAILABLE, world.invited): -INVITED_BONUS,
            },
        )
    ]
    assert await world.available(world.referrer) == REFERRER_BONUS
    assert await world.available(world.invited) == CASHBACK + INVITED_BONUS


async def test_one_bonus_for_one_friend_whatever_they_buy_after(world: World) -> None:
    first = await world.buy()
    await world.buy()
    referral = await world.referral()
    assert (referral.order_id, referral.revision) == (first.id, 1)
    assert await world.available(world.referrer) == REFERRER_BONUS


@pytest.mark.parametrize(
    "order",
    [
        {"status": OrderStatus.PENDING},
        {"status": OrderStatus.APPROVED},
        {"status": OrderStatus.DECLINED},
        {"sale": 99_999},
    ],
    ids=["pending", "approved", "declined", "small"],
)
async def test_an_order_that_does_not_count_is_passed_over_and_a_later_one_earns_it(
    world: World, order: dict[str, Any]
) -> None:
    await world.buy(**order)
    assert (await world.referral()).status is ReferralStatus.WAITING
    assert await world.available(world.referrer) == 0
    later = await world.buy(sale=100_000)
    assert (await world.referral()).order_id == later.id


async def test_an_order_in_another_currency_does_not_count(world: World) -> None:
    await world.change_merchant(currency="EUR")
    await world.buy()
    assert (await world.referral()).status is ReferralStatus.WAITING
    await world.change_merchant(currency="PKR")
    await world.buy()
    assert (await world.referral()).status is ReferralStatus.GRANTED


async def test_an_order_of_the_referrer_earns_nothing(world: World) -> None:
    await world.buy(world.referrer)
    assert (await world.referral()).status is ReferralStatus.WAITING


async def test_it_goes_with_its_order_and_comes_back_with_it(world: World) -> None:
    order = await world.buy()
    await world.move(order, OrderStatus.REVERSED)
    referral = await world.referral()
    assert (referral.status, referral.order_id, referral.revision) == (ReferralStatus.CLAWED_BACK, order.id, 2)
    assert (await world.available(world.referrer), await world.available(world.invited)) == (0, 0)
    await world.move(order, OrderStatus.PAYABLE)
    await world.move(order, OrderStatus.REVERSED)
    transfers = await world.transfers()
    assert [purpose for purpose, _ in transfers] == ["granted:1", "clawed_back:2", "granted:3", "clawed_back:4"]
    granted, taken, *_ = [lines for _, lines in transfers]
    assert taken == {account: -amount for account, amount in granted.items()}


async def test_what_was_spent_of_a_bonus_leaves_the_balance_below_zero(world: World) -> None:
    order = await world.buy()
    async with transaction() as session:
        await pay_out(session, world.settings, world.referrer, REFERRER_BONUS, "PKR")
    await world.move(order, OrderStatus.REVERSED)
    assert await world.available(world.referrer) == -REFERRER_BONUS
    again = await world.buy()
    assert await world.available(world.referrer) == 0
    assert (await world.referral()).order_id == again.id


async def test_another_order_that_counts_takes_over_and_no_money_moves(world: World) -> None:
    first = await world.buy()
    second = await world.buy()
    await world.move(first, OrderStatus.REVERSED)
    referral = await world.referral()
    assert (referral.status, referral.order_id, referral.revision) == (ReferralStatus.GRANTED, second.id, 1)
    await world.move(first, OrderStatus.PAYABLE)
    assert (await world.referral()).order_id == second.id
    await world.move(second, OrderStatus.REVERSED)
    assert (await world.referral()).order_id == first.id
    await world.move(first, OrderStatus.REVERSED)
    assert (await world.referral()).status is ReferralStatus.CLAWED_BACK
    assert [purpose for purpose, _ in await world.transfers()] == ["granted:1", "clawed_back:2"]


async def test_a_return_that_leaves_less_than_the_minimum_takes_it_back(world: World) -> None:
    order = await world.buy(sale=150_000)
    await world.move(order, OrderStatus.PAYABLE, sale_minor=100_000)
    assert (await world.referral()).status is ReferralStatus.GRANTED
    await world.move(order, OrderStatus.PAYABLE, sale_minor=99_999)
    assert (await world.referral()).status is ReferralStatus.CLAWED_BACK


@pytest.mark.parametrize("bonus", ["referrer_bonus_minor", "invited_bonus_minor"])
async def test_a_program_may_reward_one_side_only(world: World, bonus: str) -> None:
    async with transaction() as session:
        referral = await session.merge(await world.referral())
        setattr(referral, bonus, 0)
    order = await world.buy()
    expected = {"referrer_bonus_minor": (0, INVITED_BONUS), "invited_bonus_minor": (REFERRER_BONUS, 0)}[bonus]
    assert (await world.available(world.referrer), await world.available(world.invited) - CASHBACK) == expected
    await world.move(order, OrderStatus.REVERSED)
    assert (await world.available(world.referrer), await world.available(world.invited)) == (0, 0)


@pytest.mark.parametrize(
    ("who", "status", "reason"),
    [
        ("referrer", CustomerStatus.FROZEN, ReferralReason.REFERRER_NOT_ACTIVE),
        ("referrer", CustomerStatus.CLOSED, ReferralReason.REFERRER_NOT_ACTIVE),
        ("invited", CustomerStatus.FROZEN, ReferralReason.INVITED_NOT_ACTIVE),
        ("invited", CustomerStatus.CLOSED, ReferralReason.INVITED_NOT_ACTIVE),
    ],
)
async def test_frozen_and_closed_accounts_earn_nothing(
    world: World, who: str, status: CustomerStatus, reason: ReferralReason
) -> None:
    closed_at = world.program.valid_from if status is CustomerStatus.CLOSED else None
    await world.change_customer(getattr(world, who), status=status, closed_at=closed_at)
    await world.buy()
    await assert_refused(world, reason)


async def test_one_payout_method_is_one_person(world: World) -> None:
    await share_payout_method(world, world.referrer, world.invited)
    await world.buy()
    await assert_refused(world, ReferralReason.SAME_PAYOUT_METHOD)


async def test_one_payout_method_is_one_person_also_once_it_is_deleted(world: World) -> None:
    await share_payout_method(world, world.referrer, world.invited, deleted_at=world.program.valid_from)
    await world.buy()
    await assert_refused(world, ReferralReason.SAME_PAYOUT_METHOD)


async def test_one_device_is_one_person(world: World) -> None:
    for customer in (world.referrer, world.invited):
        await world.change_customer(customer, device_hint=b"phone")
    await world.buy()
    await assert_refused(world, ReferralReason.SAME_DEVICE)


@pytest.mark.parametrize("shared", ["device", "payout method"])
async def test_who_makes_several_accounts_gets_one_bonus(world: World, shared: str) -> None:
    async with transaction() as session:
        second = await make_invited(session, world.referrer)
    if shared == "device":
        for customer in (world.invited, second):
            await world.change_customer(customer, device_hint=b"phone")
    else:
        await share_payout_method(world, world.invited, second)
    await world.buy(second)
    await world.buy(world.invited)
    assert (await world.referral(second)).status is ReferralStatus.REFUSED
    # The one that was there first is nobody's double.
    assert (await world.referral()).status is ReferralStatus.GRANTED


async def test_strangers_with_other_referrers_may_share_what_they_like(world: World) -> None:
    async with transaction() as session:
        stranger = await make_invited(session, await make_customer(session), device_hint=b"phone", address_hint=b"home")
    await world.change_customer(world.invited, device_hint=b"phone", address_hint=b"home")
    await share_payout_method(world, stranger, world.invited)
    await world.buy()
    assert (await world.referral()).status is ReferralStatus.GRANTED


async def test_one_address_may_be_a_family_and_waits_for_staff(world: World) -> None:
    for customer in (world.referrer, world.invited):
        await world.change_customer(customer, address_hint=b"home")
    order = await world.buy()
    referral = await world.referral()
    assert (referral.status, referral.reason) == (ReferralStatus.HELD, ReferralReason.SAME_ADDRESS)
    assert await world.transfers() == []
    await world.move(order, OrderStatus.REVERSED)
    referral = await world.referral()
    assert (referral.status, referral.reason) == (ReferralStatus.WAITING, None)


async def test_the_limit_of_a_referrer_counts_also_what_was_taken_back(world: World) -> None:
    async with transaction() as session:
        (await session.merge(world.program)).max_granted = 2
        more = [await make_invited(session, world.referrer) for _ in range(3)]
    first = await world.buy(more[0])
    await world.buy(more[1])
    await world.move(first, OrderStatus.REVERSED)
    await world.buy(more[2])
    third = await world.referral(more[2])
    assert (third.status, third.reason) == (ReferralStatus.REFUSED, ReferralReason.LIMIT_REACHED)
    await world.move(first, OrderStatus.PAYABLE)
    assert (await world.referral(more[0])).status is ReferralStatus.GRANTED
    assert await world.available(world.referrer) == 2 * REFERRER_BONUS


async def test_a_refused_bonus_stays_refused(world: World) -> None:
    await world.change_customer(world.referrer, status=CustomerStatus.FROZEN)
    await world.buy()
    await world.change_customer(world.referrer, status=CustomerStatus.ACTIVE)
    await world.buy()
    assert (await world.referral()).status is ReferralStatus.REFUSED


async def test_it_is_given_back_also_to_an_account_that_is_closed_by_then(world: World) -> None:
    order = await world.buy()
    await world.change_customer(world.referrer, status=CustomerStatus.CLOSED, closed_at=world.program.valid_from)
    await world.move(order, OrderStatus.REVERSED)
    await world.move(order, OrderStatus.PAYABLE)
    assert (await world.referral()).status is ReferralStatus.GRANTED
    assert await world.available(world.referrer) == REFERRER_BONUS


async def test_a_debt_is_taken_of_the_bonus(world: World) -> None:
    await world.change_merchant(clawback_policy=ClawbackPolicy.OFFSET)
    lost = await world.buy(world.referrer)
    async with transaction() as session:
        await pay_out(session, world.settings, world.referrer, CASHBACK, "PKR")
    await world.move(lost, OrderStatus.REVERSED)
    await world.buy()
    assert await world.available(world.referrer) == REFERRER_BONUS - CASHBACK
    async with transaction() as session:
        assert (await session.scalars(select(Clawback.status))).all() == [ClawbackStatus.RECOVERED]


async def test_verify_names_a_bonus_that_went_to_one_side_only(world: World) -> None:
    await world.buy()
    referral = await world.referral()
    async with transaction() as session:
        swap = [
            ledger.debit(Account.CUSTOMER_AVAILABLE, 1, "PKR", customer_id=world.referrer.id),
            ledger.credit(Account.CUSTOMER_AVAILABLE, 1, "PKR", customer_id=world.invited.id),
        ]
        async with session.begin_nested() as seeded:
            await ledger.post(session, cause_type=CauseType.REFERRAL, cause_id=referral.id, purpose="seed", lines=swap)
            found = await violations(session)
            await seeded.rollback()
    assert {(violation.invariant, violation.id) for violation in found} == {
        ("referrals_equal_postings", str(referral.id))
    }
    assert len(found) == 2


async def test_settling_again_changes_nothing(world: World) -> None:
    await world.buy()
    before = await world.transfers()
    async with transaction() as session:
        await settling.settle(session, (await world.referral()).id)
    assert await settle_referrals() == 0
    assert await world.transfers() == before


async def test_a_change_is_noted_once_it_is_committed_and_looked_at_later(world: World) -> None:
    order = await world.buy(status=OrderStatus.APPROVED)
    async with transaction() as session:
        (await session.merge(order)).payable_at = world.program.valid_from
    assert await release_payable() == 1
    assert (await world.referral()).status is ReferralStatus.WAITING
    assert await settle_referrals() == 1
    assert (await world.referral()).status is ReferralStatus.GRANTED


async def test_one_that_fails_delays_no_other_and_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with transaction() as session:
        second = await make_invited(session, world.referrer)
    broken = (await world.referral()).id
    original = settling.bring_up_to_date

    async def fails(session: Any, referral: Any) -> None:
        if referral.id == broken:
            raise ZeroDivisionError("a bug")
        await original(session, referral)

    monkeypatch.setattr(settling, "bring_up_to_date", fails)
    await world.buy()
    await world.buy(second)
    assert (await world.referral(second)).status is ReferralStatus.GRANTED
    assert (await world.referral()).status is ReferralStatus.WAITING
    monkeypatch.undo()
    await settle_referrals()
    assert (await world.referral()).status is ReferralStatus.GRANTED
    async with transaction() as session:
        assert (await session.scalars(select(ReferralCheck))).all() == []


async def share_payout_method(world: World, *customers: Customer, **changes: Any) -> None:
    account = PayoutAccount(
        PayoutMethodKind.LOCAL_ACCOUNT,
        holder="Ayesha Khan",
        country="PK",
        bank_code="HABB",
        account_number="00000000000001",
    )
    async with transaction() as session:
        for customer in customers:
            await make_payout_method(session, world.settings, customer, account, **changes)


async def assert_refused(world: World, reason: ReferralReason) -> None:
    referral = await world.referral()
    assert (referral.status, referral.reason, referral.order_id) == (ReferralStatus.REFUSED, reason, None)
    assert await world.transfers() == []

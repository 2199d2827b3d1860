"""Settling a referral: its bonuses are brought to what the invited customer's orders say now.

A change of an order only notes that the referral must be looked at. It is settled in a transaction of its own, which
locks the referral, then both customers by id, then both wallets by id. Whoever changes orders holds wallets of many
customers at a time; were bonuses granted there too, two of them could wait for each other.

What a referral is follows from the orders as they are, and not from what happened to them, so settling twice, late, or
in another order gives the same.
"""

from collections.abc import Sequence
from typing import assert_never
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.db import ring_after_commit
from app.models import (
    Account,
    CauseType,
    Customer,
    CustomerStatus,
    Order,
    OrderStatus,
    PayoutMethod,
    Referral,
    ReferralCheck,
    ReferralProgram,
    ReferralReason,
    ReferralStatus,
)
from app.services import clawbacks, ledger
from app.services.ledger import Line, credit, debit

BATCH = 200
# A bonus that was granted once keeps its place in the limit, so that it can always be reinstated with its order.
_COUNTED = (ReferralStatus.GRANTED, ReferralStatus.CLAWED_BACK)


async def follow_order(session: AsyncSession, order: Order) -> None:
    """Note that the bonus of whoever placed this order must be looked at; for an order that is or was payable."""
    noted = await session.execute(
        insert(ReferralCheck)
        .from_select(
            [ReferralCheck.referral_id.key], select(Referral.id).where(Referral.invited_id == order.customer_id)
        )
        .returning(ReferralCheck.id)
    )
    if noted.first() is not None:
        ring_after_commit(session, "settle_referrals")


async def noted_referrals(session: AsyncSession, *, after: int = 0, limit: int = BATCH) -> Sequence[tuple[int, UUID]]:
    """Return (number of its first note, id) of referrals to look at, in the order they were noted."""
    first = func.min(ReferralCheck.id)
    rows = await session.execute(
        select(first, ReferralCheck.referral_id)
        .group_by(ReferralCheck.referral_id)
        .having(first > after)
        .order_by(first)
        .limit(limit)
    )
    return [(row[0], row[1]) for row in rows]


async def settle(session: AsyncSession, referral_id: UUID) -> None:
    """Look at a referral that was noted. Safe to repeat and to run beside itself."""
    referral = await lock_referral(session, referral_id)
    if referral is None:
        return
    # Before the orders are read: a change that is committed after this statement has a note that stays.
    await session.execute(delete(ReferralCheck).where(ReferralCheck.referral_id == referral_id))
    await bring_up_to_date(session, referral)


async def lock_referral(session: AsyncSession, referral_id: UUID) -> Referral | None:
    """Return a referral, locked against others who settle it, but not against notes about it."""
    return await session.get(Referral, referral_id, with_for_update={"key_share": True}, populate_existing=True)


async def bring_up_to_date(session: AsyncSession, referral: Referral) -> None:
    """Grant a locked referral's bonuses, take them back, hold or refuse them, as the invited one's orders have it."""
    order_id = await _earning_order(session, referral)
    match referral.status:
        case ReferralStatus.REFUSED:
            pass
        case ReferralStatus.WAITING | ReferralStatus.HELD:
            reason = None if order_id is None else await _objection(session, referral)
            if order_id is None or reason is not None:
                referral.status, referral.reason = _without_bonus(reason), reason
            else:
                await _grant(session, referral, order_id)
        case ReferralStatus.CLAWED_BACK:
            # What spoke against it was asked when it was granted first.
            if order_id is not None:
                await _grant(session, referral, order_id)
        case ReferralStatus.GRANTED:
            if order_id is None:
                await _claw_back(session, referral)
            else:
                referral.order_id = order_id
        case _:
            assert_never(referral.status)
    await session.flush()


async def _earning_order(session: AsyncSession, referral: Referral) -> UUID | None:
    """Return the order that earns the bonus: the one that did so far, or else the first that counts."""
    order_id: UUID | None = await session.scalar(
        select(Order.id)
        .join(ReferralProgram, ReferralProgram.id == referral.program_id)
        .where(
            Order.customer_id == referral.invited_id,
            Order.status == OrderStatus.PAYABLE,
            Order.currency == referral.currency,
            Order.sale_minor >= ReferralProgram.minimum_sale_minor,
        )
        .order_by((Order.id == referral.order_id).desc(), Order.id)
        .limit(1)
    )
    return order_id


async def _objection(session: AsyncSession, referral: Referral) -> ReferralReason | None:
    """Return what speaks against granting a bonus for the first time."""
    referrer, invited = await _lock_customers(session, referral)
    if referrer.status is not CustomerStatus.ACTIVE:
        return ReferralReason.REFERRER_NOT_ACTIVE
    if invited.status is not CustomerStatus.ACTIVE:
        return ReferralReason.INVITED_NOT_ACTIVE
    if await _limit_reached(session, referral):
        return ReferralReason.LIMIT_REACHED
    # Whom staff have looked at is not asked for likenesses again.
    return await _likeness(session, referrer, invited) if referral.decided_by_id is None else None


async def _lock_customers(session: AsyncSession, referral: Referral) -> tuple[Customer, Customer]:
    """Return the referrer and the invited one, locked to the end.

    So neither account is closed meanwhile, and one transaction at a time counts a referrer's bonuses.
    """
    customers = await session.scalars(
        select(Customer)
        .where(Customer.id.in_((referral.referrer_id, referral.invited_id)))
        .order_by(Customer.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    by_id = {customer.id: customer for customer in customers}
    return by_id[referral.referrer_id], by_id[referral.invited_id]


async def _likeness(session: AsyncSession, referrer: Customer, invited: Customer) -> ReferralReason | None:
    """Return what the invited one has in common with the referrer that two people rarely have."""
    if await _shares_payout_method(session, referrer, invited):
        return ReferralReason.SAME_PAYOUT_METHOD
    if await _shares_device(session, referrer, invited):
        return ReferralReason.SAME_DEVICE
    if invited.address_hint is not None and invited.address_hint == referrer.address_hint:
        return ReferralReason.SAME_ADDRESS
    return None


async def _shares_payout_method(session: AsyncSession, referrer: Customer, invited: Customer) -> bool:
    """Whether the money would go where the referrer's, or that of one they invited before, goes or ever went."""
    theirs, other = aliased(PayoutMethod), aliased(PayoutMethod)
    shared = (
        select(other.id)
        .join(theirs, theirs.fingerprint == other.fingerprint)
        .join(Customer, Customer.id == other.customer_id)
        .where(theirs.customer_id == invited.id, _same_circle(referrer, invited))
    )
    return bool(await session.scalar(select(shared.exists())))


async def _shares_device(session: AsyncSession, referrer: Customer, invited: Customer) -> bool:
    if invited.device_hint is None:
        return False
    shared = select(Customer.id).where(Customer.device_hint == invited.device_hint, _same_circle(referrer, invited))
    return bool(await session.scalar(select(shared.exists())))


def _same_circle(referrer: Customer, invited: Customer) -> ColumnElement[bool]:
    """The referrer, and those they invited before: who makes an account for a bonus makes more of them."""
    return or_(
        Customer.id == referrer.id,
        (Customer.referred_by_id == referrer.id) & (Customer.id < invited.id),
    )


async def _limit_reached(session: AsyncSession, referral: Referral) -> bool:
    counted = select(func.count()).where(
        Referral.referrer_id == referral.referrer_id,
        Referral.program_id == referral.program_id,
        Referral.status.in_(_COUNTED),
    )
    program = await session.get_one(ReferralProgram, referral.program_id)
    return (await session.scalars(counted)).one() >= program.max_granted


def _without_bonus(reason: ReferralReason | None) -> ReferralStatus:
    match reason:
        case None:
            return ReferralStatus.WAITING
        case ReferralReason.SAME_ADDRESS:
            return ReferralStatus.HELD
        case _:
            return ReferralStatus.REFUSED


async def _grant(session: AsyncSession, referral: Referral, order_id: UUID) -> None:
    referral.status, referral.reason, referral.order_id = ReferralStatus.GRANTED, None, order_id
    lines = _bonuses(referral)
    await _post(session, referral, lines)
    # Their wallets are locked by now, so the order does not matter.
    for customer_id in [line.customer_id for line in lines if line.customer_id and line.amount_minor]:
        await clawbacks.recover_debts(session, customer_id=customer_id, currency=referral.currency)


async def _claw_back(session: AsyncSession, referral: Referral) -> None:
    """Take both bonuses back; what was paid out of them leaves the balance below zero."""
    referral.status = ReferralStatus.CLAWED_BACK
    await _post(session, referral, [line.reversed() for line in _bonuses(referral)])


async def _post(session: AsyncSession, referral: Referral, lines: Sequence[Line]) -> None:
    referral.revision += 1
    await ledger.post(
        session,
        cause_type=CauseType.REFERRAL,
        cause_id=referral.id,
        purpose=f"{referral.status.value}:{referral.revision}",
        lines=lines,
        details={"order_id": str(referral.order_id)},
    )


def _bonuses(referral: Referral) -> list[Line]:
    referrer_minor, invited_minor, currency = (
        referral.referrer_bonus_minor,
        referral.invited_bonus_minor,
        referral.currency,
    )
    return [
        debit(Account.PROMOTIONS, referrer_minor + invited_minor, currency),
        # Available at once, as the order is payable.
        credit(Account.CUSTOMER_AVAILABLE, referrer_minor, currency, customer_id=referral.referrer_id),
        credit(Account.CUSTOMER_AVAILABLE, invited_minor, currency, customer_id=referral.invited_id),
    ]

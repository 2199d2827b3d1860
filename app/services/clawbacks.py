"""Clawbacks: what becomes of cashback taken back that the available balance does not cover, by merchant's policy.

The wallet's row is always locked before a clawback's, here and in the jobs, so that two of them cannot deadlock.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

from sqlalchemy import Select, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

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
    Wallet,
)
from app.schemas.clawbacks import ClawbackPage, ClawbackRead
from app.services import ledger
from app.services.ledger import credit, debit
from app.services.pagination import newest_first

BATCH = 200


async def follow_order(session: AsyncSession, order: Order, *, merchant: Merchant, available_change_minor: int) -> None:
    """Follow a change of an order that moved the customer's available balance by so much; already posted."""
    wallet = await _lock_wallet(session, order.customer_id, order.currency)
    if wallet is None:
        return
    if available_change_minor < 0:
        await _take_back(session, order, merchant, wallet, -available_change_minor)
        return
    if order.status is OrderStatus.PAYABLE:
        await _reinstate(session, order, available_change_minor)
    if wallet.debt_minor > 0 or wallet.available_minor < available_change_minor:
        await recover_debts(session, customer_id=order.customer_id, currency=order.currency)


async def recover_debts(session: AsyncSession, *, customer_id: UUID, currency: str) -> int:
    """Take what a customer owes from what is available now, oldest debt first; returns the minor units taken.

    What has come back of a balance below zero is noted as well.
    """
    wallet = await _lock_wallet(session, customer_id, currency)
    if wallet is None:
        return 0
    clawbacks = (await session.scalars(_open_of(customer_id, currency))).all()
    _note_covered(wallet, [clawback for clawback in clawbacks if clawback.policy is not ClawbackPolicy.OFFSET])
    most_minor, taken_minor = min(max(0, wallet.available_minor), wallet.debt_minor), 0
    for clawback in clawbacks:
        if clawback.policy is not ClawbackPolicy.OFFSET or taken_minor == most_minor:
            continue
        part_minor = _cover(clawback, most_minor - taken_minor, ClawbackStatus.RECOVERED)
        taken_minor += part_minor
        await ledger.post(
            session,
            cause_type=CauseType.CLAWBACK,
            cause_id=clawback.id,
            # What is recovered so far names the step: it only grows.
            purpose=f"recovered:{clawback.recovered_minor}",
            lines=[
                debit(Account.CUSTOMER_AVAILABLE, part_minor, currency, customer_id=customer_id),
                credit(Account.CUSTOMER_DEBT, part_minor, currency, customer_id=customer_id),
            ],
        )
    await session.flush()
    return taken_minor


async def customers_to_recover(
    session: AsyncSession, *, after: tuple[UUID, str] | None = None, limit: int = BATCH
) -> Sequence[tuple[UUID, str]]:
    """Return (customer, currency) of wallets that have money and a debt, or are no longer below zero."""
    wallet = (Wallet.customer_id, Wallet.currency)
    below_zero = (
        select(Clawback.id)
        .where(
            Clawback.customer_id == Wallet.customer_id,
            Clawback.currency == Wallet.currency,
            Clawback.status == ClawbackStatus.OPEN,
            Clawback.policy != ClawbackPolicy.OFFSET,
        )
        .exists()
    )
    statement = (
        select(*wallet)
        .where(or_((Wallet.debt_minor > 0) & (Wallet.available_minor > 0), below_zero & (Wallet.available_minor >= 0)))
        .order_by(*wallet)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(*wallet) > after)
    return [(row.customer_id, row.currency) for row in await session.execute(statement)]


async def due_clawbacks(session: AsyncSession, *, after: UUID | None = None, limit: int = BATCH) -> Sequence[UUID]:
    """Return ids of clawbacks whose time to write off has come, in their order."""
    statement = (
        select(Clawback.id)
        .where(Clawback.status == ClawbackStatus.OPEN, Clawback.due_at <= func.now())
        .order_by(Clawback.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(Clawback.id > after)
    return (await session.scalars(statement)).all()


async def write_off(session: AsyncSession, clawback_id: UUID) -> int:
    """Write off what a due clawback still misses; returns the minor units, 0 when it was earned back.

    Safe to repeat.
    """
    clawback = await session.get_one(Clawback, clawback_id)
    # Locks the wallet, and leaves this clawback with no more than the balance misses.
    await recover_debts(session, customer_id=clawback.customer_id, currency=clawback.currency)
    await session.refresh(clawback, with_for_update=True)
    if clawback.status is not ClawbackStatus.OPEN or clawback.due_at is None or clawback.due_at > datetime.now(UTC):
        return 0
    missing_minor = clawback.shortfall_minor - clawback.recovered_minor
    order = await session.get_one(Order, clawback.order_id)
    clawback.status, clawback.written_off_minor = ClawbackStatus.WRITTEN_OFF, missing_minor
    await session.flush()
    await ledger.post(
        session,
        cause_type=CauseType.CLAWBACK,
        cause_id=clawback.id,
        purpose="written_off",
        lines=[
            debit(Account.BAD_DEBT, missing_minor, clawback.currency, merchant_id=order.merchant_id),
            credit(Account.CUSTOMER_AVAILABLE, missing_minor, clawback.currency, customer_id=clawback.customer_id),
        ],
    )
    return missing_minor


async def list_clawbacks(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: ClawbackStatus | None = None,
    customer_id: UUID | None = None,
) -> ClawbackPage:
    """Return clawbacks, newest first. Raises InvalidCursorError."""
    statement = select(Clawback)
    if status is not None:
        statement = statement.where(Clawback.status == status)
    if customer_id is not None:
        statement = statement.where(Clawback.customer_id == customer_id)
    rows, next_cursor = await newest_first(session, statement, Clawback.id, limit=limit, cursor=cursor)
    items = [ClawbackRead.model_validate(row) for row in rows]
    return ClawbackPage(items=items, next_cursor=next_cursor)


async def _take_back(session: AsyncSession, order: Order, merchant: Merchant, wallet: Wallet, taken_minor: int) -> None:
    shortfall_minor = min(taken_minor, max(0, -wallet.available_minor))
    if shortfall_minor == 0:
        return
    policy = merchant.clawback_policy
    clawback = Clawback(
        id=new_id(),
        order_id=order.id,
        customer_id=order.customer_id,
        currency=order.currency,
        policy=policy,
        status=ClawbackStatus.OPEN,
        shortfall_minor=shortfall_minor,
        recovered_minor=0,
        written_off_minor=0,
    )
    session.add(clawback)
    match policy:
        case ClawbackPolicy.NEGATIVE:
            pass
        case ClawbackPolicy.WRITE_OFF:
            clawback.due_at = datetime.now(UTC) + timedelta(days=merchant.write_off_days or 0)
        case ClawbackPolicy.OFFSET:
            await session.flush()
            await ledger.post(
                session,
                cause_type=CauseType.CLAWBACK,
                cause_id=clawback.id,
                purpose="debt",
                lines=[
                    debit(Account.CUSTOMER_DEBT, shortfall_minor, order.currency, customer_id=order.customer_id),
                    credit(Account.CUSTOMER_AVAILABLE, shortfall_minor, order.currency, customer_id=order.customer_id),
                ],
            )
        case _:
            assert_never(policy)
    await session.flush()


async def _reinstate(session: AsyncSession, order: Order, given_back_minor: int) -> None:
    """Let what an order gives back undo its own clawbacks, the last one first. A debt is recovered by its money."""
    clawbacks = await session.scalars(
        select(Clawback)
        .where(
            Clawback.order_id == order.id,
            Clawback.status.in_((ClawbackStatus.OPEN, ClawbackStatus.WRITTEN_OFF)),
            Clawback.policy != ClawbackPolicy.OFFSET,
        )
        .order_by(Clawback.id.desc())
        .with_for_update()
    )
    for clawback in clawbacks:
        if clawback.status is ClawbackStatus.OPEN:
            given_back_minor -= _cover(clawback, given_back_minor, ClawbackStatus.REINSTATED)
        else:
            given_back_minor -= await _undo_write_off(session, order, clawback, given_back_minor)
    await session.flush()


async def _undo_write_off(session: AsyncSession, order: Order, clawback: Clawback, most_minor: int) -> int:
    part_minor = min(most_minor, clawback.written_off_minor)
    if part_minor == 0:
        return 0
    clawback.written_off_minor -= part_minor
    if clawback.written_off_minor == 0:
        clawback.status = ClawbackStatus.REINSTATED
    await ledger.post(
        session,
        cause_type=CauseType.CLAWBACK,
        cause_id=clawback.id,
        # What is still written off names the step: it only shrinks.
        purpose=f"reinstated:{clawback.written_off_minor}",
        lines=[
            credit(Account.BAD_DEBT, part_minor, order.currency, merchant_id=order.merchant_id),
            debit(Account.CUSTOMER_AVAILABLE, part_minor, order.currency, customer_id=order.customer_id),
        ],
    )
    return part_minor


def _note_covered(wallet: Wallet, clawbacks: Sequence[Clawback]) -> None:
    """Note what has come back of shortfalls that left the balance below zero: whatever it misses no longer."""
    missing_minor = sum(clawback.shortfall_minor - clawback.recovered_minor for clawback in clawbacks)
    covered_minor = missing_minor - max(0, -wallet.available_minor)
    for clawback in clawbacks:
        if covered_minor > 0:
            covered_minor -= _cover(clawback, covered_minor, ClawbackStatus.RECOVERED)


def _cover(clawback: Clawback, most_minor: int, closed_as: ClawbackStatus) -> int:
    """Note that up to so much of an open clawback's shortfall has come back; returns how much of it."""
    part_minor = min(most_minor, clawback.shortfall_minor - clawback.recovered_minor)
    clawback.recovered_minor += part_minor
    if clawback.recovered_minor == clawback.shortfall_minor:
        clawback.status = closed_as
    return part_minor


def _open_of(customer_id: UUID, currency: str) -> Select[Clawback]:
    return (
        select(Clawback)
        .where(
            Clawback.customer_id == customer_id,
            Clawback.currency == currency,
            Clawback.status == ClawbackStatus.OPEN,
        )
        .order_by(Clawback.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


async def _lock_wallet(session: AsyncSession, customer_id: UUID, currency: str) -> Wallet | None:
    wallet: Wallet | None = await session.scalar(
        select(Wallet)
        .where(Wallet.customer_id == customer_id, Wallet.currency == currency)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return wallet

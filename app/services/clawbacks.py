"""Clawbacks: what becomes of cashback taken back that the available balance does not cover, by merchant's policy.

The wallet's row is always locked before a clawback's, here and in the jobs, so that two of them cannot deadlock.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import assert_never
from uuid import UUID

from sqlalchemy import Select, func, select
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
from app.services.pagination import cut_page, decode_cursor, encode_cursor

BATCH = 200


async def follow_order(session: AsyncSession, order: Order, *, merchant: Merchant, available_change_minor: int) -> None:
    """Follow a change of an order that moved the customer's available balance by so much; already posted."""
    if available_change_minor < 0:
        await _take_back(session, order, merchant, -available_change_minor)
        return
    if order.status is OrderStatus.PAYABLE:
        await _reinstate(session, order)
    await recover_debts(session, customer_id=order.customer_id, currency=order.currency)


async def recover_debts(session: AsyncSession, *, customer_id: UUID, currency: str) -> int:
    """Take what a customer owes from what is available now, oldest debt first; returns the minor units taken."""
    wallet = await _lock_wallet(session, customer_id, currency)
    if wallet is None or wallet.debt_minor == 0 or wallet.available_minor <= 0:
        return 0
    left_minor = min(wallet.available_minor, wallet.debt_minor)
    taken_minor = 0
    open_debts = await session.scalars(_open_of(customer_id, currency).where(Clawback.policy == ClawbackPolicy.OFFSET))
    for clawback in open_debts:
        part_minor = min(left_minor - taken_minor, clawback.shortfall_minor - clawback.recovered_minor)
        if part_minor <= 0:
            continue
        clawback.recovered_minor += part_minor
        if clawback.recovered_minor == clawback.shortfall_minor:
            clawback.status = ClawbackStatus.RECOVERED
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
        taken_minor += part_minor
    await session.flush()
    return taken_minor


async def customers_to_recover(session: AsyncSession, *, limit: int = BATCH) -> Sequence[tuple[UUID, str]]:
    """Return (customer, currency) of wallets that have money and a debt."""
    rows = await session.execute(
        select(Wallet.customer_id, Wallet.currency)
        .where(Wallet.debt_minor > 0, Wallet.available_minor > 0)
        .order_by(Wallet.customer_id, Wallet.currency)
        .limit(limit)
    )
    return [(row.customer_id, row.currency) for row in rows]


async def due_clawbacks(session: AsyncSession, *, limit: int = BATCH) -> Sequence[UUID]:
    """Return ids of clawbacks whose time to write off has come."""
    return (
        await session.scalars(
            select(Clawback.id)
            .where(Clawback.status == ClawbackStatus.OPEN, Clawback.due_at <= func.now())
            .order_by(Clawback.due_at)
            .limit(limit)
        )
    ).all()


async def write_off(session: AsyncSession, clawback_id: UUID) -> int:
    """Write off what a due clawback still misses; returns the minor units, 0 when it was earned back.

    Safe to repeat.
    """
    clawback = await session.get_one(Clawback, clawback_id)
    wallet = await _lock_wallet(session, clawback.customer_id, clawback.currency)
    await session.refresh(clawback, with_for_update=True)
    if clawback.status is not ClawbackStatus.OPEN or clawback.due_at is None or clawback.due_at > datetime.now(UTC):
        return 0
    missing_minor = min(clawback.shortfall_minor, max(0, -(wallet.available_minor if wallet else 0)))
    if missing_minor == 0:
        clawback.status, clawback.recovered_minor = ClawbackStatus.RECOVERED, clawback.shortfall_minor
        await session.flush()
        return 0
    order = await session.get_one(Order, clawback.order_id)
    clawback.status = ClawbackStatus.WRITTEN_OFF
    clawback.written_off_minor = missing_minor
    clawback.recovered_minor = clawback.shortfall_minor - missing_minor
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
    statement = select(Clawback).order_by(Clawback.id.desc()).limit(limit + 1)
    if status is not None:
        statement = statement.where(Clawback.status == status)
    if customer_id is not None:
        statement = statement.where(Clawback.customer_id == customer_id)
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, UUID)
        statement = statement.where(Clawback.id < last_id)
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    items = [ClawbackRead.model_validate(row) for row in rows]
    return ClawbackPage(items=items, next_cursor=encode_cursor(rows[-1].id) if more else None)


async def _take_back(session: AsyncSession, order: Order, merchant: Merchant, taken_minor: int) -> None:
    wallet = await _lock_wallet(session, order.customer_id, order.currency)
    shortfall_minor = min(taken_minor, max(0, -(wallet.available_minor if wallet else 0)))
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


async def _reinstate(session: AsyncSession, order: Order) -> None:
    """Undo what an order's clawbacks wrote off, now that it is paid after all. A debt is recovered by its money."""
    clawbacks = await session.scalars(
        select(Clawback)
        .where(
            Clawback.order_id == order.id,
            Clawback.status.in_((ClawbackStatus.OPEN, ClawbackStatus.WRITTEN_OFF)),
            Clawback.policy != ClawbackPolicy.OFFSET,
        )
        .order_by(Clawback.id)
        .with_for_update()
    )
    for clawback in clawbacks:
        clawback.status = ClawbackStatus.REINSTATED
        if clawback.written_off_minor:
            await ledger.post(
                session,
                cause_type=CauseType.CLAWBACK,
                cause_id=clawback.id,
                purpose="reinstated",
                lines=[
                    credit(Account.BAD_DEBT, clawback.written_off_minor, order.currency, merchant_id=order.merchant_id),
                    debit(
                        Account.CUSTOMER_AVAILABLE,
                        clawback.written_off_minor,
                        order.currency,
                        customer_id=order.customer_id,
                    ),
                ],
            )
    await session.flush()


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
    )


async def _lock_wallet(session: AsyncSession, customer_id: UUID, currency: str) -> Wallet | None:
    wallet: Wallet | None = await session.scalar(
        select(Wallet)
        .where(Wallet.customer_id == customer_id, Wallet.currency == currency)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return wallet

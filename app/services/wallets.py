"""A customer's balances and the postings behind them, read from the primary and never from a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Account, CauseType, Order, Posting, Transfer, Wallet
from app.services.pagination import cut_page, decode_cursor, encode_cursor

_BALANCES = {
    Account.CUSTOMER_PENDING: "pending",
    Account.CUSTOMER_AVAILABLE: "available",
    Account.CUSTOMER_IN_PAYOUT: "in_payout",
    Account.CUSTOMER_DEBT: "debt",
}


@dataclass(frozen=True, slots=True)
class WalletEntry:
    """One movement of one balance: minor units, positive when it grew."""

    id: int
    balance: str
    amount_minor: int
    currency: str
    cause: str
    order_id: UUID | None
    merchant_id: int | None
    payout_id: UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Movements, newest first."""

    items: list[WalletEntry]
    next_cursor: str | None


async def balances(session: AsyncSession, customer_id: UUID) -> Sequence[Row[str, int, int, int, int]]:
    """Return (currency, pending_minor, available_minor, in_payout_minor, paid_minor) for each currency, in order."""
    return (
        await session.execute(
            select(
                Wallet.currency,
                Wallet.pending_minor,
                Wallet.available_minor,
                Wallet.in_payout_minor,
                Wallet.paid_minor,
            )
            .where(Wallet.customer_id == customer_id)
            .order_by(Wallet.currency)
        )
    ).all()


async def list_entries(session: AsyncSession, *, customer_id: UUID, limit: int, cursor: str | None) -> EntryPage:
    """List the movements of a customer's balances, newest first. Raises InvalidCursorError."""
    statement = (
        select(Posting, Transfer, Order.id, Order.merchant_id)
        .join(Transfer, Transfer.id == Posting.transfer_id)
        .outerjoin(Order, (Order.id == Transfer.cause_id) & (Transfer.cause_type == CauseType.ORDER))
        .where(Posting.customer_id == customer_id)
        .order_by(Posting.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, int)
        statement = statement.where(Posting.id < last_id)
    rows, more = cut_page((await session.execute(statement)).all(), limit)
    entries = [
        WalletEntry(
            id=posting.id,
            balance=_BALANCES[posting.account],
            # What we owe grows by a credit, which is negative in the ledger; a debt to us grows by a debit.
            amount_minor=posting.amount_minor if posting.account is Account.CUSTOMER_DEBT else -posting.amount_minor,
            currency=posting.currency,
            cause=transfer.purpose.partition(":")[0],
            order_id=order_id,
            merchant_id=merchant_id,
            payout_id=transfer.cause_id if transfer.cause_type is CauseType.PAYOUT else None,
            created_at=posting.created_at,
        )
        for posting, transfer, order_id, merchant_id in rows
    ]
    return EntryPage(entries, encode_cursor(entries[-1].id) if more else None)

"""A customer's balances and the postings behind them, read from the primary and never from a cache.

The balances are a hot read: one statement finds out whether the session lasts, and writes the answer's JSON.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import CTE, Row, Select, Subquery, case, func, literal_column, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import (
    Account,
    CauseType,
    Clawback,
    Customer,
    Merchant,
    Order,
    Posting,
    Transfer,
    Wallet,
)
from app.reads import Read
from app.schemas.wallets import Balance
from app.services.json_items import Shape, json_object, json_text
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.tokens import InvalidAccessTokenError, signed_in_customer

BALANCES = {
    Account.CUSTOMER_PENDING: "pending",
    Account.CUSTOMER_AVAILABLE: "available",
    Account.CUSTOMER_IN_PAYOUT: "in_payout",
    Account.CUSTOMER_DEBT: "debt",
}
# What we owe grows by a credit, which is negative in the ledger; a debt to us grows by a debit.
GROWTH = case((Posting.account == Account.CUSTOMER_DEBT, Posting.amount_minor), else_=-Posting.amount_minor)

EntryRow: TypeAlias = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class WalletEntry:
    """One movement of one balance: minor units, positive when it grew."""

    id: int
    balance: str
    amount_minor: int
    currency: str
    cause_type: CauseType
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


async def read_wallet(*, customer_id: UUID, session_id: UUID) -> bytes:
    """Return the JSON of a `WalletRead`, currencies in order. Raises InvalidAccessTokenError when the session ended."""
    rows = await wallet_statement().fetch(customer_id=customer_id, session_id=session_id)
    if not rows:
        raise InvalidAccessTokenError.ended()
    item: str = rows[0]["item"]
    return item.encode()


@cache
def wallet_statement() -> Read:
    """Select a customer's balances by `customer_id` and `session_id`; no row when the session has ended."""
    shown: Shape = {name: getattr(Wallet, name) for name in Balance.model_fields}
    balances = (
        select(func.json_agg(aggregate_order_by(json_object(shown), Wallet.currency)))
        .where(Wallet.customer_id == Customer.id)
        .scalar_subquery()
    )
    item = json_text({"balances": func.coalesce(balances, literal_column("'[]'::json"))})
    return Read.of(signed_in_customer().with_only_columns(item))


async def list_entries(session: AsyncSession, *, customer_id: UUID, limit: int, cursor: str | None) -> EntryPage:
    """List the movements of a customer's balances, newest first. Raises InvalidCursorError."""
    postings = (
        select(
            Posting.id,
            Posting.transfer_id,
            Posting.account,
            Posting.currency,
            Posting.created_at,
            GROWTH.label("amount_minor"),
        )
        .where(Posting.customer_id == customer_id)
        .order_by(Posting.id.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, int)
        postings = postings.where(Posting.id < last_id)
    found = postings.subquery()
    rows, more = cut_page((await session.execute(with_causes(found).order_by(found.c.id.desc()))).all(), limit)
    return EntryPage([entry(row) for row in rows], encode_cursor(rows[-1].id) if more else None)


def with_causes(postings: Subquery | CTE) -> Select[*tuple[Any, ...]]:
    """Select postings of customers, all their columns, each with what caused it."""
    order_id = case((Transfer.cause_type == CauseType.ORDER, Transfer.cause_id), else_=Clawback.order_id)
    return (
        select(
            postings,
            Transfer.cause_type,
            Transfer.purpose,
            Order.id.label("order_id"),
            Order.merchant_id,
            Merchant.name.label("merchant"),
            case((Transfer.cause_type == CauseType.PAYOUT, Transfer.cause_id)).label("payout_id"),
        )
        .join(Transfer, Transfer.id == postings.c.transfer_id)
        .outerjoin(Clawback, (Clawback.id == Transfer.cause_id) & (Transfer.cause_type == CauseType.CLAWBACK))
        .outerjoin(Order, Order.id == order_id)
        .outerjoin(Merchant, Merchant.id == Order.merchant_id)
    )


def entry(row: EntryRow) -> WalletEntry:
    """Return a row of `with_causes` as a movement."""
    return WalletEntry(
        id=row.id,
        balance=BALANCES[row.account],
        amount_minor=row.amount_minor,
        currency=row.currency,
        cause_type=row.cause_type,
        cause=row.purpose.partition(":")[0],
        order_id=row.order_id,
        merchant_id=row.merchant_id,
        payout_id=row.payout_id,
        created_at=row.created_at,
    )

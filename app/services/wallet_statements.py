"""A customer's statement: opening balances, each movement with the balance after it, closing balances.

Opening, plus the movements, is closing, for any period; and what closes one period opens the next.
"""

import csv
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from io import StringIO
from typing import Any
from uuid import UUID

from sqlalchemy import CompoundSelect, func, null, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.errors import NotFoundError
from app.models import Customer, Posting
from app.money import format_minor
from app.schemas.common import utc
from app.schemas.wallets import StatementBalance, StatementLine, WalletStatement
from app.services.ledger.statements import Key, Period
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.report_tables import escape_formula
from app.services.wallets import BALANCES, GROWTH, EntryRow, entry, with_causes

CSV_COLUMNS = (
    "at",
    "currency",
    "balance",
    "kind",
    "cause",
    "order_id",
    "payout_id",
    "merchant",
    "amount",
    "balance_after",
)
# Rows of one transaction of a CSV: a reader that takes its time holds no connection meanwhile.
CSV_BATCH = 2_000


class UnknownCustomerError(NotFoundError):
    """No customer has this id."""

    code = "unknown_customer"
    title = "Unknown customer"

    def __init__(self, customer_id: UUID) -> None:
        super().__init__(f"There is no customer {customer_id}.")


async def require_customer(session: AsyncSession, customer_id: UUID) -> None:
    """Raise UnknownCustomerError unless there is, or was, such a customer."""
    if await session.get(Customer, customer_id) is None:
        raise UnknownCustomerError(customer_id)


async def read_statement(
    session: AsyncSession, *, customer_id: UUID, period: Period, currency: str | None, limit: int, cursor: str | None
) -> WalletStatement:
    """Return a page of a customer's statement, oldest movement first. Raises InvalidCursorError."""
    key: Key = (period.start, 0)
    if cursor is not None:
        moment, last_id = decode_cursor(cursor, datetime, int)
        key = max(key, (moment, last_id))
    rows = (await session.execute(_statement(customer_id, period, currency, key=key, limit=limit + 1))).all()
    lines, more = cut_page([row for row in rows if row.id is not None], limit)
    balances = [row for row in rows if row.id is None]
    return WalletStatement(
        first=period.start,
        last=period.end,
        opening=_balances((row.currency, BALANCES[row.account], row.opening) for row in balances),
        items=[_line(row) for row in lines],
        closing=_balances((row.currency, BALANCES[row.account], row.closing) for row in balances),
        next_cursor=encode_cursor(lines[-1].created_at, lines[-1].id) if more else None,
    )


async def stream_csv(*, customer_id: UUID, period: Period, currency: str | None) -> AsyncIterator[str]:
    """Yield a customer's whole statement as CSV (RFC 4180), amounts as decimals in the major unit.

    The first lines are the opening balances, the last ones the closing balances.
    """
    yield _csv([CSV_COLUMNS])
    cursor, first = None, True
    while first or cursor is not None:
        async with transaction() as session:
            page = await read_statement(
                session, customer_id=customer_id, period=period, currency=currency, limit=CSV_BATCH, cursor=cursor
            )
        if first:
            yield _csv(_csv_balances(page, "opening"))
        yield _csv(_csv_line(line) for line in page.items)
        cursor, first = page.next_cursor, False
        if cursor is None:
            yield _csv(_csv_balances(page, "closing"))


def _statement(
    customer_id: UUID, period: Period, currency: str | None, *, key: Key, limit: int
) -> CompoundSelect[*tuple[Any, ...]]:
    """Select the movements after a key, and a row without id for each balance: one statement, and so one snapshot."""
    before = select(
        Posting.id,
        Posting.transfer_id,
        Posting.account,
        Posting.currency,
        Posting.created_at,
        GROWTH.label("amount_minor"),
        func.sum(GROWTH)
        .over(partition_by=(Posting.currency, Posting.account), order_by=(Posting.created_at, Posting.id))
        .label("balance_minor"),
    ).where(Posting.customer_id == customer_id, Posting.created_at < period.end)
    if currency is not None:
        before = before.where(Posting.currency == currency)
    all_of_them = before.cte("movements")
    page = (
        select(all_of_them)
        .where(tuple_(all_of_them.c.created_at, all_of_them.c.id) > tuple_(*key))
        .order_by(all_of_them.c.created_at, all_of_them.c.id)
        .limit(limit)
        .subquery()
    )
    lines = with_causes(page).add_columns(null().label("opening"), null().label("closing"))
    amount = func.sum(all_of_them.c.amount_minor)
    sums = {
        "account": all_of_them.c.account,
        "currency": all_of_them.c.currency,
        "opening": func.coalesce(amount.filter(all_of_them.c.created_at < period.start), 0),
        "closing": amount,
    }
    balances = select(
        *(sums.get(column.name, null()).label(column.name) for column in lines.selected_columns)
    ).group_by(all_of_them.c.currency, all_of_them.c.account)
    return union_all(lines, balances).order_by("created_at", "id")


def _line(row: EntryRow) -> StatementLine:
    return StatementLine(**asdict(entry(row)), merchant=row.merchant, balance_minor=row.balance_minor)


def _balances(amounts: Iterable[tuple[str, str, Any]]) -> list[StatementBalance]:
    by_currency: dict[str, dict[str, int]] = {}
    for currency, balance, amount in amounts:
        by_currency.setdefault(currency, {})[f"{balance}_minor"] = int(amount)
    return [StatementBalance(currency=currency, **balances) for currency, balances in sorted(by_currency.items())]


def _csv_balances(page: WalletStatement, kind: str) -> Iterable[Sequence[object]]:
    at, balances = (page.first, page.opening) if kind == "opening" else (page.last, page.closing)
    for of_currency in balances:
        for name in BALANCES.values():
            amount = format_minor(getattr(of_currency, f"{name}_minor"), of_currency.currency)
            yield (utc(at), of_currency.currency, name, kind, "", "", "", "", "", amount)


def _csv_line(line: StatementLine) -> Sequence[object]:
    return (
        utc(line.created_at),
        line.currency,
        line.balance,
        line.cause_type.value,
        line.cause,
        line.order_id or "",
        line.payout_id or "",
        escape_formula(line.merchant or ""),
        format_minor(line.amount_minor, line.currency),
        format_minor(line.balance_minor, line.currency),
    )


def _csv(rows: Iterable[Sequence[object]]) -> str:
    output = StringIO(newline="")
    csv.writer(output).writerows(rows)
    return output.getvalue()

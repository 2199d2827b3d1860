"""Closing months: a finished month's trial balances and movements, taken from sealed days and kept for good."""

import csv
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from io import StringIO
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, NotFoundError
from app.models import LedgerDay, LedgerDayTotal, MonthClose, Transfer
from app.money import format_minor
from app.schemas.ledger import AccountMonth, MonthClosePage, MonthCloseRead, MonthReport
from app.services.ledger.chain import midnight
from app.services.ledger.verify import without_timeout
from app.services.pagination import cut_page, decode_cursor, encode_cursor

CSV_COLUMNS = ("month", "account", "currency", "opening", "debit", "credit", "closing", "postings")


class MonthNotSealedError(ConflictError):
    """The month is not over, or its days are not sealed yet, or the ledger begins after it."""

    code = "month_not_sealed"
    title = "Month cannot be closed"

    def __init__(self, month: str, last: date | None) -> None:
        sealed = f"days are sealed up to {last}" if last else "no day is sealed"
        super().__init__(f"{month} can be closed once its last day is sealed; {sealed}.")


class MonthNotClosedError(NotFoundError):
    """The month has not been closed."""

    code = "month_not_closed"
    title = "Month not closed"

    def __init__(self, month: str) -> None:
        super().__init__(f"{month} has not been closed.")


async def close_month(session: AsyncSession, *, month: str, closed_by_id: UUID) -> MonthCloseRead:
    """Close a month of the form `2026-11`; one that is closed stays as it is. Raises MonthNotSealedError."""
    first = date.fromisoformat(f"{month}-01")
    if await session.get(MonthClose, first) is None:
        last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        day = await session.get(LedgerDay, last)
        if day is None:
            raise MonthNotSealedError(month, await session.scalar(select(func.max(LedgerDay.day))))
        report = await _report(session, first, last)
        closed = insert(MonthClose).values(
            month=first, report=report.model_dump(mode="json"), chain_hash=day.hash, closed_by_id=closed_by_id
        )
        # Two may close it at once: sealed days give both the same report, and one of them is kept.
        await session.execute(closed.on_conflict_do_nothing())
    return _read(await session.get_one(MonthClose, first))


async def get_month(session: AsyncSession, *, month: str) -> MonthCloseRead:
    """Return a closed month. Raises MonthNotClosedError."""
    closed = await session.get(MonthClose, date.fromisoformat(f"{month}-01"))
    if closed is None:
        raise MonthNotClosedError(month)
    return _read(closed)


async def list_months(session: AsyncSession, *, limit: int, cursor: str | None) -> MonthClosePage:
    """Return closed months, the last one first. Raises InvalidCursorError."""
    statement = select(MonthClose).order_by(MonthClose.month.desc()).limit(limit + 1)
    if cursor is not None:
        (before,) = decode_cursor(cursor, datetime)
        statement = statement.where(MonthClose.month < before.date())
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    items = [_read(row) for row in rows]
    return MonthClosePage(items=items, next_cursor=encode_cursor(midnight(rows[-1].month)) if more else None)


def month_csv(closed: MonthCloseRead) -> str:
    """Return a closed month as CSV (RFC 4180), amounts as decimals in the major unit."""
    output = StringIO(newline="")
    writer = csv.writer(output)
    writer.writerow(CSV_COLUMNS)
    writer.writerows(_csv_rows(closed))
    return output.getvalue()


def _csv_rows(closed: MonthCloseRead) -> Iterator[tuple[object, ...]]:
    for row in closed.report.accounts:
        amounts = (row.opening_minor, row.debit_minor, row.credit_minor, row.closing_minor)
        shown = (format_minor(amount, row.currency) for amount in amounts)
        yield (closed.month, row.account.value, row.currency, *shown, row.postings)


async def _report(session: AsyncSession, first: date, last: date) -> MonthReport:
    await without_timeout(session)
    total = LedgerDayTotal
    balance, within = total.debit_minor - total.credit_minor, total.day >= first
    rows = await session.execute(
        select(
            total.account,
            total.currency,
            func.coalesce(func.sum(balance).filter(total.day < first), 0).label("opening"),
            func.coalesce(func.sum(total.debit_minor).filter(within), 0).label("debit"),
            func.coalesce(func.sum(total.credit_minor).filter(within), 0).label("credit"),
            func.sum(balance).label("closing"),
            func.coalesce(func.sum(total.postings).filter(within), 0).label("postings"),
        )
        .where(total.day <= last)
        .group_by(total.account, total.currency)
        .order_by(total.currency, total.account)
    )
    accounts = [
        AccountMonth(
            account=row.account,
            currency=row.currency,
            opening_minor=int(row.opening),
            debit_minor=int(row.debit),
            credit_minor=int(row.credit),
            closing_minor=int(row.closing),
            postings=int(row.postings),
        )
        for row in rows
    ]
    days = (
        await session.execute(
            select(func.count(), func.sum(LedgerDay.postings)).where(LedgerDay.day >= first, LedgerDay.day <= last)
        )
    ).one()
    transfers = await session.execute(
        select(Transfer.cause_type, func.count())
        .where(Transfer.created_at >= midnight(first), Transfer.created_at < midnight(last) + timedelta(days=1))
        .group_by(Transfer.cause_type)
        .order_by(Transfer.cause_type)
    )
    counts = {row.cause_type: row[1] for row in transfers}
    return MonthReport(accounts=accounts, days=days[0], postings=int(days[1]), transfers=counts)


def _read(closed: MonthClose) -> MonthCloseRead:
    return MonthCloseRead(
        month=f"{closed.month:%Y-%m}",
        report=MonthReport.model_validate(closed.report),
        chain_hash=closed.chain_hash.hex(),
        closed_by_id=closed.closed_by_id,
        closed_at=closed.closed_at,
    )

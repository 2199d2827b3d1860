"""What accounts held and what moved them, at any time: trial balances, statements of accounts, single transfers.

A balance is a sum of the totals of sealed days and of the postings after them, so that it costs the same in any year.
A posting belongs to the time its transaction began, which all lines of a transfer share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Row, ScalarSelect, Select, func, literal, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError
from app.models import Account, LedgerDay, LedgerDayTotal, Merchant, Posting, Transfer
from app.schemas.ledger import (
    AccountLine,
    AccountStatement,
    AccountTotals,
    CurrencyTotals,
    LedgerDayPage,
    LedgerDayRead,
    TransferPosting,
    TransferRead,
    TrialBalance,
)
from app.services.catalogue import MerchantNotFoundError
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.report import InvalidPeriodError

DEFAULT_DAYS = 30
_NONE_SEALED = date.min
# A place among postings in order of time: the time of one and its id.
Key: TypeAlias = tuple[datetime, int]


class TransferNotFoundError(NotFoundError):
    """No transfer has this id."""

    code = "transfer_not_found"
    title = "Transfer not found"

    def __init__(self, transfer_id: UUID) -> None:
        super().__init__(f"There is no transfer {transfer_id}.")


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` until before `end`."""

    start: datetime
    end: datetime


async def choose_period(session: AsyncSession, first: date | datetime | None, last: date | datetime | None) -> Period:
    """Return the period from `first` to `last`: a day is meant as a whole, a time exactly. Ends now at the latest.

    By default it is the 30 days before its end. Raises InvalidPeriodError.
    """
    now = await _clock(session)
    try:
        end = min(now, _end(last)) if last is not None else now
        start = _start(first) if first is not None else end - timedelta(days=DEFAULT_DAYS)
    except OverflowError:
        raise InvalidPeriodError("The period leaves the calendar.") from None
    if start >= end:
        raise InvalidPeriodError("The period begins after its end, or after now.")
    return Period(start, end)


async def trial_balance(session: AsyncSession, *, at: date | datetime | None) -> TrialBalance:
    """Sum up all that was posted before a moment, by account and currency. Raises InvalidPeriodError."""
    end = (await choose_period(session, date.min, at)).end
    sealed = _over(await _last_sealed(session), end)
    days = select(
        LedgerDayTotal.account,
        LedgerDayTotal.currency,
        func.sum(LedgerDayTotal.debit_minor).label("debit"),
        func.sum(LedgerDayTotal.credit_minor).label("credit"),
    ).where(LedgerDayTotal.day <= sealed)
    rest = select(
        Posting.account,
        Posting.currency,
        func.sum(func.greatest(Posting.amount_minor, 0)),
        -func.sum(func.least(Posting.amount_minor, 0)),
    ).where(Posting.created_at >= _end(sealed), Posting.created_at < end)
    both = union_all(
        days.group_by(LedgerDayTotal.account, LedgerDayTotal.currency),
        rest.group_by(Posting.account, Posting.currency),
    ).subquery()
    rows = await session.execute(
        select(both.c.account, both.c.currency, func.sum(both.c.debit), func.sum(both.c.credit))
        .group_by(both.c.account, both.c.currency)
        .order_by(both.c.currency, both.c.account)
    )
    items = [
        AccountTotals(
            account=account,
            currency=currency,
            debit_minor=int(debit),
            credit_minor=int(credit),
            balance_minor=int(debit - credit),
        )
        for account, currency, debit, credit in rows
    ]
    return TrialBalance(at=end, items=items, totals=_totals(items))


async def account_statement(
    session: AsyncSession,
    *,
    account: Account,
    currency: str,
    merchant_id: int | None,
    period: Period,
    limit: int,
    cursor: str | None,
) -> AccountStatement:
    """Return a page of an account's postings, oldest first. Raises MerchantNotFoundError, InvalidCursorError."""
    if merchant_id is not None and await session.get(Merchant, merchant_id) is None:
        raise MerchantNotFoundError(merchant_id)
    key: Key = (period.start, 0)
    if cursor is not None:
        moment, last_id = decode_cursor(cursor, datetime, int)
        key = max(key, (moment, last_id))
    scope = _Scope(account, currency, merchant_id, await _last_sealed(session))
    # The bare time again, since a BRIN index compares no pairs.
    lines = scope.postings().where(_key > tuple_(*key), Posting.created_at >= key[0], Posting.created_at < period.end)
    page = lines.order_by(Posting.created_at, Posting.id).limit(limit + 1).subquery()
    # One statement, and so one snapshot: opening, lines and closing fit whatever is posted meanwhile.
    sums = select(
        scope.balance((period.start, 0)).label("opening"),
        scope.balance(key).label("before"),
        scope.balance((period.end, 0)).label("closing"),
    ).subquery()
    rows = (
        await session.execute(
            select(sums, page, Transfer.cause_type, Transfer.cause_id, Transfer.purpose)
            .select_from(sums)
            .outerjoin(page, literal(True))  # noqa: FBT003 - a condition that always holds
            .outerjoin(Transfer, Transfer.id == page.c.transfer_id)
            .order_by(page.c.created_at, page.c.id)
        )
    ).all()
    shown, more = cut_page([row for row in rows if row.id is not None], limit)
    return AccountStatement(
        account=account,
        currency=currency,
        merchant_id=merchant_id,
        first=period.start,
        last=period.end,
        opening_minor=int(rows[0].opening),
        closing_minor=int(rows[0].closing),
        items=_lines(shown, int(rows[0].before)),
        next_cursor=encode_cursor(shown[-1].created_at, shown[-1].id) if more else None,
    )


async def read_transfer(session: AsyncSession, *, transfer_id: UUID) -> TransferRead:
    """Return a transfer with its postings. Raises TransferNotFoundError."""
    transfer = await session.get(Transfer, transfer_id)
    if transfer is None:
        raise TransferNotFoundError(transfer_id)
    postings = await session.scalars(select(Posting).where(Posting.transfer_id == transfer_id).order_by(Posting.id))
    return TransferRead(
        id=transfer.id,
        cause_type=transfer.cause_type,
        cause_id=transfer.cause_id,
        purpose=transfer.purpose,
        corrects_id=transfer.corrects_id,
        details=transfer.details,
        created_at=transfer.created_at,
        postings=[TransferPosting.model_validate(posting) for posting in postings],
    )


async def list_days(session: AsyncSession, *, limit: int, cursor: str | None) -> LedgerDayPage:
    """Return sealed days, the last one first. Raises InvalidCursorError."""
    statement = select(LedgerDay).order_by(LedgerDay.day.desc()).limit(limit + 1)
    if cursor is not None:
        (before,) = decode_cursor(cursor, datetime)
        statement = statement.where(LedgerDay.day < before.date())
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    items = [
        LedgerDayRead(
            day=row.day,
            postings=row.postings,
            previous_hash=row.previous_hash.hex(),
            hash=row.hash.hex(),
            sealed_at=row.sealed_at,
        )
        for row in rows
    ]
    return LedgerDayPage(items=items, next_cursor=encode_cursor(_start(items[-1].day)) if more else None)


_key = tuple_(Posting.created_at, Posting.id)


@dataclass(frozen=True, slots=True)
class _Scope:
    """One account in one currency, of all merchants or of one; and the last day that is sealed."""

    account: Account
    currency: str
    merchant_id: int | None
    sealed: date

    def postings(self) -> Select[*tuple[Any, ...]]:
        """Select the account's postings."""
        return select(
            Posting.id,
            Posting.transfer_id,
            Posting.merchant_id,
            Posting.customer_id,
            Posting.amount_minor,
            Posting.created_at,
        ).where(*self._of(Posting))

    def balance(self, key: Key) -> ScalarSelect[Any]:
        """Return the sum of all postings up to a place."""
        sealed = _over(self.sealed, key[0])
        days = (
            select(func.coalesce(func.sum(LedgerDayTotal.debit_minor - LedgerDayTotal.credit_minor), 0))
            .where(*self._of(LedgerDayTotal), LedgerDayTotal.day <= sealed)
            .scalar_subquery()
        )
        rest = (
            select(func.coalesce(func.sum(Posting.amount_minor), 0))
            .where(
                *self._of(Posting),
                Posting.created_at >= _end(sealed),
                Posting.created_at <= key[0],
                _key <= tuple_(*key),
            )
            .scalar_subquery()
        )
        return select(days + rest).scalar_subquery()

    def _of(self, model: type[Posting | LedgerDayTotal]) -> list[ColumnElement[bool]]:
        conditions = [model.account == self.account, model.currency == self.currency]
        if self.merchant_id is not None:
            conditions.append(model.merchant_id == self.merchant_id)
        if model is Posting and not self.account.per_customer:
            # Always so, and what the index of house accounts asks for.
            conditions.append(Posting.customer_id.is_(None))
        return conditions


def _lines(rows: Sequence[Row[*tuple[Any, ...]]], balance_minor: int) -> list[AccountLine]:
    lines = []
    for row in rows:
        balance_minor += row.amount_minor
        lines.append(
            AccountLine(
                id=row.id,
                transfer_id=row.transfer_id,
                cause_type=row.cause_type,
                cause_id=row.cause_id,
                purpose=row.purpose,
                merchant_id=row.merchant_id,
                customer_id=row.customer_id,
                amount_minor=row.amount_minor,
                balance_minor=balance_minor,
                created_at=row.created_at,
            )
        )
    return lines


def _totals(items: Sequence[AccountTotals]) -> list[CurrencyTotals]:
    totals = []
    for currency in sorted({item.currency for item in items}):
        debit = sum(item.debit_minor for item in items if item.currency == currency)
        credit = sum(item.credit_minor for item in items if item.currency == currency)
        totals.append(
            CurrencyTotals(currency=currency, debit_minor=debit, credit_minor=credit, difference_minor=debit - credit)
        )
    return totals


async def _last_sealed(session: AsyncSession) -> date:
    return await session.scalar(select(func.max(LedgerDay.day))) or _NONE_SEALED


def _over(sealed: date, moment: datetime) -> date:
    """Return the last sealed day that was over at a moment."""
    return min(sealed, moment.date() - timedelta(days=1)) if moment.date() > date.min else _NONE_SEALED


async def _clock(session: AsyncSession) -> datetime:
    # The database's: `created_at` is of it, and this moment comes after that of all that was committed.
    now: datetime = (await session.execute(select(func.clock_timestamp()))).scalar_one()
    return now.astimezone(UTC)


def _start(moment: date | datetime) -> datetime:
    return moment if isinstance(moment, datetime) else datetime.combine(moment, time.min, UTC)


def _end(moment: date | datetime) -> datetime:
    return moment if isinstance(moment, datetime) else datetime.combine(moment, time.min, UTC) + timedelta(days=1)

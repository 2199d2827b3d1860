"""The ledger for finance: trial balances, statements, transfers, sealed days, closed months."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, StaffIdempotencyDep, staff_with
from app.models import Account, MonthClose, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.ledger import (
    AccountStatement,
    AccountStatementQuery,
    LedgerDayPage,
    Month,
    MonthClosePage,
    MonthCloseRead,
    StatementFormat,
    TransferRead,
    TrialBalance,
    TrialBalanceQuery,
)
from app.services.ledger import close, statements

router = APIRouter(prefix="/v1/admin/ledger", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.LEDGER_READ)]
Closer = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.LEDGER_WRITE, on=MonthClose, by="month")]

MonthPath = Annotated[Month, Path()]


@router.get("/trial-balance", summary="Trial balance at any time")
async def get_trial_balance(
    session: SessionDep, _: Viewer, wanted: Annotated[TrialBalanceQuery, Query()]
) -> TrialBalance:
    """Sum up everything posted before a moment, by account and currency. Debits equal credits in each currency."""
    return await statements.trial_balance(session, at=wanted.at)


@router.get("/accounts/{account}/statement", summary="Statement of an account", responses=problems(404))
async def get_account_statement(
    session: SessionDep, _: Viewer, account: Account, wanted: Annotated[AccountStatementQuery, Query()]
) -> AccountStatement:
    """Return an account's postings of a period with running balances, between its opening and closing balance.

    A day of `from` or `to` (UTC) is meant as a whole; of times, `to` itself is not in the period. Amounts are positive
    for debits. Customers' accounts are shown over all customers; each has a statement of its own, too.
    """
    period = await statements.choose_period(session, wanted.first, wanted.last)
    return await statements.account_statement(
        session,
        account=account,
        currency=wanted.currency,
        merchant_id=wanted.merchant_id,
        period=period,
        limit=wanted.limit,
        cursor=wanted.cursor,
    )


@router.get("/transfers/{transfer_id}", summary="One transfer", responses=problems(404))
async def get_transfer(session: SessionDep, _: Viewer, transfer_id: UUID) -> TransferRead:
    """Return a transfer with its cause and its postings."""
    return await statements.read_transfer(session, transfer_id=transfer_id)


@router.get("/days", summary="Sealed days")
async def list_ledger_days(session: SessionDep, _: Viewer, page: PageDep) -> LedgerDayPage:
    """List the chain of sealed days, the last one first. A hash that is noted elsewhere proves all days up to it."""
    return await statements.list_days(session, limit=page.limit, cursor=page.cursor)


@router.post(
    "/months/{month}/close",
    status_code=201,
    summary="Close a month",
    response_model=MonthCloseRead,
    responses=problems(404, 409),
)
async def close_month(
    session: SessionDep, member: Closer, idempotency: StaffIdempotencyDep, month: MonthPath
) -> Response:
    """Keep the trial balances and movements of a finished month for good, once its last day is sealed.

    Closing it again gives the same.
    """
    return await idempotency.run(
        lambda: close.close_month(session, month=month, closed_by_id=member.id), MonthCloseRead, status=201
    )


@router.get("/months", summary="Closed months")
async def list_closed_months(session: SessionDep, _: Viewer, page: PageDep) -> MonthClosePage:
    """List closed months, the last one first."""
    return await close.list_months(session, limit=page.limit, cursor=page.cursor)


@router.get(
    "/months/{month}",
    summary="One closed month",
    response_model=MonthCloseRead,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}, **problems(404)},
)
async def get_closed_month(
    session: SessionDep,
    _: Viewer,
    month: MonthPath,
    form: Annotated[
        StatementFormat, Query(alias="format", description="`csv` is a table of `report.accounts`.")
    ] = StatementFormat.JSON,
) -> MonthCloseRead | Response:
    """Return a month as it was closed."""
    closed = await close.get_month(session, month=month)
    if form is StatementFormat.JSON:
        return closed
    headers = {"Content-Disposition": f'attachment; filename="month_{month}.csv"'}
    return Response(close.month_csv(closed), media_type="text/csv; charset=utf-8; header=present", headers=headers)

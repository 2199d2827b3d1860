"""The customer's wallet and its statements, for the customer and for staff."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import StreamingResponse

from app.dependencies import CurrentCustomer, PageDep, SessionDep, SignedIn, staff_with
from app.edge.finished import JSONBytes
from app.models import StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.ledger import StatementFormat
from app.schemas.wallets import StatementQuery, WalletEntryRead, WalletRead, WalletStatement
from app.services import wallet_statements, wallets
from app.services.ledger.statements import choose_period

router = APIRouter(prefix="/v1/me/wallet", tags=["wallet"], responses=problems(401))
admin_router = APIRouter(prefix="/v1/admin/customers", tags=["admin"], responses=problems(401, 403))

Reader = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.CUSTOMERS_READ)]

_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


@router.get("", summary="Balances in each currency", response_model=WalletRead)
async def get_wallet(signed_in: SignedIn) -> JSONBytes:
    """Pending, available, on its way out, and paid: read from the ledger's own rows, never from a cache."""
    body = await wallets.read_wallet(customer_id=signed_in.customer_id, session_id=signed_in.session_id)
    return JSONBytes(body)


@router.get("/entries", summary="Every movement of the balances")
async def list_wallet_entries(session: SessionDep, customer: CurrentCustomer, page: PageDep) -> Page[WalletEntryRead]:
    """List the movements, newest first; those of one balance add up to it."""
    entries = await wallets.list_entries(session, customer_id=customer.id, limit=page.limit, cursor=page.cursor)
    return Page[WalletEntryRead].model_validate(entries)


@router.get("/statement", summary="Statement of a period", response_model=WalletStatement, responses=_CSV)
async def get_wallet_statement(
    session: SessionDep, customer: CurrentCustomer, wanted: Annotated[StatementQuery, Query()]
) -> WalletStatement | StreamingResponse:
    """Return the movements of a period with running balances, between the opening and the closing balances.

    A day of `from` or `to` (UTC) is meant as a whole; of times, `to` itself is not in the period, so that what closes
    one statement opens the next. `csv` is the whole statement, with amounts as decimals in the major unit.
    """
    return await _statement(session, customer.id, wanted)


@admin_router.get(
    "/{customer_id}/statement",
    summary="Statement of a customer",
    response_model=WalletStatement,
    responses={**_CSV, **problems(404)},
)
async def get_customer_statement(
    session: SessionDep, _: Reader, customer_id: UUID, wanted: Annotated[StatementQuery, Query()]
) -> WalletStatement | StreamingResponse:
    """Return a customer's statement, as the customer sees it."""
    await wallet_statements.require_customer(session, customer_id)
    return await _statement(session, customer_id, wanted)


async def _statement(
    session: AsyncSession, customer_id: UUID, wanted: StatementQuery
) -> WalletStatement | StreamingResponse:
    period = await choose_period(session, wanted.first, wanted.last)
    if wanted.format is StatementFormat.JSON:
        return await wallet_statements.read_statement(
            session,
            customer_id=customer_id,
            period=period,
            currency=wanted.currency,
            limit=wanted.limit,
            cursor=wanted.cursor,
        )
    lines = wallet_statements.stream_csv(customer_id=customer_id, period=period, currency=wanted.currency)
    name = f"statement_{period.start.date()}_{period.end.date()}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(lines, media_type="text/csv; charset=utf-8; header=present", headers=headers)

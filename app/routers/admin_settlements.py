"""Settlements for staff: record what a network paid, and reconcile what does not match."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import ProposalKind, Settlement, SettlementLine, SettlementLineStatus, StaffKey, StaffRole, StaffScope
from app.openapi import PROPOSED, problems
from app.schemas.catalogue import MerchantId
from app.schemas.proposals import ProposalRead
from app.schemas.settlements import (
    SettlementCreate,
    SettlementDetail,
    SettlementLinePage,
    SettlementLineRead,
    SettlementPage,
    SettlementRead,
    SettlementReopen,
    SettlementResolve,
)
from app.services import proposals
from app.services.settlements import record, show

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.LEDGER_READ)]
Recorder = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.LEDGER_WRITE, on=Settlement)]
Resolver = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.LEDGER_WRITE, on=SettlementLine, by="line_id")]


@router.post(
    "/settlements",
    status_code=201,
    summary="Record a network's statement",
    response_model=SettlementRead,
    responses=problems(404, 409, 413, 422),
)
async def record_settlement(
    session: SessionDep, member: Recorder, idempotency: StaffIdempotencyDep, body: SettlementCreate
) -> Response:
    """Record what a network paid for a merchant, line by line, and compare it with what was owed for each order.

    Lines find their order by its number and the currency it was reported in. Several for one order add up; one below
    zero takes back. What does not match is shown at `/v1/admin/settlement-lines?open=true` and waits for staff.
    Orders whose cashback waited for this payment become payable. The body is JSON, at most 1 MiB and 10,000 lines; a
    larger statement, or a CSV file, is sent in parts with a reference each.
    """
    return await idempotency.run(
        lambda: record.record_settlement(session, wanted=body, created_by_id=member.id), SettlementRead, status=201
    )


@router.get("/settlements", summary="Settlements")
async def list_settlements(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    merchant_id: Annotated[MerchantId | None, Query(description="Only of this merchant.")] = None,
) -> SettlementPage:
    """Return settlements, the last recorded first."""
    return await show.list_settlements(session, limit=page.limit, cursor=page.cursor, merchant_id=merchant_id)


@router.get("/settlements/{settlement_id}", summary="One settlement with its lines", responses=problems(404))
async def get_settlement(session: SessionDep, _: Viewer, page: PageDep, settlement_id: UUID) -> SettlementDetail:
    """Show a settlement and, in their order, its lines: `limit` and `cursor` page through them."""
    return await show.get_settlement(session, settlement_id=settlement_id, limit=page.limit, cursor=page.cursor)


@router.get("/settlement-lines", summary="Lines of settlements")
async def list_settlement_lines(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    settlement_id: Annotated[UUID | None, Query(description="Only of this settlement.")] = None,
    merchant_id: Annotated[MerchantId | None, Query(description="Only of this merchant.")] = None,
    status: Annotated[SettlementLineStatus | None, Query(description="Only those that compared so.")] = None,
    only_open: Annotated[bool, Query(alias="open", description="Only those that wait for staff.")] = False,  # noqa: FBT002 - a query parameter
) -> SettlementLinePage:
    """Return lines, the oldest first, each with what is due for its order now."""
    return await show.list_lines(
        session,
        limit=page.limit,
        cursor=page.cursor,
        settlement_id=settlement_id,
        merchant_id=merchant_id,
        status=status,
        only_open=only_open,
    )


@router.post(
    "/settlement-lines/{line_id}/resolve",
    status_code=200,
    summary="Resolve a line that does not match",
    response_model=SettlementLineRead,
    responses={**PROPOSED, **problems(404, 409, 422)},
)
async def resolve_settlement_line(
    session: SessionDep,
    settings: SettingsDep,
    member: Resolver,
    idempotency: StaffIdempotencyDep,
    line_id: UUID,
    body: SettlementResolve,
) -> Response:
    """Decide about a line. A loss is booked to bad debt, what is kept to margin, at the amount that is due now.

    Other open lines of an order for which nothing is due any more close with it.
    """

    async def operation() -> SettlementLineRead | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.SETTLEMENT_RESOLUTION, target_id=line_id, member=member, wanted=body
        )
        return proposal or await show.get_line(session, line_id=line_id)

    return await idempotency.run(operation, SettlementLineRead, status=200)


@router.post(
    "/settlement-lines/{line_id}/reopen",
    status_code=200,
    summary="Undo the resolution of a line",
    response_model=SettlementLineRead,
    responses={**PROPOSED, **problems(404, 409, 422)},
)
async def reopen_settlement_line(
    session: SessionDep,
    settings: SettingsDep,
    member: Resolver,
    idempotency: StaffIdempotencyDep,
    line_id: UUID,
    body: SettlementReopen,
) -> Response:
    """Open a line again; what its resolution posted is corrected by a transfer of its own."""

    async def operation() -> SettlementLineRead | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.SETTLEMENT_REOPENING, target_id=line_id, member=member, wanted=body
        )
        return proposal or await show.get_line(session, line_id=line_id)

    return await idempotency.run(operation, SettlementLineRead, status=200)

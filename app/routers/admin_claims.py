"""Claims for staff: who misses what, which orphan fits, and the decision."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import Claim, ClaimStatus, ProposalKind, StaffKey, StaffRole, StaffScope
from app.openapi import PROPOSED, problems
from app.schemas.catalogue import MerchantId
from app.schemas.claims import ClaimAdminDetail, ClaimAdminPage, ClaimApproval, ClaimRejection
from app.schemas.proposals import ProposalRead
from app.services import proposals
from app.services.claims import read, resolve

router = APIRouter(prefix="/v1/admin/claims", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ORDERS_READ)]
Resolver = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.ORDERS_WRITE, on=Claim, by="claim_id")]


@router.get("", summary="Claims")
async def list_claims(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[ClaimStatus | None, Query(description="Only in this state.")] = None,
    overdue: Annotated[
        bool | None, Query(description="true: only those that were to be decided by now; false: only the others.")
    ] = None,
    uncredited: Annotated[
        bool | None, Query(description="true: only approved ones whose order is still to come; false: the others.")
    ] = None,
    merchant_id: Annotated[MerchantId | None, Query(description="Only about this merchant.")] = None,
    customer_id: Annotated[UUID | None, Query(description="Only of this customer.")] = None,
) -> ClaimAdminPage:
    """List claims, newest first, each with the orphan that fits it best."""
    return await read.list_for_staff(
        session,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
        overdue=overdue,
        uncredited=uncredited,
        merchant_id=merchant_id,
        customer_id=customer_id,
    )


@router.get("/{claim_id}", summary="One claim, with what helps to decide it", responses=problems(404))
async def get_claim(session: SessionDep, _: Viewer, claim_id: UUID) -> ClaimAdminDetail:
    """Show a claim with the customer's clicks, the orphans that fit, and whoever else has or claims the order."""
    return await read.show_to_staff(session, claim_id=claim_id)


@router.post(
    "/{claim_id}/approve",
    summary="Credit a claim",
    response_model=ClaimAdminDetail,
    responses={**PROPOSED, **problems(404, 409, 422)},
)
async def approve_claim(
    session: SessionDep,
    settings: SettingsDep,
    member: Resolver,
    idempotency: StaffIdempotencyDep,
    claim_id: UUID,
    body: ClaimApproval,
) -> Response:
    """Credit a claim with the orphan that is matched or named, or by hand, for which the role finance is needed.

    The order is made by the ordinary path, and what the shop reports of it later joins it. An order is credited once:
    the second of two customers who claim it is refused (409 `orphan_not_waiting` or `order_exists`). By hand also an
    order that is like one the customer has is refused, until it is said to be distinct (409 `like_order_exists`).
    """

    async def operation() -> ClaimAdminDetail | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.CLAIM_APPROVAL, target_id=claim_id, member=member, wanted=body
        )
        return proposal or await read.show_to_staff(session, claim_id=claim_id)

    return await idempotency.run(operation, ClaimAdminDetail, status=200)


@router.post("/{claim_id}/reject", summary="Reject a claim", responses=problems(404, 409))
async def reject_claim(session: SessionDep, member: Resolver, claim_id: UUID, body: ClaimRejection) -> ClaimAdminDetail:
    """Decide against a claim that waits, with a note that its customer sees. The order can be claimed again."""
    await resolve.reject_claim(session, claim_id=claim_id, member=member, note=body.note)
    return await read.show_to_staff(session, claim_id=claim_id)

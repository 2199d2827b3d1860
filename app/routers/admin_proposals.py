"""What moves more than one person may decide, and waits for another one."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import Proposal, ProposalKind, ProposalStatus, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.proposals import ProposalPage, ProposalRead, ProposalRefusal
from app.services import proposals

router = APIRouter(prefix="/v1/admin/proposals", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.PROPOSALS_READ)]
# Each kind needs what deciding it alone would need, too.
Decider = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.PROPOSALS_DECIDE, on=Proposal, by="proposal_id")
]


@router.get("", summary="What waits for a second person")
async def list_proposals(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[ProposalStatus | None, Query(description="Only in this state.")] = None,
    kind: Annotated[ProposalKind | None, Query(description="Only of this kind.")] = None,
    target_id: Annotated[UUID | None, Query(description="Only about this payout, order, claim ...")] = None,
) -> ProposalPage:
    """List proposals, newest first; those with `status=open` wait."""
    return await proposals.list_proposals(
        session, limit=page.limit, cursor=page.cursor, status=status, kind=kind, target_id=target_id
    )


@router.get("/{proposal_id}", summary="One proposal", responses=problems(404))
async def get_proposal(session: SessionDep, _: Viewer, proposal_id: UUID) -> ProposalRead:
    """Show what is proposed, by whom, and what it would move."""
    return await proposals.get_proposal(session, proposal_id=proposal_id)


@router.post(
    "/{proposal_id}/confirm",
    summary="Confirm what another person proposed",
    response_model=ProposalRead,
    responses=problems(404, 409, 422),
)
async def confirm_proposal(
    session: SessionDep, settings: SettingsDep, member: Decider, idempotency: StaffIdempotencyDep, proposal_id: UUID
) -> Response:
    """Do it, judged anew as things are now; what no longer moves the same is refused. Confirming again changes nothing.

    Whoever proposed it cannot confirm it, with no key of theirs and with none that one of the two has made.
    """
    return await idempotency.run(
        lambda: proposals.confirm(session, settings, proposal_id=proposal_id, member=member), ProposalRead, status=200
    )


@router.post("/{proposal_id}/refuse", summary="Refuse a proposal", responses=problems(404, 409))
async def refuse_proposal(
    session: SessionDep, member: Decider, proposal_id: UUID, body: ProposalRefusal
) -> ProposalRead:
    """Decide against it, with a note. Whoever proposed it takes it back so."""
    return await proposals.refuse(session, proposal_id=proposal_id, member=member, note=body.note)

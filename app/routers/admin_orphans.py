"""The orphan queue for staff: reported sales that no click leads to."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import ProposalKind, StaffKey, StaffRole, StaffScope, WebhookEvent
from app.openapi import PROPOSED, problems
from app.schemas.catalogue import MerchantId
from app.schemas.common import SafeText
from app.schemas.orphans import OrphanDetail, OrphanDiscard, OrphanMatch, OrphanPage
from app.schemas.proposals import ProposalRead
from app.services import proposals
from app.services.orphans import decide, read

router = APIRouter(prefix="/v1/admin/orphans", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ORDERS_READ)]
Decider = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.ORDERS_WRITE, on=WebhookEvent, by="event_id")]


@router.get("", summary="The orphan queue")
async def list_orphans(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    discarded: Annotated[bool, Query(description="Those that were discarded, in place of those that wait.")] = False,  # noqa: FBT002 - a query parameter
    source_id: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only of this source.")] = None,
    merchant_id: Annotated[MerchantId | None, Query(description="Only of this merchant.")] = None,
    order_reference: Annotated[
        SafeText | None, Query(max_length=200, description="Only with this order number, as the source spells it.")
    ] = None,
) -> OrphanPage:
    """List reports that wait for somebody to be credited, newest first."""
    return await read.list_orphans(
        session,
        limit=page.limit,
        cursor=page.cursor,
        discarded=discarded,
        source_id=source_id,
        merchant_id=merchant_id,
        order_reference=order_reference,
    )


@router.get("/{event_id}", summary="One orphan, with whom it may be of", responses=problems(404))
async def get_orphan(session: SessionDep, _: Viewer, event_id: UUID) -> OrphanDetail:
    """Show an orphan with the clicks that its sale counts for and the claims that it fits."""
    return await read.show_orphan(session, event_id=event_id)


@router.post(
    "/{event_id}/match",
    summary="Credit an orphan to somebody",
    response_model=OrphanDetail,
    responses={**PROPOSED, **problems(404, 409, 422)},
)
async def match_orphan(
    session: SessionDep,
    settings: SettingsDep,
    member: Decider,
    idempotency: StaffIdempotencyDep,
    event_id: UUID,
    body: OrphanMatch,
) -> Response:
    """Credit it to the customer of a click, or to a customer, and resolve that one's claim of the order.

    It is processed at once, as if it had named the click; what cannot be credited so is refused with the reason.
    """

    async def operation() -> OrphanDetail | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.ORPHAN_MATCH, target_id=event_id, member=member, wanted=body
        )
        return proposal or await read.show_orphan(session, event_id=event_id)

    return await idempotency.run(operation, OrphanDetail, status=200)


@router.post("/{event_id}/discard", summary="Credit an orphan to nobody", responses=problems(404, 409))
async def discard_orphan(session: SessionDep, member: Decider, event_id: UUID, body: OrphanDiscard) -> OrphanDetail:
    """Take an orphan out of the queue, with a reason. Replaying the event (`/v1/admin/webhook-events`) undoes it."""
    await decide.discard_orphan(session, event_id=event_id, member=member, reason=body.reason)
    return await read.show_orphan(session, event_id=event_id)

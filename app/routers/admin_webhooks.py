"""The webhook inbox for staff, and processing events again."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from app.dependencies import PageDep, SessionDep, SettingsDep, staff_with
from app.models import ProposalKind, StaffKey, StaffRole, StaffScope, WebhookEvent, WebhookReplay, WebhookStatus
from app.openapi import problems
from app.schemas.admin_catalogue import SourceId
from app.schemas.catalogue import MerchantId
from app.schemas.common import Page, SafeText
from app.schemas.proposals import ProposalRead
from app.schemas.webhooks import (
    EventFilter,
    InboxTime,
    ReleaseRequest,
    ReplayCreate,
    ReplayRead,
    WebhookEventDetail,
    WebhookEventRead,
)
from app.services import proposals
from app.services.webhooks import inbox, replays

router = APIRouter(prefix="/v1/admin/webhook-events", tags=["admin"], responses=problems(401, 403))
replays_router = APIRouter(prefix="/v1/admin/webhook-replays", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.EVENTS_READ)]
EventReplayer = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.EVENTS_WRITE, on=WebhookEvent, by="event_id")
]
Releaser = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.EVENTS_WRITE, on=WebhookEvent, by="event_id")]
ReplayCreator = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.EVENTS_WRITE, on=WebhookReplay)]
ReplayCanceller = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.EVENTS_WRITE, on=WebhookReplay, by="replay_id")
]


async def _event_filter(
    status: Annotated[WebhookStatus | None, Query(description="Only events in this state.")] = None,
    source_id: Annotated[SourceId | None, Query(description="Only events of this source.")] = None,
    merchant_id: Annotated[MerchantId | None, Query(description="Only events about this merchant.")] = None,
    order_reference: Annotated[
        SafeText | None, Query(max_length=200, description="Only events about this order of the source's.")
    ] = None,
    delivery_id: Annotated[UUID | None, Query(description="Only events of this delivery.")] = None,
    received_from: Annotated[InboxTime | None, Query(description="Only from this moment on.")] = None,
    received_to: Annotated[InboxTime | None, Query(description="Only before this moment.")] = None,
) -> EventFilter:
    return EventFilter(
        status=status,
        source_id=source_id,
        merchant_id=merchant_id,
        order_reference=order_reference,
        delivery_id=delivery_id,
        received_from=received_from,
        received_to=received_to,
    )


EventFilterDep = Annotated[EventFilter, Depends(_event_filter)]


@router.get("", summary="The webhook inbox")
async def list_webhook_events(
    session: SessionDep, _: Viewer, page: PageDep, wanted: EventFilterDep
) -> Page[WebhookEventRead]:
    """List events, newest first."""
    events = await inbox.list_events(session, limit=page.limit, cursor=page.cursor, wanted=wanted)
    return Page[WebhookEventRead].model_validate(events)


@router.get("/{event_id}", summary="One event, raw", responses=problems(404))
async def get_webhook_event(session: SessionDep, _: Viewer, event_id: UUID) -> WebhookEventDetail:
    """Show what was sent, what became of it, and why."""
    event = await inbox.get_event(session, event_id)
    return WebhookEventDetail.model_validate(event)


@router.post("/{event_id}/replay", status_code=202, summary="Process an event again", responses=problems(404))
async def replay_webhook_event(session: SessionDep, _: EventReplayer, event_id: UUID) -> WebhookEventRead:
    """Process it again from its raw bytes, read by its source's present version."""
    event = await inbox.replay(session, event_id)
    return WebhookEventRead.model_validate(event)


@router.post("/{event_id}/release", status_code=202, summary="Credit it anyway", responses=problems(404, 409))
async def release_webhook_event(
    session: SessionDep, settings: SettingsDep, member: Releaser, event_id: UUID, body: ReleaseRequest
) -> WebhookEventRead | ProposalRead:
    """Let an implausible event out of quarantine, with the reason; it is credited as if it were plausible.

    What would credit more than one person may decide becomes a proposal, for another to confirm.
    """
    proposal = await proposals.act(
        session, settings, kind=ProposalKind.EVENT_RELEASE, target_id=event_id, member=member, wanted=body
    )
    return proposal or WebhookEventRead.model_validate(await inbox.get_event(session, event_id))


@replays_router.post("", status_code=202, summary="Process many events again", responses=problems(409))
async def create_webhook_replay(session: SessionDep, member: ReplayCreator, body: ReplayCreate) -> ReplayRead:
    """Process all events that match again, in the background and in the order they arrived."""
    return await replays.start(session, wanted=body, most=body.most, member_id=member.id)


@replays_router.get("", summary="Replays")
async def list_webhook_replays(session: SessionDep, _: Viewer, page: PageDep) -> Page[ReplayRead]:
    """List replays, newest first."""
    return await replays.list_replays(session, limit=page.limit, cursor=page.cursor)


@replays_router.get("/{replay_id}", summary="One replay and its progress", responses=problems(404))
async def get_webhook_replay(session: SessionDep, _: Viewer, replay_id: UUID) -> ReplayRead:
    """Show how far a replay is and what became of its events."""
    return await replays.get_replay(session, replay_id)


@replays_router.post("/{replay_id}/cancel", summary="Stop a replay", responses=problems(404))
async def cancel_webhook_replay(session: SessionDep, _: ReplayCanceller, replay_id: UUID) -> ReplayRead:
    """Leave the rest of its events as they are; one that is over stays as it is."""
    return await replays.cancel(session, replay_id)

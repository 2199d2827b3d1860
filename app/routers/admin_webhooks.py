"""The webhook inbox for staff."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import Operator, PageDep, SessionDep, Viewer
from app.models import WebhookStatus
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.webhooks import WebhookEventDetail, WebhookEventRead
from app.services.webhooks import inbox

router = APIRouter(prefix="/v1/admin/webhook-events", tags=["admin"], responses=problems(401, 403))


@router.get("", summary="The webhook inbox")
async def list_webhook_events(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[WebhookStatus | None, Query(description="Only events in this state.")] = None,
    source_id: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Only events of this source.")] = None,
) -> Page[WebhookEventRead]:
    """List events, newest first."""
    events = await inbox.list_events(session, limit=page.limit, cursor=page.cursor, status=status, source_id=source_id)
    return Page[WebhookEventRead].model_validate(events)


@router.get("/{event_id}", summary="One event, raw", responses=problems(404))
async def get_webhook_event(session: SessionDep, _: Viewer, event_id: UUID) -> WebhookEventDetail:
    """Show what was sent, what became of it, and why."""
    event = await inbox.get_event(session, event_id)
    return WebhookEventDetail.model_validate(event)


@router.post("/{event_id}/replay", status_code=202, summary="Process an event again", responses=problems(404))
async def replay_webhook_event(session: SessionDep, _: Operator, event_id: UUID) -> WebhookEventRead:
    """Process it again from its raw bytes; harmless for one that was processed."""
    event = await inbox.replay(session, event_id)
    return WebhookEventRead.model_validate(event)

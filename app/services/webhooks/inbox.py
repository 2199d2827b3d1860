"""The inbox for staff: what arrived, what became of it, and trying again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from app.db import ring_after_commit
from app.errors import NotFoundError
from app.models import WebhookEvent, WebhookStatus
from app.services.pagination import cut_page, decode_cursor, encode_cursor


class WebhookEventNotFoundError(NotFoundError):
    """No event has this id."""

    code = "webhook_event_not_found"
    title = "Webhook event not found"

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"There is no webhook event {event_id}.")


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first, without their bodies."""

    items: Sequence[WebhookEvent]
    next_cursor: str | None


async def list_events(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: WebhookStatus | None = None,
    source_id: int | None = None,
) -> EventPage:
    """List events, newest first. Raises InvalidCursorError."""
    statement = select(WebhookEvent).options(defer(WebhookEvent.body)).order_by(WebhookEvent.id.desc()).limit(limit + 1)
    if status is not None:
        statement = statement.where(WebhookEvent.status == status)
    if source_id is not None:
        statement = statement.where(WebhookEvent.source_id == source_id)
    if cursor is not None:
        (last_id,) = decode_cursor(cursor, UUID)
        statement = statement.where(WebhookEvent.id < last_id)
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    return EventPage(rows, encode_cursor(rows[-1].id) if more else None)


async def get_event(session: AsyncSession, event_id: UUID) -> WebhookEvent:
    """Return an event with its raw body. Raises WebhookEventNotFoundError."""
    event = await session.get(WebhookEvent, event_id)
    if event is None:
        raise WebhookEventNotFoundError(event_id)
    return event


async def replay(session: AsyncSession, event_id: UUID) -> WebhookEvent:
    """Let an event be processed again from its raw bytes, whatever became of it before.

    Replaying a processed one is harmless: its report is replaced by the same report. One that was matched keeps its
    click; one that was discarded is no longer. Raises WebhookEventNotFoundError.
    """
    event = await session.get(WebhookEvent, event_id, with_for_update=True)
    if event is None:
        raise WebhookEventNotFoundError(event_id)
    event.status = WebhookStatus.RECEIVED
    event.tries = 0
    event.reason = event.discarded_reason = event.waits_for = None
    event.processed_at = None
    event.next_attempt_at = datetime.now(UTC)
    await session.flush()
    ring_after_commit(session, "drain_webhooks")
    return event

"""The inbox for staff: what arrived, what became of it, and trying again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError
from app.ids import first_id_at
from app.models import StaffKey, WebhookEvent, WebhookStatus
from app.schemas.webhooks import EventFilter
from app.services.pagination import newest_first

_CLOCKS_DIFFER = timedelta(minutes=5)


class WebhookEventNotFoundError(NotFoundError):
    """No event has this id."""

    code = "webhook_event_not_found"
    title = "Webhook event not found"

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"There is no webhook event {event_id}.")


class NotQuarantinedError(ConflictError):
    """Only what is quarantined as implausible can be released."""

    code = "webhook_event_not_quarantined"
    title = "Webhook event not quarantined"

    def __init__(self, event: WebhookEvent) -> None:
        waits = f" and waits for {event.waits_for}" if event.waits_for else ""
        super().__init__(f"The webhook event {event.id} is {event.status.value}{waits}.")


class WebhookEventErasedError(ConflictError):
    """The raw bytes are gone: their time was over, or the customer's account was closed."""

    code = "webhook_event_erased"
    title = "Webhook event erased"

    def __init__(self, event: WebhookEvent) -> None:
        super().__init__(
            f"The raw bytes of the webhook event {event.id} are erased; what was read of them still counts."
        )


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events, newest first, without their bodies."""

    items: Sequence[WebhookEvent]
    next_cursor: str | None


async def list_events(session: AsyncSession, *, limit: int, cursor: str | None, wanted: EventFilter) -> EventPage:
    """List events, newest first. Raises InvalidCursorError."""
    statement = (
        select(WebhookEvent).options(defer(WebhookEvent.body), defer(WebhookEvent.query)).where(*matching(wanted))
    )
    rows, next_cursor = await newest_first(session, statement, WebhookEvent.id, limit=limit, cursor=cursor)
    return EventPage(rows, next_cursor)


def matching(wanted: EventFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of a filter."""
    equal = {
        WebhookEvent.status: wanted.status,
        WebhookEvent.source_id: wanted.source_id,
        WebhookEvent.merchant_id: wanted.merchant_id,
        WebhookEvent.external_order_id: wanted.order_reference,
        WebhookEvent.delivery_id: wanted.delivery_id,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    # By id as well, which is in the order of arrival and has the index; the application's clock may be off a little.
    if wanted.received_from is not None:
        conditions += [
            WebhookEvent.received_at >= wanted.received_from,
            WebhookEvent.id >= first_id_at(wanted.received_from - _CLOCKS_DIFFER),
        ]
    if wanted.received_to is not None:
        conditions += [
            WebhookEvent.received_at < wanted.received_to,
            WebhookEvent.id < first_id_at(wanted.received_to + _CLOCKS_DIFFER),
        ]
    return conditions


async def get_event(session: AsyncSession, event_id: UUID) -> WebhookEvent:
    """Return an event with its raw body. Raises WebhookEventNotFoundError."""
    event = await session.get(WebhookEvent, event_id)
    if event is None:
        raise WebhookEventNotFoundError(event_id)
    return event


async def replay(session: AsyncSession, event_id: UUID) -> WebhookEvent:
    """Let an event be processed again from its raw bytes, whatever became of it before.

    The source's present version reads it. What was counted of it is replaced by what is read now, and stays where it
    can no longer be read. One that was matched keeps its click; one that was discarded is no longer. Raises
    WebhookEventNotFoundError and WebhookEventErasedError.
    """
    event = await _lock_event(session, event_id)
    if event.erased_at is not None:
        raise WebhookEventErasedError(event)
    reset(event)
    await session.flush()
    ring_after_commit(session, "drain_webhooks")
    return event


def reset(event: WebhookEvent) -> None:
    """Put an event, which the caller has locked, back to where it waits for a worker."""
    event.status = WebhookStatus.RECEIVED
    event.tries = 0
    event.reason = event.discarded_reason = event.waits_for = None
    event.processed_at = None
    event.next_attempt_at = datetime.now(UTC)


async def release(session: AsyncSession, event_id: UUID, *, member: StaffKey, reason: str) -> WebhookEvent:
    """Credit an event that is quarantined all the same: from now on nothing about it need be plausible.

    It is processed again, and still waits where it cannot be credited at all: to a click of another source, say.
    Raises WebhookEventNotFoundError and NotQuarantinedError.
    """
    event = await _lock_event(session, event_id)
    if event.status is not WebhookStatus.QUARANTINED or event.waits_for is not None:
        raise NotQuarantinedError(event)
    reset(event)
    event.released_at, event.released_by_id, event.released_reason = datetime.now(UTC), member.id, reason
    await session.flush()
    ring_after_commit(session, "drain_webhooks")
    return event


async def _lock_event(session: AsyncSession, event_id: UUID) -> WebhookEvent:
    event = await session.get(WebhookEvent, event_id, with_for_update=True)
    if event is None:
        raise WebhookEventNotFoundError(event_id)
    return event

"""Endpoints as staff manage them, the deliveries on their way to them, and replaying those."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError
from app.ids import new_id
from app.models import (
    DeliveryStatus,
    EndpointStatus,
    Notification,
    NotificationDelivery,
    NotificationEndpoint,
)
from app.schemas.common import Page
from app.schemas.notifications import (
    DeliveryRead,
    EndpointChange,
    EndpointCreate,
    EndpointRead,
    EndpointWithSecret,
    ReplayRead,
)
from app.services.notifications.deliver import disable
from app.services.pagination import cut_page, newest_first, newest_rows
from app.services.secrets import seal, unseal
from app.services.sources import new_signing_secret

_LIVE_SECRETS = 2
# One request's worth; a larger replay is asked for again from where the last one ended.
MOST_REPLAYED = 10_000


class EndpointNotFoundError(NotFoundError):
    """No endpoint has this id."""

    code = "notification_endpoint_not_found"
    title = "Endpoint not found"

    def __init__(self, endpoint_id: UUID) -> None:
        super().__init__(f"There is no notification endpoint {endpoint_id}.")


class DeliveryNotFoundError(NotFoundError):
    """No delivery has this id."""

    code = "notification_delivery_not_found"
    title = "Delivery not found"

    def __init__(self, delivery_id: UUID) -> None:
        super().__init__(f"There is no delivery {delivery_id}.")


class EndpointDisabledError(ConflictError):
    """Nothing is sent to a disabled endpoint."""

    code = "notification_endpoint_disabled"
    title = "Endpoint disabled"

    def __init__(self, endpoint: NotificationEndpoint) -> None:
        super().__init__(f"The endpoint {endpoint.id} is disabled; activate it first.")


async def create_endpoint(session: AsyncSession, settings: Settings, *, wanted: EndpointCreate) -> EndpointWithSecret:
    """Add an active endpoint with a signing secret, which is in this answer only."""
    secret = new_signing_secret()
    endpoint = NotificationEndpoint(
        url=wanted.url,
        description=wanted.description,
        topics=sorted(wanted.topics),
        status=EndpointStatus.ACTIVE,
        secrets_encrypted=seal(settings, [secret]),
    )
    session.add(endpoint)
    await session.flush()
    return EndpointWithSecret(**dict(EndpointRead.model_validate(endpoint)), secret=secret)


async def list_endpoints(session: AsyncSession, *, limit: int, cursor: str | None) -> Page[EndpointRead]:
    """Return endpoints, newest first. Raises InvalidCursorError."""
    statement = select(NotificationEndpoint)
    rows, next_cursor = await newest_first(session, statement, NotificationEndpoint.id, limit=limit, cursor=cursor)
    items = [EndpointRead.model_validate(row) for row in rows]
    return Page(items=items, next_cursor=next_cursor)


async def get_endpoint(session: AsyncSession, *, endpoint_id: UUID) -> EndpointRead:
    """Return an endpoint. Raises EndpointNotFoundError."""
    return EndpointRead.model_validate(await _get(session, endpoint_id))


async def change_endpoint(session: AsyncSession, *, endpoint_id: UUID, change: EndpointChange) -> EndpointRead:
    """Change the members that were sent; disabling gives up what is on its way. Raises EndpointNotFoundError."""
    endpoint = await _get(session, endpoint_id, lock=True)
    values = change.model_dump(exclude_unset=True)
    status = values.pop("status", None)
    for name, value in values.items():
        setattr(endpoint, name, sorted(value) if name == "topics" else value)
    await session.flush()
    if status is EndpointStatus.DISABLED:
        await disable(session, endpoint.id, reason=None)
    elif status is EndpointStatus.ACTIVE:
        endpoint.status, endpoint.disabled_reason = status, None
    await session.flush()
    await session.refresh(endpoint)
    return EndpointRead.model_validate(endpoint)


async def rotate_secret(session: AsyncSession, settings: Settings, *, endpoint_id: UUID) -> EndpointWithSecret:
    """Make a new signing secret; until the next rotation everything is signed with the one before too.

    Raises EndpointNotFoundError.
    """
    endpoint = await _get(session, endpoint_id, lock=True)
    secret = new_signing_secret()
    endpoint.secrets_encrypted = seal(settings, [secret, *unseal(settings, endpoint.secrets_encrypted)][:_LIVE_SECRETS])
    await session.flush()
    await session.refresh(endpoint)
    return EndpointWithSecret(**dict(EndpointRead.model_validate(endpoint)), secret=secret)


async def list_deliveries(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    endpoint_id: UUID | None = None,
    status: DeliveryStatus | None = None,
) -> Page[DeliveryRead]:
    """Return deliveries, newest first. Raises InvalidCursorError."""
    statement = select(NotificationDelivery, Notification).join(
        Notification, Notification.id == NotificationDelivery.notification_id
    )
    if endpoint_id is not None:
        statement = statement.where(NotificationDelivery.endpoint_id == endpoint_id)
    if status is not None:
        statement = statement.where(NotificationDelivery.status == status)
    rows, next_cursor = await newest_rows(session, statement, NotificationDelivery.id, limit=limit, cursor=cursor)
    items = [_delivery(delivery, notification) for delivery, notification in rows]
    return Page(items=items, next_cursor=next_cursor)


async def retry_delivery(session: AsyncSession, *, delivery_id: UUID) -> DeliveryRead:
    """Send one again, from the first try on, also one that was taken.

    Raises DeliveryNotFoundError and EndpointDisabledError.
    """
    delivery = await session.get(NotificationDelivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise DeliveryNotFoundError(delivery_id)
    await _require_active(session, delivery.endpoint_id)
    await _send_again(session, [delivery.id])
    await session.refresh(delivery)
    return _delivery(delivery, await session.get_one(Notification, delivery.notification_id))


async def replay(session: AsyncSession, *, endpoint_id: UUID, since: datetime, until: datetime | None) -> ReplayRead:
    """Send everything of a period again that is of the endpoint's topics, whether or not it was sent before.

    At most MOST_REPLAYED, oldest first; `complete` tells whether that was all. Raises EndpointNotFoundError and
    EndpointDisabledError.
    """
    endpoint = await _require_active(session, endpoint_id)
    statement = (
        select(Notification.id, Notification.created_at)
        .where(
            Notification.created_at >= since,
            func.split_part(Notification.type, ".", 1).in_(endpoint.topics),
        )
        .order_by(Notification.created_at, Notification.id)
        .limit(MOST_REPLAYED + 1)
    )
    if until is not None:
        statement = statement.where(Notification.created_at < until)
    rows, more = cut_page((await session.execute(statement)).all(), MOST_REPLAYED)
    if rows:
        await session.execute(
            insert(NotificationDelivery).on_conflict_do_update(
                index_elements=[NotificationDelivery.notification_id, NotificationDelivery.endpoint_id],
                set_={"status": DeliveryStatus.PENDING, "tries": 0, "next_attempt_at": func.now()},
            ),
            [{"id": new_id(), "notification_id": row.id, "endpoint_id": endpoint_id} for row in rows],
        )
        ring_after_commit(session, "deliver_notifications")
    return ReplayRead(queued=len(rows), complete=not more, last_at=rows[-1].created_at if rows else None)


async def _send_again(session: AsyncSession, delivery_ids: Sequence[UUID]) -> None:
    await session.execute(
        update(NotificationDelivery)
        .where(NotificationDelivery.id.in_(delivery_ids))
        .values(status=DeliveryStatus.PENDING, tries=0, next_attempt_at=func.now())
        .execution_options(synchronize_session=False)
    )
    ring_after_commit(session, "deliver_notifications")


async def _get(session: AsyncSession, endpoint_id: UUID, *, lock: bool = False) -> NotificationEndpoint:
    endpoint = await session.get(NotificationEndpoint, endpoint_id, with_for_update=lock)
    if endpoint is None:
        raise EndpointNotFoundError(endpoint_id)
    return endpoint


async def _require_active(session: AsyncSession, endpoint_id: UUID) -> NotificationEndpoint:
    endpoint = await _get(session, endpoint_id, lock=True)
    if endpoint.status is not EndpointStatus.ACTIVE:
        raise EndpointDisabledError(endpoint)
    return endpoint


def _delivery(delivery: NotificationDelivery, notification: Notification) -> DeliveryRead:
    shown = {name: getattr(delivery, name) for name in DeliveryRead.model_fields if name not in {"type", "data"}}
    return DeliveryRead.model_validate({**shown, "type": notification.type, "data": notification.data})

"""Publishing: a notification and a delivery for each endpoint that wants it, in the transaction of its cause.

So what was rolled back is never told, and what was committed always is.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ring_after_commit
from app.ids import new_id
from app.models import EndpointStatus, Notification, NotificationDelivery, NotificationEndpoint

_LISTENERS = "notification_listeners"


class Topic(StrEnum):
    """The kinds of events an endpoint can ask for; each type of event begins with one."""

    ORDER = "order"
    WALLET = "wallet"
    PAYOUT = "payout"
    ALERT = "alert"


async def listens(session: AsyncSession, topic: Topic) -> bool:
    """Whether any active endpoint wants a topic: to be asked where the data is not at hand."""
    return any(topic.value in topics for _, topics in await _listeners(session))


async def publish(session: AsyncSession, topic: Topic, event: str, data: dict[str, Any]) -> None:
    """Tell the active endpoints of a topic, if there are any, that `topic.event` happened.

    `data` is JSON: ids as text, money as the contract has it. It must hold all that a receiver needs, as of now.
    """
    await publish_all(session, topic, [(event, data)])


async def publish_all(session: AsyncSession, topic: Topic, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Publish many events, each as (event, data), in as few statements as one."""
    endpoints = [endpoint_id for endpoint_id, topics in await _listeners(session) if topic.value in topics]
    if not endpoints or not events:
        return
    notifications = [{"id": new_id(), "type": f"{topic.value}.{event}", "data": data} for event, data in events]
    await session.execute(insert(Notification), notifications)
    await session.execute(
        insert(NotificationDelivery),
        [
            {"id": new_id(), "notification_id": notification["id"], "endpoint_id": endpoint_id}
            for notification in notifications
            for endpoint_id in endpoints
        ],
    )
    ring_after_commit(session, "deliver_notifications")


async def _listeners(session: AsyncSession) -> list[tuple[UUID, list[str]]]:
    """Return (id, topics) of the active endpoints, read once a transaction: usually there are few, and often none."""
    known: list[tuple[UUID, list[str]]] | None = session.info.get(_LISTENERS)
    if known is None:
        rows = await session.execute(
            select(NotificationEndpoint.id, NotificationEndpoint.topics).where(
                NotificationEndpoint.status == EndpointStatus.ACTIVE
            )
        )
        known = session.info[_LISTENERS] = [(row.id, row.topics) for row in rows]
    return known

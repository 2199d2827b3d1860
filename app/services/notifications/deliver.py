"""Delivering: claim what is due, post it outside of any transaction, record what came of it.

The retry schedule and the rule that 410 disables an endpoint are those of Standard Webhooks
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, "Operational
considerations"). Delivery is at least once: a worker that dies between the post and the record posts again, with the
same `webhook-id`.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from uuid import UUID

import httpx
import orjson
from sqlalchemy import delete, func, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from standardwebhooks.webhooks import Webhook

from app import metrics
from app.config import Settings
from app.models import (
    DeliveryStatus,
    EndpointStatus,
    Notification,
    NotificationDelivery,
    NotificationEndpoint,
)
from app.schemas.common import utc
from app.services.secrets import unseal
from app.services.sync.errors import FetchError

# Seconds to wait after each try; the first is at once.
RETRY_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
# Longer than the schedule of tries, and long enough to replay a month's outage.
KEPT_DAYS = 45
# Taken from one endpoint at a time: what a slow one can keep busy.
PER_ENDPOINT = 10
# A claim is over when its worker has been silent for so long; well above the time that one post may take.
_LEASE_SECONDS = 120
_MOST_SECONDS = 60.0
_MOST_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A claimed delivery with all that posting it needs."""

    delivery_id: UUID
    endpoint_id: UUID
    url: str
    message_id: str
    body: bytes
    secrets: list[str]
    tries: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a try ended with: an HTTP status, or why there is none."""

    status_code: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took it."""
        return self.status_code is not None and 200 <= self.status_code < 300


async def claim_due(session: AsyncSession, settings: Settings) -> list[Outgoing]:
    """Claim deliveries that are due, a few of each active endpoint, for `_LEASE_SECONDS`."""
    due = (
        select(NotificationDelivery)
        .where(
            NotificationDelivery.endpoint_id == NotificationEndpoint.id,
            NotificationDelivery.status == DeliveryStatus.PENDING,
            NotificationDelivery.next_attempt_at <= func.now(),
        )
        .order_by(NotificationDelivery.next_attempt_at)
        .limit(PER_ENDPOINT)
        .with_for_update(skip_locked=True)
        .lateral("due")
    )
    delivery = aliased(NotificationDelivery, due)
    rows = await session.execute(
        select(delivery.id, delivery.tries, NotificationEndpoint, Notification)
        .select_from(NotificationEndpoint)
        .join(delivery, true())
        .join(Notification, Notification.id == delivery.notification_id)
        .where(NotificationEndpoint.status == EndpointStatus.ACTIVE)
    )
    claimed = [
        Outgoing(
            delivery_id=delivery_id,
            endpoint_id=endpoint.id,
            url=endpoint.url,
            message_id=str(notification.id),
            body=_body(notification),
            secrets=unseal(settings, endpoint.secrets_encrypted),
            tries=tries + 1,
        )
        for delivery_id, tries, endpoint, notification in rows
    ]
    await session.execute(
        update(NotificationDelivery)
        .where(NotificationDelivery.id.in_([outgoing.delivery_id for outgoing in claimed]))
        .values(
            tries=NotificationDelivery.tries + 1,
            last_attempt_at=func.now(),
            next_attempt_at=func.now() + timedelta(seconds=_LEASE_SECONDS),
        )
        .execution_options(synchronize_session=False)
    )
    return claimed


async def send(client: httpx.AsyncClient, outgoing: Outgoing) -> Outcome:
    """Post one delivery, signed with every live secret; redirects are not followed and no answer is read."""
    now = datetime.now(UTC)
    text = outgoing.body.decode()
    headers = {
        "content-type": "application/json",
        "user-agent": "cashback-webhooks/1.0",
        "webhook-id": outgoing.message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        # During a rotation the receiver may know either.
        "webhook-signature": " ".join(
            Webhook(secret).sign(outgoing.message_id, now, text) for secret in outgoing.secrets
        ),
    }
    try:
        # The client's own limit is one of silence, which an answer that drips never meets.
        async with (
            asyncio.timeout(_MOST_SECONDS),
            client.stream("POST", outgoing.url, content=outgoing.body, headers=headers) as response,
        ):
            code = response.status_code
            return Outcome(code, None if 200 <= code < 300 else f"answered {code}")
    except (httpx.HTTPError, httpx.InvalidURL, FetchError, TimeoutError) as error:
        return Outcome(None, f"{type(error).__name__}: {error}"[:_MOST_ERROR_CHARACTERS])


async def record(session: AsyncSession, outgoing: Outgoing, outcome: Outcome) -> DeliveryStatus:
    """Record what a try came to: delivered, to be tried again, or given up; 410 disables the endpoint."""
    delivery = await session.get_one(NotificationDelivery, outgoing.delivery_id, with_for_update=True)
    if delivery.status is not DeliveryStatus.PENDING or delivery.tries != outgoing.tries:
        # Its lease ran out and somebody else has it, or it was ended.
        return delivery.status
    delivery.last_status_code, delivery.last_error = outcome.status_code, outcome.error
    if outcome.delivered:
        delivery.status, delivery.next_attempt_at = DeliveryStatus.DELIVERED, None
        delivery.delivered_at = datetime.now(UTC)
    elif outcome.status_code == HTTPStatus.GONE:
        await disable(session, outgoing.endpoint_id, reason=f"answered 410 Gone on {utc(datetime.now(UTC))}")
        delivery.status, delivery.next_attempt_at = DeliveryStatus.FAILED, None
    elif outgoing.tries > len(RETRY_SECONDS):
        delivery.status, delivery.next_attempt_at = DeliveryStatus.FAILED, None
    else:
        wait_seconds = RETRY_SECONDS[outgoing.tries - 1]
        # Up to a tenth later: many that failed together shall not come back together.
        jitter_seconds = random.uniform(0, wait_seconds / 10)  # noqa: S311 - no secret
        delivery.next_attempt_at = datetime.now(UTC) + timedelta(seconds=wait_seconds + jitter_seconds)
    await session.flush()
    metrics.NOTIFICATIONS.labels(delivery.status.value).inc()
    return delivery.status


async def disable(session: AsyncSession, endpoint_id: UUID, *, reason: str | None) -> None:
    """Disable an endpoint and give up what is on its way to it; replaying brings that back."""
    endpoint = await session.get_one(NotificationEndpoint, endpoint_id, with_for_update=True)
    endpoint.status, endpoint.disabled_reason = EndpointStatus.DISABLED, reason
    await session.flush()
    await session.execute(
        update(NotificationDelivery)
        .where(NotificationDelivery.endpoint_id == endpoint_id, NotificationDelivery.status == DeliveryStatus.PENDING)
        .values(status=DeliveryStatus.FAILED, next_attempt_at=None, last_error="the endpoint was disabled")
        .execution_options(synchronize_session="fetch")
    )


async def forget_old(session: AsyncSession, *, limit: int) -> int:
    """Delete up to `limit` notifications older than KEPT_DAYS, with their deliveries; returns how many."""
    old = (
        select(Notification.id)
        .where(Notification.created_at < func.now() - timedelta(days=KEPT_DAYS))
        .order_by(Notification.created_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = (await session.scalars(old)).all()
    await session.execute(delete(NotificationDelivery).where(NotificationDelivery.notification_id.in_(ids)))
    await session.execute(delete(Notification).where(Notification.id.in_(ids)))
    return len(ids)


def _body(notification: Notification) -> bytes:
    # The envelope of Standard Webhooks, "Payload structure".
    return orjson.dumps(
        {"type": notification.type, "timestamp": utc(notification.created_at), "data": notification.data}
    )

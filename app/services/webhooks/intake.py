"""Taking a webhook in: prove who sent the raw bytes, keep them, say 202. What they mean is a worker's business.

Nothing is parsed here beyond the message's id, so that a payload we cannot read is kept all the same.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, NotFoundError, UnauthorizedError
from app.ids import new_id
from app.models import Source, SourceKind, SourceStatus, WebhookEvent
from app.services.secrets import unseal
from app.services.webhooks import awin, direct

logger = logging.getLogger(__name__)

_MESSAGE_ID = re.compile(r"[\x21-\x7e]{1,255}")
# Worth showing to staff, and without credentials.
_KEPT_HEADERS = ("content-type", "user-agent", "webhook-id", "webhook-timestamp")


class UnknownSourceError(NotFoundError):
    """No active source has this key."""

    code = "unknown_source"
    title = "Unknown webhook source"

    def __init__(self) -> None:
        super().__init__("No active source has this address; check the URL you were given.")


class InvalidSignatureError(UnauthorizedError):
    """The signature does not prove these bytes, or not at this time."""

    code = "invalid_signature"
    title = "Invalid webhook signature"

    def __init__(self) -> None:
        super().__init__(
            "The Standard Webhooks signature does not hold for this body, id and timestamp (tolerance: 5 minutes).",
            scheme="Webhook-Signature",
        )


class MessageIdReusedError(ConflictError):
    """A message id came again with another body: an error at the sender, or an attack."""

    code = "webhook_id_reused"
    title = "Message id reused"

    def __init__(self, dedupe_key: str) -> None:
        super().__init__(f"Message {dedupe_key!r} was taken in before with another body; a new message needs a new id.")


class IntakeStatus(StrEnum):
    """Whether a webhook is new to us."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One HTTP delivery, untouched. A GET's query string stands as its body."""

    body: bytes
    content_type: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Received:
    """The answer to a delivery."""

    event_id: UUID
    status: IntakeStatus


async def receive(
    session: AsyncSession, settings: Settings, *, source_key: str, delivery: Delivery, request_id: str | None
) -> Received:
    """Verify a delivery and keep it. The caller's commit makes it durable before it answers 202.

    Raises UnknownSourceError, InvalidSignatureError, MessageIdReusedError.
    """
    source = await session.scalar(
        select(Source).where(Source.source_key == source_key, Source.status == SourceStatus.ACTIVE)
    )
    if source is None:
        metrics.WEBHOOKS_RECEIVED.labels("unknown", "refused").inc()
        raise UnknownSourceError
    dedupe_key = _prove(settings, source, delivery)
    digest = hashlib.sha256(delivery.body).digest()
    event_id = await session.scalar(
        insert(WebhookEvent)
        .values(
            id=new_id(),
            source_id=source.id,
            dedupe_key=dedupe_key,
            body=delivery.body,
            body_sha256=digest,
            content_type=delivery.content_type[:200],
            headers={name: delivery.headers[name][:500] for name in _KEPT_HEADERS if name in delivery.headers},
            request_id=request_id,
        )
        .on_conflict_do_nothing(index_elements=[WebhookEvent.source_id, WebhookEvent.dedupe_key])
        .returning(WebhookEvent.id)
    )
    if event_id is None:
        return await _seen_before(session, source, dedupe_key, digest)
    ring_after_commit(session, "drain_webhooks")
    metrics.WEBHOOKS_RECEIVED.labels(source.kind.value, "accepted").inc()
    return Received(event_id, IntakeStatus.ACCEPTED)


def _prove(settings: Settings, source: Source, delivery: Delivery) -> str:
    """Check that the source sent these bytes, as far as its kind allows, and return what deduplicates them."""
    if source.kind is SourceKind.AWIN:
        transaction_id = awin.transaction_id(delivery.body, delivery.content_type)
        return transaction_id or f"sha256:{hashlib.sha256(delivery.body).hexdigest()}"
    message_id = delivery.headers.get("webhook-id", "")
    secrets = unseal(settings, source.secrets_encrypted) if source.secrets_encrypted else []
    if not _MESSAGE_ID.fullmatch(message_id) or not direct.signature_holds(
        secrets, delivery.body, dict(delivery.headers)
    ):
        metrics.WEBHOOKS_RECEIVED.labels(source.kind.value, "refused").inc()
        raise InvalidSignatureError
    return message_id


async def _seen_before(session: AsyncSession, source: Source, dedupe_key: str, digest: bytes) -> Received:
    known = (
        await session.execute(
            select(WebhookEvent.id, WebhookEvent.body_sha256).where(
                WebhookEvent.source_id == source.id, WebhookEvent.dedupe_key == dedupe_key
            )
        )
    ).one()
    if known.body_sha256 != digest:
        metrics.WEBHOOKS_RECEIVED.labels(source.kind.value, "conflict").inc()
        logger.warning("webhook id reused with another body", extra={"source_id": source.id, "event_id": str(known.id)})
        raise MessageIdReusedError(dedupe_key)
    metrics.WEBHOOKS_RECEIVED.labels(source.kind.value, "duplicate").inc()
    return Received(known.id, IntakeStatus.DUPLICATE)

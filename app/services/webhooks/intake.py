"""Taking a webhook in: prove who sent the raw bytes, keep them, say 202. What they mean is a worker's business.

Nothing is read here beyond what tells a repeat from a new event, so that a payload we cannot read is kept all the same.
"""

import hashlib
import logging
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import metrics
from app.config import Settings
from app.db import ring_after_commit
from app.errors import ConflictError, ForbiddenError, NotFoundError, UnauthorizedError
from app.ids import new_id
from app.models import EventOrigin, Source, SourceStatus, WebhookDuplicate, WebhookEvent
from app.services.sources.secrets import live_secrets
from app.services.sources.versions import CompiledDefinition, load_version
from app.services.webhooks.authenticate import holds, may_send, without_credentials
from app.services.webhooks.delivery import Delivery, decode
from app.services.webhooks.mapping import Reader, request_document
from app.services.webhooks.payload import PayloadError

logger = logging.getLogger(__name__)

_OWN = "own"


class UnknownSourceError(NotFoundError):
    """No active source has this key."""

    code = "unknown_source"
    title = "Unknown webhook source"

    def __init__(self) -> None:
        super().__init__("No active source has this address; check the URL you were given.")


class InvalidSignatureError(UnauthorizedError):
    """The signature, token or password does not prove this request, or not at this time."""

    code = "invalid_signature"
    title = "Invalid webhook signature"

    _DETAILS: ClassVar[dict[str, str]] = {
        "standard_webhooks": "The Standard Webhooks signature does not hold for this body, id and timestamp (tolerance:"
        " 5 minutes).",
        "hmac": "The signature does not hold for this request, or not at this time.",
        "token": "The token is missing or not the source's.",
        "basic": "The user name and password are missing or not the source's.",
        "closed": "The source is polled; nothing is taken in at its address.",
    }

    def __init__(self, kind: str = "standard_webhooks") -> None:
        super().__init__(self._DETAILS[kind], scheme="Basic" if kind == "basic" else "Webhook-Signature")


class SenderNotAllowedError(ForbiddenError):
    """The request comes from an address that is not the source's."""

    code = "sender_not_allowed"
    title = "Sender not allowed"

    def __init__(self) -> None:
        super().__init__("The source does not send from this address.")


class MessageIdReusedError(ConflictError):
    """A message id came again with another payload: an error at the sender, or an attack."""

    code = "webhook_id_reused"
    title = "Message id reused"

    def __init__(self, dedupe_key: str) -> None:
        super().__init__(f"Message {dedupe_key!r} was taken in before with another body; a new message needs a new id.")


class IntakeStatus(StrEnum):
    """Whether a webhook is new to us."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Received:
    """The answer to a delivery."""

    event_id: UUID
    status: IntakeStatus


async def receive(
    session: AsyncSession, settings: Settings, *, source_key: str, delivery: Delivery, request_id: str | None
) -> Received:
    """Verify a delivery and keep it. The caller's commit makes it durable before it answers 202.

    Raises UnknownSourceError, SenderNotAllowedError, InvalidSignatureError, MessageIdReusedError.
    """
    source = await session.scalar(
        select(Source).where(Source.source_key == source_key, Source.status == SourceStatus.ACTIVE)
    )
    if source is None:
        metrics.WEBHOOKS_RECEIVED.labels("unknown", "refused").inc()
        raise UnknownSourceError
    version = await load_version(session, source.version_id)
    if not may_send(version.definition, delivery.sender):
        _count(source, "refused")
        raise SenderNotAllowedError
    if not holds(version.definition, live_secrets(settings, source), delivery):
        _count(source, "refused")
        raise InvalidSignatureError(version.definition.authentication.kind)
    kept = without_credentials(version.definition, delivery)
    return await _keep(
        session,
        source,
        dedupe_key=message_id(version, delivery, kept),
        delivery=kept,
        origin=EventOrigin.PUSH,
        request_id=request_id,
    )


def item_key(reader: Reader, item: Any, content: bytes, request: Any = None) -> str:  # noqa: ANN401 - any JSON value
    """Return what tells repeats of an event apart: its own id, else the hash of what is said."""
    return reader.event_id(item, request) or f"sha256:{hashlib.sha256(content).hexdigest()}"


def message_id(version: CompiledDefinition, delivery: Delivery, kept: Delivery) -> str:
    """Return what tells repeats of a delivery apart; `kept` is what is kept of it."""
    definition = version.definition
    if definition.authentication.kind == "standard_webhooks":
        return delivery.headers.get("webhook-id", "")
    item = None
    if definition.reading.mapping.event_id is not None and version.events is None:
        try:
            item = decode(definition.transport, kept)
        except PayloadError:
            # Kept all the same; processing says what is wrong with it.
            item = None
    return item_key(version.pushed, item, kept.payload, request_document(definition, kept))


async def _keep(
    session: AsyncSession,
    source: Source,
    *,
    dedupe_key: str,
    delivery: Delivery,
    origin: EventOrigin,
    request_id: str | None,
) -> Received:
    digest = hashlib.sha256(delivery.payload).digest()
    event_id = await session.scalar(
        insert(WebhookEvent)
        .values(
            id=new_id(),
            source_id=source.id,
            dedupe_key=dedupe_key,
            origin=origin,
            method=delivery.method,
            query=delivery.query,
            body=delivery.body,
            body_sha256=digest,
            content_type=delivery.content_type[:200],
            headers=dict(delivery.headers),
            request_id=request_id,
        )
        .on_conflict_do_nothing(index_elements=[WebhookEvent.source_id, WebhookEvent.dedupe_key])
        .returning(WebhookEvent.id)
    )
    if event_id is None:
        return await _seen_before(session, source, dedupe_key, digest)
    ring_after_commit(session, "drain_webhooks")
    _count(source, "accepted")
    return Received(event_id, IntakeStatus.ACCEPTED)


async def _seen_before(session: AsyncSession, source: Source, dedupe_key: str, digest: bytes) -> Received:
    known = (
        await session.execute(
            select(WebhookEvent.id, WebhookEvent.body_sha256).where(
                WebhookEvent.source_id == source.id, WebhookEvent.dedupe_key == dedupe_key
            )
        )
    ).one()
    if known.body_sha256 != digest:
        _count(source, "conflict")
        logger.warning("webhook id reused with another body", extra={"source_id": source.id, "event_id": str(known.id)})
        raise MessageIdReusedError(dedupe_key)
    session.add(WebhookDuplicate(source_id=source.id))
    await session.flush()
    _count(source, "duplicate")
    return Received(known.id, IntakeStatus.DUPLICATE)


def _count(source: Source, outcome: str) -> None:
    metrics.WEBHOOKS_RECEIVED.labels(source.preset or _OWN, outcome).inc()

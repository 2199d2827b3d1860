"""Taking a webhook in: prove who sent the raw bytes, keep them, say 202. What they mean is a worker's business.

Nothing is read here beyond what tells a repeat from a new event, so that a payload we cannot read is kept all the same.
"""

import hashlib
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, assert_never
from uuid import UUID

from sqlalchemy import select

from app import metrics
from app.config import Settings
from app.db import transaction
from app.errors import ConflictError, ForbiddenError, NotFoundError, UnauthorizedError, UnavailableError
from app.ids import new_id
from app.models import EventOrigin, Source, SourceStatus, WebhookStatus
from app.services.sources.secrets import live_secrets
from app.services.sources.versions import CompiledDefinition, load_version
from app.services.webhooks.authenticate import holds, may_send, without_credentials
from app.services.webhooks.delivery import Delivery, decode
from app.services.webhooks.group import Outcome, store
from app.services.webhooks.mapping import Reader, request_document
from app.services.webhooks.payload import PayloadError

logger = logging.getLogger(__name__)

_OWN = "own"
_MOST_SENDERS = 1000
_MOST_READS = 3


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


@dataclass(frozen=True, slots=True)
class _Sender:
    """A source as it was read once, and its version then. Whether it still is so, is asked when an event is stored."""

    source: Source
    version: CompiledDefinition


# By source key, the one used last at the end.
_senders: OrderedDict[str, _Sender] = OrderedDict()


async def receive(settings: Settings, *, source_key: str, delivery: Delivery, request_id: str | None) -> Received:
    """Verify a delivery and keep it; it is durable when this returns.

    Raises UnknownSourceError, SenderNotAllowedError, InvalidSignatureError, MessageIdReusedError, UnavailableError.
    """
    sender = _senders.get(source_key)
    if sender is not None:
        _senders.move_to_end(source_key)
        # What is refused here may only be out of date.
        with suppress(SenderNotAllowedError, InvalidSignatureError):
            if (received := await _store(settings, sender, delivery, request_id)) is not None:
                return received
    for _ in range(_MOST_READS):
        sender = await _read_sender(source_key)
        try:
            received = await _store(settings, sender, delivery, request_id)
        except (SenderNotAllowedError, InvalidSignatureError):
            _count(sender.source, "refused")
            raise
        if received is not None:
            return received
    raise UnavailableError("The source is being changed; send the request again.")


async def _read_sender(source_key: str) -> _Sender:
    _senders.pop(source_key, None)
    async with transaction() as session:
        source = await session.scalar(
            select(Source).where(Source.source_key == source_key, Source.status == SourceStatus.ACTIVE)
        )
        if source is None:
            metrics.WEBHOOKS_RECEIVED.labels("unknown", "refused").inc()
            raise UnknownSourceError
        sender = _Sender(source, await load_version(session, source.version_id))
    _senders[source_key] = sender
    if len(_senders) > _MOST_SENDERS:
        _senders.popitem(last=False)
    return sender


async def _store(settings: Settings, sender: _Sender, delivery: Delivery, request_id: str | None) -> Received | None:
    """Verify a delivery against what a source was when it was read, and keep it; None: the source is another now."""
    source, version = sender.source, sender.version
    if not may_send(version.definition, delivery.sender):
        raise SenderNotAllowedError
    if not holds(version.definition, live_secrets(settings, source), delivery):
        raise InvalidSignatureError(version.definition.authentication.kind)
    kept = without_credentials(version.definition, delivery)
    row = _row(message_id(version, delivery, kept), kept, request_id)
    stored = await store(source, row)
    match stored.outcome:
        case Outcome.STALE:
            return None
        case Outcome.NEW:
            _count(source, "accepted")
            return Received(stored.event_id, IntakeStatus.ACCEPTED)
        case Outcome.SAME:
            _count(source, "duplicate")
            return Received(stored.event_id, IntakeStatus.DUPLICATE)
        case Outcome.OTHER:
            raise _reused(source, stored.event_id, row["dedupe_key"])
        case _:
            assert_never(stored.outcome)


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


def _row(dedupe_key: str, delivery: Delivery, request_id: str | None) -> dict[str, Any]:
    """Return the columns of an event but its source."""
    return {
        "id": new_id(),
        "dedupe_key": dedupe_key,
        "origin": EventOrigin.PUSH,
        "method": delivery.method,
        "query": delivery.query,
        "body": delivery.body,
        "body_sha256": hashlib.sha256(delivery.payload).digest(),
        "content_type": delivery.content_type[:200],
        "headers": dict(delivery.headers),
        "request_id": request_id,
        "status": WebhookStatus.RECEIVED,
    }


def _reused(source: Source, event_id: UUID, dedupe_key: str) -> MessageIdReusedError:
    _count(source, "conflict")
    logger.warning("webhook id reused with another body", extra={"source_id": source.id, "event_id": str(event_id)})
    return MessageIdReusedError(dedupe_key)


def _count(source: Source, outcome: str) -> None:
    metrics.WEBHOOKS_RECEIVED.labels(source.preset or _OWN, outcome).inc()

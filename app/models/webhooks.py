"""The inbox: raw events that sources posted, and staff's replays of many of them."""

from base64 import b64encode
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, minor, one_of, primary_key_uuid
from app.models.orders import ReportKind


class WebhookStatus(StrEnum):
    """Where an event stands. Only `received` is waiting for a worker."""

    RECEIVED = "received"
    PROCESSED = "processed"
    ORPHANED = "orphaned"  # no click to attribute it to; never credited
    QUARANTINED = "quarantined"  # attributed but implausible; never credited unless staff decide
    REJECTED = "rejected"  # the payload cannot be understood
    DEAD = "dead"  # processing failed again and again
    DISCARDED = "discarded"  # an orphan that staff decided to credit to nobody
    IGNORED = "ignored"  # says nothing that concerns us, by the source's definition
    SPLIT = "split"  # reported several events; each is a row of its own


class EventOrigin(StrEnum):
    """How an event came to us, and with that what its body is."""

    PUSH = "push"  # one request, as the source sent it
    ITEM = "item"  # one of several events in a request, as JSON
    POLL = "poll"  # fetched from the source, as JSON


class WebhookEvent(Base):
    """One delivery, as it arrived: the raw bytes stay, whatever becomes of the event."""

    __tablename__ = "webhook_events"
    __table_args__ = (
        one_of("status", WebhookStatus),
        one_of("reported_kind", ReportKind),
        one_of("origin", EventOrigin),
        CheckConstraint("(origin = 'item') = (delivery_id IS NOT NULL)", name="delivery"),
        CheckConstraint("num_nonnulls(released_at, released_by_id, released_reason) IN (0, 3)", name="released"),
        # Deduplication for ever: a source's message id is taken once.
        UniqueConstraint("source_id", "dedupe_key"),
        Index("ix_webhook_events_inbox", "next_attempt_at", postgresql_where="status = 'received'"),
        Index(None, "status", "id"),
        Index(None, "source_id", "id"),
        Index("ix_webhook_events_merchant", "merchant_id", "id", postgresql_where="merchant_id IS NOT NULL"),
        Index("ix_webhook_events_order", "external_order_id", postgresql_where="external_order_id IS NOT NULL"),
        Index("ix_webhook_events_delivery", "delivery_id", postgresql_where="delivery_id IS NOT NULL"),
        Index(
            "ix_webhook_events_waiting_order",
            "source_id",
            "external_order_id",
            postgresql_where="status = 'orphaned'",
        ),
        Index("ix_webhook_events_orphans", "merchant_id", "reported_at", postgresql_where="status = 'orphaned'"),
        Index("ix_webhook_events_uncompared", "id", postgresql_where="status = 'orphaned' AND compared_at IS NULL"),
        # Those whose raw bytes are still there, for the end of their time.
        Index("ix_webhook_events_raw", "id", postgresql_where="erased_at IS NULL"),
        Index("ix_webhook_events_waits_for", "waits_for", postgresql_where="waits_for IS NOT NULL"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    dedupe_key: Mapped[str]
    origin: Mapped[EventOrigin] = mapped_column(
        TextEnum(EventOrigin), default=EventOrigin.PUSH, server_default=EventOrigin.PUSH.value
    )
    # The request that brought it among others.
    delivery_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhook_events.id"))
    # The event that came before with the same id and said something else; nothing is credited twice by mistake.
    contradicts_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhook_events.id"))
    method: Mapped[str] = mapped_column(default="POST", server_default="POST")
    # Query and body as they arrived, but for a token in them.
    query: Mapped[bytes] = mapped_column(default=b"", server_default="")
    body: Mapped[bytes]
    # Of the payload, that is of both.
    body_sha256: Mapped[bytes]
    content_type: Mapped[str]
    # The request's headers, never credentials or signatures.
    headers: Mapped[dict[str, Any]]
    # The version of its source that read it last.
    version_id: Mapped[UUID | None] = mapped_column(ForeignKey("source_versions.id"))
    request_id: Mapped[str | None]
    status: Mapped[WebhookStatus] = mapped_column(TextEnum(WebhookStatus), default=WebhookStatus.RECEIVED)
    reason: Mapped[str | None]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    next_attempt_at: Mapped[datetime] = created_at()
    received_at: Mapped[datetime] = created_at()
    processed_at: Mapped[datetime | None]
    # Known once the payload was read: lets an event that came too early find its order later.
    external_order_id: Mapped[str | None]
    # What was read, for matching an orphan with a claim: the merchant where it is certain, the sale and its time.
    merchant_id: Mapped[int | None] = mapped_column(ForeignKey("merchants.id"))
    reported_kind: Mapped[ReportKind | None] = mapped_column(TextEnum(ReportKind))
    reported_currency: Mapped[str | None]
    reported_sale_minor: Mapped[int | None] = minor(nullable=True)
    reported_at: Mapped[datetime | None]
    # When it was compared, as an orphan, with the claims that wait; None: that is still to be done.
    compared_at: Mapped[datetime | None]
    # What it waits for, as `exchange_rate:USD/PKR`: it is tried again when that comes.
    waits_for: Mapped[str | None]
    # The click that staff or a claim attributed an orphan to, in place of the reference it lacks.
    matched_click_id: Mapped[UUID | None]
    # Who let it out of quarantine, and why: what was implausible is credited then.
    released_at: Mapped[datetime | None]
    released_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    released_reason: Mapped[str | None]
    # Why staff gave it up; set with the status `discarded`.
    discarded_reason: Mapped[str | None]
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    # When query, body and headers were erased: it can be replayed no more, and what was read of it stays.
    erased_at: Mapped[datetime | None]

    @property
    def body_base64(self) -> str:
        """The body for a document that cannot hold bytes."""
        return b64encode(self.body).decode()


class ReplayStatus(StrEnum):
    """Where a replay stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class WebhookReplay(Base):
    """Many events to be processed again, a batch at a time, with its progress."""

    __tablename__ = "webhook_replays"
    __table_args__ = (
        one_of("status", ReplayStatus),
        CheckConstraint("replayed <= total", name="replayed"),
        Index("ix_webhook_replays_unfinished", "id", postgresql_where="status IN ('queued', 'running')"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    status: Mapped[ReplayStatus] = mapped_column(TextEnum(ReplayStatus), default=ReplayStatus.QUEUED)
    # Which events, as the inbox is filtered; its shape is `schemas/webhooks.py`.
    filter: Mapped[dict[str, Any]]
    # How many it is about, all of them from before it, and how many are done.
    total: Mapped[int]
    replayed: Mapped[int] = mapped_column(default=0, server_default="0")
    # {"processed": 90, "rejected": 3, ...}
    outcomes: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    # It goes through the events by id, and is at this one.
    position: Mapped[UUID | None]
    requested_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    # Until then one worker has it; a later one takes it over.
    claimed_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()
    finished_at: Mapped[datetime | None]

"""Sources that report sales to us, and the inbox of raw events they post."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Identity, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, minor, one_of, primary_key_uuid
from app.models.orders import ReportKind


class SourceKind(StrEnum):
    """Which payload a source posts and how it proves who it is."""

    DIRECT = "direct"  # a merchant's own integration, signed by Standard Webhooks
    AWIN = "awin"  # Awin transaction push, unsigned, fenced


class SourceStatus(StrEnum):
    """A disabled source is answered as if it did not exist."""

    ACTIVE = "active"
    DISABLED = "disabled"


class WebhookStatus(StrEnum):
    """Where an event stands. Only `received` is waiting for a worker."""

    RECEIVED = "received"
    PROCESSED = "processed"
    ORPHANED = "orphaned"  # no click to attribute it to; never credited
    QUARANTINED = "quarantined"  # attributed but implausible; never credited unless staff decide
    REJECTED = "rejected"  # the payload cannot be understood
    DEAD = "dead"  # processing failed again and again
    DISCARDED = "discarded"  # an orphan that staff decided to credit to nobody


class Source(Base):
    """Who sends, how it is authenticated, and where our click id travels."""

    __tablename__ = "sources"
    __table_args__ = (one_of("kind", SourceKind), one_of("status", SourceStatus))

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    # The unguessable part of the webhook's address.
    source_key: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    kind: Mapped[SourceKind] = mapped_column(TextEnum(SourceKind))
    status: Mapped[SourceStatus] = mapped_column(TextEnum(SourceStatus), default=SourceStatus.ACTIVE)
    # Standard Webhooks secrets, encrypted; newest first, two during a rotation. None for unsigned kinds.
    secrets_encrypted: Mapped[bytes | None]
    # The query parameter of a click-out URL that brings our click id back in the payload.
    subid_parameter: Mapped[str]
    created_at: Mapped[datetime] = created_at()


class WebhookEvent(Base):
    """One delivery, as it arrived: the raw bytes stay, whatever becomes of the event."""

    __tablename__ = "webhook_events"
    __table_args__ = (
        one_of("status", WebhookStatus),
        one_of("reported_kind", ReportKind),
        # Deduplication for ever: a source's message id is taken once.
        UniqueConstraint("source_id", "dedupe_key"),
        Index("ix_webhook_events_inbox", "next_attempt_at", postgresql_where="status = 'received'"),
        Index(None, "status", "id"),
        Index(
            "ix_webhook_events_waiting_order",
            "source_id",
            "external_order_id",
            postgresql_where="status = 'orphaned'",
        ),
        Index("ix_webhook_events_orphans", "merchant_id", "reported_at", postgresql_where="status = 'orphaned'"),
        Index("ix_webhook_events_uncompared", "id", postgresql_where="status = 'orphaned' AND compared_at IS NULL"),
        Index("ix_webhook_events_waits_for", "waits_for", postgresql_where="waits_for IS NOT NULL"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    dedupe_key: Mapped[str]
    body: Mapped[bytes]
    body_sha256: Mapped[bytes]
    content_type: Mapped[str]
    # Selected request headers for the operator; never credentials or signatures.
    headers: Mapped[dict[str, Any]]
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
    matched_click_id: Mapped[UUID | None] = mapped_column(ForeignKey("clicks.id"))
    # Why staff gave it up; set with the status `discarded`.
    discarded_reason: Mapped[str | None]
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))

"""Feeds of merchants' offers and the runs that sync them."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, minor, one_of, primary_key_uuid, updated_at


class FeedFormat(StrEnum):
    """Shape of a feed."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    XML = "xml"


class FeedCredentialsKind(StrEnum):
    """How a feed's server knows us."""

    BASIC = "basic"
    BEARER = "bearer"
    HEADER = "header"
    QUERY = "query"
    PATH = "path"


class SyncStatus(StrEnum):
    """Where a sync run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Feed(Base):
    """Where a merchant's offers come from, how to read them, and how often to look."""

    __tablename__ = "feeds"
    __table_args__ = (
        one_of("format", FeedFormat),
        CheckConstraint("interval_seconds >= 60", name="interval_seconds"),
        CheckConstraint("max_loss_basis_points BETWEEN 0 AND 10000", name="max_loss_basis_points"),
        one_of("credentials_kind", FeedCredentialsKind),
        CheckConstraint("(credentials_kind IS NULL) = (credentials_encrypted IS NULL)", name="credentials"),
        CheckConstraint("max_bytes > 0 AND max_rows > 0 AND max_seconds > 0 AND calls_a_minute > 0", name="limits"),
        Index("ix_feeds_due", "next_sync_at", postgresql_where="enabled"),
    )

    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"), primary_key=True)
    url: Mapped[str]
    format: Mapped[FeedFormat] = mapped_column(TextEnum(FeedFormat))
    # Field names and paths; its shape is `schemas/feed_mappings.py`.
    mapping: Mapped[dict[str, Any]]
    credentials_kind: Mapped[FeedCredentialsKind | None] = mapped_column(TextEnum(FeedCredentialsKind))
    credentials_encrypted: Mapped[bytes | None]
    enabled: Mapped[bool] = mapped_column(default=True, server_default="true")
    interval_seconds: Mapped[int] = mapped_column(default=86_400, server_default="86400")
    next_sync_at: Mapped[datetime] = created_at()
    # A sync that would remove or reject more than this share of the offers changes nothing.
    max_loss_basis_points: Mapped[int] = mapped_column(default=3000, server_default="3000")
    # Limits below those of the service; None: the service's.
    max_bytes: Mapped[int | None] = minor(nullable=True)
    max_rows: Mapped[int | None]
    max_seconds: Mapped[int | None]
    # Requests to the host of the URL, all feeds there together; None: as many as it answers.
    calls_a_minute: Mapped[int | None]
    # What the last successful fetch answered, to skip an unchanged feed.
    etag: Mapped[str | None]
    last_modified: Mapped[str | None]
    content_hash: Mapped[bytes | None]
    updated_at: Mapped[datetime] = updated_at()


class FeedHost(Base):
    """When a host may be called next, for feeds that limit their calls a minute."""

    __tablename__ = "feed_hosts"

    host: Mapped[str] = mapped_column(primary_key=True)
    next_call_at: Mapped[datetime]


class SyncRun(Base):
    """One sync of one merchant, from request to result. Its id is the `job_id` callers see."""

    __tablename__ = "sync_runs"
    __table_args__ = (
        one_of("status", SyncStatus),
        # One unfinished run a merchant, whoever asks and however often.
        Index(
            "uq_sync_runs_unfinished",
            "merchant_id",
            unique=True,
            postgresql_where="status IN ('queued', 'running')",
        ),
        Index(None, "merchant_id", "id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    status: Mapped[SyncStatus] = mapped_column(TextEnum(SyncStatus), default=SyncStatus.QUEUED)
    request_id: Mapped[str | None]
    fetched: Mapped[int] = mapped_column(default=0, server_default="0")
    created: Mapped[int] = mapped_column(default=0, server_default="0")
    updated: Mapped[int] = mapped_column(default=0, server_default="0")
    unchanged: Mapped[int] = mapped_column(default=0, server_default="0")
    removed: Mapped[int] = mapped_column(default=0, server_default="0")
    rejected: Mapped[int] = mapped_column(default=0, server_default="0")
    # The first rejected rows: [{"row": 7, "reason": "..."}].
    rejected_samples: Mapped[list[dict[str, Any]]] = mapped_column(default=list, server_default="[]")
    error: Mapped[str | None]
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    # Which claim of the run is the valid one: a worker that was taken for dead can write nothing more.
    attempt_id: Mapped[UUID | None]
    # Where a lost worker's successor goes on in a feed of pages; its shape is `services/sync/checkpoint.py`.
    checkpoint: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = created_at()
    started_at: Mapped[datetime | None]
    # Renewed while the run works; a running row whose heartbeat is old lost its worker.
    heartbeat_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class OfferStaging(Base):
    """Rows of an unfinished sync on their way into `offers`. Unlogged: a crash loses them and the run starts again."""

    __tablename__ = "offer_staging"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    run_id: Mapped[UUID] = mapped_column(primary_key=True)
    row_number: Mapped[int] = mapped_column(primary_key=True)
    offer_id: Mapped[UUID]
    external_id: Mapped[str]
    title: Mapped[str]
    description: Mapped[str]
    brand: Mapped[str | None]
    category_slug: Mapped[str | None]
    url: Mapped[str]
    image_url: Mapped[str | None]
    currency: Mapped[str]
    price_minor: Mapped[int] = minor()
    price_max_minor: Mapped[int] = minor()
    available: Mapped[bool]
    # Of a delta: the offer goes, and nothing but its id is known.
    deleted: Mapped[bool]
    content_hash: Mapped[bytes]

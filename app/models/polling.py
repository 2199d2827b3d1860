"""Sources that are polled: how far each has come in time, and what was last heard of each item."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, updated_at
from app.models.sync import FeedCredentialsKind


class Poller(Base):
    """A source's polling: what it needs beside the definition, when it is due, and how it went."""

    __tablename__ = "pollers"
    __table_args__ = (
        one_of("credentials_kind", FeedCredentialsKind),
        CheckConstraint(
            "num_nonnulls(credentials_kind, credentials_encrypted, credentials_origin) IN (0, 3)", name="credentials"
        ),
        CheckConstraint("interval_seconds >= 60", name="interval_seconds"),
        CheckConstraint("failures >= 0 AND fetched >= 0 AND added >= 0", name="counts"),
        CheckConstraint("(attempt_id IS NULL) = (claimed_until IS NULL)", name="claim"),
        Index("ix_pollers_due", "next_poll_at", postgresql_where="enabled"),
    )

    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), primary_key=True)
    enabled: Mapped[bool] = mapped_column(default=True, server_default="true")
    interval_seconds: Mapped[int]
    # For the placeholders of the definition's requests: {"publisher_id": "12345"}.
    values: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    credentials_kind: Mapped[FeedCredentialsKind | None] = mapped_column(TextEnum(FeedCredentialsKind))
    credentials_encrypted: Mapped[bytes | None]
    # Where they are sent, and nowhere else: a definition that names another host does not get them.
    credentials_origin: Mapped[str | None]
    next_poll_at: Mapped[datetime] = created_at()
    # The valid claim, and until when it holds; a worker whose claim another has taken over can write nothing more.
    attempt_id: Mapped[UUID | None]
    claimed_until: Mapped[datetime | None]
    # Where a run that is not over goes on; its shape is `services/polling/progress.py`.
    checkpoint: Mapped[dict[str, Any] | None]
    # Up to when each pass has asked, by its name: {"validated": "2026-11-25T10:00:00+00:00"}.
    watermarks: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    # Of the present run, or else of the last: items in its answers, and events that they added.
    fetched: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    added: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    last_attempt_at: Mapped[datetime | None]
    last_success_at: Mapped[datetime | None]
    # In a row, since it last succeeded.
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()


class PolledItem(Base):
    """What was last heard of one item at a source: so that polling it again tells news from what is known."""

    __tablename__ = "polled_items"

    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"), primary_key=True)
    item_id: Mapped[str] = mapped_column(primary_key=True)
    # SHA-256 of all that the source's definition reads of it.
    digest: Mapped[bytes]
    # Counts what it has said; each is an event.
    revision: Mapped[int] = mapped_column(default=1, server_default="1")

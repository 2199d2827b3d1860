"""Alerts: what staff should look at although nothing has failed loudly."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid


class AlertKind(StrEnum):
    """What is wrong."""

    SILENCE = "silence"  # a merchant that usually converts has stopped
    STALE_FEED = "stale_feed"  # a feed has not been synced for long
    WAITING_REVIEWS = "waiting_reviews"  # orders of a merchant are held for long, and nobody decides
    FAILING_SOURCE = "failing_source"  # much of what a source sends cannot be credited, or it cannot be polled
    STRAY_CLICKS = "stray_clicks"  # clicks that no partition takes: the schedule that makes them does not run


class Alert(Base):
    """Something that is wrong with one merchant or source, or with clicks, open until it is over."""

    __tablename__ = "alerts"
    __table_args__ = (
        one_of("kind", AlertKind),
        CheckConstraint(
            "num_nonnulls(merchant_id, source_id) = CASE kind WHEN 'stray_clicks' THEN 0 ELSE 1 END", name="subject"
        ),
        # One alert at a time for the same thing.
        Index(
            "uq_alerts_open",
            "kind",
            "merchant_id",
            "source_id",
            unique=True,
            postgresql_where="closed_at IS NULL",
            postgresql_nulls_not_distinct=True,
        ),
        Index(None, "closed_at", "id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    kind: Mapped[AlertKind] = mapped_column(TextEnum(AlertKind))
    merchant_id: Mapped[int | None] = mapped_column(ForeignKey("merchants.id"))
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id"))
    # The figures behind it as of the last look, such as {"expected": 31.5, "actual": 0}.
    details: Mapped[dict[str, Any]]
    opened_at: Mapped[datetime] = created_at()
    closed_at: Mapped[datetime | None]

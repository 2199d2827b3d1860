"""Exports of all that is kept about one customer, sealed, for a few days."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, minor, one_of, primary_key_uuid


class ExportStatus(StrEnum):
    """Where an export stands. What is ready is deleted when its time is over."""

    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class DataExport(Base):
    """One customer's wish for an export, and what became of it."""

    __tablename__ = "data_exports"
    __table_args__ = (
        one_of("status", ExportStatus),
        CheckConstraint(
            "(status = 'ready') <= (ready_at IS NOT NULL AND expires_at IS NOT NULL AND size_bytes IS NOT NULL)",
            name="ready",
        ),
        # One a customer: a new wish takes the place of what was ready before.
        Index("uq_data_exports_customer", "customer_id", unique=True),
        Index("ix_data_exports_unfinished", "id", postgresql_where="status IN ('queued', 'building')"),
        Index(None, "expires_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    status: Mapped[ExportStatus] = mapped_column(TextEnum(ExportStatus), default=ExportStatus.QUEUED)
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    # Which claim of it is the valid one, and until when: a worker that was taken for dead can write nothing more.
    attempt_id: Mapped[UUID | None]
    claimed_until: Mapped[datetime | None]
    requested_at: Mapped[datetime] = created_at()
    ready_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    # Of the ZIP file.
    size_bytes: Mapped[int | None] = minor(nullable=True)


class DataExportPart(Base):
    """A piece of an export's ZIP file, sealed by ENCRYPTION_KEYS, so that nobody ever holds all of it in memory."""

    __tablename__ = "data_export_parts"
    __table_args__ = (UniqueConstraint("export_id", "number"),)

    id: Mapped[UUID] = primary_key_uuid()
    export_id: Mapped[UUID] = mapped_column(ForeignKey("data_exports.id", ondelete="CASCADE"))
    number: Mapped[int]
    content_encrypted: Mapped[bytes]

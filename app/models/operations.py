"""Rows the machinery itself needs: remembered answers to idempotent requests, and when each cron task last ran."""

from datetime import datetime

from sqlalchemy import Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, created_at


class IdempotencyKey(Base):
    """The first answer to a request that carried an Idempotency-Key, written in the request's own transaction."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "expires_at"),)

    # Who sent the key (a customer's or staff key's id): two callers never share one.
    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    # Digest of method, path and body.
    request_hash: Mapped[bytes]
    status_code: Mapped[int]
    body: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]


class CronRun(Base):
    """When a scheduled task was last claimed: two workers do not both run it, and a missed one is caught up once."""

    __tablename__ = "cron_runs"

    name: Mapped[str] = mapped_column(primary_key=True)
    last_run_at: Mapped[datetime]

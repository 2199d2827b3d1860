"""Keys of merchants, who read what concerns them, and what delivery health is counted from."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, created_at, primary_key_uuid


class MerchantKey(Base):
    """A read-only API key of a merchant, kept as a hash; `prefix` finds it."""

    __tablename__ = "merchant_keys"
    __table_args__ = (Index(None, "merchant_id", "id"),)

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(unique=True)
    key_hash: Mapped[bytes]
    created_by_id: Mapped[UUID] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime | None]
    # To the minute.
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class WebhookDuplicate(Base):
    """A delivery that repeated an event. Rows of their own: the event's may be locked by whoever processes it."""

    __tablename__ = "webhook_duplicates"
    __table_args__ = (Index(None, "source_id", "received_at"), Index(None, "received_at"))

    id: Mapped[UUID] = primary_key_uuid()
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    received_at: Mapped[datetime] = created_at()

"""Notifications: what we tell other systems by signed webhooks, to whom, and what became of each delivery."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid, updated_at


class EndpointStatus(StrEnum):
    """A disabled endpoint gets nothing; what came meanwhile can be replayed to it."""

    ACTIVE = "active"
    DISABLED = "disabled"


class DeliveryStatus(StrEnum):
    """Pending until the endpoint took it, or until the schedule of tries is over."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class NotificationEndpoint(Base):
    """A URL of another system that wants to know of some types of events."""

    __tablename__ = "notification_endpoints"
    __table_args__ = (
        one_of("status", EndpointStatus),
        CheckConstraint("cardinality(topics) > 0", name="topics"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    url: Mapped[str]
    description: Mapped[str] = mapped_column(default="", server_default="")
    # The first part of event types: `order` for `order.approved` and all others of its kind.
    topics: Mapped[list[str]] = mapped_column(ARRAY(Text))
    status: Mapped[EndpointStatus] = mapped_column(TextEnum(EndpointStatus), default=EndpointStatus.ACTIVE)
    # Why it was disabled, when nobody of staff did it.
    disabled_reason: Mapped[str | None]
    # Standard Webhooks secrets, encrypted; newest first, two during a rotation.
    secrets_encrypted: Mapped[bytes]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()


class Notification(Base):
    """Something that happened, written in the transaction in which it did."""

    __tablename__ = "notifications"
    __table_args__ = (
        CheckConstraint("type ~ '^[a-z_]+(\\.[a-z_]+)+$'", name="type"),
        Index(None, "created_at"),
        # What concerns one customer, for an export.
        Index("ix_notifications_customer", text("(data ->> 'customer_id')")),
    )

    # Also the `webhook-id` of each delivery, by which the receiver knows a repeat.
    id: Mapped[UUID] = primary_key_uuid()
    type: Mapped[str]
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = created_at()


class NotificationDelivery(Base):
    """One notification on its way to one endpoint."""

    __tablename__ = "notification_deliveries"
    __table_args__ = (
        one_of("status", DeliveryStatus),
        UniqueConstraint("notification_id", "endpoint_id"),
        CheckConstraint("(status = 'pending') = (next_attempt_at IS NOT NULL)", name="next_attempt_at"),
        # Due ones are taken endpoint by endpoint, so that a slow one keeps no other waiting.
        Index(
            "ix_notification_deliveries_due", "endpoint_id", "next_attempt_at", postgresql_where="status = 'pending'"
        ),
        Index(None, "endpoint_id", "id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    notification_id: Mapped[UUID] = mapped_column(ForeignKey("notifications.id"))
    endpoint_id: Mapped[UUID] = mapped_column(ForeignKey("notification_endpoints.id"))
    status: Mapped[DeliveryStatus] = mapped_column(TextEnum(DeliveryStatus), default=DeliveryStatus.PENDING)
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    # What the last try ended with: an HTTP status, or what kept it from having one.
    last_status_code: Mapped[int | None]
    last_error: Mapped[str | None]
    last_attempt_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()

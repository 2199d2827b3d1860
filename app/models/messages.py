"""The outbox: mails and text messages that are to be sent to customers, and what became of each."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid


class MessageChannel(StrEnum):
    """How a message reaches its recipient."""

    EMAIL = "email"
    SMS = "sms"


class MessageKind(StrEnum):
    """What a message says; its text, with a token where it needs one, is made when it is sent."""

    VERIFY_EMAIL = "verify_email"
    ALREADY_REGISTERED = "already_registered"
    RESET_PASSWORD = "reset_password"  # noqa: S105 - the kind's name
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - the kind's name
    VERIFY_PHONE = "verify_phone"
    STEP_UP = "step_up"


class MessageStatus(StrEnum):
    """Pending until somebody took it, or until the schedule of tries is over."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


class Message(Base):
    """One message to one address. It holds no secret: the token in its text is made, and kept hashed, at each try."""

    __tablename__ = "messages"
    __table_args__ = (
        one_of("channel", MessageChannel),
        one_of("kind", MessageKind),
        one_of("status", MessageStatus),
        CheckConstraint("(status = 'pending') = (next_attempt_at IS NOT NULL)", name="next_attempt_at"),
        Index("ix_messages_due", "next_attempt_at", postgresql_where="status = 'pending'"),
        Index(None, "created_at"),
        Index(None, "customer_id"),
        Index(None, "recipient"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    # Absent where the request may not tell whether the address has a customer; the worker looks then.
    customer_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"))
    channel: Mapped[MessageChannel] = mapped_column(TextEnum(MessageChannel))
    kind: Mapped[MessageKind] = mapped_column(TextEnum(MessageKind))
    recipient: Mapped[str]
    status: Mapped[MessageStatus] = mapped_column(TextEnum(MessageStatus), default=MessageStatus.PENDING)
    tries: Mapped[int] = mapped_column(default=0, server_default="0")
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    last_error: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    sent_at: Mapped[datetime | None]

"""Clawbacks: cashback taken back that the customer's available balance did not cover."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at
from app.models.catalogue import ClawbackPolicy


class ClawbackStatus(StrEnum):
    """Open until it is earned back or given up."""

    OPEN = "open"
    RECOVERED = "recovered"
    WRITTEN_OFF = "written_off"
    REINSTATED = "reinstated"  # the order was paid after all


class Clawback(Base):
    """What was missing when an order was taken back, and what became of it."""

    __tablename__ = "clawbacks"
    __table_args__ = (
        one_of("policy", ClawbackPolicy),
        one_of("status", ClawbackStatus),
        currency_check(),
        CheckConstraint("shortfall_minor > 0", name="shortfall"),
        CheckConstraint(
            "recovered_minor >= 0 AND written_off_minor >= 0"
            " AND recovered_minor + written_off_minor <= shortfall_minor",
            name="amounts",
        ),
        Index(None, "order_id"),
        Index("ix_clawbacks_open", "customer_id", "currency", postgresql_where="status = 'open'"),
        Index("ix_clawbacks_due", "due_at", postgresql_where="status = 'open' AND due_at IS NOT NULL"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    currency: Mapped[str]
    policy: Mapped[ClawbackPolicy] = mapped_column(TextEnum(ClawbackPolicy))
    status: Mapped[ClawbackStatus] = mapped_column(TextEnum(ClawbackStatus), default=ClawbackStatus.OPEN)
    shortfall_minor: Mapped[int] = minor()
    # Of a debt (policy `offset`): what was taken from later cashback.
    recovered_minor: Mapped[int] = minor(default=0)
    written_off_minor: Mapped[int] = minor(default=0)
    # When what is still missing is written off; only with that policy.
    due_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()

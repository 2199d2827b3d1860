"""Orders, and the reports about them from which their state is folded."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at


class OrderStatus(StrEnum):
    """The life of an order; see `services/orders/fold.py` for the transitions."""

    PENDING = "pending"
    APPROVED = "approved"
    PAYABLE = "payable"
    DECLINED = "declined"
    REVERSED = "reversed"


class ReportKind(StrEnum):
    """What a source says happened to an order."""

    CREATED = "created"
    APPROVED = "approved"
    DECLINED = "declined"
    RETURNED = "returned"


class Order(Base):
    """A purchase attributed to a click. Amounts are those of the present state."""

    __tablename__ = "orders"
    __table_args__ = (
        one_of("status", OrderStatus),
        currency_check(),
        UniqueConstraint("merchant_id", "external_id"),
        CheckConstraint("sale_minor >= 0 AND commission_minor >= 0 AND cashback_minor >= 0", name="amounts"),
        Index(None, "customer_id", "id"),
        Index(None, "click_id"),
        Index("ix_orders_hold", "payable_at", postgresql_where="status = 'approved'"),
        Index(None, "merchant_id", "ordered_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    external_id: Mapped[str]
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    click_id: Mapped[UUID] = mapped_column(ForeignKey("clicks.id"))
    status: Mapped[OrderStatus] = mapped_column(TextEnum(OrderStatus))
    currency: Mapped[str]
    sale_minor: Mapped[int] = minor()
    commission_minor: Mapped[int] = minor()
    cashback_minor: Mapped[int] = minor()
    # How the cashback came about, step by step, as shown to the customer.
    explanation: Mapped[dict[str, Any]]
    ordered_at: Mapped[datetime]
    approved_at: Mapped[datetime | None]
    # When the hold is over; set while approved and after.
    payable_at: Mapped[datetime | None]
    # Counts changes; names the ledger transfer of each one.
    revision: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()


class OrderReport(Base):
    """One thing a source said about an order. Reports are folded in the order they happened, not arrived."""

    __tablename__ = "order_reports"
    __table_args__ = (
        one_of("kind", ReportKind),
        currency_check(),
        Index(None, "order_id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    webhook_event_id: Mapped[UUID] = mapped_column(ForeignKey("webhook_events.id"), unique=True)
    kind: Mapped[ReportKind] = mapped_column(TextEnum(ReportKind))
    occurred_at: Mapped[datetime]
    # None where the source repeats no amounts: the ones known before stay.
    sale_minor: Mapped[int | None] = minor(nullable=True)
    commission_minor: Mapped[int | None] = minor(nullable=True)
    currency: Mapped[str]
    created_at: Mapped[datetime] = created_at()


class OrderChange(Base):
    """One step in an order's history: the state it came to and its amounts then."""

    __tablename__ = "order_changes"
    __table_args__ = (one_of("status", OrderStatus), UniqueConstraint("order_id", "revision"))

    id: Mapped[UUID] = primary_key_uuid()
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    revision: Mapped[int]
    status: Mapped[OrderStatus] = mapped_column(TextEnum(OrderStatus))
    sale_minor: Mapped[int] = minor()
    commission_minor: Mapped[int] = minor()
    cashback_minor: Mapped[int] = minor()
    at: Mapped[datetime] = created_at()

"""Settlements: what a network says it paid for a merchant, line by line against our orders."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid


class SettlementLineStatus(StrEnum):
    """How a line compares with what was owed for its order when the line came; it stays what it was then."""

    MATCHED = "matched"
    SHORT_PAID = "short_paid"
    OVER_PAID = "over_paid"
    UNKNOWN = "unknown"  # no order of the merchant has this external id, or it is in another currency


class SettlementResolution(StrEnum):
    """What became of a line that does not match: what staff decided, or that it was made right."""

    WRITTEN_OFF = "written_off"  # what is missing will not come; our loss
    ACCEPTED = "accepted"  # what is too much is kept as margin
    ASSIGNED = "assigned"  # unknown: it was for this order
    SETTLED_LATER = "settled_later"  # a later line, or a change of the order, made it right


class Settlement(Base):
    """One statement of a network for one merchant, in one currency. Its reference is taken once."""

    __tablename__ = "settlements"
    __table_args__ = (currency_check(), UniqueConstraint("merchant_id", "reference"))

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    # The network's own name of the statement or payment.
    reference: Mapped[str]
    currency: Mapped[str]
    paid_on: Mapped[date]
    # Sum of the lines; what came into the bank account, or left it where more was taken back than paid.
    total_minor: Mapped[int] = minor()
    # How many lines it has of each status: `{"matched": 1990, "short_paid": 10, ...}`.
    lines_by_status: Mapped[dict[str, Any]]
    created_by_id: Mapped[UUID] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()


class SettlementLine(Base):
    """What was paid for one order; below zero where the network takes commission back."""

    __tablename__ = "settlement_lines"
    __table_args__ = (
        one_of("status", SettlementLineStatus),
        one_of("resolution", SettlementResolution),
        CheckConstraint(
            "status = CASE WHEN expected_minor IS NULL THEN 'unknown'"
            " WHEN amount_minor < expected_minor THEN 'short_paid'"
            " WHEN amount_minor > expected_minor THEN 'over_paid' ELSE 'matched' END",
            name="compared",
        ),
        CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name="resolution_at"),
        CheckConstraint("resolution IS NULL OR status <> 'matched'", name="resolution_needed"),
        CheckConstraint(
            "(coalesce(resolution, '') IN ('written_off', 'accepted')) = (resolved_minor IS NOT NULL)",
            name="resolution_posted",
        ),
        CheckConstraint("resolved_minor > 0", name="resolved_minor"),
        CheckConstraint(
            "(order_id IS NULL) = (status = 'unknown' AND coalesce(resolution, '') <> 'assigned')", name="order"
        ),
        UniqueConstraint("settlement_id", "number"),
        Index(None, "order_id"),
        Index(
            "ix_settlement_lines_open",
            "settlement_id",
            "number",
            postgresql_where="status <> 'matched' AND resolution IS NULL",
        ),
    )

    id: Mapped[UUID] = primary_key_uuid()
    settlement_id: Mapped[UUID] = mapped_column(ForeignKey("settlements.id"))
    # Its place in the statement, from 1.
    number: Mapped[int]
    order_reference: Mapped[str]
    amount_minor: Mapped[int] = minor()
    # What was owed for the order before this line, and before the lines behind it; None for an unknown one.
    expected_minor: Mapped[int | None] = minor(nullable=True)
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    status: Mapped[SettlementLineStatus] = mapped_column(TextEnum(SettlementLineStatus))
    resolution: Mapped[SettlementResolution | None] = mapped_column(TextEnum(SettlementResolution))
    # What the resolution posted: loss or margin.
    resolved_minor: Mapped[int | None] = minor(nullable=True)
    resolution_note: Mapped[str | None]
    # Who decided; None where a later line or a change of the order made it right.
    resolved_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    resolved_at: Mapped[datetime | None]
    # Counts resolutions and their undoing; names the ledger transfer of each.
    revision: Mapped[int] = mapped_column(default=0, server_default="0")

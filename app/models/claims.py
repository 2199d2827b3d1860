"""Claims: customers who miss a cashback."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ColumnElement, ForeignKey, Index, and_, func
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at


class ClaimStatus(StrEnum):
    """Open until staff decide. `matched`: an orphan fits, which staff still have to confirm."""

    OPEN = "open"
    MATCHED = "matched"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


# The states in which a claim waits for staff.
WAITING = (ClaimStatus.OPEN, ClaimStatus.MATCHED)


class EvidenceKind(StrEnum):
    """What a customer can show for a purchase. All of it is text: we fetch nothing."""

    CONFIRMATION_EMAIL = "confirmation_email"
    INVOICE_NUMBER = "invoice_number"
    PAYMENT_REFERENCE = "payment_reference"
    TRACKING_NUMBER = "tracking_number"
    LINK = "link"
    OTHER = "other"


def reference_key(reference: str) -> str:
    """Return what tells whether two spellings are one order number: case, spaces and a leading `#` do not count."""
    return "".join(reference.split()).lstrip("#").casefold()


class Claim(Base):
    """What a customer says was bought, and what became of it."""

    __tablename__ = "claims"
    __table_args__ = (
        one_of("status", ClaimStatus),
        currency_check(),
        CheckConstraint("amount_minor > 0", name="amount"),
        CheckConstraint("score BETWEEN 0 AND 100", name="score"),
        Index(None, "customer_id", "id"),
        Index("ix_claims_due", "due_at", postgresql_where="status IN ('open', 'matched')"),
        Index("ix_claims_waiting", "merchant_id", "ordered_at", postgresql_where="status IN ('open', 'matched')"),
        Index(
            "ix_claims_uncompared",
            "id",
            postgresql_where="status IN ('open', 'matched') AND compared_at IS NULL",
        ),
        Index("ix_claims_uncredited", "id", postgresql_where="status = 'approved' AND order_id IS NULL"),
        Index("ix_claims_event", "matched_event_id", postgresql_where="matched_event_id IS NOT NULL"),
        # One live claim an order and customer. That two customers are not both paid is the order's own uniqueness.
        Index(
            "uq_claims_order",
            "merchant_id",
            "reference_key",
            "customer_id",
            unique=True,
            postgresql_where="status IN ('open', 'matched', 'approved')",
        ),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    order_reference: Mapped[str]
    # `reference_key(order_reference)`: what is compared.
    reference_key: Mapped[str]
    ordered_at: Mapped[datetime]
    amount_minor: Mapped[int] = minor()
    currency: Mapped[str]
    note: Mapped[str | None]
    # What the customer can show: [{"kind": "confirmation_email", "value": "..."}].
    evidence: Mapped[list[dict[str, Any]]]
    status: Mapped[ClaimStatus] = mapped_column(TextEnum(ClaimStatus), default=ClaimStatus.OPEN)
    # The SLA clock: by when staff have promised to decide.
    due_at: Mapped[datetime]
    # The orphan that fits best, how well of 100, and why.
    matched_event_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhook_events.id"))
    score: Mapped[int | None]
    score_reasons: Mapped[list[dict[str, Any]] | None]
    # When it was last compared with all orphans; None: that is still to be done.
    compared_at: Mapped[datetime | None]
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    resolution_note: Mapped[str | None]
    resolved_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    resolved_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()

    @classmethod
    def overdue(cls) -> ColumnElement[bool]:
        """Whether it still waits, and staff promised to have decided by now."""
        return and_(cls.status.in_(WAITING), cls.due_at <= func.now())

    @classmethod
    def uncredited(cls) -> ColumnElement[bool]:
        """Whether it is approved, and its order is still to come."""
        return and_(cls.status == ClaimStatus.APPROVED, cls.order_id.is_(None))

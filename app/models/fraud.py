"""Rules by which an order is held for a person to look at, and what became of each order that was."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ColumnElement, ForeignKey, Identity, Index, UniqueConstraint, exists
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid, updated_at
from app.models.orders import Order


class FraudRuleKind(StrEnum):
    """What a rule looks at."""

    CLICK_TO_ORDER = "click_to_order"  # the purchase follows its click faster than people buy
    ORDERS_PER_CLICK = "orders_per_click"
    SELF_REFERRAL = "self_referral"  # the customer and who invited them look like one person
    SHARED_PAYOUT_METHOD = "shared_payout_method"  # other customers are paid to the same account
    VELOCITY = "velocity"  # orders of a customer within some hours
    AMOUNT_OUTLIER = "amount_outlier"  # the sale beside the shop's last ones


class ReviewStatus(StrEnum):
    """Held until a rule holds it no more, or staff decide."""

    HELD = "held"
    CLEARED = "cleared"  # what was suspicious is no longer so
    RELEASED = "released"  # staff have looked; only new evidence holds it again
    REJECTED = "rejected"  # staff decided that nothing is owed, whatever the source says


# With these an order never becomes payable.
BLOCKING = (ReviewStatus.HELD, ReviewStatus.REJECTED)


class FraudRule(Base):
    """One version of a rule. It is never changed: another version ends it.

    One without a merchant holds for all that have none of their own of its kind, also where that one is switched off.
    """

    __tablename__ = "fraud_rules"
    __table_args__ = (
        one_of("kind", FraudRuleKind),
        UniqueConstraint("kind", "merchant_id", "number", postgresql_nulls_not_distinct=True),
        Index(
            "uq_fraud_rules_live",
            "kind",
            "merchant_id",
            unique=True,
            postgresql_where="ended_at IS NULL",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[UUID] = primary_key_uuid()
    kind: Mapped[FraudRuleKind] = mapped_column(TextEnum(FraudRuleKind))
    merchant_id: Mapped[int | None] = mapped_column(ForeignKey("merchants.id"))
    number: Mapped[int]
    enabled: Mapped[bool]
    # Its shape, by kind, is `schemas/fraud.py`.
    thresholds: Mapped[dict[str, Any]]
    created_by_id: Mapped[UUID] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()
    ended_at: Mapped[datetime | None]
    ended_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))


class OrderReview(Base):
    """What is suspicious about an order. Only written by who holds the order's row."""

    __tablename__ = "order_reviews"
    __table_args__ = (
        one_of("status", ReviewStatus),
        CheckConstraint(
            "(status IN ('released', 'rejected')) <= (decided_at IS NOT NULL AND note IS NOT NULL)", name="decided"
        ),
        Index(None, "status", "order_id"),
        Index("ix_order_reviews_held", "merchant_id", "held_since", postgresql_where="status = 'held'"),
    )

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    status: Mapped[ReviewStatus] = mapped_column(TextEnum(ReviewStatus))
    # Each as `FindingRead` of schemas/fraud.py.
    findings: Mapped[list[dict[str, Any]]]
    # What staff have seen when they released it: {"velocity": 7}. More than that is new evidence.
    seen: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    held_since: Mapped[datetime]
    decided_at: Mapped[datetime | None]
    decided_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    note: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()

    @classmethod
    def blocks(cls) -> ColumnElement[bool]:
        """Whether an order, of the statement around, may not become payable."""
        return exists().where(cls.order_id == Order.id, cls.status.in_(BLOCKING)).correlate(Order)


class OrderReviewChange(Base):
    """One step of a review: what it came to, why, and who of staff decided. Only ever inserted."""

    __tablename__ = "order_review_changes"
    __table_args__ = (one_of("status", ReviewStatus), Index(None, "order_id", "id"))

    id: Mapped[UUID] = primary_key_uuid()
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    status: Mapped[ReviewStatus] = mapped_column(TextEnum(ReviewStatus))
    findings: Mapped[list[dict[str, Any]]]
    note: Mapped[str | None]
    staff_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    at: Mapped[datetime] = created_at()


class OrderReviewCheck(Base):
    """A word that an order must be judged again, since another one came; only ever inserted, deleted by who judges.

    A row of its own: whoever has one order's row must wait for nobody who has another's.
    """

    __tablename__ = "order_review_checks"
    __table_args__ = (Index(None, "order_id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    created_at: Mapped[datetime] = created_at()

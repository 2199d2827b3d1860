"""Orders, and the reports about them from which their state is folded."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Numeric, UniqueConstraint, literal_column
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.sql.elements import ColumnElement

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at
from app.models.catalogue import ExpireAs

# What the network still owes for an order. One text for indexes and queries: PostgreSQL uses a partial index only for a
# condition that it recognises. Numeric, so that no amounts can overflow it.
_DUE = (
    "(CASE WHEN orders.status IN ('declined', 'reversed') THEN 0 ELSE orders.reported_commission_minor END::numeric"
    " - orders.settled_minor - orders.written_off_minor)"
)


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
        CheckConstraint("boost_minor BETWEEN 0 AND cashback_minor", name="boost"),
        currency_check("reported_currency"),
        CheckConstraint("reported_sale_minor >= 0 AND reported_commission_minor >= 0", name="reported"),
        one_of("expired_as", ExpireAs),
        CheckConstraint("(expired_at IS NULL) = (expired_as IS NULL)", name="expired"),
        CheckConstraint("(reported_currency = currency) = (exchange_rate_e12 IS NULL)", name="exchange_rate"),
        Index(None, "customer_id", "merchant_id", "ordered_at"),
        Index("ix_orders_open", "merchant_id", "ordered_at", "id", postgresql_where="status = 'pending'"),
        Index(None, "customer_id", "id"),
        Index(None, "click_id"),
        # Approved orders by the end of their hold: those that the network has paid, and those that it has not.
        Index(
            "ix_orders_hold_paid",
            "merchant_id",
            "payable_at",
            "id",
            postgresql_where=f"status = 'approved' AND {_DUE} <= 0",
        ),
        Index(
            "ix_orders_hold", "merchant_id", "payable_at", "id", postgresql_where=f"status = 'approved' AND {_DUE} > 0"
        ),
        # What is advanced of each merchant's cashback.
        Index(
            "ix_orders_advanced",
            "merchant_id",
            postgresql_include=["cashback_minor"],
            postgresql_where=f"status = 'payable' AND {_DUE} > 0",
        ),
        Index("ix_orders_overpaid", "id", postgresql_where=f"{_DUE} < 0"),
        Index(None, "merchant_id", "ordered_at"),
        # For reports that name no click.
        Index(None, "source_id", "external_id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    external_id: Mapped[str]
    source_id: Mapped[int] = mapped_column(ForeignKey("sources.id"))
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    # No foreign key, as months of clicks are replaced by those that orders came from (services/click_months.py).
    click_id: Mapped[UUID]
    status: Mapped[OrderStatus] = mapped_column(TextEnum(OrderStatus))
    # The merchant's, in which cashback is owed. What was reported in another is converted at the rate kept below.
    currency: Mapped[str]
    sale_minor: Mapped[int] = minor()
    commission_minor: Mapped[int] = minor()
    # All that the customer gets; the boosts' part of it is ours to pay and not the commission's.
    cashback_minor: Mapped[int] = minor()
    boost_minor: Mapped[int] = minor(default=0)
    # What the source reported, and what the network owes: in its own currency.
    reported_currency: Mapped[str]
    reported_sale_minor: Mapped[int] = minor()
    reported_commission_minor: Mapped[int] = minor()
    # Units of `currency` for one of `reported_currency`, times 10^12; of the day of the sale, kept for ever.
    exchange_rate_e12: Mapped[int | None] = mapped_column(BigInteger)
    # What the network has paid of the commission, and what staff stopped waiting for (below zero: what they decided to
    # keep of too much); in the reported currency.
    settled_minor: Mapped[int] = minor(default=0)
    written_off_minor: Mapped[int] = minor(default=0)
    # How the cashback came about, step by step, as shown to the customer.
    explanation: Mapped[dict[str, Any]]
    ordered_at: Mapped[datetime]
    approved_at: Mapped[datetime | None]
    # When the hold is over; set while approved and after.
    payable_at: Mapped[datetime | None]
    # When the merchant's expiry policy closed it and as what, since no report did; a report that does outranks it.
    expired_at: Mapped[datetime | None]
    expired_as: Mapped[ExpireAs | None] = mapped_column(TextEnum(ExpireAs))
    # Counts changes; names the ledger transfer of each one.
    revision: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()

    @property
    def owed_minor(self) -> int:
        """The commission in the reported currency while the order lives; nothing once it is declined or reversed."""
        dead = self.status in (OrderStatus.DECLINED, OrderStatus.REVERSED)
        return 0 if dead else self.reported_commission_minor

    @hybrid_property
    def due_minor(self) -> int:
        """What the network still owes, in the reported currency; below zero: it paid too much and will take back."""
        return self.owed_minor - self.settled_minor - self.written_off_minor

    @due_minor.inplace.expression
    @classmethod
    def _due_minor(cls) -> ColumnElement[Any]:
        return literal_column(_DUE, Numeric())


class OrderReport(Base):
    """One thing a source said about an order. Reports are folded in the order they happened, not arrived."""

    __tablename__ = "order_reports"
    __table_args__ = (
        one_of("kind", ReportKind),
        currency_check(),
        CheckConstraint("num_nonnulls(webhook_event_id, claim_id, staff_key_id) = 1", name="origin"),
        Index(None, "order_id"),
        Index("ix_order_reports_claim_id", "claim_id", postgresql_where="claim_id IS NOT NULL"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"))
    # Where it came from: an event, a resolved claim, or a member of staff with a reason.
    webhook_event_id: Mapped[UUID | None] = mapped_column(ForeignKey("webhook_events.id"), unique=True)
    claim_id: Mapped[UUID | None] = mapped_column(ForeignKey("claims.id"))
    staff_key_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    reason: Mapped[str | None]
    # The delivery it speaks of, where an order is delivered and approved in parts; None: the whole order.
    part: Mapped[str | None]
    kind: Mapped[ReportKind] = mapped_column(TextEnum(ReportKind))
    occurred_at: Mapped[datetime]
    # None where the source repeats no amounts: the ones known before stay.
    sale_minor: Mapped[int | None] = minor(nullable=True)
    commission_minor: Mapped[int | None] = minor(nullable=True)
    currency: Mapped[str]
    # When the order was placed, where the source tells that beside the time of what it reports.
    ordered_at: Mapped[datetime | None]
    # False: `occurred_at` is when it arrived, and of two such reports only their kinds say which comes first.
    is_dated: Mapped[bool] = mapped_column(default=True, server_default="true")
    # Whether its amounts are to be added to those of the other reports.
    is_delta: Mapped[bool] = mapped_column(default=False, server_default="false")
    # What names such a row at its source: told again, perhaps with another status, it still counts once.
    row_id: Mapped[str | None]
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
    boost_minor: Mapped[int] = minor(default=0)
    at: Mapped[datetime] = created_at()


class OrderBoost(Base):
    """What one campaign adds to an order now. Its sum over orders is what the campaign has spent of its budget."""

    __tablename__ = "order_boosts"
    __table_args__ = (CheckConstraint("amount_minor >= 0", name="amount"), Index(None, "campaign_id"))

    order_id: Mapped[UUID] = mapped_column(ForeignKey("orders.id"), primary_key=True)
    campaign_id: Mapped[UUID] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    amount_minor: Mapped[int] = minor()

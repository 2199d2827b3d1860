"""Clicks: a customer on the way to a merchant, with the rate that was promised."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Select, SQLColumnExpression, literal, select
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid
from app.models.catalogue import RateKind

# Clocks differ; a sale is only "before its click" beyond this.
CLOCK_SKEW = timedelta(minutes=10)


class ClickOrigin(StrEnum):
    """A customer's own click, or the promise that staff gave by resolving a claim."""

    CUSTOMER = "customer"
    CLAIM = "claim"


class Click(Base):
    """A click. Its rate is a copy: what was promised then holds, whatever the merchant's rate becomes."""

    __tablename__ = "clicks"
    __table_args__ = (
        one_of("origin", ClickOrigin),
        one_of("rate_kind", RateKind),
        currency_check(),
        CheckConstraint("(rate_kind = 'fixed') = (rate_fixed_minor IS NOT NULL)", name="rate_fixed"),
        CheckConstraint("(rate_kind <> 'fixed') = (rate_basis_points IS NOT NULL)", name="rate_percent"),
        Index(None, "customer_id", "id"),
        Index(None, "merchant_id", "created_at"),
        # By month: ids begin with their time. See services/click_months.py.
        {"postgresql_partition_by": "RANGE (id)"},
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    offer_id: Mapped[UUID | None] = mapped_column(ForeignKey("offers.id"))
    origin: Mapped[ClickOrigin] = mapped_column(
        TextEnum(ClickOrigin), default=ClickOrigin.CUSTOMER, server_default=ClickOrigin.CUSTOMER.value
    )
    # The full URL at the merchant or network, the click id in its sub-id parameter.
    target_url: Mapped[str]
    rate_kind: Mapped[RateKind] = mapped_column(TextEnum(RateKind))
    rate_basis_points: Mapped[int | None]
    rate_fixed_minor: Mapped[int | None] = minor(nullable=True)
    rate_cap_minor: Mapped[int | None] = minor(nullable=True)
    # Most cashback of the customer at the merchant in a calendar month (UTC), boosts aside.
    rate_cap_month_minor: Mapped[int | None] = minor(nullable=True)
    # [{"from_minor": 100000, "basis_points": 700}, ...] by rising amounts; see Rate.tiers.
    rate_tiers: Mapped[list[dict[str, Any]] | None]
    # The campaigns in force at the click; see services/orders/boosts.py for their members.
    boosts: Mapped[list[dict[str, Any]] | None]
    # The currency of the fixed amount and of the cap: the merchant's.
    currency: Mapped[str]
    # Keyed hash of the address it was made from: tells equal from different, until the account is closed.
    address_hint: Mapped[bytes | None]
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]

    def counts_for(self, sold_at: datetime) -> bool:
        """Whether a sale at this moment counts for the click."""
        return self.created_at - CLOCK_SKEW <= sold_at <= self.expires_at

    @classmethod
    def before_sale(
        cls,
        *,
        merchant_id: int | SQLColumnExpression[int],
        at: datetime | SQLColumnExpression[datetime] | SQLColumnExpression[datetime | None],
        customer_id: UUID | SQLColumnExpression[UUID] | None = None,
    ) -> Select[Self]:
        """Select customers' own clicks that a sale at a moment counts for, the last one first.

        With columns in place of the values it is the inside of a subquery.
        """
        # Added by PostgreSQL: the first and last days of the calendar have no neighbours in Python.
        sold_at = literal(at) if isinstance(at, datetime) else at
        statement = (
            select(cls)
            .where(
                cls.merchant_id == merchant_id,
                cls.origin == ClickOrigin.CUSTOMER,
                cls.created_at <= sold_at + literal(CLOCK_SKEW),
                cls.expires_at >= sold_at,
            )
            .order_by(cls.created_at.desc(), cls.id.desc())
        )
        return statement if customer_id is None else statement.where(cls.customer_id == customer_id)

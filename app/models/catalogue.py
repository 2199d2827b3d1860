"""What shoppers browse: categories, merchants with their cashback rates, and offers from feeds."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    BindParameter,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    Select,
    SQLColumnExpression,
    UniqueConstraint,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at


class MerchantStatus(StrEnum):
    """Active: shown and clickable. Paused: shown, not clickable. Closed: neither."""

    ACTIVE = "active"
    PAUSED = "paused"
    CLOSED = "closed"


class RateKind(StrEnum):
    """What a rate is a share of, or that it is a fixed amount an order."""

    PERCENT_OF_SALE = "percent_of_sale"
    PERCENT_OF_COMMISSION = "percent_of_commission"
    FIXED = "fixed"


class ClawbackPolicy(StrEnum):
    """What a clawback that the available balance does not cover becomes."""

    NEGATIVE = "negative"  # the available balance goes below zero and is earned back
    OFFSET = "offset"  # a debt beside a balance of zero, taken from what becomes available later
    WRITE_OFF = "write_off"  # as NEGATIVE; what is still missing after `write_off_days` is our loss


class ExpireAs(StrEnum):
    """What an order that no report closes becomes."""

    DECLINED = "declined"
    APPROVED = "approved"


class Category(Base):
    """A node of the shop's category list."""

    __tablename__ = "categories"
    __table_args__ = (CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name="slug"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]


class Merchant(Base):
    """A shop that pays commission, and how a click reaches it."""

    __tablename__ = "merchants"
    __table_args__ = (
        one_of("status", MerchantStatus),
        currency_check(),
        CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name="slug"),
        CheckConstraint("hold_days >= 0", name="hold_days"),
        CheckConstraint("exposure_limit_minor >= 0", name="exposure_limit_minor"),
        one_of("clawback_policy", ClawbackPolicy),
        CheckConstraint("(clawback_policy = 'write_off') = (write_off_days IS NOT NULL)", name="write_off_days"),
        one_of("expire_as", ExpireAs),
        CheckConstraint("expire_days > 0", name="expire_days"),
        UniqueConstraint("source_id", "network_merchant_ref"),
        Index(None, "category_id"),
        # The public list's order.
        Index(None, "name", "id"),
        Index("ix_merchants_search", "search", postgresql_using="gin"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    description: Mapped[str] = mapped_column(default="", server_default="")
    status: Mapped[MerchantStatus] = mapped_column(TextEnum(MerchantStatus), default=MerchantStatus.ACTIVE)
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.id"))
    currency: Mapped[str]
    logo_url: Mapped[str | None]
    # Where a click leads when it has no offer, or what an offer's own URL is handed to (see deeplink_parameter).
    tracking_url: Mapped[str]
    # The query parameter of tracking_url that takes an offer's URL ("ued" at Awin); None: go to the offer directly.
    deeplink_parameter: Mapped[str | None]
    # Who reports this merchant's sales, and the name the merchant has there.
    source_id: Mapped[int | None] = mapped_column(ForeignKey("sources.id"))
    network_merchant_ref: Mapped[str | None]
    # Days from approval until cashback is payable: the merchant's return window.
    hold_days: Mapped[int] = mapped_column(default=30, server_default="30")
    # Cashback becomes payable only once the network has paid the order's commission.
    payable_after_payment: Mapped[bool] = mapped_column(default=False, server_default="false")
    # Most cashback that may be payable before the network has paid for it; None: no limit.
    exposure_limit_minor: Mapped[int | None] = minor(nullable=True)
    # What happens when an order is taken back and the customer's balance does not cover it.
    clawback_policy: Mapped[ClawbackPolicy] = mapped_column(
        TextEnum(ClawbackPolicy), default=ClawbackPolicy.NEGATIVE, server_default=ClawbackPolicy.NEGATIVE.value
    )
    write_off_days: Mapped[int | None]
    # An order that no report ever closed is closed so many days after the sale, as `expire_as` says; None: never.
    expire_days: Mapped[int | None]
    expire_as: Mapped[ExpireAs] = mapped_column(
        TextEnum(ExpireAs), default=ExpireAs.DECLINED, server_default=ExpireAs.DECLINED.value
    )
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()
    search: Mapped[str] = mapped_column(
        TSVECTOR, Computed("to_tsvector('simple', name || ' ' || description)", persisted=True), deferred=True
    )


class Rate(Base):
    """A cashback rate of a merchant, or of one category of its offers, during a period: `[valid_from, valid_to)`."""

    __tablename__ = "rates"
    __table_args__ = (
        one_of("kind", RateKind),
        CheckConstraint(
            "(kind = 'fixed' AND fixed_minor > 0 AND basis_points IS NULL)"
            " OR (kind <> 'fixed' AND basis_points BETWEEN 1 AND 10000 AND fixed_minor IS NULL)",
            name="value",
        ),
        CheckConstraint("cap_minor > 0", name="cap_minor"),
        CheckConstraint("cap_month_minor > 0", name="cap_month_minor"),
        CheckConstraint("valid_to > valid_from", name="period"),
        Index(None, "merchant_id", "valid_from"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    # Holds for clicks on offers of this category; None: for all that no rate of a category holds for.
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.id"))
    kind: Mapped[RateKind] = mapped_column(TextEnum(RateKind))
    basis_points: Mapped[int | None]
    fixed_minor: Mapped[int | None] = minor(nullable=True)
    # [{"from_minor": 100000, "basis_points": 700}] or with "fixed_minor": of the tiers that the sale reaches, the
    # highest holds for the whole sale; below the first the rate itself holds.
    tiers: Mapped[list[dict[str, Any]] | None]
    # Most cashback an order, and most of a customer at the merchant in a calendar month (UTC); boosts aside.
    cap_minor: Mapped[int | None] = minor(nullable=True)
    cap_month_minor: Mapped[int | None] = minor(nullable=True)
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()

    @classmethod
    def in_force(
        cls,
        merchant_id: int | SQLColumnExpression[int],
        at: datetime | BindParameter[Any],
        *,
        category_id: SQLColumnExpression[int | None] | None = None,
    ) -> Select["Rate"]:
        """Select the merchant's rate at a moment: of several, the one that began last.

        With a category, its own rates come before those for all. With columns in place of the ids it is the inside of
        a LATERAL join.
        """
        of_category: SQLColumnExpression[bool] = cls.category_id.is_(None)
        if category_id is not None:
            of_category = or_(of_category, cls.category_id == category_id)
        return (
            select(cls)
            .where(
                cls.merchant_id == merchant_id,
                of_category,
                cls.valid_from <= at,
                or_(cls.valid_to.is_(None), cls.valid_to > at),
            )
            .order_by(cls.category_id.is_(None), cls.valid_from.desc(), cls.id.desc())
            .limit(1)
        )


class Offer(Base):
    """A product of a merchant's feed. One that left the feed keeps its row with `removed_at`."""

    __tablename__ = "offers"
    __table_args__ = (
        currency_check(),
        UniqueConstraint("merchant_id", "external_id"),
        CheckConstraint("price_minor >= 0 AND price_max_minor >= price_minor", name="price"),
        Index("ix_offers_merchant_live", "merchant_id", "id", postgresql_where="removed_at IS NULL"),
        Index("ix_offers_merchant_price", "merchant_id", "price_minor", "id", postgresql_where="removed_at IS NULL"),
        Index("ix_offers_category_live", "category_id", "id", postgresql_where="removed_at IS NULL"),
        Index("ix_offers_price", "price_minor", "id", postgresql_where="removed_at IS NULL"),
        Index("ix_offers_search", "search", postgresql_using="gin"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    external_id: Mapped[str]
    title: Mapped[str]
    description: Mapped[str] = mapped_column(default="", server_default="")
    brand: Mapped[str | None]
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.id"))
    url: Mapped[str]
    image_url: Mapped[str | None]
    currency: Mapped[str]
    # A product with variants has a range; otherwise both are the same.
    price_minor: Mapped[int] = minor()
    price_max_minor: Mapped[int] = minor()
    available: Mapped[bool] = mapped_column(default=True, server_default="true")
    # Digest of all feed fields: an unchanged row is recognised without comparing each column.
    content_hash: Mapped[bytes]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()
    removed_at: Mapped[datetime | None]
    search: Mapped[str] = mapped_column(
        TSVECTOR, Computed("to_tsvector('simple', title || ' ' || coalesce(brand, ''))", persisted=True), deferred=True
    )


class CatalogueVersion(Base):
    """One row: how often what shoppers see of the catalogue has changed (`services/catalogue_version.py`)."""

    __tablename__ = "catalogue_version"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)

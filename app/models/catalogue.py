"""What shoppers browse: categories, merchants with their cashback rates, and offers from feeds."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
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
        UniqueConstraint("source_id", "network_merchant_ref"),
        Index(None, "category_id"),
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
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()
    search: Mapped[str] = mapped_column(
        TSVECTOR, Computed("to_tsvector('simple', name || ' ' || description)", persisted=True), deferred=True
    )


class Rate(Base):
    """A cashback rate of a merchant during a period: `[valid_from, valid_to)`."""

    __tablename__ = "rates"
    __table_args__ = (
        one_of("kind", RateKind),
        CheckConstraint(
            "(kind = 'fixed' AND fixed_minor > 0 AND basis_points IS NULL)"
            " OR (kind <> 'fixed' AND basis_points BETWEEN 1 AND 10000 AND fixed_minor IS NULL)",
            name="value",
        ),
        CheckConstraint("cap_minor > 0", name="cap_minor"),
        CheckConstraint("valid_to > valid_from", name="period"),
        Index(None, "merchant_id", "valid_from"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    merchant_id: Mapped[int] = mapped_column(ForeignKey("merchants.id"))
    kind: Mapped[RateKind] = mapped_column(TextEnum(RateKind))
    basis_points: Mapped[int | None]
    fixed_minor: Mapped[int | None] = minor(nullable=True)
    cap_minor: Mapped[int | None] = minor(nullable=True)
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()

    @classmethod
    def in_force(cls, merchant_id: int | SQLColumnExpression[int], at: datetime | BindParameter[Any]) -> Select["Rate"]:
        """Select the merchant's rate at a moment: of several, the one that began last.

        With a column in place of the id it is the inside of a LATERAL join.
        """
        return (
            select(cls)
            .where(cls.merchant_id == merchant_id, cls.valid_from <= at, or_(cls.valid_to.is_(None), cls.valid_to > at))
            .order_by(cls.valid_from.desc(), cls.id.desc())
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

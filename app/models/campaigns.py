"""Campaigns: extra cashback that we pay ourselves, within a period and a budget."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Select, SQLColumnExpression, or_, select
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at
from app.models.catalogue import RateKind


class CampaignStatus(StrEnum):
    """A paused campaign is promised to no new click; what was promised before is kept."""

    ACTIVE = "active"
    PAUSED = "paused"


class Campaign(Base):
    """A boost on top of the rate: of one merchant, of a category of merchants, or of all of one currency.

    `spent_minor` is raised in one conditional statement by the transaction that grants a boost, so that a budget can
    never be overspent.
    """

    __tablename__ = "campaigns"
    __table_args__ = (
        one_of("status", CampaignStatus),
        one_of("kind", RateKind),
        currency_check(),
        CheckConstraint(
            "(kind = 'fixed' AND fixed_minor > 0 AND basis_points IS NULL)"
            " OR (kind <> 'fixed' AND basis_points BETWEEN 1 AND 10000 AND fixed_minor IS NULL)",
            name="value",
        ),
        CheckConstraint("cap_minor > 0", name="cap_minor"),
        CheckConstraint("minimum_sale_minor >= 0", name="minimum_sale_minor"),
        CheckConstraint("spent_minor >= 0 AND spent_minor <= budget_minor", name="budget"),
        CheckConstraint("valid_to > valid_from", name="period"),
        CheckConstraint("merchant_id IS NULL OR category_id IS NULL", name="audience"),
        Index(None, "currency", "valid_from"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    name: Mapped[str]
    status: Mapped[CampaignStatus] = mapped_column(TextEnum(CampaignStatus), default=CampaignStatus.ACTIVE)
    merchant_id: Mapped[int | None] = mapped_column(ForeignKey("merchants.id"))
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.id"))
    kind: Mapped[RateKind] = mapped_column(TextEnum(RateKind))
    basis_points: Mapped[int | None]
    fixed_minor: Mapped[int | None] = minor(nullable=True)
    currency: Mapped[str]
    # Most extra cashback an order.
    cap_minor: Mapped[int | None] = minor(nullable=True)
    minimum_sale_minor: Mapped[int] = minor(default=0)
    # None: no limit.
    budget_minor: Mapped[int | None] = minor(nullable=True)
    spent_minor: Mapped[int] = minor(default=0)
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()

    @classmethod
    def in_force(
        cls,
        at: datetime,
        *,
        merchant_id: int | SQLColumnExpression[int],
        category_id: SQLColumnExpression[int | None],
        currency: str | SQLColumnExpression[str],
    ) -> Select["Campaign"]:
        """Select the campaigns that a click at a merchant of a category and currency is promised, oldest first."""
        return (
            select(cls)
            .where(
                cls.currency == currency,
                cls.status == CampaignStatus.ACTIVE,
                cls.valid_from <= at,
                or_(cls.valid_to.is_(None), cls.valid_to > at),
                or_(cls.merchant_id.is_(None), cls.merchant_id == merchant_id),
                or_(cls.category_id.is_(None), cls.category_id == category_id),
                # One whose budget is gone would promise nothing.
                or_(cls.budget_minor.is_(None), cls.spent_minor < cls.budget_minor),
            )
            .order_by(cls.id)
        )

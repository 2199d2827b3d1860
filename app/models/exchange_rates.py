"""Exchange rates by day, as integers, so that a conversion is exact and can be done again."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, created_at, currency_check, primary_key_uuid


class ExchangeRate(Base):
    """How many units of `quote` one unit of `base` is worth from a day on, times 10^12. Never changed."""

    __tablename__ = "exchange_rates"
    __table_args__ = (
        currency_check("base"),
        currency_check("quote"),
        CheckConstraint("base <> quote", name="pair"),
        CheckConstraint("rate_e12 > 0", name="rate_e12"),
        UniqueConstraint("base", "quote", "effective_on"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    base: Mapped[str]
    quote: Mapped[str]
    effective_on: Mapped[date]
    rate_e12: Mapped[int] = mapped_column(BigInteger)
    created_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()

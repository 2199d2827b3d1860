"""Referrals: who invited whom, and the bonus of both."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid, updated_at


class ReferralStatus(StrEnum):
    """Waiting for the invited customer's first payable order; then granted, or held for staff or refused, by reason."""

    WAITING = "waiting"
    HELD = "held"
    GRANTED = "granted"
    REFUSED = "refused"
    CLAWED_BACK = "clawed_back"


class ReferralReason(StrEnum):
    """Why a bonus is held or refused. The same address alone may be a family: only that one is held."""

    REFERRER_NOT_ACTIVE = "referrer_not_active"
    INVITED_NOT_ACTIVE = "invited_not_active"
    SAME_PAYOUT_METHOD = "same_payout_method"
    SAME_DEVICE = "same_device"
    LIMIT_REACHED = "limit_reached"
    SAME_ADDRESS = "same_address"
    BY_STAFF = "by_staff"


class ReferralProgram(Base):
    """What both sides get. Of several, the one that began last holds for a new account; there may be none."""

    __tablename__ = "referral_programs"
    __table_args__ = (
        currency_check(),
        CheckConstraint(
            "referrer_bonus_minor >= 0 AND invited_bonus_minor >= 0 AND referrer_bonus_minor + invited_bonus_minor > 0",
            name="bonuses",
        ),
        CheckConstraint("minimum_sale_minor >= 0 AND max_granted > 0", name="limits"),
        # Equal: ended before it began.
        CheckConstraint("valid_to >= valid_from", name="period"),
        Index(None, "valid_from"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    currency: Mapped[str]
    referrer_bonus_minor: Mapped[int] = minor()
    invited_bonus_minor: Mapped[int] = minor()
    # The invited customer's first order counts from this sale on, in the program's currency.
    minimum_sale_minor: Mapped[int] = minor(default=0)
    # Most bonuses of one referrer under this program.
    max_granted: Mapped[int]
    valid_from: Mapped[datetime]
    valid_to: Mapped[datetime | None]
    created_at: Mapped[datetime] = created_at()


class Referral(Base):
    """One invited customer. The bonuses are those of the program at registration."""

    __tablename__ = "referrals"
    __table_args__ = (
        one_of("status", ReferralStatus),
        one_of("reason", ReferralReason),
        currency_check(),
        CheckConstraint("(status IN ('held', 'refused')) = (reason IS NOT NULL)", name="has_reason"),
        CheckConstraint("referrer_id <> invited_id", name="not_self"),
        CheckConstraint("(status IN ('granted', 'clawed_back')) <= (order_id IS NOT NULL)", name="order"),
        Index(None, "referrer_id", "id"),
        Index("ix_referrals_order_id", "order_id", postgresql_where="order_id IS NOT NULL"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    program_id: Mapped[UUID] = mapped_column(ForeignKey("referral_programs.id"))
    referrer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    invited_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"), unique=True)
    status: Mapped[ReferralStatus] = mapped_column(TextEnum(ReferralStatus), default=ReferralStatus.WAITING)
    currency: Mapped[str]
    referrer_bonus_minor: Mapped[int] = minor()
    invited_bonus_minor: Mapped[int] = minor()
    # The order that earns it now, or did until it was taken back.
    order_id: Mapped[UUID | None] = mapped_column(ForeignKey("orders.id"))
    # Why it is held or refused.
    reason: Mapped[ReferralReason | None] = mapped_column(TextEnum(ReferralReason))
    # Who of staff decided, and why. A bonus that they allow is not asked for likenesses any more.
    decided_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    note: Mapped[str | None]
    # Counts grants and clawbacks; names the ledger transfer of each.
    revision: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()


class ReferralCheck(Base):
    """A word that a referral must be looked at, since an order changed; only ever inserted, and deleted by who looks.

    A row of its own, as whoever changes an order holds wallets, and must wait for nobody who holds a referral.
    """

    __tablename__ = "referral_checks"
    __table_args__ = (Index(None, "referral_id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    referral_id: Mapped[UUID] = mapped_column(ForeignKey("referrals.id"))
    created_at: Mapped[datetime] = created_at()

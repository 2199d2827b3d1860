"""Customers and their refresh tokens."""

from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Select, select
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid, updated_at


class CustomerStatus(StrEnum):
    """Whether a customer may sign in. A frozen one may, but earns and withdraws nothing."""

    ACTIVE = "active"
    FROZEN = "frozen"
    CLOSED = "closed"


class Customer(Base):
    """A shopper. Closing an account pseudonymises this row; orders and postings stay."""

    __tablename__ = "customers"
    __table_args__ = (
        one_of("status", CustomerStatus),
        CheckConstraint("email = lower(email)", name="email_lower"),
        CheckConstraint("(status = 'closed') = (closed_at IS NOT NULL)", name="closed_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    email: Mapped[str] = mapped_column(unique=True)
    # When its owner proved, by a token that was sent there, that the address is theirs.
    email_verified_at: Mapped[datetime | None]
    # E.164; a second factor once it is verified.
    phone: Mapped[str | None]
    phone_verified_at: Mapped[datetime | None]
    password_hash: Mapped[str | None]
    display_name: Mapped[str | None]
    referral_code: Mapped[str] = mapped_column(unique=True)
    referred_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("customers.id"), index=True)
    # Keyed hashes of the address and the device an account was made from: they tell equal from different, no more.
    address_hint: Mapped[bytes | None]
    device_hint: Mapped[bytes | None]
    status: Mapped[CustomerStatus] = mapped_column(TextEnum(CustomerStatus), default=CustomerStatus.ACTIVE)
    # What staff wrote when they froze the account last.
    frozen_reason: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    updated_at: Mapped[datetime] = updated_at()
    closed_at: Mapped[datetime | None]

    @property
    def email_verified(self) -> bool:
        """Whether the address was proven to be this customer's."""
        return self.email_verified_at is not None

    @property
    def second_factor(self) -> str | None:
        """The phone number that must confirm beside the password, if there is one."""
        return self.phone if self.phone_verified_at is not None else None

    @classmethod
    def by_email(cls, email: str) -> Select[Self]:
        """Select the customer with this address, whatever its case."""
        return select(cls).where(cls.email == email.lower())


class RefreshToken(Base):
    """One refresh token, kept as a hash. All that descend from one sign-in are a family: its session's."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (
        Index(None, "family_id"),
        Index(None, "customer_id"),
        Index(None, "expires_at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"))
    family_id: Mapped[UUID]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    # The token that replaced this one, encrypted with what only this one's holder knows: for the period of grace.
    successor_sealed: Mapped[bytes | None]
    revoked_at: Mapped[datetime | None]

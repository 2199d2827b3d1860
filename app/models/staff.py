"""Members of staff, their API keys, and what a key may do."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, one_of, primary_key_uuid


class StaffRole(StrEnum):
    """What a staff credential may do; each role may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    FINANCE = "finance"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """Position in the order of power, from 0."""
        return list(StaffRole).index(self)


class StaffScope(StrEnum):
    """A part of what a role may do, for a key that shall do no more than that."""

    ALERTS_READ = "alerts:read"
    AUDIT_READ = "audit:read"
    CATALOGUE_READ = "catalogue:read"
    CATALOGUE_WRITE = "catalogue:write"
    CUSTOMERS_READ = "customers:read"
    CUSTOMERS_WRITE = "customers:write"
    EVENTS_READ = "events:read"
    EVENTS_WRITE = "events:write"
    FEEDS_READ = "feeds:read"
    FEEDS_WRITE = "feeds:write"
    LEDGER_READ = "ledger:read"
    LEDGER_WRITE = "ledger:write"
    MERCHANTS_KEYS = "merchants:keys"
    NOTIFICATIONS_READ = "notifications:read"
    NOTIFICATIONS_WRITE = "notifications:write"
    ORDERS_READ = "orders:read"
    ORDERS_WRITE = "orders:write"
    PAYOUTS_READ = "payouts:read"
    PAYOUTS_APPROVE = "payouts:approve"
    PAYOUTS_SEND = "payouts:send"
    PROMOTIONS_READ = "promotions:read"
    PROMOTIONS_WRITE = "promotions:write"
    PROPOSALS_READ = "proposals:read"
    PROPOSALS_DECIDE = "proposals:decide"
    REPORTS_READ = "reports:read"
    SOURCES_READ = "sources:read"
    SOURCES_WRITE = "sources:write"
    STAFF_MANAGE = "staff:manage"


class StaffMember(Base):
    """A person or a script that has keys: what four eyes and the audit log mean by somebody."""

    __tablename__ = "staff_members"
    __table_args__ = (Index("uq_staff_members_name", text("lower(name)"), unique=True),)

    id: Mapped[UUID] = primary_key_uuid()
    # An e-mail address, or whatever else names this one and nobody else.
    name: Mapped[str]
    created_at: Mapped[datetime] = created_at()


class StaffKey(Base):
    """An API key of a member of staff, kept as a hash; `prefix` finds it."""

    __tablename__ = "staff_keys"
    __table_args__ = (
        one_of("role", StaffRole),
        CheckConstraint("cardinality(scopes) > 0", name="scopes"),
        Index(None, "member_id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    # None: made by a version that knew no members; its first use gives it the one of its name.
    member_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_members.id"))
    name: Mapped[str]
    role: Mapped[StaffRole] = mapped_column(TextEnum(StaffRole))
    # None: all that the role may.
    scopes: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    prefix: Mapped[str] = mapped_column(unique=True)
    key_hash: Mapped[bytes]
    # The key it was made with, whose holder may have seen it; None: made at the command line.
    created_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime | None]
    # To the minute.
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

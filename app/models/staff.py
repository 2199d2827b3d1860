"""Staff API keys and their roles."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

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


class StaffKey(Base):
    """An API key of a staff member or a script, kept as a hash; `prefix` finds it."""

    __tablename__ = "staff_keys"
    __table_args__ = (one_of("role", StaffRole),)

    id: Mapped[UUID] = primary_key_uuid()
    name: Mapped[str]
    role: Mapped[StaffRole] = mapped_column(TextEnum(StaffRole))
    prefix: Mapped[str] = mapped_column(unique=True)
    key_hash: Mapped[bytes]
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

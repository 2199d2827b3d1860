"""The audit log: what members of staff did, for good."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, created_at, primary_key_uuid


class AuditEntry(Base):
    """One action of a member of staff, written in the transaction of what it changed. A trigger refuses changes."""

    __tablename__ = "audit_log"
    __table_args__ = (
        CheckConstraint("(member_id IS NULL) = (key_id IS NULL)", name="actor"),
        Index(None, "member_id", "id"),
        Index(None, "action", "id"),
        Index(None, "target_type", "target_id", "id"),
        Index(None, "at"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    # None: a command of the operating system's user whom `actor` names.
    member_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_members.id"))
    key_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    # The member's name, as it was.
    actor: Mapped[str]
    # The route's operation id, or `cli.` and a command.
    action: Mapped[str]
    # A table and the key of its row; None where it is about no single one.
    target_type: Mapped[str | None]
    target_id: Mapped[str | None]
    # The columns that differ, without secrets and customers' data; all of a new row.
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    request_id: Mapped[str | None]
    # The network that the request came from, not the address.
    address: Mapped[str | None]
    at: Mapped[datetime] = created_at()

"""Proposals: what one member of staff wants done with much money, and another confirms or refuses."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, TextEnum, created_at, currency_check, minor, one_of, primary_key_uuid


class ProposalKind(StrEnum):
    """What would be done, and with that what `target_id` is."""

    PAYOUT_APPROVAL = "payout_approval"
    PAYOUT_SETTLEMENT = "payout_settlement"
    BATCH_SETTLEMENT = "batch_settlement"
    ORDER_ADJUSTMENT = "order_adjustment"
    CLAIM_APPROVAL = "claim_approval"
    ORPHAN_MATCH = "orphan_match"
    EVENT_RELEASE = "event_release"
    SETTLEMENT_RESOLUTION = "settlement_resolution"
    SETTLEMENT_REOPENING = "settlement_reopening"


class ProposalStatus(StrEnum):
    """What became of it."""

    OPEN = "open"
    CONFIRMED = "confirmed"
    REFUSED = "refused"
    EXPIRED = "expired"


class Proposal(Base):
    """One decision that waits for a second person. Nothing has moved before it is confirmed."""

    __tablename__ = "proposals"
    __table_args__ = (
        one_of("kind", ProposalKind),
        one_of("status", ProposalStatus),
        currency_check(),
        CheckConstraint("amount_minor >= 0", name="amount"),
        CheckConstraint("(status IN ('confirmed', 'refused')) = (decided_by_id IS NOT NULL)", name="decided"),
        CheckConstraint("status <> 'confirmed' OR decided_by_id <> proposed_by_id", name="four_eyes"),
        Index("uq_proposals_open", "kind", "target_id", unique=True, postgresql_where="status = 'open'"),
        Index(None, "status", "id"),
    )

    id: Mapped[UUID] = primary_key_uuid()
    kind: Mapped[ProposalKind] = mapped_column(TextEnum(ProposalKind))
    target_id: Mapped[UUID]
    status: Mapped[ProposalStatus] = mapped_column(TextEnum(ProposalStatus), default=ProposalStatus.OPEN)
    # The body of the request, which is done again when it is confirmed.
    wanted: Mapped[dict[str, Any] | None]
    # What it would move, tried when it was proposed.
    amount_minor: Mapped[int] = minor()
    currency: Mapped[str]
    proposed_by_id: Mapped[UUID] = mapped_column(ForeignKey("staff_keys.id"))
    decided_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("staff_keys.id"))
    # Why it was refused.
    note: Mapped[str | None]
    created_at: Mapped[datetime] = created_at()
    expires_at: Mapped[datetime]
    decided_at: Mapped[datetime | None]

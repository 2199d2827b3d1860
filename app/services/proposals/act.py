"""Doing what moves money by hand: at once up to the limit for one person, above it as a proposal.

It is tried first and measured; what is above the limit is taken back to where it was before it is proposed.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import tried
from app.errors import ConflictError
from app.ids import new_id
from app.models import Proposal, ProposalKind, ProposalStatus, StaffKey
from app.schemas.common import Money
from app.schemas.proposals import ProposalRead
from app.services.proposals import decide, read
from app.services.proposals.perform import perform


class ProposalOpenError(ConflictError):
    """The same is proposed already."""

    code = "proposal_open"
    title = "Waits for a second person"

    def __init__(self, proposal_id: UUID) -> None:
        super().__init__(
            f"This is proposed already: another person confirms or refuses it at /v1/admin/proposals/{proposal_id}."
        )


async def act(
    session: AsyncSession,
    settings: Settings,
    *,
    kind: ProposalKind,
    target_id: UUID,
    member: StaffKey,
    wanted: BaseModel | None = None,
) -> ProposalRead | None:
    """Do it, and return None; or return the proposal that it has become.

    Approving a payout that another person has approved before confirms that one's proposal. Raises what doing it
    raises, ProposalOpenError, and for payouts SecondPersonRequiredError.
    """
    body = None if wanted is None else wanted.model_dump(mode="json")
    if not settings.four_eyes_limits:
        await perform(session, settings, kind=kind, target_id=target_id, member=member, wanted=body)
        return None
    if kind is ProposalKind.PAYOUT_APPROVAL and (first := await _open_id(session, kind, target_id)) is not None:
        await decide.confirm(session, settings, proposal_id=first, member=member)
        return None
    async with tried(session) as trial:
        moved = await perform(session, settings, kind=kind, target_id=target_id, member=member, wanted=body)
        trial.undo = settings.needs_second_person(moved.amount_minor, moved.currency)
    return await _propose(session, settings, kind, target_id, member, body, moved) if trial.undo else None


async def _propose(
    session: AsyncSession,
    settings: Settings,
    kind: ProposalKind,
    target_id: UUID,
    member: StaffKey,
    wanted: dict[str, Any] | None,
    moved: Money,
) -> ProposalRead:
    await session.execute(
        update(Proposal)
        .where(
            Proposal.kind == kind,
            Proposal.target_id == target_id,
            Proposal.status == ProposalStatus.OPEN,
            Proposal.expires_at <= func.now(),
        )
        .values(status=ProposalStatus.EXPIRED)
    )
    proposal_id = await session.scalar(
        insert(Proposal)
        .values(
            id=new_id(),
            kind=kind,
            target_id=target_id,
            status=ProposalStatus.OPEN,
            wanted=wanted,
            amount_minor=moved.amount_minor,
            currency=moved.currency,
            proposed_by_id=member.id,
            expires_at=datetime.now(UTC) + timedelta(days=settings.proposal_days),
        )
        .on_conflict_do_nothing()
        .returning(Proposal.id)
    )
    if proposal_id is None:
        raise ProposalOpenError(await _open_id(session, kind, target_id) or target_id)
    return await read.get_proposal(session, proposal_id=proposal_id)


async def _open_id(session: AsyncSession, kind: ProposalKind, target_id: UUID) -> UUID | None:
    return await session.scalar(
        select(Proposal.id).where(
            Proposal.kind == kind,
            Proposal.target_id == target_id,
            Proposal.status == ProposalStatus.OPEN,
            Proposal.expires_at > func.now(),
        )
    )

"""The second person: confirms a proposal, which is then done, or refuses it.

The proposal is locked before whatever it is about, by everybody who locks both.
"""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, ForbiddenError
from app.models import Proposal, ProposalStatus, StaffKey
from app.schemas.common import Money
from app.schemas.proposals import ProposalRead
from app.services import staff
from app.services.proposals import read
from app.services.proposals.perform import NEEDS, perform


class ProposalClosedError(ConflictError):
    """It was decided before, or nobody decided it in time."""

    code = "proposal_closed"
    title = "Nothing to decide"

    def __init__(self, proposal: Proposal) -> None:
        expired = proposal.status is ProposalStatus.OPEN
        super().__init__(f"The proposal {proposal.id} is {'expired' if expired else proposal.status.value}.")


class ProposalChangedError(ConflictError):
    """It would move another amount than when it was proposed."""

    code = "proposal_changed"
    title = "No longer the same"

    def __init__(self, proposal: Proposal, moves: Money) -> None:
        super().__init__(
            f"When it was proposed it moved {proposal.amount_minor} {proposal.currency}, and now"
            f" {moves.amount_minor} {moves.currency} (minor units): refuse it, and propose it anew."
        )


class SecondPersonRequiredError(ForbiddenError):
    """Whoever proposed it, or had a hand in one of the two keys, cannot confirm it."""

    code = "second_person_required"
    title = "Needs a second person"

    def __init__(self, proposal: Proposal) -> None:
        super().__init__(
            f"The proposal {proposal.id} needs another person than the one who made it, and neither of the two may have"
            " made the other's key."
        )


async def confirm(session: AsyncSession, settings: Settings, *, proposal_id: UUID, member: StaffKey) -> ProposalRead:
    """Do what was proposed, judged anew as it is now. One that was confirmed before stays as it is.

    Raises ProposalNotFoundError, the errors above, StaffRoleRequiredError, StaffScopeRequiredError, and what doing it
    raises: then the proposal stays open.
    """
    proposal = await _lock(session, proposal_id)
    if proposal.status is ProposalStatus.CONFIRMED:
        return await read.get_proposal(session, proposal_id=proposal_id)
    _require_open(proposal)
    staff.require(member, *NEEDS[proposal.kind])
    if await staff.one_person(session, proposal.proposed_by_id, member.id):
        raise SecondPersonRequiredError(proposal)
    moves = await perform(
        session,
        settings,
        kind=proposal.kind,
        target_id=proposal.target_id,
        member=member,
        wanted=proposal.wanted,
    )
    if (moves.amount_minor, moves.currency) != (proposal.amount_minor, proposal.currency):
        raise ProposalChangedError(proposal, moves)
    return await _close(session, proposal, ProposalStatus.CONFIRMED, member, note=None)


async def refuse(session: AsyncSession, *, proposal_id: UUID, member: StaffKey, note: str) -> ProposalRead:
    """Decide against a proposal; whoever made it may take it back so. Raises ProposalNotFoundError and others above."""
    proposal = await _lock(session, proposal_id)
    _require_open(proposal)
    staff.require(member, *NEEDS[proposal.kind])
    return await _close(session, proposal, ProposalStatus.REFUSED, member, note=note)


async def expire(session: AsyncSession, *, limit: int = 1_000) -> int:
    """Close up to `limit` proposals that nobody decided in time, and return how many."""
    late = (
        select(Proposal.id)
        .where(Proposal.status == ProposalStatus.OPEN, Proposal.expires_at <= func.now())
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = update(Proposal).where(Proposal.id.in_(late)).values(status=ProposalStatus.EXPIRED)
    return (await (await session.connection()).execute(statement)).rowcount


async def _close(
    session: AsyncSession, proposal: Proposal, status: ProposalStatus, member: StaffKey, *, note: str | None
) -> ProposalRead:
    proposal.status, proposal.note = status, note
    proposal.decided_by_id, proposal.decided_at = member.id, datetime.now(UTC)
    await session.flush()
    return await read.get_proposal(session, proposal_id=proposal.id)


async def _lock(session: AsyncSession, proposal_id: UUID) -> Proposal:
    proposal = await session.get(Proposal, proposal_id, with_for_update=True, populate_existing=True)
    if proposal is None:
        raise read.ProposalNotFoundError(proposal_id)
    return proposal


def _require_open(proposal: Proposal) -> None:
    if proposal.status is not ProposalStatus.OPEN or proposal.expires_at <= datetime.now(UTC):
        raise ProposalClosedError(proposal)

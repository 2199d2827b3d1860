"""Proposals as staff see them."""

from uuid import UUID

from sqlalchemy import Row, Select, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.errors import NotFoundError
from app.models import Proposal, ProposalKind, ProposalStatus, StaffKey
from app.schemas.common import Money
from app.schemas.proposals import ProposalPage, ProposalRead
from app.services.pagination import newest_rows

_Proposer, _Decider = aliased(StaffKey), aliased(StaffKey)


class ProposalNotFoundError(NotFoundError):
    """No proposal has this id."""

    code = "proposal_not_found"
    title = "Proposal not found"

    def __init__(self, proposal_id: UUID) -> None:
        super().__init__(f"There is no proposal {proposal_id}.")


async def get_proposal(session: AsyncSession, *, proposal_id: UUID) -> ProposalRead:
    """Return a proposal. Raises ProposalNotFoundError."""
    row = (await session.execute(_select().where(Proposal.id == proposal_id))).one_or_none()
    if row is None:
        raise ProposalNotFoundError(proposal_id)
    return _read(row)


async def list_proposals(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: ProposalStatus | None = None,
    kind: ProposalKind | None = None,
    target_id: UUID | None = None,
) -> ProposalPage:
    """Return proposals, newest first. Raises InvalidCursorError."""
    statement = _select()
    if status is not None:
        statement = statement.where(Proposal.status == status)
    if kind is not None:
        statement = statement.where(Proposal.kind == kind)
    if target_id is not None:
        statement = statement.where(Proposal.target_id == target_id)
    rows, next_cursor = await newest_rows(session, statement, Proposal.id, limit=limit, cursor=cursor)
    items = [_read(row) for row in rows]
    return ProposalPage(items=items, next_cursor=next_cursor)


def _select() -> Select[Proposal, str, str | None]:
    return (
        select(Proposal, _Proposer.name, _Decider.name)
        .join(_Proposer, _Proposer.id == Proposal.proposed_by_id)
        .outerjoin(_Decider, _Decider.id == Proposal.decided_by_id)
        .execution_options(populate_existing=True)
    )


def _read(row: Row[Proposal, str, str | None]) -> ProposalRead:
    proposal, proposer, decider = row
    return ProposalRead(
        id=proposal.id,
        kind=proposal.kind,
        target_id=proposal.target_id,
        status=proposal.status,
        amount=Money(amount_minor=proposal.amount_minor, currency=proposal.currency),
        wanted=proposal.wanted,
        proposed_by=proposer,
        proposed_by_id=proposal.proposed_by_id,
        decided_by=decider,
        decided_by_id=proposal.decided_by_id,
        note=proposal.note,
        created_at=proposal.created_at,
        expires_at=proposal.expires_at,
        decided_at=proposal.decided_at,
    )

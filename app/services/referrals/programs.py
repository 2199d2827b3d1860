"""Referral programs, as staff make and end them. A program's bonuses never change: who wants others makes another."""

import logging
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import InvalidRequestError, NotFoundError
from app.models import ReferralProgram
from app.schemas.common import Money
from app.schemas.referrals import (
    ReferralProgramCreate,
    ReferralProgramEnd,
    ReferralProgramPage,
    ReferralProgramRead,
    ReferralTerms,
)
from app.services.pagination import newest_first

logger = logging.getLogger(__name__)


class ReferralProgramNotFoundError(NotFoundError):
    """No referral program has this id."""

    code = "referral_program_not_found"
    title = "Referral program not found"

    def __init__(self, program_id: UUID) -> None:
        super().__init__(f"There is no referral program {program_id}.")


class ReferralProgramPeriodError(InvalidRequestError):
    """The program would end before it begins, or would have ended before it was said."""

    code = "referral_program_period"
    title = "Impossible period"

    def __init__(self) -> None:
        super().__init__("valid_to must be after valid_from, and not in the past.")


async def create_program(
    session: AsyncSession, *, wanted: ReferralProgramCreate, staff_key_id: UUID
) -> ReferralProgramRead:
    """Add a program. Raises ReferralProgramPeriodError."""
    now = await _now(session)
    valid_from = wanted.valid_from or now
    if wanted.valid_to is not None and wanted.valid_to <= max(valid_from, now):
        raise ReferralProgramPeriodError
    program = ReferralProgram(
        currency=wanted.currency,
        referrer_bonus_minor=_minor(wanted.referrer_bonus),
        invited_bonus_minor=_minor(wanted.invited_bonus),
        minimum_sale_minor=_minor(wanted.minimum_sale),
        max_granted=wanted.max_granted,
        valid_from=valid_from,
        valid_to=wanted.valid_to,
    )
    session.add(program)
    await session.flush()
    _log("referral program made", program, staff_key_id)
    return program_read(program)


async def end_program(
    session: AsyncSession, *, program_id: UUID, end: ReferralProgramEnd, staff_key_id: UUID
) -> ReferralProgramRead:
    """Let a program end; one that would begin later then never begins.

    Raises ReferralProgramNotFoundError and ReferralProgramPeriodError.
    """
    program = await session.get(ReferralProgram, program_id, with_for_update=True, populate_existing=True)
    if program is None:
        raise ReferralProgramNotFoundError(program_id)
    now = await _now(session)
    if end.valid_to is not None and end.valid_to < now:
        raise ReferralProgramPeriodError
    program.valid_to = max(end.valid_to or now, program.valid_from)
    await session.flush()
    _log("referral program ended", program, staff_key_id)
    return program_read(program)


async def list_programs(session: AsyncSession, *, limit: int, cursor: str | None) -> ReferralProgramPage:
    """Return programs, the one made last first. Raises InvalidCursorError."""
    statement = select(ReferralProgram)
    rows, next_cursor = await newest_first(session, statement, ReferralProgram.id, limit=limit, cursor=cursor)
    items = [program_read(program) for program in rows]
    return ReferralProgramPage(items=items, next_cursor=next_cursor)


def terms(program: ReferralProgram) -> ReferralTerms:
    """Show what a program promises."""
    return ReferralTerms(
        referrer_bonus=Money(amount_minor=program.referrer_bonus_minor, currency=program.currency),
        invited_bonus=Money(amount_minor=program.invited_bonus_minor, currency=program.currency),
        minimum_sale=Money(amount_minor=program.minimum_sale_minor, currency=program.currency),
    )


def program_read(program: ReferralProgram) -> ReferralProgramRead:
    """Show a program to staff."""
    return ReferralProgramRead(
        **dict(terms(program)),
        id=program.id,
        currency=program.currency,
        max_granted=program.max_granted,
        valid_from=program.valid_from,
        valid_to=program.valid_to,
        created_at=program.created_at,
    )


def _minor(money: Money | None) -> int:
    return 0 if money is None else money.amount_minor


async def _now(session: AsyncSession) -> datetime:
    # The database's clock, by which registrations find their program.
    return (await session.scalars(select(func.now()))).one()


def _log(what: str, program: ReferralProgram, staff_key_id: UUID) -> None:
    logger.info(what, extra={"program_id": str(program.id), "staff_key_id": str(staff_key_id)})

"""The beginning of a referral: a customer registers with another one's code."""

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Customer, Referral, ReferralProgram


async def program_in_force(session: AsyncSession) -> ReferralProgram | None:
    """Return the program that holds for an account made now: of those in force the one that began last."""
    program: ReferralProgram | None = await session.scalar(
        select(ReferralProgram)
        .where(
            ReferralProgram.valid_from <= func.now(),
            or_(ReferralProgram.valid_to.is_(None), ReferralProgram.valid_to > func.now()),
        )
        .order_by(ReferralProgram.valid_from.desc(), ReferralProgram.id.desc())
        .limit(1)
    )
    return program


async def invite(session: AsyncSession, *, invited: Customer) -> None:
    """Promise a new customer and the one who invited them the bonuses of the program in force, if there is one."""
    if invited.referred_by_id is None or (program := await program_in_force(session)) is None:
        return
    session.add(
        Referral(
            program_id=program.id,
            referrer_id=invited.referred_by_id,
            invited_id=invited.id,
            currency=program.currency,
            referrer_bonus_minor=program.referrer_bonus_minor,
            invited_bonus_minor=program.invited_bonus_minor,
        )
    )
    await session.flush()

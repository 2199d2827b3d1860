"""Referrals as the contract shows them: to a customer without naming anybody, and to staff."""

from uuid import UUID

from sqlalchemy import case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import Customer, CustomerStatus, Referral, ReferralStatus
from app.schemas.common import Money
from app.schemas.referrals import InvitedRead, MyReferrals, ReferralAdminPage, ReferralAdminRead, WelcomeRead
from app.services.pagination import newest_first, newest_rows
from app.services.referrals.decide import ReferralNotFoundError
from app.services.referrals.invite import program_in_force
from app.services.referrals.programs import terms

_HIDDEN = "•••"


async def show_mine(session: AsyncSession, *, customer: Customer, limit: int, cursor: str | None) -> MyReferrals:
    """Return a customer's code, a page of who registered with it, and what that earned. Raises InvalidCursorError."""
    statement = (
        select(Customer, Referral)
        .outerjoin(Referral, Referral.invited_id == Customer.id)
        .where(Customer.referred_by_id == customer.id)
    )
    rows, next_cursor = await newest_rows(session, statement, Customer.id, limit=limit, cursor=cursor)
    invited = select(func.count()).where(Customer.referred_by_id == customer.id)
    program = await program_in_force(session)
    return MyReferrals(
        code=customer.referral_code,
        invited=(await session.scalars(invited)).one(),
        earned=await _earned(session, customer.id),
        welcome=await _welcome(session, customer.id),
        program=None if program is None else terms(program),
        items=[_invited_read(invited, referral) for invited, referral in rows],
        next_cursor=next_cursor,
    )


async def list_for_staff(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None,
    status: ReferralStatus | None = None,
    program_id: UUID | None = None,
    referrer_id: UUID | None = None,
    invited_id: UUID | None = None,
) -> ReferralAdminPage:
    """Return referrals, newest first. Raises InvalidCursorError."""
    statement = select(Referral)
    filters = {
        Referral.status: status,
        Referral.program_id: program_id,
        Referral.referrer_id: referrer_id,
        Referral.invited_id: invited_id,
    }
    for column, value in filters.items():
        if value is not None:
            statement = statement.where(column == value)
    rows, next_cursor = await newest_first(session, statement, Referral.id, limit=limit, cursor=cursor)
    items = [_admin_read(referral) for referral in rows]
    return ReferralAdminPage(items=items, next_cursor=next_cursor)


async def show_to_staff(session: AsyncSession, *, referral_id: UUID) -> ReferralAdminRead:
    """Return a referral as it is now. Raises ReferralNotFoundError."""
    referral = await session.get(Referral, referral_id, populate_existing=True)
    if referral is None:
        raise ReferralNotFoundError(referral_id)
    return _admin_read(referral)


async def _earned(session: AsyncSession, customer_id: UUID) -> list[Money]:
    part = case(
        (Referral.referrer_id == customer_id, Referral.referrer_bonus_minor), else_=Referral.invited_bonus_minor
    )
    rows = await session.execute(
        select(Referral.currency, func.sum(part))
        .where(
            or_(Referral.referrer_id == customer_id, Referral.invited_id == customer_id),
            Referral.status == ReferralStatus.GRANTED,
        )
        .group_by(Referral.currency)
        .order_by(Referral.currency)
    )
    return [Money(amount_minor=int(total), currency=currency) for currency, total in rows]


async def _welcome(session: AsyncSession, customer_id: UUID) -> WelcomeRead | None:
    referral = await session.scalar(select(Referral).where(Referral.invited_id == customer_id))
    if referral is None:
        return None
    bonus = Money(amount_minor=referral.invited_bonus_minor, currency=referral.currency)
    return WelcomeRead(status=referral.status, bonus=bonus)


def _invited_read(invited: Customer, referral: Referral | None) -> InvitedRead:
    return InvitedRead(
        name=_masked(invited),
        status=referral and referral.status,
        bonus=referral and Money(amount_minor=referral.referrer_bonus_minor, currency=referral.currency),
        registered_at=invited.created_at,
    )


def _masked(customer: Customer) -> str:
    """A letter, which who invited them recognises, and others learn nothing from."""
    if customer.status is CustomerStatus.CLOSED:
        return _HIDDEN
    return f"{(customer.display_name or customer.email)[0].upper()}{_HIDDEN}"


def _admin_read(referral: Referral) -> ReferralAdminRead:
    bonuses = {"referrer_bonus": referral.referrer_bonus_minor, "invited_bonus": referral.invited_bonus_minor}
    shown = {name: getattr(referral, name) for name in ReferralAdminRead.model_fields if name not in bonuses}
    money = {name: Money(amount_minor=minor, currency=referral.currency) for name, minor in bonuses.items()}
    return ReferralAdminRead(**shown, **money)

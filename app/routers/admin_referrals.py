"""Referrals for staff: the programs, what became of each referral, and those that a person must look at."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, StaffIdempotencyDep, staff_with
from app.models import Referral, ReferralProgram, ReferralStatus, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.referrals import (
    ReferralAdminPage,
    ReferralAdminRead,
    ReferralDecision,
    ReferralProgramCreate,
    ReferralProgramEnd,
    ReferralProgramPage,
    ReferralProgramRead,
)
from app.services.referrals import decide, programs, show

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.PROMOTIONS_READ)]
Creator = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PROMOTIONS_WRITE, on=ReferralProgram)]
Ender = Annotated[
    StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PROMOTIONS_WRITE, on=ReferralProgram, by="program_id")
]
Decider = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.PROMOTIONS_WRITE, on=Referral, by="referral_id")
]


@router.post(
    "/referral-programs", status_code=201, summary="Add a referral program", response_model=ReferralProgramRead
)
async def create_referral_program(
    session: SessionDep, member: Creator, idempotency: StaffIdempotencyDep, body: ReferralProgramCreate
) -> Response:
    """Promise both sides a bonus when somebody registers with a customer's code.

    Of several programs in force the one that began last holds. The cost is booked to promotions.
    """
    return await idempotency.run(
        lambda: programs.create_program(session, wanted=body, staff_key_id=member.id), ReferralProgramRead
    )


@router.get("/referral-programs", summary="Referral programs")
async def list_referral_programs(session: SessionDep, _: Viewer, page: PageDep) -> ReferralProgramPage:
    """Return programs, the one made last first."""
    return await programs.list_programs(session, limit=page.limit, cursor=page.cursor)


@router.patch("/referral-programs/{program_id}", summary="End a referral program", responses=problems(404))
async def end_referral_program(
    session: SessionDep, member: Ender, program_id: UUID, body: ReferralProgramEnd
) -> ReferralProgramRead:
    """Say when a program ends. Bonuses never change: for others make another program."""
    return await programs.end_program(session, program_id=program_id, end=body, staff_key_id=member.id)


@router.get("/referrals", summary="Referrals")
async def list_referrals(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[ReferralStatus | None, Query(description="Only in this state.")] = None,
    program_id: Annotated[UUID | None, Query(description="Only of this program.")] = None,
    referrer_id: Annotated[UUID | None, Query(description="Only of this customer's code.")] = None,
    invited_id: Annotated[UUID | None, Query(description="Only of this invited customer.")] = None,
) -> ReferralAdminPage:
    """List referrals, newest first; those with `status=held` wait for a decision."""
    return await show.list_for_staff(
        session,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
        program_id=program_id,
        referrer_id=referrer_id,
        invited_id=invited_id,
    )


@router.get("/referrals/{referral_id}", summary="One referral", responses=problems(404))
async def get_referral(session: SessionDep, _: Viewer, referral_id: UUID) -> ReferralAdminRead:
    """Show what became of a referral, and why."""
    return await show.show_to_staff(session, referral_id=referral_id)


@router.post(
    "/referrals/{referral_id}/allow",
    summary="Allow a bonus, with a reason",
    response_model=ReferralAdminRead,
    responses=problems(404, 409),
)
async def allow_referral(
    session: SessionDep, member: Decider, idempotency: StaffIdempotencyDep, referral_id: UUID, body: ReferralDecision
) -> Response:
    """Say that the two are two people, whatever they have in common. It is granted at once if an order earns it.

    The referrer's limit and accounts that are not active still speak against it.
    """

    async def operation() -> ReferralAdminRead:
        await decide.allow(session, referral_id=referral_id, note=body.note, staff_key_id=member.id)
        return await show.show_to_staff(session, referral_id=referral_id)

    return await idempotency.run(operation, ReferralAdminRead, status=200)


@router.post(
    "/referrals/{referral_id}/refuse",
    summary="Refuse a bonus, with a reason",
    response_model=ReferralAdminRead,
    responses=problems(404, 409),
)
async def refuse_referral(
    session: SessionDep, member: Decider, idempotency: StaffIdempotencyDep, referral_id: UUID, body: ReferralDecision
) -> Response:
    """Refuse a bonus that is not granted yet, whatever the orders say. It can be allowed later."""

    async def operation() -> ReferralAdminRead:
        await decide.refuse(session, referral_id=referral_id, note=body.note, staff_key_id=member.id)
        return await show.show_to_staff(session, referral_id=referral_id)

    return await idempotency.run(operation, ReferralAdminRead, status=200)

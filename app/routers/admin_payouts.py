"""Payouts for staff: looking at them, deciding about them, and the rules of each currency."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import Payout, PayoutProvider, PayoutRule, PayoutStatus, ProposalKind, StaffKey, StaffRole, StaffScope
from app.openapi import PROPOSED, problems
from app.schemas.common import Currency, Page
from app.schemas.payouts import (
    PayoutAdminDetail,
    PayoutAdminRead,
    PayoutRejection,
    PayoutRulePage,
    PayoutRuleRead,
    PayoutRuleWrite,
)
from app.schemas.proposals import ProposalRead
from app.services import proposals
from app.services.payouts import decide, rules, show

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.PAYOUTS_READ)]
Decider = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.PAYOUTS_APPROVE, on=Payout, by="payout_id")]
RuleSetter = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PAYOUTS_SEND, on=PayoutRule, by="currency")]

CurrencyPath = Annotated[Currency, Path(description="ISO 4217.")]


@router.get("/payouts", summary="Payouts")
async def list_payouts(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[PayoutStatus | None, Query(description="Only payouts in this state.")] = None,
    currency: Annotated[Currency | None, Query(description="Only in this currency.")] = None,
    provider: Annotated[PayoutProvider | None, Query(description="Only through this provider.")] = None,
    customer_id: Annotated[UUID | None, Query(description="Only of this customer.")] = None,
    batch_id: Annotated[UUID | None, Query(description="Only of this batch.")] = None,
) -> Page[PayoutAdminRead]:
    """List payouts, newest first; those with `status=requested` wait for a decision."""
    return await show.list_for_staff(
        session,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
        currency=currency,
        provider=provider,
        customer_id=customer_id,
        batch_id=batch_id,
    )


@router.get("/payouts/{payout_id}", summary="One payout, with what helps to decide", responses=problems(404))
async def get_payout(session: SessionDep, _: Viewer, payout_id: UUID) -> PayoutAdminDetail:
    """Show a payout, who brought it to each of its states, and how many other customers have the same account."""
    return await show.show_to_staff(session, payout_id=payout_id)


@router.post(
    "/payouts/{payout_id}/approve",
    summary="Approve a payout",
    response_model=PayoutAdminDetail,
    responses={**PROPOSED, **problems(404, 409)},
)
async def approve_payout(
    session: SessionDep, settings: SettingsDep, member: Decider, idempotency: StaffIdempotencyDep, payout_id: UUID
) -> Response:
    """Let a requested payout be sent: by its provider at once, or with the next batch.

    Above the limit for one person (`FOUR_EYES_LIMITS`) the first approval waits for a second one, by another person.
    """

    async def operation() -> PayoutAdminDetail | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.PAYOUT_APPROVAL, target_id=payout_id, member=member
        )
        return proposal or await show.show_to_staff(session, payout_id=payout_id)

    return await idempotency.run(operation, PayoutAdminDetail, status=200)


@router.post(
    "/payouts/{payout_id}/reject",
    summary="Reject a payout, with a reason",
    response_model=PayoutAdminDetail,
    responses=problems(404, 409),
)
async def reject_payout(
    session: SessionDep, member: Decider, idempotency: StaffIdempotencyDep, payout_id: UUID, body: PayoutRejection
) -> Response:
    """Give the amount back to the available balance, until the payout is sent. The customer reads the reason."""

    async def operation() -> PayoutAdminDetail:
        await decide.reject_by_staff(session, payout_id=payout_id, reason=body.reason, staff_key_id=member.id)
        return await show.show_to_staff(session, payout_id=payout_id)

    return await idempotency.run(operation, PayoutAdminDetail, status=200)


@router.get("/payout-rules", summary="Payout rules of all currencies")
async def list_payout_rules(session: SessionDep, _: Viewer, page: PageDep) -> PayoutRulePage:
    """List the rules by currency."""
    return await rules.list_rules(session, limit=page.limit, cursor=page.cursor)


@router.get("/payout-rules/{currency}", summary="The payout rule of a currency", responses=problems(404))
async def get_payout_rule(session: SessionDep, _: Viewer, currency: CurrencyPath) -> PayoutRuleRead:
    """Return what holds for payouts in a currency."""
    return await rules.get_rule(session, currency=currency)


@router.put("/payout-rules/{currency}", summary="Set the payout rule of a currency", responses=problems(404))
async def put_payout_rule(
    session: SessionDep, member: RuleSetter, currency: CurrencyPath, body: PayoutRuleWrite
) -> PayoutRuleRead:
    """Set the whole rule, for requests from now on; payouts of before keep their fee and provider."""
    return await rules.put_rule(session, currency=currency, wanted=body, staff_key_id=member.id)

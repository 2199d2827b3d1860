"""Payouts for customers: where they want their money, and asking for it."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from app.dependencies import (
    CurrentCustomer,
    IdempotencyDep,
    LimitByCustomer,
    PageDep,
    PasswordsDep,
    SessionDep,
    SettingsDep,
    SignedIn,
)
from app.models import PayoutStatus
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.payouts import (
    NewPayoutMethod,
    PayoutDetail,
    PayoutMethodPage,
    PayoutMethodRead,
    PayoutRead,
    PayoutRequest,
    PayoutTermsPage,
)
from app.services.payouts import methods, request, rules, show
from app.services.rate_limits import PAYOUT, STEP_UP

router = APIRouter(prefix="/v1", tags=["payouts"])


@router.get("/payout-terms", summary="Minimum, fee and limits of each currency")
async def list_payout_terms(session: SessionDep, page: PageDep) -> PayoutTermsPage:
    """List what holds for payouts, by currency. In a currency that is not listed nothing is paid out."""
    return await rules.list_terms(session, limit=page.limit, cursor=page.cursor)


@router.post(
    "/me/payout-methods",
    status_code=201,
    summary="Add a payout method",
    responses=problems(401, 403, 409, 413, 429),
    dependencies=[Depends(LimitByCustomer(STEP_UP))],
)
async def add_payout_method(
    settings: SettingsDep, passwords: PasswordsDep, signed_in: SignedIn, body: NewPayoutMethod
) -> PayoutMethodRead:
    """Add an account, confirmed with the password. It can be used from `usable_from` on, and is shown masked only."""
    return await methods.add_method(settings, passwords, signed_in=signed_in, wanted=body)


@router.get("/me/payout-methods", summary="Own payout methods", responses=problems(401))
async def list_payout_methods(session: SessionDep, customer: CurrentCustomer, page: PageDep) -> PayoutMethodPage:
    """List the methods, newest first, masked."""
    return await methods.list_methods(session, customer_id=customer.id, limit=page.limit, cursor=page.cursor)


@router.delete(
    "/me/payout-methods/{method_id}",
    status_code=204,
    summary="Delete a payout method",
    responses=problems(401, 404, 409),
)
async def delete_payout_method(session: SessionDep, customer: CurrentCustomer, method_id: UUID) -> None:
    """Delete a method and wipe its account; refused while a payout to it is under way."""
    await methods.delete_method(session, customer_id=customer.id, method_id=method_id)


@router.post(
    "/me/payouts",
    status_code=201,
    summary="Ask for a payout",
    response_model=PayoutRead,
    responses=problems(401, 403, 404, 409, 422, 429),
    dependencies=[Depends(LimitByCustomer(PAYOUT))],
)
async def request_payout(
    session: SessionDep,
    settings: SettingsDep,
    customer: CurrentCustomer,
    idempotency: IdempotencyDep,
    body: PayoutRequest,
) -> Response:
    """Take the amount out of the available balance. Small amounts are approved at once, others by staff."""
    return await idempotency.run(
        lambda: request.request_payout(session, settings, customer=customer, wanted=body), PayoutRead, status=201
    )


@router.get("/me/payouts", summary="Own payouts", responses=problems(401))
async def list_my_payouts(
    session: SessionDep,
    customer: CurrentCustomer,
    page: PageDep,
    status: Annotated[PayoutStatus | None, Query(description="Only payouts in this state.")] = None,
) -> Page[PayoutRead]:
    """List payouts, newest first."""
    return await show.list_for_customer(
        session, customer_id=customer.id, limit=page.limit, cursor=page.cursor, status=status
    )


@router.get("/me/payouts/{payout_id}", summary="One payout with its states", responses=problems(401, 404))
async def get_my_payout(session: SessionDep, customer: CurrentCustomer, payout_id: UUID) -> PayoutDetail:
    """Show a payout and when it came to each of its states."""
    return await show.show_to_customer(session, customer_id=customer.id, payout_id=payout_id)

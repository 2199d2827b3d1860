"""The customer's claims: cashback that is missing."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from app.dependencies import CurrentCustomer, IdempotencyDep, LimitByCustomer, PageDep, SessionDep, SettingsDep
from app.openapi import problems
from app.schemas.claims import ClaimCreate, ClaimPage, ClaimRead, ClaimState
from app.services.claims import file, read
from app.services.rate_limits import CLAIM

router = APIRouter(prefix="/v1/me/claims", tags=["claims"], responses=problems(401))


@router.post(
    "",
    status_code=201,
    summary="Claim missing cashback",
    response_model=ClaimRead,
    responses=problems(403, 404, 409, 422, 429),
    dependencies=[Depends(LimitByCustomer(CLAIM))],
)
async def file_claim(
    session: SessionDep,
    settings: SettingsDep,
    customer: CurrentCustomer,
    idempotency: IdempotencyDep,
    body: ClaimCreate,
) -> Response:
    """Say what was bought and not credited. It is compared with sales that were reported without a click.

    `amount` is the order's total: money as everywhere, or an integer in minor units with `currency` beside it. There is
    one live claim of an order, and an order that is tracked already is named instead (409 `order_tracked`).
    """

    async def operation() -> ClaimRead:
        return read.claim_read(await file.file_claim(session, settings, customer=customer, wanted=body))

    return await idempotency.run(operation, ClaimRead, status=201)


@router.get("", summary="Own claims")
async def list_my_claims(
    session: SessionDep,
    customer: CurrentCustomer,
    page: PageDep,
    status: Annotated[ClaimState | None, Query(description="Only claims in this state.")] = None,
) -> ClaimPage:
    """List claims, newest first."""
    return await read.list_claims(session, customer_id=customer.id, limit=page.limit, cursor=page.cursor, status=status)


@router.get("/{claim_id}", summary="One claim", responses=problems(404))
async def get_my_claim(session: SessionDep, customer: CurrentCustomer, claim_id: UUID) -> ClaimRead:
    """Show a claim, and once it is decided what was said and which order was credited."""
    return await read.get_claim(session, customer_id=customer.id, claim_id=claim_id)


@router.post("/{claim_id}/withdraw", summary="Take a claim back", responses=problems(404, 409))
async def withdraw_claim(session: SessionDep, customer: CurrentCustomer, claim_id: UUID) -> ClaimRead:
    """Withdraw a claim that is not decided yet; the order can be claimed again."""
    return read.claim_read(await file.withdraw_claim(session, customer_id=customer.id, claim_id=claim_id))

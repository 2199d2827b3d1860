"""Clicks: where a customer leaves for a merchant."""

from uuid import UUID

from fastapi import APIRouter, Depends
from starlette.responses import RedirectResponse, Response

from app.dependencies import (
    CurrentCustomer,
    IdempotencyDep,
    LimitByCustomer,
    OriginDep,
    PageDep,
    PublicUrlDep,
    SessionDep,
    SettingsDep,
)
from app.openapi import problems
from app.schemas.clicks import ClickCreate, ClickPage, ClickRead
from app.services import clicks
from app.services.rate_limits import CLICK

router = APIRouter(tags=["clicks"])


@router.post(
    "/v1/clicks",
    status_code=201,
    summary="Leave for a merchant",
    response_model=ClickRead,
    responses=problems(401, 403, 404, 409, 422, 429),
    dependencies=[Depends(LimitByCustomer(CLICK))],
)
async def create_click(
    body: ClickCreate,
    session: SessionDep,
    settings: SettingsDep,
    public_url: PublicUrlDep,
    customer: CurrentCustomer,
    origin: OriginDep,
    idempotency: IdempotencyDep,
) -> Response:
    """Promise the rate in force now for a sale that follows this click; open `redirect_url` next."""
    return await idempotency.run(
        lambda: clicks.create_click(
            session,
            settings=settings,
            public_url=public_url,
            customer=customer,
            origin=origin,
            merchant_id=body.merchant_id,
            offer_id=body.offer_id,
        ),
        ClickRead,
        status=201,
    )


@router.get(
    "/r/{click_id}",
    status_code=302,
    summary="Go to the merchant",
    response_class=RedirectResponse,
    responses={302: {"description": "To the merchant, with the click id in the URL."}, **problems(404)},
)
async def follow_click(session: SessionDep, click_id: UUID) -> RedirectResponse:
    """Lead a browser to the merchant. Needs no sign-in: the id cannot be guessed."""
    url = await clicks.get_target_url(session, click_id=click_id)
    # Merchants and networks want to know which site sent the customer: its origin, as is a browser's own default.
    return RedirectResponse(url, 302, {"Referrer-Policy": "strict-origin-when-cross-origin"})


@router.get("/v1/me/clicks", summary="My clicks", responses=problems(401))
async def list_clicks(
    session: SessionDep, public_url: PublicUrlDep, customer: CurrentCustomer, page: PageDep
) -> ClickPage:
    """Return the customer's clicks, newest first."""
    return await clicks.list_clicks(
        session, customer_id=customer.id, public_url=public_url, limit=page.limit, cursor=page.cursor
    )

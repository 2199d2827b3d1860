"""Exchange rates for staff: what orders in another currency than their merchant's are converted at."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, StaffIdempotencyDep, staff_with
from app.models import ExchangeRate, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.common import Currency
from app.schemas.exchange_rates import ExchangeRateCreate, ExchangeRatePage, ExchangeRateRead
from app.services import exchange_rates

router = APIRouter(prefix="/v1/admin/exchange-rates", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.LEDGER_READ)]
Creator = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.LEDGER_WRITE, on=ExchangeRate)]


@router.post(
    "", status_code=201, summary="Add an exchange rate", response_model=ExchangeRateRead, responses=problems(409, 422)
)
async def add_exchange_rate(
    session: SessionDep, member: Creator, idempotency: StaffIdempotencyDep, body: ExchangeRateCreate
) -> Response:
    """Add the rate that holds from a day on, and process the events that wait for it.

    The same again answers with the rate that is there. Another value on the same day is refused: an order keeps the
    rate it was converted at, so a rate is never changed.
    """
    return await idempotency.run(
        lambda: exchange_rates.add_exchange_rate(session, **body.model_dump(), created_by_id=member.id),
        ExchangeRateRead,
        status=201,
    )


@router.get("", summary="Exchange rates")
async def list_exchange_rates(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    base: Annotated[Currency | None, Query(description="Only from this currency.")] = None,
    quote: Annotated[Currency | None, Query(description="Only to this currency.")] = None,
) -> ExchangeRatePage:
    """Return rates, the last added first."""
    return await exchange_rates.list_exchange_rates(
        session, limit=page.limit, cursor=page.cursor, base=base, quote=quote
    )

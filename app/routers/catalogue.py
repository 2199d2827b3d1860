"""The public catalogue: categories, merchants with their cashback, offers. No sign-in."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from app.dependencies import PageDep
from app.edge.finished import FINISHED, JSONBytes, KeptFor
from app.openapi import problems
from app.schemas.catalogue import (
    CategoryPage,
    MerchantFilter,
    MerchantId,
    MerchantPage,
    MerchantRead,
    OfferFilter,
    OfferPage,
)
from app.schemas.common import Slug
from app.services import catalogue

router = APIRouter(prefix="/v1", tags=["catalogue"])

# Rates begin and end by the clock. What else is shown changes with the catalogue's version alone; it still has an age,
# for whatever is changed by hand in the database.
OF_NOW, OF_THE_VERSION = Depends(KeptFor(seconds=1)), Depends(KeptFor(seconds=10))


@router.get(
    "/categories",
    summary="Categories",
    response_model=CategoryPage,
    responses={**FINISHED, **problems(422)},
    dependencies=[OF_THE_VERSION],
)
async def list_categories(page: PageDep) -> JSONBytes:
    """Categories by name, each with the number of its merchants."""
    return JSONBytes(await catalogue.list_categories(limit=page.limit, cursor=page.cursor))


@router.get(
    "/merchants",
    summary="Merchants with their cashback",
    response_model=MerchantPage,
    responses={**FINISHED, **problems(422)},
    dependencies=[OF_NOW],
)
async def list_merchants(page: PageDep, wanted: Annotated[MerchantFilter, Query()]) -> JSONBytes:
    """Merchants by name, each with the rate that a click promises now."""
    return JSONBytes(await catalogue.list_merchants(wanted=wanted, limit=page.limit, cursor=page.cursor))


@router.get(
    "/merchants/{id_or_slug}",
    summary="One merchant",
    response_model=MerchantRead,
    responses={**FINISHED, **problems(404)},
    dependencies=[OF_NOW],
)
async def get_merchant(
    id_or_slug: Annotated[Slug, Path(description="Id or slug; digits are an id.")],
) -> JSONBytes:
    """Return a merchant with the rate that a click promises now."""
    return JSONBytes(await catalogue.get_merchant(id_or_slug=id_or_slug))


@router.get(
    "/merchants/{merchant_id}/offers",
    summary="A merchant's offers",
    response_model=OfferPage,
    responses={**FINISHED, **problems(404, 422)},
    dependencies=[OF_THE_VERSION],
)
async def list_merchant_offers(page: PageDep, merchant_id: MerchantId) -> JSONBytes:
    """Offers of one merchant, newest first."""
    body = await catalogue.list_merchant_offers(merchant_id=merchant_id, limit=page.limit, cursor=page.cursor)
    return JSONBytes(body)


@router.get(
    "/offers",
    summary="Offers of all merchants",
    response_model=OfferPage,
    responses={**FINISHED, **problems(422)},
    dependencies=[OF_THE_VERSION],
)
async def list_offers(page: PageDep, wanted: Annotated[OfferFilter, Query()]) -> JSONBytes:
    """Offers that match every filter. An unknown category or merchant matches none.

    A cursor belongs to one sort; with another it is refused.
    """
    return JSONBytes(await catalogue.list_offers(wanted=wanted, limit=page.limit, cursor=page.cursor))

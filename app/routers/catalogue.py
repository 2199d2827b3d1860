"""The public catalogue: categories, merchants with their cashback, offers. No sign-in."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.dependencies import PageDep, SessionDep
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


@router.get("/categories", summary="Categories", responses=problems(422))
async def list_categories(session: SessionDep, page: PageDep) -> CategoryPage:
    """Categories by name, each with the number of its merchants."""
    return await catalogue.list_categories(session, limit=page.limit, cursor=page.cursor)


@router.get("/merchants", summary="Merchants with their cashback", responses=problems(422))
async def list_merchants(
    session: SessionDep, page: PageDep, wanted: Annotated[MerchantFilter, Query()]
) -> MerchantPage:
    """Merchants by name, each with the rate that a click promises now."""
    return await catalogue.list_merchants(session, wanted=wanted, limit=page.limit, cursor=page.cursor)


@router.get("/merchants/{id_or_slug}", summary="One merchant", responses=problems(404))
async def get_merchant(
    session: SessionDep, id_or_slug: Annotated[Slug, Path(description="Id or slug; digits are an id.")]
) -> MerchantRead:
    """Return a merchant with the rate that a click promises now."""
    return await catalogue.get_merchant(session, id_or_slug=id_or_slug)


@router.get("/merchants/{merchant_id}/offers", summary="A merchant's offers", responses=problems(404, 422))
async def list_merchant_offers(session: SessionDep, page: PageDep, merchant_id: MerchantId) -> OfferPage:
    """Offers of one merchant, newest first."""
    return await catalogue.list_merchant_offers(session, merchant_id=merchant_id, limit=page.limit, cursor=page.cursor)


@router.get("/offers", summary="Offers of all merchants", responses=problems(422))
async def list_offers(session: SessionDep, page: PageDep, wanted: Annotated[OfferFilter, Query()]) -> OfferPage:
    """Offers that match every filter. An unknown category or merchant matches none.

    A cursor belongs to one sort; with another it is refused.
    """
    return await catalogue.list_offers(session, wanted=wanted, limit=page.limit, cursor=page.cursor)

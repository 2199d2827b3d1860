"""The catalogue for staff: categories, merchants and their rates."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import Category, Merchant, MerchantStatus, Rate, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.admin_catalogue import (
    CategoryAdminRead,
    CategoryCreate,
    MerchantAdminPage,
    MerchantAdminRead,
    MerchantChange,
    MerchantCreate,
    RateAdminPage,
    RateAdminRead,
    RateCreate,
)
from app.schemas.catalogue import MerchantId
from app.services import merchants

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.CATALOGUE_READ)]
CategoryCreator = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.CATALOGUE_WRITE, on=Category)]
MerchantCreator = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.CATALOGUE_WRITE, on=Merchant)]
MerchantChanger = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.CATALOGUE_WRITE, on=Merchant, by="merchant_id")
]
RateCreator = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.CATALOGUE_WRITE, on=Rate)]


@router.post("/categories", status_code=201, summary="Add a category", responses=problems(409))
async def create_category(session: SessionDep, _: CategoryCreator, body: CategoryCreate) -> CategoryAdminRead:
    """Add a category for merchants and offers."""
    category = await merchants.create_category(session, slug=body.slug, name=body.name)
    return CategoryAdminRead.model_validate(category)


@router.post("/merchants", status_code=201, summary="Add a merchant", responses=problems(409))
async def create_merchant(session: SessionDep, _: MerchantCreator, body: MerchantCreate) -> MerchantAdminRead:
    """Add an active merchant; give it a rate next."""
    return await merchants.create_merchant(session, wanted=body)


@router.patch("/merchants/{merchant_id}", summary="Change a merchant", responses=problems(404, 409))
async def change_merchant(
    session: SessionDep, _: MerchantChanger, merchant_id: MerchantId, body: MerchantChange
) -> MerchantAdminRead:
    """Change the members that are sent; `status` pauses, closes and opens."""
    return await merchants.change_merchant(session, merchant_id=merchant_id, change=body)


@router.get("/merchants", summary="All merchants")
async def list_all_merchants(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[MerchantStatus | None, Query(description="Only merchants in this state.")] = None,
) -> MerchantAdminPage:
    """List merchants by id, closed ones too."""
    return await merchants.list_merchants(session, status=status, limit=page.limit, cursor=page.cursor)


@router.post("/merchants/{merchant_id}/rates", status_code=201, summary="Add a rate", responses=problems(404))
async def create_rate(session: SessionDep, _: RateCreator, merchant_id: MerchantId, body: RateCreate) -> RateAdminRead:
    """Add a rate for clicks of the future. Of rates that overlap, the one that began last holds."""
    return await merchants.add_rate(session, merchant_id=merchant_id, wanted=body)


@router.get("/merchants/{merchant_id}/rates", summary="A merchant's rates", responses=problems(404))
async def list_rates(session: SessionDep, _: Viewer, merchant_id: MerchantId, page: PageDep) -> RateAdminPage:
    """List past, present and future rates, the latest to begin first."""
    return await merchants.list_rates(session, merchant_id=merchant_id, limit=page.limit, cursor=page.cursor)

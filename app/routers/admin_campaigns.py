"""Campaigns for staff: extra cashback within a budget."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, StaffIdempotencyDep, staff_with
from app.models import Campaign, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.campaigns import CampaignChange, CampaignCreate, CampaignPage, CampaignRead
from app.services import campaigns

router = APIRouter(prefix="/v1/admin/campaigns", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.PROMOTIONS_READ)]
Creator = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PROMOTIONS_WRITE, on=Campaign)]
Changer = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.PROMOTIONS_WRITE, on=Campaign, by="campaign_id")]


@router.post(
    "", status_code=201, summary="Add a campaign", response_model=CampaignRead, responses=problems(404, 409, 422)
)
async def create_campaign(
    session: SessionDep, _: Creator, idempotency: StaffIdempotencyDep, body: CampaignCreate
) -> Response:
    """Promise extra cashback to clicks from now on, or from `valid_from`. Its cost is booked to promotions."""
    return await idempotency.run(lambda: campaigns.create_campaign(session, wanted=body), CampaignRead, status=201)


@router.get("", summary="Campaigns")
async def list_campaigns(session: SessionDep, _: Viewer, page: PageDep) -> CampaignPage:
    """Return campaigns, newest first, each with what it has spent."""
    return await campaigns.list_campaigns(session, limit=page.limit, cursor=page.cursor)


@router.get("/{campaign_id}", summary="One campaign", responses=problems(404))
async def get_campaign(session: SessionDep, _: Viewer, campaign_id: UUID) -> CampaignRead:
    """Return a campaign with what it has spent."""
    return await campaigns.get_campaign(session, campaign_id=campaign_id)


@router.patch("/{campaign_id}", summary="Change a campaign", responses=problems(404, 409))
async def change_campaign(session: SessionDep, _: Changer, campaign_id: UUID, body: CampaignChange) -> CampaignRead:
    """Pause it, end it, or change its budget; clicks of before keep what they were promised while it lasts."""
    return await campaigns.change_campaign(session, campaign_id=campaign_id, change=body)

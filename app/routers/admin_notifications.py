"""Notification endpoints and deliveries for staff."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.dependencies import PageDep, SessionDep, SettingsDep, staff_with
from app.models import DeliveryStatus, NotificationDelivery, NotificationEndpoint, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.notifications import (
    DeliveryRead,
    EndpointChange,
    EndpointCreate,
    EndpointRead,
    EndpointWithSecret,
    ReplayRead,
    ReplayRequest,
)
from app.services.notifications import endpoints

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.NOTIFICATIONS_READ)]
Creator = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.NOTIFICATIONS_WRITE, on=NotificationEndpoint)]
Changer = Annotated[
    StaffKey, staff_with(StaffRole.ADMIN, StaffScope.NOTIFICATIONS_WRITE, on=NotificationEndpoint, by="endpoint_id")
]
Replayer = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.NOTIFICATIONS_WRITE, on=NotificationEndpoint, by="endpoint_id")
]
Retrier = Annotated[
    StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.NOTIFICATIONS_WRITE, on=NotificationDelivery, by="delivery_id")
]


@router.post("/notification-endpoints", status_code=201, summary="Add an endpoint")
async def create_endpoint(
    session: SessionDep, settings: SettingsDep, _: Creator, response: Response, body: EndpointCreate
) -> EndpointWithSecret:
    """Tell another system of orders, wallets, payouts or alerts, signed as Standard Webhooks. Shows the secret once."""
    response.headers["Cache-Control"] = "no-store"
    return await endpoints.create_endpoint(session, settings, wanted=body)


@router.get("/notification-endpoints", summary="All endpoints")
async def list_endpoints(session: SessionDep, _: Viewer, page: PageDep) -> Page[EndpointRead]:
    """List endpoints, newest first, without secrets."""
    return await endpoints.list_endpoints(session, limit=page.limit, cursor=page.cursor)


@router.get("/notification-endpoints/{endpoint_id}", summary="One endpoint", responses=problems(404))
async def get_endpoint(session: SessionDep, _: Viewer, endpoint_id: UUID) -> EndpointRead:
    """Return an endpoint, and why it is disabled if we did that."""
    return await endpoints.get_endpoint(session, endpoint_id=endpoint_id)


@router.patch("/notification-endpoints/{endpoint_id}", summary="Change an endpoint", responses=problems(404))
async def change_endpoint(session: SessionDep, _: Changer, endpoint_id: UUID, body: EndpointChange) -> EndpointRead:
    """Change the members that are sent. Disabling gives up what is on its way; `replay` brings it back."""
    return await endpoints.change_endpoint(session, endpoint_id=endpoint_id, change=body)


@router.post(
    "/notification-endpoints/{endpoint_id}/rotate-secret", summary="Make a new signing secret", responses=problems(404)
)
async def rotate_endpoint_secret(
    session: SessionDep, settings: SettingsDep, _: Changer, response: Response, endpoint_id: UUID
) -> EndpointWithSecret:
    """Show a new secret once. Deliveries are signed with both until the next rotation."""
    response.headers["Cache-Control"] = "no-store"
    return await endpoints.rotate_secret(session, settings, endpoint_id=endpoint_id)


@router.post(
    "/notification-endpoints/{endpoint_id}/replay",
    status_code=202,
    summary="Send a period again",
    responses=problems(404, 409),
)
async def replay_endpoint(session: SessionDep, _: Replayer, endpoint_id: UUID, body: ReplayRequest) -> ReplayRead:
    """Send everything of a period again that is of the endpoint's topics, with the ids it had."""
    return await endpoints.replay(session, endpoint_id=endpoint_id, since=body.since, until=body.until)


@router.get("/notification-deliveries", summary="Deliveries")
async def list_deliveries(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    endpoint_id: Annotated[UUID | None, Query(description="Only to this endpoint.")] = None,
    status: Annotated[DeliveryStatus | None, Query(description="Only in this state.")] = None,
) -> Page[DeliveryRead]:
    """List deliveries, newest first, each with what its last try ended with."""
    return await endpoints.list_deliveries(
        session, limit=page.limit, cursor=page.cursor, endpoint_id=endpoint_id, status=status
    )


@router.post(
    "/notification-deliveries/{delivery_id}/retry",
    status_code=202,
    summary="Send one again",
    responses=problems(404, 409),
)
async def retry_delivery(session: SessionDep, _: Retrier, delivery_id: UUID) -> DeliveryRead:
    """Send a delivery again now, also one that was taken; the receiver knows a repeat by its `webhook-id`."""
    return await endpoints.retry_delivery(session, delivery_id=delivery_id)

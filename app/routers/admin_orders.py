"""Orders for staff: what was said about them, and saying something in place of the source."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.dependencies import PageDep, SessionDep, SettingsDep, StaffIdempotencyDep, staff_with
from app.models import Order, OrderStatus, ProposalKind, StaffKey, StaffRole, StaffScope
from app.openapi import PROPOSED, problems
from app.schemas.catalogue import MerchantId
from app.schemas.common import Page, SafeText
from app.schemas.orders import OrderAdjustment, OrderAdminDetail, OrderAdminRead, OwedBy
from app.schemas.proposals import ProposalRead
from app.services import proposals
from app.services.orders import show

router = APIRouter(prefix="/v1/admin/orders", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ORDERS_READ)]
Adjuster = Annotated[StaffKey, staff_with(StaffRole.FINANCE, StaffScope.ORDERS_WRITE, on=Order, by="order_id")]


@router.get("", summary="Orders")
async def list_orders(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    merchant_id: Annotated[MerchantId | None, Query(description="Only of this merchant.")] = None,
    customer_id: Annotated[UUID | None, Query(description="Only of this customer.")] = None,
    status: Annotated[OrderStatus | None, Query(description="Only in this state.")] = None,
    order_reference: Annotated[
        SafeText | None, Query(max_length=200, description="Only with this order number of the merchant's.")
    ] = None,
    owed_by: Annotated[
        OwedBy | None,
        Query(description="Only those for which the `network` owes, or for which it has paid too much (`us`)."),
    ] = None,
) -> Page[OrderAdminRead]:
    """List orders, newest first."""
    return await show.list_for_staff(
        session,
        limit=page.limit,
        cursor=page.cursor,
        merchant_id=merchant_id,
        customer_id=customer_id,
        status=status,
        order_reference=order_reference,
        owed_by=owed_by,
    )


@router.get("/{order_id}", summary="One order, with all that was said about it", responses=problems(404))
async def get_order(session: SessionDep, _: Viewer, order_id: UUID) -> OrderAdminDetail:
    """Show an order with the steps of its cashback, its states, and every report about it."""
    return await show.show_to_staff(session, order_id=order_id)


@router.post(
    "/{order_id}/adjustments",
    status_code=201,
    summary="Adjust an order, with a reason",
    response_model=OrderAdminDetail,
    responses={**PROPOSED, **problems(404, 409, 422)},
)
async def adjust_order(
    session: SessionDep,
    settings: SettingsDep,
    member: Adjuster,
    idempotency: StaffIdempotencyDep,
    order_id: UUID,
    body: OrderAdjustment,
) -> Response:
    """Say about an order what its source does not. It is folded with the source's reports by its time, which is now."""

    async def operation() -> OrderAdminDetail | ProposalRead:
        proposal = await proposals.act(
            session, settings, kind=ProposalKind.ORDER_ADJUSTMENT, target_id=order_id, member=member, wanted=body
        )
        return proposal or await show.show_to_staff(session, order_id=order_id)

    return await idempotency.run(operation, OrderAdminDetail, status=201)

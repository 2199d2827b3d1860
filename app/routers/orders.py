"""The customer's orders."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import CurrentCustomer, PageDep, SessionDep
from app.models import OrderStatus
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.orders import OrderDetail, OrderRead
from app.services.orders import read, show

router = APIRouter(prefix="/v1/me/orders", tags=["orders"], responses=problems(401))


@router.get("", summary="Own orders")
async def list_my_orders(
    session: SessionDep,
    customer: CurrentCustomer,
    page: PageDep,
    status: Annotated[OrderStatus | None, Query(description="Only orders in this state.")] = None,
) -> Page[OrderRead]:
    """List orders, newest first."""
    found = await read.list_orders(
        session, customer_id=customer.id, limit=page.limit, cursor=page.cursor, status=status
    )
    return Page(
        items=[show.order_read(view.order, view.merchant, is_held=view.is_held) for view in found.items],
        next_cursor=found.next_cursor,
    )


@router.get("/{order_id}", summary="One order, explained", responses=problems(404))
async def get_my_order(session: SessionDep, customer: CurrentCustomer, order_id: UUID) -> OrderDetail:
    """Show an order with the steps that made its cashback and each state with its time."""
    view = await read.get_order(session, customer_id=customer.id, order_id=order_id)
    return show.order_detail(view)

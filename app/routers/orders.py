"""The customer's orders."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import CurrentCustomer, PageDep, SessionDep, SignedIn
from app.edge.finished import JSONBytes
from app.models import OrderStatus
from app.openapi import problems
from app.schemas.common import Page
from app.schemas.orders import OrderDetail, OrderRead
from app.services.orders import read, show

router = APIRouter(prefix="/v1/me/orders", tags=["orders"], responses=problems(401))


@router.get("", summary="Own orders", response_model=Page[OrderRead])
async def list_my_orders(
    signed_in: SignedIn,
    page: PageDep,
    status: Annotated[OrderStatus | None, Query(description="Only orders in this state.")] = None,
) -> JSONBytes:
    """List orders, newest first."""
    body = await read.list_orders(
        customer_id=signed_in.customer_id,
        session_id=signed_in.session_id,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
    )
    return JSONBytes(body)


@router.get("/{order_id}", summary="One order, explained", responses=problems(404))
async def get_my_order(session: SessionDep, customer: CurrentCustomer, order_id: UUID) -> OrderDetail:
    """Show an order with the steps that made its cashback and each state with its time."""
    view = await read.get_order(session, customer_id=customer.id, order_id=order_id)
    return show.order_detail(view)

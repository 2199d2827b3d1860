"""The customer's orders."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import CurrentCustomer, PageDep, SessionDep
from app.models import Order, OrderChange, OrderStatus
from app.openapi import problems
from app.schemas.common import Money, Page
from app.schemas.orders import ExplanationStep, OrderDetail, OrderMerchant, OrderRead, OrderState
from app.services.orders import read
from app.services.orders.read import OrderView

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
    return Page(items=[_order(view) for view in found.items], next_cursor=found.next_cursor)


@router.get("/{order_id}", summary="One order, explained", responses=problems(404))
async def get_my_order(session: SessionDep, customer: CurrentCustomer, order_id: UUID) -> OrderDetail:
    """Show an order with the steps that made its cashback and each state with its time."""
    view = await read.get_order(session, customer_id=customer.id, order_id=order_id)
    return OrderDetail(
        **_order(view).model_dump(),
        click_id=view.order.click_id,
        explanation=[ExplanationStep.model_validate(step) for step in view.order.explanation["steps"]],
        history=[_state(view.order, change) for change in view.changes],
    )


def _order(view: OrderView) -> OrderRead:
    order = view.order
    return OrderRead(
        id=order.id,
        merchant=OrderMerchant.model_validate(view.merchant),
        order_reference=order.external_id,
        status=order.status,
        sale=Money(amount_minor=order.sale_minor, currency=order.currency),
        cashback=Money(amount_minor=order.cashback_minor, currency=order.currency),
        ordered_at=order.ordered_at,
        payable_at=order.payable_at,
    )


def _state(order: Order, change: OrderChange) -> OrderState:
    return OrderState(
        status=change.status,
        sale=Money(amount_minor=change.sale_minor, currency=order.currency),
        cashback=Money(amount_minor=change.cashback_minor, currency=order.currency),
        at=change.at,
    )

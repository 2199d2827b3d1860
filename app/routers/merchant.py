"""What a merchant reads about itself, with its key: events, orders, delivery health, syncs."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import MerchantKeyDep, PageDep, SessionDep
from app.models import OrderStatus, SyncStatus, WebhookStatus
from app.openapi import problems
from app.schemas.common import SafeText
from app.schemas.merchant_keys import (
    DeliveryHealth,
    MerchantEventPage,
    MerchantEventRead,
    MerchantOrderPage,
    MerchantOrderRead,
)
from app.schemas.sync import SyncJobDetail, SyncJobPage
from app.services import merchant_view
from app.services.sync import runs

router = APIRouter(prefix="/v1/merchant", tags=["merchant"], responses=problems(401))

_Reference = Annotated[SafeText | None, Query(max_length=200, description="Only about this order number.")]


@router.get("/delivery", summary="How own events arrive")
async def get_delivery_health(session: SessionDep, key: MerchantKeyDep) -> DeliveryHealth:
    """Count the events of the last 30 days by what became of them, and say whether they stopped coming."""
    return await merchant_view.delivery_health(session, merchant_id=key.merchant_id)


@router.get("/events", summary="Own events")
async def list_merchant_events(
    session: SessionDep,
    key: MerchantKeyDep,
    page: PageDep,
    status: Annotated[WebhookStatus | None, Query(description="Only events in this state.")] = None,
    order_reference: _Reference = None,
) -> MerchantEventPage:
    """List what was reported, newest first. What cannot be read is shown if the source is the merchant's alone."""
    return await merchant_view.list_events(
        session,
        merchant_id=key.merchant_id,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
        order_reference=order_reference,
    )


@router.get("/events/{event_id}", summary="One own event", responses=problems(404))
async def get_merchant_event(session: SessionDep, key: MerchantKeyDep, event_id: UUID) -> MerchantEventRead:
    """Show what became of an event, and why."""
    return await merchant_view.get_event(session, merchant_id=key.merchant_id, event_id=event_id)


@router.get("/orders", summary="Orders of the shop")
async def list_merchant_orders(
    session: SessionDep,
    key: MerchantKeyDep,
    page: PageDep,
    status: Annotated[OrderStatus | None, Query(description="Only in this state.")] = None,
    order_reference: _Reference = None,
) -> MerchantOrderPage:
    """List orders by the time of the purchase, the latest first, without anything of their customers."""
    return await merchant_view.list_orders(
        session,
        merchant_id=key.merchant_id,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
        order_reference=order_reference,
    )


@router.get("/orders/{order_id}", summary="One order of the shop", responses=problems(404))
async def get_merchant_order(session: SessionDep, key: MerchantKeyDep, order_id: UUID) -> MerchantOrderRead:
    """Show an order as it was reported, and what has been paid for it."""
    return await merchant_view.get_order(session, merchant_id=key.merchant_id, order_id=order_id)


@router.get("/sync-runs", summary="Syncs of the own feed")
async def list_merchant_sync_runs(
    session: SessionDep,
    key: MerchantKeyDep,
    page: PageDep,
    status: Annotated[SyncStatus | None, Query(description="Only in this state.")] = None,
) -> SyncJobPage:
    """List how the own feed was fetched, the latest first."""
    found = await runs.list_runs(
        session, merchant_id=key.merchant_id, status=status, limit=page.limit, cursor=page.cursor
    )
    return SyncJobPage.model_validate(found)


@router.get("/sync-runs/{job_id}", summary="One sync of the own feed", responses=problems(404))
async def get_merchant_sync_run(session: SessionDep, key: MerchantKeyDep, job_id: UUID) -> SyncJobDetail:
    """Show a sync's counts and the first rows that were rejected."""
    return await merchant_view.get_sync_run(session, merchant_id=key.merchant_id, job_id=job_id)

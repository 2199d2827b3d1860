"""Clawbacks for staff."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import ClawbackStatus, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.clawbacks import ClawbackPage
from app.services import clawbacks

router = APIRouter(prefix="/v1/admin/clawbacks", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ORDERS_READ)]


@router.get("", summary="Clawbacks")
async def list_clawbacks(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    status: Annotated[ClawbackStatus | None, Query(description="Only in this state.")] = None,
    customer_id: Annotated[UUID | None, Query(description="Only of this customer.")] = None,
) -> ClawbackPage:
    """List what customers' balances did not cover when cashback was taken back, newest first."""
    return await clawbacks.list_clawbacks(
        session, limit=page.limit, cursor=page.cursor, status=status, customer_id=customer_id
    )

"""Alerts for staff."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import AlertKind, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.alerts import AlertRead
from app.schemas.common import Page
from app.services import alerts

router = APIRouter(prefix="/v1/admin/alerts", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.ALERTS_READ)]


@router.get("", summary="Alerts")
async def list_alerts(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    kind: Annotated[AlertKind | None, Query(description="Only of this kind.")] = None,
    is_open: Annotated[bool | None, Query(alias="open", description="Only open or only closed ones.")] = None,
) -> Page[AlertRead]:
    """List merchants that fell silent, feeds that went stale and sources whose events fail, newest first."""
    return await alerts.list_alerts(session, limit=page.limit, cursor=page.cursor, kind=kind, is_open=is_open)

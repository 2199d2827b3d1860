"""The audit log for admins: who did what, when, and what it changed."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Response

from app.dependencies import PageDep, SessionDep, staff_with
from app.models import StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.audit import AuditFilter, AuditPage
from app.schemas.common import SafeText
from app.schemas.webhooks import InboxTime
from app.services import audit

router = APIRouter(prefix="/v1/admin/audit-log", tags=["admin"], responses=problems(401, 403))

Reader = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.AUDIT_READ)]
# What leaves the service in one piece leaves a row of its own.
Exporter = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.AUDIT_READ, records=True)]


async def _filter(
    member_id: Annotated[UUID | None, Query(description="Only by this member of staff.")] = None,
    key_id: Annotated[UUID | None, Query(description="Only with this staff key.")] = None,
    action: Annotated[
        SafeText | None, Query(max_length=200, description="Only this operation, such as `approve_payout`.")
    ] = None,
    target_type: Annotated[SafeText | None, Query(max_length=200, description="Only about these: `payouts`.")] = None,
    target_id: Annotated[SafeText | None, Query(max_length=200, description="Only about this one.")] = None,
    first: Annotated[InboxTime | None, Query(alias="from", description="Only from this moment on.")] = None,
    last: Annotated[InboxTime | None, Query(alias="to", description="Only before this moment.")] = None,
) -> AuditFilter:
    return AuditFilter(
        member_id=member_id,
        key_id=key_id,
        action=action,
        target_type=target_type,
        target_id=target_id,
        first=first,
        last=last,
    )


AuditFilterDep = Annotated[AuditFilter, Depends(_filter)]


@router.get("", summary="The audit log")
async def list_audit_log(session: SessionDep, _: Reader, page: PageDep, wanted: AuditFilterDep) -> AuditPage:
    """List what staff did, newest first, each with what it changed."""
    return await audit.list_entries(session, limit=page.limit, cursor=page.cursor, wanted=wanted)


@router.get(
    "/export",
    summary="The audit log as CSV",
    response_class=Response,
    responses={200: {"description": "The table.", "content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_audit_log(session: SessionDep, _: Exporter, wanted: AuditFilterDep) -> Response:
    """Download the newest 10,000 entries that match; for more, ask for them period by period."""
    table = await audit.export_csv(session, wanted=wanted)
    headers = {"Content-Disposition": 'attachment; filename="audit_log.csv"', "Cache-Control": "no-store"}
    return Response(table, media_type="text/csv; charset=utf-8; header=present", headers=headers)

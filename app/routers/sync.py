"""Fetching merchants' feeds: ask for a sync, and see how it goes."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query

from app.dependencies import LimitByMerchant, PageDep, SessionDep, staff_with
from app.logs import request_id_var
from app.models import StaffKey, StaffRole, StaffScope, SyncRun, SyncStatus
from app.openapi import problems
from app.schemas.catalogue import MAX_MERCHANT_ID
from app.schemas.sync import SyncJobDetail, SyncJobPage, SyncReceipt
from app.services.rate_limits import SYNC
from app.services.sync import runs

router = APIRouter(prefix="/sync", tags=["sync"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.FEEDS_READ)]
Requester = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.FEEDS_WRITE, on=SyncRun)]

MerchantIdPath = Annotated[int, Path(ge=1, le=MAX_MERCHANT_ID, examples=[42])]


@router.get("/jobs", summary="All syncs")
async def list_sync_jobs(
    session: SessionDep,
    _: Viewer,
    page: PageDep,
    merchant_id: Annotated[
        int | None, Query(ge=1, le=MAX_MERCHANT_ID, description="Only syncs of this merchant.")
    ] = None,
    status: Annotated[SyncStatus | None, Query(description="Only syncs in this state.")] = None,
) -> SyncJobPage:
    """List syncs, the latest first."""
    found = await runs.list_runs(session, merchant_id=merchant_id, status=status, limit=page.limit, cursor=page.cursor)
    return SyncJobPage.model_validate(found)


@router.get("/jobs/{job_id}", summary="How a sync goes", responses=problems(404))
async def get_sync_job(session: SessionDep, _: Viewer, job_id: UUID) -> SyncJobDetail:
    """Show a sync's counts, while it runs about every second anew, and the first rows that were rejected."""
    return SyncJobDetail.model_validate(await runs.get_run(session, job_id=job_id))


@router.post(
    "/{merchant_id}",
    status_code=202,
    summary="Sync a merchant's feed",
    responses=problems(404, 409),
    dependencies=[Depends(LimitByMerchant(SYNC))],
)
async def request_sync(session: SessionDep, _: Requester, merchant_id: MerchantIdPath) -> SyncReceipt:
    """Queue a sync and answer at once. While one is unfinished, that one is answered and no other begins."""
    run = await runs.request_sync(session, merchant_id=merchant_id, request_id=request_id_var.get())
    return SyncReceipt.model_validate(run)

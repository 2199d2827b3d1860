"""Polling of sources for staff: what it needs, how it stands, poll now, pause, and a try that keeps nothing."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.dependencies import SessionDep, SettingsDep, StaffBeforehand, staff_with
from app.models import Poller, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.admin_catalogue import SourceId
from app.schemas.polling import PollDryRun, PollingChange, PollingRead, PollingWrite, PollTrial
from app.services.polling import manage
from app.services.polling.dry_run import try_poll

router = APIRouter(prefix="/v1/admin/sources/{source_id}", tags=["admin"], responses=problems(401, 403, 404, 409))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.SOURCES_READ)]
Operator = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.SOURCES_WRITE, on=Poller, by="source_id")]
Admin = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.SOURCES_WRITE, on=Poller, by="source_id")]
Trier = Annotated[
    StaffKey, Depends(StaffBeforehand(StaffRole.OPERATOR, StaffScope.SOURCES_WRITE, on=Poller, by="source_id"))
]


@router.put("/polling", summary="Let a source be polled")
async def set_polling(
    session: SessionDep, settings: SettingsDep, _: Admin, source_id: SourceId, body: PollingWrite
) -> PollingRead:
    """Give a source whose definition has `polling` what that needs: values, credentials, how often. It is due at once.

    Credentials are kept encrypted and sent to the definition's host only: if a new version names another host, they
    have to be given again.
    """
    return await manage.set_polling(session, settings, source_id=source_id, wanted=body)


@router.get("/polling", summary="How a source's polling stands")
async def get_polling(session: SessionDep, _: Viewer, source_id: SourceId) -> PollingRead:
    """Show when the source was and will be polled, up to when it has been asked, and why the last poll failed."""
    return await manage.get_polling(session, source_id=source_id)


@router.patch("/polling", summary="Pause a source's polling")
async def change_polling(session: SessionDep, _: Operator, source_id: SourceId, body: PollingChange) -> PollingRead:
    """Pause polling, or let it go on from where it stopped. A poll on its way keeps nothing more once it is paused."""
    return await manage.change_polling(session, source_id=source_id, enabled=body.enabled)


@router.post("/poll", status_code=202, summary="Poll a source now")
async def poll_source(session: SessionDep, _: Operator, source_id: SourceId) -> PollingRead:
    """Make the source due at once. One that is being polled goes on with that; 409 while it is paused or disabled."""
    return await manage.poll_now(session, source_id=source_id)


@router.post("/poll/dry-run", summary="Try a poll")
async def try_source_poll(settings: SettingsDep, _: Trier, source_id: SourceId, body: PollDryRun) -> PollTrial:
    """Fetch one page and show the events that would come of it, and every problem. Nothing is kept.

    A server that cannot be reached, or an answer that cannot be read, is an answer too: its `error` says why.
    """
    return await try_poll(settings, source_id=source_id, wanted=body)

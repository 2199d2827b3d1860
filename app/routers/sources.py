"""Sources of sales for staff: their addresses and signing secrets."""

from fastapi import APIRouter, Depends, Response

from app.dependencies import Admin, PageDep, PublicUrlDep, SessionDep, SettingsDep, Viewer
from app.openapi import problems
from app.schemas.admin_catalogue import SourceId
from app.schemas.sources import SourceChange, SourceCreate, SourceDetail, SourcePage, SourceRead, SourceWithSecret
from app.services import sources


async def _forbid_storing(response: Response) -> None:
    # Answers here hold secrets and addresses that are as good as secrets.
    response.headers["Cache-Control"] = "no-store"


router = APIRouter(
    prefix="/v1/admin/sources", tags=["admin"], responses=problems(401, 403), dependencies=[Depends(_forbid_storing)]
)


@router.post("", status_code=201, summary="Add a source")
async def create_source(
    session: SessionDep, settings: SettingsDep, public_url: PublicUrlDep, _: Admin, body: SourceCreate
) -> SourceWithSecret:
    """Add an active source. Its signing secret is shown in this answer and never again."""
    return await sources.create_source(session, settings=settings, public_url=public_url, wanted=body)


@router.get("", summary="All sources")
async def list_sources(session: SessionDep, _: Viewer, page: PageDep) -> SourcePage:
    """List sources by id, without secrets or addresses."""
    return await sources.list_sources(session, limit=page.limit, cursor=page.cursor)


@router.get("/{source_id}", summary="One source with its address", responses=problems(404))
async def get_source(
    session: SessionDep, settings: SettingsDep, public_url: PublicUrlDep, _: Admin, source_id: SourceId
) -> SourceDetail:
    """Return a source with the address it posts to."""
    return await sources.get_source(session, settings=settings, public_url=public_url, source_id=source_id)


@router.patch("/{source_id}", summary="Change a source", responses=problems(404))
async def change_source(session: SessionDep, _: Admin, source_id: SourceId, body: SourceChange) -> SourceRead:
    """Change the members that are sent; a disabled source is answered as if it did not exist."""
    return await sources.change_source(session, source_id=source_id, change=body)


@router.post("/{source_id}/rotate-secret", summary="Make a new signing secret", responses=problems(404, 409))
async def rotate_source_secret(
    session: SessionDep, settings: SettingsDep, public_url: PublicUrlDep, _: Admin, source_id: SourceId
) -> SourceWithSecret:
    """Show a new secret once. The one before stays valid until the next rotation or `retire-old`."""
    return await sources.rotate_secret(session, settings=settings, public_url=public_url, source_id=source_id)


@router.post("/{source_id}/retire-old", summary="End the old signing secret", responses=problems(404, 409))
async def retire_old_source_secret(
    session: SessionDep, settings: SettingsDep, public_url: PublicUrlDep, _: Admin, source_id: SourceId
) -> SourceDetail:
    """Leave only the newest secret valid, once the sender signs with it."""
    return await sources.retire_old_secret(session, settings=settings, public_url=public_url, source_id=source_id)

"""Sources of sales for staff: presets, definitions, addresses and secrets."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from app.dependencies import PageDep, PublicUrlDep, SessionDep, SettingsDep, staff_with
from app.models import Source, StaffKey, StaffRole, StaffScope
from app.openapi import problems
from app.schemas.admin_catalogue import SourceId
from app.schemas.dry_run import DryRunRequest, DryRunResult
from app.schemas.source_definitions import SourceDefinition
from app.schemas.sources import (
    SecretWrite,
    SourceChange,
    SourceCreate,
    SourceDetail,
    SourcePage,
    SourcePresetPage,
    SourceRead,
    SourceVersionPage,
    SourceWithSecret,
)
from app.services import sources
from app.services.webhooks import dry_run


async def _forbid_storing(response: Response) -> None:
    # Answers here hold secrets and addresses that are as good as secrets.
    response.headers["Cache-Control"] = "no-store"


router = APIRouter(
    prefix="/v1/admin/sources", tags=["admin"], responses=problems(401, 403), dependencies=[Depends(_forbid_storing)]
)


presets_router = APIRouter(prefix="/v1/admin/source-presets", tags=["admin"], responses=problems(401, 403))

Viewer = Annotated[StaffKey, staff_with(StaffRole.VIEWER, StaffScope.SOURCES_READ)]
Reader = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.SOURCES_READ)]
Creator = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.SOURCES_WRITE, on=Source)]
Changer = Annotated[StaffKey, staff_with(StaffRole.ADMIN, StaffScope.SOURCES_WRITE, on=Source, by="source_id")]
Trier = Annotated[StaffKey, staff_with(StaffRole.OPERATOR, StaffScope.SOURCES_WRITE, on=Source, by="source_id")]


@presets_router.get("", summary="Source presets")
async def list_source_presets(_: Viewer) -> SourcePresetPage:
    """List the definitions that ship with the service; all of them are one page."""
    return SourcePresetPage(items=list(sources.list_presets()))


@router.post("", status_code=201, summary="Add a source", responses=problems(404))
async def create_source(
    session: SessionDep, settings: SettingsDep, public_url: PublicUrlDep, member: Creator, body: SourceCreate
) -> SourceWithSecret:
    """Add an active source, from a preset or a definition. Its secret is shown in this answer and never again."""
    return await sources.create_source(
        session, settings=settings, public_url=public_url, wanted=body, member_id=member.id
    )


@router.get("", summary="All sources")
async def list_sources(session: SessionDep, _: Viewer, page: PageDep) -> SourcePage:
    """List sources by id, without secrets or addresses."""
    return await sources.list_sources(session, limit=page.limit, cursor=page.cursor)


@router.get("/{source_id}", summary="One source with its address", responses=problems(404))
async def get_source(
    session: SessionDep, settings: SettingsDep, public_url: PublicUrlDep, _: Reader, source_id: SourceId
) -> SourceDetail:
    """Return a source with the address it posts to and what it is now."""
    return await sources.get_source(session, settings=settings, public_url=public_url, source_id=source_id)


@router.patch("/{source_id}", summary="Change a source", responses=problems(404))
async def change_source(session: SessionDep, _: Changer, source_id: SourceId, body: SourceChange) -> SourceRead:
    """Change the members that are sent; a disabled source is answered as if it did not exist."""
    return await sources.change_source(session, source_id=source_id, change=body)


@router.put("/{source_id}/definition", summary="Define a source anew", responses=problems(404))
async def define_source(
    session: SessionDep,
    settings: SettingsDep,
    public_url: PublicUrlDep,
    member: Changer,
    source_id: SourceId,
    body: SourceDefinition,
) -> SourceWithSecret:
    """Make a definition the source's next version, which reads all events from now on, replayed ones too.

    If it needs a secret and the source has none, one is made and shown.
    """
    return await sources.define_source(
        session,
        settings=settings,
        public_url=public_url,
        source_id=source_id,
        definition=body,
        member_id=member.id,
    )


@router.get("/{source_id}/versions", summary="What a source was", responses=problems(404))
async def list_source_versions(session: SessionDep, _: Reader, source_id: SourceId, page: PageDep) -> SourceVersionPage:
    """List a source's versions, newest first."""
    return await sources.list_versions(session, source_id=source_id, limit=page.limit, cursor=page.cursor)


@router.post("/{source_id}/dry-run", summary="Try a request", responses=problems(404))
async def try_source(
    session: SessionDep,
    settings: SettingsDep,
    public_url: PublicUrlDep,
    _: Trier,
    source_id: SourceId,
    body: DryRunRequest,
) -> DryRunResult:
    """Show what would become of a request: mapped events, attribution, order, postings, and every problem.

    Nothing is kept. With a `definition`, it is tried before the source gets it.
    """
    return await dry_run.dry_run(session, settings, public_url=public_url, source_id=source_id, wanted=body)


@router.post("/{source_id}/rotate-secret", summary="Set a new secret", responses=problems(404, 409))
async def rotate_source_secret(
    session: SessionDep,
    settings: SettingsDep,
    public_url: PublicUrlDep,
    _: Changer,
    source_id: SourceId,
    body: SecretWrite | None = None,
) -> SourceWithSecret:
    """Make a secret, or take the one that the source has chosen, and show it once.

    The one before stays valid until the next rotation or `retire-old`.
    """
    return await sources.rotate_secret(
        session, settings=settings, public_url=public_url, source_id=source_id, wanted=body or SecretWrite()
    )


@router.post("/{source_id}/retire-old", summary="End the old secrets", responses=problems(404, 409))
async def retire_old_source_secrets(
    session: SessionDep,
    settings: SettingsDep,
    public_url: PublicUrlDep,
    _: Changer,
    source_id: SourceId,
    keep: Annotated[int, Query(ge=1, le=10, description="How many stay valid, the newest first.")] = 1,
) -> SourceDetail:
    """Leave only the newest secret valid, once the sender signs with it."""
    return await sources.retire_old_secrets(
        session, settings=settings, public_url=public_url, source_id=source_id, keep=keep
    )

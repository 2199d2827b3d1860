"""Sources: who reports sales, under which unguessable address, proven with which secrets, read how.

A secret is shown once and kept encrypted. Rotation keeps the one before valid beside the new one, so that the sender
may change over when it likes. An edit of the definition is a new version.
"""

import secrets
from uuid import UUID

from sqlalchemy import BigInteger, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, NotFoundError
from app.models import Source, SourceStatus, SourceVersion, StaffKey
from app.schemas.source_definitions import SourceDefinition
from app.schemas.sources import (
    SecretWrite,
    SourceChange,
    SourceCreate,
    SourceDetail,
    SourcePage,
    SourceRead,
    SourceVersionPage,
    SourceVersionRead,
    SourceWithSecret,
)
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.secrets import seal, unseal
from app.services.sources.presets import get_preset
from app.services.sources.secrets import check_secret, most_live, new_secret
from app.services.sources.versions import add_version, first_version


class SourceNotFoundError(NotFoundError):
    """No source has this id."""

    code = "source_not_found"
    title = "Source not found"

    def __init__(self, source_id: int) -> None:
        super().__init__(f"There is no source {source_id}.")


class SourceUnsignedError(ConflictError):
    """The source proves nothing with a secret, so it has none."""

    code = "source_unsigned"
    title = "Source without secrets"

    def __init__(self, source: Source) -> None:
        super().__init__(f"The source {source.id} has no authentication that needs a secret.")


async def create_source(
    session: AsyncSession, *, settings: Settings, public_url: str, wanted: SourceCreate, member_id: UUID | None
) -> SourceWithSecret:
    """Add an active source, with a secret where its definition needs one.

    Raises SourcePresetNotFoundError and InvalidSecretError.
    """
    definition = wanted.definition or get_preset(wanted.preset or "").definition
    secret = None
    if definition.needs_secret:
        secret = new_secret(definition) if wanted.secret is None else check_secret(definition, wanted.secret)
    source = await add_source(
        session,
        source_key=secrets.token_urlsafe(24),
        name=wanted.name,
        preset=wanted.preset,
        definition=definition,
        secrets_encrypted=None if secret is None else seal(settings, [secret]),
        member_id=member_id,
    )
    shown = await _detail(session, source, settings, public_url)
    return SourceWithSecret(**dict(shown), secret=secret)


async def add_source(
    session: AsyncSession,
    *,
    source_key: str,
    name: str,
    preset: str | None,
    definition: SourceDefinition,
    secrets_encrypted: bytes | None,
    member_id: UUID | None = None,
) -> Source:
    """Add an active source with its first version."""
    version = first_version(definition, member_id=member_id)
    source = Source(
        source_key=source_key,
        name=name,
        preset=preset,
        status=SourceStatus.ACTIVE,
        secrets_encrypted=secrets_encrypted,
        version_id=version.id,
        subid_parameter=definition.subid_parameter,
    )
    session.add(source)
    await session.flush()
    version.source_id = source.id
    session.add(version)
    await session.flush()
    return source


async def list_sources(session: AsyncSession, *, limit: int, cursor: str | None) -> SourcePage:
    """Return sources by id. Raises InvalidCursorError."""
    statement = select(Source).order_by(Source.id).limit(limit + 1)
    if cursor is not None:
        (after,) = decode_cursor(cursor, int)
        statement = statement.where(Source.id > literal(after, BigInteger))
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    items = [SourceRead.model_validate(source) for source in rows]
    return SourcePage(items=items, next_cursor=encode_cursor(rows[-1].id) if more else None)


async def find_source(session: AsyncSession, source_id: int, *, lock: bool = False) -> Source:
    """Return a source. Raises SourceNotFoundError."""
    source = await session.get(Source, source_id, with_for_update=lock)
    if source is None:
        raise SourceNotFoundError(source_id)
    return source


async def get_source(session: AsyncSession, *, settings: Settings, public_url: str, source_id: int) -> SourceDetail:
    """Return a source with its address and definition. Raises SourceNotFoundError."""
    return await _detail(session, await find_source(session, source_id), settings, public_url)


async def change_source(session: AsyncSession, *, source_id: int, change: SourceChange) -> SourceRead:
    """Change the members that were sent. Raises SourceNotFoundError."""
    source = await find_source(session, source_id)
    for name, value in change.model_dump(exclude_unset=True).items():
        setattr(source, name, value)
    await session.flush()
    return SourceRead.model_validate(source)


async def define_source(
    session: AsyncSession,
    *,
    settings: Settings,
    public_url: str,
    source_id: int,
    definition: SourceDefinition,
    member_id: UUID | None,
) -> SourceWithSecret:
    """Make a definition the source's next version, and a secret if it needs one and has none.

    Raises SourceNotFoundError.
    """
    source = await find_source(session, source_id, lock=True)
    await add_version(session, source, definition, member_id=member_id)
    secret = None
    if definition.needs_secret and source.secrets_encrypted is None:
        secret = new_secret(definition)
        source.secrets_encrypted = seal(settings, [secret])
        await session.flush()
    return SourceWithSecret(**dict(await _detail(session, source, settings, public_url)), secret=secret)


async def list_versions(session: AsyncSession, *, source_id: int, limit: int, cursor: str | None) -> SourceVersionPage:
    """Return a source's versions, newest first. Raises SourceNotFoundError and InvalidCursorError."""
    await find_source(session, source_id)
    statement = (
        select(SourceVersion, StaffKey.name)
        .outerjoin(StaffKey, StaffKey.id == SourceVersion.created_by_id)
        .where(SourceVersion.source_id == source_id)
        .order_by(SourceVersion.number.desc())
        .limit(limit + 1)
    )
    if cursor is not None:
        (before,) = decode_cursor(cursor, int)
        statement = statement.where(SourceVersion.number < literal(before, BigInteger))
    rows, more = cut_page((await session.execute(statement)).all(), limit)
    items = [
        SourceVersionRead(
            number=version.number,
            definition=SourceDefinition.model_validate(version.definition),
            created_by=name,
            created_at=version.created_at,
        )
        for version, name in rows
    ]
    return SourceVersionPage(items=items, next_cursor=encode_cursor(items[-1].number) if more else None)


async def rotate_secret(
    session: AsyncSession, *, settings: Settings, public_url: str, source_id: int, wanted: SecretWrite
) -> SourceWithSecret:
    """Set a new secret; the newest before it stays valid, an older one mostly does not.

    Raises SourceNotFoundError, SourceUnsignedError and InvalidSecretError.
    """
    source, definition, live = await _lock_secrets(session, settings, source_id)
    secret = new_secret(definition) if wanted.secret is None else check_secret(definition, wanted.secret)
    others = [one for one in live if one != secret]
    source.secrets_encrypted = seal(settings, [secret, *others][: most_live(definition)])
    await session.flush()
    return SourceWithSecret(**dict(await _detail(session, source, settings, public_url)), secret=secret)


async def retire_old_secrets(
    session: AsyncSession, *, settings: Settings, public_url: str, source_id: int, keep: int
) -> SourceDetail:
    """Leave only the newest `keep` secrets valid. Raises SourceNotFoundError and SourceUnsignedError."""
    source, _, live = await _lock_secrets(session, settings, source_id)
    source.secrets_encrypted = seal(settings, live[:keep])
    await session.flush()
    return await _detail(session, source, settings, public_url)


async def _lock_secrets(
    session: AsyncSession, settings: Settings, source_id: int
) -> tuple[Source, SourceDefinition, list[str]]:
    # Locked: of two rotations at the same time neither may lose the other's secret unseen.
    source = await find_source(session, source_id, lock=True)
    definition = SourceDefinition.model_validate((await _version(session, source)).definition)
    if not definition.needs_secret or source.secrets_encrypted is None:
        raise SourceUnsignedError(source)
    return source, definition, unseal(settings, source.secrets_encrypted)


async def _version(session: AsyncSession, source: Source) -> SourceVersion:
    return await session.get_one(SourceVersion, source.version_id)


async def _detail(session: AsyncSession, source: Source, settings: Settings, public_url: str) -> SourceDetail:
    path = f"/v1/webhooks/{source.source_key}"
    version = await _version(session, source)
    definition = SourceDefinition.model_validate(version.definition)
    sealed = source.secrets_encrypted if definition.needs_secret else None
    return SourceDetail(
        **dict(SourceRead.model_validate(source)),
        webhook_path=path,
        webhook_url=f"{public_url}{path}",
        live_secrets=0 if sealed is None else len(unseal(settings, sealed)),
        version=version.number,
        definition=definition,
    )

"""Sources: who reports sales, under which unguessable address, signed with which secrets.

A signing secret is shown once and kept encrypted. Rotation keeps the one before valid beside the new one, so that
the sender may change over when it likes.
"""

import base64
import secrets

from sqlalchemy import BigInteger, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.errors import ConflictError, NotFoundError
from app.models import Source, SourceKind
from app.schemas.sources import SourceChange, SourceCreate, SourceDetail, SourcePage, SourceRead, SourceWithSecret
from app.services.pagination import cut_page, decode_cursor, encode_cursor
from app.services.secrets import seal, unseal

# Newest first, and no more than these are accepted.
_LIVE_SECRETS = 2
_SUBID_PARAMETERS = {SourceKind.DIRECT: "click_id", SourceKind.AWIN: "clickref"}


class SourceNotFoundError(NotFoundError):
    """No source has this id."""

    code = "source_not_found"
    title = "Source not found"

    def __init__(self, source_id: int) -> None:
        super().__init__(f"There is no source {source_id}.")


class SourceUnsignedError(ConflictError):
    """The source's kind signs nothing, so it has no secrets."""

    code = "source_unsigned"
    title = "Source without secrets"

    def __init__(self, source: Source) -> None:
        super().__init__(f"The source {source.id} is of kind {source.kind.value}, which signs nothing.")


async def create_source(
    session: AsyncSession, *, settings: Settings, public_url: str, wanted: SourceCreate
) -> SourceWithSecret:
    """Add an active source, with a signing secret where its kind signs."""
    secret = new_signing_secret() if wanted.kind is SourceKind.DIRECT else None
    source = Source(
        source_key=secrets.token_urlsafe(24),
        name=wanted.name,
        kind=wanted.kind,
        secrets_encrypted=None if secret is None else seal(settings, [secret]),
        subid_parameter=wanted.subid_parameter or _SUBID_PARAMETERS[wanted.kind],
    )
    session.add(source)
    await session.flush()
    return SourceWithSecret(**dict(_detail(source, settings, public_url)), secret=secret)


async def list_sources(session: AsyncSession, *, limit: int, cursor: str | None) -> SourcePage:
    """Return sources by id. Raises InvalidCursorError."""
    statement = select(Source).order_by(Source.id).limit(limit + 1)
    if cursor is not None:
        (after,) = decode_cursor(cursor, int)
        statement = statement.where(Source.id > literal(after, BigInteger))
    rows, more = cut_page((await session.scalars(statement)).all(), limit)
    items = [SourceRead.model_validate(source) for source in rows]
    return SourcePage(items=items, next_cursor=encode_cursor(rows[-1].id) if more else None)


async def get_source(session: AsyncSession, *, settings: Settings, public_url: str, source_id: int) -> SourceDetail:
    """Return a source with its address. Raises SourceNotFoundError."""
    return _detail(await _get(session, source_id), settings, public_url)


async def change_source(session: AsyncSession, *, source_id: int, change: SourceChange) -> SourceRead:
    """Change the members that were sent. Raises SourceNotFoundError."""
    source = await _get(session, source_id)
    for name, value in change.model_dump(exclude_unset=True).items():
        setattr(source, name, value)
    await session.flush()
    return SourceRead.model_validate(source)


async def rotate_secret(
    session: AsyncSession, *, settings: Settings, public_url: str, source_id: int
) -> SourceWithSecret:
    """Make a new signing secret; the newest before it stays valid, an older one does not.

    Raises SourceNotFoundError and SourceUnsignedError.
    """
    source, live = await _lock_secrets(session, settings, source_id)
    secret = new_signing_secret()
    source.secrets_encrypted = seal(settings, [secret, *live][:_LIVE_SECRETS])
    await session.flush()
    return SourceWithSecret(**dict(_detail(source, settings, public_url)), secret=secret)


async def retire_old_secret(
    session: AsyncSession, *, settings: Settings, public_url: str, source_id: int
) -> SourceDetail:
    """Leave only the newest signing secret valid. Raises SourceNotFoundError and SourceUnsignedError."""
    source, live = await _lock_secrets(session, settings, source_id)
    source.secrets_encrypted = seal(settings, live[:1])
    await session.flush()
    return _detail(source, settings, public_url)


def new_signing_secret() -> str:
    """Return a Standard Webhooks secret: `whsec_` and 32 random bytes in base64."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


async def _get(session: AsyncSession, source_id: int, *, lock: bool = False) -> Source:
    source = await session.get(Source, source_id, with_for_update=lock)
    if source is None:
        raise SourceNotFoundError(source_id)
    return source


async def _lock_secrets(session: AsyncSession, settings: Settings, source_id: int) -> tuple[Source, list[str]]:
    # Locked: of two rotations at the same time neither may lose the other's secret unseen.
    source = await _get(session, source_id, lock=True)
    if source.secrets_encrypted is None:
        raise SourceUnsignedError(source)
    return source, unseal(settings, source.secrets_encrypted)


def _detail(source: Source, settings: Settings, public_url: str) -> SourceDetail:
    path = f"/v1/webhooks/{source.source_key}"
    live = 0 if source.secrets_encrypted is None else len(unseal(settings, source.secrets_encrypted))
    shown = SourceRead.model_validate(source)
    return SourceDetail(**dict(shown), webhook_path=path, webhook_url=f"{public_url}{path}", live_secrets=live)

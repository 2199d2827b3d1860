"""Keys of members of staff: made, listed, rotated, revoked. No key makes one that may do more than itself."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ConflictError, ForbiddenError, NotFoundError
from app.models import StaffKey, StaffMember, StaffRole, StaffScope
from app.schemas.staff import StaffKeyCreate, StaffKeyMade, StaffKeyPage, StaffKeyRead, StaffKeyRotate
from app.services.api_keys import expiry, make_key
from app.services.pagination import newest_first
from app.services.staff.access import KIND, find_member


class StaffKeyNotFoundError(NotFoundError):
    """No staff key has this id."""

    code = "staff_key_not_found"
    title = "Staff key not found"

    def __init__(self, key_id: UUID) -> None:
        super().__init__(f"There is no staff key {key_id}.")


class StaffKeyTooPowerfulError(ForbiddenError):
    """A key would be made, or shown anew, that may do more than the one that asks."""

    code = "staff_key_too_powerful"
    title = "More than your own key may do"

    def __init__(self) -> None:
        super().__init__("A key can only be given a role and scopes that the key which makes it has itself.")


class StaffKeyEndedError(ConflictError):
    """An ended key is not rotated."""

    code = "staff_key_ended"
    title = "Key has ended"

    def __init__(self, key: StaffKey) -> None:
        super().__init__(f"The key {key.prefix} is revoked or expired; make another one.")


class LastAdminKeyError(ConflictError):
    """Without this key nobody could make keys any more."""

    code = "last_admin_key"
    title = "Last admin key"

    def __init__(self) -> None:
        super().__init__(
            "This is the last key that may make keys and does not expire within a day; make another first."
        )


async def create_key(
    session: AsyncSession,
    *,
    name: str,
    role: StaffRole,
    scopes: Sequence[StaffScope] | None = None,
    expires_at: datetime | None = None,
    created_by_id: UUID | None = None,
) -> tuple[StaffKey, str]:
    """Make a key of the member of a name; returns its row and the key itself, which cannot be had again."""
    made = make_key(KIND)
    member = await find_member(session, name)
    row = StaffKey(
        member_id=member.id,
        name=member.name,
        role=role,
        scopes=None if scopes is None else sorted(set(scopes)),
        prefix=made.prefix,
        key_hash=made.key_hash,
        expires_at=expires_at,
        created_by_id=created_by_id,
    )
    session.add(row)
    await session.flush()
    return row, made.key


async def create_by(session: AsyncSession, *, creator: StaffKey, wanted: StaffKeyCreate) -> StaffKeyMade:
    """Make a key by the word of a member of staff. Raises StaffKeyTooPowerfulError."""
    scopes = None if wanted.scopes is None else list(wanted.scopes)
    _require_not_more(creator, wanted.role, scopes)
    row, key = await create_key(
        session,
        name=wanted.member,
        role=wanted.role,
        scopes=scopes,
        expires_at=expiry(wanted.valid_days),
        created_by_id=creator.id,
    )
    return await _made(session, row, key)


async def rotate(session: AsyncSession, *, by: StaffKey, key_id: UUID, wanted: StaffKeyRotate) -> StaffKeyMade:
    """Give a member a new key in place of one, which ends at once. Its holder counts as known to whoever rotates it.

    Raises StaffKeyNotFoundError, StaffKeyEndedError, StaffKeyTooPowerfulError and LastAdminKeyError.
    """
    keys = await _lock(session, key_id)
    old = keys[key_id]
    if not _lives(old):
        raise StaffKeyEndedError(old)
    scopes = None if old.scopes is None else [StaffScope(scope) for scope in old.scopes]
    _require_not_more(by, old.role, scopes)
    row, key = await create_key(
        session,
        name=old.name,
        role=old.role,
        scopes=scopes,
        expires_at=expiry(wanted.valid_days),
        created_by_id=by.id,
    )
    old.revoked_at = datetime.now(UTC)
    _require_an_admin([*keys.values(), row], changed=old)
    await session.flush()
    return await _made(session, row, key)


async def revoke(session: AsyncSession, *, key_id: UUID) -> StaffKeyRead:
    """End a key at once; one that has ended stays as it is. Raises StaffKeyNotFoundError and LastAdminKeyError."""
    keys = await _lock(session, key_id)
    row = keys[key_id]
    if row.revoked_at is None:
        was_alive, row.revoked_at = _lives(row), datetime.now(UTC)
        if was_alive:
            _require_an_admin(list(keys.values()), changed=row)
        await session.flush()
    return StaffKeyRead.model_validate(row)


async def list_keys(
    session: AsyncSession, *, limit: int, cursor: str | None, member: str | None = None, active: bool | None = None
) -> StaffKeyPage:
    """Return keys, newest first, without secrets. Raises InvalidCursorError."""
    statement = select(StaffKey)
    if member is not None:
        members = select(StaffMember.id).where(func.lower(StaffMember.name) == func.lower(member))
        statement = statement.where(StaffKey.member_id.in_(members))
    if active is not None:
        lives = StaffKey.revoked_at.is_(None) & or_(StaffKey.expires_at.is_(None), StaffKey.expires_at > func.now())
        statement = statement.where(lives if active else ~lives)
    rows, next_cursor = await newest_first(session, statement, StaffKey.id, limit=limit, cursor=cursor)
    items = [StaffKeyRead.model_validate(row) for row in rows]
    return StaffKeyPage(items=items, next_cursor=next_cursor)


async def _made(session: AsyncSession, row: StaffKey, key: str) -> StaffKeyMade:
    await session.refresh(row)
    return StaffKeyMade(**dict(StaffKeyRead.model_validate(row)), key=key)


async def _lock(session: AsyncSession, key_id: UUID) -> dict[UUID, StaffKey]:
    """Lock a key and all that may make keys, in one order: of two admins who revoke each other one is refused."""
    rows = await session.scalars(
        select(StaffKey)
        .where(or_(StaffKey.id == key_id, (StaffKey.role == StaffRole.ADMIN) & StaffKey.revoked_at.is_(None)))
        .order_by(StaffKey.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    keys = {row.id: row for row in rows}
    if key_id not in keys:
        raise StaffKeyNotFoundError(key_id)
    return keys


def _lives(key: StaffKey) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > datetime.now(UTC))


def _makes_keys(key: StaffKey) -> bool:
    return key.role is StaffRole.ADMIN and (key.scopes is None or StaffScope.STAFF_MANAGE in key.scopes)


def _require_an_admin(keys: Sequence[StaffKey], *, changed: StaffKey) -> None:
    tomorrow = expiry(1)
    lasting = [key for key in keys if _lives(key) and _makes_keys(key)]
    if _makes_keys(changed) and not any(
        key.expires_at is None or tomorrow is None or key.expires_at > tomorrow for key in lasting
    ):
        raise LastAdminKeyError


def _require_not_more(creator: StaffKey, role: StaffRole, scopes: Sequence[StaffScope] | None) -> None:
    if role.rank > creator.role.rank:
        raise StaffKeyTooPowerfulError
    if creator.scopes is not None and (scopes is None or not set(scopes) <= set(creator.scopes)):
        raise StaffKeyTooPowerfulError

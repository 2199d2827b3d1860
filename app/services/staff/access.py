"""Who a staff key is, and whether it may do what is asked."""

from uuid import UUID

from sqlalchemy import func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ForbiddenError, UnauthorizedError
from app.ids import new_id
from app.models import StaffKey, StaffMember, StaffRole, StaffScope
from app.services.api_keys import holds, note_use, read_prefix

KIND = "cbk"


class InvalidStaffKeyError(UnauthorizedError):
    """No staff key, or one that is unknown, expired or revoked."""

    code = "invalid_staff_key"
    title = "Invalid staff credential"

    def __init__(self) -> None:
        super().__init__("Send a valid staff key as 'Authorization: Bearer cbk_...' or 'X-API-Key: cbk_...'.")


class StaffRoleRequiredError(ForbiddenError):
    """The key is valid, but its role may not do this."""

    code = "staff_role_required"
    title = "Role too low"

    def __init__(self, required: StaffRole, held: StaffRole) -> None:
        super().__init__(f"This needs the role {required.value} or above; the key has {held.value}.")


class StaffScopeRequiredError(ForbiddenError):
    """The key is valid and its role would do, but it was made for less."""

    code = "staff_scope_required"
    title = "Out of the key's scopes"

    def __init__(self, required: StaffScope | None) -> None:
        needed = f"the scope {required.value}" if required else "a key that is not limited to scopes"
        super().__init__(f"This needs {needed}.")


async def authenticate(session: AsyncSession, key: str) -> StaffKey:
    """Return the row of a valid key, and note its use. Raises InvalidStaffKeyError."""
    prefix = read_prefix(KIND, key)
    if prefix is None:
        raise InvalidStaffKeyError
    row = await session.scalar(select(StaffKey).where(StaffKey.prefix == prefix))
    if row is None or not holds(row, key):
        raise InvalidStaffKeyError
    if row.member_id is None:
        row.member_id = (await find_member(session, row.name)).id
    await note_use(session, row)
    return row


def require_role(key: StaffKey, required: StaffRole) -> StaffKey:
    """Return the key when its role is enough. Raises StaffRoleRequiredError."""
    if key.role.rank < required.rank:
        raise StaffRoleRequiredError(required, key.role)
    return key


def require(key: StaffKey, role: StaffRole, scope: StaffScope | None) -> StaffKey:
    """Return the key when it may do what needs a role and a scope; what has no scope needs a key without limits.

    Raises StaffRoleRequiredError and StaffScopeRequiredError.
    """
    require_role(key, role)
    if key.scopes is not None and (scope is None or scope not in key.scopes):
        raise StaffScopeRequiredError(scope)
    return key


async def find_member(session: AsyncSession, name: str) -> StaffMember:
    """Return the member of a name, whatever its case; a new one when there is none."""
    by_name = select(StaffMember).where(func.lower(StaffMember.name) == func.lower(name))
    member = await session.scalar(by_name)
    if member is None:
        await session.execute(insert(StaffMember).values(id=new_id(), name=name).on_conflict_do_nothing())
        member = (await session.scalars(by_name)).one()
    return member


async def one_person(session: AsyncSession, first_id: UUID, second_id: UUID) -> bool:
    """Tell whether two keys may be in one person's hands: of one member, or one made with a key of the other.

    However many keys lie between: whoever makes a key sees it, and so could use it.
    """
    first, second = await _hands(session, first_id), await _hands(session, second_id)
    return first[0] in second or second[0] in first


async def _hands(session: AsyncSession, key_id: UUID) -> list[UUID | None]:
    """Return the member of a key, and then those of the keys that it was made with."""
    own = select(StaffKey.member_id, StaffKey.created_by_id, literal(0).label("depth")).where(StaffKey.id == key_id)
    line = own.cte("line", recursive=True)
    maker = select(StaffKey.member_id, StaffKey.created_by_id, line.c.depth + 1).join(
        line, StaffKey.id == line.c.created_by_id
    )
    whole = line.union_all(maker)
    return list((await session.scalars(select(whole.c.member_id).order_by(whole.c.depth))).all())

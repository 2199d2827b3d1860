"""Staff API keys: made once, shown once, kept as a hash.

A key is `cbk_<prefix>_<secret>`. The secret has 256 random bits, so a plain SHA-256 is a sound way to keep it.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import ForbiddenError, UnauthorizedError
from app.models import StaffKey, StaffRole


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


async def create_key(
    session: AsyncSession, *, name: str, role: StaffRole, expires_at: datetime | None = None
) -> tuple[StaffKey, str]:
    """Make a key; returns its row and the key itself, which cannot be had again."""
    prefix = secrets.token_hex(4)
    secret = secrets.token_urlsafe(32)
    row = StaffKey(name=name, role=role, prefix=prefix, key_hash=_digest(secret), expires_at=expires_at)
    session.add(row)
    await session.flush()
    return row, f"cbk_{prefix}_{secret}"


async def authenticate(session: AsyncSession, key: str) -> StaffKey:
    """Return the row of a valid key. Raises InvalidStaffKeyError."""
    parts = key.split("_", 2)
    if len(parts) != 3 or parts[0] != "cbk" or not parts[1].isalnum():
        raise InvalidStaffKeyError
    row = await session.scalar(select(StaffKey).where(StaffKey.prefix == parts[1]))
    if row is None or not hmac.compare_digest(row.key_hash, _digest(parts[2])):
        raise InvalidStaffKeyError
    now = datetime.now(UTC)
    if row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
        raise InvalidStaffKeyError
    return row


def require_role(key: StaffKey, required: StaffRole) -> StaffKey:
    """Return the key when its role is enough. Raises StaffRoleRequiredError."""
    if key.role.rank < required.rank:
        raise StaffRoleRequiredError(required, key.role)
    return key


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()

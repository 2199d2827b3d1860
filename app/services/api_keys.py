"""API keys: `<kind>_<prefix>_<secret>`, made once, shown once, kept as a hash.

The secret has 256 random bits, so a plain SHA-256 is a sound way to keep it.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.models import MerchantKey, StaffKey

# How exactly it is known when a key was used last.
_USE_NOTED_EVERY = timedelta(minutes=1)


class HashedKey(Protocol):
    """What a kept key is judged by."""

    key_hash: bytes
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key as it is shown once, and what is kept of it."""

    key: str
    prefix: str
    key_hash: bytes


def make_key(kind: str) -> NewKey:
    """Make a key of a kind, such as `cbk`."""
    prefix, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
    return NewKey(f"{kind}_{prefix}_{secret}", prefix, _digest(secret))


def read_prefix(kind: str, key: str) -> str | None:
    """Return the prefix in a key, None for what is no key of the kind."""
    parts = key.split("_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == kind and parts[1].isalnum() else None


def holds(row: HashedKey, key: str) -> bool:
    """Tell whether a key is the row's, and neither expired nor revoked."""
    if not hmac.compare_digest(row.key_hash, _digest(key.split("_", 2)[2])):
        return False
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > datetime.now(UTC))


async def note_use(session: AsyncSession, row: StaffKey | MerchantKey) -> None:
    """Note that a key is in use: at most once a minute, and never waiting for another request that notes it."""
    now = datetime.now(UTC)
    if row.last_used_at is not None and row.last_used_at > now - _USE_NOTED_EVERY:
        return
    model = type(row)
    free = (
        select(model.id)
        .where(model.id == row.id, or_(model.last_used_at.is_(None), model.last_used_at <= now - _USE_NOTED_EVERY))
        .with_for_update(skip_locked=True, key_share=True)
    )
    statement = update(model).where(model.id.in_(free)).values(last_used_at=now)
    await session.execute(statement.execution_options(synchronize_session=False))


def expiry(valid_days: int | None) -> datetime | None:
    """Return when a key that is valid for so many days from now on expires; None: never."""
    return None if valid_days is None else datetime.now(UTC) + timedelta(days=valid_days)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()

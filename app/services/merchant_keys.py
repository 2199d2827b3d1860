"""Keys of merchants: made by staff, shown once, read-only."""

from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFoundError, UnauthorizedError
from app.models import Merchant, MerchantKey
from app.schemas.merchant_keys import MerchantKeyCreate, MerchantKeyMade, MerchantKeyPage, MerchantKeyRead
from app.services.api_keys import expiry, holds, make_key, note_use, read_prefix
from app.services.catalogue import MerchantNotFoundError
from app.services.pagination import newest_first

KIND = "cbm"


class InvalidMerchantKeyError(UnauthorizedError):
    """No merchant key, or one that is unknown, expired or revoked."""

    code = "invalid_merchant_key"
    title = "Invalid merchant credential"

    def __init__(self) -> None:
        super().__init__("Send a valid merchant key as 'Authorization: Bearer cbm_...' or 'X-API-Key: cbm_...'.")


class MerchantKeyNotFoundError(NotFoundError):
    """The merchant has no key with this id."""

    code = "merchant_key_not_found"
    title = "Merchant key not found"

    def __init__(self, merchant_id: int, key_id: UUID) -> None:
        super().__init__(f"The merchant {merchant_id} has no key {key_id}.")


async def authenticate(session: AsyncSession, key: str) -> MerchantKey:
    """Return the row of a valid key, and note its use. Raises InvalidMerchantKeyError."""
    prefix = read_prefix(KIND, key)
    if prefix is None:
        raise InvalidMerchantKeyError
    row = await session.scalar(select(MerchantKey).where(MerchantKey.prefix == prefix))
    if row is None or not holds(row, key):
        raise InvalidMerchantKeyError
    await note_use(session, row)
    return row


async def create_key(
    session: AsyncSession, *, merchant_id: int, wanted: MerchantKeyCreate, member_id: UUID
) -> MerchantKeyMade:
    """Make a key of a merchant. Raises MerchantNotFoundError."""
    if await session.get(Merchant, merchant_id) is None:
        raise MerchantNotFoundError(merchant_id)
    made = make_key(KIND)
    row = MerchantKey(
        merchant_id=merchant_id,
        name=wanted.name,
        prefix=made.prefix,
        key_hash=made.key_hash,
        expires_at=expiry(wanted.valid_days),
        created_by_id=member_id,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return MerchantKeyMade(**dict(MerchantKeyRead.model_validate(row)), key=made.key)


async def list_keys(session: AsyncSession, *, merchant_id: int, limit: int, cursor: str | None) -> MerchantKeyPage:
    """Return a merchant's keys, newest first. Raises MerchantNotFoundError and InvalidCursorError."""
    if await session.get(Merchant, merchant_id) is None:
        raise MerchantNotFoundError(merchant_id)
    statement = select(MerchantKey).where(MerchantKey.merchant_id == merchant_id)
    rows, next_cursor = await newest_first(session, statement, MerchantKey.id, limit=limit, cursor=cursor)
    items = [MerchantKeyRead.model_validate(row) for row in rows]
    return MerchantKeyPage(items=items, next_cursor=next_cursor)


async def revoke(session: AsyncSession, *, merchant_id: int, key_id: UUID) -> MerchantKeyRead:
    """End a key at once; one that has ended stays as it is. Raises MerchantKeyNotFoundError."""
    row = await session.get(MerchantKey, key_id, with_for_update={"key_share": True})
    if row is None or row.merchant_id != merchant_id:
        raise MerchantKeyNotFoundError(merchant_id, key_id)
    row.revoked_at = row.revoked_at or datetime.now(UTC)
    await session.flush()
    return MerchantKeyRead.model_validate(row)

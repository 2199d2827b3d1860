"""One-time tokens and codes: random, kept as hashes, good once, for one purpose, and for the address they were sent to.

A token is 256 random bits in a link. A code is six digits that a person types, so it allows few tries and few minutes,
and only its customer may try it.
"""

import hashlib
import hmac
import secrets
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.errors import AppError, ForbiddenError
from app.ids import new_id
from app.models import OneTimePurpose, OneTimeToken
from app.services.secrets import keyed_hash

CODE_LASTS = timedelta(minutes=10)
MOST_TRIES = 5


class InvalidOneTimeTokenError(AppError):
    """A one-time token that is unknown, used, expired, or for something else."""

    status_code = 400
    code = "invalid_one_time_token"
    title = "Invalid token"

    def __init__(self) -> None:
        super().__init__("The token is not valid, or not any more; ask for a new one.")


class InvalidCodeError(ForbiddenError):
    """A code that is wrong, used, expired, or was tried too often."""

    code = "invalid_code"
    title = "Invalid code"

    def __init__(self) -> None:
        super().__init__("The code is wrong, or not valid any more; ask for a new one.")


async def issue(
    session: AsyncSession,
    *,
    customer_id: UUID | None,
    purpose: OneTimePurpose,
    lasts: timedelta,
    address: str | None = None,
) -> str:
    """Return a new token, such as `cbo_...`. Older ones stay good until one of them is used: mails overtake others."""
    token = f"cbo_{secrets.token_urlsafe(32)}"
    session.add(
        OneTimeToken(
            customer_id=customer_id,
            purpose=purpose,
            address=address,
            token_hash=digest(token),
            expires_at=datetime.now(UTC) + lasts,
        )
    )
    await session.flush()
    return token


async def look_up(session: AsyncSession, *, purpose: OneTimePurpose, token: str) -> OneTimeToken:
    """Return what a good token was issued for, and leave it good. Raises InvalidOneTimeTokenError."""
    found = await session.scalar(
        select(OneTimeToken).where(
            OneTimeToken.token_hash == digest(token),
            OneTimeToken.purpose == purpose,
            OneTimeToken.used_at.is_(None),
            OneTimeToken.expires_at > datetime.now(UTC),
        )
    )
    if found is None:
        raise InvalidOneTimeTokenError
    return found


async def redeem(session: AsyncSession, *, purpose: OneTimePurpose, token_hash: bytes) -> OneTimeToken:
    """Use a token up, with all others of its customer for this purpose. Raises InvalidOneTimeTokenError."""
    now = datetime.now(UTC)
    # One statement: of two that come with one token at once, one finds it unused.
    used = await session.scalar(
        update(OneTimeToken)
        .where(
            OneTimeToken.token_hash == token_hash,
            OneTimeToken.purpose == purpose,
            OneTimeToken.used_at.is_(None),
            OneTimeToken.expires_at > now,
        )
        .values(used_at=now)
        .returning(OneTimeToken)
        .execution_options(populate_existing=True)
    )
    if used is None:
        raise InvalidOneTimeTokenError
    if used.customer_id is not None:
        await cancel(session, customer_id=used.customer_id, purpose=purpose)
    return used


async def cancel(session: AsyncSession, *, customer_id: UUID, purpose: OneTimePurpose | None = None) -> None:
    """Delete the unused tokens that a customer has for a purpose, or all of the customer's."""
    statement = delete(OneTimeToken).where(OneTimeToken.customer_id == customer_id)
    if purpose is not None:
        statement = statement.where(OneTimeToken.purpose == purpose, OneTimeToken.used_at.is_(None))
    await session.execute(statement.execution_options(synchronize_session=False))


async def issue_code(
    session: AsyncSession, settings: Settings, *, customer_id: UUID, purpose: OneTimePurpose, address: str
) -> str:
    """Return a new code of six digits; the one before it is good no longer."""
    await cancel(session, customer_id=customer_id, purpose=purpose)
    code, code_id = f"{secrets.randbelow(1_000_000):06}", new_id()
    session.add(
        OneTimeToken(
            id=code_id,
            customer_id=customer_id,
            purpose=purpose,
            address=address,
            token_hash=_code_hash(settings, code_id, code),
            expires_at=datetime.now(UTC) + CODE_LASTS,
        )
    )
    await session.flush()
    return code


async def redeem_code(settings: Settings, *, customer_id: UUID, purpose: OneTimePurpose, code: str) -> str:
    """Use a code up and return the address it was sent to. Opens its transaction itself: a wrong try counts for good.

    Raises InvalidCodeError.
    """
    now = datetime.now(UTC)
    async with transaction() as session:
        found = await session.scalar(
            select(OneTimeToken)
            .where(
                OneTimeToken.customer_id == customer_id,
                OneTimeToken.purpose == purpose,
                OneTimeToken.used_at.is_(None),
                OneTimeToken.expires_at > now,
                OneTimeToken.tries < MOST_TRIES,
            )
            .order_by(OneTimeToken.id.desc())
            .limit(1)
            .with_for_update()
        )
        right = found is not None and hmac.compare_digest(found.token_hash, _code_hash(settings, found.id, code))
        if found is not None:
            found.tries += 1
            found.used_at = now if right else None
    if found is None or not right or found.address is None:
        raise InvalidCodeError
    return found.address


async def forget_expired(session: AsyncSession, *, limit: int) -> int:
    """Delete up to `limit` expired tokens, used or not; returns how many."""
    over = select(OneTimeToken.id).where(OneTimeToken.expires_at < datetime.now(UTC)).limit(limit)
    deleted = await session.scalars(
        delete(OneTimeToken).where(OneTimeToken.id.in_(over.scalar_subquery())).returning(OneTimeToken.id)
    )
    return len(deleted.all())


def digest(token: str) -> bytes:
    """Return what a token is kept as: 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode()).digest()


def _code_hash(settings: Settings, code_id: UUID, code: str) -> bytes:
    # A million codes are tried in no time by whoever has the hash, but not without the key.
    return keyed_hash(settings, "one-time-code", str(code_id), code)

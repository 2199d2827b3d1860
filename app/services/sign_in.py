"""Signing in: passwords and refresh tokens for access tokens, and taking refresh tokens back.

Each refresh token is good for one use. All that descend from one sign-in are a family; when a used one comes back,
one of its two holders is a thief, and the whole family ends (RFC 9700, section 4.14.2). Access tokens ask no database
and are good until they expire, also after their family ended; a closed account is refused at once all the same.

The functions here open their transactions themselves. Between looking up a customer and recording a sign-in argon2
works for long, and no connection may wait for it; and ending a family has to be committed although the answer is an
error, which would roll a request's own transaction back.
"""

import hashlib
import logging
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pydantic import SecretStr
from sqlalchemy import ColumnElement, Select, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.errors import AppError, UnauthorizedError
from app.ids import new_id
from app.models import Customer, CustomerStatus, RefreshToken
from app.schemas.customers import GrantType, TokenRequest
from app.services.passwords import Passwords
from app.services.sign_in_throttle import SignInThrottle
from app.services.tokens import InvalidAccessTokenError, issue_access_token, verify_access_token

logger = logging.getLogger(__name__)


class InvalidCredentialsError(UnauthorizedError):
    """No open account has this address and password; which of the two is wrong is not said."""

    code = "invalid_credentials"
    title = "Invalid credentials"

    def __init__(self) -> None:
        super().__init__("The e-mail address or the password is wrong.")
        self.members = oauth_error("invalid_grant", self.detail)


class InvalidGrantError(AppError):
    """A refresh token that is unknown, used, expired or revoked (RFC 6749, section 5.2)."""

    status_code = 400
    code = "invalid_grant"
    title = "Invalid grant"

    def __init__(self) -> None:
        super().__init__("The refresh token is not valid, or not any more; sign in again.")
        self.members = oauth_error("invalid_grant", self.detail)


def oauth_error(error: str, description: str) -> dict[str, str]:
    """Return the members by which OAuth clients know an error (RFC 6749, section 5.2), for a problem to carry too."""
    return {"error": error, "error_description": description}


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a successful grant gives. `expires_in` counts seconds, of the access token."""

    access_token: str
    refresh_token: str
    expires_in: int


async def grant_tokens(
    settings: Settings, passwords: Passwords, throttle: SignInThrottle, *, request: TokenRequest, caller: str
) -> Tokens:
    """Answer a token request.

    Passwords are counted by the caller's address and by the account they are tried on, whether it exists or not.
    Refresh tokens are not: they cannot be guessed, and who asked first must not depend on a counter.

    Raises InvalidCredentialsError, InvalidGrantError, PasswordQueueFullError and RateLimitedError.
    """
    match request:
        case TokenRequest(grant_type=GrantType.PASSWORD, username=str(email), password=SecretStr() as password):
            await throttle.admit(email=email, caller=caller)
            tokens = await sign_in(settings, passwords, email=email, password=password.get_secret_value())
            await throttle.welcome(email=email, caller=caller)
            return tokens
        case TokenRequest(grant_type=GrantType.REFRESH_TOKEN, refresh_token=SecretStr() as token):
            return await refresh(settings, refresh_token=token.get_secret_value())
        case _:
            raise AssertionError("the schema let a request without its grant's members pass")


async def sign_in(settings: Settings, passwords: Passwords, *, email: str, password: str) -> Tokens:
    """Begin a family. Frozen customers may sign in, closed ones not. Raises InvalidCredentialsError."""
    async with transaction() as session:
        customer = await session.scalar(Customer.by_email(unicodedata.normalize("NFC", email)))
    kept = customer.password_hash if customer else None
    # Also for an address without an account, so that the time of the answer does not tell.
    if not await passwords.verify(password, kept) or customer is None or kept is None:
        raise InvalidCredentialsError
    renewed = await passwords.hash(password) if passwords.is_outdated(kept) else kept
    async with transaction() as session:
        current = await session.get_one(Customer, customer.id, with_for_update={"key_share": True})
        if current.password_hash != kept:  # closed or changed while argon2 worked
            raise InvalidCredentialsError
        current.password_hash = renewed
        return await _issue(session, settings, customer_id=current.id, family_id=new_id())


async def refresh(settings: Settings, *, refresh_token: str) -> Tokens:
    """Use a refresh token up and continue its family. Raises InvalidGrantError."""
    asked_at = datetime.now(UTC)
    async with transaction() as session:
        tokens = await _rotate(session, settings, refresh_token=refresh_token, asked_at=asked_at)
    if tokens is None:
        raise InvalidGrantError
    return tokens


async def revoke(settings: Settings, *, token: str) -> None:
    """End the family of a refresh or access token; do nothing for any other text (RFC 7009, section 2.2)."""
    async with transaction() as session:
        found = await session.scalar(_by_token(token))
        if found is not None:
            customer_id, family_id = found.customer_id, found.family_id
        else:
            try:
                access = verify_access_token(settings, token)
            except InvalidAccessTokenError:
                return
            customer_id, family_id = access.customer_id, access.family_id
        await session.execute(select(Customer.id).where(Customer.id == customer_id).with_for_update(key_share=True))
        await end_families(session, RefreshToken.family_id == family_id)


async def end_families(session: AsyncSession, which: ColumnElement[bool]) -> int:
    """Revoke the refresh tokens that are chosen; returns how many were good until now.

    Lock the customer's row before: a refresh that is under way holds it, and the token that it makes must be seen.
    """
    revoked = await session.scalars(
        update(RefreshToken)
        .where(which, RefreshToken.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
        .returning(RefreshToken.id)
    )
    return len(revoked.all())


async def forget_expired(session: AsyncSession, *, limit: int = 10_000) -> int:
    """Delete up to `limit` expired refresh tokens; returns how many. Till then, a used one can betray a thief."""
    expired = select(RefreshToken.id).where(RefreshToken.expires_at < datetime.now(UTC)).limit(limit)
    deleted = await session.scalars(
        delete(RefreshToken).where(RefreshToken.id.in_(expired.scalar_subquery())).returning(RefreshToken.id)
    )
    return len(deleted.all())


async def _rotate(
    session: AsyncSession, settings: Settings, *, refresh_token: str, asked_at: datetime
) -> Tokens | None:
    """Return new tokens, or None when the token is refused."""
    # Whatever changes a customer's families locks the customer first: requests that race for one token queue here,
    # and a family that is being ended cannot grow. (Rows that refer to the customer may be inserted meanwhile.)
    customer = await session.scalar(
        select(Customer)
        .join(RefreshToken, RefreshToken.customer_id == Customer.id)
        .where(RefreshToken.token_hash == _digest(refresh_token))
        .with_for_update(of=Customer, key_share=True)
    )
    # A statement of its own, as one that began before the lock was had would not see what the one before us did.
    token = await session.scalar(_by_token(refresh_token))
    if customer is None or token is None:
        return None
    now = datetime.now(UTC)
    if token.used_at is not None:
        # One who asked before the token was used lost a race against the same client (two tabs, a hasty retry), and
        # is merely refused. One who asks after it is a thief, or has been robbed.
        if token.used_at <= asked_at and await end_families(session, RefreshToken.family_id == token.family_id):
            logger.warning(
                "a used refresh token came back; its family is revoked",
                extra={"customer_id": str(customer.id), "family_id": str(token.family_id)},
            )
        return None
    if token.revoked_at is not None or token.expires_at <= now or customer.status is CustomerStatus.CLOSED:
        return None
    token.used_at = now
    return await _issue(session, settings, customer_id=customer.id, family_id=token.family_id)


async def _issue(session: AsyncSession, settings: Settings, *, customer_id: UUID, family_id: UUID) -> Tokens:
    # The prefix lets scanners of repositories and logs recognise a leaked token.
    refresh_token = f"cbr_{secrets.token_urlsafe(32)}"
    session.add(
        RefreshToken(
            customer_id=customer_id,
            family_id=family_id,
            token_hash=_digest(refresh_token),
            expires_at=datetime.now(UTC) + timedelta(seconds=settings.refresh_token_seconds),
        )
    )
    await session.flush()
    return Tokens(
        access_token=issue_access_token(settings, customer_id=customer_id, family_id=family_id),
        refresh_token=refresh_token,
        expires_in=settings.access_token_seconds,
    )


def _by_token(token: str) -> Select[RefreshToken]:
    return select(RefreshToken).where(RefreshToken.token_hash == _digest(token))


def _digest(token: str) -> bytes:
    # 256 random bits need no slow hash.
    return hashlib.sha256(token.encode()).digest()

"""Signing in: passwords and refresh tokens for access tokens, and taking refresh tokens back.

Each refresh token is good for one use. All that descend from one sign-in are a family; when a used one comes back,
one of its two holders is a thief, and the whole family ends with its session (RFC 9700, section 4.14.2). Within
`refresh_grace_seconds` of its use it is answered with the same successor instead: a client that refreshed twice at once
has both answers alike, and its lineage stays one.

The functions here open their transactions themselves. Between looking up a customer and recording a sign-in argon2
works for long, and no connection may wait for it; and ending a family has to be committed although the answer is an
error, which would roll a request's own transaction back.
"""

import base64
import hashlib
import logging
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography.fernet import Fernet
from sqlalchemy import Select, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.errors import AppError, UnauthorizedError
from app.ids import new_id
from app.models import Customer, CustomerSession, CustomerStatus, RefreshToken, SignInMethod
from app.services.passwords import Passwords
from app.services.sessions import Device, end_sessions, lock_customer
from app.services.signing_keys import Key
from app.services.tokens import AccessTokens, InvalidAccessTokenError, issue_access_token

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


async def sign_in(
    settings: Settings, key: Key, passwords: Passwords, *, email: str, password: str, device: Device
) -> Tokens:
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
        return await begin(session, settings, key, customer_id=current.id, device=device, method=SignInMethod.PASSWORD)


async def begin(
    session: AsyncSession, settings: Settings, key: Key, *, customer_id: UUID, device: Device, method: SignInMethod
) -> Tokens:
    """Begin a session and its family for a customer whose row the caller has locked."""
    lasts = CustomerSession(
        id=new_id(),
        customer_id=customer_id,
        method=method,
        device_label=device.label,
        user_agent=device.shown_user_agent,
        expires_at=_refresh_until(settings, datetime.now(UTC)),
    )
    session.add(lasts)
    return await _issue(session, settings, key, lasts=lasts, refresh_token=_new_refresh_token())


async def refresh(settings: Settings, key: Key, *, refresh_token: str, device: Device) -> Tokens:
    """Use a refresh token up and continue its family. Raises InvalidGrantError."""
    asked_at = datetime.now(UTC)
    async with transaction() as session:
        tokens = await _rotate(session, settings, key, refresh_token=refresh_token, asked_at=asked_at, device=device)
    if tokens is None:
        raise InvalidGrantError
    return tokens


async def revoke(access_tokens: AccessTokens, *, token: str) -> None:
    """End the session of a refresh or access token; do nothing for any other text (RFC 7009, section 2.2)."""
    async with transaction() as session:
        found = await session.scalar(_by_token(token))
    if found is not None:
        customer_id, session_id = found.customer_id, found.family_id
    else:
        try:
            access = await access_tokens.verify(token)
        except InvalidAccessTokenError:
            return
        customer_id, session_id = access.customer_id, access.session_id
    async with transaction() as session:
        await lock_customer(session, customer_id)
        await end_sessions(session, customer_id=customer_id, only=session_id)


async def forget_expired(session: AsyncSession, *, limit: int = 10_000) -> int:
    """Delete up to `limit` expired refresh tokens; returns how many. Till then, a used one can betray a thief."""
    expired = select(RefreshToken.id).where(RefreshToken.expires_at < datetime.now(UTC)).limit(limit)
    deleted = await session.scalars(
        delete(RefreshToken).where(RefreshToken.id.in_(expired.scalar_subquery())).returning(RefreshToken.id)
    )
    return len(deleted.all())


async def _rotate(
    session: AsyncSession, settings: Settings, key: Key, *, refresh_token: str, asked_at: datetime, device: Device
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
    if token.revoked_at is not None or token.expires_at <= now or customer.status is CustomerStatus.CLOSED:
        return None
    lasts = await _session_of(session, token, device)
    if token.used_at is not None:
        successor = await _successor(session, settings, token, refresh_token, asked_at)
        return None if successor is None else _tokens(settings, key, lasts=lasts, refresh_token=successor)
    expires_at = _refresh_until(settings, lasts.created_at)
    if expires_at <= now:  # the session has lasted as long as any may
        return None
    successor = _new_refresh_token()
    token.used_at, token.successor_sealed = now, _successor_box(refresh_token).encrypt(successor.encode())
    lasts.last_used_at, lasts.expires_at = now, expires_at
    return await _issue(session, settings, key, lasts=lasts, refresh_token=successor)


async def _successor(
    session: AsyncSession, settings: Settings, token: RefreshToken, refresh_token: str, asked_at: datetime
) -> str | None:
    """Return what a used token was replaced by, while the grace lasts and that was not used; else end the family."""
    late = asked_at - (token.used_at or asked_at)
    in_grace = settings.refresh_grace_seconds > 0 and late.total_seconds() < settings.refresh_grace_seconds
    if in_grace and token.successor_sealed is not None:
        successor = _successor_box(refresh_token).decrypt(token.successor_sealed).decode()
        follows = await session.scalar(_by_token(successor))
        if follows is not None and follows.used_at is None and follows.revoked_at is None:
            return successor
    # One who asked before the token was used lost a race against the same client (two tabs, a hasty retry), and
    # is merely refused. One who asks after it is a thief, or has been robbed.
    if late >= timedelta(0) and await end_sessions(session, customer_id=token.customer_id, only=token.family_id):
        logger.warning(
            "a used refresh token came back; its family is revoked",
            extra={"customer_id": str(token.customer_id), "family_id": str(token.family_id)},
        )
    return None


async def _session_of(session: AsyncSession, token: RefreshToken, device: Device) -> CustomerSession:
    lasts = await session.get(CustomerSession, token.family_id)
    if lasts is None:  # a sign-in of before sessions were kept
        lasts = CustomerSession(
            id=token.family_id,
            customer_id=token.customer_id,
            method=SignInMethod.PASSWORD,
            user_agent=device.shown_user_agent,
            created_at=token.created_at,
            expires_at=token.expires_at,
        )
        session.add(lasts)
        await session.flush()
    return lasts


async def _issue(
    session: AsyncSession, settings: Settings, key: Key, *, lasts: CustomerSession, refresh_token: str
) -> Tokens:
    session.add(
        RefreshToken(
            customer_id=lasts.customer_id,
            family_id=lasts.id,
            token_hash=_digest(refresh_token),
            expires_at=lasts.expires_at,
        )
    )
    await session.flush()
    return _tokens(settings, key, lasts=lasts, refresh_token=refresh_token)


def _tokens(settings: Settings, key: Key, *, lasts: CustomerSession, refresh_token: str) -> Tokens:
    return Tokens(
        access_token=issue_access_token(settings, key, customer_id=lasts.customer_id, session_id=lasts.id),
        refresh_token=refresh_token,
        expires_in=settings.access_token_seconds,
    )


def _new_refresh_token() -> str:
    # The prefix lets scanners of repositories and logs recognise a leaked token.
    return f"cbr_{secrets.token_urlsafe(32)}"


def _refresh_until(settings: Settings, began_at: datetime) -> datetime:
    newest = datetime.now(UTC) + timedelta(seconds=settings.refresh_token_seconds)
    return min(newest, began_at + timedelta(seconds=settings.session_max_seconds))


def _successor_box(refresh_token: str) -> Fernet:
    # Only who presents the used token can open what replaced it; the database alone cannot.
    return Fernet(base64.urlsafe_b64encode(hashlib.sha256(b"successor:" + refresh_token.encode()).digest()))


def _by_token(token: str) -> Select[RefreshToken]:
    return select(RefreshToken).where(RefreshToken.token_hash == _digest(token))


def _digest(token: str) -> bytes:
    # 256 random bits need no slow hash.
    return hashlib.sha256(token.encode()).digest()

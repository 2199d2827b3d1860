"""Access tokens: short-lived JWTs (RFC 7519) signed with Ed25519, so that anyone with our public keys can verify one.

Verifying asks no database. What a token says is remembered until it expires, because every call of a customer brings
the same one; whether its session still lasts is asked on each request, beside the customer (`app/dependencies.py`).
"""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic, time
from typing import Self
from uuid import UUID

import jwt
import sqlalchemy.exc
from sqlalchemy import Select, bindparam

from app.config import Settings
from app.db import transaction
from app.errors import UnauthorizedError
from app.ids import new_id
from app.models import Customer, CustomerSession, CustomerStatus
from app.services.signing_keys import Key, KeyRing, load_ring

logger = logging.getLogger(__name__)

_ALGORITHM = "EdDSA"
_AUDIENCE = "cashback"
_SHAPE = re.compile(r"[A-Za-z0-9_-]{1,256}\.[A-Za-z0-9_-]{1,1024}\.[A-Za-z0-9_-]{1,128}")
# A ring that is older is read again; so long may a revoked key still verify.
_RING_SECONDS = 30.0
# A token may name a key that another process has just made; who names keys that nobody made shall cost us little.
_UNKNOWN_KEY_SECONDS = 1.0
# About 10 MB.
_MOST_REMEMBERED = 10_000


class InvalidAccessTokenError(UnauthorizedError):
    """An access token that is expired, altered, not ours, or of a session that has ended."""

    code = "invalid_token"
    title = "Invalid access token"

    @classmethod
    def ended(cls) -> Self:
        """Of a session or an account that has ended since."""
        return cls("The session of this token has ended; sign in again.")


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a verified token says: whose it is, the session it came from, and when it ends (Unix time)."""

    customer_id: UUID
    session_id: UUID
    expires_at: float


def issue_access_token(settings: Settings, key: Key, *, customer_id: UUID, session_id: UUID) -> str:
    """Return a signed token for a customer, valid for `access_token_seconds`."""
    now = datetime.now(UTC)
    claims = {
        "iss": settings.token_issuer,
        "aud": _AUDIENCE,
        "sub": str(customer_id),
        "sid": str(session_id),
        "jti": str(new_id()),
        "iat": now,
        "exp": now + timedelta(seconds=settings.access_token_seconds),
    }
    return jwt.encode(claims, key.private, algorithm=_ALGORITHM, headers={"kid": key.kid})


def verify_access_token(settings: Settings, ring: KeyRing, token: str) -> AccessToken:
    """Return what a token says. Raises InvalidAccessTokenError."""
    try:
        # The algorithm is ours and never the token's: no other is tried, whatever its header says.
        claims = jwt.decode(
            token,
            ring.public[_kid(token) or ""],
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            issuer=settings.token_issuer,
            # A host whose clock is ahead may have issued it; only its end matters.
            options={"require": ["exp", "sub", "sid"], "verify_iat": False},
        )
        return AccessToken(UUID(claims["sub"]), UUID(claims["sid"]), float(claims["exp"]))
    except jwt.ExpiredSignatureError:
        raise InvalidAccessTokenError("The access token has expired; use the refresh token.") from None
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError):
        raise InvalidAccessTokenError("The access token is not valid; sign in again.") from None


def signed_in_customer() -> Select[Customer]:
    """Select who came with a token, by its `session_id` and `customer_id`: nobody once either has ended.

    For hot reads, which find out about the session in their own statement.
    """
    owner = CustomerSession.owner(bindparam("session_id"), bindparam("customer_id"))
    return owner.where(Customer.status != CustomerStatus.CLOSED)


class AccessTokens:
    """Issues and verifies the tokens of one process, with the keys that all processes share."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._ring: KeyRing | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._remembered: OrderedDict[str, AccessToken] = OrderedDict()

    async def ring(self, *, at_most_seconds: float = _RING_SECONDS) -> KeyRing:
        """Return the keys as they were at most so long ago; older ones when the database does not answer."""
        async with self._reading:
            if self._ring is not None and self._clock() - self._read_at < at_most_seconds:
                return self._ring
            try:
                async with transaction() as session:
                    ring = await load_ring(session, self._settings)
            except (sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError) as error:
                if self._ring is None:
                    raise
                logger.warning("signing keys could not be read again", extra={"error": type(error).__name__})
                return self._ring
            if self._ring is None or ring.public.keys() != self._ring.public.keys():
                # Of a key that is gone no token may be remembered.
                self._remembered.clear()
            self._ring, self._read_at = ring, self._clock()
            return ring

    async def signing_key(self) -> Key:
        """Return the key that signs now."""
        return (await self.ring()).signing()

    async def verify(self, token: str) -> AccessToken:
        """Return what a token says. Raises InvalidAccessTokenError."""
        if _SHAPE.fullmatch(token) is None:
            raise InvalidAccessTokenError("The access token is not valid; sign in again.")
        ring = self._ring
        if ring is None or self._clock() - self._read_at >= _RING_SECONDS:
            ring = await self.ring()
        known = self._remembered.get(token)
        if known is not None and known.expires_at > time():
            return known
        if _kid(token) not in ring.public:
            ring = await self.ring(at_most_seconds=_UNKNOWN_KEY_SECONDS)
        verified = verify_access_token(self._settings, ring, token)
        self._remembered[token] = verified
        while len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return verified


def _kid(token: str) -> str | None:
    """Return the name of the key that a token says it is signed with; None when it says none."""
    try:
        kid = jwt.get_unverified_header(token).get("kid")
    except (jwt.PyJWTError, ValueError, RecursionError):
        return None
    return kid if isinstance(kid, str) else None

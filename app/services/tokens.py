"""Access tokens: short-lived JWTs (RFC 7519) signed with HS256, so that verifying one asks no database."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt

from app.config import Settings
from app.errors import UnauthorizedError
from app.ids import new_id

_ALGORITHM = "HS256"
_AUDIENCE = "cashback"


class InvalidAccessTokenError(UnauthorizedError):
    """An access token that is expired, altered or not ours."""

    code = "invalid_token"
    title = "Invalid access token"


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a verified token says: whose it is, and the sign-in (refresh family) it came from."""

    customer_id: UUID
    family_id: UUID


def issue_access_token(settings: Settings, *, customer_id: UUID, family_id: UUID) -> str:
    """Return a signed token for a customer, valid for `access_token_seconds`."""
    now = datetime.now(UTC)
    claims = {
        "sub": str(customer_id),
        "sid": str(family_id),
        "jti": str(new_id()),
        "aud": _AUDIENCE,
        "iat": now,
        "exp": now + timedelta(seconds=settings.access_token_seconds),
    }
    return jwt.encode(claims, settings.secret_key.get_secret_value(), algorithm=_ALGORITHM)


def verify_access_token(settings: Settings, token: str) -> AccessToken:
    """Return what a token says. Raises InvalidAccessTokenError."""
    try:
        claims = jwt.decode(
            token,
            settings.secret_key.get_secret_value(),
            algorithms=[_ALGORITHM],
            audience=_AUDIENCE,
            options={"require": ["exp", "sub", "sid"]},
        )
        return AccessToken(customer_id=UUID(claims["sub"]), family_id=UUID(claims["sid"]))
    except jwt.ExpiredSignatureError:
        raise InvalidAccessTokenError("The access token has expired; use the refresh token.") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, AttributeError):
        raise InvalidAccessTokenError("The access token is not valid; sign in again.") from None

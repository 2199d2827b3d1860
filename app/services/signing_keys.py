"""The keys that sign access tokens: Ed25519 (RFC 8037), one at a time, replaced without refusing any good token.

Until the first rotation the key is derived from SECRET_KEY, so that several processes agree and nothing has to be set
up. Rotated keys are rows, sealed with ENCRYPTION_KEYS. A new one is published some minutes before it signs, and the old
ones verify for a day longer than any of their tokens lasts.
"""

import hashlib
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import jwt
import orjson
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import delete, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.models import SigningKey
from app.services.secrets import keyed_hash, seal_bytes, unseal_bytes

logger = logging.getLogger(__name__)

# Longer than the published set may be cached, and than any process keeps its ring.
PUBLISHED_BEFORE = timedelta(minutes=10)
# Beyond the life of an access token: somebody may have lengthened that meanwhile.
_VERIFIES_LONGER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair by its thumbprint."""

    kid: str
    private: Ed25519PrivateKey
    signs_from: datetime

    @property
    def public(self) -> Ed25519PublicKey:
        """What verifies."""
        return self.private.public_key()

    def as_jwk(self) -> dict[str, str]:
        """Return the public key as a JWK (RFC 8037, section 2)."""
        return {**_public_members(self.public), "kid": self.kid, "use": "sig", "alg": "EdDSA"}


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of one moment, newest first, and never none."""

    keys: list[Key]
    public: dict[str, Ed25519PublicKey] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "public", {key.kid: key.public for key in self.keys})

    def signing(self) -> Key:
        """Return the newest key that may sign already."""
        now = datetime.now(UTC)
        return next((key for key in self.keys if key.signs_from <= now), self.keys[-1])


def derived_ring(settings: Settings) -> KeyRing:
    """Return the ring of before the first rotation: one key, which follows from SECRET_KEY."""
    return KeyRing([_key(keyed_hash(settings, "signing-key"), datetime.fromtimestamp(0, UTC))])


async def load_ring(session: AsyncSession, settings: Settings) -> KeyRing:
    """Read the keys that are good now. What ENCRYPTION_KEYS do not open is logged and left out."""
    rows = await session.scalars(
        select(SigningKey)
        .where(or_(SigningKey.verifies_until.is_(None), SigningKey.verifies_until > datetime.now(UTC)))
        .order_by(SigningKey.signs_from.desc(), SigningKey.kid)
    )
    keys = []
    for row in rows:
        try:
            keys.append(_key(unseal_bytes(settings, row.private_encrypted), row.signs_from))
        except InvalidToken:
            logger.error("none of ENCRYPTION_KEYS opens a signing key", extra={"kid": row.kid})  # noqa: TRY400 - no news
    return KeyRing(keys) if keys else derived_ring(settings)


async def rotate(session: AsyncSession, settings: Settings, *, revoke: bool = False) -> SigningKey:
    """Make a key that signs once everybody knows it; the others verify until none of their tokens is left.

    With `revoke`, after a leak: it signs at once, and whatever the others signed is refused within half a minute.
    """
    # One rotation at a time; reading goes on.
    await session.execute(text("LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE"))
    now = datetime.now(UTC)
    signs_from = now if revoke else now + PUBLISHED_BEFORE
    if revoke:
        await session.execute(delete(SigningKey))
    else:
        if await session.scalar(select(SigningKey.kid).limit(1)) is None:
            [derived] = derived_ring(settings).keys
            session.add(_row(settings, derived))
            await session.flush()
        last_token = timedelta(seconds=settings.access_token_seconds)
        await session.execute(
            update(SigningKey)
            .where(SigningKey.verifies_until.is_(None))
            .values(verifies_until=signs_from + last_token + _VERIFIES_LONGER)
            .execution_options(synchronize_session=False)
        )
    made = _row(settings, _key(Ed25519PrivateKey.generate().private_bytes_raw(), signs_from))
    session.add(made)
    await session.flush()
    return made


async def rotate_if_due(session: AsyncSession, settings: Settings) -> bool:
    """Rotate when the newest key has signed for `signing_key_days`, or none was ever made; True when it did."""
    newest = await session.scalar(select(SigningKey.signs_from).order_by(SigningKey.signs_from.desc()).limit(1))
    if newest is not None and newest > datetime.now(UTC) - timedelta(days=settings.signing_key_days):
        return False
    await rotate(session, settings)
    return True


async def forget_expired(session: AsyncSession, *, limit: int) -> int:
    """Delete up to `limit` keys that verify nothing any more; returns how many."""
    over = select(SigningKey.kid).where(SigningKey.verifies_until < datetime.now(UTC)).limit(limit)
    deleted = await session.scalars(
        delete(SigningKey).where(SigningKey.kid.in_(over.scalar_subquery())).returning(SigningKey.kid)
    )
    return len(deleted.all())


def _key(private: bytes, signs_from: datetime) -> Key:
    opened = Ed25519PrivateKey.from_private_bytes(private)
    # The members that RFC 7638 takes, in its order and without spaces.
    members = orjson.dumps(_public_members(opened.public_key()), option=orjson.OPT_SORT_KEYS)
    kid = jwt.utils.base64url_encode(hashlib.sha256(members).digest()).decode()
    return Key(kid, opened, signs_from)


def _row(settings: Settings, key: Key) -> SigningKey:
    sealed = seal_bytes(settings, key.private.private_bytes_raw())
    return SigningKey(kid=key.kid, private_encrypted=sealed, signs_from=key.signs_from)


def _public_members(public: Ed25519PublicKey) -> dict[str, str]:
    return {"crv": "Ed25519", "kty": "OKP", "x": jwt.utils.base64url_encode(public.public_bytes_raw()).decode()}

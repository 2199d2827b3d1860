"""Secrets at rest: encrypted with Fernet keys that can be rotated (the first of ENCRYPTION_KEYS encrypts)."""

import hashlib
import hmac

import orjson
from cryptography.fernet import Fernet, MultiFernet

from app.config import Settings


def seal(settings: Settings, secrets: list[str]) -> bytes:
    """Encrypt a list of secrets."""
    return seal_bytes(settings, orjson.dumps(secrets))


def unseal(settings: Settings, sealed: bytes) -> list[str]:
    """Decrypt a list of secrets. Raises cryptography.fernet.InvalidToken when no key fits."""
    secrets: list[str] = orjson.loads(unseal_bytes(settings, sealed))
    return secrets


def seal_bytes(settings: Settings, content: bytes) -> bytes:
    """Encrypt any content, such as a file."""
    return _box(settings).encrypt(content)


def unseal_bytes(settings: Settings, sealed: bytes) -> bytes:
    """Decrypt what `seal_bytes` made. Raises cryptography.fernet.InvalidToken when no key fits."""
    return _box(settings).decrypt(sealed)


def keyed_hash(settings: Settings, purpose: str, *parts: str) -> bytes:
    """Return 32 bytes that are equal for equal parts and tell nothing else without SECRET_KEY.

    Each purpose has a key of its own. Another SECRET_KEY gives other hashes.
    """
    key = hmac.digest(settings.secret_key.get_secret_value().encode(), purpose.encode(), hashlib.sha256)
    # As a list in JSON, so that no part can reach into the next.
    return hmac.digest(key, orjson.dumps(parts), hashlib.sha256)


def _box(settings: Settings) -> MultiFernet:
    return MultiFernet([Fernet(key.get_secret_value()) for key in settings.encryption_keys])

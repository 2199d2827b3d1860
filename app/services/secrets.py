"""Secrets at rest: encrypted with Fernet keys that can be rotated (the first of ENCRYPTION_KEYS encrypts)."""

import orjson
from cryptography.fernet import Fernet, MultiFernet

from app.config import Settings


def seal(settings: Settings, secrets: list[str]) -> bytes:
    """Encrypt a list of secrets."""
    return _box(settings).encrypt(orjson.dumps(secrets))


def unseal(settings: Settings, sealed: bytes) -> list[str]:
    """Decrypt a list of secrets. Raises cryptography.fernet.InvalidToken when no key fits."""
    secrets: list[str] = orjson.loads(_box(settings).decrypt(sealed))
    return secrets


def _box(settings: Settings) -> MultiFernet:
    return MultiFernet([Fernet(key.get_secret_value()) for key in settings.encryption_keys])

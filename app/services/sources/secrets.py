"""The secrets that sources prove their requests with: what one must look like, making one, and having them at hand."""

import base64
import binascii
import secrets
from time import monotonic

from app.config import Settings
from app.errors import InvalidRequestError
from app.models import Source
from app.schemas.source_authentication import HmacAuthentication
from app.schemas.source_definitions import SourceDefinition
from app.services.secrets import unseal

STANDARD_PREFIX = "whsec_"
_STANDARD_BYTES = range(24, 65)
_DEFAULT_LIVE = 2
# Decrypted secrets stay in memory for no longer; a rotation is another ciphertext and so seen at once.
_KEPT_SECONDS = 60.0
_MOST_KEPT = 1000
_kept: dict[bytes, tuple[float, list[str]]] = {}


class InvalidSecretError(InvalidRequestError):
    """A secret that the source's authentication cannot use."""

    code = "invalid_source_secret"
    title = "Invalid secret"


def live_secrets(settings: Settings, source: Source) -> list[str]:
    """Return the secrets that are accepted now, newest first."""
    sealed = source.secrets_encrypted
    if sealed is None:
        return []
    now = monotonic()
    until, found = _kept.get(sealed, (0.0, []))
    if until < now:
        found = unseal(settings, sealed)
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        _kept[sealed] = now + _KEPT_SECONDS, found
    return found


def most_live(definition: SourceDefinition) -> int:
    """Return how many secrets may be accepted at once."""
    rule = definition.authentication
    return rule.live_secrets if isinstance(rule, HmacAuthentication) else _DEFAULT_LIVE


def new_signing_secret() -> str:
    """Return a Standard Webhooks secret: `whsec_` and 32 random bytes in base64."""
    return f"{STANDARD_PREFIX}{base64.b64encode(secrets.token_bytes(32)).decode()}"


def new_secret(definition: SourceDefinition) -> str:
    """Return a random secret of 32 bytes, written as the definition wants it."""
    rule = definition.authentication
    if rule.kind == "standard_webhooks":
        return new_signing_secret()
    if isinstance(rule, HmacAuthentication) and rule.key_encoding == "hex":
        return secrets.token_hex(32)
    if isinstance(rule, HmacAuthentication) and rule.key_encoding == "base64":
        return base64.b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(32)


def check_secret(definition: SourceDefinition, secret: str) -> str:
    """Return a secret that somebody chose. Raises InvalidSecretError when it cannot be used."""
    rule = definition.authentication
    try:
        if rule.kind == "standard_webhooks":
            key = base64.b64decode(secret.removeprefix(STANDARD_PREFIX), validate=True)
            if not secret.startswith(STANDARD_PREFIX) or len(key) not in _STANDARD_BYTES:
                raise InvalidSecretError("A Standard Webhooks secret is whsec_ and 24 to 64 bytes in base64.")
        elif isinstance(rule, HmacAuthentication) and rule.key_encoding == "hex":
            bytes.fromhex(secret)
        elif isinstance(rule, HmacAuthentication) and rule.key_encoding == "base64":
            base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidSecretError("The secret is not written as the source's definition says.") from None
    return secret

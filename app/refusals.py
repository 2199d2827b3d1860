"""What a deployment must not run with: secrets that others know, and doors that only development may leave open.

Each refusal names the variable and the remedy, and never quotes a value.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

# What tutorials, templates and this repository's own examples put where a secret belongs.
_PLACEHOLDER = re.compile(
    r"change.?me|replace.?(me|this)|place.?holder|example|insecure|default|your.{0,3}(secret|key|token|password)"
    r"|development|s3cr3t|secret.?key|password|letmein",
    re.IGNORECASE,
)
_KNOWN_PASSWORDS = frozenset(
    {"admin", "cashback", "changeme", "example", "password", "postgres", "redis", "root", "secret", "test"}
)
_FEWEST_DIFFERENT = 8


def is_weak(secret: str) -> bool:
    """Tell whether a secret is a placeholder, one short piece repeated, or of hardly any different characters."""
    repeated = secret in (secret + secret)[1:-1]
    return repeated or len(set(secret)) < _FEWEST_DIFFERENT or _PLACEHOLDER.search(secret) is not None


def weak_key(key: str) -> bool:
    """The same of what a key in base64 stands for."""
    return is_weak(base64.urlsafe_b64decode(key).decode("latin-1"))


def known_password(url: str) -> bool:
    """Tell whether a server's URL has a password that everybody tries first."""
    return unquote(urlsplit(url).password or "").lower() in _KNOWN_PASSWORDS


def refused_secrets(
    *, secret_key: SecretStr, encryption_keys: Sequence[SecretStr], callback_secrets: Sequence[SecretStr]
) -> Iterator[str]:
    """Yield what is wrong with the secrets."""
    if is_weak(secret_key.get_secret_value()):
        yield "SECRET_KEY is a placeholder or easy to guess; make one with: openssl rand -hex 32"
    if any(weak_key(key.get_secret_value()) for key in encryption_keys):
        yield "ENCRYPTION_KEYS has one that is easy to guess; make one with: cashback new-key"
    for secret in callback_secrets:
        raw = secret.get_secret_value().removeprefix("whsec_")
        if is_weak(base64.b64decode(raw).decode("latin-1")):
            yield "PAYOUT_CALLBACK_SECRETS has one that is easy to guess; take those that the provider made"


def refused_doors(
    *,
    log_level: str,
    public_url: str | None,
    frontend_origins: Sequence[str],
    allow_private_feeds: bool,
    allow_private_endpoints: bool,
) -> Iterator[str]:
    """Yield what is open that only development may leave open."""
    if log_level == "DEBUG":
        yield "LOG_LEVEL=DEBUG lets libraries log what they send and get, secrets too; set INFO"
    if public_url is not None and not public_url.startswith("https://"):
        yield "PUBLIC_URL must begin with https://; put a proxy with TLS in front"
    if any(not origin.startswith("https://") for origin in frontend_origins):
        yield "FRONTEND_ORIGINS must all begin with https://"
    if allow_private_feeds:
        yield "ALLOW_PRIVATE_FEEDS lets whoever names a feed reach your network; unset it"
    if allow_private_endpoints:
        yield "ALLOW_PRIVATE_ENDPOINTS lets whoever names an endpoint reach your network; unset it"

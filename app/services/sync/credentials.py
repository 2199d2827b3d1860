"""What a feed's server asks for: sealed at rest, and put on requests to the feed's own origin only."""

import base64
from dataclasses import dataclass, field
from typing import assert_never
from urllib.parse import quote, unquote, urlsplit

import httpx
import orjson
from cryptography.fernet import InvalidToken
from pydantic import SecretStr, TypeAdapter

from app.config import Settings
from app.schemas.feeds import (
    BasicCredentials,
    BearerCredentials,
    FeedCredentials,
    HeaderCredentials,
    PathCredentials,
    QueryCredentials,
)
from app.services.secrets import seal, unseal
from app.services.sync.errors import FeedError
from app.urls import with_parameter

# In a feed's address, for credentials of the kind `path`.
PLACEHOLDER = "{secret}"
_adapter: TypeAdapter[FeedCredentials] = TypeAdapter(FeedCredentials)


@dataclass(frozen=True, slots=True)
class Access:
    """How requests to one origin are let in. Other origins, as after a redirect, get nothing of it."""

    origin: str
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    parameter: tuple[str, str] | None = field(default=None, repr=False)

    def apply(self, url: httpx.URL) -> tuple[httpx.URL, dict[str, str]]:
        """Return the address to ask and the headers to send."""
        if origin_of(url) != self.origin:
            return url, {}
        if self.parameter is not None:
            url = httpx.URL(with_parameter(str(url), *self.parameter))
        return url, self.headers


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and port: all of an address that is no secret."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def seal_credentials(settings: Settings, credentials: FeedCredentials) -> bytes:
    """Encrypt credentials for keeping."""
    plain = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in dict(credentials).items()
    }
    return seal(settings, [orjson.dumps(plain).decode()])


def split_user_info(url: str) -> tuple[str, BasicCredentials | None]:
    """Take a user name and password out of an address."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    user_info, _, host = parts.netloc.rpartition("@")
    username, _, password = user_info.partition(":")
    credentials = BasicCredentials(kind="basic", username=unquote(username), password=SecretStr(unquote(password)))
    return parts._replace(netloc=host).geturl(), credentials


def open_access(settings: Settings, url: str, sealed: bytes | None) -> tuple[str, Access | None]:
    """Return a feed's address as it is asked for, and how its server lets us in. Raises FeedError."""
    if sealed is None:
        return url, None
    try:
        (plain,) = unseal(settings, sealed)
    except InvalidToken:
        raise FeedError("No key of ENCRYPTION_KEYS opens the feed's credentials; set them again.") from None
    credentials = _adapter.validate_json(plain)
    if isinstance(credentials, PathCredentials):
        return url.replace(PLACEHOLDER, quote(credentials.value.get_secret_value(), safe="")), None
    return url, _access(credentials, origin_of(httpx.URL(url)))


def _access(
    credentials: BasicCredentials | BearerCredentials | HeaderCredentials | QueryCredentials, origin: str
) -> Access:
    match credentials:
        case BasicCredentials(username=username, password=password):
            pair = f"{username}:{password.get_secret_value()}".encode()
            return Access(origin, {"Authorization": f"Basic {base64.b64encode(pair).decode()}"})
        case BearerCredentials(token=token):
            return Access(origin, {"Authorization": f"Bearer {token.get_secret_value()}"})
        case HeaderCredentials(name=name, value=value):
            return Access(origin, {name: value.get_secret_value()})
        case QueryCredentials(name=name, value=value):
            return Access(origin, parameter=(name, value.get_secret_value()))
        case _:
            assert_never(credentials)

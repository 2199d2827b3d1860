"""The public keys of external OpenID providers: fetched over judged addresses and remembered.

A provider's address comes from our settings or from its own discovery document, and leads to public addresses only
(outside development). A failure is remembered for a while, and meanwhile the keys of before are used.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import httpx
import jwt
import orjson

from app.config import Environment, Provider, Settings
from app.errors import UnavailableError
from app.services.outbound import PinnedTransport
from app.services.sync.errors import FetchError

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 256 * 1024
_KEPT_SECONDS = 3600.0
# A token may name a key that the provider has just made; tokens with made-up names shall not make us ask each time.
_ASKED_AGAIN_SECONDS = 30.0


class ProviderUnavailableError(UnavailableError):
    """An external provider's keys cannot be had, and none are remembered."""

    code = "identity_provider_unavailable"

    def __init__(self) -> None:
        super().__init__("The identity provider does not answer; try again.", retry_after_seconds=30)


@dataclass(slots=True)
class _Known:
    keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    fetched_at: float = float("-inf")
    asked_at: float = float("-inf")
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class ExternalKeys:
    """Remembers the keys of all providers for one process."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = monotonic) -> None:
        self._allow_private = settings.environment is Environment.DEVELOPMENT
        self._clock = clock
        self._known: dict[str, _Known] = {}

    async def find(self, provider: Provider, kid: str) -> jwt.PyJWK | None:
        """Return a provider's key by name; None when it has none of that name. Raises ProviderUnavailableError."""
        known = self._known.setdefault(provider.issuer, _Known())
        async with known.asking:
            now = self._clock()
            is_old = now - known.fetched_at > _KEPT_SECONDS
            if (is_old or kid not in known.keys) and now - known.asked_at > _ASKED_AGAIN_SECONDS:
                known.asked_at = now
                try:
                    async with asyncio.timeout(2 * _TIMEOUT_SECONDS):
                        known.keys, known.fetched_at = await self._fetch(provider), now
                except (httpx.HTTPError, httpx.InvalidURL, FetchError, TimeoutError, ValueError) as error:
                    logger.warning(
                        "an identity provider's keys could not be fetched",
                        extra={"issuer": provider.issuer, "error": type(error).__name__},
                    )
            if not known.keys:
                raise ProviderUnavailableError
            return known.keys.get(kid)

    async def _fetch(self, provider: Provider) -> dict[str, jwt.PyJWK]:
        """Return the provider's keys that verify with one of its algorithms, by name. No redirect is followed."""
        transport = PinnedTransport(allow_private=self._allow_private, timeout_seconds=_TIMEOUT_SECONDS)
        async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_SECONDS) as client:
            url = provider.jwks_url
            if url is None:
                # OpenID Connect Discovery 1.0, section 4: the document must name the issuer it was asked for.
                document = await _get(client, f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration")
                url = document.get("jwks_uri")
                if document.get("issuer") != provider.issuer or not isinstance(url, str):
                    raise ValueError("not the issuer's document")
                if not self._allow_private and not url.startswith("https://"):
                    raise ValueError("keys without TLS")
            listed = (await _get(client, url)).get("keys")
        keys = {}
        for item in listed if isinstance(listed, list) else []:
            try:
                key = jwt.PyJWK.from_dict(item)
            except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
                continue  # of a kind that we do not know
            # A shared secret in a public set would let everybody sign.
            if key.key_id and key.key_type in {"RSA", "EC", "OKP"} and item.get("use", "sig") == "sig":
                keys[key.key_id] = key
        if not keys:
            raise ValueError("no key that verifies")
        return keys


async def _get(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    async with client.stream("GET", url, headers={"accept": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"answered {response.status_code}")
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _MOST_BYTES:
                raise ValueError("too long")
    document = orjson.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004 - judged with all else that is wrong with it
    return document

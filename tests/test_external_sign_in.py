"""Signing in with an external provider: a real one on loopback, honest and forged tokens, and attempts at takeover."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from time import time
from typing import Any, Self

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Environment, Provider, Settings
from app.models import Customer, CustomerStatus, ExternalIdentity
from app.services.external_keys import ExternalKeys
from tests.factories import make_customer

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
OURS = "our-client-id"
RSA_KEY, OTHER_RSA_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))


class OpenIdProvider:
    """An OpenID provider on loopback with discovery and keys, which it can change, and fail to serve."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"first": RSA_KEY}
        self.status, self.location = "200 OK", ""
        self.asked: list[str] = []

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.issuer = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).decode().split()[1]
        self.asked.append(path)
        document = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}
        body = json.dumps({"keys": [self._jwk(kid) for kid in self.keys]} if path == "/keys" else document).encode()
        head = f"HTTP/1.1 {self.status}\r\nlocation: {self.location}\r\ncontent-length: {len(body)}\r\n"
        writer.write(head.encode() + b"connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def _jwk(self, kid: str) -> dict[str, Any]:
        key = self.keys[kid]
        if isinstance(key, bytes):
            return {"kty": "oct", "k": jwt.utils.base64url_encode(key).decode(), "kid": kid, "alg": "HS256"}
        algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}

    def sign(self, *, kid: str = "first", key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        now = int(time())
        said = {
            "iss": self.issuer,
            "aud": OURS,
            "sub": "subject-1",
            "iat": now,
            "exp": now + 300,
            "email": "Ayesha@example.com",
            "email_verified": True,
            **changes,
        }
        content = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(content, key or self.keys[kid], algorithm=algorithm, headers={"kid": kid})


class App:
    """Our frontend, which signs in with the provider."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, provider: OpenIdProvider) -> None:
        self.client, self.provider = client, provider
        self.trust(settings)

    def trust(self, settings: Settings, **changes: Any) -> None:
        one = Provider(issuer=self.provider.issuer, audiences=[OURS, "our-other-client"], **changes)
        state = self.client._transport.app.state  # type: ignore[attr-defined]  # httpx's ASGITransport
        state.settings = settings.model_copy(update={"identity_providers": [one]})
        state.external_keys = self.keys = ExternalKeys(state.settings)

    async def nonce(self) -> str:
        answer = await self.client.post("/v1/auth/nonces")
        assert answer.status_code == 201
        return str(answer.json()["nonce"])

    async def exchange(self, id_token: str) -> httpx.Response:
        form = {"grant_type": EXCHANGE, "subject_token": id_token, "subject_token_type": ID_TOKEN}
        return await self.client.post("/v1/auth/token", data=form)

    async def sign_in(self, **changes: Any) -> httpx.Response:
        return await self.exchange(self.provider.sign(**{"nonce": await self.nonce(), **changes}))


@pytest.fixture
async def provider() -> AsyncIterator[OpenIdProvider]:
    async with OpenIdProvider() as provider:
        yield provider


@pytest.fixture
def app(client: httpx.AsyncClient, settings: Settings, provider: OpenIdProvider) -> App:
    return App(client, settings, provider)


async def test_first_sign_in_registers_and_the_next_is_the_same_customer(app: App, session: AsyncSession) -> None:
    answer = await app.sign_in()
    assert answer.status_code == 200
    tokens = answer.json()
    assert tokens["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    me = (await app.client.get("/v1/me", headers=headers)).json()
    assert (me["email"], me["email_verified"]) == ("ayesha@example.com", True)
    [shown] = (await app.client.get("/v1/me/sessions", headers=headers)).json()["items"]
    assert shown["method"] == "external"
    # The provider's word on the address plays no part any more.
    again = await app.sign_in(email="changed@example.com", email_verified=False)
    assert again.status_code == 200
    assert await session.scalar(select(func.count()).select_from(Customer)) == 1
    assert app.provider.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_forged_and_foreign_tokens_are_refused(app: App, session: AsyncSession) -> None:
    now = int(time())
    public = RSA_KEY.public_key().public_numbers().n.to_bytes(256, "big")
    refused: list[dict[str, Any]] = [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "somebody-else"},
        {"aud": [OURS, "somebody-else"], "azp": "somebody-else"},
        {"aud": None},
        {"exp": now - 31},
        {"exp": None},
        {"iat": None},
        {"nbf": now + 300},
        {"sub": None},
        {"sub": ""},
        {"key": OTHER_RSA_KEY},
        {"key": public, "algorithm": "HS256"},
        {"algorithm": "RS512"},
        {"nonce": None},
        {"nonce": "made up"},
        {"nonce": "0" * 64},
        {"email_verified": False},
        {"email_verified": None},
        {"email": None},
        {"email": "not an address"},
    ]
    for changes in refused:
        answer = await app.sign_in(**changes)
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_id_token"), changes
        assert answer.json()["error"] == "invalid_grant"
    for text in ("nonsense", "a.b.c", "é", "x" * 8_192, app.provider.sign().rpartition(".")[0] + "."):
        assert (await app.exchange(text)).status_code == 401
    assert await session.scalar(select(func.count()).select_from(Customer)) == 0
    assert (await app.client.post("/v1/auth/token", data={"grant_type": EXCHANGE})).status_code == 422


async def test_token_and_nonce_are_good_once(app: App, settings: Settings) -> None:
    nonce = await app.nonce()
    token = app.provider.sign(nonce=nonce)
    assert (await app.exchange(token)).status_code == 200
    assert (await app.exchange(token)).status_code == 401
    assert (await app.exchange(app.provider.sign(nonce=nonce, jti="another"))).status_code == 401
    # Apple's clients send the nonce hashed.
    assert (await app.sign_in(nonce=hashlib.sha256((await app.nonce()).encode()).hexdigest())).status_code == 200
    app.trust(settings, requires_nonce=False)
    unbound = app.provider.sign()
    assert (await app.exchange(unbound)).status_code == 200
    assert (await app.exchange(unbound)).status_code == 401


async def test_address_leads_to_an_account_only_when_both_sides_have_verified_it(
    app: App, session: AsyncSession
) -> None:
    mine = await make_customer(session, email="ayesha@example.com", email_verified_at=None)
    # Somebody has registered with the address here and never proven it: who that is, nobody knows.
    answer = await app.sign_in()
    assert (answer.status_code, answer.json()["code"]) == (409, "external_link_refused")
    # Somebody has registered with the address there and never proven it.
    mine.email_verified_at = datetime.now(UTC)
    await session.flush()
    assert (await app.sign_in(sub="thief", email_verified=False)).status_code == 401
    assert await session.scalar(select(func.count()).select_from(ExternalIdentity)) == 0
    assert (await app.sign_in()).status_code == 200
    assert await session.scalar(select(ExternalIdentity.customer_id)) == mine.id
    mine.status, mine.closed_at = CustomerStatus.CLOSED, datetime.now(UTC)
    await session.flush()
    assert (await app.sign_in()).status_code == 401


async def test_provider_may_change_its_keys_and_is_not_asked_in_a_storm(app: App, settings: Settings) -> None:
    assert (await app.sign_in()).status_code == 200
    now = 1_000.0
    app.keys._clock = lambda: now
    known = app.keys._known[app.provider.issuer]
    known.fetched_at = known.asked_at = now
    app.provider.keys = {"second": ec.generate_private_key(ec.SECP256R1())}
    changed = {"kid": "second", "algorithm": "ES256"}
    asked = len(app.provider.asked)
    assert [(await app.sign_in(**changed)).status_code for _ in range(3)] == [401] * 3
    assert len(app.provider.asked) == asked
    now += 31
    assert (await app.sign_in(**changed)).status_code == 200
    assert (await app.sign_in(kid="first", key=RSA_KEY)).status_code == 401
    assert len(app.provider.asked) == asked + 2
    # While it is away, what is known of it goes on to hold.
    now += 3_601
    app.provider.status = "503 Away"
    assert (await app.sign_in(**changed)).status_code == 200


async def test_provider_that_never_answered_is_503(app: App) -> None:
    app.provider.status = "500 Broken"
    answer = await app.sign_in()
    assert (answer.status_code, answer.json()["code"]) == (503, "identity_provider_unavailable")
    assert [(await app.sign_in()).status_code for _ in range(3)] == [503] * 3
    assert len(app.provider.asked) == 1


async def test_keys_are_fetched_from_public_addresses_only_without_redirects(app: App, settings: Settings) -> None:
    outside = settings.model_copy(update={"environment": Environment.PRODUCTION})
    keys = ExternalKeys(outside)
    provider = Provider(issuer=app.provider.issuer, audiences=[OURS], jwks_url=f"{app.provider.issuer}/keys")
    with pytest.raises(Exception, match="does not answer"):
        await keys.find(provider, "first")
    assert app.provider.asked == []
    app.provider.status, app.provider.location = "302 Found", f"{app.provider.issuer}/keys"
    assert (await app.sign_in()).status_code == 503
    assert app.provider.asked == ["/.well-known/openid-configuration"]


async def test_shared_secret_in_the_published_set_signs_nothing(app: App) -> None:
    app.provider.keys = {"first": RSA_KEY, "shared": b"s" * 32}
    assert (await app.sign_in(kid="shared", key=b"s" * 32, algorithm="HS256")).status_code == 401
    assert (await app.sign_in()).status_code == 200

"""Access tokens: who may have signed one, and that no bearer of anything else gets in, or gets a 5xx."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.main import create_app
from app.models import CustomerSession, SigningKey
from app.services import signing_keys
from app.services.signing_keys import derived_ring
from app.services.tokens import AccessTokens, InvalidAccessTokenError, issue_access_token
from tests.conftest import in_process
from tests.factories import customer_headers, make_customer


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def encoded(header: Any, payload: Any, signature: bytes = b"x" * 64) -> str:
    return ".".join((b64(json.dumps(header).encode()), b64(json.dumps(payload).encode()), b64(signature)))


@pytest.fixture
async def good(session: AsyncSession, settings: Settings) -> str:
    customer = await make_customer(session)
    return customer_headers(settings, customer)["Authorization"].removeprefix("Bearer ")


async def me(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.get("/v1/me", headers={"Authorization": f"Bearer {token}"})


async def test_no_other_token_than_ours_is_taken(client: httpx.AsyncClient, settings: Settings, good: str) -> None:
    key = derived_ring(settings).signing()
    said = jwt.decode(good, key.public, algorithms=["EdDSA"], audience="cashback")
    header, payload, signature = good.split(".")

    def signed(private: Any = key.private, algorithm: str = "EdDSA", kid: str | None = key.kid, **changes: Any) -> str:
        content = {name: value for name, value in {**said, **changes}.items() if value is not None}
        return jwt.encode(content, private, algorithm=algorithm, headers={"kid": kid} if kid else None)

    assert (await me(client, good)).status_code == 200
    assert (await me(client, signed())).status_code == 200
    now = int(time())
    raw, pem = key.public.public_bytes_raw(), key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    confused = [
        jwt.encode(said, secret, algorithm="HS256", headers={"kid": key.kid})
        for secret in (raw, b64(raw), settings.secret_key.get_secret_value())
    ]
    # PyJWT itself refuses to sign with a public key as a secret; somebody else's library does not.
    signing_input = f"{b64(json.dumps({'alg': 'HS256', 'kid': key.kid}).encode())}.{payload}"
    confused.append(f"{signing_input}.{b64(hmac.digest(pem, signing_input.encode(), hashlib.sha256))}")
    refused = [
        *confused,
        signed(exp=now - 1),
        signed(exp=None),
        signed(exp="soon"),
        signed(nbf=now + 60),
        signed(sid=None),
        signed(sid="not an id"),
        signed(sub="not an id"),
        signed(sub=None),
        signed(aud="another service"),
        signed(aud=None),
        signed(iss="https://elsewhere.example"),
        signed(iss=None),
        signed(private=Ed25519PrivateKey.generate()),
        signed(kid="unknown"),
        signed(kid=None),
        encoded({"alg": "none", "kid": key.kid}, said, b""),
        f"{b64(json.dumps({'alg': 'none', 'kid': key.kid}).encode())}.{payload}.",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{b64(json.dumps({**said, 'sub': said['sid'], 'exp': now + 9}).encode())}.{signature}",
        f"{header}.{payload}.{signature}.{signature}",
    ]
    for number, token in enumerate(refused):
        answer = await me(client, token)
        assert (answer.status_code, answer.json().get("code")) == (401, "invalid_token"), number


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner, max_size=4)
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["none", "EdDSA", "HS256", "RS256", "", None, 5]) | JSON,
        "kid": JSON,
        "crit": JSON,
        "b64": JSON,
        "typ": JSON,
        "jku": st.just("http://127.0.0.1/"),
    },
)
DEEP = "[" * 700


@st.composite
def altered(draw: st.DrawFn, token: str) -> str:
    at = draw(st.integers(0, len(token) - 1))
    return token[:at] + draw(st.text(min_size=0, max_size=3)) + token[at + 1 :]


async def test_whatever_comes_as_a_credential_is_refused_and_never_a_5xx(
    client: httpx.AsyncClient, settings: Settings, good: str
) -> None:
    key = derived_ring(settings).signing()
    kid = st.just({"alg": "EdDSA", "kid": key.kid})
    shapes = st.builds(encoded, HEADERS | kid | JSON, JSON, st.binary(max_size=70))
    signed = st.builds(
        lambda claims: jwt.PyJWS().encode(json.dumps(claims).encode(), key.private, "EdDSA", {"kid": key.kid}),
        st.dictionaries(st.sampled_from(["iss", "aud", "sub", "sid", "exp", "iat", "nbf", "jti"]), JSON) | JSON,
    )
    tokens = shapes | signed | altered(good) | st.text(max_size=50) | st.just(f"{b64(DEEP.encode())}.e30.e30")
    schemes = st.sampled_from(["Bearer ", "bearer ", "Bearer  ", "Basic ", "", "Bearer", "DPoP "])
    access_tokens = AccessTokens(settings)

    @hypothesis_settings(
        max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
    )
    @given(st.lists(st.tuples(schemes, tokens), min_size=1, max_size=1))
    def collect(drawn: list[tuple[str, str]]) -> None:
        credentials.extend(drawn)

    credentials: list[tuple[str, str]] = []
    collect()
    for scheme, token in credentials:
        value = f"{scheme}{token}".encode()
        if token != good and not any(byte in value for byte in b"\r\n\x00"):
            answer = await client.get("/v1/me", headers=[(b"authorization", value)])
            assert answer.status_code == 401, value
            assert answer.json()["code"] in {"invalid_token", "sign_in_required"}
        if token != good:
            with pytest.raises(InvalidAccessTokenError):
                await access_tokens.verify(token)
            revoked = await client.post("/v1/auth/revoke", data={"token": token})
            assert revoked.status_code in {204, 422}, value
    assert len(credentials) > 100


async def test_remembered_token_ends_when_it_expires_and_when_its_session_does(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    customer = await make_customer(session)
    headers = customer_headers(settings.model_copy(update={"access_token_seconds": 1}), customer)
    assert (await client.get("/v1/me", headers=headers)).status_code == 200
    expires_at = jwt.decode(headers["Authorization"].split()[1], options={"verify_signature": False})["exp"]
    while time() < expires_at:
        assert (await client.get("/v1/merchants")).status_code == 200
    assert (await client.get("/v1/me", headers=headers)).json()["code"] == "invalid_token"
    lasting = customer_headers(settings, customer)
    for _ in range(2):
        assert (await client.get("/v1/me", headers=lasting)).status_code == 200
    await session.execute(update(CustomerSession).values(ended_at=func.now()))
    assert (await client.get("/v1/me", headers=lasting)).json()["code"] == "invalid_token"


async def test_token_of_a_session_that_never_was_or_is_anothers_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    mine, other = await make_customer(session), await make_customer(session)
    key = derived_ring(settings).signing()
    for session_id in (other.id, new_id()):
        token = issue_access_token(settings, key, customer_id=mine.id, session_id=session_id)
        assert (await me(client, token)).status_code == 401


async def test_processes_agree_through_rotations_and_refuse_no_good_token(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, good: str
) -> None:
    async with in_process(create_app(settings), settings) as second:
        for process in (client, second):
            assert (await me(process, good)).status_code == 200
        assert await published(client) == [derived_ring(settings).signing().kid]
        made = await signing_keys.rotate(session, settings)
        # Published before it signs, by whoever reads again; the old one signs meanwhile.
        fresh = AccessTokens(settings)
        assert set((await fresh.ring()).public) == {made.kid, *await published(client)}
        assert (await fresh.signing_key()).kid != made.kid
        await session.execute(
            update(SigningKey).values(signs_from=func.now() - timedelta(seconds=1)).where(SigningKey.kid == made.kid)
        )
        customer = await make_customer(session)
        key = await AccessTokens(settings).signing_key()
        assert key.kid == made.kid
        renewed = issue_access_token(settings, key, customer_id=customer.id, session_id=customer.id)
        # They have not heard of the key: its name in a token makes them look.
        age_ring(client)
        age_ring(second)
        for process in (client, second):
            assert (await me(process, renewed)).status_code == 200
            assert (await me(process, good)).status_code == 200
            assert made.kid in await published(process)


def age_ring(client: httpx.AsyncClient, seconds: float = 2.0) -> None:
    """Let the process have read its keys some seconds ago."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    transport.app.state.access_tokens._read_at -= seconds  # type: ignore[attr-defined]  # it is our own application


async def published(client: httpx.AsyncClient) -> list[str]:
    answer = await client.get("/.well-known/jwks.json")
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    keys = answer.json()["keys"]
    for key in keys:
        assert set(key) == {"kty", "crv", "alg", "use", "kid", "x"}
        # Others verify with what is published here.
        assert jwt.PyJWK.from_dict(key).key_type == "OKP"
    return [key["kid"] for key in keys]


async def test_published_key_verifies_a_token_elsewhere(client: httpx.AsyncClient, good: str) -> None:
    [key] = jwt.PyJWKSet.from_dict((await client.get("/.well-known/jwks.json")).json()).keys
    assert jwt.get_unverified_header(good)["kid"] == key.key_id
    assert jwt.decode(good, key, audience="cashback", issuer="cashback")["sub"]


async def test_unknown_keys_make_a_process_read_at_most_once_a_second(
    session: AsyncSession, settings: Settings
) -> None:
    now = 100.0
    access_tokens = AccessTokens(settings, clock=lambda: now)
    first = await access_tokens.ring()
    await signing_keys.rotate(session, settings)
    stranger = encoded({"alg": "EdDSA", "kid": "nobody's"}, {})
    with pytest.raises(InvalidAccessTokenError):
        await access_tokens.verify(stranger)
    assert (await access_tokens.ring()) is first
    now += 1.5
    with pytest.raises(InvalidAccessTokenError):
        await access_tokens.verify(stranger)
    assert (await access_tokens.ring()) is not first


async def test_revoked_key_is_refused_once_the_ring_is_read_again(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, good: str
) -> None:
    assert (await me(client, good)).status_code == 200
    made = await signing_keys.rotate(session, settings, revoke=True)
    age_ring(client, 30.0)
    assert (await me(client, good)).status_code == 401
    assert await published(client) == [made.kid]
    assert (await AccessTokens(settings).signing_key()).kid == made.kid


async def test_key_is_rotated_when_it_is_old_and_forgotten_when_none_of_its_tokens_is_left(
    session: AsyncSession, settings: Settings
) -> None:
    assert await signing_keys.rotate_if_due(session, settings)
    assert not await signing_keys.rotate_if_due(session, settings)
    assert await session.scalar(select(func.count()).select_from(SigningKey)) == 2
    old = datetime.now(UTC) - timedelta(days=settings.signing_key_days + 1)
    await session.execute(update(SigningKey).where(SigningKey.verifies_until.is_(None)).values(signs_from=old))
    assert await signing_keys.rotate_if_due(session, settings)
    assert await signing_keys.forget_expired(session, limit=10) == 0
    await session.execute(update(SigningKey).where(SigningKey.verifies_until.is_not(None)).values(verifies_until=old))
    assert [await signing_keys.forget_expired(session, limit=1) for _ in range(3)] == [1, 1, 0]
    assert len((await AccessTokens(settings).ring()).keys) == 1


async def test_keys_outlive_the_database_but_not_their_own_seal(
    session: AsyncSession, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    made = await signing_keys.rotate(session, settings, revoke=True)
    kept = await session.scalar(select(SigningKey.private_encrypted))
    assert kept is not None
    await session.execute(update(SigningKey).values(private_encrypted=b"sealed with a key that was lost"))
    ring = await signing_keys.load_ring(session, settings)
    assert made.kid not in ring.public
    assert "none of ENCRYPTION_KEYS opens a signing key" in caplog.text
    await session.execute(delete(SigningKey))

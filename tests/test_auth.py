"""Tokens: what a password or a refresh token buys, what a stolen one does not, and what is never told."""

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.errors import AppError
from app.models import Customer, CustomerSession, CustomerStatus, RefreshToken, SignInMethod
from app.services import passwords as passwords_module
from app.services import sign_in
from app.services.passwords import PasswordQueueFullError, Passwords
from app.services.sessions import Device
from app.services.signing_keys import derived_ring
from tests.factories import make_customer
from tests.logs import captured_logs, lines_of

EMAIL = "ayesha@example.com"
PASSWORD = "correct horse battery staple"
TOKEN_URL = "/v1/auth/token"


async def register(client: httpx.AsyncClient, email: str = EMAIL) -> dict[str, Any]:
    answer = await client.post("/v1/customers", json={"email": email, "password": PASSWORD})
    assert answer.status_code == 201
    customer: dict[str, Any] = answer.json()
    return customer


async def ask(client: httpx.AsyncClient, email: str = EMAIL, password: str = PASSWORD) -> httpx.Response:
    return await client.post(TOKEN_URL, data={"grant_type": "password", "username": email, "password": password})


async def signed_in(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await ask(client)
    assert answer.status_code == 200
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post(TOKEN_URL, data={"grant_type": "refresh_token", "refresh_token": token})


async def revoke(client: httpx.AsyncClient, token: str) -> int:
    return (await client.post("/v1/auth/revoke", data={"token": token})).status_code


async def me(client: httpx.AsyncClient, access_token: str) -> httpx.Response:
    return await client.get("/v1/me", headers={"Authorization": f"Bearer {access_token}"})


def claims(settings: Settings, access_token: str) -> dict[str, Any]:
    key = derived_ring(settings).signing().public
    decoded: dict[str, Any] = jwt.decode(access_token, key, algorithms=["EdDSA"], audience="cashback")
    return decoded


async def age_used_tokens(session: AsyncSession, seconds: int = 11) -> None:
    """Let the grace of refresh tokens that were used pass."""
    used_at = RefreshToken.used_at - timedelta(seconds=seconds)
    await session.execute(update(RefreshToken).where(RefreshToken.used_at.is_not(None)).values(used_at=used_at))


def is_invalid_grant(answer: httpx.Response) -> bool:
    problem = answer.json()
    return (answer.status_code, problem["code"], problem["error"]) == (400, "invalid_grant", "invalid_grant")


async def test_password_buys_tokens_in_the_form_of_rfc_6749(client: httpx.AsyncClient, settings: Settings) -> None:
    customer = await register(client)
    answer = await ask(client)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    tokens = answer.json()
    assert set(tokens) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert tokens["token_type"] == "bearer"
    assert tokens["expires_in"] == settings.access_token_seconds
    said = claims(settings, tokens["access_token"])
    assert said["sub"] == customer["id"]
    assert said["exp"] - said["iat"] == tokens["expires_in"]
    assert (await me(client, tokens["access_token"])).json() == customer


async def test_swagger_authorize_and_oauth_clients_are_understood(client: httpx.AsyncClient) -> None:
    await register(client)
    # What Swagger UI sends: an empty client in Basic, and members that only other servers know.
    form = {
        "grant_type": "password",
        "username": EMAIL,
        "password": PASSWORD,
        "scope": "",
        "client_id": "web",
        "x": "y",
    }
    basic = base64.b64encode(b":").decode()
    answer = await client.post(TOKEN_URL, data=form, headers={"Authorization": f"Basic {basic}"})
    assert answer.status_code == 200
    document = (await client.get("/openapi.json")).json()
    flow = document["components"]["securitySchemes"]["customer"]["flows"]["password"]
    assert flow["tokenUrl"] == flow["refreshUrl"] == TOKEN_URL
    content = document["paths"][TOKEN_URL]["post"]["requestBody"]["content"]
    assert set(content) == {"application/x-www-form-urlencoded"}


async def test_address_may_be_typed_in_any_case_with_spaces_around(client: httpx.AsyncClient) -> None:
    await register(client, "José@example.com")
    assert (await ask(client, "  JOSÉ@Example.COM ")).status_code == 200
    assert (await ask(client, "Jose\u0301@example.com")).status_code == 200


async def test_wrong_password_and_unknown_address_answer_alike(client: httpx.AsyncClient) -> None:
    await register(client)
    answers = [await ask(client, password="wrong password"), await ask(client, email="nobody@example.com")]
    bodies = []
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        body = answer.json()
        assert body.pop("request_id") == answer.headers["X-Request-ID"]
        bodies.append(body)
    assert bodies[0] == bodies[1]
    assert bodies[0]["code"] == "invalid_credentials"
    assert bodies[0]["error"] == "invalid_grant"
    assert bodies[0]["error_description"] == bodies[0]["detail"]


async def test_argon2_works_as_hard_for_an_unknown_address(
    client: httpx.AsyncClient, session: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client)
    without_password = await make_customer(session)
    spent: list[str] = []
    verify = PasswordHasher.verify

    def watched(self: PasswordHasher, kept: str | bytes, password: str | bytes) -> bool:
        spent.append(str(kept).rsplit("$", 2)[0])
        return verify(self, kept, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    for email in (EMAIL, "nobody@example.com", without_password.email):
        assert (await ask(client, email, "wrong password")).status_code == 401
    assert spent == ["$argon2id$v=19$m=19456,t=2,p=1"] * 3


async def test_customer_without_a_password_cannot_sign_in(client: httpx.AsyncClient, session: AsyncSession) -> None:
    customer = await make_customer(session)
    assert (await ask(client, customer.email, "")).status_code == 422
    assert (await ask(client, customer.email, PASSWORD)).status_code == 401


async def test_frozen_customer_may_sign_in(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await register(client)
    await session.execute(update(Customer).values(status=CustomerStatus.FROZEN))
    tokens = await signed_in(client)
    assert (await refresh(client, tokens["refresh_token"])).status_code == 200


async def test_closed_customer_is_refused_at_once_with_every_token(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    await register(client)
    tokens = await signed_in(client)
    await session.execute(update(Customer).values(status=CustomerStatus.CLOSED, closed_at=func.now()))
    assert (await me(client, tokens["access_token"])).status_code == 401
    assert is_invalid_grant(await refresh(client, tokens["refresh_token"]))


async def test_hash_with_old_parameters_is_renewed_at_sign_in(client: httpx.AsyncClient, session: AsyncSession) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=2).hash(PASSWORD)
    customer = await make_customer(session, password_hash=old)
    assert (await ask(client, customer.email, "wrong password")).status_code == 401
    await session.refresh(customer)
    assert customer.password_hash == old
    assert (await ask(client, customer.email)).status_code == 200
    await session.refresh(customer)
    renewed = customer.password_hash
    assert renewed is not None
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (await ask(client, customer.email)).status_code == 200
    await session.refresh(customer)
    assert customer.password_hash == renewed


async def test_account_closed_while_the_password_is_verified_gets_no_tokens(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    await register(client)

    class Slow(Passwords):
        async def verify(self, password: str, kept: str | None) -> bool:
            right = await super().verify(password, kept)
            await session.execute(update(Customer).values(password_hash=None))
            return right

    key = derived_ring(settings).signing()
    with pytest.raises(sign_in.InvalidCredentialsError):
        await sign_in.sign_in(settings, key, Slow(1), email=EMAIL, password=PASSWORD, device=Device())


async def test_refresh_continues_the_family_and_renews_both_tokens(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await register(client)
    first = await signed_in(client)
    answer = await refresh(client, first["refresh_token"])
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    second = answer.json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    said, before = (claims(settings, tokens["access_token"]) for tokens in (second, first))
    assert (said["sid"], said["sub"]) == (before["sid"], before["sub"])
    assert claims(settings, (await signed_in(client))["access_token"])["sid"] != said["sid"]


async def test_refresh_tokens_are_kept_as_hashes(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await register(client)
    token = (await signed_in(client))["refresh_token"]
    kept = await session.scalar(select(RefreshToken.token_hash))
    assert kept is not None
    assert len(kept) == 32
    assert token.encode() not in kept


async def test_used_refresh_token_ends_its_family_for_good(committed_client: httpx.AsyncClient) -> None:
    await register(committed_client)
    stolen = (await signed_in(committed_client))["refresh_token"]
    other_device = (await signed_in(committed_client))["refresh_token"]
    latest = (await refresh(committed_client, stolen)).json()
    async with db.transaction() as session:
        await age_used_tokens(session)
    reused = await refresh(committed_client, stolen)
    assert is_invalid_grant(reused)
    # The answer was an error, and yet the revocation is committed.
    async with db.transaction() as session:
        revoked = await session.scalars(select(RefreshToken.revoked_at).order_by(RefreshToken.id))
        assert [at is not None for at in revoked] == [True, False, True]
    assert is_invalid_grant(await refresh(committed_client, latest["refresh_token"]))
    assert (await refresh(committed_client, other_device)).status_code == 200
    # Its access tokens end with it.
    assert (await me(committed_client, latest["access_token"])).status_code == 401


async def test_ten_refreshes_of_one_token_at_once_leave_one_lineage(committed_client: httpx.AsyncClient) -> None:
    await register(committed_client)
    token = (await signed_in(committed_client))["refresh_token"]
    answers = await asyncio.gather(*(refresh(committed_client, token) for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    # All were told the same successor: the lineage has not forked.
    [successor] = {answer.json()["refresh_token"] for answer in answers}
    assert len({answer.json()["access_token"] for answer in answers}) == 10
    async with db.transaction() as session:
        assert await session.scalar(select(func.count()).select_from(RefreshToken)) == 2
    follows = await refresh(committed_client, successor)
    assert follows.status_code == 200
    # The first is two steps behind now, which no race explains.
    assert is_invalid_grant(await refresh(committed_client, token))
    assert is_invalid_grant(await refresh(committed_client, follows.json()["refresh_token"]))


async def test_used_refresh_token_leads_to_its_successor_during_the_grace_only(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    await register(client)
    token = (await signed_in(client))["refresh_token"]
    successor = (await refresh(client, token)).json()["refresh_token"]
    assert (await refresh(client, token)).json()["refresh_token"] == successor
    kept = await session.scalar(select(RefreshToken.successor_sealed).where(RefreshToken.used_at.is_not(None)))
    assert kept is not None
    assert successor.encode() not in kept
    await age_used_tokens(session, seconds=settings.refresh_grace_seconds)
    assert is_invalid_grant(await refresh(client, token))
    assert is_invalid_grant(await refresh(client, successor))


async def test_without_a_grace_who_lost_a_race_is_refused_and_the_winner_goes_on(
    session: AsyncSession, settings: Settings
) -> None:
    strict = settings.model_copy(update={"refresh_grace_seconds": 0})
    customer, key, device = await make_customer(session), derived_ring(settings).signing(), Device()
    began = await sign_in.begin(
        session, strict, key, customer_id=customer.id, device=device, method=SignInMethod.PASSWORD
    )
    asked_at = datetime.now(UTC)
    token = began.refresh_token
    won = await sign_in.refresh(strict, key, refresh_token=token, device=device)
    assert await sign_in._rotate(session, strict, key, refresh_token=token, asked_at=asked_at, device=device) is None
    won = await sign_in.refresh(strict, key, refresh_token=won.refresh_token, device=device)
    with pytest.raises(sign_in.InvalidGrantError):
        await sign_in.refresh(strict, key, refresh_token=token, device=device)
    with pytest.raises(sign_in.InvalidGrantError):
        await sign_in.refresh(strict, key, refresh_token=won.refresh_token, device=device)


async def test_session_lasts_no_longer_than_the_longest_however_often_it_is_refreshed(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings
) -> None:
    await register(client)
    token = (await signed_in(client))["refresh_token"]
    oldest = timedelta(seconds=settings.session_max_seconds)
    began_at = datetime.now(UTC) - oldest + timedelta(minutes=1)
    await session.execute(update(CustomerSession).values(created_at=began_at))
    renewed = await refresh(client, token)
    assert renewed.status_code == 200
    last = await session.scalar(select(func.max(RefreshToken.expires_at)).where(RefreshToken.used_at.is_(None)))
    assert last == began_at + oldest
    await session.execute(update(CustomerSession).values(created_at=began_at - timedelta(minutes=2)))
    assert is_invalid_grant(await refresh(client, renewed.json()["refresh_token"]))


async def test_family_of_before_sessions_were_kept_gets_one_at_its_refresh(
    client: httpx.AsyncClient, session: AsyncSession
) -> None:
    await register(client)
    tokens = await signed_in(client)
    await session.execute(delete(CustomerSession))
    assert (await me(client, tokens["access_token"])).status_code == 401
    renewed = (await refresh(client, tokens["refresh_token"])).json()
    assert (await me(client, renewed["access_token"])).status_code == 200


async def until_somebody_waits_for_a_lock() -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(10):
        while True:
            async with db.transaction() as session:
                if (await session.execute(waiting)).scalar_one():
                    return


@pytest.mark.parametrize("end", ["sign out", "reuse", "close the account"])
async def test_family_that_is_being_ended_cannot_grow(
    committed_db: Settings, committed_client: httpx.AsyncClient, end: str
) -> None:
    client = committed_client
    await register(client)
    first = await signed_in(client)
    used = first["refresh_token"]
    current = (await refresh(client, used)).json()["refresh_token"]
    async with db.transaction() as session:
        await age_used_tokens(session)
    async with db.transaction() as session:
        # A refresh that has made its token and has not committed yet.
        key = derived_ring(committed_db).signing()
        grown = await sign_in._rotate(
            session, committed_db, key, refresh_token=current, asked_at=datetime.now(UTC), device=Device()
        )
        assert grown is not None
        match end:
            case "sign out":
                ending = asyncio.create_task(client.post("/v1/auth/revoke", data={"token": used}))
            case "reuse":
                ending = asyncio.create_task(refresh(client, used))
            case _:
                headers = {"Authorization": f"Bearer {first['access_token']}"}
                ending = asyncio.create_task(client.delete("/v1/me", headers=headers))
        await until_somebody_waits_for_a_lock()
        assert not ending.done()
    assert (await ending).status_code in {204, 400}
    async with db.transaction() as session:
        assert await session.scalar(select(func.count()).where(RefreshToken.revoked_at.is_(None))) == 0
    assert is_invalid_grant(await refresh(client, grown.refresh_token))


@pytest.mark.parametrize("token", ["nonsense", "cbr_", "cbr_" + "A" * 43, "nul\x00", "é"])
async def test_unknown_refresh_token_is_an_invalid_grant(client: httpx.AsyncClient, token: str) -> None:
    answer = await refresh(client, token)
    assert is_invalid_grant(answer)
    assert "nonsense" not in answer.text


async def test_expired_refresh_token_is_refused_and_forgotten(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await register(client)
    old, new = (await signed_in(client))["refresh_token"], (await signed_in(client))["refresh_token"]
    first = await session.scalar(select(func.min(RefreshToken.created_at)))
    assert first is not None
    ids = (await session.scalars(select(RefreshToken.id).order_by(RefreshToken.id))).all()
    await session.execute(
        update(RefreshToken)
        .where(RefreshToken.id == ids[0])
        .values(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    )
    assert is_invalid_grant(await refresh(client, old))
    assert await sign_in.forget_expired(session) == 1
    assert await sign_in.forget_expired(session) == 0
    assert (await session.scalars(select(RefreshToken.id))).all() == [ids[1]]
    assert is_invalid_grant(await refresh(client, old))
    assert (await refresh(client, new)).status_code == 200


async def test_expired_tokens_are_forgotten_in_bounded_steps(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await register(client)
    for _ in range(3):
        await signed_in(client)
    await session.execute(update(RefreshToken).values(expires_at=datetime.now(UTC) - timedelta(days=1)))
    assert [await sign_in.forget_expired(session, limit=2) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
async def test_revocation_ends_the_session_with_all_its_tokens(client: httpx.AsyncClient, kind: str) -> None:
    await register(client)
    tokens, other = await signed_in(client), await signed_in(client)
    form = {"token": tokens[kind], "token_type_hint": kind}
    answer = await client.post("/v1/auth/revoke", data=form)
    assert (answer.status_code, answer.content) == (204, b"")
    assert is_invalid_grant(await refresh(client, tokens["refresh_token"]))
    assert (await me(client, tokens["access_token"])).status_code == 401
    assert (await refresh(client, other["refresh_token"])).status_code == 200
    assert (await me(client, other["access_token"])).status_code == 200


async def test_unknown_token_is_revoked_without_complaint(client: httpx.AsyncClient) -> None:
    for token in ("nonsense", "cbr_" + "A" * 43, "a.b.c", "nul\x00", "é"):
        assert await revoke(client, token) == 204
    assert (await client.post("/v1/auth/revoke", data={})).status_code == 422


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"grant_type": "password"},
        {"grant_type": "password", "username": EMAIL},
        {"grant_type": "password", "username": EMAIL, "password": ""},
        {"grant_type": "password", "refresh_token": "secret-in-the-wrong-place"},
        {"grant_type": "refresh_token", "username": EMAIL, "password": "secret-in-the-wrong-place"},
        {"grant_type": "secret-in-the-wrong-place", "username": EMAIL, "password": PASSWORD},
        {"grant_type": "password", "username": "x" * 255, "password": PASSWORD},
        {"grant_type": "password", "username": "nul\x00", "password": PASSWORD},
        {"grant_type": "password", "username": EMAIL, "password": PASSWORD * 5},
        {"grant_type": "refresh_token", "refresh_token": PASSWORD * 10},
    ],
)
async def test_incomplete_token_request_is_refused_without_echo(
    client: httpx.AsyncClient, form: dict[str, str]
) -> None:
    answer = await client.post(TOKEN_URL, data=form)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"
    assert answer.json()["errors"]
    for secret in (PASSWORD, "secret-in-the-wrong-place", EMAIL):
        assert secret not in answer.text


async def test_token_request_in_json_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(TOKEN_URL, json={"grant_type": "password", "username": EMAIL, "password": PASSWORD})
    assert answer.status_code == 415
    assert PASSWORD not in answer.text


async def test_no_secret_is_logged_or_echoed_in_the_whole_flow(committed_client: httpx.AsyncClient) -> None:
    client = committed_client
    answers: list[httpx.Response] = []
    with captured_logs() as output:
        await register(client)
        await register(client)
        answers.append(await client.post("/v1/customers", json={"email": PASSWORD, "password": PASSWORD[:7]}))
        answers.append(await client.post("/v1/customers", content=f'{{"password": "{PASSWORD}"'))
        answers.append(await ask(client, password="another secret"))
        first = await signed_in(client)
        second = (await refresh(client, first["refresh_token"])).json()
        async with db.transaction() as session:
            await age_used_tokens(session)
        answers.append(await refresh(client, first["refresh_token"]))
        answers.append(await refresh(client, second["refresh_token"]))
        answers.append(await me(client, f"{second['access_token']}x"))
        await client.get(f"/v1/nowhere/{first['refresh_token']}?password={PASSWORD}")
        await revoke(client, second["refresh_token"])
        answers.append(await me(client, second["access_token"]))
        third = await signed_in(client)
        await client.delete("/v1/me", headers={"Authorization": f"Bearer {third['access_token']}"})
    logged = output.getvalue()
    routes = {line.get("route") for line in lines_of(output)}
    assert {"/v1/customers", TOKEN_URL, "/v1/auth/revoke", "/v1/me"} <= routes
    assert "its family is revoked" in logged
    texts = [logged, *(answer.text for answer in answers)]
    tokens = [tokens[kind] for tokens in (first, second, third) for kind in ("access_token", "refresh_token")]
    for secret in (PASSWORD, PASSWORD[:7], PASSWORD.replace(" ", "%20"), "another secret", EMAIL, "$argon2id", *tokens):
        assert not any(secret in text for text in texts)


async def test_hashing_runs_beside_the_event_loop_and_only_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords = Passwords(2)
    running: list[int] = []
    most = 0

    class Watched(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            try:
                return super().hash(password, salt=salt)
            finally:
                running.pop()

    monkeypatch.setattr(passwords, "_argon2", Watched(time_cost=2, memory_cost=19456, parallelism=1))
    hashes = asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(12)))
    turns = 0
    while not hashes.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(set(await hashes)) == 12
    assert most == 2
    assert turns > 12


async def test_password_that_waits_too_long_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords_module, "_LONGEST_WAIT_SECONDS", 0)
    passwords = Passwords(1)
    waiting = await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(3)), return_exceptions=True)
    refused = [one for one in waiting if isinstance(one, AppError)]
    assert len(refused) == 2
    assert all(isinstance(one, PasswordQueueFullError) and one.status_code == 503 for one in refused)
    assert await passwords.verify(PASSWORD, next(one for one in waiting if isinstance(one, str)))


async def test_broken_hash_never_matches() -> None:
    passwords = Passwords(1)
    assert not await passwords.verify(PASSWORD, "not a hash")
    assert not await passwords.verify(PASSWORD, None)
    assert not await passwords.verify("", None)

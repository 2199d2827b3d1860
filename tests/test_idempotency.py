"""Idempotency-Key: a repeat gives the first answer and does nothing, whatever the timing."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.models import Click, IdempotencyKey, MerchantStatus
from app.services import idempotency
from app.services.idempotency import KeyedRequest, _lock_number
from tests.factories import customer_headers, make_customer, make_merchant


@pytest.fixture
async def headers(session: AsyncSession, settings: Settings) -> dict[str, str]:
    return customer_headers(settings, await make_customer(session))


async def clicks(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(Click)) or 0


async def test_repeat_gives_the_same_bytes_and_makes_no_second_click(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    headers["Idempotency-Key"] = "key 1"
    first = await client.post("/v1/clicks", json=body, headers=headers)
    again = await client.post("/v1/clicks", json=body, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"] == "application/json"
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await clicks(session) == 1


async def test_without_the_header_every_request_counts(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    for _ in range(2):
        assert (await client.post("/v1/clicks", json=body, headers=headers)).status_code == 201
    assert await clicks(session) == 2
    assert (await session.scalars(select(IdempotencyKey))).all() == []


async def test_answer_is_the_same_with_and_without_a_key(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    bare = (await client.post("/v1/clicks", json=body, headers=headers)).json()
    keyed = (await client.post("/v1/clicks", json=body, headers={**headers, "Idempotency-Key": "k"})).json()
    assert bare.keys() == keyed.keys()
    assert bare["rate"] == keyed["rate"]


async def test_key_with_another_body_is_refused(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session)
    headers |= {"Idempotency-Key": "key", "Content-Type": "application/json"}
    first = await client.post("/v1/clicks", content=f'{{"merchant_id": {merchant.id}}}', headers=headers)
    assert first.status_code == 201
    # The bytes count, not what they mean: a client that repeats sends the same bytes.
    for content in (f'{{"merchant_id":{merchant.id}}}', f'{{"merchant_id": {merchant.id + 1}}}'):
        answer = await client.post("/v1/clicks", content=content, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_key_reused"
    query = await client.post("/v1/clicks?x=1", content=f'{{"merchant_id": {merchant.id}}}', headers=headers)
    assert query.json()["code"] == "idempotency_key_reused"
    assert await clicks(session) == 1


async def test_customers_do_not_share_keys(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, headers: dict[str, str]
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    other = customer_headers(settings, await make_customer(session))
    answers = [
        await client.post("/v1/clicks", json=body, headers={**one, "Idempotency-Key": "same"})
        for one in (headers, other)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["id"] != answers[1].json()["id"]


async def test_failed_request_is_not_remembered_and_may_be_repeated(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    merchant = await make_merchant(session, status=MerchantStatus.PAUSED)
    headers["Idempotency-Key"] = "key"
    body = {"merchant_id": merchant.id}
    assert (await client.post("/v1/clicks", json=body, headers=headers)).status_code == 409
    merchant.status = MerchantStatus.ACTIVE
    await session.flush()
    answer = await client.post("/v1/clicks", json=body, headers=headers)
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers


async def test_replay_still_needs_the_sign_in(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str]
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    await client.post("/v1/clicks", json=body, headers={**headers, "Idempotency-Key": "key"})
    assert (await client.post("/v1/clicks", json=body, headers={"Idempotency-Key": "key"})).status_code == 401


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"tab\there", "ключ".encode(), b"\x7f", b"\xe9"])
async def test_keys_that_are_no_printable_ascii_of_sane_length_are_refused(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str], key: bytes
) -> None:
    sent = {name.encode(): value.encode() for name, value in headers.items()} | {b"Idempotency-Key": key}
    answer = await client.post("/v1/clicks", json={"merchant_id": 1}, headers=sent)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_request"


@pytest.mark.parametrize("key", ["x", "x" * 255, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ 09azAZ"])
async def test_keys_of_any_printable_ascii_are_taken(
    client: httpx.AsyncClient, session: AsyncSession, headers: dict[str, str], key: str
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    headers["Idempotency-Key"] = key
    answers = [await client.post("/v1/clicks", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[1].headers["Idempotency-Replayed"] == "true"


# --- Time


async def test_answer_is_kept_for_a_day_and_then_forgotten(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, headers: dict[str, str]
) -> None:
    body = {"merchant_id": (await make_merchant(session)).id}
    headers["Idempotency-Key"] = "key"
    first = await client.post("/v1/clicks", json=body, headers=headers)
    row = (await session.scalars(select(IdempotencyKey))).one()
    assert row.expires_at - datetime.now(UTC) > timedelta(hours=settings.idempotency_key_hours, minutes=-1)
    assert await idempotency.forget_expired(session) == 0
    await session.execute(update(IdempotencyKey).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    # Over, but not deleted yet: the key is free, and its row is taken over.
    second = await client.post("/v1/clicks", json=body, headers=headers)
    assert second.json()["id"] != first.json()["id"]
    third = await client.post("/v1/clicks", json=body, headers=headers)
    assert third.content == second.content
    await session.execute(update(IdempotencyKey).values(expires_at=datetime.now(UTC) - timedelta(days=1)))
    assert await idempotency.forget_expired(session) == 1
    assert await clicks(session) == 2


async def test_forgetting_goes_in_bounded_steps_oldest_first(session: AsyncSession) -> None:
    for hours in range(1, 6):
        session.add(
            IdempotencyKey(
                scope="s",
                key=str(hours),
                request_hash=b"",
                status_code=201,
                body=b"",
                expires_at=datetime.now(UTC) - timedelta(hours=hours),
            )
        )
    await session.flush()
    assert await idempotency.forget_expired(session, limit=2) == 2
    kept = (await session.scalars(select(IdempotencyKey.key).order_by(IdempotencyKey.key))).all()
    assert kept == ["1", "2", "3"]
    assert await idempotency.forget_expired(session) == 3


# --- Races


@pytest.fixture
async def patient_db(committed_db: Settings) -> Settings:
    """A database whose pool may be waited for: fifty requests share thirty connections, on a busy machine slowly."""
    await db.close_database()
    patient = committed_db.model_copy(update={"db_pool_timeout_seconds": 60.0})
    await db.open_database(patient, application_name="tests", pool_size=10, max_overflow=20)
    return patient


async def test_fifty_requests_at_once_make_one_click(committed_client: httpx.AsyncClient, patient_db: Settings) -> None:
    async with db.transaction() as session:
        merchant = await make_merchant(session)
        headers = customer_headers(patient_db, await make_customer(session))
    headers["Idempotency-Key"] = "one"
    body = {"merchant_id": merchant.id}
    answers = await asyncio.gather(
        *(committed_client.post("/v1/clicks", json=body, headers=headers) for _ in range(50))
    )
    made = [answer for answer in answers if answer.status_code == 201]
    assert {answer.json()["code"] for answer in answers if answer not in made} <= {"idempotency_in_flight"}
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in made}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in made) == 1
    async with db.transaction() as session:
        assert await clicks(session) == 1
    last = await committed_client.post("/v1/clicks", json=body, headers=headers)
    assert last.content == made[0].content


async def test_fifty_keys_at_once_make_fifty_clicks(committed_client: httpx.AsyncClient, patient_db: Settings) -> None:
    async with db.transaction() as session:
        merchant = await make_merchant(session)
        headers = customer_headers(patient_db, await make_customer(session))
    answers = await asyncio.gather(
        *(
            committed_client.post(
                "/v1/clicks", json={"merchant_id": merchant.id}, headers={**headers, "Idempotency-Key": str(number)}
            )
            for number in range(50)
        )
    )
    assert {answer.status_code for answer in answers} == {201}
    async with db.transaction() as session:
        assert await clicks(session) == 50


async def test_request_in_flight_is_a_conflict_and_a_crash_leaves_nothing(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with db.transaction() as session:
        merchant = await make_merchant(session)
        customer = await make_customer(session)
    headers = {**customer_headers(committed_db, customer), "Idempotency-Key": "key"}
    body = {"merchant_id": merchant.id}
    number = _lock_number(KeyedRequest(str(customer.id), "key", b""))
    async with db.AsyncSessionLocal() as stuck:
        await stuck.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})
        answer = await committed_client.post("/v1/clicks", json=body, headers=headers)
        assert answer.status_code == 409
        assert answer.json()["code"] == "idempotency_in_flight"
        # The first one's process dies here: its transaction goes, and its lock with it.
        await stuck.rollback()
    answer = await committed_client.post("/v1/clicks", json=body, headers=headers)
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers

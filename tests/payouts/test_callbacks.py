"""Callbacks: proven, then only a reason to ask. Twice, late, shuffled or forged, they move no money by themselves."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from app import db
from app.db import transaction
from app.ids import new_id
from app.main import create_app
from app.models import Payout, PayoutStatus
from app.services.payouts import send
from app.services.payouts.providers import Answer, Outcome, payout_key
from app.workers.payouts import payout_sender
from tests.conftest import in_process
from tests.factories import make_payout
from tests.payouts.provider_server import SECRET, call_back
from tests.payouts.sending import Sending
from tests.webhooks.sender import signed_headers

PATH = "/v1/payout-callbacks"
OTHER_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="


@pytest.fixture
async def client(sending: Sending) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(create_app(sending.settings), sending.settings) as client:
        yield client


@pytest.fixture
async def payout(sending: Sending) -> Payout:
    """A payout that the provider has, and of which it has said `pending`."""
    payout = await sending.approve()
    await sending.work()
    return payout


async def test_a_callback_makes_the_payout_be_asked_about_at_once(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    sending.server.finish("paid")
    answer = await call_back(client, payout_key(payout.id), "paid", reference="prov-1")
    assert (answer.status_code, answer.json()) == (202, {"status": "accepted"})
    # Told, but not believed: the payout is where it was until the provider has answered.
    assert (await sending.see(payout)).status is PayoutStatus.SENT
    assert await sending.work() == 1
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert await sending.wallet(payout) == (0, 0, 60_000)


async def test_a_callback_rings_for_the_worker(client: httpx.AsyncClient, payout: Payout) -> None:
    rung: list[str] = []
    db.set_bell(lambda rings: rung.extend(ring.task for ring in rings))
    await call_back(client, payout_key(payout.id), "pending")
    assert rung == []
    await call_back(client, payout_key(payout.id), "failed")
    assert rung == ["send_payouts"]


async def test_duplicates_and_callbacks_out_of_order_change_nothing(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    sending.server.finish("paid")
    told = ["pending", "paid", "paid", "pending", "failed", "paid", "pending", "failed"]
    random.Random(7).shuffle(told)  # noqa: S311 - the same order each time
    for status in told:
        answer = await call_back(client, payout_key(payout.id), status)
        assert answer.status_code == 202
        await sending.work()
        assert (await sending.see(payout)).status in {PayoutStatus.SENT, PayoutStatus.PAID}
    settled = await sending.see(payout)
    assert (settled.status, settled.next_attempt_at) == (PayoutStatus.PAID, None)
    assert await sending.wallet(payout) == (0, 0, 60_000)


async def test_a_pending_after_paid_does_not_even_ask(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    sending.server.finish("paid")
    await call_back(client, payout_key(payout.id), "paid")
    await sending.work()
    asked = len(sending.server.requests)
    for status in ("pending", "paid"):
        assert (await call_back(client, payout_key(payout.id), status)).status_code == 202
    assert await sending.work() == 0
    assert len(sending.server.requests) == asked


async def test_callbacks_that_race_with_each_other_and_the_worker_settle_once(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    sending.server.finish("paid")
    key = payout_key(payout.id)
    answers = await asyncio.gather(
        *(call_back(client, key, status) for status in ("paid", "pending", "failed", "paid") * 5),
        *(payout_sender(sending.settings)() for _ in range(3)),
    )
    assert {answer.status_code for answer in answers if isinstance(answer, httpx.Response)} == {202}
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert await sending.wallet(payout) == (0, 0, 60_000)


async def test_a_callback_between_an_answer_and_its_record_is_not_lost(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    await sending.make_due()
    async with transaction() as session:
        claim = await send.claim_due(session, sending.settings)
    assert claim is not None
    sending.server.finish("paid")
    await call_back(client, payout_key(payout.id), "paid")
    # What was heard before the callback came is written down, and yet the provider is asked at once.
    async with transaction() as session:
        assert await send.record(session, claim, Answer(Outcome.PENDING, "prov-1")) is True
    assert await sending.work() == 1
    assert (await sending.see(payout)).status is PayoutStatus.PAID


async def test_a_stolen_secret_moves_no_money(sending: Sending, client: httpx.AsyncClient, payout: Payout) -> None:
    for status in ("failed", "paid"):
        await call_back(client, payout_key(payout.id), status)
        await sending.work()
        assert (await sending.see(payout)).status is PayoutStatus.SENT
    assert await sending.wallet(payout) == (0, 60_000, 0)


async def test_a_callback_of_money_that_came_back_gives_it_back(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    for status in ("paid", "failed"):
        sending.server.finish(status, "returned by the bank" if status == "failed" else None)
        await call_back(client, payout_key(payout.id), status)
        await sending.work()
    assert (await sending.see(payout)).reason == "returned by the bank"
    assert await sending.wallet(payout) == (60_000, 0, 0)


@pytest.mark.parametrize("seconds", [-301, 301])
async def test_a_callback_of_another_time_is_refused(
    sending: Sending, client: httpx.AsyncClient, payout: Payout, seconds: int
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    await refused(sending, payout, await call_back(client, payout_key(payout.id), "failed", at=at))


async def test_a_callback_with_another_secret_without_one_or_changed_on_the_way_is_refused(
    sending: Sending, client: httpx.AsyncClient, payout: Payout
) -> None:
    key = payout_key(payout.id)
    await refused(sending, payout, await call_back(client, key, "failed", secret=OTHER_SECRET))
    body = orjson.dumps({"id": key, "status": "failed"})
    await refused(sending, payout, await client.post(PATH, content=body))
    changed = body.replace(b"failed", b"failec")
    await refused(sending, payout, await client.post(PATH, content=changed, headers=signed_headers(body)))
    await refused(sending, payout, await client.post(PATH, content=body[:-1], headers=signed_headers(body)))


async def refused(sending: Sending, payout: Payout, answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (401, "invalid_signature")
    before = len(sending.server.requests)
    await sending.work()
    assert len(sending.server.requests) == before
    assert (await sending.see(payout)).status is PayoutStatus.SENT


async def test_without_a_secret_no_callback_is_believed(sending: Sending, payout: Payout) -> None:
    without = sending.settings.model_copy(update={"payout_callback_secrets": []})
    async with in_process(create_app(without), without) as client:
        assert (await call_back(client, payout_key(payout.id), "paid")).status_code == 401


async def test_both_secrets_hold_while_they_are_exchanged(sending: Sending, payout: Payout) -> None:
    both = sending.settings.model_copy(update={"payout_callback_secrets": [SecretStr(OTHER_SECRET), SecretStr(SECRET)]})
    async with in_process(create_app(both), both) as client:
        for secret in (SECRET, OTHER_SECRET):
            assert (await call_back(client, payout_key(payout.id), "paid", secret=secret)).status_code == 202


async def test_a_payout_that_the_provider_cannot_have_is_not_found(sending: Sending, client: httpx.AsyncClient) -> None:
    async with transaction() as session:
        by_batch = await make_payout(session, sending.settings)
    for payout_id in (new_id(), by_batch.id):
        answer = await call_back(client, payout_key(payout_id), "paid")
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_payout")


async def test_a_payout_that_was_not_sent_yet_is_left_to_the_worker(
    sending: Sending, client: httpx.AsyncClient
) -> None:
    payout = await sending.approve()
    assert (await call_back(client, payout_key(payout.id), "paid")).status_code == 202
    assert (await sending.see(payout)).status is PayoutStatus.APPROVED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{}",
        b'{"id": "payout-1", "status": "paid"}',
        b'{"id": "payout-------------------------------------", "status": "paid"}',
        b'{"id": "0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40", "status": "paid"}',
        b'{"id": "payout-0197b2a4-70aa-7c11-8f21-9d1e5c7b6a40", "status": "done"}',
        b'{"id": 7, "status": "paid"}',
        b"[" * 100_000,
    ],
)
async def test_a_signed_body_that_is_no_callback_names_its_fault(
    sending: Sending, client: httpx.AsyncClient, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    headers: dict[str, Any] = signed_headers(content) if content != b"\xff" else signed_headers(b"x")
    answer = await client.post(PATH, content=content, headers=headers)
    if content == b"\xff":
        # No UTF-8, so nothing that could have been signed.
        assert answer.status_code == 401
        return
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_payout_callback")
    assert answer.json()["errors"][0]["loc"][0] == "body"


async def test_a_body_beyond_the_limit_of_webhooks_is_refused(sending: Sending, client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, content=b"x" * (sending.settings.max_webhook_body_bytes + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

"""The HTTP provider's answers: what each says, and that everything doubtful says nothing."""

import logging
from collections.abc import AsyncIterator

import orjson
import pytest
from pydantic import SecretStr

from app.config import Settings
from app.ids import new_id
from app.models import PayoutMethodKind
from app.services.payouts.accounts import PayoutAccount
from app.services.payouts.http_provider import HttpProvider, open_http_provider
from app.services.payouts.providers import Answer, Instruction, Outcome
from tests.payouts.provider_server import TOKEN, Manner, PayoutServer, Turn

ACCOUNT = PayoutAccount(PayoutMethodKind.IBAN, "Ayesha Khan", country="PK", iban="PK36SCBL0000001123456702")
DOUBTFUL = [manner for manner in Manner if manner is not Manner.WELL]


@pytest.fixture
async def server() -> AsyncIterator[PayoutServer]:
    async with PayoutServer() as server:
        yield server


@pytest.fixture
async def provider(server: PayoutServer, settings: Settings) -> AsyncIterator[HttpProvider]:
    async with open_http_provider(server.settings(settings)) as provider:
        yield provider


def instruction() -> Instruction:
    return Instruction(new_id(), 245_000, "PKR", ACCOUNT)


async def test_a_payout_is_posted_under_its_key_with_the_token_and_without_empty_members(
    server: PayoutServer, provider: HttpProvider
) -> None:
    wanted = instruction()
    answer = await provider.pay(wanted)
    assert answer == Answer(Outcome.PENDING, "prov-1")
    [request] = server.requests
    key = f"payout-{wanted.payout_id}"
    assert request.headers["idempotency-key"] == key
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert orjson.loads(request.body) == {
        "amount_minor": 245_000,
        "currency": "PKR",
        "reference": key,
        "account": {"kind": "iban", "holder": "Ayesha Khan", "country": "PK", "iban": "PK36SCBL0000001123456702"},
    }


async def test_asking_tells_pending_paid_failed_and_never_heard_of(
    server: PayoutServer, provider: HttpProvider
) -> None:
    wanted = instruction()
    assert await provider.ask(wanted.payout_id) == Answer(Outcome.UNSEEN)
    await provider.pay(wanted)
    assert await provider.ask(wanted.payout_id) == Answer(Outcome.PENDING, "prov-1")
    server.finish("paid")
    assert await provider.ask(wanted.payout_id) == Answer(Outcome.PAID, "prov-1")
    server.finish("failed", "account closed")
    assert await provider.ask(wanted.payout_id) == Answer(Outcome.FAILED, "prov-1", "account closed")


@pytest.mark.parametrize("status", [400, 402, 410, 422])
async def test_a_refusal_with_the_documented_body_is_a_failure(
    server: PayoutServer, provider: HttpProvider, status: int
) -> None:
    server.posts.append(Turn(refusal=(status, "account_invalid", "The account\n does not exist")))
    answer = await provider.pay(instruction())
    assert answer == Answer(Outcome.FAILED, reason="The account does not exist (account_invalid)")


@pytest.mark.parametrize("status", [401, 403, 404, 408, 409, 421, 425, 429, 500, 502, 503, 504])
async def test_other_errors_refuse_nothing_even_with_that_body(
    server: PayoutServer, provider: HttpProvider, status: int
) -> None:
    server.posts.append(Turn(refusal=(status, "account_invalid", "no")))
    answer = await provider.pay(instruction())
    assert answer == Answer(Outcome.UNKNOWN, reason=f"The provider answered {status}.")


async def test_a_key_that_was_used_otherwise_speaks_of_an_earlier_request(
    server: PayoutServer, provider: HttpProvider
) -> None:
    wanted = instruction()
    await provider.pay(wanted)
    answer = await provider.pay(Instruction(wanted.payout_id, 1, "PKR", ACCOUNT))
    assert answer.outcome is Outcome.UNKNOWN
    assert len(server.books) == 1


@pytest.mark.parametrize("manner", DOUBTFUL)
async def test_an_answer_that_is_not_whole_and_clear_says_nothing(
    server: PayoutServer, provider: HttpProvider, settings: Settings, manner: Manner
) -> None:
    wanted = instruction()
    server.posts.append(Turn(manner))
    server.gets.append(manner)
    async with open_http_provider(server.settings(settings, payout_http_timeout_seconds=1.0)) as brief:
        for answer in (await brief.pay(wanted), await brief.ask(wanted.payout_id)):
            assert answer.outcome is Outcome.UNKNOWN
            assert answer.reason is not None
    # Asked once more, all is clear.
    assert await provider.ask(wanted.payout_id) == Answer(Outcome.PENDING, "prov-1")


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "done"}',
        b'{"status": "PAID"}',
        b'{"status": null}',
        b'{"status": "paid", "reference": 7}',
        b'{"status": "paid", "reference": ""}',
        b'{"state": "paid"}',
        b'["paid"]',
        b'"paid"',
        b"",
        b"\xff\xfe",
        b"[" * 60_000,
    ],
)
async def test_a_body_that_is_not_in_the_protocol_says_nothing(
    server: PayoutServer, provider: HttpProvider, body: bytes
) -> None:
    server.gets.append(body)
    answer = await provider.ask(new_id())
    assert answer == Answer(Outcome.UNKNOWN, reason="The provider answered 200 with a body that cannot be read.")


async def test_an_address_where_nobody_listens_says_nothing(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={"payout_http_url": "http://127.0.0.1:1", "payout_http_token": SecretStr(TOKEN)}
    )
    async with open_http_provider(nowhere) as provider:
        answer = await provider.pay(instruction())
    assert answer == Answer(Outcome.UNKNOWN, reason="The connection to the provider failed (ConnectError).")


async def test_a_wrong_address_of_the_provider_is_not_taken_for_never_heard_of(
    server: PayoutServer, settings: Settings
) -> None:
    wrong = server.settings(settings, payout_http_url=f"{server.url}/wrong")
    async with open_http_provider(wrong) as provider:
        answer = await provider.ask(new_id())
    assert answer == Answer(Outcome.UNKNOWN, reason="The provider answered 404.")


async def test_what_a_provider_writes_is_kept_short_and_printable(server: PayoutServer, provider: HttpProvider) -> None:
    wanted = instruction()
    await provider.pay(wanted)
    server.finish("failed", "x\x00\u202ey\r\n" + "z" * 5_000)
    answer = await provider.ask(wanted.payout_id)
    assert answer.reason is not None
    assert answer.reason.startswith("x y zzz")
    assert len(answer.reason) == 300


async def test_neither_account_nor_token_gets_into_a_log(
    server: PayoutServer, provider: HttpProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.posts.append(Turn(Manner.DROP))
    wanted = instruction()
    await provider.pay(wanted)
    assert "SCBL" not in repr(wanted)
    assert "SCBL" not in caplog.text
    assert TOKEN not in caplog.text

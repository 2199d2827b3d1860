"""Sending by the HTTP provider: whatever is lost on the way, the provider pays once and the ledger knows it.

The provider is a real server with books of its own; the worker's job is the real one, on committed transactions.
"""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlalchemy import func, select

from app import db
from app.db import transaction
from app.models import (
    Account,
    Customer,
    CustomerStatus,
    Payout,
    PayoutStatus,
    Posting,
    StaffRole,
    Wallet,
)
from app.services.payouts import send
from app.services.payouts.http_provider import open_http_provider
from app.services.payouts.providers import payout_key
from app.workers.payouts import payout_sender
from tests.factories import make_payout, staff_headers
from tests.payouts.provider_server import Manner, Turn
from tests.payouts.sending import Sending

# Manners that may well come after the provider has accepted.
LOST = [
    Manner.HANG,
    Manner.DRIP,
    Manner.DROP,
    Manner.HALF,
    Manner.GARBAGE,
    Manner.ANOTHER,
    Manner.HUGE,
    Manner.ERROR,
    Manner.PLAIN_422,
]


async def test_an_approved_payout_is_sent_once_and_paid_when_the_provider_says_so(sending: Sending) -> None:
    payout = await sending.approve(amount=60_000, fee_minor=500)
    assert await sending.work() == 1
    sent = await sending.see(payout)
    assert (sent.status, sent.provider_reference, sent.reason, sent.tries) == (PayoutStatus.SENT, "prov-1", None, 1)
    assert sent.next_attempt_at is not None
    assert 0 < (sent.next_attempt_at - datetime.now(UTC)).total_seconds() < 7
    [made] = sending.server.books.values()
    # The fee stays here.
    assert made.content["amount_minor"] == 59_500
    assert made.content["account"]["account_number"]
    # Nothing is due, so nobody is asked.
    assert await sending.work() == 0

    sending.server.finish("paid")
    await sending.make_due()
    assert await sending.work() == 1
    paid = await sending.see(payout)
    assert (paid.status, paid.next_attempt_at) == (PayoutStatus.PAID, None)
    assert await sending.wallet(payout) == (0, 0, 60_000)
    assert (len(sending.server.asked("POST")), len(sending.server.asked("GET"))) == (1, 1)


@pytest.mark.parametrize("manner", LOST)
async def test_an_answer_lost_after_accepting_is_one_payout_after_reconciliation(
    sending: Sending, manner: Manner
) -> None:
    """Row 24: the provider accepts and then times out (or breaks off, or answers nonsense)."""
    payout = await sending.approve()
    sending.server.posts.append(Turn(manner))
    await sending.work_briefly()
    unknown = await sending.see(payout)
    assert unknown.status is PayoutStatus.SENT
    assert unknown.reason is not None
    assert await sending.wallet(payout) == (0, 60_000, 0)

    sending.server.finish("paid")
    await sending.make_due()
    await sending.work()
    settled = await sending.see(payout)
    assert (settled.status, settled.reason, settled.provider_reference) == (PayoutStatus.PAID, None, "prov-1")
    assert list(sending.server.books) == [payout_key(payout.id)]
    assert len(sending.server.asked("POST")) == 1
    assert await sending.wallet(payout) == (0, 0, 60_000)


@pytest.mark.parametrize("manner", LOST)
async def test_a_request_lost_before_it_was_accepted_is_sent_again_under_its_key(
    sending: Sending, manner: Manner
) -> None:
    payout = await sending.approve()
    sending.server.posts.append(Turn(manner, accepts=False))
    await sending.work_briefly()
    assert (await sending.see(payout)).status is PayoutStatus.SENT
    assert sending.server.books == {}

    sending.server.becomes = "paid"
    await sending.make_due()
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert list(sending.server.books) == [payout_key(payout.id)]
    posts = sending.server.asked("POST")
    assert len(posts) == 2
    assert posts[0].body == posts[1].body


async def test_a_question_without_an_answer_is_asked_again_and_never_a_second_order(sending: Sending) -> None:
    payout = await sending.approve()
    sending.server.posts.append(Turn(Manner.DROP))
    await sending.work()
    sending.server.finish("paid")
    for manner in (Manner.HANG, Manner.ERROR, Manner.GARBAGE, Manner.UNAUTHORIZED, Manner.BUSY):
        sending.server.gets.append(manner)
        await sending.make_due()
        await sending.work_briefly()
        assert (await sending.see(payout)).status is PayoutStatus.SENT
    await sending.make_due()
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert len(sending.server.asked("POST")) == 1


async def test_a_refusal_fails_the_payout_and_gives_the_money_back(sending: Sending) -> None:
    payout = await sending.approve(amount=60_000, fee_minor=500)
    sending.server.posts.append(Turn(refusal=(422, "account_closed", "This account is closed")))
    await sending.work()
    failed = await sending.see(payout)
    assert (failed.status, failed.next_attempt_at) == (PayoutStatus.FAILED, None)
    assert failed.reason == "This account is closed (account_closed)"
    assert await sending.wallet(payout) == (60_000, 0, 0)


async def test_a_payout_that_fails_at_the_provider_gives_the_money_back_also_after_it_was_paid(
    sending: Sending,
) -> None:
    first, second = await sending.approve(), await sending.approve()
    await sending.work()
    sending.server.books[payout_key(first.id)].status = "failed"
    sending.server.books[payout_key(second.id)].status = "paid"
    await sending.make_due()
    await sending.work()
    assert (await sending.see(first)).reason == "The provider gave no reason."
    assert await sending.wallet(first) == (60_000, 0, 0)
    assert await sending.wallet(second) == (0, 0, 60_000)

    # The bank sends it back; a callback makes it due.
    sending.server.finish("failed", "returned by the bank")
    async with transaction() as session:
        (await session.get_one(Payout, second.id)).next_attempt_at = datetime.now(UTC)
    await sending.work()
    returned = await sending.see(second)
    assert (returned.status, returned.reason, returned.next_attempt_at) == (
        PayoutStatus.FAILED,
        "returned by the bank",
        None,
    )
    assert await sending.wallet(second) == (60_000, 0, 0)


async def test_paid_by_the_providers_word_after_it_failed_stays_in_sight_until_staff_have_looked(
    sending: Sending, committed_client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    payout = await sending.approve()
    await sending.work()
    sending.server.finish("failed")
    await sending.make_due()
    await sending.work()
    assert await sending.wallet(payout) == (60_000, 0, 0)

    sending.server.finish("paid")
    async with transaction() as session:
        (await session.get_one(Payout, payout.id)).next_attempt_at = datetime.now(UTC)
    await sending.work()
    contradicted = await sending.see(payout)
    assert (contradicted.status, contradicted.next_attempt_at is None) == (PayoutStatus.FAILED, False)
    assert await sending.wallet(payout) == (60_000, 0, 0)
    assert "payouts_contradicted 1.0" in (await committed_client.get("/metrics")).text

    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
    body = {"status": "failed", "reason": "seen"}
    await committed_client.post(f"/v1/admin/payouts/{payout.id}/settle", json=body, headers=headers)
    assert "payouts_contradicted 0.0" in (await committed_client.get("/metrics")).text


async def test_a_payout_the_provider_does_not_know_after_a_day_is_left_to_people(sending: Sending) -> None:
    payout = await sending.approve()
    sending.server.posts.append(Turn(Manner.DROP))
    await sending.work()
    # Providers forget their keys, and old payouts: "never heard of it" may be said of one that was paid.
    forgotten = sending.server.books.pop(payout_key(payout.id))
    await sending.was_sent(payout, ago=timedelta(hours=24, minutes=1))
    for _ in range(3):
        await sending.make_due()
        await sending.work()
    left = await sending.see(payout)
    assert (left.status, left.reason) == (
        PayoutStatus.SENT,
        "The provider does not know it, and it is too late to send it once more.",
    )
    assert len(sending.server.asked("POST")) == 1
    # Should the provider remember, that is what counts.
    forgotten.status = "paid"
    sending.server.books[payout_key(payout.id)] = forgotten
    await sending.make_due()
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID


async def test_waits_between_questions_grow_to_a_quarter_of_an_hour_and_never_end(sending: Sending) -> None:
    payout = await sending.approve()
    waits = []
    for _ in range(12):
        await sending.make_due()
        sending.server.posts.append(Turn(Manner.ERROR, accepts=False))
        await sending.work()
        found = await sending.see(payout)
        assert found.next_attempt_at is not None
        waits.append((found.next_attempt_at - datetime.now(UTC)).total_seconds())
    assert (await sending.see(payout)).tries == 12
    for number, wait in enumerate(waits):
        expected = min(5 * 2**number, 900)
        # Some of it may be over when we look.
        assert 0.8 * expected - 4 < wait < 1.2 * expected
    assert len({round(wait, 3) for wait in waits[8:]}) > 1


async def test_an_account_that_no_key_opens_is_not_sent_and_says_so(sending: Sending) -> None:
    payout = await sending.approve()
    rotated = sending.settings.model_copy(update={"encryption_keys": [SecretStr(Fernet.generate_key().decode())]})
    await payout_sender(rotated)()
    unreadable = await sending.see(payout)
    assert (unreadable.status, unreadable.reason) == (
        PayoutStatus.SENT,
        "None of ENCRYPTION_KEYS opens its account; bring its key back.",
    )
    assert sending.server.books == {}
    await sending.make_due()
    await sending.work()
    assert len(sending.server.books) == 1


async def test_a_frozen_customers_payout_waits_and_one_under_way_is_followed(sending: Sending) -> None:
    waiting, under_way = await sending.approve(), await sending.approve()
    async with transaction() as session:
        (await session.get_one(Customer, waiting.customer_id)).status = CustomerStatus.FROZEN
    await sending.work()
    assert list(sending.server.books) == [payout_key(under_way.id)]
    async with transaction() as session:
        (await session.get_one(Customer, under_way.customer_id)).status = CustomerStatus.FROZEN
        (await session.get_one(Customer, waiting.customer_id)).status = CustomerStatus.ACTIVE
    sending.server.finish("paid")
    await sending.make_due()
    await sending.work()
    assert (await sending.see(under_way)).status is PayoutStatus.PAID
    assert (await sending.see(waiting)).status is PayoutStatus.SENT


async def test_batch_payouts_are_none_of_the_providers_business(sending: Sending) -> None:
    async with transaction() as session:
        payout = await make_payout(session, sending.settings)
        payout.next_attempt_at = datetime.now(UTC)
    assert await sending.work() == 0
    assert (await sending.see(payout)).status is PayoutStatus.APPROVED


async def test_an_outage_of_the_provider_leaves_most_payouts_approved(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        await sending.approve()
    sending.server.posts.extend([Turn(Manner.ERROR, accepts=False)] * 20)
    asked = await sending.work()
    # Five silences in a row, and what was under way meanwhile.
    assert 5 <= asked <= 8
    async with transaction() as session:
        approved = select(func.count()).select_from(Payout).where(Payout.status == PayoutStatus.APPROVED)
        assert (await session.scalars(approved)).one() == 20 - asked
    sending.server.posts.clear()
    await sending.make_due()
    assert await sending.work() == 20
    assert len(sending.server.books) == 20


async def test_without_a_provider_approved_payouts_wait_and_a_warning_tells(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    payout = await sending.approve()
    without = sending.settings.model_copy(update={"payout_http_url": None})
    assert await payout_sender(without)() == 0
    assert (await sending.see(payout)).status is PayoutStatus.APPROVED
    [record] = [record for record in caplog.records if record.name == "app.workers.payouts"]
    assert record.message == "payouts wait for a provider: set PAYOUT_HTTP_URL"


async def test_metrics_show_what_is_on_its_way_and_what_is_unknown(
    sending: Sending, committed_client: httpx.AsyncClient
) -> None:
    async def shown() -> list[str]:
        text = (await committed_client.get("/metrics")).text
        return [line for line in text.splitlines() if line.startswith("payouts_")]

    empty = await shown()
    assert 'payouts_unfinished{provider="http",status="sent"} 0.0' in empty
    assert {"payouts_unknown 0.0", "payouts_unknown_oldest_seconds 0.0"} <= set(empty)
    await sending.approve()
    await sending.work()
    unknown = await sending.approve()
    sending.server.posts.append(Turn(Manner.DROP))
    await sending.work()
    await sending.approve()
    await sending.was_sent(unknown, ago=timedelta(minutes=10))
    lines = await shown()
    assert 'payouts_unfinished{provider="http",status="sent"} 2.0' in lines
    assert 'payouts_unfinished{provider="http",status="approved"} 1.0' in lines
    assert "payouts_unknown 1.0" in lines
    [age] = [float(line.split()[1]) for line in lines if line.startswith("payouts_unknown_oldest_seconds")]
    assert 600 <= age < 660


# --- Races, and attempts that outlive their lease


async def test_workers_that_race_send_each_payout_once(sending: Sending) -> None:
    payouts = [await sending.approve() for _ in range(20)]
    workers = [payout_sender(sending.settings) for _ in range(4)]
    await asyncio.gather(*(work() for work in workers))
    assert sorted(sending.server.books) == sorted(payout_key(payout.id) for payout in payouts)
    assert len(sending.server.asked("POST")) == 20
    for payout in payouts:
        assert (await sending.see(payout)).tries == 1


async def test_an_attempt_that_outlives_its_lease_is_overtaken(sending: Sending) -> None:
    """The provider has it and the first worker still waits; a second one asks, and the first one's word comes late."""
    payout = await sending.approve()
    sending.server.gate = asyncio.Event()
    first = asyncio.create_task(sending.work())
    async with asyncio.timeout(5):
        while not sending.server.books:
            await asyncio.sleep(0.01)
    sending.server.finish("failed", "account closed")
    await sending.make_due()
    await payout_sender(sending.settings)()
    # The first worker's own further questions may have been quicker to take it than the second worker.
    async with asyncio.timeout(5):
        while (await sending.see(payout)).status is not PayoutStatus.FAILED:
            await asyncio.sleep(0.01)

    # What the first one hears in the end is older than what the second one wrote.
    sending.server.finish("paid")
    sending.server.gate.set()
    await first
    assert (await sending.see(payout)).status is PayoutStatus.FAILED
    assert await sending.wallet(payout) == (60_000, 0, 0)
    assert len(sending.server.asked("POST")) == 1


async def test_a_refusal_that_comes_after_the_lease_fails_nothing(sending: Sending) -> None:
    payout = await sending.approve()
    async with transaction() as session:
        stale = await send.claim_due(session, sending.settings)
    assert stale is not None
    async with open_http_provider(sending.settings) as provider:
        sending.server.posts.append(Turn(refusal=(402, "out_of_funds", "Your balance is too low")))
        refusal = await send.exchange(sending.settings, provider, stale)
    # Before it is recorded, the lease runs out, and the provider takes the payout from the next worker.
    await sending.make_due()
    await sending.work()
    async with transaction() as session:
        assert await send.record(session, stale, refusal) is False
    sending.server.finish("paid")
    await sending.make_due()
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert len(sending.server.books) == 1


@pytest.mark.parametrize("accepted", [False, True], ids=["before the call", "after the call"])
async def test_an_attempt_that_nobody_records_is_taken_up_when_its_lease_is_over(
    sending: Sending, accepted: bool
) -> None:
    payout = await sending.approve()
    async with transaction() as session:
        claim = await send.claim_due(session, sending.settings)
    assert claim is not None
    if accepted:
        async with open_http_provider(sending.settings) as provider:
            await send.exchange(sending.settings, provider, claim)
    abandoned = await sending.see(payout)
    assert (abandoned.status, abandoned.tries) == (PayoutStatus.SENT, 1)
    assert abandoned.next_attempt_at is not None
    # Twice the timeout and five seconds: until then it is the lost worker's.
    assert 20 < (abandoned.next_attempt_at - datetime.now(UTC)).total_seconds() <= 25
    assert await sending.work() == 0

    await sending.make_due()
    sending.server.becomes = "paid"
    sending.server.finish("paid")
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert len(sending.server.asked("POST")) == 1


async def test_an_answer_that_cannot_be_recorded_is_asked_for_when_the_lease_is_over(sending: Sending) -> None:
    impatient = sending.settings.model_copy(update={"db_lock_timeout_seconds": 0.2})
    await db.close_database()
    await db.open_database(impatient, application_name="tests", pool_size=5, max_overflow=5)
    payout = await sending.approve()
    sending.server.becomes = "paid"
    async with transaction() as session:
        # Whoever has the wallet keeps the posting out until it gives up.
        await session.execute(select(Wallet).where(Wallet.customer_id == payout.customer_id).with_for_update())
        assert await sending.work() == 0
    assert (await sending.see(payout)).status is PayoutStatus.SENT
    await sending.make_due()
    await sending.work()
    assert (await sending.see(payout)).status is PayoutStatus.PAID
    assert await sending.wallet(payout) == (0, 0, 60_000)
    assert len(sending.server.asked("POST")) == 1


async def test_money_of_many_payouts_adds_up(sending: Sending) -> None:
    """Every kind of turn at once; in the end each payout is paid once or its money is back."""
    payouts = [await sending.approve(amount=60_000, fee_minor=100) for _ in range(20)]
    sending.server.becomes = "paid"
    for number in range(20):
        turn = Turn(LOST[number % len(LOST)], accepts=number % 2 == 0)
        refusal = Turn(refusal=(422, "account_closed", "closed"))
        sending.server.posts.append(refusal if number % 5 == 0 else turn)
    for _ in range(12):
        await sending.make_due()
        await sending.work_briefly()
    found = [await sending.see(payout) for payout in payouts]
    assert {payout.status for payout in found} == {PayoutStatus.PAID, PayoutStatus.FAILED}
    paid = {payout_key(payout.id) for payout in found if payout.status is PayoutStatus.PAID}
    assert set(sending.server.books) == paid
    async with transaction() as session:
        cash = select(func.sum(Posting.amount_minor)).where(Posting.account == Account.CASH)
        assert await session.scalar(cash) == -59_900 * len(paid)

"""Settling by hand: one payout or a batch, repeated, late and in races; money goes back exactly once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import (
    Account,
    Payout,
    PayoutChange,
    PayoutProvider,
    PayoutStatus,
    Posting,
    StaffRole,
    Transfer,
    Wallet,
)
from app.services.payouts import life
from tests.factories import make_customer, make_payout, staff_headers
from tests.payouts.test_batches import close

REASON = "The bank says the account is closed."


@pytest.fixture
async def finance(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session, StaffRole.FINANCE)


async def settle(client: httpx.AsyncClient, headers: dict[str, str], payout: Payout, status: str, **more: Any) -> Any:
    body = {"status": status, **more}
    if status == "failed":
        body.setdefault("reason", REASON)
    return await client.post(f"/v1/admin/payouts/{payout.id}/settle", json=body, headers=headers)


async def wallet(session: AsyncSession, payout: Payout) -> tuple[int, int, int]:
    """Available, in payout and paid, in minor units."""
    row = await session.get_one(Wallet, (payout.customer_id, payout.currency), populate_existing=True)
    return row.available_minor, row.in_payout_minor, row.paid_minor


async def total(session: AsyncSession, account: Account) -> int:
    found = select(func.coalesce(func.sum(Posting.amount_minor), 0)).where(Posting.account == account)
    return int((await session.scalars(found)).one())


async def test_paid_takes_cash_and_keeps_the_fee(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings, amount=60_000, fee_minor=1_500)
    await close(client, finance)
    assert await wallet(session, payout) == (0, 60_000, 0)
    answer = await settle(client, finance, payout, "paid")
    assert (answer.status_code, answer.json()["status"]) == (200, "paid")
    assert await wallet(session, payout) == (0, 0, 60_000)
    assert (await total(session, Account.CASH), await total(session, Account.PAYOUT_FEES)) == (-58_500, -1_500)
    assert [step["status"] for step in answer.json()["steps"]] == ["requested", "approved", "sent", "paid"]
    assert answer.json()["steps"][-1]["staff_key_id"] is not None


async def test_failed_gives_the_whole_amount_back_with_the_reason(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings, amount=60_000, fee_minor=1_500)
    await close(client, finance)
    answer = await settle(client, finance, payout, "failed")
    assert (answer.json()["status"], answer.json()["reason"]) == ("failed", REASON)
    assert await wallet(session, payout) == (60_000, 0, 0)
    assert await total(session, Account.CASH) == 0


async def test_money_that_comes_back_after_it_was_paid_is_available_again(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings, amount=60_000, fee_minor=1_500)
    await close(client, finance)
    await settle(client, finance, payout, "paid")
    answer = await settle(client, finance, payout, "failed")
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert await wallet(session, payout) == (60_000, 0, 0)
    assert (await total(session, Account.CASH), await total(session, Account.PAYOUT_FEES)) == (0, 0)
    # That was the end: it is not paid again by saying so.
    refused = await settle(client, finance, payout, "paid")
    assert (refused.status_code, refused.json()["code"]) == (409, "payout_state")


@pytest.mark.parametrize("status", ["paid", "failed"])
async def test_saying_it_twice_changes_nothing(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str], status: str
) -> None:
    payout = await make_payout(session, settings)
    await close(client, finance)
    first = (await settle(client, finance, payout, status)).json()
    before = await wallet(session, payout)
    for _ in range(2):
        answer = await settle(client, finance, payout, status)
        assert (answer.status_code, answer.json()) == (200, first)
    assert await wallet(session, payout) == before


async def test_the_same_key_gives_the_first_answer(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings)
    await close(client, finance)
    keyed = {**finance, "Idempotency-Key": "settle-1"}
    first = await settle(client, keyed, payout, "paid")
    again = await settle(client, keyed, payout, "paid")
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    assert (await settle(client, keyed, payout, "failed")).status_code == 422


async def test_what_was_not_sent_is_not_settled(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings)
    for status in ("paid", "failed"):
        answer = await settle(client, finance, payout, status)
        assert (answer.status_code, answer.json()["code"]) == (409, "payout_state")
    answer = await client.post(f"/v1/admin/payouts/{new_id()}/settle", json={"status": "paid"}, headers=finance)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_payout")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": "sent"},
        {"status": "failed"},
        {"status": "failed", "reason": " "},
        {"status": "failed", "reason": "x" * 501},
        {"status": "failed", "reason": "x\x00"},
        {"status": "paid", "amount_minor": 1},
    ],
)
async def test_a_settlement_that_cannot_be_taken_names_its_fault(
    client: httpx.AsyncClient, finance: dict[str, str], body: dict[str, Any]
) -> None:
    answer = await client.post(f"/v1/admin/payouts/{new_id()}/settle", json=body, headers=finance)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_payout_that_may_still_be_sent_again_is_not_failed_by_hand(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings, provider=PayoutProvider.HTTP)
    await life.advance(session, payout, PayoutStatus.SENT)
    answer = await settle(client, finance, payout, "failed")
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_may_still_be_paid")
    assert await wallet(session, payout) == (0, 60_000, 0)

    long_ago = datetime.now(UTC) - timedelta(hours=25, minutes=1)
    await session.execute(update(PayoutChange).where(PayoutChange.payout_id == payout.id).values(at=long_ago))
    answer = await settle(client, finance, payout, "failed")
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.json()["next_attempt_at"] is None
    assert await wallet(session, payout) == (60_000, 0, 0)


async def test_a_payout_at_the_provider_can_be_paid_by_hand(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payout = await make_payout(session, settings, provider=PayoutProvider.HTTP)
    await life.advance(session, payout, PayoutStatus.SENT)
    answer = await settle(client, finance, payout, "paid", reason="seen on the provider's statement of 1 February")
    assert (answer.json()["status"], answer.json()["next_attempt_at"]) == ("paid", None)
    assert answer.json()["steps"][-1]["reason"] == "seen on the provider's statement of 1 February"


# --- Batches


async def settle_all(
    client: httpx.AsyncClient, headers: dict[str, str], batch: dict[str, Any], *failed: Payout
) -> httpx.Response:
    failures = [{"payout_id": str(payout.id), "reason": REASON} for payout in failed]
    path = f"/v1/admin/payout-batches/{batch['id']}/settle"
    return await client.post(path, json={"failures": failures}, headers=headers)


def counts(answer: httpx.Response) -> dict[str, int]:
    assert answer.status_code == 200, answer.text
    return {part["status"]: part["payout_count"] for part in answer.json()["parts"]}


async def test_a_batch_is_paid_but_for_its_failures(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    customer = await make_customer(session)
    payouts = [await make_payout(session, settings, customer=customer, fee_minor=100) for _ in range(3)]
    payouts += [await make_payout(session, settings) for _ in range(3)]
    batch = await close(client, finance)
    answer = await settle_all(client, finance, batch, payouts[0], payouts[3])
    assert counts(answer) == {"failed": 2, "paid": 4}
    # Of one customer one came back and two were paid.
    assert await wallet(session, payouts[0]) == (60_000, 0, 120_000)
    assert await wallet(session, payouts[3]) == (60_000, 0, 0)
    assert await wallet(session, payouts[5]) == (0, 0, 60_000)
    assert await total(session, Account.CASH) == -(4 * 60_000 - 2 * 100)
    reasons = await session.scalars(select(Payout.reason).where(Payout.status == PayoutStatus.FAILED))
    assert set(reasons) == {REASON}


async def test_settling_a_batch_again_adds_only_what_is_new(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    payouts = [await make_payout(session, settings) for _ in range(4)]
    batch = await close(client, finance)
    await settle(client, finance, payouts[3], "failed")
    assert counts(await settle_all(client, finance, batch, payouts[0])) == {"failed": 2, "paid": 2}
    transfers = await session.scalar(select(func.count()).select_from(Transfer))
    assert counts(await settle_all(client, finance, batch, payouts[0])) == {"failed": 2, "paid": 2}
    assert counts(await settle_all(client, finance, batch)) == {"failed": 2, "paid": 2}
    assert await session.scalar(select(func.count()).select_from(Transfer)) == transfers
    # One that was paid comes back a week later.
    assert counts(await settle_all(client, finance, batch, payouts[1])) == {"failed": 3, "paid": 1}
    assert await wallet(session, payouts[1]) == (60_000, 0, 0)


async def test_failures_that_are_not_of_the_batch_are_named_and_nothing_is_settled(
    session: AsyncSession, client: httpx.AsyncClient, settings: Settings, finance: dict[str, str]
) -> None:
    mine = await make_payout(session, settings)
    batch = await close(client, finance)
    other = await make_payout(session, settings)
    answer = await settle_all(client, finance, batch, mine, other)
    assert (answer.status_code, answer.json()["code"]) == (422, "payout_not_in_batch")
    assert [error["loc"] for error in answer.json()["errors"]] == [["body", "failures", 1, "payout_id"]]
    assert await wallet(session, mine) == (0, 60_000, 0)
    twice = await settle_all(client, finance, batch, mine, mine)
    assert (twice.status_code, twice.json()["code"]) == (422, "invalid_request")


async def test_settlements_that_race_settle_each_payout_once(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
        customer = await make_customer(session)
        payouts = [await make_payout(session, committed_db, customer=customer) for _ in range(4)]
        payouts += [await make_payout(session, committed_db) for _ in range(8)]
    batch = await close(committed_client, headers)
    answers = await asyncio.gather(
        *(settle_all(committed_client, headers, batch, *payouts[:3]) for _ in range(2)),
        *(settle(committed_client, headers, payout, "paid") for payout in payouts[2:]),
        *(settle(committed_client, headers, payout, "failed") for payout in payouts[:6]),
    )
    # Whichever came first, a later word was taken, repeated, or refused; nobody met an error of ours.
    assert {answer.status_code for answer in answers} <= {200, 409}
    async with transaction() as session:
        doubled = await session.execute(
            select(Transfer.cause_id).group_by(Transfer.cause_id, Transfer.purpose).having(func.count() > 1)
        )
        assert doubled.all() == []
        found = {payout.id: payout.status for payout in await session.scalars(select(Payout))}
    assert [found[payout.id] for payout in payouts[:6]] == [PayoutStatus.FAILED] * 6
    assert [found[payout.id] for payout in payouts[6:]] == [PayoutStatus.PAID] * 6


async def test_batches_that_share_customers_settle_at_once_without_a_deadlock(
    committed_client: httpx.AsyncClient, committed_db: Settings
) -> None:
    """Both come half way, one from each end, and meet at a wallet that somebody holds until both wait."""
    async with transaction() as session:
        headers = await staff_headers(session, StaffRole.FINANCE)
        customers = [await make_customer(session) for _ in range(5)]
    closed = []
    for order in (customers, customers[::-1]):
        async with transaction() as session:
            for customer in order:
                await make_payout(session, committed_db, customer=customer)
        closed.append(await close(committed_client, headers))
    async with transaction() as session:
        await session.execute(select(Wallet).where(Wallet.customer_id == customers[2].id).with_for_update())
        settling = [asyncio.create_task(settle_all(committed_client, headers, batch)) for batch in closed]
        await until_waiting(2)
    assert [counts(answer) for answer in await asyncio.gather(*settling)] == [{"paid": 5}] * 2


async def until_waiting(count: int) -> None:
    """Wait until so many transactions of this database wait for a lock."""
    look = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    async with asyncio.timeout(10):
        while True:
            async with transaction() as session:
                if await session.scalar(look) == count:
                    return
            await asyncio.sleep(0.01)

"""Payouts that race over HTTP on committed transactions: the database decides, and each ends with the invariants."""

import asyncio
from collections import Counter

import httpx
import pytest

from app import db
from app.config import Settings
from app.db import transaction
from app.models import CustomerStatus, PayoutStatus, StaffRole
from tests.factories import customer_headers, make_customer, make_payout_method
from tests.payouts.world import World, fund, make_world


@pytest.fixture
async def patient_db(committed_db: Settings) -> Settings:
    """A database whose pool may be waited for: two hundred requests share thirty connections."""
    await db.close_database()
    patient = committed_db.model_copy(update={"db_pool_timeout_seconds": 60.0})
    await db.open_database(patient, application_name="tests", pool_size=10, max_overflow=20)
    return patient


@pytest.fixture
async def crowd(committed_client: httpx.AsyncClient, patient_db: Settings) -> World:
    """A committed world for many requests at once."""
    return await make_world(patient_db, committed_client)


def codes(answers: list[httpx.Response]) -> Counter[str]:
    """How often each outcome came: `taken`, or the problem's code."""
    return Counter("taken" if answer.status_code == 201 else answer.json()["code"] for answer in answers)


async def test_of_two_hundred_full_balance_payouts_at_once_exactly_one_succeeds(crowd: World) -> None:
    answers = await asyncio.gather(*(crowd.ask(1_000_000) for _ in range(200)))
    assert codes(answers) == {"taken": 1, "insufficient_balance": 199}
    assert await crowd.balance() == {"in_payout": 1_000_000}
    assert [payout.status for payout in await crowd.payouts()] == [PayoutStatus.REQUESTED]


async def test_of_payouts_that_the_balance_covers_in_part_as_many_succeed(crowd: World) -> None:
    answers = await asyncio.gather(*(crowd.ask(300_000) for _ in range(30)))
    assert codes(answers) == {"taken": 3, "insufficient_balance": 27}
    assert await crowd.balance() == {"available": 100_000, "in_payout": 900_000}


async def test_one_payout_fifty_times_with_one_key_is_one_payout(crowd: World) -> None:
    headers = {"Idempotency-Key": "one"}
    answers = await asyncio.gather(*(crowd.ask(60_000, headers=headers) for _ in range(50)))
    found = codes(answers)
    assert set(found) <= {"taken", "idempotency_in_flight"}
    taken = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in taken}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in taken) == 1
    assert await crowd.balance() == {"available": 940_000, "in_payout": 60_000}
    again = await crowd.ask(60_000, headers=headers)
    assert again.content == taken[0].content
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await crowd.ask(60_001, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await crowd.payouts()) == 1


async def test_many_small_payouts_at_once_never_exceed_the_days_amount(crowd: World) -> None:
    await crowd.change_rule(daily_limit_minor=425_000)
    answers = await asyncio.gather(*(crowd.ask(60_000) for _ in range(40)))
    assert codes(answers) == {"taken": 7, "payout_daily_limit": 33}
    assert await crowd.balance() == {"available": 580_000, "in_payout": 420_000}


async def test_many_small_payouts_at_once_never_exceed_the_days_count(crowd: World) -> None:
    await crowd.change_rule(daily_count=5)
    answers = await asyncio.gather(*(crowd.ask(60_000) for _ in range(40)))
    assert codes(answers) == {"taken": 5, "payout_daily_count": 35}
    assert await crowd.balance() == {"available": 700_000, "in_payout": 300_000}


async def test_limits_hold_while_staff_reject_and_customers_ask_again(crowd: World) -> None:
    await crowd.change_rule(daily_count=4)
    made = [(await crowd.asked(60_000))["id"] for _ in range(4)]
    asks = asyncio.gather(*(crowd.ask(60_000) for _ in range(20)))
    await crowd.as_staff()
    rejected = await asyncio.gather(*(crowd.decide(payout_id, "reject") for payout_id in made))
    assert {answer.status_code for answer in rejected} == {200}
    taken = codes(await asks)["taken"]
    assert taken <= 4
    assert await crowd.balance() == {
        "available": 1_000_000 - taken * 60_000,
        **({"in_payout": taken * 60_000} if taken else {}),
    }


async def test_customers_do_not_wait_for_each_other_and_each_gets_their_own(crowd: World) -> None:
    askers = []
    async with transaction() as session:
        for _ in range(20):
            customer = await make_customer(session)
            await fund(session, customer, 100_000)
            method = await make_payout_method(session, crowd.settings, customer)
            askers.append((customer_headers(crowd.settings, customer), str(method.id)))
    answers = await asyncio.gather(
        *(crowd.ask(100_000, headers=headers, method_id=method) for headers, method in askers for _ in range(3))
    )
    assert codes(answers) == {"taken": 20, "insufficient_balance": 40}


@pytest.mark.parametrize(("verbs", "ends"), [(("approve",), 1), (("reject",), 1), (("approve", "reject"), None)])
async def test_decisions_at_once_are_each_made_once(crowd: World, verbs: tuple[str, ...], ends: int | None) -> None:
    payout_id = (await crowd.asked(60_000))["id"]
    await crowd.as_staff()
    answers = await asyncio.gather(*(crowd.decide(payout_id, verb) for verb in verbs for _ in range(10)))
    found = Counter(answer.status_code for answer in answers)
    [payout] = await crowd.payouts()
    if ends is None:
        # An approval may be followed by a rejection; never the other way round.
        assert payout.status is PayoutStatus.REJECTED
        assert found[200] in {1, 2}
    else:
        assert found == {200: 1, 409: 9}
    balance = await crowd.balance()
    assert sum(balance.values()) == 1_000_000
    assert ("in_payout" in balance) == (payout.status is PayoutStatus.APPROVED)


async def test_a_customer_frozen_meanwhile_gets_no_more_payouts(crowd: World) -> None:
    async def freeze() -> None:
        await crowd.change_customer(status=CustomerStatus.FROZEN)

    *answers, _ = await asyncio.gather(*(crowd.ask(60_000) for _ in range(10)), freeze())
    assert set(codes([answer for answer in answers if answer])) <= {"taken", "payouts_frozen"}
    before = len(await crowd.payouts())
    assert (await crowd.ask(60_000)).json()["code"] == "payouts_frozen"
    assert len(await crowd.payouts()) == before


async def test_an_account_closed_while_a_payout_is_asked_for_is_closed_or_paid_out(crowd: World) -> None:
    close = crowd.client.delete("/v1/me?forfeit=true", headers=crowd.headers)
    closed, *answers = await asyncio.gather(close, *(crowd.ask(60_000) for _ in range(10)))
    taken = codes(answers)["taken"]
    if closed.status_code == 204:
        assert taken == 0
        assert {answer.status_code for answer in answers} == {401}
    else:
        assert closed.json()["code"] == "payout_under_way"
        assert taken == 10


async def test_staff_keys_of_finance_decide_at_once_without_deadlock(crowd: World) -> None:
    made = [(await crowd.asked(60_000))["id"] for _ in range(8)]
    await crowd.as_staff(StaffRole.FINANCE)
    answers = await asyncio.gather(
        *(crowd.decide(payout_id, "reject", StaffRole.FINANCE) for payout_id in made),
        *(crowd.ask(60_000) for _ in range(8)),
    )
    assert {answer.status_code for answer in answers} == {200, 201}
    assert await crowd.balance() == {"available": 520_000, "in_payout": 480_000}

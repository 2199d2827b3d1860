"""Asking for a payout: what is taken, what it costs, who may, and what the day allows."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import CustomerStatus, Payout, PayoutMethod, PayoutProvider, PayoutStatus
from app.services.payouts import life
from tests.factories import customer_headers, make_customer, make_payout_method, make_payout_rule
from tests.payouts.world import World, fund, make_world


async def test_a_payout_is_taken_out_of_the_available_balance(world: World) -> None:
    payout = await world.asked(60_000)
    assert {name: payout[name] for name in ("status", "amount", "fee", "receives", "reason")} == {
        "status": "requested",
        "amount": {"amount_minor": 60_000, "currency": "PKR"},
        "fee": {"amount_minor": 0, "currency": "PKR"},
        "receives": {"amount_minor": 60_000, "currency": "PKR"},
        "reason": None,
    }
    assert payout["method"] == {"id": str(world.method.id), "kind": "local_account", "masked": world.method.masked}
    assert await world.balance() == {"available": 940_000, "in_payout": 60_000}


async def test_the_wallet_follows_each_state_to_paid(world: World) -> None:
    payout_id = (await world.asked(60_000))["id"]
    assert (await world.decide(payout_id, "approve")).status_code == 200
    assert await world.balance() == {"available": 940_000, "in_payout": 60_000}
    for status, balance in (
        (PayoutStatus.SENT, {"available": 940_000, "in_payout": 60_000}),
        (PayoutStatus.PAID, {"available": 940_000, "paid": 60_000}),
        (PayoutStatus.FAILED, {"available": 1_000_000}),
    ):
        async with transaction() as session:
            await life.advance(session, await session.get_one(Payout, payout_id), status)
        assert await world.balance() == balance


@pytest.mark.parametrize(
    ("rule", "amount_minor", "fee_minor"),
    [
        ({"fee_minor": 1_000}, 50_000, 1_000),
        ({"fee_basis_points": 150}, 50_001, 750),
        ({"fee_minor": 1_000, "fee_basis_points": 50}, 999_999, 5_999),
        ({"minimum_minor": 1, "fee_basis_points": 9_999}, 1, 0),
    ],
)
async def test_the_fee_is_a_fixed_part_and_a_share_rounded_down(
    world: World, rule: dict[str, int], amount_minor: int, fee_minor: int
) -> None:
    await world.change_rule(**rule)
    payout = await world.asked(amount_minor)
    assert payout["fee"]["amount_minor"] == fee_minor
    assert payout["receives"]["amount_minor"] == amount_minor - fee_minor
    # The whole amount leaves the wallet, with the fee in it.
    assert await world.balance() == {"available": 1_000_000 - amount_minor, "in_payout": amount_minor}


@pytest.mark.parametrize(("currency", "amount_minor"), [("JPY", 5_001), ("KWD", 12_345), ("PKR", 2**53 + 1)])
async def test_amounts_are_exact_in_every_currency(
    session: AsyncSession, settings: Settings, client: httpx.AsyncClient, currency: str, amount_minor: int
) -> None:
    world = await make_world(
        settings,
        client,
        available=amount_minor,
        currency=currency,
        minimum_minor=1_000,
        daily_limit_minor=2**63 - 1,
        fee_basis_points=1,
    )
    answer = await world.ask(amount_minor)
    assert f'"amount":{{"amount_minor":{amount_minor},"currency":"{currency}"}}' in answer.text
    payout = answer.json()
    assert payout["fee"]["amount_minor"] == amount_minor // 10_000
    assert payout["fee"]["amount_minor"] + payout["receives"]["amount_minor"] == amount_minor
    assert await world.balance() == {"in_payout": amount_minor}


@pytest.mark.parametrize("currency", ["JPY", "KWD"])
async def test_messages_show_amounts_as_the_currency_writes_them(
    session: AsyncSession, settings: Settings, client: httpx.AsyncClient, currency: str
) -> None:
    world = await make_world(settings, client, currency=currency, minimum_minor=1_500)
    answer = await world.ask(1_499)
    assert (answer.status_code, answer.json()["code"]) == (422, "payout_below_minimum")
    assert answer.json()["errors"][0]["loc"] == ["body", "amount_minor"]
    assert {"JPY": "1500 JPY", "KWD": "1.500 KWD"}[currency] in answer.json()["detail"]


@pytest.mark.parametrize(
    "amount",
    [
        "0",
        "-1",
        "-60000",
        "60000.0",
        "60000.5",
        "6e4",
        "1e9",
        '"60000"',
        '"1e9"',
        "NaN",
        "Infinity",
        "true",
        "null",
        "[]",
        "{}",
        "9223372036854775808",
        "99999999999999999999999999",
    ],
)
async def test_what_is_no_positive_whole_amount_is_refused(world: World, amount: str) -> None:
    body = f'{{"amount_minor": {amount}, "currency": "PKR", "method_id": "{world.method.id}"}}'
    answer = await world.client.post(
        "/v1/me/payouts", content=body, headers={**world.headers, "Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    # What is no JSON has no place in it.
    assert answer.json()["errors"][0]["loc"] == ["body", "amount_minor"][: 1 if amount in {"NaN", "Infinity"} else 2]
    assert await world.balance() == {"available": 1_000_000}


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "paid"},
        {"fee_minor": 0},
        {"customer_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e"},
        {"provider": "http"},
        {"currency": "pkr"},
        {"currency": "PKRR"},
        {"currency": None},
        {"method_id": "mine"},
        {"method_id": None},
    ],
)
async def test_members_that_do_not_fit_are_refused(world: World, changes: dict[str, Any]) -> None:
    answer = await world.ask(**changes)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", *changes]
    assert await world.payouts() == []


async def test_without_a_rule_there_are_no_payouts_in_a_currency(world: World, session: AsyncSession) -> None:
    await fund(session, world.customer, 500_000, "EUR")
    answer = await world.ask(60_000, currency="EUR")
    assert (answer.status_code, answer.json()["code"]) == (422, "payout_currency_unavailable")
    assert "EUR" in answer.json()["detail"]


async def test_more_than_is_available_is_refused_to_the_last_unit(world: World) -> None:
    answer = await world.ask(1_000_001)
    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_balance")
    assert await world.payouts() == []
    await world.asked(1_000_000)
    assert await world.balance() == {"in_payout": 1_000_000}


async def test_money_of_another_currency_pays_nothing(world: World, session: AsyncSession) -> None:
    await make_payout_rule(session, "EUR")
    answer = await world.ask(60_000, currency="EUR")
    assert (answer.status_code, answer.json()["code"]) == (409, "insufficient_balance")


async def test_a_frozen_customer_withdraws_nothing(world: World) -> None:
    await world.change_customer(status=CustomerStatus.FROZEN)
    answer = await world.ask()
    assert (answer.status_code, answer.json()["code"]) == (403, "payouts_frozen")
    assert await world.balance() == {"available": 1_000_000}


async def test_a_new_method_waits_and_the_answer_says_till_when(world: World) -> None:
    usable_from = datetime.now(UTC) + timedelta(minutes=1)
    async with transaction() as session:
        (await session.get_one(PayoutMethod, world.method.id)).usable_from = usable_from
    answer = await world.ask()
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_method_held")
    assert answer.json()["usable_from"] == usable_from.isoformat().replace("+00:00", "Z")
    async with transaction() as session:
        (await session.get_one(PayoutMethod, world.method.id)).usable_from = datetime.now(UTC)
    await world.asked()


async def test_another_customers_method_and_a_deleted_one_do_not_exist(
    world: World, session: AsyncSession, settings: Settings
) -> None:
    foreign = await make_payout_method(session, settings, await make_customer(session))
    deleted = await make_payout_method(session, settings, world.customer, deleted_at=datetime.now(UTC))
    for method_id in (foreign.id, deleted.id, new_id()):
        answer = await world.ask(method_id=str(method_id))
        assert (answer.status_code, answer.json()["code"]) == (404, "payout_method_not_found")


async def test_a_currency_is_paid_only_to_the_kinds_of_its_rule(world: World) -> None:
    await world.change_rule(method_kinds=["iban", "mobile_wallet"])
    answer = await world.ask()
    assert (answer.status_code, answer.json()["code"]) == (422, "payout_kind_unavailable")
    assert answer.json()["errors"][0]["loc"] == ["body", "method_id"]
    assert "iban, mobile_wallet" in answer.json()["detail"]
    await world.change_rule(method_kinds=["local_account"])
    await world.asked()


# --- Approved by the rule


@pytest.mark.parametrize(("amount_minor", "status"), [(60_000, "approved"), (60_001, "requested")])
async def test_amounts_up_to_the_limit_are_approved_by_the_rule(world: World, amount_minor: int, status: str) -> None:
    await world.change_rule(auto_approve_minor=60_000)
    payout = await world.asked(amount_minor)
    assert payout["status"] == status
    detail = (await world.client.get(f"/v1/me/payouts/{payout['id']}", headers=world.headers)).json()
    assert [step["status"] for step in detail["steps"]] == ["requested", "approved"][: 1 + (status == "approved")]
    [kept] = await world.payouts()
    assert kept.decided_by_id is None
    assert kept.next_attempt_at is None


async def test_an_approved_payout_of_a_provider_is_due_at_once_and_rung_for(committed_world: World) -> None:
    world = committed_world
    await world.change_rule(auto_approve_minor=60_000, provider=PayoutProvider.HTTP)
    rung: list[str] = []
    db.set_bell(lambda rings: rung.extend(ring.task for ring in rings))
    await world.asked(60_000)
    assert rung == ["send_payouts"]
    waiting = await world.asked(60_001)
    assert rung == ["send_payouts"]
    assert (await world.decide(waiting["id"], "approve")).status_code == 200
    assert rung == ["send_payouts"] * 2
    for payout in await world.payouts():
        assert payout.next_attempt_at is not None
        assert payout.next_attempt_at <= datetime.now(UTC)


async def test_an_account_that_another_customer_named_waits_for_staff(
    world: World, session: AsyncSession, settings: Settings
) -> None:
    await world.change_rule(auto_approve_minor=60_000)
    other = await make_customer(session)
    method = await make_payout_method(
        session, settings, other, fingerprint=world.method.fingerprint, deleted_at=datetime.now(UTC)
    )
    payout = await world.asked(60_000)
    assert payout["status"] == "requested"
    shown = await world.client.get(f"/v1/admin/payouts/{payout['id']}", headers=await world.as_staff())
    assert shown.json()["account_shared_with"] == 1
    await session.delete(method)
    await session.flush()
    assert (await world.asked(60_000))["status"] == "approved"


# --- Limits of the day


async def test_the_days_amount_is_limited_to_the_last_unit(world: World) -> None:
    await world.change_rule(daily_limit_minor=150_000)
    await world.asked(90_000)
    refused = await world.ask(60_001)
    assert (refused.status_code, refused.json()["code"]) == (409, "payout_daily_limit")
    assert "1500.00 PKR" in refused.json()["detail"]
    assert await world.balance() == {"available": 910_000, "in_payout": 90_000}
    await world.asked(60_000)


async def test_the_days_count_is_limited(world: World) -> None:
    await world.change_rule(daily_count=2)
    await world.asked()
    await world.asked()
    refused = await world.ask()
    assert (refused.status_code, refused.json()["code"]) == (409, "payout_daily_count")
    assert len(await world.payouts()) == 2


@pytest.mark.parametrize("status", [PayoutStatus.REJECTED, PayoutStatus.FAILED])
async def test_payouts_that_came_to_nothing_take_nothing_of_the_day(world: World, status: PayoutStatus) -> None:
    await world.change_rule(daily_count=1, daily_limit_minor=60_000)
    payout = await world.asked(60_000)
    path = [PayoutStatus.APPROVED, PayoutStatus.SENT, status] if status is PayoutStatus.FAILED else [status]
    for step in path:
        assert (await world.ask()).json()["code"] == "payout_daily_limit"
        async with transaction() as session:
            await life.advance(session, await session.get_one(Payout, payout["id"]), step)
    await world.asked(60_000)


async def test_the_next_day_in_utc_begins_anew(world: World, session: AsyncSession) -> None:
    await world.change_rule(daily_count=1)
    await world.asked()
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await session.execute(update(Payout).values(created_at=midnight - timedelta(microseconds=1)))
    await world.asked()
    await session.execute(update(Payout).values(created_at=midnight))
    assert (await world.ask()).json()["code"] == "payout_daily_count"


async def test_customers_and_currencies_have_limits_of_their_own(
    world: World, session: AsyncSession, settings: Settings
) -> None:
    await world.change_rule(daily_count=1)
    await make_payout_rule(session, "EUR", daily_count=1)
    await fund(session, world.customer, 100_000, "EUR")
    other = await make_customer(session)
    await fund(session, other, 100_000)
    method = await make_payout_method(session, settings, other)
    await world.asked()
    await world.asked(60_000, currency="EUR")
    await world.asked(60_000, headers=customer_headers(settings, other), method_id=str(method.id))


# --- Looking at them


async def test_own_payouts_are_listed_newest_first_and_by_state(world: World) -> None:
    made = [(await world.asked())["id"] for _ in range(5)]
    await world.decide(made[0], "reject")
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        parameters = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await world.client.get("/v1/me/payouts", params=parameters, headers=world.headers)).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]
    rejected = await world.client.get("/v1/me/payouts?status=rejected", headers=world.headers)
    assert [(item["id"], item["reason"]) for item in rejected.json()["items"]] == [(made[0], "the name does not match")]


async def test_another_customers_payout_does_not_exist(world: World, session: AsyncSession, settings: Settings) -> None:
    payout = await world.asked()
    headers = customer_headers(settings, await make_customer(session))
    answer = await world.client.get(f"/v1/me/payouts/{payout['id']}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "payout_not_found")
    assert (await world.client.get("/v1/me/payouts", headers=headers)).json()["items"] == []


async def test_a_note_for_staff_is_not_shown_to_the_customer(world: World, session: AsyncSession) -> None:
    payout = await world.asked()
    await world.decide(payout["id"], "approve")
    row = (await session.scalars(select(Payout))).one()
    await life.advance(session, row, PayoutStatus.SENT, reason="the provider did not answer")
    await session.commit()
    path = f"payouts/{payout['id']}"
    shown = await world.client.get(f"/v1/me/{path}", headers=world.headers)
    assert "did not answer" not in shown.text
    assert [step["status"] for step in shown.json()["steps"]] == ["requested", "approved", "sent"]
    told = await world.client.get(f"/v1/admin/{path}", headers=await world.as_staff())
    assert told.json()["reason"] == told.json()["steps"][-1]["reason"] == "the provider did not answer"


async def test_an_answer_repeats_for_its_key(world: World) -> None:
    headers = {"Idempotency-Key": "one"}
    first, again = await world.ask(headers=headers), await world.ask(headers=headers)
    assert first.content == again.content
    assert again.headers["Idempotency-Replayed"] == "true"
    assert json.loads(first.content)["amount"]["amount_minor"] == 60_000
    assert len(await world.payouts()) == 1

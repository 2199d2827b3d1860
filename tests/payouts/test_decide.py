"""Decisions of staff: who may, from which state, what becomes of the money, and what is kept of it."""

from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.ids import new_id
from app.models import CustomerStatus, Payout, PayoutChange, PayoutProvider, PayoutStatus, StaffKey, StaffRole
from app.services.payouts import life
from tests.factories import make_customer, make_payout_method
from tests.payouts.world import World, fund, make_world


async def key_id(session: AsyncSession, role: StaffRole) -> str:
    return str((await session.scalars(select(StaffKey.id).where(StaffKey.role == role))).one())


async def test_each_decision_is_kept_with_the_staff_key(world: World, session: AsyncSession) -> None:
    payout_id = (await world.asked())["id"]
    approved = await world.decide(payout_id, "approve", StaffRole.OPERATOR)
    rejected = await world.decide(payout_id, "reject", StaffRole.FINANCE, json={"reason": "a second look"})
    operator, finance = await key_id(session, StaffRole.OPERATOR), await key_id(session, StaffRole.FINANCE)
    assert (approved.json()["status"], approved.json()["decided_by_id"]) == ("approved", operator)
    shown = rejected.json()
    assert (shown["status"], shown["decided_by_id"], shown["reason"]) == ("rejected", finance, "a second look")
    kept = (await session.scalars(select(PayoutChange).order_by(PayoutChange.id))).all()
    assert [
        (change.status.value, change.reason, change.staff_key_id and str(change.staff_key_id)) for change in kept
    ] == [
        ("requested", None, None),
        ("approved", None, operator),
        ("rejected", "a second look", finance),
    ]
    assert [step["staff_key_id"] for step in shown["steps"]] == [None, operator, finance]


async def test_rejecting_gives_the_money_back_and_says_why(world: World) -> None:
    payout_id = (await world.asked(60_000))["id"]
    assert (await world.decide(payout_id, "reject")).status_code == 200
    assert await world.balance() == {"available": 1_000_000}
    shown = (await world.client.get(f"/v1/me/payouts/{payout_id}", headers=world.headers)).json()
    assert (shown["status"], shown["reason"]) == ("rejected", "the name does not match")
    assert [(step["status"], step["reason"]) for step in shown["steps"]] == [
        ("requested", None),
        ("rejected", "the name does not match"),
    ]


async def test_rejecting_an_approved_payout_of_a_provider_takes_it_off_its_list(world: World) -> None:
    await world.change_rule(provider=PayoutProvider.HTTP)
    payout_id = (await world.asked())["id"]
    approved = await world.decide(payout_id, "approve")
    assert approved.json()["next_attempt_at"] is not None
    rejected = await world.decide(payout_id, "reject")
    assert rejected.json()["next_attempt_at"] is None


@pytest.mark.parametrize(
    ("path", "verb"),
    [
        ([PayoutStatus.APPROVED], "approve"),
        ([PayoutStatus.REJECTED], "approve"),
        ([PayoutStatus.REJECTED], "reject"),
        ([PayoutStatus.APPROVED, PayoutStatus.SENT], "approve"),
        ([PayoutStatus.APPROVED, PayoutStatus.SENT], "reject"),
        ([PayoutStatus.APPROVED, PayoutStatus.SENT, PayoutStatus.PAID], "reject"),
        ([PayoutStatus.APPROVED, PayoutStatus.SENT, PayoutStatus.FAILED], "approve"),
    ],
)
async def test_a_decision_too_late_is_a_conflict_and_changes_nothing(
    world: World, path: list[PayoutStatus], verb: str
) -> None:
    payout_id = (await world.asked())["id"]
    for status in path:
        async with transaction() as session:
            await life.advance(session, await session.get_one(Payout, payout_id), status)
    before = await world.balance()
    answer = await world.decide(payout_id, verb)
    assert (answer.status_code, answer.json()["code"]) == (409, "payout_state")
    assert await world.balance() == before
    [payout] = await world.payouts()
    assert payout.status is path[-1]


async def test_a_repeated_decision_with_its_key_is_the_first_answer(world: World) -> None:
    payout_id = (await world.asked())["id"]
    headers = {"Idempotency-Key": "decision"}
    first = await world.decide(payout_id, "approve", headers=headers)
    again = await world.decide(payout_id, "approve", headers=headers)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (await world.decide(payout_id, "approve")).status_code == 409


async def test_a_payout_of_a_frozen_customer_can_only_be_rejected(world: World) -> None:
    payout_id = (await world.asked())["id"]
    await world.change_customer(status=CustomerStatus.FROZEN)
    refused = await world.decide(payout_id, "approve")
    assert (refused.status_code, refused.json()["code"]) == (409, "payout_customer_frozen")
    assert (await world.decide(payout_id, "reject")).status_code == 200
    assert await world.balance() == {"available": 1_000_000}


@pytest.mark.parametrize("verb", ["approve", "reject"])
async def test_viewers_and_strangers_decide_nothing(world: World, verb: str) -> None:
    payout_id = (await world.asked())["id"]
    viewer = await world.decide(payout_id, verb, StaffRole.VIEWER)
    assert (viewer.status_code, viewer.json()["code"]) == (403, "staff_role_required")
    path = f"/v1/admin/payouts/{payout_id}/{verb}"
    for headers in ({}, world.headers):
        stranger = await world.client.post(path, headers=headers, json={"reason": "mine"})
        assert stranger.status_code == 401
    [payout] = await world.payouts()
    assert payout.status is PayoutStatus.REQUESTED


@pytest.mark.parametrize(
    "body", [{}, {"reason": ""}, {"reason": " "}, {"reason": "x" * 501}, {"reason": "a\x00"}, None]
)
async def test_a_rejection_needs_a_reason(world: World, body: object) -> None:
    payout_id = (await world.asked())["id"]
    assert (await world.decide(payout_id, "reject", json=body)).status_code == 422
    assert await world.balance() == {"available": 940_000, "in_payout": 60_000}


@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/approve"), ("POST", "/reject")])
async def test_a_payout_that_does_not_exist_is_not_found(world: World, method: str, suffix: str) -> None:
    body: dict[str, Any] = {"json": {"reason": "none"}} if suffix == "/reject" else {}
    path = f"/v1/admin/payouts/{new_id()}{suffix}"
    answer = await world.client.request(method, path, headers=await world.as_staff(), **body)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_payout")


async def test_payouts_are_filtered_and_paged_for_staff(world: World, session: AsyncSession) -> None:
    mine = [(await world.asked())["id"] for _ in range(3)]
    await world.decide(mine[0], "approve")
    other = await make_customer(session)
    await fund(session, other, 60_000)
    method = await make_payout_method(session, world.settings, other)
    session.add(
        theirs := Payout(
            customer_id=other.id,
            method_id=method.id,
            currency="PKR",
            amount_minor=60_000,
            fee_minor=0,
            status=PayoutStatus.REQUESTED,
            provider=PayoutProvider.HTTP,
        )
    )
    await life.start(session, theirs)
    await session.commit()
    headers = await world.as_staff(StaffRole.VIEWER)

    async def found(**parameters: object) -> list[str]:
        answer = await world.client.get("/v1/admin/payouts", params=parameters, headers=headers)  # type: ignore[arg-type]  # any is turned into text
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert await found() == [str(theirs.id), *mine[::-1]]
    assert await found(status="requested") == [str(theirs.id), mine[2], mine[1]]
    assert await found(customer_id=world.customer.id, status="approved") == [mine[0]]
    assert await found(provider="http") == [str(theirs.id)]
    assert await found(currency="EUR") == []
    assert await found(batch_id=new_id()) == []
    first = (await world.client.get("/v1/admin/payouts?limit=3", headers=headers)).json()
    assert await found(limit=3, cursor=first["next_cursor"]) == [mine[0]]


async def test_staff_see_a_mask_and_no_account(world: World) -> None:
    payout_id = (await world.asked())["id"]
    answer = await world.client.get(f"/v1/admin/payouts/{payout_id}", headers=await world.as_staff(StaffRole.ADMIN))
    assert answer.json()["method"]["masked"] == world.method.masked
    assert answer.json()["account_shared_with"] == 0
    assert "fingerprint" not in answer.text


@pytest.mark.parametrize("currency", ["JPY", "KWD"])
async def test_a_rejected_payout_gives_back_the_last_unit(
    session: AsyncSession, client: httpx.AsyncClient, world: World, currency: str
) -> None:
    foreign = await make_world(
        world.settings, client, available=54_321, currency=currency, minimum_minor=1, fee_minor=0, fee_basis_points=33
    )
    payout = await foreign.asked(54_321)
    assert payout["fee"]["amount_minor"] == 179
    assert await foreign.balance() == {"in_payout": 54_321}
    await foreign.decide(payout["id"], "reject")
    assert await foreign.balance() == {"available": 54_321}

"""Four eyes: what is above the limit for one person moves nothing before another one confirms it, and then once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.config import Environment, Settings
from app.db import transaction
from app.ids import new_id
from app.main import create_app
from app.models import (
    OrderReport,
    OrderStatus,
    Payout,
    PayoutBatch,
    PayoutProvider,
    PayoutStatus,
    Proposal,
    StaffKey,
    StaffRole,
    Transfer,
    WebhookStatus,
)
from app.services import staff
from app.services.payouts import life
from app.workers.housekeeping import forget_expired
from tests.claims.world import ClaimWorld, by_hand, make_claim_world, pkr
from tests.conftest import in_process
from tests.factories import make_payout, staff_headers
from tests.logs import captured_logs, lines_of
from tests.payouts import world as payouts
from tests.settlements.desk import Desk
from tests.webhooks.world import make_world

PROPOSALS = "/v1/admin/proposals"
# Of cashback, commission or a payout, in PKR.
LIMIT = 4_000


def limited(settings: Settings, limit: int = LIMIT) -> Settings:
    return settings.model_copy(update={"four_eyes_limits": {"PKR": limit}})


@pytest.fixture
async def desk(session: AsyncSession, settings: Settings, application: FastAPI) -> AsyncIterator[payouts.World]:
    """A customer with money and a limit of 50,000 on payouts, in the test's transaction."""
    own = limited(settings, 50_000)
    async with in_process(application, own) as client:
        yield await payouts.make_world(own, client, auto_approve_minor=1_000_000)


@pytest.fixture
async def claims(committed_db: Settings, application: FastAPI) -> AsyncIterator[ClaimWorld]:
    own = limited(committed_db)
    async with in_process(application, own) as client:
        yield await make_claim_world(own, client)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def other_headers(role: StaffRole = StaffRole.FINANCE, name: str = "the second") -> dict[str, str]:
    async with transaction() as session:
        _, key = await staff.create_key(session, name=name, role=role)
    return {"X-API-Key": key}


async def confirm(client: httpx.AsyncClient, proposal: Any, headers: dict[str, str]) -> httpx.Response:
    return await client.post(f"{PROPOSALS}/{proposal['id']}/confirm", headers=headers)


# --- Payouts


async def test_a_large_payout_needs_two_people(desk: payouts.World, session: AsyncSession) -> None:
    payout_id = (await desk.asked(50_001))["id"]
    assert await desk.balance() == {"available": 949_999, "in_payout": 50_001}
    first = await desk.decide(payout_id, "approve", StaffRole.OPERATOR)
    proposal = first.json()
    assert first.status_code == 202
    assert (proposal["kind"], proposal["target_id"], proposal["status"]) == ("payout_approval", payout_id, "open")
    assert (proposal["amount"], proposal["proposed_by"]) == (pkr(50_001), "test operator")
    # Another key of the same person is the same person.
    again = await desk.client.post(
        f"/v1/admin/payouts/{payout_id}/approve", headers=await staff_headers(session, StaffRole.OPERATOR)
    )
    assert refusal(again) == (403, "second_person_required")
    assert [payout.status for payout in await desk.payouts()] == [PayoutStatus.REQUESTED]
    second = await desk.decide(payout_id, "approve", StaffRole.FINANCE)
    assert (second.status_code, second.json()["status"]) == (200, "approved")
    viewer = await desk.as_staff(StaffRole.VIEWER)
    [listed] = (await desk.client.get(PROPOSALS, params={"target_id": payout_id}, headers=viewer)).json()["items"]
    assert (listed["status"], listed["decided_by"]) == ("confirmed", "test finance")


async def test_up_to_the_limit_one_person_or_the_rule_is_enough(desk: payouts.World) -> None:
    assert (await desk.asked(50_000))["status"] == "approved"
    await desk.change_rule(auto_approve_minor=0)
    payout_id = (await desk.asked(50_000))["id"]
    assert (await desk.decide(payout_id, "approve")).json()["status"] == "approved"


async def test_a_key_that_one_made_for_another_is_not_a_second_person(
    desk: payouts.World, session: AsyncSession
) -> None:
    admin_key, admin = await staff.create_key(session, name="admin", role=StaffRole.ADMIN)
    made, _ = await staff.create_key(session, name="lead", role=StaffRole.ADMIN, created_by_id=admin_key.id)
    _, lent = await staff.create_key(session, name="clerk", role=StaffRole.OPERATOR, created_by_id=made.id)
    proposal: dict[str, Any] = {}
    for first, second in ((admin, lent), (lent, admin)):
        payout_id = (await desk.asked(50_001))["id"]
        path = f"/v1/admin/payouts/{payout_id}/approve"
        proposal = (await desk.client.post(path, headers={"X-API-Key": first})).json()
        answer = await confirm(desk.client, proposal, {"X-API-Key": second})
        assert refusal(answer) == (403, "second_person_required")
    assert (await confirm(desk.client, proposal, await desk.as_staff(StaffRole.FINANCE))).status_code == 200


async def test_a_payout_that_was_rejected_meanwhile_waits_no_more(desk: payouts.World) -> None:
    payout_id = (await desk.asked(50_001))["id"]
    proposal = (await desk.decide(payout_id, "approve")).json()
    assert (await desk.decide(payout_id, "reject", StaffRole.FINANCE)).status_code == 200
    answer = await confirm(desk.client, proposal, await desk.as_staff(StaffRole.FINANCE))
    assert refusal(answer) == (409, "proposal_closed")
    assert await desk.balance() == {"available": 1_000_000}


async def test_a_proposal_is_refused_with_a_note_or_expires(desk: payouts.World, session: AsyncSession) -> None:
    payout_id = (await desk.asked(50_001))["id"]
    proposal = (await desk.decide(payout_id, "approve")).json()
    finance, viewer = await desk.as_staff(StaffRole.FINANCE), await desk.as_staff(StaffRole.VIEWER)
    for verb in ("confirm", "refuse"):
        answer = await desk.client.post(f"{PROPOSALS}/{proposal['id']}/{verb}", json={"note": "x"}, headers=viewer)
        assert refusal(answer) == (403, "staff_role_required")
        missing = await desk.client.post(f"{PROPOSALS}/{new_id()}/{verb}", json={"note": "x"}, headers=finance)
        assert refusal(missing) == (404, "proposal_not_found")
    refused = await desk.client.post(f"{PROPOSALS}/{proposal['id']}/refuse", json={"note": "no"}, headers=finance)
    assert (refused.json()["status"], refused.json()["note"]) == ("refused", "no")
    assert refusal(await confirm(desk.client, proposal, finance)) == (409, "proposal_closed")
    late = (await desk.decide(payout_id, "approve")).json()
    row = await session.get_one(Proposal, late["id"])
    row.expires_at = datetime.now(UTC) - timedelta(hours=1)
    await session.commit()
    assert refusal(await confirm(desk.client, late, finance)) == (409, "proposal_closed")
    assert await forget_expired() == 1
    await session.refresh(row)
    assert row.status == "expired"
    anew = await desk.decide(payout_id, "approve")
    assert anew.status_code == 202


async def test_saying_that_large_payouts_failed_needs_two_people(desk: payouts.World, session: AsyncSession) -> None:
    finance, second = await desk.as_staff(StaffRole.FINANCE), await other_headers()
    made = [await make_payout(session, desk.settings, amount=30_000) for _ in range(2)]
    large = await make_payout(session, desk.settings, amount=50_001)
    for payout in (*made, large):
        await life.advance(session, payout, PayoutStatus.SENT)
    batch = PayoutBatch(
        reference="B",
        currency="PKR",
        payout_count=2,
        total_minor=60_000,
        csv_encrypted=b"",
        pain001_missing="a test",
        created_by_id=(await session.scalars(select(StaffKey.id).limit(1))).one(),
    )
    session.add(batch)
    await session.flush()
    for payout in made:
        payout.batch_id = batch.id
    await session.commit()
    failures = {"failures": [{"payout_id": str(payout.id), "reason": "unknown account"} for payout in made]}
    statuses = select(Payout.status).where(Payout.id.in_([payout.id for payout in (*made, large)]))
    for path, body in (
        (f"payout-batches/{batch.id}", failures),
        (f"payouts/{large.id}", {"status": "failed", "reason": "came back"}),
    ):
        first = await desk.client.post(f"/v1/admin/{path}/settle", json=body, headers=finance)
        assert first.status_code == 202, first.text
        assert PayoutStatus.SENT in (await session.scalars(statuses)).all()
        assert (await confirm(desk.client, first.json(), second)).status_code == 200
    assert set((await session.scalars(statuses)).all()) == {PayoutStatus.FAILED}
    paid = await make_payout(session, desk.settings, amount=50_001, provider=PayoutProvider.BATCH)
    await life.advance(session, paid, PayoutStatus.SENT)
    await session.commit()
    answer = await desk.client.post(f"/v1/admin/payouts/{paid.id}/settle", json={"status": "paid"}, headers=finance)
    assert answer.json()["status"] == "paid"


async def test_of_many_who_confirm_at_once_one_does_it(committed_db: Settings, application: FastAPI) -> None:
    own = limited(committed_db, 50_000)
    async with in_process(application, own) as client:
        world = await payouts.make_world(own, client)
        payout_id = (await world.asked(60_000))["id"]
        proposal = (await world.decide(payout_id, "approve")).json()
        heads = [await other_headers(name=f"finance {number}") for number in range(8)]
        answers = await asyncio.gather(*(confirm(client, proposal, head) for head in heads))
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len({answer.json()["decided_by"] for answer in answers}) == 1
        shown = (await client.get(f"/v1/me/payouts/{payout_id}", headers=world.headers)).json()
        assert [step["status"] for step in shown["steps"]] == ["requested", "approved"]


# --- Orders, claims, orphans, events, settlements


async def transfers() -> int:
    async with transaction() as session:
        return (await session.scalars(select(func.count()).select_from(Transfer))).one()


async def test_a_large_adjustment_of_an_order_waits_and_is_done_once(claims: ClaimWorld) -> None:
    await claims.world.post("created", amount=40_000, commission=3_200)
    await claims.world.drain()
    order = await claims.world.order()
    body = {"kind": "created", "sale": pkr(400_000), "commission": pkr(32_000), "reason": "the merchant's mail"}
    before = await transfers()
    first = await claims.as_staff("POST", f"orders/{order.id}/adjustments", json=body, key="one")
    assert first.status_code == 202, first.text
    assert (first.json()["amount"], first.json()["wanted"]["reason"]) == (pkr(28_800), "the merchant's mail")
    again = await claims.as_staff("POST", f"orders/{order.id}/adjustments", json=body, key="one")
    assert (again.status_code, again.content) == (202, first.content)
    anew = await claims.as_staff("POST", f"orders/{order.id}/adjustments", json=body)
    assert refusal(anew) == (409, "proposal_open")
    assert ((await claims.world.order()).sale_minor, await transfers()) == (40_000, before)
    second = await other_headers()
    for _ in range(2):
        assert (await confirm(claims.client, first.json(), second)).json()["status"] == "confirmed"
    assert ((await claims.world.order()).sale_minor, await transfers()) == (400_000, before + 1)
    async with transaction() as session:
        said = await session.scalars(select(OrderReport).where(OrderReport.staff_key_id.is_not(None)))
        assert len(said.all()) == 1
    # What moves little, one person does.
    small = {"kind": "created", "sale": pkr(410_000), "commission": pkr(32_800), "reason": "one shoe more"}
    done = await claims.as_staff("POST", f"orders/{order.id}/adjustments", json=small)
    assert (done.status_code, (await claims.world.order()).sale_minor) == (201, 410_000)


async def test_what_would_move_another_amount_by_now_is_not_done(claims: ClaimWorld) -> None:
    await claims.world.post("created", amount=40_000, commission=3_200)
    await claims.world.drain()
    order = await claims.world.order()
    body = {"kind": "declined", "reason": "fraud, says the merchant"}
    await claims.world.post("created", amount=90_000, commission=7_200)
    first = await claims.as_staff(
        "POST", f"orders/{order.id}/adjustments", json={**body, "kind": "created", "sale": pkr(500_000)}
    )
    await claims.world.drain()
    moved_on = await claims.world.order()
    assert moved_on.sale_minor == 90_000
    second = await other_headers()
    answer = await confirm(claims.client, first.json(), second)
    assert refusal(answer) == (409, "proposal_changed")
    kept = await claims.client.get(f"{PROPOSALS}/{first.json()['id']}", headers=second)
    assert kept.json()["status"] == "open"
    assert (await claims.world.order()).sale_minor == 90_000


async def test_a_large_claim_and_a_large_orphan_wait_for_another_person(claims: ClaimWorld) -> None:
    claim_id, event_id = await claims.filed("A-2"), await claims.orphan("A-1")
    by_claim = await claims.approve(claim_id, by_hand(distinct=True))
    by_orphan = await claims.match(event_id, {"click_id": str(claims.world.click.id)}, role=StaffRole.OPERATOR)
    for answer, kind in ((by_claim, "claim_approval"), (by_orphan, "orphan_match")):
        assert (answer.status_code, answer.json()["kind"], answer.json()["amount"]) == (202, kind, pkr(5_000))
    assert (await claims.orders(), await claims.pending()) == ([], 0)
    # By hand takes the role finance, for both.
    operator = await other_headers(StaffRole.OPERATOR, "an operator")
    assert refusal(await confirm(claims.client, by_claim.json(), operator)) == (403, "staff_role_required")
    second = await other_headers()
    for proposed in (by_claim, by_orphan):
        assert (await confirm(claims.client, proposed.json(), second)).status_code == 200
    assert (len(await claims.orders()), await claims.pending()) == (2, 10_000)


async def test_releasing_a_large_event_waits_for_another_person(committed_db: Settings, application: FastAPI) -> None:
    own = limited(committed_db)
    async with in_process(application, own) as client:
        world = await make_world(own, client)
        late = world.click.expires_at + timedelta(days=1)
        answer = await world.post("created", amount=100_000, commission=8_000, at=late)
        await world.drain()
        event_id = answer.json()["event_id"]
        url, reason = f"/v1/admin/webhook-events/{event_id}/release", {"reason": "the shop says so"}
        proposed = await client.post(url, json=reason, headers=await other_headers(name="the first"))
        assert (proposed.status_code, proposed.json()["amount"]) == (202, pkr(5_000))
        await world.drain()
        assert (await world.event(event_id)).status is WebhookStatus.QUARANTINED
        assert (await confirm(client, proposed.json(), await other_headers())).status_code == 200
        await world.drain()
        assert (await world.event(event_id)).status is WebhookStatus.PROCESSED


async def test_writing_off_much_and_undoing_it_waits_for_another_person(
    committed_db: Settings, application: FastAPI
) -> None:
    own = limited(committed_db)
    async with in_process(application, own) as client:
        desk, second = await Desk.open(await make_world(own, client)), await other_headers()
        await desk.order("A-1", status=OrderStatus.APPROVED)
        [line] = await desk.settle(("A-1", 3_000))
        resolved = await desk.resolve(line, "written_off")
        assert (resolved.status_code, resolved.json()["amount"]) == (202, pkr(5_000))
        assert await desk.due("A-1") == 5_000
        assert (await confirm(client, resolved.json(), second)).status_code == 200
        assert await desk.due("A-1") == 0
        undone = await desk.reopen(line)
        assert (undone.status_code, undone.json()["amount"]) == (202, pkr(5_000))
        assert (await confirm(client, undone.json(), second)).status_code == 200
        assert await desk.due("A-1") == 5_000


# --- Without limits


@pytest.mark.parametrize(
    ("environment", "limits", "warned"),
    [(Environment.PRODUCTION, {}, 1), (Environment.PRODUCTION, {"PKR": LIMIT}, 0), (Environment.DEVELOPMENT, {}, 0)],
)
async def test_production_without_limits_is_warned_of_at_start(
    settings: Settings, environment: Environment, limits: dict[str, int], warned: int
) -> None:
    own = settings.model_copy(update={"environment": environment, "four_eyes_limits": limits})
    app = create_app(own)
    with captured_logs() as output:
        async with app.router.lifespan_context(app):
            pass
    db.AsyncSessionLocal.configure(bind=None)
    lines = [line for line in lines_of(output) if "FOUR_EYES_LIMITS" in line["message"]]
    assert [line["level"] for line in lines] == ["WARNING"] * warned

"""Staff decide claims: by an orphan or by hand, once, through the same ledger path as any sale."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import func, select, text

from app.db import transaction
from app.ids import new_id
from app.models import (
    ClaimStatus,
    Click,
    ClickOrigin,
    Customer,
    CustomerStatus,
    Merchant,
    OrderReport,
    OrderStatus,
    Rate,
    StaffRole,
    Wallet,
    WebhookStatus,
)
from app.services.exchange_rates import add_exchange_rate
from app.services.webhooks.inbox import replay
from app.workers.orders import release_payable
from tests.claims.world import CASHBACK_MINOR, COMMISSION_MINOR, SALE_MINOR, ClaimWorld, by_hand, pkr
from tests.factories import make_click, make_customer, make_merchant

# An id that nothing has; fixed, so that tests have the same names in every process.
NOBODY = "01a21338-0000-7000-8000-000000000000"

DAY = timedelta(days=1)


async def matched(claims: ClaimWorld, order_id: str = "A-1", **claim: Any) -> tuple[str, str]:
    """An orphan and the claim it is matched with: their ids."""
    event_id = await claims.orphan(order_id)
    claim_id = await claims.filed(order_id, **claim)
    await claims.compare()
    assert (await claims.claim(claim_id)).status is ClaimStatus.MATCHED
    return event_id, claim_id


async def test_a_matched_claim_is_credited_by_its_orphan(claims: ClaimWorld) -> None:
    event_id, claim_id = await matched(claims)
    answer = await claims.approve(claim_id, {"note": "found it"}, role=StaffRole.OPERATOR)
    assert answer.status_code == 200, answer.text
    [order] = await claims.orders()
    shown = answer.json()
    assert (shown["status"], shown["order_id"], shown["resolution_note"]) == ("approved", str(order.id), "found it")
    assert (shown["matched_event_id"], shown["score"]) == (event_id, 100)
    assert shown["known_order"]["id"] == str(order.id)
    assert (order.click_id, order.customer_id) == (claims.world.click.id, claims.world.customer.id)
    assert (order.status, order.cashback_minor) == (OrderStatus.PENDING, CASHBACK_MINOR)
    assert await claims.pending() == CASHBACK_MINOR
    event = await claims.world.event(event_id)
    assert (event.status, event.order_id, event.matched_click_id) == (
        WebhookStatus.PROCESSED,
        order.id,
        claims.world.click.id,
    )
    mine = (await claims.client.get(f"/v1/me/claims/{claim_id}", headers=claims.headers())).json()
    assert (mine["status"], mine["order_id"], mine["resolution_note"]) == ("approved", str(order.id), "found it")
    detail = await claims.client.get(f"/v1/me/orders/{order.id}", headers=claims.headers())
    assert detail.json()["explanation"][0]["step"] == "base"


async def test_replaying_a_credited_orphan_keeps_its_click_and_changes_nothing(claims: ClaimWorld) -> None:
    event_id, claim_id = await matched(claims)
    await claims.approve(claim_id)
    async with transaction() as session:
        await replay(session, UUID(event_id))
    assert await claims.world.drain() == 1
    event = await claims.world.event(event_id)
    assert (event.status, event.matched_click_id) == (WebhookStatus.PROCESSED, claims.world.click.id)
    assert (await claims.transfers(), await claims.pending()) == (1, CASHBACK_MINOR)
    assert (await claims.claim(claim_id)).order_id == event.order_id


async def test_what_the_shop_reports_later_joins_the_order_of_an_orphan(claims: ClaimWorld) -> None:
    _, claim_id = await matched(claims)
    await claims.approve(claim_id)
    await claims.world.post("approved", click_id=None)
    # Networks repeat the reference that leads nowhere with everything they say of the order.
    await claims.world.post("returned", click_id="unknown", amount=50_000, commission=4_000)
    await claims.world.drain()
    [order] = await claims.orders()
    assert (order.status, order.sale_minor, order.cashback_minor) == (OrderStatus.APPROVED, 50_000, 2_500)
    assert await claims.pending() == 2_500


async def test_without_a_click_staff_may_still_grant_the_rate_of_that_day(claims: ClaimWorld) -> None:
    async with transaction() as session:
        rate = (await session.scalars(select(Rate).where(Rate.merchant_id == claims.world.merchant.id))).one()
        rate.valid_to = datetime.now(UTC) - DAY
        session.add(
            Rate(
                merchant_id=rate.merchant_id,
                kind=rate.kind,
                basis_points=100,
                valid_from=datetime.now(UTC) - DAY,
            )
        )
    customer = await claims.stranger()
    event_id = await claims.orphan()
    claim_id = await claims.filed(customer=customer)
    unmatched = await claims.approve(claim_id)
    assert (unmatched.status_code, unmatched.json()["code"]) == (409, "claim_without_match")
    answer = await claims.approve(claim_id, {"event_id": event_id})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["score"], await claims.pending(customer)) == (70, CASHBACK_MINOR)
    [order] = await claims.orders()
    async with transaction() as session:
        click = await session.get_one(Click, order.click_id)
    assert (click.origin, click.customer_id) == (ClickOrigin.CLAIM, customer.id)
    # It is no click the customer made.
    assert (await claims.client.get("/v1/me/clicks", headers=claims.headers(customer))).json()["items"] == []
    assert (await claims.as_staff("GET", f"claims/{claim_id}")).json()["clicks"] == []


async def test_staff_choose_the_click_whose_rate_holds(claims: ClaimWorld) -> None:
    async with transaction() as session:
        better = await make_click(session, claims.world.customer, claims.world.merchant, rate_basis_points=800)
        better.created_at = claims.world.click.created_at - DAY
        strangers = await make_click(session, await make_customer(session), claims.world.merchant)
        elsewhere = await make_click(session, claims.world.customer, await make_merchant(session))
    _, claim_id = await matched(claims)
    shown = (await claims.as_staff("GET", f"claims/{claim_id}")).json()
    assert [(click["id"], click["counts"]) for click in shown["clicks"]] == [
        (str(better.id), True),
        (str(claims.world.click.id), True),
    ]
    for click_id, status, code in (
        (strangers.id, 409, "click_mismatch"),
        (elsewhere.id, 409, "click_mismatch"),
        (UUID(NOBODY), 404, "click_not_found"),
    ):
        refused = await claims.approve(claim_id, {"click_id": str(click_id)})
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert (await claims.approve(claim_id, {"click_id": str(better.id)})).status_code == 200
    assert await claims.pending() == 8_000


async def test_a_claim_is_credited_by_hand_at_its_clicks_rate(claims: ClaimWorld) -> None:
    claim_id = await claims.filed()
    answer = await claims.approve(claim_id, by_hand(merchant_confirmed=True))
    assert answer.status_code == 200, answer.text
    [order] = await claims.orders()
    assert (order.status, order.external_id, order.click_id) == (
        OrderStatus.APPROVED,
        "A-1",
        claims.world.click.id,
    )
    assert (order.commission_minor, order.cashback_minor) == (COMMISSION_MINOR, CASHBACK_MINOR)
    assert (await claims.pending(), answer.json()["order_id"]) == (CASHBACK_MINOR, str(order.id))
    async with transaction() as session:
        reports = (await session.scalars(select(OrderReport))).all()
    assert {str(report.claim_id) for report in reports} == {claim_id}


async def test_crediting_by_hand_needs_the_role_for_it(claims: ClaimWorld) -> None:
    claim_id = await claims.filed()
    answer = await claims.approve(claim_id, by_hand(), role=StaffRole.OPERATOR)
    assert (answer.status_code, answer.json()["code"]) == (403, "staff_role_required")
    assert (await claims.orders(), (await claims.claim(claim_id)).status) == ([], ClaimStatus.OPEN)


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("with_click", [None, "unknown", "own", "another-own"])
@pytest.mark.parametrize("spelled", ["A-1", "#A-1", "a-1"])
async def test_the_shops_own_report_after_a_claim_by_hand_joins_its_order(
    claims: ClaimWorld, approved: bool, with_click: str | None, spelled: str
) -> None:
    click_id: Any = with_click
    if with_click == "own":
        click_id = claims.world.click.id
    if with_click == "another-own":
        async with transaction() as session:
            click_id = (await make_click(session, claims.world.customer, claims.world.merchant)).id
    claim_id = await claims.filed("A-1")
    await claims.approve(claim_id, by_hand(120_000, 10_000, merchant_confirmed=approved))
    assert await claims.pending() == 6_000
    # Earlier than the customer remembers: what the shop says outranks what was granted in want of it all the same.
    event_id = await claims.orphan(spelled, at=claims.sold_at - timedelta(hours=1), click_id=click_id)
    [order] = await claims.orders()
    event = await claims.world.event(event_id)
    assert (event.status, event.order_id) == (WebhookStatus.PROCESSED, order.id)
    assert (order.sale_minor, order.cashback_minor) == (SALE_MINOR, CASHBACK_MINOR)
    assert order.status is (OrderStatus.APPROVED if approved else OrderStatus.PENDING)
    assert await claims.pending() == CASHBACK_MINOR


@pytest.mark.parametrize("spelled", ["A-1", "#A-1", "a-1"])
async def test_the_shops_own_report_before_a_claim_by_hand_joins_its_order(claims: ClaimWorld, spelled: str) -> None:
    event_id = await claims.orphan(spelled, amount=90_000)
    claim_id = await claims.filed("A-1")
    assert (await claims.approve(claim_id, by_hand())).status_code == 200
    await claims.world.drain()
    [order] = await claims.orders()
    event = await claims.world.event(event_id)
    assert (event.status, event.order_id) == (WebhookStatus.PROCESSED, order.id)
    assert (order.sale_minor, await claims.pending()) == (90_000, 4_500)


async def test_another_customers_click_does_not_get_an_order_that_a_claim_was_granted(claims: ClaimWorld) -> None:
    claim_id = await claims.filed("A-1")
    await claims.approve(claim_id, by_hand())
    async with transaction() as session:
        other = await make_click(session, await make_customer(session), claims.world.merchant)
    for spelled in ("A-1", "#a-1"):
        event_id = await claims.orphan(spelled, click_id=other.id)
        event = await claims.world.event(event_id)
        assert event.status is WebhookStatus.QUARANTINED
        assert "attributed to another click already" in (event.reason or "")
    assert len(await claims.orders()) == 1
    assert await claims.pending() == CASHBACK_MINOR


async def test_a_claim_granted_for_the_orphan_of_another_number_leaves_that_number_alone(claims: ClaimWorld) -> None:
    # The customer mistyped 8 as 3; the order 3 is somebody else's.
    event_id = await claims.orphan("A-8")
    claim_id = await claims.filed("A-3")
    assert (await claims.approve(claim_id, {"event_id": event_id})).status_code == 200
    async with transaction() as session:
        owner = await make_customer(session)
        click = await make_click(session, owner, claims.world.merchant)
    await claims.orphan("A-3", click_id=click.id, at=datetime.now(UTC))
    assert [order.external_id for order in await claims.orders()] == ["A-8", "A-3"]
    assert (await claims.pending(), await claims.pending(owner)) == (CASHBACK_MINOR, CASHBACK_MINOR)


async def test_a_like_sale_of_a_network_with_numbers_of_its_own_waits_for_staff(claims: ClaimWorld) -> None:
    # The customer knows the shop's number, the network reports its own: only staff can tell whether it is one sale.
    claim_id = await claims.filed("A-1")
    await claims.approve(claim_id, by_hand())
    same = await claims.orphan("105956531", amount=98_000, click_id=claims.world.click.id)
    event = await claims.world.event(same)
    assert event.status is WebhookStatus.ORPHANED
    assert f"claim {claim_id} of this customer was credited by hand for a like sale" in (event.reason or "")
    # Of another amount or time, or of another customer, it is another sale.
    async with transaction() as session:
        strangers = await make_click(session, await make_customer(session), claims.world.merchant)
    others: list[dict[str, Any]] = [
        {"amount": 50_000, "click_id": claims.world.click.id},
        {"at": claims.sold_at + 6 * DAY, "click_id": claims.world.click.id},
        {"click_id": strangers.id},
    ]
    for number, payload in enumerate(others):
        other = await claims.orphan(f"2-{number}", **payload)
        assert (await claims.world.event(other)).status is WebhookStatus.PROCESSED
    pending = await claims.pending()
    assert (await claims.match(same, {"click_id": str(claims.world.click.id)})).status_code == 200
    assert await claims.pending() == pending + 4_900


async def test_once_the_shop_has_reported_what_was_granted_a_like_sale_is_another_one(claims: ClaimWorld) -> None:
    await claims.approve(await claims.filed("A-1"), by_hand())
    await claims.orphan("A-1", click_id=claims.world.click.id)
    second = await claims.orphan("A-2", click_id=claims.world.click.id)
    assert (await claims.world.event(second)).status is WebhookStatus.PROCESSED
    assert await claims.pending() == 2 * CASHBACK_MINOR


async def test_an_order_like_one_the_customer_has_is_granted_by_hand_only_as_distinct(claims: ClaimWorld) -> None:
    await claims.orphan("105956531", amount=98_000, click_id=claims.world.click.id)
    claim_id = await claims.filed("A-1")
    [order] = await claims.orders()
    shown = (await claims.as_staff("GET", f"claims/{claim_id}")).json()
    assert ([one["id"] for one in shown["like_orders"]], shown["known_order"]) == ([str(order.id)], None)
    refused = await claims.approve(claim_id, by_hand())
    assert (refused.status_code, refused.json()["code"]) == (409, "like_order_exists")
    assert str(order.id) in refused.json()["detail"]
    assert (await claims.approve(claim_id, by_hand(distinct=True))).status_code == 200
    assert await claims.pending() == 4_900 + CASHBACK_MINOR


async def test_staff_correct_a_mistyped_number(claims: ClaimWorld) -> None:
    claim_id, other_id = await claims.filed("A-3"), await claims.filed("A-9")
    taken = await claims.approve(claim_id, by_hand(order_reference="#a-9"))
    assert (taken.status_code, taken.json()["code"]) == (409, "claim_exists")
    assert other_id in taken.json()["detail"]
    answer = await claims.approve(claim_id, by_hand(order_reference="A-8"))
    assert (answer.status_code, answer.json()["order_reference"]) == (200, "A-8")
    [order] = await claims.orders()
    assert order.external_id == "A-8"


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ({}, {}, "orphan_not_waiting"),
        ({}, by_hand(), "order_exists"),
        (by_hand(), {}, "orphan_not_waiting"),
        (by_hand(), by_hand(), "order_exists"),
    ],
    ids=["both-by-orphan", "orphan-hand", "hand-orphan", "both-by-hand"],
)
@pytest.mark.parametrize("spelled", ["A-1", " #a-1"])
async def test_an_order_is_credited_to_one_of_two_who_claim_it(
    claims: ClaimWorld, first: dict[str, Any], second: dict[str, Any], code: str, spelled: str
) -> None:
    event_id, one = await matched(claims)
    stranger = await claims.stranger()
    other = await claims.filed(spelled, customer=stranger)
    shown = (await claims.as_staff("GET", f"claims/{other}")).json()
    assert shown["other_claims"] == [{"id": one, "customer_id": str(claims.world.customer.id), "status": "matched"}]
    assert (await claims.approve(one, first or {"event_id": event_id})).status_code == 200
    await claims.world.drain()
    refused = await claims.approve(other, second or {"event_id": event_id})
    assert (refused.status_code, refused.json()["code"]) == (409, code), refused.text
    [order] = await claims.orders()
    assert str(order.id) in refused.json()["detail"]
    assert (await claims.pending(), await claims.pending(stranger)) == (CASHBACK_MINOR, 0)
    assert (await claims.claim(other)).status is ClaimStatus.OPEN


@pytest.mark.parametrize("hand", [True, False])
async def test_two_customers_approved_at_once_get_one_order(claims: ClaimWorld, hand: bool) -> None:
    event_id = await claims.orphan("elsewhere" if hand else "A-1")
    customers = [await claims.stranger() for _ in range(6)]
    spelled = ["A-1", "a-1", "#A-1"] * 2
    ids = [await claims.filed(one, customer=customer) for one, customer in zip(spelled, customers, strict=True)]
    body = by_hand() if hand else {"event_id": event_id}
    answers = await asyncio.gather(*(claims.approve(claim_id, body) for claim_id in ids))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert len(await claims.orders()) == await claims.transfers() == 1
    assert sum([await claims.pending(customer) for customer in customers]) == CASHBACK_MINOR


@pytest.mark.parametrize("hand", [True, False])
async def test_one_claim_approved_many_times_at_once_has_one_effect(claims: ClaimWorld, hand: bool) -> None:
    _, claim_id = await matched(claims)
    body = by_hand() if hand else {}
    answers = await asyncio.gather(*(claims.approve(claim_id, body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    await claims.world.drain()
    assert len(await claims.orders()) == 1
    assert await claims.pending() == CASHBACK_MINOR


async def test_all_ways_to_make_one_order_at_once_make_it_once(claims: ClaimWorld) -> None:
    for number in range(1, 6):
        reference = f"A-{number}"
        event_id = await claims.orphan(reference)
        customers = [await claims.stranger() for _ in range(5)]
        ids = [await claims.filed(reference, customer=customer) for customer in customers[:4]]
        # The shop's own report with a click: when it makes the order, it wakes the orphan.
        await claims.world.post("created", reference, amount=SALE_MINOR, commission=COMMISSION_MINOR)
        draining = asyncio.create_task(claims.world.drain())
        answers = await asyncio.gather(
            claims.approve(ids[0], by_hand()),
            claims.approve(ids[1], {"event_id": event_id}),
            claims.approve(ids[2], by_hand(order_reference=f"#a-{number}")),
            claims.approve(ids[3], {"event_id": event_id}),
            claims.match(event_id, {"customer_id": str(customers[4].id)}),
        )
        await draining
        await claims.world.drain()
        assert {answer.status_code for answer in answers} <= {200, 409}, [answer.text for answer in answers]
        assert sum(answer.status_code == 200 for answer in answers) <= 1
        assert len(await claims.orders()) == number
        async with transaction() as session:
            assert await session.scalar(select(func.sum(Wallet.pending_minor))) == number * CASHBACK_MINOR


async def test_the_same_key_approves_once_and_answers_the_same(claims: ClaimWorld) -> None:
    _, claim_id = await matched(claims)
    first = await claims.approve(claim_id, key="k")
    again = await claims.approve(claim_id, key="k")
    assert (first.status_code, again.json(), again.headers["Idempotency-Replayed"]) == (200, first.json(), "true")
    other = await claims.approve(claim_id, {"note": "another"}, key="k")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await claims.transfers() == 1


async def test_approving_rejecting_and_withdrawing_at_once_has_one_outcome(claims: ClaimWorld) -> None:
    _, claim_id = await matched(claims)
    answers = await asyncio.gather(
        claims.approve(claim_id),
        claims.as_staff("POST", f"claims/{claim_id}/reject", json={"note": "no such order"}),
        claims.client.post(f"/v1/me/claims/{claim_id}/withdraw", headers=claims.headers()),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
    approved = answers[0].status_code == 200
    assert len(await claims.orders()) == (1 if approved else 0)
    assert ((await claims.claim(claim_id)).status is ClaimStatus.APPROVED) == approved


@pytest.mark.parametrize("role", [StaffRole.OPERATOR, StaffRole.ADMIN])
async def test_a_rejected_claim_says_why_and_is_decided(claims: ClaimWorld, role: StaffRole) -> None:
    _, claim_id = await matched(claims)
    answer = await claims.as_staff("POST", f"claims/{claim_id}/reject", json={"note": "no such order"}, role=role)
    assert (answer.status_code, answer.json()["status"]) == (200, "rejected")
    assert answer.json()["resolved_by_id"] is not None
    mine = (await claims.client.get(f"/v1/me/claims/{claim_id}", headers=claims.headers())).json()
    assert (mine["status"], mine["resolution_note"]) == ("rejected", "no such order")
    for path, body in (("approve", {}), ("approve", by_hand()), ("reject", {"note": "again"})):
        again = await claims.as_staff("POST", f"claims/{claim_id}/{path}", json=body)
        assert (again.status_code, again.json()["code"]) == (409, "claim_resolved")
    assert await claims.orders() == []
    assert await claims.filed() != claim_id


@pytest.mark.parametrize("hand", [True, False])
@pytest.mark.parametrize("status", [CustomerStatus.FROZEN, CustomerStatus.CLOSED])
async def test_an_account_that_is_not_active_is_credited_nothing(
    claims: ClaimWorld, hand: bool, status: CustomerStatus
) -> None:
    _, claim_id = await matched(claims)
    async with transaction() as session:
        customer = await session.get_one(Customer, claims.world.customer.id)
        customer.status = status
        customer.closed_at = datetime.now(UTC) if status is CustomerStatus.CLOSED else None
    answer = await claims.approve(claim_id, by_hand() if hand else {})
    assert (answer.status_code, answer.json()["code"]) == (409, "customer_not_active")
    assert await claims.orders() == []


async def test_what_processing_refuses_is_refused_with_its_reason_and_changes_nothing(claims: ClaimWorld) -> None:
    event_id, claim_id = await matched(claims)
    async with transaction() as session:
        click = await session.get_one(Click, claims.world.click.id)
        click.expires_at = claims.sold_at - timedelta(minutes=1)
    refused = await claims.approve(claim_id, {"event_id": event_id, "click_id": str(click.id)})
    assert (refused.status_code, refused.json()["code"]) == (409, "orphan_not_creditable")
    assert "the sale is later than click" in refused.json()["detail"]
    event = await claims.world.event(event_id)
    assert (event.status, event.matched_click_id) == (WebhookStatus.ORPHANED, None)
    assert (await claims.claim(claim_id)).status is ClaimStatus.MATCHED
    async with transaction() as session:
        foreign = await make_merchant(session)
        await session.execute(text("UPDATE rates SET valid_from = now() - interval '1 year'"))
    other_id = await claims.filed("A-1", merchant_id=foreign.id)
    elsewhere = await claims.approve(other_id, {"event_id": event_id})
    assert (elsewhere.status_code, elsewhere.json()["code"]) == (409, "orphan_not_creditable")
    assert "of the shop" in elsewhere.json()["detail"]


async def test_an_orphan_that_reports_no_sale_credits_no_claim(claims: ClaimWorld) -> None:
    declined = await claims.orphan("A-1", kind="declined")
    early = await claims.orphan("A-2", kind="approved", amount=None, commission=None)
    for event_id, reason in ((declined, "declined"), (early, "no amounts to make one of")):
        claim_id = await claims.filed(f"B-{event_id}")
        answer = await claims.approve(claim_id, {"event_id": event_id})
        assert (answer.status_code, answer.json()["code"]) == (409, "orphan_not_creditable")
        assert reason in answer.json()["detail"]
    assert await claims.orders() == []


async def test_a_claim_in_a_currency_without_a_rate_waits_for_it(claims: ClaimWorld) -> None:
    event_id = await claims.orphan(currency="USD", amount=1_000, commission=80)
    claim_id = await claims.filed(amount={"amount_minor": 1_000, "currency": "USD"})
    await claims.compare()
    by_hand_first = await claims.approve(
        claim_id,
        {"sale": {"amount_minor": 1_000, "currency": "USD"}, "commission": {"amount_minor": 80, "currency": "USD"}},
    )
    assert (by_hand_first.status_code, by_hand_first.json()["code"]) == (409, "claim_not_creditable")
    answer = await claims.approve(claim_id)
    assert (answer.status_code, answer.json()["status"], answer.json()["order_id"]) == (200, "approved", None)
    uncredited = (await claims.as_staff("GET", "claims?uncredited=true")).json()["items"]
    assert [item["id"] for item in uncredited] == [claim_id]
    assert "claims_uncredited 1.0" in (await claims.client.get("/metrics")).text
    async with transaction() as session:
        await add_exchange_rate(
            session, base="USD", quote="PKR", rate="280", effective_on=claims.sold_at.date(), created_by_id=None
        )
    await claims.world.drain()
    [order] = await claims.orders()
    claim = await claims.claim(claim_id)
    assert (claim.order_id, str(claim.matched_event_id)) == (order.id, event_id)
    assert (order.currency, await claims.pending()) == ("PKR", 14_000)


async def test_an_approved_claim_whose_event_fails_after_all_is_open_again(claims: ClaimWorld) -> None:
    await claims.orphan(currency="USD", amount=1_000, commission=80)
    claim_id = await claims.filed(amount={"amount_minor": 1_000, "currency": "USD"})
    await claims.compare()
    assert (await claims.approve(claim_id)).json()["order_id"] is None
    # Meanwhile the order turns up under another customer's click, in the shop's own currency.
    async with transaction() as session:
        click = await make_click(session, await make_customer(session), claims.world.merchant)
    await claims.orphan("A-1", click_id=click.id, at=datetime.now(UTC))
    async with transaction() as session:
        await add_exchange_rate(
            session, base="USD", quote="PKR", rate="280", effective_on=claims.sold_at.date(), created_by_id=None
        )
    await claims.world.drain()
    claim = await claims.claim(claim_id)
    assert (claim.status, claim.order_id, claim.matched_event_id) == (ClaimStatus.OPEN, None, None)
    assert (claim.resolved_at, claim.resolved_by_id) == (None, None)
    assert await claims.pending() == 0


@pytest.mark.parametrize(
    "body",
    [
        {"sale": pkr(1)},
        {"commission": pkr(1)},
        by_hand(0),
        by_hand(100, 101),
        by_hand(100, -1),
        {"sale": pkr(2), "commission": {"amount_minor": 1, "currency": "EUR"}},
        by_hand(event_id=NOBODY),
        {"merchant_confirmed": True},
        {"distinct": True},
        {"order_reference": "A-1"},
        by_hand(order_reference="#"),
        {"event_id": "x"},
        {"note": "no"},
        {"note": "a\x00b" * 3},
        {"status": "approved"},
        by_hand(2**63),
    ],
    ids=str,
)
async def test_an_approval_that_makes_no_sense_is_refused(claims: ClaimWorld, body: dict[str, Any]) -> None:
    answer = await claims.approve(await claims.filed(), body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_what_does_not_exist_cannot_be_approved(claims: ClaimWorld) -> None:
    for body in ({}, by_hand()):
        answer = await claims.approve(str(new_id()), body)
        assert (answer.status_code, answer.json()["code"]) == (404, "claim_not_found")
    claim_id = await claims.filed()
    answer = await claims.approve(claim_id, {"event_id": str(new_id())})
    assert (answer.status_code, answer.json()["code"]) == (404, "orphan_not_found")


async def test_a_shop_without_a_source_or_a_rate_at_that_time_cannot_be_granted(claims: ClaimWorld) -> None:
    async with transaction() as session:
        untracked = await make_merchant(session, source_id=None)
        rateless = await make_merchant(session, rate_basis_points=None)
    for merchant, code in ((untracked, "merchant_without_source"), (rateless, "merchant_without_rate")):
        claim_id = await claims.filed("A-1", merchant_id=merchant.id)
        answer = await claims.approve(claim_id, by_hand())
        assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert await claims.orders() == []


async def test_a_resolved_claim_is_paid_out_and_taken_back_like_any_order(claims: ClaimWorld) -> None:
    async with transaction() as session:
        merchant = await session.get_one(Merchant, claims.world.merchant.id)
        merchant.hold_days = 0
    claim_id = await claims.filed()
    await claims.approve(claim_id, by_hand(merchant_confirmed=True))
    assert await release_payable() == 1
    assert await claims.world.wallet() == (0, CASHBACK_MINOR)
    await claims.world.post("returned", click_id=None)
    await claims.world.drain()
    assert await claims.world.wallet() == (0, 0)
    [order] = await claims.orders()
    assert order.status is OrderStatus.REVERSED

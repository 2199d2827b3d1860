"""Held orders: pending until staff decide, never payable, whatever order reports come in; the books always balance."""

import itertools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import (
    AlertKind,
    Click,
    Customer,
    Merchant,
    Order,
    OrderReport,
    OrderReview,
    OrderReviewChange,
    OrderStatus,
    ReportKind,
    ReviewStatus,
    StaffKey,
    Wallet,
)
from app.services import alerts
from app.services.fraud.show import measure_reviews
from app.services.orders.hold import due_merchants
from app.services.orders.report import Said, start_order, take_reports
from app.workers.fraud import judge_orders
from app.workers.orders import release_payable
from tests.factories import customer_headers, make_click, make_customer, make_merchant, make_order, staff_headers

NOON = datetime.now(UTC).replace(microsecond=0) - timedelta(days=40)
FAST = {"kind": "click_to_order", "minimum_seconds": 10}
Setter = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def staff(session: AsyncSession) -> dict[str, str]:
    return await staff_headers(session)


@pytest.fixture
def set_rule(client: httpx.AsyncClient, staff: dict[str, str]) -> Setter:
    async def put(thresholds: dict[str, Any], **changes: Any) -> dict[str, Any]:
        answer = await client.put("/v1/admin/fraud-rules", json={"thresholds": thresholds, **changes}, headers=staff)
        assert answer.status_code == 200, answer.text
        rule: dict[str, Any] = answer.json()
        return rule

    return put


@pytest.fixture
async def click(session: AsyncSession) -> Click:
    """A click of forty days ago, at a shop whose hold is long over."""
    return await make_click(
        session, await make_customer(session), await make_merchant(session, hold_days=1), created_at=NOON
    )


async def tell(
    session: AsyncSession,
    settings: Settings,
    click: Click,
    name: str,
    kind: ReportKind,
    *,
    after: float,
    sale: int | None = None,
) -> Order:
    """Let the source report something so many seconds after the click."""
    merchant = await session.get_one(Merchant, click.merchant_id)
    order = await session.scalar(
        select(Order)
        .where(Order.merchant_id == merchant.id, Order.external_id == name)
        .with_for_update()
        # The application's own sessions have changed it.
        .execution_options(populate_existing=True)
    )
    if order is not None:
        await session.get(OrderReview, order.id, populate_existing=True)
    at = NOON + timedelta(seconds=after)
    if order is None:
        order = await start_order(
            session,
            merchant=merchant,
            source_id=merchant.source_id or 0,
            click=click,
            external_id=name,
            reported_currency="PKR",
            ordered_at=at,
            rate_max_age_days=7,
        )
    commission = None if sale is None else sale // 10
    member = (await session.scalars(select(StaffKey.id).limit(1))).one()
    await take_reports(
        session,
        settings,
        order,
        [(OrderReport(id=new_id(), staff_key_id=member, reason="told"), Said(kind, at, sale, commission))],
        click=click,
        merchant=merchant,
    )
    return order


async def earn(session: AsyncSession, settings: Settings, click: Click, name: str, *, after: float) -> Order:
    """An approved order of 1000.00, whose hold is over."""
    await tell(session, settings, click, name, ReportKind.CREATED, after=after, sale=100_000)
    return await tell(session, settings, click, name, ReportKind.APPROVED, after=after + 60)


async def decide(client: httpx.AsyncClient, staff: dict[str, str], order: Order, verb: str) -> httpx.Response:
    return await client.post(f"/v1/admin/reviews/{order.id}/{verb}", json={"note": "looked into it"}, headers=staff)


async def wallet(session: AsyncSession, click: Click) -> tuple[int, int]:
    """(pending, available)"""
    row = await session.get_one(Wallet, (click.customer_id, "PKR"), populate_existing=True)
    return row.pending_minor, row.available_minor


async def test_held_order_stays_pending_with_neutral_words_until_it_is_released(
    client: httpx.AsyncClient,
    session: AsyncSession,
    settings: Settings,
    staff: dict[str, str],
    set_rule: Setter,
    click: Click,
) -> None:
    rule = await set_rule(FAST)
    order = await earn(session, settings, click, "A", after=2)
    usual = await earn(session, settings, click, "B", after=900)
    await release_payable()
    assert await wallet(session, click) == (5_000, 5_000)
    # It holds up no other merchant's or later run: what is held is not due.
    assert click.merchant_id not in await due_merchants(session)
    customer = await session.get_one(Customer, click.customer_id)
    mine = (await client.get(f"/v1/me/orders/{order.id}", headers=customer_headers(settings, customer))).json()
    assert mine["waits_for"] == "confirmation"
    assert not any(word in str(mine).lower() for word in ("fraud", "held", "review", "suspicious"))
    [shown] = (await client.get("/v1/admin/reviews", headers=staff)).json()["items"]
    assert (shown["order_id"], shown["status"]) == (str(order.id), "held")
    assert shown["findings"] == [
        {
            "kind": "click_to_order",
            "rule_id": rule["id"],
            "measure": 1,
            "evidence": {"seconds": 2, "minimum_seconds": 10},
        }
    ]
    answer = await decide(client, staff, order, "release")
    assert answer.json()["status"] == "released"
    assert [(step["status"], step["note"]) for step in answer.json()["history"]] == [
        ("held", None),
        ("released", "looked into it"),
    ]
    await release_payable()
    assert await wallet(session, click) == (0, 10_000)
    assert (await decide(client, staff, order, "release")).json()["code"] == "order_not_held"
    assert (await decide(client, staff, usual, "reject")).json()["code"] == "review_not_found"


async def test_rejected_order_is_declined_whatever_its_source_says_and_may_come_back(
    client: httpx.AsyncClient,
    session: AsyncSession,
    settings: Settings,
    staff: dict[str, str],
    set_rule: Setter,
    click: Click,
) -> None:
    await set_rule(FAST)
    order = await earn(session, settings, click, "A", after=2)
    assert (await decide(client, staff, order, "reject")).json()["order_status"] == "declined"
    assert await wallet(session, click) == (0, 0)
    await tell(session, settings, click, "A", ReportKind.APPROVED, after=7_000, sale=200_000)
    await release_payable()
    assert await wallet(session, click) == (0, 0)
    assert (await decide(client, staff, order, "release")).json()["order_status"] == "approved"
    assert await wallet(session, click) == (10_000, 0)
    await release_payable()
    assert await wallet(session, click) == (0, 10_000)


async def test_released_order_is_held_again_by_new_evidence_only(
    client: httpx.AsyncClient,
    session: AsyncSession,
    settings: Settings,
    staff: dict[str, str],
    set_rule: Setter,
    click: Click,
) -> None:
    await set_rule({"kind": "velocity", "most_orders": 1, "hours": 24})
    await tell(session, settings, click, "0", ReportKind.CREATED, after=0, sale=100)
    order = await tell(session, settings, click, "last", ReportKind.CREATED, after=9_000, sale=100)
    review = await session.get_one(OrderReview, order.id)
    assert (await decide(client, staff, order, "release")).status_code == 200
    # One more is no news; twice as many as were seen are.
    for number, status in ((1, ReviewStatus.RELEASED), (2, ReviewStatus.HELD)):
        await tell(session, settings, click, f"{number}", ReportKind.CREATED, after=number * 60, sale=100)
        await judge_orders()
        await session.refresh(review)
        assert review.status is status
    assert (await decide(client, staff, order, "release")).status_code == 200
    # Another rule that finds something is news at once.
    await set_rule({"kind": "orders_per_click", "most_orders": 1})
    await tell(session, settings, click, "last", ReportKind.APPROVED, after=9_600)
    await session.refresh(review)
    assert review.status is ReviewStatus.HELD
    assert {finding["kind"] for finding in review.findings} == {"velocity", "orders_per_click"}


async def test_what_is_found_only_before_it_becomes_payable_holds_it_too(
    client: httpx.AsyncClient,
    session: AsyncSession,
    settings: Settings,
    staff: dict[str, str],
    set_rule: Setter,
    click: Click,
) -> None:
    order = await earn(session, settings, click, "A", after=2)
    await set_rule(FAST)
    await release_payable()
    assert await wallet(session, click) == (5_000, 0)
    assert (await session.get_one(OrderReview, order.id)).status is ReviewStatus.HELD
    # A rule that is switched off, here for this shop alone, lets go of what it held.
    await set_rule(FAST, enabled=False, merchant_id=click.merchant_id)
    await judge_orders()
    review = await session.get_one(OrderReview, order.id, populate_existing=True)
    assert review.status is ReviewStatus.CLEARED
    await release_payable()
    assert await wallet(session, click) == (0, 5_000)


async def test_shuffled_and_repeated_reports_hold_the_same_orders(
    session: AsyncSession, settings: Settings, staff: dict[str, str], set_rule: Setter
) -> None:
    await set_rule(FAST)
    await set_rule({"kind": "orders_per_click", "most_orders": 2})
    await set_rule({"kind": "velocity", "most_orders": 3, "hours": 1})
    tale = [("fast", 3), ("b", 600), ("c", 700), ("d", 800)]
    results = set()
    for order_of_arrival in itertools.islice(itertools.permutations(tale), 0, None, 3):
        merchant = await make_merchant(session)
        customer = await make_customer(session)
        own = await make_click(session, customer, merchant, created_at=NOON)
        for name, after in order_of_arrival:
            await tell(session, settings, own, name, ReportKind.CREATED, after=after, sale=1_000)
        # As a replay says again what it said.
        await tell(session, settings, own, order_of_arrival[0][0], ReportKind.CREATED, after=9_000, sale=1_000)
        await judge_orders()
        rows = await session.execute(
            select(Order.external_id, OrderReview.status, OrderReview.findings)
            .join(Order, Order.id == OrderReview.order_id)
            .where(OrderReview.merchant_id == merchant.id, OrderReview.status == ReviewStatus.HELD)
            .order_by(Order.external_id)
            .execution_options(populate_existing=True)
        )
        results.add(str([(name, [(f["kind"], f["measure"]) for f in findings]) for name, _, findings in rows]))
    assert results == {
        str(
            [
                ("c", [("orders_per_click", 3)]),
                ("d", [("orders_per_click", 4), ("velocity", 4)]),
                ("fast", [("click_to_order", 1)]),
            ]
        )
    }


async def test_returned_order_is_cleared_and_its_steps_are_kept(
    session: AsyncSession, settings: Settings, staff: dict[str, str], set_rule: Setter, click: Click
) -> None:
    await set_rule(FAST)
    order = await tell(session, settings, click, "A", ReportKind.CREATED, after=2, sale=100)
    await tell(session, settings, click, "A", ReportKind.DECLINED, after=60)
    review = await session.get_one(OrderReview, order.id)
    assert review.status is ReviewStatus.CLEARED
    steps = await session.scalars(select(OrderReviewChange.status).order_by(OrderReviewChange.id))
    assert steps.all() == [ReviewStatus.HELD, ReviewStatus.CLEARED]


async def test_dry_run_says_what_would_have_been_held_and_stores_nothing(
    client: httpx.AsyncClient, session: AsyncSession, settings: Settings, staff: dict[str, str], click: Click
) -> None:
    fast = await earn(session, settings, click, "A", after=2)
    await earn(session, settings, click, "B", after=900)
    now = datetime.now(UTC)
    body = {
        "thresholds": FAST,
        "heard_from": (now - timedelta(hours=1)).isoformat(),
        "heard_to": (now + timedelta(hours=1)).isoformat(),
    }
    answer = await client.post("/v1/admin/fraud-rules/dry-run", json=body, headers=staff)
    assert answer.json() == {
        "looked_at": 2,
        "is_complete": True,
        "would_hold": 1,
        "samples": [{"order_id": str(fast.id), "evidence": {"seconds": 2, "minimum_seconds": 10}}],
    }
    part = await client.post("/v1/admin/fraud-rules/dry-run", json={**body, "most": 1}, headers=staff)
    assert (part.json()["looked_at"], part.json()["is_complete"]) == (1, False)
    assert (await session.scalars(select(OrderReview))).all() == []
    for period in ({"heard_to": body["heard_from"]}, {"heard_from": "0001-01-01T00:00:00Z"}, {"heard_to": "x"}):
        refused = await client.post("/v1/admin/fraud-rules/dry-run", json={**body, **period}, headers=staff)
        assert refused.status_code == 422


async def test_rules_are_versions_that_end_each_other(
    client: httpx.AsyncClient, session: AsyncSession, staff: dict[str, str], set_rule: Setter
) -> None:
    merchant = await make_merchant(session)
    first = await set_rule(FAST)
    second = await set_rule({**FAST, "minimum_seconds": 20})
    own = await set_rule(FAST, merchant_id=merchant.id, enabled=False)
    assert [rule["number"] for rule in (first, second, own)] == [1, 2, 1]
    live = (await client.get("/v1/admin/fraud-rules?live=true", headers=staff)).json()["items"]
    assert [rule["id"] for rule in live] == [own["id"], second["id"]]
    every = (await client.get("/v1/admin/fraud-rules?kind=click_to_order", headers=staff)).json()["items"]
    assert every[-1]["ended_at"] is not None
    gone = await client.delete(f"/v1/admin/fraud-rules/{own['id']}", headers=staff)
    assert gone.status_code == 204
    again = await client.delete(f"/v1/admin/fraud-rules/{own['id']}", headers=staff)
    assert (again.status_code, again.json()["code"]) == (409, "fraud_rule_ended")
    missing = await client.delete(f"/v1/admin/fraud-rules/{new_id()}", headers=staff)
    assert (missing.status_code, missing.json()["code"]) == (404, "fraud_rule_not_found")
    third = await set_rule(FAST, merchant_id=merchant.id)
    assert third["number"] == 2
    stranger = await client.put(
        "/v1/admin/fraud-rules", json={"thresholds": FAST, "merchant_id": 2**31 - 1}, headers=staff
    )
    assert stranger.status_code == 404


@pytest.mark.parametrize(
    "thresholds",
    [
        {"kind": "click_to_order"},
        {"kind": "click_to_order", "minimum_seconds": 0},
        {"kind": "click_to_order", "minimum_seconds": 10.5},
        {"kind": "velocity", "most_orders": 3},
        {"kind": "velocity", "most_orders": 3, "hours": 10_000},
        {"kind": "amount_outlier", "factor": 1},
        {"kind": "amount_outlier", "factor": 3, "fewest_orders": 201},
        {"kind": "orders_per_click", "most_orders": "3"},
        {"kind": "self_referral", "minimum_seconds": 3},
        {"kind": "horoscope"},
        {},
    ],
    ids=str,
)
async def test_thresholds_that_make_no_sense_are_refused(
    client: httpx.AsyncClient, staff: dict[str, str], thresholds: dict[str, Any]
) -> None:
    answer = await client.put("/v1/admin/fraud-rules", json={"thresholds": thresholds}, headers=staff)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_orders_that_wait_long_are_counted_and_raise_an_alert(
    session: AsyncSession, settings: Settings, staff: dict[str, str], set_rule: Setter, click: Click
) -> None:
    await set_rule(FAST)
    order = await tell(session, settings, click, "A", ReportKind.CREATED, after=2, sale=100)
    now = datetime.now(UTC)
    assert await alerts.look(session, now=now) == 0
    assert await alerts.look(session, now=now + timedelta(hours=49)) == 1
    assert (await alerts.count_open(session))[AlertKind.WAITING_REVIEWS] == 1
    review = await session.get_one(OrderReview, order.id)
    review.held_since = now - timedelta(hours=5)
    await session.flush()
    count, seconds = await measure_reviews(session)
    assert count == 1
    assert 17_990 < seconds < 18_600


async def test_payable_order_is_never_held(
    session: AsyncSession, settings: Settings, staff: dict[str, str], set_rule: Setter, click: Click
) -> None:
    order = await make_order(session, click, status=OrderStatus.PAYABLE, ordered_at=NOON)
    await set_rule(FAST)
    await tell(session, settings, click, order.external_id, ReportKind.APPROVED, after=60)
    assert await session.get(OrderReview, order.id) is None

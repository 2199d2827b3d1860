"""Claims meet orphans, whichever came first, and what is noted follows what becomes of either."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text, update

from app.db import transaction
from app.models import Claim, ClaimStatus, WebhookEvent, WebhookStatus
from app.services.webhooks.inbox import replay
from app.workers.settings import worker_kind
from tests.claims.world import SALE_MINOR, ClaimWorld, pkr
from tests.factories import make_click, make_customer, make_merchant

DAY = timedelta(days=1)


async def test_a_new_claim_finds_an_orphan_and_a_new_orphan_a_claim(claims: ClaimWorld) -> None:
    event_id = await claims.orphan("A-1")
    first = await claims.filed("#a-1")
    await claims.compare()
    second = await claims.filed("A-2")
    await claims.compare()
    assert (await claims.claim(second)).status is ClaimStatus.OPEN
    other_id = await claims.orphan("#A-2")
    await claims.compare()
    for claim_id, found in ((first, event_id), (second, other_id)):
        claim = await claims.claim(claim_id)
        assert (claim.status, str(claim.matched_event_id), claim.score) == (ClaimStatus.MATCHED, found, 100)
        assert sum(reason["points"] for reason in claim.score_reasons or ()) == 100
    # The customer is not told: it would let one find out which orders nobody was credited for.
    shown = (await claims.client.get(f"/v1/me/claims/{first}", headers=claims.headers())).json()
    assert shown["status"] == "open"
    assert not {"score", "score_reasons", "matched_event_id"} & set(shown)


async def test_without_a_click_a_claim_scores_low_and_is_not_matched(claims: ClaimWorld) -> None:
    await claims.orphan()
    claim_id = await claims.filed(customer=await claims.stranger())
    await claims.compare()
    claim = await claims.claim(claim_id)
    assert (claim.status, claim.score) == (ClaimStatus.OPEN, 70)
    shown = (await claims.as_staff("GET", f"claims/{claim_id}")).json()
    assert shown["clicks"] == []
    assert shown["score_reasons"][-1] == {
        "part": "click_history",
        "points": 0,
        "most": 30,
        "detail": "no click of the customer to this shop that the sale counts for",
    }


@pytest.mark.parametrize(
    ("reported", "claimed"),
    [
        ({"order_id": "B-9", "at": 6 * DAY}, {}),
        ({"order_id": "B-9", "amount": SALE_MINOR * 2}, {}),
        ({"order_id": "B-9", "currency": "EUR"}, {}),
        ({"kind": "declined", "amount": SALE_MINOR}, {}),
        ({"kind": "approved", "amount": None, "commission": None}, {}),
    ],
    ids=["time", "amount", "currency", "declined", "no-amount"],
)
async def test_what_fits_in_nothing_that_counts_is_no_candidate(
    claims: ClaimWorld, reported: dict[str, Any], claimed: dict[str, Any]
) -> None:
    values = dict(reported)
    at = claims.sold_at - values.pop("at", timedelta(0))
    event_id = await claims.orphan(values.pop("order_id", "A-1"), at=at, **values)
    claim_id = await claims.filed(**claimed)
    await claims.compare()
    claim = await claims.claim(claim_id)
    assert (claim.status, claim.matched_event_id, claim.score) == (ClaimStatus.OPEN, None, None)
    assert (await claims.as_staff("GET", f"claims/{claim_id}")).json()["orphans"] == []
    assert (await claims.as_staff("GET", f"orphans/{event_id}")).json()["claims"] == []


async def test_a_number_is_found_at_any_time_and_an_amount_without_its_number(claims: ClaimWorld) -> None:
    by_number = await claims.orphan("A-1", at=claims.sold_at - 9 * DAY, amount=SALE_MINOR * 3)
    by_amount = await claims.orphan("B-9", at=claims.sold_at + DAY, amount=SALE_MINOR + 1_000)
    claim_id = await claims.filed()
    await claims.compare()
    shown = (await claims.as_staff("GET", f"claims/{claim_id}")).json()
    found = {one["orphan"]["id"]: one["score"] for one in shown["orphans"]}
    # The one: shop and number. The other: shop, amount, time and the click of two hours before and a day.
    assert found == {by_number: 40, by_amount: 5 + 18 + 8 + 20}
    assert [one["score"] for one in shown["orphans"]] == sorted(found.values(), reverse=True)
    assert (shown["matched_event_id"], shown["score"], shown["status"]) == (by_amount, 51, "open")


@pytest.mark.parametrize("claim_first", [True, False])
async def test_the_best_orphan_is_noted_in_whichever_order_they_come(claims: ClaimWorld, claim_first: bool) -> None:
    claim_id = await claims.filed() if claim_first else ""
    await claims.compare()
    for order_id, amount in (("B-1", SALE_MINOR), ("A-1", SALE_MINOR), ("a-1", SALE_MINOR), ("#A-1", SALE_MINOR - 900)):
        await claims.orphan(order_id, amount=amount)
        if claim_first:
            await claims.compare()
    if not claim_first:
        claim_id = await claims.filed()
        await claims.compare()
    claim = await claims.claim(claim_id)
    async with transaction() as session:
        best = await session.get_one(WebhookEvent, claim.matched_event_id)
    # Of the two that fit as well the first one.
    assert (best.external_order_id, claim.score) == ("A-1", 100)


async def test_a_source_of_several_shops_is_searched_by_number(claims: ClaimWorld) -> None:
    async with transaction() as session:
        await make_merchant(session, source_id=claims.world.source.id)
    event_id = await claims.orphan()
    assert (await claims.world.event(event_id)).merchant_id is None
    first, second = await claims.filed(), await claims.filed("B-9")
    await claims.compare()
    claim = await claims.claim(first)
    assert (str(claim.matched_event_id), claim.score, claim.status) == (event_id, 95, ClaimStatus.MATCHED)
    assert (await claims.claim(second)).matched_event_id is None
    shown = (await claims.as_staff("GET", f"orphans/{event_id}")).json()
    assert [one["claim_id"] for one in shown["claims"]] == [first]
    assert shown["clicks"] == []


async def test_an_orphan_that_was_processed_discarded_or_replayed_is_noted_no_more(claims: ClaimWorld) -> None:
    event_id = await claims.orphan()
    claim_id = await claims.filed()
    await claims.compare()
    discarded = await claims.as_staff("POST", f"orphans/{event_id}/discard", json={"reason": "a test order"})
    assert discarded.status_code == 200
    await claims.sweep()
    claim = await claims.claim(claim_id)
    assert (claim.status, claim.matched_event_id, claim.score) == (ClaimStatus.OPEN, None, None)
    async with transaction() as session:
        await replay(session, UUID(event_id))
    await claims.world.drain()
    await claims.compare()
    assert (await claims.claim(claim_id)).status is ClaimStatus.MATCHED


@pytest.mark.parametrize("spelled", ["A-1", "#A-1", "a-1"])
async def test_a_claim_whose_order_is_reported_after_all_is_resolved_with_it(claims: ClaimWorld, spelled: str) -> None:
    claim_id = await claims.filed("A-1")
    await claims.compare()
    await claims.world.post("created", spelled, amount=SALE_MINOR, commission=8_000)
    await claims.world.drain()
    await claims.sweep()
    claim = await claims.claim(claim_id)
    [order] = await claims.orders()
    assert (claim.status, claim.order_id, claim.resolved_by_id) == (ClaimStatus.APPROVED, order.id, None)
    assert claim.resolution_note == "The shop has reported this order meanwhile."
    assert await claims.pending() == 5_000


async def test_an_order_of_somebody_else_or_a_declined_one_resolves_nothing(claims: ClaimWorld) -> None:
    other = await claims.filed("A-1", customer=await claims.stranger())
    own = await claims.filed("A-2")
    await claims.world.post("created", "A-1", amount=SALE_MINOR, commission=8_000)
    await claims.world.post("created", "A-2", amount=SALE_MINOR, commission=8_000)
    await claims.world.post("declined", "A-2")
    await claims.world.drain()
    await claims.sweep()
    assert [(await claims.claim(one)).status for one in (other, own)] == [ClaimStatus.OPEN] * 2
    shown = (await claims.as_staff("GET", f"claims/{other}")).json()["known_order"]
    assert (shown["customer_id"], shown["order_reference"]) == (str(claims.world.customer.id), "A-1")


async def test_workers_that_compare_at_once_agree(claims: ClaimWorld) -> None:
    async with transaction() as session:
        customers = [await make_customer(session) for _ in range(8)]
        for customer in customers:
            click = await make_click(session, customer, claims.world.merchant)
            click.created_at = claims.sold_at - timedelta(hours=1)
    events = [await claims.orphan(f"C-{number}") for number in range(8)]
    ids = [await claims.filed(f"C-{number}", customer=customer) for number, customer in enumerate(customers)]
    done = await asyncio.gather(*(claims.compare() for _ in range(4)))
    assert sum(done) == 16
    for claim_id, event_id in zip(ids, events, strict=True):
        claim = await claims.claim(claim_id)
        assert (claim.status, str(claim.matched_event_id)) == (ClaimStatus.MATCHED, event_id)
    assert await claims.compare() == 0


async def test_a_claim_and_an_orphan_that_do_not_see_each_other_meet_once_both_are_committed(
    claims: ClaimWorld,
) -> None:
    claim_id = await claims.filed()
    async with transaction() as held:
        # As if the claim's transaction were still open when the orphan comes and is compared.
        await held.execute(update(Claim).where(Claim.id == UUID(claim_id)).values(updated_at=text("now()")))
        event_id = await claims.orphan()
        comparing = asyncio.create_task(claims.compare())
        while not await _waits(held):
            await asyncio.sleep(0.01)
    await comparing
    await claims.compare()
    claim = await claims.claim(claim_id)
    assert (claim.status, str(claim.matched_event_id)) == (ClaimStatus.MATCHED, event_id)


async def _waits(session: Any) -> bool:
    return bool(
        await session.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )
    )


async def test_a_report_of_the_far_future_is_compared_like_any_other(claims: ClaimWorld) -> None:
    claim_id = await claims.filed()
    event_id = await claims.orphan(at=datetime(2099, 12, 31, 23, 59, tzinfo=UTC))
    assert await claims.compare() == 2
    claim = await claims.claim(claim_id)
    assert (str(claim.matched_event_id), claim.status) == (event_id, ClaimStatus.OPEN)
    answer = await claims.approve(claim_id, {"event_id": event_id})
    assert (answer.status_code, answer.json()["code"]) == (409, "orphan_not_creditable")
    assert "future" in answer.json()["detail"]


async def test_one_that_cannot_be_compared_holds_up_no_other(
    claims: ClaimWorld, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [await claims.filed(f"A-{number}") for number in range(3)]
    async with transaction() as session:
        await session.execute(
            text("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison'; END $$")
        )
        await session.execute(
            text(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON claims FOR EACH ROW WHEN (OLD.id = '{ids[0]}')"
                " EXECUTE FUNCTION refuse()"
            )
        )
    assert await claims.compare() == 2
    assert "not compared" in caplog.text
    assert [(await claims.claim(one)).compared_at is None for one in ids] == [True, False, False]


async def test_the_worker_knows_the_rung_job_and_the_sweep(claims: ClaimWorld) -> None:
    kind = worker_kind("default", claims.world.settings)
    assert "match_claims" in {function.name for function in kind.functions}
    [sweep] = [task for task in kind.schedule if task.name == "sweep_claims"]
    await claims.orphan()
    claim_id = await claims.filed()
    await sweep.run()
    assert (await claims.claim(claim_id)).status is ClaimStatus.MATCHED


async def test_overdue_claims_are_listed_and_counted(claims: ClaimWorld) -> None:
    ids = [await claims.filed(f"A-{number}") for number in range(3)]
    async with transaction() as session:
        late = datetime.now(UTC) - DAY
        await session.execute(update(Claim).where(Claim.id.in_([UUID(one) for one in ids[:2]])).values(due_at=late))
    await claims.as_staff("POST", f"claims/{ids[0]}/reject", json={"note": "too late"})
    for query, expected in (
        ("overdue=true", [ids[1]]),
        ("overdue=false", [ids[2], ids[0]]),
        ("status=rejected", [ids[0]]),
        ("status=open&limit=1", [ids[2]]),
        ("uncredited=true", []),
        (f"merchant_id={claims.world.merchant.id}&customer_id={claims.world.customer.id}", ids[::-1]),
        (f"customer_id={UUID(int=0)}", []),
        ("merchant_id=2147483647", []),
    ):
        page = (await claims.as_staff("GET", f"claims?{query}")).json()
        assert [item["id"] for item in page["items"]] == expected, query
    assert [item["overdue"] for item in (await claims.as_staff("GET", "claims")).json()["items"]] == [
        False,
        True,
        False,
    ]
    await claims.orphan("elsewhere")
    metrics = (await claims.client.get("/metrics")).text
    assert 'claims_waiting{status="open"} 2.0' in metrics
    assert 'claims_waiting{status="matched"} 0.0' in metrics
    assert "claims_overdue 1.0" in metrics
    assert "claims_uncredited 0.0" in metrics
    assert 'webhook_inbox_events{status="orphaned"} 1.0' in metrics


async def test_a_threshold_is_a_setting(claims: ClaimWorld) -> None:
    await claims.orphan()
    low = claims.world.settings.model_copy(update={"claim_match_score": 70})
    claim_id = await claims.filed(customer=await claims.stranger(), amount=pkr(SALE_MINOR))
    claims.world.settings = low
    await claims.compare()
    assert (await claims.claim(claim_id)).status is ClaimStatus.MATCHED
    assert (await claims.orders(), await claims.pending()) == ([], 0)
    async with transaction() as session:
        event = await session.get_one(WebhookEvent, (await claims.claim(claim_id)).matched_event_id)
    assert event.status is WebhookStatus.ORPHANED

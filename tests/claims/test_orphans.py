"""The orphan queue: what waits, crediting it to somebody, giving it up, and taking that back."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.db import transaction
from app.models import (
    ClaimStatus,
    CustomerStatus,
    OrderStatus,
    StaffRole,
    WebhookEvent,
    WebhookStatus,
)
from tests.claims.world import CASHBACK_MINOR, COMMISSION_MINOR, SALE_MINOR, ClaimWorld, pkr
from tests.factories import make_click, make_customer, make_merchant, make_source

# An id that nothing has; fixed, so that tests have the same names in every process.
NOBODY = "01a21338-0000-7000-8000-000000000000"


async def test_orphans_are_listed_with_what_they_report(claims: ClaimWorld) -> None:
    first, second = await claims.orphan("A-1"), await claims.orphan("A-2", kind="declined", amount=None)
    await claims.world.post("created", "A-3", amount=SALE_MINOR, commission=COMMISSION_MINOR)
    await claims.world.drain()
    page = (await claims.as_staff("GET", "orphans", role=StaffRole.VIEWER)).json()
    assert [(one["id"], one["kind"], one["sale"]) for one in page["items"]] == [
        (second, "declined", None),
        (first, "created", pkr(SALE_MINOR)),
    ]
    assert page["items"][1]["reason"] == "no click, and no order 'A-1' of this source yet"
    assert page["items"][1]["merchant_id"] == claims.world.merchant.id
    for query, expected in (
        ("limit=1", [second]),
        ("order_reference=A-1", [first]),
        (f"source_id={claims.world.source.id}&merchant_id={claims.world.merchant.id}", [second, first]),
        ("merchant_id=2147483647", []),
        ("source_id=2147483647", []),
        ("discarded=true", []),
    ):
        found = (await claims.as_staff("GET", f"orphans?{query}")).json()["items"]
        assert [one["id"] for one in found] == expected, query
    cursor = (await claims.as_staff("GET", "orphans?limit=1")).json()["next_cursor"]
    after = (await claims.as_staff("GET", f"orphans?limit=1&cursor={cursor}")).json()
    assert ([one["id"] for one in after["items"]], after["next_cursor"]) == ([first], None)


async def test_an_orphan_shows_the_clicks_and_the_claims_it_may_be_of(claims: ClaimWorld) -> None:
    async with transaction() as session:
        await make_click(session, await make_customer(session), claims.world.merchant)
        expired = await make_click(session, await make_customer(session), claims.world.merchant)
        expired.created_at, expired.expires_at = (claims.sold_at - timedelta(days=days) for days in (50, 5))
    event_id = await claims.orphan()
    claim_id = await claims.filed()
    shown = (await claims.as_staff("GET", f"orphans/{event_id}", role=StaffRole.VIEWER)).json()
    assert shown["commission"] == pkr(COMMISSION_MINOR)
    assert [click["id"] for click in shown["clicks"]] == [str(claims.world.click.id)]
    [fit] = shown["claims"]
    assert (fit["claim_id"], fit["score"], fit["amount"]) == (claim_id, 100, pkr(SALE_MINOR))
    assert sum(reason["points"] for reason in fit["reasons"]) == 100


async def test_what_never_was_an_orphan_is_not_shown_as_one(claims: ClaimWorld) -> None:
    answer = await claims.world.post("created", amount=SALE_MINOR, commission=COMMISSION_MINOR)
    await claims.world.drain()
    shown = await claims.as_staff("GET", f"orphans/{answer.json()['event_id']}")
    assert (shown.status_code, shown.json()["code"]) == (404, "orphan_not_found")
    matched = await claims.match(answer.json()["event_id"], {"click_id": str(claims.world.click.id)})
    assert (matched.status_code, matched.json()["code"]) == (409, "orphan_not_waiting")


@pytest.mark.parametrize("by", ["click_id", "customer_id"])
async def test_an_orphan_is_credited_to_whom_staff_choose_and_resolves_the_claim(claims: ClaimWorld, by: str) -> None:
    event_id = await claims.orphan("A-1")
    claim_id = await claims.filed("#a-1")
    other_id = await claims.filed("A-1", customer=await claims.stranger())
    chosen = {"click_id": claims.world.click.id, "customer_id": claims.world.customer.id}[by]
    answer = await claims.match(event_id, {by: str(chosen)}, role=StaffRole.OPERATOR)
    assert answer.status_code == 200, answer.text
    [order] = await claims.orders()
    shown = answer.json()
    assert (shown["status"], shown["order_id"], shown["matched_click_id"]) == (
        "processed",
        str(order.id),
        str(claims.world.click.id),
    )
    assert (await claims.as_staff("GET", f"orphans/{event_id}")).json() == shown
    assert await claims.pending() == CASHBACK_MINOR
    claim = await claims.claim(claim_id)
    assert (claim.status, claim.order_id, str(claim.matched_event_id)) == (ClaimStatus.APPROVED, order.id, event_id)
    assert claim.resolved_by_id is not None
    assert (await claims.claim(other_id)).status is ClaimStatus.OPEN


async def test_a_customer_without_a_click_is_promised_the_rate_of_the_day(claims: ClaimWorld) -> None:
    customer = await claims.stranger()
    event_id = await claims.orphan()
    answer = await claims.match(event_id, {"customer_id": str(customer.id)})
    assert answer.status_code == 200, answer.text
    assert await claims.pending(customer) == CASHBACK_MINOR
    await claims.world.post("declined", click_id=None)
    await claims.world.drain()
    assert await claims.pending(customer) == 0
    assert (await claims.orders())[0].status is OrderStatus.DECLINED


async def test_of_several_shops_of_a_source_staff_say_which(claims: ClaimWorld) -> None:
    async with transaction() as session:
        other = await make_merchant(session, source_id=claims.world.source.id)
        elsewhere = await make_merchant(session)
        customer = await make_customer(session)
        click = await make_click(session, customer, elsewhere)
        click.created_at = claims.sold_at - timedelta(hours=1)
    event_id = await claims.orphan()
    body = {"customer_id": str(claims.world.customer.id)}
    details = []
    for wanted, status, code in (
        (body, 409, "orphan_merchant_unknown"),
        ({**body, "merchant_id": 2**31 - 1}, 404, "merchant_not_found"),
        # Its only rate is newer than the sale.
        ({**body, "merchant_id": other.id}, 409, "merchant_without_rate"),
        ({"click_id": str(click.id)}, 409, "orphan_not_creditable"),
    ):
        refused = await claims.match(event_id, wanted)
        assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
        details.append(refused.json()["detail"])
    assert "does not report for" in details[-1]
    assert await claims.orders() == []
    answer = await claims.match(event_id, {**body, "merchant_id": claims.world.merchant.id})
    assert (answer.status_code, answer.json()["merchant_id"]) == (200, claims.world.merchant.id)


async def test_an_orphan_of_another_shop_or_an_inactive_customer_is_not_credited(claims: ClaimWorld) -> None:
    async with transaction() as session:
        elsewhere = await make_click(session, claims.world.customer, await make_merchant(session))
        frozen = await make_customer(session, status=CustomerStatus.FROZEN)
    event_id = await claims.orphan()
    for wanted, status, code in (
        ({"click_id": str(elsewhere.id)}, 409, "orphan_not_creditable"),
        ({"customer_id": str(frozen.id)}, 409, "customer_not_active"),
        ({"customer_id": NOBODY}, 404, "orphan_customer_not_found"),
        ({"click_id": NOBODY}, 404, "click_not_found"),
    ):
        refused = await claims.match(event_id, wanted)
        assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
    assert (await claims.world.event(event_id)).status is WebhookStatus.ORPHANED


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"click_id": NOBODY, "customer_id": NOBODY},
        {"click_id": NOBODY, "merchant_id": 1},
        {"merchant_id": 1},
        {"click_id": "x"},
        {"customer_id": NOBODY, "merchant_id": 0},
        {"customer_id": NOBODY, "amount": pkr(1)},
    ],
    ids=str,
)
async def test_a_match_that_makes_no_sense_is_refused(claims: ClaimWorld, body: dict[str, Any]) -> None:
    answer = await claims.match(await claims.orphan(), body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def test_a_discarded_orphan_is_credited_to_nobody_until_it_is_replayed(claims: ClaimWorld) -> None:
    event_id = await claims.orphan()
    for bad in ({}, {"reason": "x"}, {"reason": "a\x00bc"}):
        assert (await claims.as_staff("POST", f"orphans/{event_id}/discard", json=bad)).status_code == 422
    discarded = await claims.as_staff("POST", f"orphans/{event_id}/discard", json={"reason": "a test order"})
    assert (discarded.json()["status"], discarded.json()["discarded_reason"]) == ("discarded", "a test order")
    listed = (await claims.as_staff("GET", "orphans?discarded=true")).json()["items"]
    assert [one["id"] for one in listed] == [event_id]
    assert (await claims.as_staff("GET", "orphans")).json()["items"] == []
    click = {"click_id": str(claims.world.click.id)}
    for again in (
        await claims.match(event_id, click),
        await claims.as_staff("POST", f"orphans/{event_id}/discard", json={"reason": "once more"}),
    ):
        assert (again.status_code, again.json()["code"]) == (409, "orphan_not_waiting")
    # Its order appears: a discarded event stays where it is.
    await claims.world.post("created", amount=SALE_MINOR, commission=COMMISSION_MINOR)
    await claims.world.drain()
    assert (await claims.world.event(event_id)).status is WebhookStatus.DISCARDED
    replayed = await claims.as_staff("POST", f"webhook-events/{event_id}/replay")
    assert replayed.status_code == 202
    await claims.world.drain()
    event = await claims.world.event(event_id)
    assert (event.status, event.discarded_reason) == (WebhookStatus.PROCESSED, None)
    assert len(await claims.orders()) == 1


async def test_an_orphan_matched_at_once_with_many_is_credited_to_one(claims: ClaimWorld) -> None:
    event_id = await claims.orphan()
    customers = [await claims.stranger() for _ in range(6)]
    answers = await asyncio.gather(
        *(claims.match(event_id, {"customer_id": str(customer.id)}) for customer in customers)
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert sum([await claims.pending(customer) for customer in customers]) == CASHBACK_MINOR
    assert await claims.transfers() == 1


async def test_the_same_key_matches_once(claims: ClaimWorld) -> None:
    event_id, body = await claims.orphan(), {"click_id": str(claims.world.click.id)}
    first = await claims.match(event_id, body, key="k")
    again = await claims.match(event_id, body, key="k")
    assert (first.status_code, again.json(), again.headers["Idempotency-Replayed"]) == (200, first.json(), "true")


async def test_orphans_of_before_it_was_kept_can_be_matched_and_found_once_replayed(claims: ClaimWorld) -> None:
    event_id = await claims.orphan()
    async with transaction() as session:
        await session.execute(
            update(WebhookEvent).values(
                merchant_id=None,
                reported_kind=None,
                reported_currency=None,
                reported_sale_minor=None,
                reported_at=None,
            )
        )
    claim_id = await claims.filed()
    await claims.compare()
    assert (await claims.claim(claim_id)).matched_event_id is None
    shown = (await claims.as_staff("GET", f"orphans/{event_id}")).json()
    assert (shown["kind"], shown["sale"], shown["claims"]) == (None, None, [])
    await claims.as_staff("POST", f"webhook-events/{event_id}/replay")
    await claims.world.drain()
    await claims.compare()
    assert str((await claims.claim(claim_id)).matched_event_id) == event_id


async def test_a_networks_orphan_is_of_the_shop_it_names_and_stays_fenced(
    claims: ClaimWorld, awin_push: dict[str, str]
) -> None:
    async with transaction() as session:
        awin = await make_source(session, preset="awin")
        shop, _ = [
            await make_merchant(session, source_id=awin.id, network_merchant_ref=ref, currency="GBP")
            for ref in ("3661", "3662")
        ]
        click = await make_click(session, claims.world.customer, shop)
        click.created_at = claims.sold_at - timedelta(hours=1)
    events = []
    for number, changes in enumerate(({}, {"commission": "27.00"})):
        push = {**awin_push, "transactionDate": f"{claims.sold_at:%Y-%m-%d %H:%M:%S}", **changes}
        push["transactionId"] += str(number)
        posted = await claims.client.post(f"/v1/webhooks/{awin.source_key}", json=push)
        events.append(posted.json()["event_id"])
    await claims.world.drain()
    shown = (await claims.as_staff("GET", f"orphans/{events[0]}")).json()
    assert (shown["merchant_id"], shown["reason"]) == (shop.id, "no click has the reference 'LINKCMP2013-06'")
    assert shown["sale"] == {"amount_minor": 2_609, "currency": "GBP"}
    assert shown["commission"] == {"amount_minor": 164, "currency": "GBP"}
    claim_id = await claims.filed("shop-77", merchant_id=shop.id, amount={"amount_minor": 2_609, "currency": "GBP"})
    await claims.compare()
    # The network numbers its transactions itself: the rest fits, and staff confirm.
    assert ((await claims.claim(claim_id)).status, (await claims.claim(claim_id)).score) == (ClaimStatus.OPEN, 65)
    refused = await claims.approve(claim_id, {"event_id": events[1]})
    assert (refused.status_code, refused.json()["code"]) == (409, "orphan_not_creditable")
    assert "the commission is larger than the sale" in refused.json()["detail"]
    approved = await claims.approve(claim_id, {"event_id": events[0]})
    assert approved.status_code == 200, approved.text
    [order] = await claims.orders()
    assert (order.external_id, order.cashback_minor, order.click_id) == ("1059565310", 130, click.id)

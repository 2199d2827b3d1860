"""Statements: each line compared with what was owed, counted for its order, and booked once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import db
from app.db import transaction
from app.ids import new_id
from app.models import Order, OrderStatus, Settlement, SettlementLine, StaffRole, Transfer
from app.money import MAX_MINOR
from tests.factories import make_click, make_merchant, make_order, staff_headers
from tests.settlements.desk import LINES_URL, URL, Desk, balances, fill, shown


async def test_lines_are_compared_with_what_was_owed_and_booked_as_one_transfer(desk: Desk) -> None:
    for reference in ("A-1", "A-2", "A-3"):
        await desk.order(reference)
    answer = await desk.post(("A-1", 8_000), ("A-2", 7_500), ("A-3", 9_000), ("A-9", 400), reference="  May  ")
    assert answer.status_code == 201, answer.text
    settlement = answer.json()
    assert (settlement["reference"], settlement["total"]) == ("May", {"amount_minor": 24_900, "currency": "PKR"})
    assert settlement["lines_by_status"] == {"matched": 1, "short_paid": 1, "over_paid": 1, "unknown": 1}
    assert settlement["open_lines"] == 3
    lines = await desk.lines(settlement_id=settlement["id"])
    assert shown(lines) == [
        ("A-1", 8_000, 8_000, "matched", None),
        ("A-2", 7_500, 8_000, "short_paid", None),
        ("A-3", 9_000, 8_000, "over_paid", None),
        ("A-9", 400, None, "unknown", None),
    ]
    assert [line["due"] and line["due"]["amount_minor"] for line in lines] == [0, 500, -1_000, None]
    assert [line["number"] for line in lines] == [1, 2, 3, 4]
    assert await balances() == {"cash": 24_900, "network_receivable": 24_000 - 24_900, "margin_pending": -9_000}
    async with transaction() as session:
        transfers = (await session.scalars(select(Transfer).where(Transfer.cause_type == "settlement"))).all()
    assert [(str(one.cause_id), one.purpose) for one in transfers] == [(settlement["id"], "paid")]
    assert transfers[0].details == {"reference": "May", "paid_on": "2026-11-20"}


async def test_orders_of_another_merchant_or_in_another_currency_are_unknown(desk: Desk) -> None:
    await desk.order("A-1")
    async with transaction() as session:
        elsewhere = await make_merchant(session)
        await make_order(session, await make_click(session, desk.world.customer, elsewhere), external_id="A-2")
    assert [line["status"] for line in await desk.settle(("A-1", 8_000), ("A-2", 8_000), currency="USD")] == [
        "unknown",
        "unknown",
    ]
    assert [line["status"] for line in await desk.settle(("A-1", 8_000), ("A-2", 8_000))] == ["matched", "unknown"]
    assert (await balances("USD"), await desk.due("A-2")) == ({"cash": 16_000, "network_receivable": -16_000}, 8_000)


async def test_several_lines_of_one_order_add_up_within_a_statement(desk: Desk) -> None:
    for reference in ("A-1", "A-2"):
        await desk.order(reference)
    lines = await desk.settle(("A-1", 5_000), ("A-2", 5_000), ("A-1", 3_000), ("A-2", 1_000))
    assert shown(lines) == [
        ("A-1", 5_000, 8_000, "short_paid", "settled_later"),
        ("A-2", 5_000, 8_000, "short_paid", None),
        ("A-1", 3_000, 3_000, "matched", None),
        ("A-2", 1_000, 3_000, "short_paid", None),
    ]
    assert lines[0]["resolution_note"] == "with settlement statement 1"
    assert (await desk.due("A-1"), await desk.due("A-2")) == (0, 2_000)


async def test_a_later_statement_makes_the_lines_of_before_right(desk: Desk) -> None:
    for reference in ("A-1", "A-2"):
        await desk.order(reference)
    await desk.settle(("A-1", 5_000), ("A-2", 10_000))
    assert [line["status"] for line in await desk.lines(open=True)] == ["short_paid", "over_paid"]
    assert shown(await desk.settle(("A-1", 3_000), ("A-2", -2_000))) == [
        ("A-1", 3_000, 3_000, "matched", None),
        ("A-2", -2_000, -2_000, "matched", None),
    ]
    assert await desk.lines(open=True) == []
    assert {line["resolution"] for line in await desk.lines(status="short_paid")} == {"settled_later"}


async def test_the_same_line_twice_is_too_much_the_second_time(desk: Desk) -> None:
    await desk.order("A-1")
    assert shown(await desk.settle(("A-1", 8_000), ("A-1", 8_000))) == [
        ("A-1", 8_000, 8_000, "matched", None),
        ("A-1", 8_000, 0, "over_paid", None),
    ]


async def test_of_an_order_declined_after_it_was_paid_the_network_takes_back_what_it_paid(desk: Desk) -> None:
    world = desk.world
    sold_at = datetime.now(UTC) - timedelta(days=2)
    await world.post("created", amount=100_000, commission=8_000, at=sold_at)
    await world.drain()
    await desk.settle(("A-1", 8_000))
    await world.post("declined")
    await world.drain()
    # The receivable is below zero, and staff see for which order.
    assert await balances() == {"cash": 8_000, "network_receivable": -8_000}
    owed = await world.client.get("/v1/admin/orders", params={"owed_by": "us"}, headers=desk.headers)
    assert [(one["order_reference"], one["due_minor"]) for one in owed.json()["items"]] == [("A-1", -8_000)]
    assert shown(await desk.settle(("A-1", -5_000), ("A-1", -3_000))) == [
        ("A-1", -5_000, -8_000, "over_paid", "settled_later"),
        ("A-1", -3_000, -3_000, "matched", None),
    ]
    assert await balances() == {}
    owed = await world.client.get("/v1/admin/orders", params={"owed_by": "us"}, headers=desk.headers)
    assert owed.json()["items"] == []


async def test_commission_taken_back_from_a_live_order_is_missing(desk: Desk) -> None:
    await desk.order("A-1")
    await desk.settle(("A-1", 8_000))
    assert shown(await desk.settle(("A-1", -8_000))) == [("A-1", -8_000, 0, "short_paid", None)]
    owed = await desk.world.client.get("/v1/admin/orders", params={"owed_by": "network"}, headers=desk.headers)
    assert [(one["settled_minor"], one["due_minor"]) for one in owed.json()["items"]] == [(0, 8_000)]


async def test_a_payment_for_a_declined_order_is_too_much(desk: Desk) -> None:
    await desk.order("A-1", status=OrderStatus.DECLINED)
    assert shown(await desk.settle(("A-1", 8_000), ("A-1", 0))) == [
        ("A-1", 8_000, 0, "over_paid", None),
        ("A-1", 0, -8_000, "over_paid", None),
    ]


async def test_a_statement_may_come_to_nothing_or_less(desk: Desk) -> None:
    await desk.order("A-1")
    await desk.order("A-2", status=OrderStatus.DECLINED)
    await desk.settle(("A-1", 8_000), ("A-2", 8_000))
    await desk.settle(("A-1", 500), ("A-2", -500))
    await desk.settle(("A-2", -7_500))
    assert (await balances())["cash"] == 8_500
    assert (await desk.due("A-1"), await desk.due("A-2")) == (-500, 0)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"total_minor": 7_999}, 422, "settlement_total_mismatch"),
        ({"merchant_id": 2**31 - 1}, 404, "merchant_not_found"),
        ({"merchant_id": 2**31}, 422, "invalid_request"),
        ({"paid_on": "2999-01-01"}, 422, "settlement_date_in_future"),
        ({"paid_on": "2026-02-30"}, 422, "invalid_request"),
        ({"lines": [], "total_minor": 0}, 422, "invalid_request"),
        ({"lines": [{"order_reference": "A-1", "amount_minor": 80.5}]}, 422, "invalid_request"),
        ({"lines": [{"order_reference": "A-1", "amount_minor": "8000"}]}, 422, "invalid_request"),
        ({"lines": [{"order_reference": "A-1", "amount_minor": 2**63}]}, 422, "invalid_request"),
        ({"lines": [{"order_reference": " ", "amount_minor": 8_000}]}, 422, "invalid_request"),
        ({"lines": [{"order_reference": "A\x00", "amount_minor": 8_000}]}, 422, "invalid_request"),
        (
            {"lines": [{"order_reference": "A", "amount_minor": 1}] * 10_001, "total_minor": 10_001},
            422,
            "invalid_request",
        ),
        ({"reference": ""}, 422, "invalid_request"),
        ({"currency": "rupees"}, 422, "invalid_request"),
        ({"created_by_id": str(new_id())}, 422, "invalid_request"),
    ],
)
async def test_a_statement_that_makes_no_sense_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, session: AsyncSession, changes: dict[str, Any], status: int, code: str
) -> None:
    merchant = await make_merchant(session)
    body = {
        "merchant_id": merchant.id,
        "reference": "May",
        "currency": "PKR",
        "paid_on": "2026-11-20",
        "total_minor": 8_000,
        "lines": [{"order_reference": "A-1", "amount_minor": 8_000}],
        **changes,
    }
    answer = await client.post(URL, json=body, headers=await staff_headers(session, StaffRole.FINANCE))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await session.scalars(select(func.count()).select_from(Settlement))).one() == 0


async def test_amounts_that_no_longer_fit_in_64_bits_are_refused(desk: Desk) -> None:
    await desk.order("A-1")
    lines = (("A-1", MAX_MINOR), ("A-1", MAX_MINOR), ("A-1", -MAX_MINOR))
    answer = await desk.post(*lines)
    assert (answer.status_code, answer.json()["code"]) == (422, "settlement_amount_out_of_range")
    assert answer.json()["errors"][0]["loc"] == ["body", "lines", 1]
    # The largest that fits, and back.
    await desk.settle(("A-1", MAX_MINOR))
    await desk.settle(("A-1", -MAX_MINOR))
    assert await desk.due("A-1") == 8_000


async def test_a_reference_is_taken_once_a_merchant(desk: Desk) -> None:
    await desk.order("A-1")
    await desk.settle(("A-1", 8_000), reference="May")
    again = await desk.post(("A-1", 8_000), reference="May")
    assert (again.status_code, again.json()["code"]) == (409, "settlement_exists")
    async with transaction() as session:
        elsewhere = await make_merchant(session)
    await desk.settle(("A-1", 8_000), reference="May", merchant_id=elsewhere.id)
    assert (await desk.due("A-1"), (await balances())["cash"]) == (0, 16_000)


async def test_of_the_same_statement_sent_ten_times_at_once_one_counts(desk: Desk) -> None:
    await desk.order("A-1")
    answers = await asyncio.gather(*(desk.post(("A-1", 8_000), reference="May") for _ in range(10)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 9}
    assert (await desk.due("A-1"), (await balances())["cash"]) == (0, 8_000)


async def test_the_same_key_records_one_statement(desk: Desk) -> None:
    await desk.order("A-1")
    desk.headers["Idempotency-Key"] = "may"
    first = await desk.post(("A-1", 8_000), reference="May")
    again = await desk.post(("A-1", 8_000), reference="May")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await desk.post(("A-1", 1), reference="June")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_finance_records_and_every_staff_key_reads(client: httpx.AsyncClient, session: AsyncSession) -> None:
    some = new_id()
    resolve = {"resolution": "accepted", "note": "as agreed"}
    writes: tuple[tuple[str, dict[str, str]], ...] = (
        (URL, {}),
        (f"{LINES_URL}/{some}/resolve", resolve),
        (f"{LINES_URL}/{some}/reopen", {"note": "why"}),
    )
    for role in (StaffRole.VIEWER, StaffRole.OPERATOR):
        headers = await staff_headers(session, role)
        for url, body in writes:
            assert (await client.post(url, json=body, headers=headers)).status_code in {403, 422}
        answer = await client.post(writes[1][0], json=resolve, headers=headers)
        assert answer.json()["code"] == "staff_role_required"
        for url in (URL, LINES_URL):
            assert (await client.get(url, headers=headers)).json() == {"items": [], "next_cursor": None}
        missing = await client.get(f"{URL}/{some}", headers=headers)
        assert (missing.status_code, missing.json()["code"]) == (404, "settlement_not_found")
    for url, body in writes:
        assert (await client.post(url, json=body)).status_code in {401, 422}
    assert (await client.get(URL)).status_code == 401
    finance = await staff_headers(session, StaffRole.FINANCE)
    for url, body in writes[1:]:
        gone = await client.post(url, json=body, headers=finance)
        assert (gone.status_code, gone.json()["code"]) == (404, "settlement_line_not_found")


async def test_settlements_and_their_lines_come_in_pages(desk: Desk) -> None:
    client, headers = desk.world.client, desk.headers
    await desk.settle(*((f"X-{n}", n) for n in range(1, 6)))
    await desk.settle(("Y-1", 1))
    async with transaction() as session:
        elsewhere = await make_merchant(session)
    await desk.settle(("Z-1", 1), merchant_id=elsewhere.id)
    first = (await client.get(URL, params={"limit": 2}, headers=headers)).json()
    rest = (await client.get(URL, params={"cursor": first["next_cursor"]}, headers=headers)).json()
    references = [one["reference"] for one in [*first["items"], *rest["items"]]]
    assert references == ["statement 3", "statement 2", "statement 1"]
    own = await client.get(URL, params={"merchant_id": desk.world.merchant.id}, headers=headers)
    assert [one["reference"] for one in own.json()["items"]] == ["statement 2", "statement 1"]

    url = f"{URL}/{rest['items'][0]['id']}"
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await client.get(url, params={"limit": 2, **({"cursor": cursor} if cursor else {})}, headers=headers)
        assert page.json()["open_lines"] == 5
        seen += [line["order_reference"] for line in page.json()["lines"]["items"]]
        if (cursor := page.json()["lines"]["next_cursor"]) is None:
            break
    assert seen == ["X-1", "X-2", "X-3", "X-4", "X-5"]
    for cursor in ("x", "WyJ4Il0", "WyIwMTk3YjJhNC02ZjBlLTdiMmItOWE1NS0xZTJhM2I0YzVkNmUiLCAiMSJd"):
        refused = await client.get(LINES_URL, params={"cursor": cursor}, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_cursor")
    assert len(await desk.lines(merchant_id=elsewhere.id)) == 1
    assert len(await desk.lines(status="unknown", open=True)) == 7


async def test_a_statement_of_2000_lines_takes_no_more_statements_than_one_of_two(desk: Desk) -> None:
    await fill(desk.world.click, 2_000)
    # The first use of a key is noted in a statement more.
    await desk.lines()
    counted: list[str] = []

    def count(_: object, __: object, statement: str, *___: object) -> None:
        counted.append(statement)

    assert db.engine is not None
    event.listen(db.engine.sync_engine, "before_cursor_execute", count)
    try:
        await desk.settle(("B-1", 8_000), ("B-2", 7_000))
        small = len(counted)
        # Every fourth is of an order that nobody knows.
        await desk.settle(*((f"{'C' if n % 4 == 0 else 'B'}-{n}", 8_000) for n in range(3, 2_001)))
        large = len(counted) - small
    finally:
        event.remove(db.engine.sync_engine, "before_cursor_execute", count)
    assert small == large
    async with transaction() as session:
        assert (await session.scalars(select(func.count()).where(SettlementLine.status == "matched"))).one() == 1_499
        assert (await session.scalars(select(func.count()).where(SettlementLine.status == "unknown"))).one() == 500
        assert (await session.scalars(select(func.sum(Order.settled_minor)))).one() == 1_499 * 8_000 + 7_000

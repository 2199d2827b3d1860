"""Reconciling: what staff decide about a line moves exactly that money, fits the order as it is, and can be undone."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db import transaction
from app.ids import new_id
from app.models import OrderStatus, Transfer
from tests.factories import make_click, make_merchant, make_order
from tests.settlements.desk import Desk, balances, shown


def outcome(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code") or answer.json()["resolution"]


async def transfers_of(line: dict[str, Any]) -> list[Transfer]:
    async with transaction() as session:
        found = await session.scalars(select(Transfer).where(Transfer.cause_id == line["id"]).order_by(Transfer.id))
        return list(found)


async def test_what_is_missing_is_written_off_as_our_loss(desk: Desk) -> None:
    await desk.order("A-1")
    (line,) = await desk.settle(("A-1", 7_500))
    resolved = (await desk.resolve(line, "written_off", note="their fee")).json()
    assert (resolved["resolution"], resolved["resolution_note"]) == ("written_off", "their fee")
    assert (resolved["resolved"], resolved["due"]["amount_minor"]) == ({"amount_minor": 500, "currency": "PKR"}, 0)
    assert resolved["resolved_by_id"]
    assert resolved["resolved_at"]
    assert await balances() == {"cash": 7_500, "bad_debt": 500, "margin_pending": -3_000}
    (transfer,) = await transfers_of(line)
    assert transfer.purpose == "written_off:1"
    assert transfer.details == {"note": "their fee", "staff_key_id": resolved["resolved_by_id"]}
    assert await desk.lines(open=True) == []


async def test_what_is_too_much_is_accepted_as_margin(desk: Desk) -> None:
    await desk.order("A-1")
    (line,) = await desk.settle(("A-1", 9_000))
    assert outcome(await desk.resolve(line, "accepted")) == (200, "accepted")
    assert await balances() == {"cash": 9_000, "margin": -1_000, "margin_pending": -3_000}
    order = await desk.world.order("A-1")
    assert (order.settled_minor, order.written_off_minor, order.due_minor) == (9_000, -1_000, 0)


async def test_what_is_due_now_counts_and_not_what_was_when_the_line_came(desk: Desk) -> None:
    await desk.order("A-1")
    (first,) = await desk.settle(("A-1", 5_000))
    (second,) = await desk.settle(("A-1", 1_000))
    resolved = (await desk.resolve(first, "written_off")).json()
    assert resolved["resolved"]["amount_minor"] == 2_000
    # Nothing is due any more, so that the other line is closed with it.
    assert shown(await desk.lines(settlement_id=second["settlement_id"])) == [
        ("A-1", 1_000, 3_000, "short_paid", "settled_later")
    ]
    assert (await balances())["bad_debt"] == 2_000


async def test_an_unknown_line_is_assigned_to_its_order(desk: Desk) -> None:
    order = await desk.order("A-1")
    lines = await desk.settle(("A-1", 5_000), ("a1", 3_000))
    before = await balances()
    assert outcome(await desk.resolve(lines[1], "assigned", order_id=str(order.id))) == (200, "assigned")
    assert shown(await desk.lines()) == [
        ("A-1", 5_000, 8_000, "short_paid", "settled_later"),
        ("a1", 3_000, None, "unknown", "assigned"),
    ]
    assert (await desk.due("A-1"), await balances()) == (0, before)


async def test_a_line_is_assigned_to_no_order_that_the_statement_cannot_mean(desk: Desk) -> None:
    world = desk.world
    async with transaction() as session:
        elsewhere = await make_merchant(session)
        foreign = await make_order(session, await make_click(session, world.customer, elsewhere))
    own = await desk.order("A-1")
    (line,) = await desk.settle(("a1", 8_000))
    (dollars,) = await desk.settle(("a1", 8_000), currency="USD")
    for one, order_id in ((line, foreign.id), (dollars, own.id), (line, new_id())):
        answer = await desk.resolve(one, "assigned", order_id=str(order_id))
        assert outcome(answer) == (422, "settlement_order_mismatch")
    for resolution, values in (("assigned", {}), ("accepted", {"order_id": str(own.id)}), ("forgotten", {})):
        assert outcome(await desk.resolve(line, resolution, **values)) == (422, "invalid_request")
    assert outcome(await desk.resolve(line, "accepted", note="")) == (422, "invalid_request")


async def test_unknown_money_is_kept_and_unknown_losses_are_written_off(desk: Desk) -> None:
    lines = await desk.settle(("X-1", 700), ("X-2", -300))
    assert outcome(await desk.resolve(lines[0], "written_off")) == (409, "settlement_resolution_mismatch")
    assert outcome(await desk.resolve(lines[1], "accepted")) == (409, "settlement_resolution_mismatch")
    assert outcome(await desk.resolve(lines[0], "accepted")) == (200, "accepted")
    assert outcome(await desk.resolve(lines[1], "written_off")) == (200, "written_off")
    assert await balances() == {"cash": 400, "margin": -700, "bad_debt": 300}


async def test_a_resolution_must_fit_the_line(desk: Desk) -> None:
    for reference in ("A-1", "A-2", "A-3"):
        await desk.order(reference)
    matched, short, over = await desk.settle(("A-1", 8_000), ("A-2", 7_000), ("A-3", 9_000))
    assert outcome(await desk.resolve(matched, "written_off")) == (409, "settlement_line_closed")
    for line, resolution in ((short, "accepted"), (short, "settled_later"), (over, "written_off")):
        answer = await desk.resolve(line, resolution)
        assert outcome(answer) == (409, "settlement_resolution_mismatch")
    assert "-1000 is due for its order now" in (await desk.resolve(over, "settled_later")).json()["detail"]
    order = await desk.order("A-4")
    answer = await desk.resolve(short, "assigned", order_id=str(order.id))
    assert outcome(answer) == (409, "settlement_resolution_mismatch")
    assert outcome(await desk.resolve(short, "written_off")) == (200, "written_off")
    assert outcome(await desk.resolve(short, "written_off")) == (409, "settlement_line_closed")


async def test_a_line_for_nothing_is_closed_once_nothing_is_due(desk: Desk) -> None:
    world = desk.world
    await world.post("created", amount=100_000, commission=8_000)
    await world.drain()
    (line,) = await desk.settle(("A-1", 0))
    await world.post("approved", amount=100_000, commission=0)
    await world.drain()
    assert outcome(await desk.resolve(line, "settled_later")) == (200, "settled_later")


async def test_of_ten_decisions_at_once_one_counts(desk: Desk) -> None:
    order = await desk.order("A-1")
    short, unknown = await desk.settle(("A-1", 7_000), ("a1", 400))
    answers = await asyncio.gather(
        *(desk.resolve(short, "written_off") for _ in range(5)),
        *(desk.resolve(unknown, "accepted") for _ in range(3)),
        *(desk.resolve(unknown, "assigned", order_id=str(order.id)) for _ in range(2)),
    )
    assert Counter(answer.status_code for answer in answers[:5]) == {200: 1, 409: 4}
    assert Counter(answer.status_code for answer in answers[5:]) == {200: 1, 409: 4}


async def test_the_same_key_resolves_once(desk: Desk) -> None:
    await desk.order("A-1")
    (line,) = await desk.settle(("A-1", 7_000))
    desk.headers["Idempotency-Key"] = "fee"
    first, again = await desk.resolve(line, "written_off"), await desk.resolve(line, "written_off")
    assert (again.status_code, again.content) == (200, first.content)
    assert len(await transfers_of(line)) == 1


# --- Undone


async def test_a_decision_is_undone_by_a_transfer_that_corrects_it(desk: Desk) -> None:
    for reference in ("A-1", "A-2"):
        await desk.order(reference)
    lines = await desk.settle(("A-1", 7_000), ("A-2", 9_000), ("X-1", 50))
    before = await balances()
    for line, resolution in zip(lines, ("written_off", "accepted", "accepted"), strict=True):
        for again in (0, 2):
            assert outcome(await desk.resolve(line, resolution)) == (200, resolution)
            reopened = (await desk.reopen(line)).json()
            assert (reopened["resolution"], reopened["resolution_note"]) == (None, "reopened: a mistake")
            decided, undone = (await transfers_of(line))[again:]
            assert (decided.purpose, undone.purpose) == (f"{resolution}:{again + 1}", f"undone:{again + 2}")
            assert undone.corrects_id == decided.id
            assert undone.details["note"] == "a mistake"
        assert outcome(await desk.reopen(line)) == (409, "settlement_line_open")
    assert (await balances(), await desk.due("A-1"), await desk.due("A-2")) == (before, 1_000, -1_000)
    assert len(await desk.lines(open=True)) == 3


async def test_a_line_assigned_to_the_wrong_order_is_assigned_to_the_right_one(desk: Desk) -> None:
    wrong, right = await desk.order("A-1"), await desk.order("A-2")
    (line,) = await desk.settle(("a2", 8_000))
    await desk.resolve(line, "assigned", order_id=str(wrong.id))
    assert (await desk.reopen(line)).json()["order_id"] is None
    assert outcome(await desk.resolve(line, "assigned", order_id=str(right.id))) == (200, "assigned")
    assert (await desk.due("A-1"), await desk.due("A-2")) == (8_000, 0)


# --- Followed by what becomes of the order


async def reported(desk: Desk, paid: int, resolution: str) -> dict[str, Any]:
    """An order of a real source with a commission of 8,000, paid by one line, which is resolved."""
    await desk.world.post("created", amount=100_000, commission=8_000, at=datetime.now(UTC) - timedelta(hours=2))
    await desk.world.drain()
    (line,) = await desk.settle(("A-1", paid))
    assert outcome(await desk.resolve(line, resolution)) == (200, resolution)
    return line


async def tell(desk: Desk, kind: str, **payload: Any) -> None:
    await desk.world.post(kind, **payload)
    await desk.world.drain()


async def test_of_a_declined_order_only_what_was_paid_is_taken_back_and_no_loss_remains(desk: Desk) -> None:
    line = await reported(desk, 5_000, "written_off")
    await tell(desk, "declined")
    assert await balances() == {"cash": 5_000, "network_receivable": -5_000}
    (reopened,) = await desk.lines(open=True)
    assert (reopened["due"]["amount_minor"], reopened["resolution_note"]) == (
        -5_000,
        "reopened: what is owed for its order has changed",
    )
    assert [transfer.purpose for transfer in await transfers_of(line)] == ["written_off:1", "undone:2"]
    assert shown(await desk.settle(("A-1", -5_000))) == [("A-1", -5_000, -5_000, "matched", None)]
    assert (await balances(), await desk.lines(open=True)) == ({}, [])


async def test_what_a_network_never_takes_back_of_a_declined_order_is_kept(desk: Desk) -> None:
    line = await reported(desk, 5_000, "written_off")
    await tell(desk, "declined")
    assert outcome(await desk.resolve(line, "accepted")) == (200, "accepted")
    assert await balances() == {"cash": 5_000, "margin": -5_000}
    # The dispute is won after all: what was kept is a payment again.
    await tell(desk, "approved")
    assert await desk.due("A-1") == 3_000
    assert await balances() == {"cash": 5_000, "network_receivable": 3_000, "margin_pending": -3_000}


async def test_a_smaller_commission_leaves_no_more_written_off_than_is_missing(desk: Desk) -> None:
    await reported(desk, 5_000, "written_off")
    await tell(desk, "approved", amount=75_000, commission=6_000)
    (reopened,) = await desk.lines(open=True)
    assert reopened["due"]["amount_minor"] == 1_000
    assert "bad_debt" not in await balances()


async def test_a_commission_corrected_to_what_was_paid_closes_the_line(desk: Desk) -> None:
    await tell(desk, "created", amount=100_000, commission=8_000, at=datetime.now(UTC) - timedelta(hours=2))
    await desk.settle(("A-1", 5_000))
    await tell(desk, "approved", amount=62_500, commission=5_000)
    (line,) = await desk.lines()
    assert (line["resolution"], line["resolution_note"], line["resolved_by_id"]) == (
        "settled_later",
        "what is owed for its order has changed",
        None,
    )


async def test_a_larger_commission_turns_what_was_accepted_into_a_payment(desk: Desk) -> None:
    await reported(desk, 9_000, "accepted")
    await tell(desk, "approved", amount=112_500, commission=9_000)
    (line,) = await desk.lines()
    assert (line["resolution"], line["resolved"], line["due"]["amount_minor"]) == ("settled_later", None, 0)
    assert "margin" not in await balances()


async def test_a_change_of_status_alone_leaves_decisions_as_they_are(desk: Desk) -> None:
    await reported(desk, 5_000, "written_off")
    await tell(desk, "approved")
    assert await desk.status("A-1") is OrderStatus.APPROVED
    (line,) = await desk.lines()
    assert line["resolution"] == "written_off"


@pytest.mark.parametrize("first", ["reopen", "declined"])
async def test_a_decision_is_undone_once_whoever_comes_first(desk: Desk, first: str) -> None:
    line = await reported(desk, 5_000, "written_off")
    await desk.world.post("declined")
    work = [desk.reopen(line), desk.world.drain()]
    await asyncio.gather(*(work if first == "reopen" else reversed(work)))
    assert [transfer.purpose for transfer in await transfers_of(line)] == ["written_off:1", "undone:2"]
    assert await desk.due("A-1") == -5_000

"""The life of an order through the real path: parts, amounts, returns, disputes, late and shuffled events, staff."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from app.config import Settings
from app.db import transaction
from app.ids import new_id
from app.models import (
    Account,
    ExpireAs,
    Order,
    OrderChange,
    OrderReport,
    OrderStatus,
    StaffRole,
    WebhookStatus,
)
from app.workers.orders import order_expiry, release_payable
from tests.factories import make_click, make_merchant, staff_headers
from tests.orders.tale import Tale
from tests.webhooks.world import World, make_world

Begin = Callable[..., Awaitable[Tale]]


@pytest.fixture
def begin(committed_db: Settings, committed_client: httpx.AsyncClient) -> Begin:
    async def begin(**merchant: Any) -> Tale:
        return Tale(await make_world(committed_db, committed_client, **{"hold_days": 0, **merchant}))

    return begin


async def test_an_order_delivered_in_parts_is_approved_with_its_last_part(begin: Begin) -> None:
    tale = await begin()
    await tale.tell("created", "A", 100_000)
    await tale.tell("approved", "A", 60_000, part="1")
    assert await tale.order() == (OrderStatus.PENDING, 100_000, 5_000)
    assert await tale.world.wallet() == (5_000, 0)
    await tale.tell("approved", "A", 40_000, part="2")
    assert await tale.order() == (OrderStatus.PAYABLE, 100_000, 5_000)
    assert (await tale.world.order("A")).approved_at == tale.at


async def test_a_part_that_is_declined_takes_its_share_of_the_cashback_only(begin: Begin) -> None:
    tale = await begin()
    await tale.tell("created", "A", 100_000)
    await tale.tell("declined", "A", part="1")
    await tale.tell("created", "A", 30_000, part="1")
    assert await tale.order() == (OrderStatus.PENDING, 70_000, 3_500)
    await tale.tell("approved", "A", 70_000, part="2")
    assert await tale.order() == (OrderStatus.PAYABLE, 70_000, 3_500)
    assert await tale.world.wallet() == (0, 3_500)


async def test_a_part_that_comes_back_after_payable_is_taken_back_alone(begin: Begin) -> None:
    tale = await begin()
    for part, sale in (("1", 60_000), ("2", 40_000)):
        await tale.tell("created", "A", sale, part=part)
    for part in ("1", "2"):
        await tale.tell("approved", "A", part=part)
    assert await tale.order() == (OrderStatus.PAYABLE, 100_000, 5_000)
    await tale.tell("returned", "A", part="1")
    assert await tale.order() == (OrderStatus.PAYABLE, 40_000, 2_000)
    await tale.tell("returned", "A", 10_000, part="2")
    assert await tale.order() == (OrderStatus.PAYABLE, 30_000, 1_500)
    await tale.tell("declined", "A")
    assert (await tale.order())[0] is OrderStatus.REVERSED
    assert await tale.world.wallet() == (0, 0)


async def test_a_part_that_is_announced_after_the_others_were_payable_is_not_available_before_it_is_approved(
    begin: Begin,
) -> None:
    tale = await begin()
    await tale.tell("created", "A", 60_000, part="1")
    await tale.tell("approved", "A", part="1")
    approved_at = (await tale.world.order("A")).approved_at
    await tale.tell("created", "A", 40_000, part="2")
    assert await tale.order() == (OrderStatus.PAYABLE, 60_000, 3_000)
    assert (await tale.world.order("A")).approved_at == approved_at
    assert await tale.world.wallet() == (0, 3_000)
    await tale.tell("approved", "A", part="2")
    assert await tale.order() == (OrderStatus.PAYABLE, 100_000, 5_000)


async def test_a_part_that_is_announced_after_the_others_were_reversed_waits_for_its_approval(begin: Begin) -> None:
    tale = await begin()
    await tale.tell("created", "A", 60_000, part="1")
    await tale.tell("approved", "A", part="1")
    await tale.tell("returned", "A", part="1")
    await tale.tell("created", "A", 40_000, part="2")
    assert (await tale.order())[0] is OrderStatus.REVERSED
    assert await tale.world.wallet() == (0, 0)
    await tale.tell("approved", "A", part="2")
    assert await tale.order() == (OrderStatus.PAYABLE, 40_000, 2_000)


async def test_an_amount_may_change_before_and_after_the_order_is_payable(begin: Begin) -> None:
    tale = await begin()
    await tale.tell("created", "A", 100_000)
    await tale.tell("created", "A", 80_000)
    assert await tale.world.wallet() == (4_000, 0)
    await tale.tell("approved", "A", 90_000)
    assert await tale.world.wallet() == (0, 4_500)
    for sale, cashback in ((120_000, 6_000), (50_000, 2_500)):
        await tale.tell("approved", "A", sale)
        assert await tale.order() == (OrderStatus.PAYABLE, sale, cashback)
        assert await tale.world.wallet() == (0, cashback)
    assert await tale.posted() == {
        Account.NETWORK_RECEIVABLE: 4_000,
        Account.CUSTOMER_AVAILABLE: -2_500,
        Account.MARGIN: -1_500,
    }


@pytest.mark.parametrize("hold_days", [0, 60], ids=["after payable", "before payable"])
async def test_returns_add_up_until_nothing_is_left(begin: Begin, hold_days: int) -> None:
    tale = await begin(hold_days=hold_days)
    live, dead = (
        (OrderStatus.PAYABLE, OrderStatus.REVERSED) if hold_days == 0 else (OrderStatus.APPROVED, OrderStatus.DECLINED)
    )
    await tale.earn("A")
    await tale.tell("returned", "A", 30_000)
    assert await tale.order() == (live, 70_000, 3_500)
    await tale.tell("returned", "A", 33_333)
    assert await tale.order() == (live, 36_667, 1_833)
    await tale.tell("returned", "A", 36_667)
    assert (await tale.order())[0] is dead
    assert await tale.posted() == {}
    assert await tale.world.wallet() == (0, 0)


async def test_a_whole_return_before_and_after_payable(begin: Begin) -> None:
    held, free = await begin(hold_days=60), await begin()
    for tale, dead in ((held, OrderStatus.DECLINED), (free, OrderStatus.REVERSED)):
        await tale.earn("A" if tale is held else "B")
        await tale.tell("returned", "A" if tale is held else "B")
        assert (await tale.order("A" if tale is held else "B"))[0] is dead
        assert await tale.world.wallet() == (0, 0)


async def test_more_than_was_sold_comes_back_as_all_of_it(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    await tale.tell("returned", "A", 999_999)
    assert (await tale.order())[0] is OrderStatus.REVERSED
    assert await tale.world.wallet() == (0, 0)


async def test_a_declined_order_that_is_approved_after_all_waits_its_hold(begin: Begin) -> None:
    tale = await begin(hold_days=60)
    await tale.tell("created", "A", 100_000)
    await tale.tell("declined", "A")
    assert await tale.world.wallet() == (0, 0)
    await tale.tell("approved", "A")
    assert await tale.order() == (OrderStatus.APPROVED, 100_000, 5_000)
    assert await tale.world.wallet() == (5_000, 0)


async def test_a_reversed_order_that_is_approved_after_all_is_payable_again_at_once(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    for _ in range(2):
        await tale.tell("declined", "A")
        assert await tale.world.wallet() == (0, 0)
        await tale.tell("approved", "A", 90_000)
        assert await tale.order() == (OrderStatus.PAYABLE, 90_000, 4_500)
    order = await tale.world.order("A")
    async with transaction() as session:
        history = await session.scalars(
            select(OrderChange.status).where(OrderChange.order_id == order.id).order_by(OrderChange.revision)
        )
        assert history.all() == ["pending", "approved", "payable", "reversed", "payable", "reversed", "payable"]


@pytest.mark.parametrize("stale", ["created", "approved", "declined", "returned"])
async def test_what_is_older_than_what_is_known_changes_nothing(begin: Begin, stale: str) -> None:
    tale = await begin()
    await tale.earn("A")
    before = await tale.world.order("A")
    await tale.tell(stale, "A", 7_000, at=tale.at - timedelta(minutes=1, seconds=30))
    after = await tale.world.order("A")
    assert await tale.order() == (OrderStatus.PAYABLE, 100_000, 5_000)
    assert (after.revision, after.explanation) == (before.revision, before.explanation)


History = list[tuple[str, dict[str, Any]]]


def some_history(chance: random.Random, *, parts: bool) -> History:
    """A sale and up to six more things about it, each in an hour of its own; a return may be older than the sale."""
    start = datetime.now(UTC) - timedelta(days=10)
    later = [chance.choice(["created", "approved", "declined", "returned"]) for _ in range(chance.randrange(7))]
    kinds = ["created", *later]
    history: History = []
    for kind, hour in zip(kinds, chance.sample(range(-2, 12), len(kinds)), strict=True):
        payload: dict[str, Any] = {"at": start + timedelta(hours=hour)}
        if kind == "created" or chance.random() < 0.5:
            payload["amount"] = chance.choice([1, 999, 10_000, 33_333, 100_000])
            payload["commission"] = payload["amount"] * 8 // 100
        if parts and chance.random() < 0.6:
            payload["part"] = chance.choice("12")
        history.append((kind, payload))
    return history


async def live_through(tale: Tale, order: str, history: History, chance: random.Random, *, release: bool) -> None:
    """Report a history in this order, some of it twice, and work on it now and then."""
    for number, (kind, payload) in enumerate(history):
        for _ in range(chance.choice([1, 1, 2])):
            await tale.world.post(kind, order, message_id=f"{order}-{number}", **payload)
        if chance.random() < 0.6:
            await tale.world.drain()
            if release:
                await release_payable()
    await tale.world.drain()
    await release_payable()


@pytest.mark.parametrize("parts", [False, True], ids=["whole", "parts"])
async def test_thirty_shuffled_histories_end_as_in_order_in_the_ledger_too(begin: Begin, *, parts: bool) -> None:
    tale = await begin()
    chance = random.Random(23)  # noqa: S311 - repeatable, not secret
    for number in range(30):
        history = some_history(chance, parts=parts)
        in_order = sorted(history, key=lambda thing: thing[1]["at"])
        shuffled = chance.sample(history, len(history))
        await live_through(tale, f"O-{number}", in_order, chance, release=False)
        await live_through(tale, f"S-{number}", shuffled, chance, release=False)
        first, second = await tale.world.order(f"O-{number}"), await tale.world.order(f"S-{number}")
        assert state(first) == state(second), history
        assert await tale.posted(f"O-{number}") == await tale.posted(f"S-{number}")
    async with transaction() as session:
        seen = set(await session.scalars(select(Order.status)))
    assert seen == {OrderStatus.PENDING, OrderStatus.PAYABLE, OrderStatus.DECLINED}


async def test_what_became_payable_on_the_way_ends_with_the_same_money(begin: Begin) -> None:
    tale = await begin()
    chance = random.Random(24)  # noqa: S311 - repeatable, not secret
    for number in range(30):
        history = some_history(chance, parts=False)
        in_order = sorted(history, key=lambda thing: thing[1]["at"])
        await live_through(tale, f"O-{number}", in_order, chance, release=True)
        await live_through(tale, f"S-{number}", chance.sample(history, len(history)), chance, release=True)
        # Declined or reversed, by whether it was payable for a moment: in the ledger that is the same.
        assert await tale.posted(f"O-{number}") == await tale.posted(f"S-{number}"), history


async def test_events_of_one_order_that_come_at_once_end_as_one_after_the_other(begin: Begin) -> None:
    tale = await begin()
    start = datetime.now(UTC) - timedelta(days=5)
    things: list[tuple[str, int | None]] = [
        ("created", 100_000),
        ("approved", 90_000),
        ("returned", 20_000),
        ("declined", None),
        ("approved", None),
        ("returned", 10_000),
    ]
    for order in range(10):
        for number, (kind, amount) in enumerate(things):
            commission = None if amount is None else amount * 8 // 100
            at = start + timedelta(hours=number)
            await tale.world.post(kind, f"C-{order}", amount=amount, commission=commission, at=at)
    await asyncio.gather(*(tale.world.drain() for _ in range(6)))
    await tale.world.drain()
    await release_payable()
    for order in range(10):
        assert await tale.order(f"C-{order}") == (OrderStatus.PAYABLE, 60_000, 3_000)


def state(order: Order) -> tuple[Any, ...]:
    """What an order is, however it came to be that."""
    return (
        order.status,
        order.sale_minor,
        order.commission_minor,
        order.cashback_minor,
        order.ordered_at,
        order.approved_at,
        order.payable_at,
        order.explanation,
    )


async def test_merchants_of_one_source_number_their_orders_each_from_one(begin: Begin) -> None:
    tale = await begin()
    async with transaction() as session:
        other = await make_merchant(session, source_id=tale.world.source.id, hold_days=0)
        click = await make_click(session, tale.world.customer, other)
    await tale.tell("created", "SAME", 100_000)
    await tale.tell("created", "SAME", 20_000, click_id=click.id)
    await tale.tell("approved", "SAME", click_id=click.id)
    async with transaction() as session:
        rows = await session.execute(select(Order.merchant_id, Order.status).order_by(Order.id))
    assert [tuple(row) for row in rows] == [
        (tale.world.merchant.id, OrderStatus.PENDING),
        (other.id, OrderStatus.PAYABLE),
    ]
    # Without a click nobody knows which of the two is meant.
    event = await tale.world.event(await tale.tell("declined", "SAME", click_id=None))
    assert event.status is WebhookStatus.QUARANTINED
    assert "several merchants" in (event.reason or "")
    assert await tale.world.wallet() == (5_000, 1_000)


async def adjust(world: World, order: Order, role: StaffRole = StaffRole.FINANCE, **body: Any) -> httpx.Response:
    async with transaction() as session:
        headers = {**await staff_headers(session, role), **body.pop("headers", {})}
    body = {"kind": "approved", "reason": "confirmed by the shop's mail", **body}
    return await world.client.post(f"/v1/admin/orders/{order.id}/adjustments", json=body, headers=headers)


def pkr(amount_minor: int) -> dict[str, Any]:
    return {"amount_minor": amount_minor, "currency": "PKR"}


async def test_staff_say_what_the_shop_does_not_and_the_reason_is_kept(begin: Begin) -> None:
    tale = await begin()
    await tale.tell("created", "A", 100_000)
    order = await tale.world.order("A")
    answer = await adjust(tale.world, order, sale=pkr(80_000), commission=pkr(6_400))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["status"], body["sale"], body["cashback"]) == ("approved", pkr(80_000), pkr(4_000))
    event, said = body["reports"]
    assert (event["origin"], event["kind"], event["reason"]) == ("event", "created", None)
    assert (said["origin"], said["kind"], said["sale_minor"], said["reason"]) == (
        "staff",
        "approved",
        80_000,
        "confirmed by the shop's mail",
    )
    async with transaction() as session:
        [kept] = await session.scalars(select(OrderReport).where(OrderReport.staff_key_id.is_not(None)))
    assert str(kept.staff_key_id) == said["origin_id"]
    assert await tale.world.wallet() == (4_000, 0)


async def test_what_staff_say_is_folded_with_what_the_shop_says_before_and_after(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    await adjust(tale.world, await tale.world.order("A"), kind="declined", reason="a test purchase")
    assert (await tale.order())[0] is OrderStatus.REVERSED
    # An older event comes late and changes nothing, a newer one does.
    await tale.tell("approved", "A", 50_000)
    assert (await tale.order())[0] is OrderStatus.REVERSED
    await tale.tell("approved", "A", 50_000, at=datetime.now(UTC) + timedelta(minutes=5))
    assert await tale.order() == (OrderStatus.PAYABLE, 50_000, 2_500)


async def test_staff_take_back_a_part(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    answer = await adjust(tale.world, await tale.world.order("A"), kind="returned", sale=pkr(25_000))
    assert (answer.json()["status"], answer.json()["sale"]) == ("payable", pkr(75_000))
    # The commission shrinks with the sale where nobody says by how much.
    assert answer.json()["commission"] == pkr(6_000)
    assert await tale.world.wallet() == (0, 3_750)


async def test_one_key_adjusts_once(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    order = await tale.world.order("A")
    async with transaction() as session:
        staff = await staff_headers(session, StaffRole.FINANCE)
    body = {"kind": "returned", "sale": pkr(10_000), "reason": "sent back in the shop"}
    url, headers = f"/v1/admin/orders/{order.id}/adjustments", {**staff, "Idempotency-Key": "once"}
    first, again = [await tale.world.client.post(url, json=body, headers=headers) for _ in range(2)]
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    assert await tale.order() == (OrderStatus.PAYABLE, 90_000, 4_500)
    other = await tale.world.client.post(url, json={**body, "sale": pkr(5)}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    # Without the key, or with another one, it is said twice.
    await tale.world.client.post(url, json=body, headers=staff)
    assert await tale.order() == (OrderStatus.PAYABLE, 80_000, 4_000)


@pytest.mark.parametrize("role", [StaffRole.VIEWER, StaffRole.OPERATOR])
async def test_only_finance_adjusts(begin: Begin, role: StaffRole) -> None:
    tale = await begin()
    await tale.earn("A")
    order = await tale.world.order("A")
    assert (await adjust(tale.world, order, role, kind="declined")).status_code == 403
    url = f"/v1/admin/orders/{order.id}/adjustments"
    assert (await tale.world.client.post(url, json={"kind": "declined", "reason": "why"})).status_code == 401
    assert (await tale.order())[0] is OrderStatus.PAYABLE


async def test_an_adjustment_that_makes_no_sense_is_refused_and_changes_nothing(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    order = await tale.world.order("A")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"sale": {"amount_minor": 1, "currency": "EUR"}}, "adjustment_currency_mismatch"),
        ({"sale": pkr(1), "commission": {"amount_minor": 1, "currency": "EUR"}}, "invalid_request"),
        ({"sale": pkr(-1)}, "invalid_request"),
        ({"sale": {"amount_minor": 1.5, "currency": "PKR"}}, "invalid_request"),
        ({"sale": pkr(2**63)}, "invalid_request"),
        ({"kind": "created"}, "invalid_request"),
        ({"kind": "payable"}, "invalid_request"),
        ({"reason": None}, "invalid_request"),
        ({"reason": "  "}, "invalid_request"),
        ({"part": ""}, "invalid_request"),
        ({"status": "payable"}, "invalid_request"),
    ]
    for body, code in bad:
        answer = await adjust(tale.world, order, **body)
        assert (answer.status_code, answer.json()["code"]) == (422, code), body
    order.id = new_id()
    missing = await adjust(tale.world, order)
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown_order")
    assert (await tale.world.order("A")).revision == 3


async def test_adjustments_and_events_at_once_leave_one_sound_order(begin: Begin) -> None:
    tale = await begin()
    await tale.earn("A")
    order = await tale.world.order("A")
    for number in range(10):
        at = tale.at + timedelta(minutes=number + 1)
        await tale.world.post("returned", "A", amount=1_000, commission=80, at=at)
    answers = await asyncio.gather(
        *(adjust(tale.world, order, kind="returned", sale=pkr(2_000)) for _ in range(10)),
        *(drained(tale.world) for _ in range(3)),
    )
    assert {answer.status_code for answer in answers if answer is not None} == {201}
    assert await tale.order() == (OrderStatus.PAYABLE, 70_000, 3_500)


async def drained(world: World) -> None:
    await world.drain()


@pytest.mark.parametrize("expire_as", ExpireAs)
async def test_what_nobody_closes_is_closed_by_the_merchants_policy_and_a_late_report_outranks_it(
    begin: Begin, expire_as: ExpireAs
) -> None:
    tale = await begin(expire_days=10, expire_as=expire_as, hold_days=30)
    await tale.tell("created", "OLD", 100_000)
    await tale.tell("created", "NEW", 100_000, at=datetime.now(UTC) - timedelta(days=9))

    expire = order_expiry(tale.world.settings)
    assert sum(await asyncio.gather(*(expire() for _ in range(4)))) == 1
    assert await expire() == 0
    expected = OrderStatus.DECLINED if expire_as is ExpireAs.DECLINED else OrderStatus.APPROVED
    assert (await tale.order("OLD"))[0] is expected
    assert (await tale.order("NEW"))[0] is OrderStatus.PENDING
    order = await tale.world.order("OLD")
    assert (order.payable_at is None) is (expected is OrderStatus.DECLINED)
    opposite = "approved" if expected is OrderStatus.DECLINED else "declined"
    await tale.tell(opposite, "OLD")
    assert (await tale.order("OLD"))[0] is OrderStatus(opposite)
    async with transaction() as session:
        assert (await session.scalars(select(func.count()).select_from(OrderReport))).one() == 3

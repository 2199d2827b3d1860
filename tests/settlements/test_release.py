"""Payable after payment, and the limit of what is advanced before it: the oldest first, under any number of workers."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text, update

from app.config import Settings
from app.db import transaction
from app.models import Account, Merchant, Order, OrderStatus, Posting, Wallet
from app.services.exchange_rates import add_exchange_rate
from app.services.orders import hold
from app.workers.orders import release_payable
from tests.factories import customer_headers, make_click, make_customer, make_merchant, make_order
from tests.settlements.desk import Desk, balances, fill
from tests.webhooks.world import make_world


@pytest.fixture
async def limited(committed_db: Settings, committed_client: httpx.AsyncClient) -> Desk:
    """A merchant of whose cashback 12,000 is advanced; an order's is 5,000."""
    return await Desk.open(await make_world(committed_db, committed_client, exposure_limit_minor=12_000))


async def payable() -> list[str]:
    async with transaction() as session:
        found = await session.scalars(
            select(Order.external_id).where(Order.status == OrderStatus.PAYABLE).order_by(Order.external_id)
        )
        return list(found)


async def change_merchant(desk: Desk, **changes: Any) -> None:
    async with transaction() as session:
        await session.execute(update(Merchant).where(Merchant.id == desk.world.merchant.id).values(**changes))


async def waits(desk: Desk) -> dict[str, str | None]:
    """What each order says it waits for, to its customer; staff are told the same."""
    world = desk.world
    headers = customer_headers(world.settings, world.customer)
    mine = (await world.client.get("/v1/me/orders", headers=headers)).json()["items"]
    staff = (await world.client.get("/v1/admin/orders", headers=desk.headers)).json()["items"]
    said = {order["order_reference"]: order["waits_for"] for order in mine}
    assert said == {order["order_reference"]: order["waits_for"] for order in staff}
    for order in mine[:1]:
        one = (await world.client.get(f"/v1/me/orders/{order['id']}", headers=headers)).json()
        assert one["waits_for"] == order["waits_for"]
    return said


# --- Payable after payment


async def test_cashback_is_payable_once_the_network_has_paid(desk: Desk) -> None:
    await desk.order("A-1")
    await desk.order("A-2", held_days=-1)
    await desk.order("A-3", status=OrderStatus.PENDING, payable_at=None, approved_at=None)
    assert await waits(desk) == {"A-1": "payment", "A-2": "hold", "A-3": None}
    assert await release_payable() == 0
    await desk.settle(("A-1", 8_000), ("A-2", 8_000), ("A-3", 8_000))
    assert await waits(desk) == {"A-1": None, "A-2": "hold", "A-3": None}
    assert await release_payable() == 1
    assert (await payable(), await desk.world.wallet()) == (["A-1"], (10_000, 5_000))


async def test_a_settlement_and_a_decision_ring_for_what_waits(desk: Desk) -> None:
    pool = desk.world.client._transport.app.state.arq_pool  # type: ignore[attr-defined]  # the application of the test
    await desk.order("A-1")
    (line,) = await desk.settle(("A-1", 7_000))
    await until_rung(pool)
    await pool.flushdb()
    await desk.resolve(line, "written_off")
    await until_rung(pool)


async def until_rung(pool: Any) -> None:
    async with asyncio.timeout(10):
        while "release_payable" not in [job.function for job in await pool.queued_jobs(queue_name="cashback:default")]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("paid", "resolution"), [(7_000, "written_off"), (9_000, None), (9_000, "accepted")])
async def test_what_was_written_off_or_paid_too_much_is_waited_for_no_longer(
    desk: Desk, paid: int, resolution: str | None
) -> None:
    await desk.order("A-1")
    (line,) = await desk.settle(("A-1", paid))
    assert await release_payable() == (1 if paid > 8_000 else 0)
    if resolution is not None:
        await desk.resolve(line, resolution)
        await release_payable()
    assert await payable() == ["A-1"]


async def test_a_commission_that_grew_is_waited_for_again(desk: Desk) -> None:
    await desk.world.post("created", amount=100_000, commission=8_000)
    await desk.world.drain()
    await desk.settle(("A-1", 8_000))
    await desk.world.post("approved", amount=125_000, commission=10_000)
    await desk.world.drain()
    async with transaction() as session:
        await session.execute(update(Order).values(payable_at=func.now()))
    assert await release_payable() == 0
    await desk.settle(("A-1", 2_000))
    assert await release_payable() == 1


async def test_an_order_without_commission_waits_for_no_payment(desk: Desk) -> None:
    await desk.order("A-1", commission=0)
    assert await waits(desk) == {"A-1": None}
    assert await release_payable() == 1


async def test_an_order_in_another_currency_is_paid_in_that(desk: Desk) -> None:
    async with transaction() as session:
        day = datetime.now(UTC).date() - timedelta(days=2)
        await add_exchange_rate(session, base="USD", quote="PKR", rate="278.45", effective_on=day, created_by_id=None)
        await session.execute(update(Merchant).values(hold_days=0))
    sold_at = datetime.now(UTC) - timedelta(hours=1)
    await desk.world.post("created", amount=10_000, commission=1_000, currency="USD", at=sold_at)
    await desk.world.post("approved", at=sold_at)
    await desk.world.drain()
    # Rupees are not what it was reported in.
    assert [line["status"] for line in await desk.settle(("A-1", 278_450))] == ["unknown"]
    assert await release_payable() == 0
    (line,) = await desk.settle(("A-1", 900), currency="USD")
    assert (line["expected"], line["due"]) == (
        {"amount_minor": 1_000, "currency": "USD"},
        {"amount_minor": 100, "currency": "USD"},
    )
    await desk.resolve(line, "written_off")
    assert await balances("USD") == {"cash": 900, "bad_debt": 100, "currency_exchange": -1_000}
    assert await release_payable() == 1
    assert await desk.world.wallet() == (0, 139_225)
    # It is returned in full, and the network takes its dollars back: neither currency keeps a trace.
    await desk.world.post("returned")
    await desk.world.drain()
    await desk.settle(("A-1", -900), currency="USD")
    assert await balances("USD") == {}
    assert await balances() == {"cash": 278_450, "network_receivable": -278_450}


async def test_a_merchant_set_otherwise_is_advanced_for_at_the_next_look(desk: Desk) -> None:
    await desk.order("A-1")
    assert await release_payable() == 0
    await change_merchant(desk, payable_after_payment=False)
    assert await waits(desk) == {"A-1": None}
    assert await release_payable() == 1


# --- Exposure


async def test_only_so_much_is_advanced_and_the_oldest_comes_first(limited: Desk) -> None:
    for number in range(1, 6):
        await limited.order(f"A-{number}", held_days=10 - number)
    assert await release_payable() == 2
    assert await payable() == ["A-1", "A-2"]
    assert await waits(limited) == {
        "A-1": None,
        "A-2": None,
        "A-3": "exposure",
        "A-4": "exposure",
        "A-5": "exposure",
    }
    assert await release_payable() == 0
    # A payment for an order that waits makes that one payable, whatever its place.
    await limited.settle(("A-5", 8_000))
    assert await release_payable() == 1
    # A payment for one that was advanced leaves room for the next; a part of it does not.
    await limited.settle(("A-1", 7_999))
    assert await release_payable() == 0
    await limited.settle(("A-1", 1))
    assert await release_payable() == 1
    assert await payable() == ["A-1", "A-2", "A-3", "A-5"]
    assert await waits(limited) == {"A-1": None, "A-2": None, "A-3": None, "A-4": "exposure", "A-5": None}


async def test_a_small_order_does_not_pass_the_large_one_before_it(limited: Desk) -> None:
    await limited.order("A-1", held_days=4, cashback=8_000)
    await limited.order("A-2", held_days=3, cashback=6_000)
    await limited.order("A-3", held_days=2, cashback=1_000)
    assert await release_payable() == 1
    assert await payable() == ["A-1"]
    await limited.settle(("A-1", 8_000))
    assert await release_payable() == 2
    assert await payable() == ["A-1", "A-2", "A-3"]


async def test_an_order_above_the_whole_limit_waits_for_its_payment_and_holds_up_nobody(limited: Desk) -> None:
    await limited.order("A-1", held_days=4, cashback=12_001)
    await limited.order("A-2", held_days=3)
    assert await waits(limited) == {"A-1": "payment", "A-2": "exposure"}
    assert await release_payable() == 1
    assert await payable() == ["A-2"]
    await limited.settle(("A-1", 8_000))
    assert await release_payable() == 1


async def test_what_is_taken_back_leaves_room(limited: Desk) -> None:
    world = limited.world
    await world.post("created", amount=100_000, commission=8_000)
    await world.post("approved")
    await world.drain()
    async with transaction() as session:
        await session.execute(update(Order).values(payable_at=func.now()))
    assert await release_payable() == 1
    await limited.order("A-2", cashback=12_000)
    assert await release_payable() == 0
    await world.post("returned")
    await world.drain()
    assert await release_payable() == 1


@pytest.mark.parametrize(("limit", "released"), [(None, 5), (25_000, 5), (24_999, 4), (0, 0)])
async def test_another_limit_holds_at_the_next_look(limited: Desk, limit: int | None, released: int) -> None:
    await change_merchant(limited, exposure_limit_minor=limit)
    for number in range(1, 6):
        await limited.order(f"A-{number}", held_days=10 - number)
    assert await release_payable() == released


async def test_workers_that_race_never_advance_more_than_the_limit(limited: Desk) -> None:
    limit = 33 * 5_000 + 4_999
    await change_merchant(limited, exposure_limit_minor=limit)
    async with transaction() as session:
        customers = [await make_customer(session) for _ in range(20)]
        clicks = [await make_click(session, customer, limited.world.merchant) for customer in customers]
    for number, click in enumerate(clicks):
        await fill(click, 4, prefix=f"R{number}")
    assert sum(await asyncio.gather(*(release_payable() for _ in range(8)))) == 33
    assert await exposure() == 33 * 5_000
    paid = await payable()
    # Ten are paid for while eight workers look; what that leaves room for is released, and no more.
    await asyncio.gather(
        *(limited.settle((reference, 8_000)) for reference in paid[:10]), *(release_payable() for _ in range(8))
    )
    await release_payable()
    assert await exposure() == 33 * 5_000
    assert len(await payable()) == 43


async def test_small_batches_that_race_never_advance_more_than_the_limit(limited: Desk) -> None:
    await change_merchant(limited, exposure_limit_minor=17 * 5_000)
    await fill(limited.world.click, 40)

    async def release() -> int:
        released = 0
        for _ in range(10):
            async with transaction() as session:
                released += await hold.release_due(session, limited.world.merchant.id, limit=3)
        return released

    assert sum(await asyncio.gather(*(release() for _ in range(6)))) == 17
    assert await exposure() == 17 * 5_000


async def test_who_advances_sees_what_the_one_before_has_advanced(limited: Desk) -> None:
    for number in range(1, 5):
        await limited.order(f"A-{number}", held_days=10 - number)
    merchant_id = limited.world.merchant.id
    async with transaction() as session:
        assert await hold.release_due(session, merchant_id) == 2
        other = asyncio.create_task(release_payable())
        # It does not look before this transaction ends: what it saw now would be out of date.
        await until_somebody_waits()
    assert await other == 0
    assert await payable() == ["A-1", "A-2"]


async def until_somebody_waits() -> None:
    async with asyncio.timeout(10):
        while True:
            async with transaction() as session:
                if await session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
                    return
            await asyncio.sleep(0.01)


async def exposure() -> int:
    async with transaction() as session:
        advanced = select(func.sum(Order.cashback_minor)).where(
            Order.status == OrderStatus.PAYABLE, Order.due_minor > 0
        )
        return int((await session.scalars(advanced)).one() or 0)


# --- The scan


@pytest.mark.parametrize("limit", [None, 12_000], ids=["after-payment", "exposure"])
async def test_ten_thousand_orders_that_wait_cost_the_sweep_nothing(
    committed_db: Settings, committed_client: httpx.AsyncClient, limit: int | None
) -> None:
    values = {"payable_after_payment": True} if limit is None else {"exposure_limit_minor": limit}
    desk = await Desk.open(await make_world(committed_db, committed_client, **values))
    await fill(desk.world.click, 10_000)
    assert await release_payable() == (0 if limit is None else 2)
    async with transaction() as session:
        free = await make_merchant(session)
        click = await make_click(session, await make_customer(session), free)
        (late,) = [await make_order(session, click, status=OrderStatus.APPROVED, external_id="late")]
        late.payable_at = late.created_at - timedelta(seconds=1)
    async with transaction() as session:
        merchants = await hold.due_merchants(session)
        assert merchants == [free.id] if limit is None else [desk.world.merchant.id, free.id]
        for merchant_id in merchants:
            await hold.release_due(session, merchant_id)
        # Of this transaction, at once: rows of orders that were read.
        read = await session.scalar(
            text(
                "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
                " WHERE relname = 'orders'"
            )
        )
    assert read is not None
    assert read <= 2 * hold.BATCH + 20
    assert "late" in await payable()


async def test_batches_follow_until_all_is_released(
    committed_db: Settings, committed_client: httpx.AsyncClient
) -> None:
    desk = await Desk.open(await make_world(committed_db, committed_client))
    await fill(desk.world.click, hold.BATCH + 1)
    assert await release_payable() == hold.BATCH + 1
    assert await release_payable() == 0


async def test_what_fails_at_one_merchant_delays_no_other(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    await change_merchant(desk, payable_after_payment=False)
    await desk.order("A-1")
    async with transaction() as session:
        other = await make_click(session, await make_customer(session), await make_merchant(session))
    await fill(other, 1)
    # The pending balance that the first order would leave is not there: the database refuses.
    async with transaction() as session:
        mine = Wallet.customer_id == desk.world.customer.id
        await session.execute(update(Wallet).where(mine).values(pending_minor=0))
    with caplog.at_level(logging.ERROR, logger="app.workers.tasks"):
        assert await release_payable() == 1
    assert [record.item for record in caplog.records] == [str(desk.world.merchant.id)]  # type: ignore[attr-defined]  # our extra
    async with transaction() as session:
        await session.execute(update(Wallet).where(mine).values(pending_minor=5_000))
    assert await release_payable() == 1


async def test_margin_is_earned_when_cashback_becomes_payable(desk: Desk) -> None:
    await desk.order("A-1")
    await desk.settle(("A-1", 8_000))
    await release_payable()
    async with transaction() as session:
        margin = select(func.sum(Posting.amount_minor)).where(Posting.account == Account.MARGIN)
        assert (await session.scalars(margin)).one() == -3_000


# --- The settings


async def test_staff_set_when_cashback_is_advanced(desk: Desk) -> None:
    world = desk.world
    url = f"/v1/admin/merchants/{world.merchant.id}"
    changed = await world.client.patch(
        url, json={"payable_after_payment": False, "exposure_limit_minor": 5_000}, headers=desk.headers
    )
    assert changed.status_code == 200, changed.text
    assert (changed.json()["payable_after_payment"], changed.json()["exposure_limit_minor"]) == (False, 5_000)
    await desk.order("A-1", held_days=2)
    await desk.order("A-2")
    assert await release_payable() == 1
    unlimited = await world.client.patch(url, json={"exposure_limit_minor": None}, headers=desk.headers)
    assert unlimited.json()["exposure_limit_minor"] is None
    assert await release_payable() == 1
    for refused in ({"payable_after_payment": None}, {"exposure_limit_minor": -1}, {"exposure_limit_minor": 2**63}):
        answer = await world.client.patch(url, json=refused, headers=desk.headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")

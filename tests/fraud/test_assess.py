"""What each kind of rule finds, and what it leaves alone; each is a look into indexes."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import Click, ClickOrigin, Order, PayoutMethodKind
from app.schemas.fraud import read_thresholds
from app.services.fraud.assess import Rule, _statement, assess
from app.services.payouts.accounts import PayoutAccount
from tests.factories import make_click, make_customer, make_merchant, make_order, make_payout_method

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


async def found(session: AsyncSession, orders: list[Order], kind: str, **thresholds: Any) -> dict[str, tuple[int, Any]]:
    """(measure, evidence) of the orders that a rule finds, by their numbers."""
    rule = Rule(new_id(), read_thresholds({"kind": kind, **thresholds}))
    by_id = await assess(session, [rule], [order.id for order in orders])
    names = {order.id: order.external_id for order in orders}
    assert all([finding.rule_id for finding in findings] == [rule.id] for findings in by_id.values())
    return {names[one]: (findings[0].measure, dict(findings[0].evidence)) for one, findings in by_id.items()}


async def clicked(session: AsyncSession, **changes: Any) -> Click:
    """A click of noon, by somebody at some shop."""
    customer = changes.pop("customer", None) or await make_customer(session)
    merchant = changes.pop("merchant", None) or await make_merchant(session)
    return await make_click(session, customer, merchant, **{"created_at": NOON, **changes})


async def bought(session: AsyncSession, click: Click, name: str, *, after: float, **changes: Any) -> Order:
    """An order so many seconds after noon."""
    return await make_order(session, click, external_id=name, ordered_at=NOON + timedelta(seconds=after), **changes)


async def test_purchase_faster_than_people_buy_or_before_its_click(session: AsyncSession) -> None:
    click = await clicked(session)
    orders = [await bought(session, click, name, after=after) for name, after in (("a", 9.9), ("b", 10), ("c", -60))]
    granted = await clicked(session, origin=ClickOrigin.CLAIM)
    orders.append(await bought(session, granted, "d", after=0))
    assert await found(session, orders, "click_to_order", minimum_seconds=10) == {
        "a": (1, {"seconds": 10, "minimum_seconds": 10}),
        "c": (1, {"seconds": -60, "minimum_seconds": 10}),
    }


async def test_orders_of_one_click_after_the_first_ones_by_the_time_of_the_purchase(session: AsyncSession) -> None:
    click = await clicked(session)
    orders = [
        await bought(session, click, name, after=after)
        for name, after in (("late", 30), ("b", 20), ("a", 20), ("c", 1))
    ]
    orders.append(await bought(session, await clicked(session), "other", after=99))
    assert await found(session, orders, "orders_per_click", most_orders=2) == {
        "b": (3, {"orders": 3, "most_orders": 2}),
        "late": (4, {"orders": 4, "most_orders": 2}),
    }


async def test_orders_of_one_customer_within_hours_at_any_shop(session: AsyncSession) -> None:
    customer = await make_customer(session)
    orders = [
        await bought(session, await clicked(session, customer=customer), f"{hour}", after=hour * 3600)
        for hour in (0, 10, 20, 24, 60)
    ]
    assert await found(session, orders, "velocity", most_orders=2, hours=24) == {
        "20": (3, {"orders": 3, "most_orders": 2, "hours": 24}),
        # What was bought exactly 24 hours before is not within them.
        "24": (3, {"orders": 3, "most_orders": 2, "hours": 24}),
    }


@pytest.mark.parametrize(
    ("common", "same_address", "signs"),
    [
        ("device", False, ["same_device"]),
        ("address", False, []),
        ("address", True, ["same_address"]),
        ("account", False, ["same_payout_account"]),
        ("nothing", True, []),
    ],
)
async def test_customer_and_who_invited_them_are_one_person(
    session: AsyncSession, settings: Settings, common: str, same_address: bool, signs: list[str]
) -> None:
    hints = {"device": {"device_hint": b"d"}, "address": {"address_hint": b"a"}}.get(common, {})
    referrer = await make_customer(session, **hints)
    customer = await make_customer(session, referred_by_id=referrer.id, **hints)
    if common == "account":
        account = PayoutAccount(PayoutMethodKind.EMAIL, "A", provider="PayPal", email="a@example.com")
        for one in (referrer, customer):
            await make_payout_method(session, settings, one, account, deleted_at=NOON)
    orders = [
        await bought(session, await clicked(session, customer=one), f"{one.id}", after=1)
        for one in (customer, referrer)
    ]
    result = await found(session, orders, "self_referral", same_address=same_address)
    assert result == (
        {
            f"{customer.id}": (
                1,
                {name: name in signs for name in ("same_device", "same_address", "same_payout_account")},
            )
        }
        if signs
        else {}
    )


async def test_account_that_other_customers_are_paid_to(session: AsyncSession, settings: Settings) -> None:
    account = PayoutAccount(PayoutMethodKind.EMAIL, "A", provider="PayPal", email="a@example.com")
    customers = [await make_customer(session) for _ in range(3)]
    for customer in customers:
        await make_payout_method(session, settings, customer, account)
    alone = await make_customer(session)
    await make_payout_method(session, settings, alone)
    orders = [
        await bought(session, await clicked(session, customer=customer), f"{number}", after=1)
        for number, customer in enumerate([customers[0], alone])
    ]
    assert await found(session, orders, "shared_payout_method", most_others=1) == {
        "0": (2, {"other_customers": 2, "most_others": 1})
    }
    assert await found(session, orders, "shared_payout_method", most_others=2) == {}


async def test_sale_beside_the_last_ones_of_its_shop(session: AsyncSession) -> None:
    merchant = await make_merchant(session)
    click = await clicked(session, merchant=merchant)
    history = [
        await bought(session, click, f"{number}", after=number, sale=sale)
        for number, sale in enumerate([100, 200, 300, 400, 9_000_000])
    ]
    large = await bought(session, click, "large", after=100, sale=3_001)
    usual = await bought(session, click, "usual", after=100, sale=3_000)
    # With fewer orders before it than that, a sale is judged by none.
    assert await found(session, [*history, large, usual], "amount_outlier", factor=10, fewest_orders=5) == {
        "large": (10, {"sale_minor": 3_001, "median_minor": 300, "orders": 5, "factor": 10})
    }


async def test_all_kinds_are_asked_in_one_statement_without_reading_a_table(session: AsyncSession) -> None:
    order = await bought(session, await clicked(session), "a", after=1)
    await session.execute(text("SET LOCAL enable_seqscan = off"))
    for thresholds in (
        {"kind": "click_to_order", "minimum_seconds": 10},
        {"kind": "orders_per_click", "most_orders": 1},
        {"kind": "self_referral", "same_address": True},
        {"kind": "shared_payout_method", "most_others": 0},
        {"kind": "velocity", "most_orders": 1, "hours": 1},
        {"kind": "amount_outlier", "factor": 2, "fewest_orders": 5},
    ):
        statement = _statement(read_thresholds(thresholds)).where(Order.id == order.id)
        compiled = statement.compile(dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True})
        plan = "\n".join(row[0] for row in await session.execute(text(f"EXPLAIN {compiled}".replace(":", "\\:"))))
        assert "Seq Scan" not in plan, f"{thresholds}\n{plan}"

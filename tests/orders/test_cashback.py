"""Cashback is exact, and its explanation adds up."""

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.ids import new_id
from app.models import (
    Campaign,
    Click,
    ExchangeRate,
    Merchant,
    OrderBoost,
    OrderReport,
    RateKind,
    ReportKind,
    StaffRole,
)
from app.money import format_minor
from app.services import staff
from app.services.orders.cashback import Amounts, boost, compute
from app.services.orders.report import Said, start_order, take_reports
from tests.factories import make_click, make_customer, make_merchant

# What a value is called in a tier or a campaign, and on a click.
FIXED, SHARE = ("fixed_minor", "rate_fixed_minor"), ("basis_points", "rate_basis_points")


def click(kind: RateKind, **rate: Any) -> Click:
    return Click(rate_kind=kind, currency="PKR", **{"rate_cap_minor": None, **rate})


def pkr(sale_minor: int, commission_minor: int = 0) -> Amounts:
    return Amounts(sale_minor, commission_minor, "PKR")


def frozen(**changes: Any) -> dict[str, Any]:
    """A campaign as a click keeps it: 2 % of the sale."""
    return {
        "campaign_id": "0197b2a4-6f0e-7b2b-9a55-1e2a3b4c5d6e",
        "name": "Eid week",
        "kind": "percent_of_sale",
        "basis_points": 200,
        "fixed_minor": None,
        "cap_minor": None,
        "minimum_sale_minor": 0,
        **changes,
    }


@pytest.mark.parametrize(
    ("promised", "expected"),
    [
        (click(RateKind.PERCENT_OF_SALE, rate_basis_points=450), 4_500),
        (click(RateKind.PERCENT_OF_COMMISSION, rate_basis_points=5_000), 4_000),
        (click(RateKind.FIXED, rate_fixed_minor=2_500), 2_500),
        (click(RateKind.PERCENT_OF_SALE, rate_basis_points=450, rate_cap_minor=1_000), 1_000),
    ],
    ids=["of-sale", "of-commission", "fixed", "capped"],
)
def test_each_kind_of_rate(promised: Click, expected: int) -> None:
    assert compute(promised, pkr(100_000, 8_000), rounding="half_even").amount_minor == expected


def test_half_a_minor_unit_goes_to_the_even_one_or_down() -> None:
    promised = click(RateKind.PERCENT_OF_SALE, rate_basis_points=500)
    half_even = [compute(promised, pkr(sale), rounding="half_even").amount_minor for sale in (10, 30, 50)]
    floor = [compute(promised, pkr(sale), rounding="floor").amount_minor for sale in (10, 30, 50)]
    assert half_even == [0, 2, 2]
    assert floor == [0, 1, 2]


def test_a_fixed_amount_is_not_paid_for_nothing() -> None:
    promised = click(RateKind.FIXED, rate_fixed_minor=2_500)
    assert compute(promised, pkr(0), rounding="floor").amount_minor == 0


@pytest.mark.parametrize(
    ("sale", "expected"), [(99_999, 5_000), (100_000, 7_000), (499_999, 35_000), (500_000, 50_000)]
)
def test_the_highest_tier_that_the_sale_reaches_holds_for_all_of_it(sale: int, expected: int) -> None:
    promised = click(
        RateKind.PERCENT_OF_SALE,
        rate_basis_points=500,
        rate_tiers=[{"from_minor": 100_000, "basis_points": 700}, {"from_minor": 500_000, "basis_points": 1_000}],
    )
    assert compute(promised, pkr(sale), rounding="half_even").amount_minor == expected


def test_every_kind_of_step_is_named_and_in_order() -> None:
    promised = click(
        RateKind.PERCENT_OF_SALE,
        rate_basis_points=500,
        rate_cap_minor=8_000,
        rate_cap_month_minor=9_000,
        rate_tiers=[{"from_minor": 100_000, "basis_points": 775}],
    )
    cashback = compute(promised, pkr(123_457), rounding="half_even", month_left_minor=7_500)
    boosted = boost(frozen(cap_minor=2_000), pkr(123_457), rounding="half_even")
    steps = [(step["step"], step["amount_minor"], step["detail"]) for step in [*cashback.steps, *boosted.steps]]
    assert steps == [
        ("base", 0, "the sale of 1234.57 PKR"),
        ("rate", 6_172, "5 % of the sale"),
        ("tier", 3_395, "7.75 % of the sale from 1000.00 PKR on"),
        ("rounding", 1, "to the nearest whole unit"),
        ("cap", -1_568, "at most 80.00 PKR an order"),
        ("cap", -500, "at most 90.00 PKR a month at this shop"),
        ("boost", 2_469, "Eid week: 2 % of the sale"),
        ("cap", -469, "Eid week: at most 20.00 PKR an order"),
    ]
    assert (cashback.amount_minor, boosted.amount_minor) == (7_500, 2_000)


def test_a_boost_below_its_minimum_adds_nothing_and_says_so() -> None:
    boosted = boost(frozen(minimum_sale_minor=5_000), pkr(4_999), rounding="half_even")
    assert boosted.amount_minor == 0
    assert boosted.steps[0]["detail"] == "Eid week: only from 50.00 PKR on"


def _rates() -> st.SearchStrategy[Click]:
    amount = st.none() | st.integers(1, 10**7)

    def rate(kind: RateKind, value: int, cap: int | None, tiers: dict[int, int]) -> Click:
        name, column = FIXED if kind is RateKind.FIXED else SHARE
        steps = [{"from_minor": at, name: worth} for at, worth in sorted(tiers.items())]
        return click(kind, rate_cap_minor=cap, rate_tiers=steps or None, **{column: value})

    worth = st.integers(1, 10_000)
    tiers = st.dictionaries(st.integers(1, 10**8), worth, max_size=4)
    return st.builds(rate, st.sampled_from(RateKind), worth, amount, tiers)


def _boosts() -> st.SearchStrategy[dict[str, Any]]:
    def campaign(kind: RateKind, value: int, cap: int | None, minimum: int) -> dict[str, Any]:
        fixed = kind is RateKind.FIXED
        return frozen(
            kind=kind.value,
            basis_points=None if fixed else value,
            fixed_minor=value if fixed else None,
            cap_minor=cap,
            minimum_sale_minor=minimum,
        )

    cap = st.none() | st.integers(1, 10**6)
    return st.builds(campaign, st.sampled_from(RateKind), st.integers(1, 10_000), cap, st.sampled_from([0, 50_000]))


@tries(max_examples=10_000, deadline=None)
@given(
    _rates(),
    _boosts(),
    st.integers(0, 2**53 + 1),
    st.integers(0, 2**40),
    st.none() | st.integers(0, 10**6),
    st.sampled_from(["JPY", "PKR", "KWD"]),
    st.sampled_from(["half_even", "floor"]),
)
def test_the_explanation_of_10_000_random_orders_adds_up(
    promised: Click,
    campaign: dict[str, Any],
    sale: int,
    commission: int,
    left: int | None,
    currency: str,
    rounding: Any,
) -> None:
    amounts = Amounts(sale, commission, currency)
    cashback = compute(promised, amounts, rounding=rounding, month_left_minor=left)
    boosted = boost(campaign, amounts, rounding=rounding)
    for part in (cashback, boosted):
        assert all(type(step["amount_minor"]) is int for step in part.steps)
        assert sum(step["amount_minor"] for step in part.steps) == part.amount_minor >= 0
    assert promised.rate_cap_minor is None or cashback.amount_minor <= promised.rate_cap_minor
    assert left is None or cashback.amount_minor <= left
    assert campaign["cap_minor"] is None or boosted.amount_minor <= campaign["cap_minor"]
    rounded = [step["amount_minor"] for step in cashback.steps if step["step"] == "rounding"]
    assert rounded in ([], [1])
    assert format_minor(cashback.amount_minor, currency)


class Shop:
    """A merchant in a currency, with two campaigns: one of them has a budget that does not last."""

    def __init__(self, merchant: Merchant, campaigns: list[Campaign]) -> None:
        self.merchant = merchant
        self.promised = [
            frozen(
                campaign_id=str(campaign.id),
                name=campaign.name,
                kind=campaign.kind.value,
                basis_points=campaign.basis_points,
                fixed_minor=campaign.fixed_minor,
            )
            for campaign in campaigns
        ]


async def open_shop(session: AsyncSession, currency: str) -> Shop:
    merchant = await make_merchant(session, currency=currency)
    now = datetime.now(UTC)
    campaigns = [
        Campaign(name="Lasts", kind=RateKind.PERCENT_OF_SALE, basis_points=150, currency=currency, valid_from=now),
        Campaign(
            name="Ends", kind=RateKind.FIXED, fixed_minor=777, currency=currency, valid_from=now, budget_minor=10_000
        ),
    ]
    session.add_all(campaigns)
    await session.flush()
    return Shop(merchant, campaigns)


def random_promise(chance: random.Random) -> dict[str, Any]:
    """A rate of any kind as a click keeps it, often with tiers and caps."""
    kind = chance.choice(list(RateKind))
    name, column = FIXED if kind is RateKind.FIXED else SHARE
    tiers = [{"from_minor": at, name: chance.randrange(1, 3_000)} for at in (5_000, 60_000) if chance.random() < 0.5]
    promise: dict[str, Any] = {"rate_basis_points": None, "rate_kind": kind, "rate_tiers": tiers or None}
    for cap, most in (("rate_cap_minor", 2_000), ("rate_cap_month_minor", 9_000)):
        promise[cap] = chance.randrange(1, most) if chance.random() < 0.4 else None
    return {**promise, column: chance.randrange(1, 3_000)}


@pytest.mark.parametrize("currency", ["JPY", "PKR", "KWD"])
async def test_stored_explanations_add_up_with_campaigns_budgets_caps_of_the_month_and_conversions(
    session: AsyncSession, settings: Settings, currency: str
) -> None:
    chance = random.Random(currency)  # noqa: S311 - repeatable, not secret
    shop, customer = await open_shop(session, currency), await make_customer(session)
    today = datetime.now(UTC)
    session.add(ExchangeRate(base="GBP", quote=currency, effective_on=today.date(), rate_e12=371_456_789_012_345))
    await session.flush()
    member, _ = await staff.create_key(session, name="finance", role=StaffRole.FINANCE)
    seen: set[str] = set()
    for number in range(120):
        boosts = shop.promised[: chance.randrange(3)] or None
        promised = await make_click(session, customer, shop.merchant, boosts=boosts, **random_promise(chance))
        order = await start_order(
            session,
            merchant=shop.merchant,
            source_id=shop.merchant.source_id or 0,
            click=promised,
            external_id=f"R-{number}",
            reported_currency=chance.choice([currency, "GBP"]),
            ordered_at=today,
            rate_max_age_days=1,
        )
        for kind in (ReportKind.CREATED, ReportKind.APPROVED):
            sale = chance.choice([0, 1, 50, 4_999, 33_333, 250_000])
            said = Said(kind, today, sale, sale * chance.choice([0, 8, 33]) // 100)
            row = OrderReport(id=new_id(), staff_key_id=member.id)
            await take_reports(session, settings, order, [(row, said)], click=promised, merchant=shop.merchant)
            steps = order.explanation["steps"]
            assert sum(step["amount_minor"] for step in steps) == order.cashback_minor
            assert 0 <= order.boost_minor <= order.cashback_minor
            seen |= {step["step"] for step in steps} | {step["detail"].partition(": ")[2] for step in steps}
    assert {"base", "rate", "tier", "boost", "cap", "its budget is used up"} <= seen
    rows = await session.execute(
        select(Campaign.name, Campaign.spent_minor, func.coalesce(func.sum(OrderBoost.amount_minor), 0))
        .outerjoin(OrderBoost)
        .group_by(Campaign.id)
    )
    spent = {name: (spent, held) for name, spent, held in rows}
    assert spent["Lasts"][0] == spent["Lasts"][1] > 0
    assert spent["Ends"] == (10_000, 10_000)

"""Cashback is exact, and its explanation adds up."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.models import Click, RateKind
from app.money import format_minor
from app.services.orders.cashback import Amounts, boost, compute


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
    points = st.integers(1, 10_000)
    tiers = st.lists(st.tuples(st.integers(1, 10**8), points), max_size=4, unique_by=lambda tier: tier[0])
    share = st.builds(
        lambda kind, basis_points, cap, tiers: click(
            kind,
            rate_basis_points=basis_points,
            rate_cap_minor=cap,
            rate_tiers=[{"from_minor": at, "basis_points": tier} for at, tier in sorted(tiers)] or None,
        ),
        st.sampled_from([RateKind.PERCENT_OF_SALE, RateKind.PERCENT_OF_COMMISSION]),
        points,
        amount,
        tiers,
    )
    fixed = st.builds(
        lambda value, cap: click(RateKind.FIXED, rate_fixed_minor=value, rate_cap_minor=cap),
        st.integers(1, 10**7),
        amount,
    )
    return share | fixed


@settings(max_examples=10_000, deadline=None)
@given(
    _rates(),
    st.integers(0, 2**53 + 1),
    st.integers(0, 2**40),
    st.none() | st.integers(0, 10**6),
    st.none() | st.integers(1, 10**6),
    st.sampled_from(["JPY", "PKR", "KWD"]),
    st.sampled_from(["half_even", "floor"]),
)
def test_the_explanation_of_10_000_random_orders_adds_up(
    promised: Click, sale: int, commission: int, left: int | None, cap: int | None, currency: str, rounding: Any
) -> None:
    amounts = Amounts(sale, commission, currency)
    cashback = compute(promised, amounts, rounding=rounding, month_left_minor=left)
    boosted = boost(frozen(cap_minor=cap), amounts, rounding=rounding)
    for part in (cashback, boosted):
        assert all(type(step["amount_minor"]) is int for step in part.steps)
        assert sum(step["amount_minor"] for step in part.steps) == part.amount_minor >= 0
    assert promised.rate_cap_minor is None or cashback.amount_minor <= promised.rate_cap_minor
    assert left is None or cashback.amount_minor <= left
    assert cap is None or boosted.amount_minor <= cap
    rounded = [step["amount_minor"] for step in cashback.steps if step["step"] == "rounding"]
    assert rounded in ([], [1])
    assert format_minor(cashback.amount_minor, currency)

"""Cashback is exact, and its explanation adds up."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models import Click, RateKind
from app.services.orders.cashback import compute


def click(kind: RateKind, **rate: Any) -> Click:
    return Click(rate_kind=kind, currency="PKR", **{"rate_cap_minor": None, **rate})


@pytest.mark.parametrize(
    ("promised", "expected"),
    [
        (click(RateKind.PERCENT_OF_SALE, rate_basis_points=450), 4_500),
        (click(RateKind.PERCENT_OF_COMMISSION, rate_basis_points=5_000), 4_000),
        (click(RateKind.FIXED, rate_fixed_minor=2_500), 2_500),
        (click(RateKind.PERCENT_OF_SALE, rate_basis_points=450, rate_cap_minor=1_000), 1_000),
    ],
)
def test_each_kind_of_rate(promised: Click, expected: int) -> None:
    cashback = compute(promised, sale_minor=100_000, commission_minor=8_000, currency="PKR", rounding="half_even")
    assert cashback.amount_minor == expected


def test_half_a_minor_unit_goes_to_the_even_one_or_down() -> None:
    promised = click(RateKind.PERCENT_OF_SALE, rate_basis_points=500)
    half_even = [
        compute(promised, sale_minor=sale, commission_minor=0, currency="PKR", rounding="half_even").amount_minor
        for sale in (10, 30, 50)
    ]
    floor = [
        compute(promised, sale_minor=sale, commission_minor=0, currency="PKR", rounding="floor").amount_minor
        for sale in (10, 30, 50)
    ]
    assert half_even == [0, 2, 2]
    assert floor == [0, 1, 2]


def test_a_fixed_amount_is_not_paid_for_nothing() -> None:
    promised = click(RateKind.FIXED, rate_fixed_minor=2_500)
    assert compute(promised, sale_minor=0, commission_minor=0, currency="PKR", rounding="floor").amount_minor == 0


@given(
    st.integers(0, 2**53 + 1),
    st.integers(1, 10_000),
    st.none() | st.integers(1, 10**6),
    st.sampled_from(["JPY", "PKR", "KWD"]),
)
def test_the_explanation_adds_up(sale: int, basis_points: int, cap: int | None, currency: str) -> None:
    promised = click(RateKind.PERCENT_OF_SALE, rate_basis_points=basis_points, rate_cap_minor=cap)
    cashback = compute(promised, sale_minor=sale, commission_minor=0, currency=currency, rounding="half_even")
    assert sum(step["amount_minor"] for step in cashback.explanation["steps"]) == cashback.amount_minor
    assert cap is None or cashback.amount_minor <= cap

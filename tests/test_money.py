"""Money is exact in every currency: what cannot be exact is refused, and only one function rounds."""

from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.money import (
    BASIS_POINTS,
    MAX_MINOR,
    MoneyError,
    format_minor,
    minor_digits,
    parse_decimal,
    round_to_minor,
    share,
)

DIGITS = {"JPY": 0, "PKR": 2, "KWD": 3, "CLF": 4}

currencies = st.sampled_from(sorted(DIGITS))
amounts = st.integers(-MAX_MINOR, MAX_MINOR)
rates = st.integers(0, BASIS_POINTS)
plain = settings(max_examples=300, deadline=None)


@pytest.mark.parametrize(("currency", "digits"), DIGITS.items())
def test_currencies_have_their_digits(currency: str, digits: int) -> None:
    assert minor_digits(currency) == digits


@pytest.mark.parametrize("currency", ["", "pkr", "PK", "PKRR", "PK1", "PKR\n", " PKR", "ÄÖÜ"])
def test_what_is_no_currency_is_refused(currency: str) -> None:
    with pytest.raises(MoneyError):
        minor_digits(currency)
    with pytest.raises(MoneyError):
        parse_decimal("1", currency)


@plain
@given(amounts, currencies)
@example(MAX_MINOR, "JPY")
@example(2**53 + 1, "KWD")
@example(-1, "PKR")
def test_what_is_shown_is_read_back_exactly(amount: int, currency: str) -> None:
    shown = format_minor(amount, currency)
    assert parse_decimal(shown, currency) == amount
    digits = DIGITS[currency]
    assert len(shown.partition(".")[2]) == digits
    assert Fraction(shown) == Fraction(amount, 10**digits)


@plain
@given(st.integers(-(10**20) + 1, 10**20 - 1), currencies)
def test_whole_amounts_are_scaled_or_too_large(amount: int, currency: str) -> None:
    minor = amount * 10 ** DIGITS[currency]
    for given_as in (amount, str(amount), f" {amount}.00 "):
        if abs(minor) <= MAX_MINOR:
            assert parse_decimal(given_as, currency) == minor
        else:
            with pytest.raises(MoneyError):
                parse_decimal(given_as, currency)


@plain
@given(st.integers(0, 10**19), st.text("0123456789", min_size=1, max_size=10), currencies)
@example(10**18, "0000000001", "JPY")  # more digits than a default decimal context keeps
@example(9 * 10**15, "0010000001", "KWD")
def test_decimals_that_the_currency_lacks_are_refused_unless_zeros(whole: int, decimals: str, currency: str) -> None:
    exact = Fraction(f"{whole}.{decimals}") * 10 ** DIGITS[currency]
    text = f"{whole}.{decimals}"
    if exact.denominator == 1 and exact <= MAX_MINOR:
        assert parse_decimal(text, currency) == exact
    else:
        with pytest.raises(MoneyError):
            parse_decimal(text, currency)


@pytest.mark.parametrize(
    "amount",
    [
        1.5, 1.0, float("nan"), float("inf"), True, False, None, b"1", [1], {"a": 1}, Decimal("1.5"),
        "", " ", "NaN", "nan", "Infinity", "-inf", "1e9", "1E9", "1e-2", "0x10", "1_000", "1,000", "1,5", "1 000",
        ".5", "5.", "1.2.3", "--1", "+-1", "- 1", "1\x00", "٣", "１２", "½", "1" * 21, "0.12345678901", "9" * 5000,
        "92233720368547758.08", "9223372036854775808", str(2**63), 2**63, -(2**63) - 1, 10**5000, -(10**5000),
    ],
    ids=lambda amount: repr(amount)[:30] if not isinstance(amount, int) or abs(amount) < 2**64 else "huge",
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused_briefly(amount: object) -> None:
    with pytest.raises(MoneyError) as refused:
        parse_decimal(amount, "PKR")
    assert len(str(refused.value)) < 200


def test_the_largest_amount_fits_and_the_next_does_not() -> None:
    assert parse_decimal("92233720368547758.07", "PKR") == MAX_MINOR
    assert parse_decimal("9223372036854775807", "JPY") == MAX_MINOR
    assert parse_decimal("-9223372036854775.807", "KWD") == -MAX_MINOR
    for text, currency in (("92233720368547758.08", "PKR"), ("9223372036854775808", "JPY")):
        with pytest.raises(MoneyError):
            parse_decimal(text, currency)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_an_amount_or_a_money_error(text: str) -> None:
    try:
        amount = parse_decimal(text, "KWD")
    except MoneyError:
        return
    assert Fraction(text.strip()) * 1000 == amount


@plain
@given(amounts, rates)
@example(1, 5000)
@example(3, 5000)
@example(-1, 5000)
@example(MAX_MINOR, BASIS_POINTS)
def test_share_is_the_exact_product_rounded_once(amount: int, basis_points: int) -> None:
    exact = Fraction(amount * basis_points, BASIS_POINTS)
    floor = exact.numerator // exact.denominator
    assert share(amount, basis_points, "floor") == floor
    rounded = share(amount, basis_points)
    assert rounded == round(exact)  # of a Fraction: half to even, exactly
    assert floor <= rounded <= floor + 1
    assert abs(rounded) <= abs(amount)


@plain
@given(amounts, rates)
def test_parts_and_rest_add_up(amount: int, basis_points: int) -> None:
    part = share(amount, basis_points)
    assert part + (amount - part) == amount
    assert share(amount, BASIS_POINTS) == amount
    assert share(amount, 0) == 0


@pytest.mark.parametrize(
    ("amount", "half_even", "floor"),
    [
        ("0.5", 0, 0), ("1.5", 2, 1), ("2.5", 2, 2), ("-0.5", 0, -1), ("-1.5", -2, -2), ("-2.5", -2, -3),
        ("2.5000000001", 3, 2), ("2.4999999999", 2, 2), ("-2.5000000001", -3, -3), ("7", 7, 7),
    ],
)  # fmt: skip
def test_halves_go_to_the_even_neighbour_and_floor_goes_down(amount: str, half_even: int, floor: int) -> None:
    assert round_to_minor(Decimal(amount)) == half_even
    assert round_to_minor(Decimal(amount), "floor") == floor


@plain
@given(st.integers(-MAX_MINOR * 10**6, MAX_MINOR * 10**6), st.integers(0, 12))
@example(MAX_MINOR * 10**6 + 1, 9)
def test_rounding_is_exact_however_many_digits_there_are(coefficient: int, decimals: int) -> None:
    with localcontext(prec=60):
        amount = Decimal(coefficient).scaleb(-decimals)
        even, down = (int(amount.to_integral_value(mode)) for mode in (ROUND_HALF_EVEN, ROUND_FLOOR))
    assert round_to_minor(amount) == even
    assert round_to_minor(amount, "floor") == down


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity", "sNaN"])
def test_what_is_no_number_cannot_be_rounded(amount: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        round_to_minor(Decimal(amount))
